//! Every data type and every kind of write travels, both ways, exactly.

use std::time::Duration;

use redis::Commands;

use crate::harness::{Options, Pair, Server, compare, patience, wait_for, wait_until};
use crate::table;

#[test]
fn every_kind_of_write_travels_both_ways() {
    let pair = Pair::start(&Options::default());
    for site in pair.sites() {
        table::fill(&mut site.client(), site.name);
    }
    pair.settle();
    let keys = compare(&pair);
    assert!(keys > 100, "only {keys} keys");
    for site in pair.sites() {
        let status = site.sidecar.status().unwrap();
        assert_eq!(status.peers[0].failed_commands, 0, "{status:#?}");
    }
    pair.no_echo();
}

#[test]
fn fields_that_expire_travel_where_they_exist() {
    let pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    let set = "HSET h f 1 g 2";
    a.run(set);
    if a.try_run("HPEXPIRE h 100000 FIELDS 1 f").is_err() {
        println!("this server has no TTL of fields");
        return;
    }
    pair.settle();
    compare(&pair);
    let left: Vec<i64> = b.ask("HPTTL h FIELDS 2 f g");
    assert!(
        (1..=100_000).contains(&left[0]) && left[1] == -1,
        "{left:?}"
    );
}

#[test]
fn a_restored_key_travels() {
    let pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    a.run("RPUSH original a b c");
    let dump: Vec<u8> = a.ask("DUMP original");
    a.send(&[b"RESTORE" as &[u8], b"restored", b"0", &dump]);
    a.send(&[b"RESTORE" as &[u8], b"expiring", b"100000", &dump]);
    pair.settle();
    assert_eq!(
        b.ask::<Vec<String>>("LRANGE expiring 0 -1"),
        ["a", "b", "c"]
    );
    assert_eq!(compare(&pair), 3);
}

#[test]
fn every_database_keeps_its_own_keys() {
    let pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    for db in 0..16 {
        a.run(&format!("SELECT {db}"));
        a.run(&format!("SET here {db}"));
        b.run(&format!("SELECT {}", 15 - db));
        b.run(&format!("SET there {}", 15 - db));
    }
    pair.settle();
    assert_eq!(compare(&pair), 32);

    a.run("SELECT 2");
    a.run("SWAPDB 2 3");
    a.run("SET after swap");
    a.run("FLUSHDB");
    a.run("SELECT 3");
    a.run("MOVE here 2");
    pair.settle();
    compare(&pair);
    b.run("SELECT 2");
    assert_eq!(b.ask::<String>("GET here"), "2", "swapped to 3, moved back");
    b.run("SELECT 3");
    assert_eq!(b.ask::<u64>("DBSIZE"), 1, "the other key of the old 2");
    pair.no_echo();
}

#[test]
fn flushall_empties_both_and_writes_after_it_stay() {
    let pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    for n in 0..100 {
        a.run(&format!("SET a:{n} v"));
        b.run(&format!("SET b:{n} v"));
    }
    pair.settle();
    assert_eq!(compare(&pair), 200);
    b.run("FLUSHALL");
    b.run("SET after 1");
    pair.settle();
    assert_eq!(compare(&pair), 1);
    a.run("FLUSHALL ASYNC");
    pair.settle();
    assert_eq!(compare(&pair), 0);
}

#[test]
fn large_values_travel() {
    let pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    let large: Vec<u8> = (0..20_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0])
        .collect();
    a.send(&[b"SET" as &[u8], b"large", &large]);
    b.send(&[b"HSET" as &[u8], b"hash", b"field", &large]);
    a.run("APPEND large tail");
    pair.settle();
    assert_eq!(compare(&pair), 2);
    assert_eq!(b.ask::<usize>("STRLEN large"), large.len() + 4);
}

#[test]
fn one_command_of_100_000_elements_travels() {
    let pair = Pair::start(&Options::default());
    let mut a = pair.a.client();
    let mut command = vec![b"RPUSH".to_vec(), b"list".to_vec()];
    command.extend((0..100_000).map(|n: u32| n.to_string().into_bytes()));
    a.send(&command);
    command[0] = b"SADD".to_vec();
    command[1] = b"set".to_vec();
    pair.b.client().send(&command);
    pair.settle();
    assert_eq!(compare(&pair), 2);
    assert_eq!(pair.b.client().ask::<u64>("LLEN list"), 100_000);
}

