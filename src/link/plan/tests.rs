//! What each meeting of two sites leads to.

use super::*;
use crate::link::hello::tests::hello;
use crate::model::{Epoch, Hlc, InstanceId, Lacking, Offset, Seen, SiteId};

fn at(epoch: u64, offset: u64) -> Cursor {
    Cursor {
        epoch: Epoch(epoch),
        offset: Offset(offset),
    }
}

fn pair() -> (Hello, Hello) {
    let mut a = Hello {
        peer: "b".to_owned(),
        ..hello("a")
    };
    let mut b = Hello {
        peer: "a".to_owned(),
        ..hello("b")
    };
    (a.epoch, a.base) = (100, 100);
    (b.epoch, b.base) = (200, 200);
    b.first = "200/1".to_owned();
    b.end = "200/500".to_owned();
    (a, b)
}

fn mark(at: Cursor, base: u64, home: u64) -> Mark {
    Mark {
        instance: InstanceId::new(1),
        batch: 1,
        at,
        hlc: Hlc(0),
        low: Cursor::ZERO,
        base: Epoch(base),
        home: Epoch(home),
        owes: Owes::Nothing,
        entire: false,
        copy: None,
        part: None,
        seen: Seen::default(),
    }
}

fn synced() -> (Hello, Hello) {
    let (mut a, mut b) = pair();
    a.mark = Some(mark(at(200, 300), 200, 100).to_string());
    b.mark = Some(mark(at(100, 400), 100, 200).to_string());
    (a, b)
}

/// The plan seen from `a`; from `b` it must be the mirror image.
fn decide(a: &Hello, b: &Hello) -> Result<Plan, String> {
    let (here, there) = (plan(a, b), plan(b, a));
    match (&here, &there) {
        (Ok(x), Ok(y)) => assert_eq!((x.send, x.receive), (y.receive, y.send)),
        (Err(x), Err(y)) => assert_eq!(x.reason, y.reason),
        _ => panic!("{here:?} here, {there:?} there"),
    }
    here.map_err(|stop| stop.reason)
}

#[test]
fn synced_sites_resume() {
    let (a, b) = synced();
    let plan = decide(&a, &b).unwrap();
    assert_eq!(
        plan.send,
        Flow {
            start: at(100, 400),
            copy: None,
            whole: false
        }
    );
    assert_eq!(
        plan.receive,
        Flow {
            start: at(200, 300),
            copy: None,
            whole: false
        }
    );
}

#[test]
fn the_site_with_data_copies_to_the_empty_one() {
    let (a, mut b) = pair();
    b.from_scratch = Some("200/1".to_owned());
    let plan = decide(&a, &b).unwrap();
    assert_eq!(
        plan.send.copy,
        Some(Copy {
            keep: false,
            back: false,
            resume: None
        })
    );
    assert_eq!(plan.send.start, at(100, 500));
    assert_eq!(
        plan.receive,
        Flow {
            start: at(200, 1),
            copy: None,
            whole: true
        }
    );
    let (mut a, b) = (a, b);
    a.from_scratch = Some("100/1".to_owned());
    let plan = decide(&a, &b).unwrap();
    assert_eq!((plan.send.copy, plan.receive.copy), (None, None));
    assert!(plan.send.whole && plan.receive.whole);
}

#[test]
fn a_first_copy_may_be_made_of_a_snapshot_that_is_there() {
    let (mut a, mut b) = pair();
    b.from_scratch = Some("200/1".to_owned());
    a.snapshot = Some("100/70".to_owned());
    // What was written since comes behind it.
    assert_eq!(decide(&a, &b).unwrap().send.start, at(100, 70));
    // Not what the receiver has already.
    let mut stale = b.clone();
    stale.mark = Some(mark(at(100, 400), 0, 200).to_string());
    assert_eq!(decide(&a, &stale).unwrap().send.start, at(100, 400));
    // And not where nothing is copied.
    b.initial = Initial::None;
    assert_eq!(decide(&a, &b).unwrap().send.start, at(100, 500));
    b.initial = Initial::Auto;
    a.snapshot = Some("99/70".to_owned());
    let begins = decide(&a, &b).unwrap().send.start;
    assert_eq!(
        begins,
        at(100, 500),
        "the journal does not go on from there"
    );
}

