//! The judge against histories of two sites.

use super::*;
use crate::command::for_each_in;
use crate::converge::{Filed, Settled, Why};
use crate::model::{Epoch, FrameBuilder, Offset, Owes, Tags};

const LIFE: InstanceId = InstanceId::new(7);
const NOW_MS: u64 = 1_000_000;

pub(super) fn site(name: &str) -> SiteId {
    SiteId::try_new(name).unwrap()
}

pub(super) fn at(offset: u64) -> Cursor {
    Cursor {
        epoch: Epoch(1),
        offset: Offset(offset),
    }
}

pub(super) fn key(name: &'static str) -> Key {
    (0, Bytes::from_static(name.as_bytes()))
}

/// What is committed with what was applied up to there.
fn mark(upto: u64, batch: u64) -> Mark {
    Mark {
        instance: LIFE,
        batch,
        at: at(upto),
        hlc: Hlc(0),
        low: Cursor::ZERO,
        base: Epoch(0),
        home: Epoch(0),
        owes: Owes::Nothing,
        entire: false,
        copy: None,
        part: None,
        seen: Seen::default(),
    }
}

/// Records of b: where each ends, its stamp, and up to where it had seen our history; and its commands.
pub(super) fn frame(records: &[((u64, u64, u64), &str)]) -> Filed {
    let mut frame = FrameBuilder::new(Offset(0));
    for ((offset, hlc, seen), line) in records {
        let seen = Arc::new(Seen::from_iter([(site("a"), at(*seen))]));
        let tags = Tags {
            offset: Offset(*offset),
            hlc: Hlc(*hlc),
            db: 0,
            seen: &seen,
            causes: &seen,
            count: 1,
        };
        frame.push(tags, &Site::commands(line));
    }
    Filed::Records {
        epoch: Epoch(1),
        start: Offset(0),
        body: frame.finish().into(),
    }
}

/// Site a, and what it is told.
pub(super) struct Site {
    pub(super) judge: Judge,
    docket: Docket,
    catalog: Catalog,
}

impl Site {
    pub(super) fn new() -> Self {
        let (docket, catalog) = (Docket::default(), Catalog::default());
        let dockets = [(site("b"), docket.clone())].into();
        let tables = (Arc::new(Table::new(1 << 19)), Arc::default());
        let claims = Claims::new(&site("a"), &[site("b")]);
        let judge = Judge::new(site("a"), tables, catalog.clone(), (&dockets, claims));
        Self {
            judge,
            docket,
            catalog,
        }
    }

    /// The commands of a line, with a `;` between two.
    fn commands(line: &str) -> Vec<u8> {
        let command = |line: &str| {
            let words = line.split(' ');
            let count = words.clone().count();
            let words = words.map(|word| format!("${}\r\n{word}\r\n", word.len()));
            format!("*{count}\r\n{}", words.collect::<String>())
        };
        let commands = line.split("; ").map(command);
        commands.collect::<String>().into_bytes()
    }

    /// A client writes here.
    pub(super) fn writes(&mut self, offset: u64, hlc: u64, line: &str) {
        let mut effects = Effects::default();
        for_each_in(&Self::commands(line), 0, |command, db| {
            effects.add(&self.catalog, command, db, |_, _| true);
        })
        .unwrap();
        let commands = Self::commands(line);
        self.judge
            .on_own_commands(&commands, (0, at(offset)), &effects.touches);
        self.judge.on_own(&mut effects, at(offset), Hlc(hlc));
        self.judge.note();
    }

    /// The applier takes up a write of b that had seen our history up to `seen`.
    pub(super) async fn applies(&self, tags: (u64, u64, u64), line: &str) {
        self.docket.file(frame(&[(tags, line)])).await;
    }

    /// The same of several in one frame.
    pub(super) async fn applies_together(&self, records: &[((u64, u64, u64), &str)]) {
        self.docket.file(frame(records)).await;
    }

    /// What was applied up to there comes back, with deletes that the server has added.
    pub(super) fn reads(&mut self, upto: u64, batch: u64, deleted: &[Key]) {
        let (mark, deleted) = (mark(upto, batch), deleted.to_vec());
        self.judge
            .on_echo(&site("b"), &mark, deleted, (LIFE, NOW_MS), at(1000 + batch));
    }

