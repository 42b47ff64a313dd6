//! Both sites write the same keys while one has much to send: what it says of itself meanwhile must not
//! overtake what it has not sent yet.

use crate::harness::{Options, Pair, compare};
use crate::interrupted::has_read;

/// Bytes a second.
const NARROW: u64 = 8 << 20;

#[test]
fn what_both_write_while_one_has_much_to_send_ends_equal() {
    let pair = Pair::start(&Options::default());
    let (mut a, mut b) = pair.clients();
    pair.cut_link();
    let filler = "x".repeat(1000);
    for part in 0..40 {
        let name = |n: usize| format!("filler:{part}:{n}");
        let sets: Vec<Vec<String>> = (0..1000)
            .map(|n| vec!["SET".to_owned(), name(n), filler.clone()])
            .collect();
        b.pipeline(&sets);
    }
    for n in 0..50 {
        b.run(&format!("SET k:{n} b"));
        b.run(&format!("RPUSH list:{n} b"));
    }
    // Its writes are stamped when they are read.
    has_read(&pair.b);
    for n in 0..50 {
        a.run(&format!("SET k:{n} a"));
        a.run(&format!("RPUSH list:{n} a"));
    }
    pair.wire_a.down().throttle(NARROW);
    pair.mend_link();
    pair.wait_synchronizing();
    pair.settle();
    compare(&pair);
    assert_eq!(b.ask::<String>("GET k:0"), "a", "the later one wins");
}
