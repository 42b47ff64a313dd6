//! What the rules of conflicts cost each record while there is no conflict: the table of our own
//! writes, and the judgement of the peer's. One thread, in memory.

#![expect(clippy::print_stdout, reason = "a program whose product is its output")]

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use tandem::command::{Catalog, Effects, for_each_in};
use tandem::converge::{Claims, Docket, Filed, Judge, Table};
use tandem::model::{
    Cursor, Epoch, FrameBuilder, Hlc, InstanceId, Mark, Offset, Owes, Seen, SiteId, Tags,
};

/// Records of each side in one turn: what is read at once under load.
const TURN: u64 = 256;
/// How many turns a record is under way: at 50,000 records a second, a round trip of 100 ms.
const UNSEEN: u64 = 20;
/// Turns that are measured, unless another number is given.
const TURNS: u64 = 8_000;
/// Keys of each side.
const KEYS: u64 = 50_000;

fn main() -> Result<()> {
    let turns = std::env::args().find_map(|arg| arg.parse().ok());
    let turns = turns.unwrap_or(TURNS);
    let (a, b) = (SiteId::try_new("a")?, SiteId::try_new("b")?);
    let (table, docket, catalog) = (
        Arc::new(Table::new(1 << 19)),
        Docket::default(),
        Catalog::default(),
    );
    let dockets = [(b.clone(), docket.clone())].into();
    let claims = Claims::new(&a, std::slice::from_ref(&b));
    let tables = (Arc::clone(&table), Arc::default());
    let mut judge = Judge::new(a.clone(), tables, catalog.clone(), (&dockets, claims));
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (mut own, mut theirs) = (0, 0);
    for turn in 0..turns {
        let first = turn * TURN;
        let commands: Vec<_> = (first..first + TURN).map(|n| command("a", n)).collect();
        let start = Instant::now();
        let mut effects = Effects::default();
        for (place, command) in (first + 1..).zip(&commands) {
            for_each_in(command, 0, |command, db| {
                effects.add(&catalog, command, db, |_, _| true);
            })?;
            judge.on_own(&mut effects, at(place), Hlc(place));
        }
        judge.note();
        judge.forget(at(first.saturating_sub(UNSEEN * TURN)), |_| Cursor::ZERO);
        own += start.elapsed().as_nanos();
        let (frame, end) = frame(&a, first);
        let filed = Filed::Records {
            epoch: Epoch(1),
            start: Offset(first),
            body: frame.into(),
        };
        let start = Instant::now();
        runtime.block_on(docket.file(filed));
        judge.on_echo(
            &b,
            &mark(turn, end),
            Vec::new(),
            (InstanceId::new(1), 0),
            at(first),
        );
        let found = judge.take();
        theirs += start.elapsed().as_nanos();
        anyhow::ensure!(found.found.is_empty(), "a conflict");
    }
    let records = u128::from(turns * TURN);
    let nanos = |all: u128| u32::try_from(all * 100 / records).map(|n| f64::from(n) / 100.0);
    println!(
        "in the table: {} writes that the peer has not seen",
        table.len()
    );
    println!("a record of ours, into the table:   {:.0} ns", nanos(own)?);
    println!(
        "a record of the peer's, judged:     {:.0} ns",
        nanos(theirs)?
    );
    Ok(())
}

fn at(offset: u64) -> Cursor {
    Cursor {
        epoch: Epoch(1),
        offset: Offset(offset),
    }
}

fn command(site: &str, number: u64) -> Vec<u8> {
    let key = format!("{site}:{:012}", number * 7919 % KEYS);
    format!(
        "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n$64\r\n{number:064}\r\n",
        key.len()
    )
    .into_bytes()
}

/// A turn of the peer's records, which have seen what was ours so many turns ago.
fn frame(a: &SiteId, first: u64) -> (Vec<u8>, u64) {
    let mut seen = Seen::default();
    seen.advance(a, at(first.saturating_sub(UNSEEN * TURN)));
    let seen = Arc::new(seen);
    let mut frame = FrameBuilder::new(Offset(first));
    for number in first..first + TURN {
        let tags = Tags {
            offset: Offset(number + 1),
            hlc: Hlc(number),
            db: 0,
            seen: &seen,
            causes: &seen,
            count: 1,
        };
        frame.push(tags, &command("b", number));
    }
    (frame.finish(), first + TURN)
}

fn mark(batch: u64, end: u64) -> Mark {
    Mark {
        instance: InstanceId::new(1),
        batch,
        at: at(end),
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