#[test]
fn two_sites_with_data_need_a_word_of_the_operator() {
    let (mut a, mut b) = pair();
    assert_eq!(decide(&a, &b), Err("both_have_data".to_owned()));
    a.existing = Existing::Keep;
    assert_eq!(decide(&a, &b), Err("both_have_data".to_owned()));
    b.existing = Existing::Keep;
    let kept = Copy {
        keep: true,
        back: true,
        resume: None,
    };
    let plan = decide(&a, &b).unwrap();
    assert_eq!((plan.send.copy, plan.receive.copy), (Some(kept), None));
    b.initial = Initial::Send;
    let plan = decide(&a, &b).unwrap();
    assert_eq!((plan.send.copy, plan.receive.copy), (None, Some(kept)));
    a.initial = Initial::Send;
    assert_eq!(decide(&a, &b), Err("configuration_differs".to_owned()));
    a.initial = Initial::None;
    let plan = decide(&a, &b).unwrap();
    assert!(plan.send.whole && plan.receive.whole);
    assert_eq!((plan.send.copy, plan.receive.copy), (None, None));
    (a.initial, a.existing) = (Initial::Auto, Existing::Overwrite);
    assert_eq!(decide(&a, &b), Err("configuration_differs".to_owned()));
}

#[test]
fn a_history_with_a_gap_is_copied_and_answered() {
    let (mut a, b) = synced();
    (a.epoch, a.base, a.end) = (150, 150, "150/900".to_owned());
    let plan = decide(&a, &b).unwrap();
    assert_eq!(
        plan.send.copy,
        Some(Copy {
            keep: false,
            back: true,
            resume: None
        })
    );
    assert_eq!(plan.send.start, at(100, 400));
    assert_eq!(
        plan.receive,
        Flow {
            start: at(200, 300),
            copy: None,
            whole: false
        }
    );
}

#[test]
fn the_second_half_of_a_merge_is_not_forgotten() {
    let (a, mut b) = synced();
    b.mark = Some(
        Mark {
            owes: Owes::Missing,
            seen: seen_all(&b),
            ..mark(at(100, 400), 100, 200)
        }
        .to_string(),
    );
    let plan = decide(&a, &b).unwrap();
    assert_eq!(
        plan.receive.copy,
        Some(Copy {
            keep: true,
            back: false,
            resume: None
        })
    );
    assert_eq!(plan.send.copy, None);
}

#[test]
fn the_second_half_of_a_merge_that_lacks_what_the_journal_has_dropped_begins_another() {
    let (a, b) = synced();
    let owing = Mark {
        owes: Owes::Missing,
        seen: seen_all(&b),
        ..mark(at(100, 400), 100, 200)
    };
    let owes = |first: &str| Hello {
        first: first.to_owned(),
        mark: Some(owing.to_string()),
        ..b.clone()
    };
    let backs = |a: &Hello, b: &Hello| decide(a, b).unwrap().receive.copy.unwrap().back;
    assert!(!backs(&a, &owes("200/300")));
    assert!(backs(&a, &owes("200/301")));
    // Something was left out before, and the link was cut before the copy began.
    let lost = mark(at(200, 300), Epoch::LOST.0, 100).to_string();
    let a = Hello {
        mark: Some(lost),
        ..a
    };
    assert!(backs(&a, &owes("200/300")));
}

#[test]
fn the_second_half_of_a_merge_brings_what_nobody_had_read() {
    let (mut a, mut b) = synced();
    let seen = seen_all(&b);
    let owing = |owes, home| Mark {
        owes,
        seen: seen.clone(),
        ..mark(at(100, 400), 100, home)
    };
    let mut copies = |base, mark: Mark| {
        b.mark = Some(mark.to_string());
        b.base = base;
        let copy = decide(&a, &b).unwrap().receive.copy.unwrap();
        (copy.keep, copy.back)
    };
    assert_eq!(copies(200, owing(Owes::Missing, 200)), (true, false));
    // Nobody read it for a while as it received the first half: keys may be gone there again.
    assert_eq!(copies(200, owing(Owes::All, 200)), (false, true));
    // Something was written that the first half had not seen.
    let unseen = Mark {
        seen: Seen::default(),
        ..owing(Owes::Missing, 200)
    };
    assert_eq!(copies(200, unseen), (false, false));
    // The same after it had received that.
    assert_eq!(copies(250, owing(Owes::Missing, 200)), (false, true));
    // The other one comes back empty, and what clients have written there since nobody has read.
    (a.mark, a.epoch, a.older) = (None, 150, 150);
    b.mark = Some(owing(Owes::Missing, 200).to_string());
    b.base = 200;
    assert!(decide(&a, &b).unwrap().receive.copy.unwrap().back);
}

/// It has seen all that a site has written.
fn seen_all(site: &Hello) -> Seen {
    let mut seen = Seen::default();
    let name = SiteId::try_new(&site.site).unwrap();
    seen.advance(&name, site.last_record());
    seen
}

