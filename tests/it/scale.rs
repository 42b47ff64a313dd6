//! Large data sets do not need large sidecars.

use std::env;

use crate::harness::{Options, Pair, compare, patience, wait_until};

/// What a sidecar may use at its peak, whatever the size of the data.
const MEMORY_KIB: u64 = 200 * 1024;

#[test]
fn the_memory_of_a_sidecar_does_not_follow_the_data() {
    let is_full = env::var("TANDEM_FULL").is_ok_and(|v| v == "1");
    // Values of 1 KiB.
    let keys: u64 = if is_full { 1_000_000 } else { 100_000 };
    let mut pair = Pair::prepare(&Options::default());
    let mut a = pair.a.client();
    a.run(&format!("DEBUG POPULATE {keys} key 1024"));
    pair.start_sidecars();
    wait_until("the copy", patience(600), || {
        let copied = pair.b.sidecar.peer("a")?.copied.created;
        if copied == keys {
            Ok(())
        } else {
            Err(format!("{copied} of {keys} keys"))
        }
    });
    pair.wait_synchronizing();
    a.run("SET after 1");
    pair.settle();
    assert_eq!(compare(&pair) as u64, keys + 1);
    for site in pair.sites() {
        let peak = site.sidecar.peak_memory_kib();
        println!("{}: {} MiB at the peak", site.name, peak / 1024);
        assert!(peak < MEMORY_KIB, "{}: {peak} KiB", site.name);
    }
}

#[test]
fn the_memory_of_a_sidecar_does_not_follow_a_value() {
    let is_full = env::var("TANDEM_FULL").is_ok_and(|v| v == "1");
    // Elements of 10 KB: 100 MB, or more than one command can carry.
    let elements: u64 = if is_full { 60_000 } else { 10_000 };
    let mut pair = Pair::prepare(&Options::default());
    let mut a = pair.a.client();
    let fill = "for i=1,ARGV[1] do redis.call('RPUSH',KEYS[1],string.rep(i..'.',1500)) end";
    a.send(&["EVAL", fill, "1", "list", &elements.to_string()]);
    let noise = "local t={} for i=1,20000 do t[i]=redis.sha1hex(i) end \
                 local s=table.concat(t) for i=1,40 do redis.call('APPEND',KEYS[1],s) end";
    a.send(&["EVAL", noise, "1", "text"]);
    pair.wire_a.up().throttle(20_000_000);
    pair.start_sidecars();
    // What is written there before the copy of the key has come has the whole value read again.
    let mut b = pair.b.client();
    wait_until("the copy to begin", patience(60), || {
        let receiving = pair.b.sidecar.peer("a")?.receiving;
        receiving.map(drop).ok_or_else(String::new)
    });
    b.run("RPUSH list more");
    b.run("APPEND text more");
    pair.wire_a.mend();
    pair.wait_synchronizing();
    pair.settle();
    let refused = pair.b.sidecar.peer("a").unwrap().copied.refused;
    assert_eq!(refused, 2, "they were read one by one");
    assert_eq!(compare(&pair), 2);
    for site in pair.sites() {
        let peak = site.sidecar.peak_memory_kib();
        println!("{}: {} MiB at the peak", site.name, peak / 1024);
        assert!(peak < MEMORY_KIB / 2, "{}: {peak} KiB", site.name);
    }
}

