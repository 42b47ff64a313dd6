//! What batches hold, and what becomes of them.

use super::*;
use crate::apply::debts::Debts;
use crate::apply::policy::MAX_GUESSED;
use crate::command::{Access, Catalog, Dialect};
use crate::config::{Flush, Publish};
use crate::converge::Claims;
use crate::model::Record;
use crate::model::{Cursor, SiteId};
use crate::redis::Info;

fn debts() -> Debts {
    let [a, b] = ["a", "b"].map(|name| SiteId::try_new(name).unwrap());
    Debts::new(&b, &Claims::new(&a, std::slice::from_ref(&b)))
}

fn target(version: &str) -> Target {
    Target {
        dialect: Dialect::of(&Info::parse(&format!("redis_version:{version}\r\n"))),
        catalog: Catalog::default(),
        flush: Flush::Forward,
        publish: Publish::Forward,
        debts: debts(),
        disputes: false,
        site: SiteId::try_new("a").unwrap(),
        table: Arc::new(crate::converge::Table::new(1 << 19)),
        peer: SiteId::try_new("b").unwrap(),
        foreign: Arc::default(),
    }
}

fn bookkeeping() -> Bookkeeping {
    Bookkeeping {
        mark_key: "m".to_owned(),
        mark: "v".to_owned(),
        owed_key: "owed".to_owned(),
        reserved: ["m".to_owned(), "s".to_owned()].into(),
    }
}

fn record(offset: u64, db: u32, lines: &[&str]) -> Record {
    let mut commands = Vec::new();
    for line in lines {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        put_command(&mut commands, &args);
    }
    let count = u32::try_from(lines.len()).unwrap();
    let offset = Offset(offset);
    Record {
        offset,
        hlc: Hlc(offset.0),
        db,
        seen: Arc::default(),
        causes: Arc::default(),
        count,
        commands: commands.into(),
    }
}

fn lines(bytes: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    scanner::for_each(bytes, |c| {
        lines.push(
            c.args(0)
                .map(String::from_utf8_lossy)
                .collect::<Vec<_>>()
                .join(" "),
        );
    })
    .unwrap();
    lines
}

#[test]
fn any_word_of_a_command_that_nobody_knows_may_be_a_key() {
    let mut batch = Batch::new(target("8.6.3"));
    let long = format!("module.write a {}", "x".repeat(MAX_GUESSED + 1));
    batch
        .push(record(10, 2, &[&long, "FLUSHALL"]).borrowed())
        .unwrap();
    let key = crate::command::Key {
        db: 2,
        name: b"a".to_vec(),
        access: Access::Write,
    };
    // The first command is the SELECT.
    assert_eq!(batch.touched(1).unwrap().0, Touched::Keys(vec![key]));
    assert_eq!(batch.touched(2).unwrap().0, Touched::Everything);
}

#[test]
fn the_mark_comes_first_and_records_stay_whole() {
    let mut batch = Batch::new(target("8.6.3"));
    batch.push(record(10, 0, &["SET a 1"]).borrowed()).unwrap();
    batch
        .push(record(20, 3, &["INCR x", "SELECT 5", "INCR y"]).borrowed())
        .unwrap();
    batch.push(record(30, 5, &["INCR z"]).borrowed()).unwrap();
    let sealed = batch.seal(2, &bookkeeping());
    let expected = [
        "MULTI", "SELECT 0", "SET m v", "SET a 1", "SELECT 3", "INCR x", "SELECT 5", "INCR y",
        "INCR z", "EXEC",
    ];
    assert_eq!(lines(&sealed.bytes), expected);
    assert_eq!((sealed.count, sealed.head, sealed.db), (8, 2, 5));
    assert_eq!(
        (batch.last(), batch.hlc(), batch.records()),
        (Offset(30), Hlc(30), 3)
    );
    let (touched, name) = batch.touched(4).unwrap();
    let key = crate::command::Key {
        db: 5,
        name: b"y".to_vec(),
        access: Access::Write,
    };
    assert_eq!(touched, Touched::Keys(vec![key]));
    assert_eq!(&name[..], b"INCR");
    let commands = batch.commands();
    let less = batch.without(4);
    let sealed = less.seal(0, &bookkeeping());
    assert!(!lines(&sealed.bytes).contains(&"INCR y".to_owned()));
    assert_eq!(less.commands(), commands - 1);
}

#[test]
fn plain_sets_in_a_row_are_one_command() {
    let mut batch = Batch::new(target("8.6.3"));
    let mut push = |offset, db, lines| batch.push(record(offset, db, lines).borrowed()).unwrap();
    push(10, 0, &["SET a 1"]);
    push(20, 0, &["SET b 2", "set a 3"]);
    push(30, 0, &["SET c 4 KEEPTTL"]);
    push(40, 0, &["SET d 5"]);
    push(50, 1, &["SET e 6", "SET f 7", "SELECT 2", "SET g 8"]);
    push(60, 2, &["DEL g", "SET h 9"]);
    let sealed = batch.seal(0, &bookkeeping());
    let expected = [
        "MULTI",
        "SET m v",
        "MSET a 1 b 2 a 3",
        "SET c 4 KEEPTTL",
        "SET d 5",
        "SELECT 1",
        "MSET e 6 f 7",
        "SELECT 2",
        "SET g 8",
        "DEL g",
        "SET h 9",
        "EXEC",
    ];
    assert_eq!(lines(&sealed.bytes), expected);
    assert_eq!((batch.commands(), sealed.count, sealed.head), (9, 10, 1));
    // Refused, or not known how it went: the states of all its keys are needed.
    let owed = |batch: &Batch, number| {
        let owed = batch.owed_after(&[number].into()).into_iter();
        owed.map(|(db, name)| (db, String::from_utf8(name.to_vec()).unwrap()))
            .collect::<Vec<_>>()
    };
    let keys = |db, names: &[&str]| {
        names
            .iter()
            .map(|n| (db, (*n).to_owned()))
            .collect::<Vec<_>>()
    };
    assert_eq!(owed(&batch, 0), keys(0, &["a", "b", "a"]));
    assert_eq!(owed(&batch, 4), keys(1, &["e", "f"]));
    assert_eq!(owed(&batch, 6), keys(2, &["g"]));
    let less = lines(&batch.without(0).seal(0, &bookkeeping()).bytes);
    assert_eq!(less[..3], ["MULTI", "SET m v", "SET c 4 KEEPTTL"]);
}