#[test]
fn keys_of_any_bytes_travel() {
    let pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    let every_byte: Vec<u8> = (0..=255).collect();
    let long = vec![b'k'; 64 * 1024];
    let keys: &[&[u8]] = &[
        b"",
        b"\r\n",
        b"a b",
        b"*1\r\n$4\r\nPING\r\n",
        &every_byte,
        &long,
    ];
    for key in keys {
        a.send(&[b"SET" as &[u8], key, &every_byte]);
        let other = [*key, b"-b"].concat();
        b.send(&[b"HSET" as &[u8], &other, &every_byte, b""]);
    }
    pair.settle();
    assert_eq!(compare(&pair), 2 * keys.len());
}

#[test]
fn a_key_expires_at_both_sites() {
    let pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    for n in 0..50 {
        a.run(&format!("SET a:{n} v PX 400"));
        b.run(&format!("SET b:{n} v PX 400"));
        a.run(&format!("SET a:renewed:{n} v PX 400"));
        a.run(&format!("PEXPIRE a:renewed:{n} 100000"));
    }
    for site in pair.sites() {
        let mut client = site.client();
        wait_for("the short-lived keys to go", patience(20), || {
            client
                .ask::<Vec<String>>("KEYS *")
                .iter()
                .all(|k| k.starts_with("a:renewed:") || k.starts_with("tandem:"))
        });
    }
    pair.settle();
    assert_eq!(compare(&pair), 50);
    pair.no_echo();
}

#[test]
fn a_message_is_published_once_at_each_site() {
    let pair = Pair::start(&Options::default());
    let connect = |port| {
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
        client.get_connection().unwrap()
    };
    let mut listeners = pair.sites().map(|s| connect(s.server.port()));
    let [left, right] = &mut listeners;
    let mut subscribed = [left.as_pubsub(), right.as_pubsub()];
    for listener in &mut subscribed {
        listener.subscribe("news").unwrap();
        listener
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
    }
    let (mut a, mut b) = pair.clients();
    let count = 20;
    for n in 0..count {
        let _: i64 = a.connection().publish("news", format!("a{n}")).unwrap();
        b.run(&format!("PUBLISH news b{n}"));
    }
    a.run("SET after 1");
    pair.settle();
    for listener in &mut subscribed {
        let mut heard: Vec<String> = Vec::new();
        // A second of silence ends it: a message that came back would be heard by then.
        while let Ok(message) = listener.get_message() {
            heard.push(message.get_payload().unwrap());
        }
        for site in ["a", "b"] {
            let from_site: Vec<&String> = heard.iter().filter(|m| m.starts_with(site)).collect();
            let sent: Vec<String> = (0..count).map(|n| format!("{site}{n}")).collect();
            assert_eq!(from_site, sent.iter().collect::<Vec<_>>());
        }
    }
}

#[test]
fn only_the_chosen_databases_travel() {
    let pair = Pair::start(&Options {
        databases: "[0, 3]",
        ..Options::default()
    });
    let (mut a, mut b) = pair.clients();
    for db in [0, 1, 3, 4] {
        a.run(&format!("SELECT {db}"));
        a.run(&format!("SET key {db}"));
    }
    pair.settle();
    let found: Vec<Option<String>> = [0, 1, 3, 4]
        .map(|db| {
            b.run(&format!("SELECT {db}"));
            b.ask("GET key")
        })
        .to_vec();
    let expected = [Some("0"), None, Some("3"), None];
    assert_eq!(found, expected.map(|v| v.map(str::to_owned)));
}

#[test]
fn large_transactions_are_not_split() {
    let pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    a.run("MULTI");
    for n in 0..5000 {
        a.run(&format!("SET k:{n} v"));
    }
    a.run("INCR done");
    a.run("EXEC");
    let keys = wait_until("the transaction", patience(30), || {
        let keys: u64 = b.ask("EVAL 'return #redis.call(\"KEYS\",\"k:*\")' 0");
        if keys > 0 {
            Ok(keys)
        } else {
            Err("not there".to_owned())
        }
    });
    assert_eq!(keys, 5000, "a part of a transaction was visible");
    pair.settle();
    assert_eq!(compare(&pair), 5001);
}

#[test]
fn the_table_is_accepted_by_one_server() {
    table::fill(&mut Server::start(&[]).client(), "x");
}