    /// What is wished for since the last time: the keys, in order, with a `?` if only doubted.
    pub(super) fn wishes(&mut self) -> String {
        self.judge.release();
        let mut wishes = Vec::new();
        self.docket.take_wishes(|(_, name), wish| {
            let doubts = if wish.need == Need::Doubts { "?" } else { "" };
            wishes.push(format!("{}{doubts}", name.escape_ascii()));
        });
        wishes.sort();
        wishes.join(" ")
    }
}

/// What a wishes for when its write and b's have not seen each other.
async fn wished(ours: (u64, &str), theirs: (u64, &str)) -> String {
    let mut a = Site::new();
    a.writes(10, ours.0, ours.1);
    a.applies((20, theirs.0, 5), theirs.1).await;
    assert_eq!(a.wishes(), "", "not before it has come back");
    a.reads(20, 1, &[]);
    a.wishes()
}

#[tokio::test]
async fn the_site_whose_write_was_later_asks() {
    for (ours, theirs, wishes) in [
        ((2, "SET k 1"), (1, "SET k 2"), "k"),
        ((1, "SET k 1"), (2, "SET k 2"), ""),
        ((2, "SET k 1"), (1, "SET other 2"), ""),
        ((2, "INCR k"), (1, "INCR k"), ""),
        ((2, "HSET k f 1"), (1, "HSET k f 2"), "k"),
        ((2, "HSET k f 1"), (1, "HSET k g 2"), ""),
        ((2, "HSET k f 1"), (1, "SADD k m"), "k"),
        ((1, "INCR k"), (2, "DEL k"), "k"),
        ((2, "DEL k"), (1, "INCR k"), ""),
        ((2, "DEL k"), (1, "PEXPIREAT k 9"), "k"),
        ((1, "PEXPIREAT k 9"), (2, "DEL k"), ""),
        ((2, "SREM k m"), (1, "SADD k n"), "k?"),
        ((2, "SET a 1"), (1, "RENAME a b"), "a b"),
        ((2, "COPY a b"), (1, "SET a 1"), "b"),
        ((1, "COPY a b"), (2, "SET a 1"), ""),
        ((2, "SWAPDB 0 1"), (1, "SET k 1"), "k k"),
        ((2, "FLUSHDB"), (1, "SET k 1"), ""),
        ((2, "XADD x 5-1 f v"), (1, "XADD x 6-1 f v"), ""),
        ((2, "XADD x 5-1 f v"), (1, "XADD x 5-1 f w"), "x"),
        ((2, "XDEL x 5-1"), (1, "XACK x g 5-1"), "x"),
    ] {
        assert_eq!(wished(ours, theirs).await, wishes, "{ours:?} {theirs:?}");
    }
}

#[tokio::test]
async fn the_later_of_two_writes_of_whole_databases_that_met_asks_for_a_merge() {
    for (ours, theirs, torn) in [
        ((2, "SWAPDB 0 1"), (1, "SWAPDB 0 1"), true),
        ((1, "SWAPDB 0 1"), (2, "SWAPDB 0 1"), false),
        ((2, "SWAPDB 0 1"), (1, "SWAPDB 1 2"), true),
        ((2, "SWAPDB 0 1"), (1, "SWAPDB 2 3"), false),
        ((2, "SWAPDB 0 1"), (1, "FLUSHDB"), true),
        ((2, "FLUSHALL"), (1, "SWAPDB 4 5"), true),
        ((2, "FLUSHALL"), (1, "FLUSHDB"), false),
    ] {
        let mut a = Site::new();
        a.writes(10, ours.0, ours.1);
        a.applies((20, theirs.0, 5), theirs.1).await;
        a.reads(20, 1, &[]);
        a.judge.release();
        assert_eq!(a.docket.is_torn(), torn, "{ours:?} {theirs:?}");
        let note = Judgement::Torn(site("b"));
        assert_eq!(a.judge.take().notes.contains(&note), torn);
    }
}