#[test]
fn a_batch_is_closed_at_so_many_writes_however_few_commands() {
    let mut batch = Batch::new(target("8.6.3"));
    for n in 1..=MAX_COMMANDS {
        assert!(!batch.is_full());
        let set = record(u64::from(n), 0, &["SET key v"]);
        batch.push(set.borrowed()).unwrap();
    }
    assert!(batch.is_full());
    assert_eq!((batch.commands(), batch.records()), (1, MAX_COMMANDS));
}

#[test]
fn keys_that_are_set_together_are_not_made_of_each_other() {
    let target = target("8.6.3");
    target
        .debts
        .add((0, "old".into()), Cursor::ZERO, Need::Lacks);
    let mut batch = Batch::new(target);
    let commands = ["SET old 1", "SET a 2", "MSET b 1 old 2"];
    batch.push(record(10, 0, &commands).borrowed()).unwrap();
    assert!(batch.owed().is_empty() && batch.owed_after(&BTreeSet::new()).is_empty());
}

#[test]
fn a_record_costs_no_memory_but_the_place_of_its_commands() {
    let mut batch = Batch::new(target("8.6.3"));
    let records: Vec<Record> = (1..200).map(|n| record(n, 0, &["SET key value"])).collect();
    let mut push = |record: &Record| batch.push(record.borrowed()).unwrap();
    let (first, rest) = records.split_at(100);
    first.iter().for_each(&mut push);
    let counted = allocation_counter::measure(|| rest.iter().for_each(&mut push));
    assert!(counted.count_total < 3, "{counted:?}");
}

#[test]
fn marks_are_written_again_behind_what_removes_them() {
    let mut batch = Batch::new(target("8.6.3"));
    batch.push(record(10, 4, &["FLUSHALL"]).borrowed()).unwrap();
    assert!(batch.is_full());
    let expected = [
        "MULTI", "SET m v", "SELECT 4", "FLUSHALL", "SELECT 0", "SET m v", "EXEC",
    ];
    assert_eq!(lines(&batch.seal(0, &bookkeeping()).bytes), expected);

    let mut batch = Batch::new(target("8.6.3"));
    batch
        .push(record(10, 0, &["SWAPDB 0 7"]).borrowed())
        .unwrap();
    let sealed = batch.seal(0, &bookkeeping());
    let expected = [
        "MULTI",
        "SET m v",
        "SWAPDB 0 7",
        "SELECT 7",
        "DEL m s",
        "SELECT 0",
        "SET m v",
        "EXEC",
    ];
    assert_eq!(lines(&sealed.bytes), expected);
}

#[test]
fn what_an_old_target_lacks_is_said_in_its_words() {
    let mut batch = Batch::new(target("5.0.6"));
    batch
        .push(
            record(
                10,
                0,
                &[
                    "SET k v PXAT 99",
                    "COPY a b",
                    "FUNCTION DELETE f",
                    "SET k v",
                ],
            )
            .borrowed(),
        )
        .unwrap();
    let expected = [
        "MULTI",
        "SET m v",
        "SET k v",
        "PEXPIREAT k 99",
        "SET k v",
        "SADD owed 0:b",
        "EXEC",
    ];
    let sealed = batch.seal(0, &bookkeeping());
    assert_eq!(lines(&sealed.bytes), expected);
    assert_eq!(sealed.count, 5);
    assert_eq!((batch.owed().len(), batch.unheld()), (1, 1));
}

#[test]
fn what_is_made_of_an_owed_key_is_owed_too() {
    let target = target("6.0.16");
    target
        .debts
        .add((0, "old".into()), Cursor::ZERO, Need::Lacks);
    let mut batch = Batch::new(target);
    let lines = [
        "COPY 1 2",
        "SUNIONSTORE 3 2",
        "RENAME 2 4",
        "SADD 3 x",
        "SUNIONSTORE 5 old",
        "SUNIONSTORE 6 1",
    ];
    batch.push(record(10, 0, &lines).borrowed()).unwrap();
    let owed: Vec<_> = batch.owed().iter().map(|k| k.1.clone()).collect();
    assert_eq!(owed, ["2", "3", "4", "5"]);
}

#[test]
fn flushes_and_messages_are_dealt_with_as_configured() {
    let line = &["FLUSHDB", "PUBLISH c m", "SET k v"][..];
    let mut batch = Batch::new(Target {
        flush: Flush::Ignore,
        publish: Publish::Ignore,
        ..target("7.0.0")
    });
    batch.push(record(10, 0, line).borrowed()).unwrap();
    let sealed = batch.seal(0, &bookkeeping());
    assert_eq!(
        lines(&sealed.bytes),
        ["MULTI", "SET m v", "SET k v", "EXEC"]
    );
    let stopping = Target {
        flush: Flush::Stop,
        ..target("7.0.0")
    };
    assert!(stopping.stops_at(record(10, 0, line).borrowed()));
    assert!(!stopping.stops_at(record(10, 0, &["SET FLUSHALL v"]).borrowed()));
    assert!(!target("7.0.0").stops_at(record(10, 0, line).borrowed()));
}
