use bytes::Bytes;

use super::*;

fn site(name: &str) -> SiteId {
    SiteId::try_new(name).unwrap()
}

fn claims(name: &str) -> Arc<Claims> {
    let names = ["a", "b", "c"].into_iter().filter(|peer| *peer != name);
    let peers: Vec<SiteId> = names.map(site).collect();
    let claims = Claims::new(&site(name), &peers);
    peers.iter().for_each(|peer| claims.set_linked(peer, true));
    claims
}

fn key(name: &'static str) -> Key {
    (0, Bytes::from_static(name.as_bytes()))
}

fn answers(claims: &Claims, asker: &str, need: Need) -> bool {
    let keys = claims.answerable(&site(asker), vec![key("k")], need);
    !keys.is_empty()
}

#[test]
fn who_has_copied_what_was_wrong_hears_when_it_is_right() {
    let b = claims("b");
    let wants = |name| b.want(&site("a"), &key(name), Need::Wrong);
    let paid = |name| b.paid(&site("a"), &key(name));
    wants("before");
    assert_eq!(paid("before"), []);
    b.begin_copy(&site("c"));
    assert_eq!(paid("k"), [], "it was not wanted");
    wants("k");
    assert_eq!(paid("k"), [site("c")]);
    wants("k");
    assert_eq!(paid("k"), [], "once");
    wants("late");
    b.end_copy(&site("c"));
    wants("behind");
    assert_eq!(paid("behind"), []);
    wants("late");
    assert_eq!(paid("late"), [site("c")]);
    wants("late");
    assert_eq!(paid("late"), [], "once");
    b.begin_copy(&site("a"));
    wants("theirs");
    assert_eq!(paid("theirs"), [], "its own value");
}

#[test]
fn what_the_arbiter_answers_and_is_refused_third_sites_hear_of_when_it_has_come() {
    let c = claims("c");
    let wants = |of, name| c.want(&site(of), &key(name), Need::Lacks);
    wants("b", "other");
    c.tell_when_paid(&site("b"), &key("other"));
    assert_eq!(
        c.paid(&site("b"), &key("other")),
        [],
        "the arbiter is asked"
    );
    let givers = |said_by| c.take_givers(&key("other"), &site(said_by));
    assert!(givers("b").is_empty(), "it has no last word");
    assert_eq!(givers("a"), [site("b")].into());
    assert!(givers("a").is_empty(), "once");
    wants("a", "k");
    wants("b", "k");
    c.tell_when_paid(&site("a"), &key("k"));
    assert_eq!(c.paid(&site("b"), &key("k")), [], "it is still wrong");
    assert_eq!(c.paid(&site("a"), &key("k")), [site("b")]);
    wants("a", "k");
    assert_eq!(c.paid(&site("a"), &key("k")), [], "once");
    // Also where a copy is under way.
    c.begin_copy(&site("b"));
    wants("a", "k");
    assert_eq!(c.paid(&site("a"), &key("k")), [site("b")]);
    wants("a", "k");
    c.tell_when_paid(&site("a"), &key("k"));
    c.end_copy(&site("b"));
    assert_eq!(c.paid(&site("a"), &key("k")), [site("b")]);
}

#[test]
fn the_arbiter_answers_when_nothing_is_wrong_with_it_and_tells_all_when_it_was() {
    let a = claims("a");
    assert!(a.is_arbiter() && a.arbiter().is_none());
    a.want(&site("b"), &key("k"), Need::Wrong);
    assert!(!answers(&a, "c", Need::Wrong));
    assert!(answers(&a, "c", Need::Lacks), "c has less than a");
    assert_eq!(a.paid(&site("b"), &key("k")), [site("b"), site("c")]);
    assert_eq!(a.take_due(&site("c")), None, "it was answered");
    a.want(&site("b"), &key("k"), Need::Wrong);
    assert!(!answers(&a, "c", Need::Wrong));
    assert_eq!(a.paid(&site("b"), &key("k")).len(), 2);
    let due = Some((Need::Wrong, vec![key("k")]));
    assert_eq!(a.take_due(&site("c")), due);
}

#[test]
fn the_arbiter_is_answered_at_once_unless_something_is_not_there() {
    let b = claims("b");
    assert_eq!(b.arbiter(), Some(&site("a")));
    b.want(&site("a"), &key("k"), Need::Wrong);
    assert!(answers(&b, "a", Need::Wrong) && answers(&b, "c", Need::Wrong));
    b.want(&site("c"), &key("k"), Need::Lacks);
    assert!(!answers(&b, "a", Need::Wrong));
    assert_eq!(b.paid(&site("c"), &key("k")), []);
    let due = Some((Need::Wrong, vec![key("k")]));
    assert_eq!(b.take_due(&site("a")), due, "though a owes it still");
}