#[tokio::test]
async fn what_has_been_seen_is_no_conflict() {
    let mut a = Site::new();
    a.writes(10, 9, "SET k 1");
    a.applies((20, 1, 10), "SET k 2").await;
    a.reads(20, 1, &[]);
    assert_eq!(a.wishes(), "");
    // How the commands went is not known yet.
    a.docket.set_unsettled(Some(at(15)));
    assert_eq!(a.judge.take().notes, [Judgement::Judged(site("b"), at(15))]);
    a.docket.set_unsettled(None);
    assert_eq!(a.judge.take().notes, [Judgement::Judged(site("b"), at(20))]);
    assert_eq!(a.judge.judged().of(&site("b")), at(20));
}

#[tokio::test]
async fn a_mark_that_goes_ahead_of_the_records_leaves_nothing_unjudged() {
    let mut a = Site::new();
    a.applies((20, 1, 5), "SET k 2").await;
    // States of up to 30 are asked for, and no record stands there.
    a.docket.file(Filed::Nothing(at(30))).await;
    a.reads(20, 1, &[]);
    a.reads(30, 2, &[]);
    assert_eq!(a.judge.take().notes, [Judgement::Judged(site("b"), at(30))]);
    assert!(!a.judge.is_applying());
}

#[tokio::test]
async fn what_is_made_of_a_key_of_which_something_is_not_here_is_asked_for() {
    let mut a = Site::new();
    a.writes(10, 1, "COPY k before");
    a.docket.owed([key("k")]);
    a.judge.on_owed(at(15));
    assert_eq!(a.wishes(), "before k");
    a.writes(20, 2, "COPY k behind");
    assert_eq!(a.wishes(), "behind");
    a.docket.owed([key("k")]);
    a.judge.on_owed(at(25));
    assert_eq!(a.wishes(), "", "known");
}

#[tokio::test]
async fn what_is_made_of_a_wrong_value_is_wrong_until_the_right_one_has_come() {
    let mut a = Site::new();
    a.writes(10, 9, "SET k 1");
    a.applies((20, 1, 5), "SET k 2").await;
    a.reads(20, 1, &[]);
    assert_eq!(a.wishes(), "k");
    a.writes(30, 10, "COPY k ours");
    assert_eq!(a.wishes(), "ours");
    a.applies((40, 11, 30), "COPY k theirs").await;
    a.reads(40, 2, &[]);
    assert_eq!(a.wishes(), "theirs");
    let keys = ["k", "ours", "theirs"].map(key);
    let settled = keys.map(|key| Settled {
        key,
        seen: Arc::default(),
        upto: None,
        why: Why::Asked(Vec::new()),
    });
    a.docket.paid(LIFE, 3, settled.to_vec());
    a.writes(50, 12, "COPY k before");
    assert_eq!(a.wishes(), "before", "paid, but not come back yet");
    a.reads(40, 3, &[]);
    a.writes(60, 13, "COPY k behind");
    assert_eq!(a.wishes(), "");
    assert_eq!(a.judge.oldest_wish(), Some(at(50)));
}

#[tokio::test]
async fn a_state_that_was_taken_behind_a_flush_of_ours_is_asked_for_again() {
    let mut a = Site::new();
    a.writes(10, 9, "SET k 1");
    a.applies((20, 1, 5), "SET k 2").await;
    a.reads(20, 1, &[]);
    assert_eq!(a.wishes(), "k");
    // The guard knows our history up to 10; WATCH of a key that does not exist says nothing of the flush.
    a.writes(30, 10, "FLUSHDB");
    let settled = |upto, why| Settled {
        key: key("k"),
        seen: Arc::default(),
        upto: Some(at(upto)),
        why,
    };
    a.docket
        .paid(LIFE, 2, vec![settled(10, Why::Asked(Vec::new()))]);
    a.reads(20, 2, &[]);
    assert_eq!(a.wishes(), "k");
    a.docket
        .paid(LIFE, 3, vec![settled(30, Why::Asked(Vec::new()))]);
    a.reads(20, 3, &[]);
    assert_eq!(a.wishes(), "", "paid");
    // Of a copy, that nobody has asked for.
    a.docket.paid(LIFE, 4, vec![settled(10, Why::Copied)]);
    a.reads(20, 4, &[]);
    assert_eq!(a.wishes(), "k");
}