#[test]
fn the_memory_of_a_sidecar_does_not_follow_what_is_pending() {
    let is_full = env::var("TANDEM_FULL").is_ok_and(|v| v == "1");
    // Of 41 bytes each in a snapshot: 16 MB.
    let pending: u64 = if is_full { 4_000_000 } else { 400_000 };
    let mut pair = Pair::prepare(&Options::default());
    let mut a = pair.a.client();
    let fill = "for i=1,ARGV[1] do redis.call('XADD',KEYS[1],i..'-1','f','v') end";
    a.send(&["EVAL", fill, "1", "stream", &pending.to_string()]);
    a.run("XGROUP CREATE stream g 0");
    for consumer in ["c", "d"] {
        let read =
            "redis.call('XREADGROUP','GROUP','g',ARGV[1],'COUNT',ARGV[2],'STREAMS',KEYS[1],'>')";
        let half = (pending / 2).to_string();
        a.send(&["EVAL", read, "1", "stream", consumer, &half]);
    }
    // Pending they stay.
    a.run("XTRIM stream MAXLEN 1000");
    pair.start_sidecars();
    wait_until("the copy", patience(600), || {
        match pair.b.sidecar.peer("a")?.copied.created {
            1 => Ok(()),
            copied => Err(format!("{copied} of 1 key")),
        }
    });
    pair.wait_synchronizing();
    pair.settle();
    assert_eq!(compare(&pair), 1);
    let mut b = pair.b.client();
    for command in ["XPENDING stream g", "XLEN stream"] {
        assert_eq!(a.run(command), b.run(command));
    }
    let (there, ..): (u64, String, String, redis::Value) = b.ask("XPENDING stream g");
    assert_eq!(there, pending);
    for site in pair.sites() {
        let peak = site.sidecar.peak_memory_kib();
        println!("{}: {} MiB at the peak", site.name, peak / 1024);
        assert!(peak < MEMORY_KIB / 2, "{}: {peak} KiB", site.name);
    }
}

#[test]
fn what_is_written_through_a_long_cut_comes_from_the_journal() {
    let is_full = env::var("TANDEM_FULL").is_ok_and(|v| v == "1");
    // Of 10 KB each: 10 GB, which a busy server writes in an hour.
    let writes: u64 = if is_full { 1_000_000 } else { 10_000 };
    const AT_ONCE: u64 = 100;
    // Less than the server keeps for a replica that is behind, in bytes.
    const AHEAD: u64 = 256 << 20;
    let mut pair = Pair::prepare(&Options {
        servers: &["client-output-buffer-limit replica 1gb 1gb 0"],
        ..Options::default()
    });
    pair.a.sidecar.config.journal_size = "20GiB".to_owned();
    pair.start_sidecars();
    pair.wait_synchronizing();
    pair.cut_link();
    let mut a = pair.a.client();
    let value = "x".repeat(10_000);
    for batch in 0..writes / AT_ONCE {
        let mut pipe = redis::pipe();
        for n in 0..AT_ONCE {
            pipe.cmd("SET")
                .arg(format!("k:{}", (batch + n * 7) % 1000))
                .arg(&value);
            pipe.cmd("INCR").arg("n");
        }
        pipe.exec(a.connection()).expect("a batch");
        if batch % 10 == 0 {
            pair.b.client().run("INCR n");
        }
        // An hour of writes in a minute: the disk of the journal must keep up, as it would in an hour.
        if batch % 100 == 99 {
            wait_until("the journal to keep up", patience(60), || {
                let read = pair.a.sidecar.status()?.redis.offset;
                match a.offset().saturating_sub(read) < AHEAD {
                    true => Ok(()),
                    false => Err(format!("it is at {read}")),
                }
            });
        }
    }
    pair.mend_link();
    pair.wait_synchronizing();
    let deadline = patience(1800);
    if let Err(reason) = pair.try_settle(deadline) {
        panic!("waited {deadline:?}: {reason}");
    }
    compare(&pair);
    assert_eq!(a.ask::<u64>("GET n"), writes + writes / AT_ONCE / 10);
    for site in pair.sites() {
        let status = site.sidecar.status().expect("a status");
        assert_eq!(status.redis.resyncs_full, 1, "{status:#?}");
        assert_eq!(status.peers[0].copied.created, 0, "{status:#?}");
        assert_eq!(status.journal.overflows, 0, "{status:#?}");
        let peak = site.sidecar.peak_memory_kib();
        println!("{}: {} MiB at the peak", site.name, peak / 1024);
        assert!(peak < MEMORY_KIB, "{}: {peak} KiB", site.name);
    }
}