#[test]
fn the_arbiter_does_not_wait_for_who_is_out_of_reach() {
    let a = claims("a");
    a.want(&site("b"), &key("k"), Need::Wrong);
    assert!(!answers(&a, "c", Need::Wrong));
    a.set_linked(&site("b"), false);
    assert!(a.take_due(&site("c")).is_some());
    assert!(answers(&a, "c", Need::Wrong));
}

#[test]
fn of_two_others_the_first_by_name_answers_first() {
    let (b, c) = (claims("b"), claims("c"));
    b.want(&site("c"), &key("k"), Need::Wrong);
    c.want(&site("b"), &key("k"), Need::Wrong);
    assert!(answers(&b, "c", Need::Wrong) && !answers(&c, "b", Need::Wrong));
    assert_eq!(c.paid(&site("b"), &key("k")), []);
    assert_eq!(c.take_due(&site("b")), Some((Need::Wrong, vec![key("k")])));
}

#[test]
fn what_another_site_is_still_to_bring_is_waited_for_unless_that_one_waits_too() {
    let b = claims("b");
    let (a, c, k) = (site("a"), site("c"), key("k"));
    let asks = |who| answers(&b, who, Need::Lacks);
    b.want(&c, &k, Need::Lacks);
    assert!(!asks("a"), "a would have less than c");
    assert!(asks("c"));
    b.peer_waits(&c, &[key("other"), k.clone()]);
    assert_eq!(b.take_due(&a), Some((Need::Lacks, vec![k.clone()])));
    assert!(asks("a"));
    // It is asked anew.
    b.want(&c, &k, Need::Lacks);
    assert!(!asks("a"));
    b.set_linked(&c, false);
    assert!(b.take_due(&a).is_some() && asks("a"), "it is away");
    // Also where the asker comes behind.
    b.set_linked(&c, true);
    b.paid(&c, &k);
    b.want(&a, &k, Need::Lacks);
    assert!(!asks("c"));
    b.peer_waits(&a, std::slice::from_ref(&k));
    assert!(asks("c"));
}

#[test]
fn who_asks_for_what_is_waited_for_here_hears_so() {
    let c = claims("c");
    let (b, k) = (site("b"), key("k"));
    assert!(answers(&c, "b", Need::Lacks));
    assert_eq!(c.take_waits(&b, 9), []);
    // Its own order does not keep the asker from what it lacks.
    c.want(&site("a"), &k, Need::Wrong);
    assert!(answers(&c, "b", Need::Lacks));
    assert_eq!(c.take_waits(&b, 9), []);
    c.want(&site("a"), &k, Need::Unsure);
    assert!(
        answers(&c, "b", Need::Lacks),
        "though it may lack something"
    );
    assert_eq!(c.take_waits(&b, 0), []);
    assert_eq!(c.take_waits(&b, 9), [key("k")]);
    c.want(&b, &k, Need::Lacks);
    assert!(!answers(&c, "b", Need::Lacks), "b comes first");
    // What is answered after all is not waited for.
    c.paid(&b, &k);
    c.paid(&site("a"), &k);
    assert!(answers(&c, "b", Need::Lacks));
    assert_eq!(c.take_waits(&b, 9), []);
}

#[test]
fn of_two_sites_none_waits_for_a_third() {
    let a = Claims::new(&site("a"), &[site("b")]);
    a.set_linked(&site("b"), true);
    a.want(&site("b"), &key("k"), Need::Lacks);
    assert!(!answers(&a, "b", Need::Wrong));
    assert_eq!(a.take_waits(&site("b"), 9), []);
}

#[test]
fn what_is_stale_is_told_until_it_is_heard() {
    let a = claims("a");
    a.add_stale(&site("c"), key("k"));
    a.add_stale(&site("c"), key("l"));
    assert_eq!(a.stale(&site("c"), 0), [(1, key("k")), (2, key("l"))]);
    assert_eq!(a.stale(&site("c"), 1), [(2, key("l"))]);
    assert!(a.has_stale(&site("c"), 1) && !a.has_stale(&site("c"), 2));
    assert_eq!(a.stale(&site("b"), 0), []);
    // Once more, before the first was heard.
    a.add_stale(&site("c"), key("k"));
    assert_eq!(a.heard(&site("c"), 2), [key("l")]);
    assert_eq!(a.stale(&site("c"), 0), [(3, key("k"))]);
}