#[test]
fn what_an_answer_of_the_arbiter_brings_third_sites_hear_of_and_of_others_the_arbiter_is_asked() {
    for (from, why, stale, asked) in [
        ("a", Why::Copied, 0, 0),
        ("a", Why::Answered, 1, 0),
        ("b", Why::Copied, 0, 1),
        ("b", Why::Answered, 0, 1),
    ] {
        let others = ["a", "b"].map(site);
        let dockets: BTreeMap<SiteId, Docket> =
            others.clone().map(|of| (of, Docket::default())).into();
        let claims = Claims::new(&site("c"), &others);
        let foreign = Arc::new(Foreign::new(&others, 1 << 19));
        let tables = (Arc::new(Table::new(1 << 19)), foreign);
        let parts = (&dockets, Arc::clone(&claims));
        let mut c = Judge::new(site("c"), tables, Catalog::default(), parts);
        let settled = Settled {
            key: key("k"),
            seen: Arc::default(),
            upto: Some(at(10)),
            why,
        };
        dockets[&site(from)].paid(LIFE, 1, vec![settled]);
        let (of, life) = (site(from), (LIFE, NOW_MS));
        c.on_echo(&of, &mark(0, 1), Vec::new(), life, at(20));
        c.release();
        let wishes = dockets[&site("a")].wishes();
        let told = claims.stale(&site("b"), 0).len();
        assert_eq!((told, wishes), (stale, asked), "{from}");
    }
}

#[tokio::test]
async fn what_is_made_of_a_key_behind_a_flush_is_judged_when_it_is_known_what_the_flush_has_removed()
 {
    let mut a = Site::new();
    a.writes(10, 1, "INCR k");
    a.applies((20, 2, 5), "FLUSHDB").await;
    a.applies((21, 3, 10), "COPY k copy").await;
    // Both have come back before anybody looks.
    a.reads(20, 1, &[]);
    a.reads(21, 2, &[]);
    let mut found = a.judge.take();
    let overrun = found.overruns.pop().unwrap();
    a.judge.on_overrun(&overrun, vec![key("k")], at(1002));
    a.judge.go_on(at(1002));
    assert_eq!(a.wishes(), "copy k");

    // Two in one record.
    let mut a = Site::new();
    a.writes(10, 1, "INCR k");
    a.applies((20, 2, 5), "SWAPDB 4 5; FLUSHDB").await;
    a.applies((21, 3, 10), "COPY k copy").await;
    a.reads(21, 1, &[]);
    let found = a.judge.take();
    let removed = [vec![], vec![key("k")]];
    assert_eq!(found.overruns.len(), removed.len());
    for (overrun, keys) in found.overruns.iter().zip(removed) {
        a.judge.on_overrun(overrun, keys, at(1001));
    }
    a.judge.go_on(at(1001));
    assert_eq!(a.wishes(), "copy k");

    // In the record of the flush itself.
    let mut a = Site::new();
    a.writes(10, 1, "INCR k");
    a.applies((20, 2, 5), "FLUSHDB; COPY k copy; SET other 1")
        .await;
    a.reads(20, 1, &[]);
    assert_eq!(a.wishes(), "copy");
}

#[tokio::test]
async fn a_key_that_expired_under_a_write_is_asked_for() {
    let mut a = Site::new();
    a.applies((20, 1, 5), "HSET h f v").await;
    a.applies((21, 1, 5), "DEL gone").await;
    a.reads(21, 1, &[key("h"), key("gone")]);
    assert_eq!(a.wishes(), "h");
}

#[tokio::test]
async fn a_key_that_the_peer_deleted_before_it_expired_under_a_write_is_asked_for() {
    for (again, wishes) in [
        ("SET k 1 PXAT 999000", "k"),
        ("SET k 1 PXAT 2000000", ""),
        ("SET k 1", ""),
    ] {
        let mut a = Site::new();
        a.applies((20, 1, 5), "DEL k").await;
        a.applies((21, 1, 5), again).await;
        a.applies((22, 1, 5), "PERSIST k").await;
        a.reads(22, 1, &[key("k"), key("k")]);
        assert_eq!(a.wishes(), wishes, "{again}");
    }
}