#[test]
fn a_site_that_lost_writes_is_refilled() {
    let (mut a, b) = synced();
    (a.epoch, a.older, a.end) = (150, 150, "150/20".to_owned());
    let plan = decide(&a, &b).unwrap();
    assert_eq!(
        plan.send,
        Flow {
            start: at(100, 400),
            copy: None,
            whole: false
        }
    );
    assert!(plan.receive.copy.is_some());
    // It came back empty, without its marks.
    a.mark = None;
    let plan = decide(&a, &b).unwrap();
    assert!(plan.receive.copy.is_some() && plan.send.copy.is_none());
    assert!(restores(&a, &b) && !restores(&b, &a));
    // The other one has lost something too.
    let mut b = b;
    (b.epoch, b.older) = (250, 250);
    a.mark = Some(mark(Cursor::ZERO, Epoch::LOST.0, 0).to_string());
    assert!(!restores(&a, &b) && !restores(&b, &a));
}

#[test]
fn a_site_that_lost_its_mark_too_is_no_stranger() {
    let (mut a, mut b) = synced();
    // Nobody has read all of either history.
    (a.epoch, a.base, b.base) = (150, 120, 250);
    a.mark = None;
    a.sites = ["x", "y", "z"].map(str::to_owned).to_vec();
    b.sites.clone_from(&a.sites);
    assert_eq!(decide(&a, &b), Err("both_have_data".to_owned()));
    // What a had, it has lost.
    a.older = 150;
    let plan = decide(&a, &b).unwrap();
    assert!(
        plan.receive
            .copy
            .is_some_and(|copy| copy.back && !copy.keep)
    );
    assert_eq!(plan.send.copy, None);
}

#[test]
fn sites_that_have_lost_all_and_have_something_of_the_same_third_one_are_no_strangers() {
    let (mut a, mut b) = synced();
    (a.mark, b.mark) = (None, None);
    (a.older, b.older) = (100, 200);
    a.sites = ["a", "b", "c"].map(str::to_owned).to_vec();
    b.sites.clone_from(&a.sites);
    let stop = Err("both_have_data".to_owned());
    assert_eq!(decide(&a, &b), stop);
    a.seen = "a:100/5,b:200/5,c:300/5".to_owned();
    assert_eq!(decide(&a, &b), stop, "only one was refilled");
    b.seen = "a:100/5".to_owned();
    assert_eq!(
        decide(&a, &b),
        stop,
        "what they had of each other counts for nothing"
    );
    b.seen = "c:300/9".to_owned();
    let send = decide(&a, &b).unwrap().send;
    assert!(send.copy.is_some_and(|copy| copy.back && !copy.keep));
    b.older = 0;
    assert_eq!(decide(&a, &b), stop, "one of them has lost nothing");
}

#[test]
fn a_place_that_the_journal_has_lost_needs_a_copy() {
    let (mut a, mut b) = synced();
    a.first = "100/450".to_owned();
    let plan = decide(&a, &b).unwrap();
    assert_eq!(
        plan.send.copy,
        Some(Copy {
            keep: false,
            back: true,
            resume: None
        })
    );
    assert_eq!(plan.send.start, at(100, 500));
    // The mark will stand there before the copy has begun, and then nothing else would tell.
    let mark = b.mark().unwrap();
    assert!(plan.send.leaps(&mark, a.base()) && !plan.receive.leaps(&mark, a.base()));
    assert!(
        !plan.send.leaps(&mark, Epoch(90)),
        "it says already what is missing"
    );
    b.mark = Some(
        Mark {
            at: plan.send.start,
            ..mark.clone()
        }
        .to_string(),
    );
    assert_eq!(decide(&a, &b).unwrap().send.copy, None);
    b.mark = Some(
        Mark {
            base: Epoch::LOST,
            at: plan.send.start,
            ..mark
        }
        .to_string(),
    );
    assert!(decide(&a, &b).unwrap().send.copy.is_some());
}

#[test]
fn sites_that_are_both_torn_know_each_other() {
    let (mut a, mut b) = pair();
    for (hello, peer) in [(&mut a, 200), (&mut b, 100)] {
        let undone = mark(at(peer, 300), Epoch::UNDONE.0, 0);
        hello.mark = Some(undone.to_string());
    }
    let plan = decide(&a, &b).unwrap();
    let (sent, received) = (plan.send.copy.unwrap(), plan.receive.copy);
    assert!(sent.back && !sent.keep && received.is_none());
    a.mark = Some(Mark::nowhere(InstanceId::new(1)).to_string());
    assert!(decide(&a, &b).unwrap().send.copy.is_some());
}

