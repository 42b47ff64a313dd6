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