#[tokio::test]
async fn what_was_made_of_a_key_before_a_delete_that_yields_is_asked_for() {
    let mut a = Site::new();
    a.writes(10, 1, "COPY k before");
    a.writes(11, 2, "PEXPIREAT k 9");
    a.writes(12, 3, "COPY k behind");
    a.applies((20, 4, 5), "DEL k").await;
    a.reads(20, 1, &[]);
    // The peer asks for k, and for what it makes of it.
    assert_eq!(a.wishes(), "before");
}

#[tokio::test]
async fn what_is_made_of_a_key_that_expired_under_it_is_asked_for() {
    let mut a = Site::new();
    a.applies((20, 1, 5), "BITOP OR to k other").await;
    a.applies((21, 1, 5), "COPY to copy").await;
    a.reads(21, 1, &[key("k")]);
    assert_eq!(a.wishes(), "copy k to");
    a.applies((22, 1, 5), "COPY k after").await;
    a.reads(22, 2, &[]);
    assert_eq!(a.wishes(), "after");
}

#[tokio::test]
async fn after_a_restart_what_had_come_back_is_judged_when_it_comes_again() {
    let mut a = Site::new();
    a.writes(10, 9, "SET k 1");
    let mut seen = Seen::default();
    seen.advance(&site("b"), at(20));
    let wishes = [(site("b"), key("old"))];
    let found = (wishes, [], &BTreeSet::new());
    a.judge.resume((&seen, &Seen::default()), found, at(15));
    assert_eq!(a.wishes(), "old");
    a.applies((20, 1, 5), "SET k 2").await;
    a.judge.on_late(at(30));
    assert_eq!(a.wishes(), "k");
}

#[tokio::test]
async fn what_has_not_come_back_is_not_judged() {
    let mut a = Site::new();
    a.writes(10, 9, "SET k 1");
    a.applies((20, 1, 5), "SET k 2").await;
    a.judge.on_late(at(1000));
    assert_eq!(a.wishes(), "");
    assert_eq!(a.judge.judged().of(&site("b")), Cursor::ZERO);
    a.reads(20, 1, &[]);
    assert_eq!(a.wishes(), "k");
}

#[tokio::test]
async fn a_state_that_has_come_back_before_its_answer_is_paid() {
    let mut a = Site::new();
    let paid = |a: &Site| {
        let (key, seen, upto) = (key("k"), Arc::default(), None);
        let why = Why::Asked(Vec::new());
        let settled = Settled {
            key,
            seen,
            upto,
            why,
        };
        a.docket.paid(LIFE, 2, vec![settled]);
    };
    a.writes(10, 9, "SET k 1");
    a.applies((20, 1, 5), "SET k 2").await;
    a.reads(20, 1, &[]);
    assert_eq!(a.wishes(), "k");
    a.judge.forget(at(10), |_| Cursor::ZERO);
    a.reads(25, 2, &[]);
    paid(&a);
    assert!(!a.docket.is_noted());
    a.judge.on_owed(at(1010));
    assert_eq!(a.judge.oldest_wish(), None);
    assert!(a.docket.is_noted());

    // What was found out meanwhile stays.
    let mut a = Site::new();
    a.writes(10, 9, "SET k 1");
    a.applies((20, 1, 5), "SET k 2").await;
    a.reads(25, 2, &[]);
    assert_eq!(a.wishes(), "k");
    paid(&a);
    a.judge.on_owed(at(1010));
    assert!(a.judge.oldest_wish().is_some());
}