#[test]
fn who_has_begun_to_get_all_that_it_has_goes_on_with_that_first() {
    let (mut a, mut b) = synced();
    let begun = CopyProgress {
        snapshot: at(200, 400),
        next: 5,
        keep: false,
        lacking: Lacking::New,
    };
    // a sorts first, and would begin: but it gives nothing away before it has what it had lost.
    (a.epoch, a.older) = (150, 150);
    let part = Mark {
        copy: Some(begun),
        ..mark(at(200, 300), Epoch::NEVER.0, 150)
    };
    a.mark = Some(part.to_string());
    b.mark = Some(mark(at(150, 20), Epoch::UNDONE.0, 200).to_string());
    let plan = decide(&a, &b).unwrap();
    assert!(plan.send.copy.is_none());
    assert!(
        plan.receive
            .copy
            .is_some_and(|copy| copy.back && copy.resume == Some(begun))
    );
}

#[test]
fn an_interrupted_copy_goes_on() {
    let (a, mut b) = pair();
    b.from_scratch = Some("200/1".to_owned());
    let copy = CopyProgress {
        snapshot: at(100, 77),
        next: 5,
        keep: false,
        lacking: Lacking::New,
    };
    b.mark = Some(
        Mark {
            copy: Some(copy),
            ..mark(at(100, 500), 0, 200)
        }
        .to_string(),
    );
    let plan = decide(&a, &b).unwrap();
    assert_eq!(plan.send.copy.unwrap().resume, Some(copy));
}

#[test]
fn what_was_written_before_a_part_that_nobody_read_must_be_in_the_copy() {
    let (a, mut b) = synced();
    let plan = decide(&a, &b).unwrap();
    b.last_record = "200/500".to_owned();
    assert_eq!(plan.receive.unsure_before(&b), Cursor::ZERO);
    (b.epoch, b.base) = (250, 250);
    assert_eq!(plan.receive.unsure_before(&b), at(200, 500));
    b.last_record = "250/10".to_owned();
    assert_eq!(plan.receive.unsure_before(&b), at(250, 0));
    b.last_record = "200/300".to_owned();
    assert_eq!(plan.receive.unsure_before(&b), Cursor::ZERO, "it is here");
    // Its Redis came back without its latest writes.
    (b.epoch, b.base, b.older) = (250, 200, 250);
    b.last_record = "200/500".to_owned();
    assert_eq!(plan.receive.unsure_before(&b), at(200, 500));
}

#[test]
fn strangers_are_refused() {
    let (a, b) = pair();
    assert_eq!(
        decide(
            &a,
            &Hello {
                site: "a".to_owned(),
                ..b.clone()
            }
        ),
        Err("same_site".to_owned())
    );
    let stranger = Hello {
        peer: "c".to_owned(),
        ..b.clone()
    };
    assert_eq!(plan(&a, &stranger).unwrap_err().reason, "wrong_site");
    let same = Hello {
        replid: "a".to_owned(),
        ..b.clone()
    };
    assert_eq!(decide(&a, &same), Err("same_redis".to_owned()));
    let other = Hello {
        selection: "[0]".to_owned(),
        ..b
    };
    assert_eq!(decide(&a, &other), Err("configuration_differs".to_owned()));
}

#[test]
fn what_the_receiver_has_not_judged_is_sent_once_more() {
    let (mut a, mut b) = synced();
    let after = |b: &Hello| decide(&a, b).unwrap().send.sent_after(&a, b);
    assert_eq!(after(&b), at(100, 1), "it has not said anything yet");
    let epoch = std::mem::replace(&mut b.epoch, 201);
    assert_eq!(after(&b), at(100, 400), "it may have forgotten");
    b.epoch = epoch;
    for (judged, expected) in [
        (at(100, 350), at(100, 350)),
        // It has judged what it is to be sent anew.
        (at(100, 450), at(100, 400)),
        // No longer in the journal: nobody can tell with what of its own that was concurrent.
        (at(99, 350), at(100, 400)),
    ] {
        b.judged = judged.to_string();
        assert_eq!(after(&b), expected);
        let copy = decide(&a, &b).unwrap().send.copy;
        assert_eq!(copy.is_some(), judged == at(99, 350));
    }
    // There is no record in between: a copy has brought it to where it stands.
    (b.judged, a.last_record) = (at(100, 350).to_string(), at(100, 350).to_string());
    let after = decide(&a, &b).unwrap().send.sent_after(&a, &b);
    assert_eq!(after, at(100, 400));
}