#[test]
fn what_we_write_has_seen_what_had_come_back_and_was_not_judged() {
    let peers = [site("b"), site("c")];
    let foreign = Arc::new(Foreign::new(&peers, 1 << 10));
    let dockets = peers.iter().map(|peer| (peer.clone(), Docket::default()));
    let (table, claims) = (
        Arc::new(Table::new(1 << 10)),
        Claims::new(&site("a"), &peers),
    );
    let shared = (&dockets.collect(), claims);
    let mut judge = Judge::new(site("a"), (table, foreign), Catalog::default(), shared);
    let causes = |judge: &Judge| judge.causes().unwrap().of(&site("b"));
    // The sidecar was killed before it had noted what it found of the last records.
    let [seen, judged] = [20, 10].map(|of_b| Seen::from_iter([(site("b"), at(of_b))]));
    judge.resume((&seen, &judged), ([], [], &BTreeSet::new()), at(15));
    assert_eq!(causes(&judge), at(20));
    // The last transaction of that life comes back.
    let mark = Mark::first(InstanceId::new(6), at(30));
    judge.on_echo(&site("b"), &mark, Vec::new(), (LIFE, NOW_MS), at(16));
    assert_eq!(causes(&judge), at(30));
}

#[tokio::test]
async fn what_a_record_had_not_seen_is_remembered_until_it_is_judged() {
    let mut a = Site::new();
    a.writes(10, 9, "SET k 1");
    // Records of b wait; then b says that it has seen everything, and writes no more.
    a.applies((20, 1, 5), "SET other 2").await;
    a.applies((21, 1, 5), "SET k 2").await;
    a.judge.forget(at(10), |_| Cursor::ZERO);
    a.reads(20, 1, &[]);
    a.judge.forget(at(10), |_| Cursor::ZERO);
    a.reads(21, 2, &[]);
    assert_eq!(a.wishes(), "k");
    a.judge.forget(at(10), |_| Cursor::ZERO);
    assert!(a.judge.table.is_empty());
}

#[test]
fn what_was_made_of_a_stale_key_is_remembered_until_the_judge_has_heard() {
    for is_stale in [true, false] {
        let mut a = Site::new();
        a.writes(10, 9, "COPY k m");
        match is_stale {
            true => a.docket.stale(1, vec![key("k")]),
            false => a.docket.owed([key("k")]),
        }
        // Behind that b says that it has seen our write.
        assert_eq!(a.judge.forget(at(10), |_| Cursor::ZERO), Cursor::ZERO);
        a.judge.on_owed(at(20));
        assert_eq!(a.wishes(), "k m");
        assert_eq!(a.judge.forget(at(10), |_| Cursor::ZERO), at(10));
    }
}

#[tokio::test]
async fn what_was_made_of_a_wrong_key_before_it_was_asked_for_is_wrong_too() {
    let mut a = Site::new();
    a.writes(10, 9, "COPY k m");
    a.writes(11, 9, "COPY m n");
    let mut seen = Seen::default();
    seen.advance(&site("a"), at(12));
    a.judge
        .wish(&site("b"), vec![key("m")], (&seen, None), When::Now, at(13));
    assert_eq!(a.wishes(), "m", "of what was there then n was made");
    // A write of b that comes before both.
    a.applies((20, 1, 5), "SET k 2").await;
    a.reads(20, 1, &[]);
    assert_eq!(a.wishes(), "m n");
}

#[tokio::test]
async fn what_is_wrong_goes_where_its_database_goes() {
    let mut a = Site::new();
    let dbs = |a: &mut Site| {
        a.judge.release();
        let mut dbs = Vec::new();
        a.docket.take_wishes(|(db, _), _| dbs.push(db));
        dbs.sort_unstable();
        dbs
    };
    // Ours was later than two exchanges of the peer that had not seen it.
    a.writes(10, 9, "SET k 1");
    a.applies((20, 1, 5), "SET k 2").await;
    a.reads(20, 1, &[]);
    assert_eq!(dbs(&mut a), [0]);
    a.applies((30, 2, 10), "SWAPDB 0 2").await;
    a.applies((40, 3, 10), "SWAPDB 1 2").await;
    a.reads(40, 2, &[]);
    assert_eq!(dbs(&mut a), [1, 2]);
    a.writes(50, 10, "SWAPDB 1 7");
    assert_eq!(dbs(&mut a), [7]);

    // Ours change places twice before the peer hears of it, and it was later.
    let mut a = Site::new();
    a.writes(10, 9, "SWAPDB 0 2");
    a.writes(20, 10, "SWAPDB 1 2");
    a.applies((20, 1, 5), "SET k 2").await;
    a.reads(20, 1, &[]);
    assert_eq!(dbs(&mut a), [0, 1, 2]);
}
