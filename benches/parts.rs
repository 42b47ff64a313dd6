//! What the parts of the data path cost by themselves, one command, record or key at a time: in
//! instructions, allocations and bytes, which are the same whatever else the machine does.
//!
//! `cargo bench --bench parts` prints them; `-- --check` fails when one is beyond its limit, which
//! is how `make costs` and CI see that something has become dearer. Instructions are counted by
//! valgrind, in a second run of this program; where it is not installed they are left out.

#![expect(clippy::print_stdout, reason = "a program whose product is its output")]

use std::collections::BTreeMap;
use std::io::Cursor as Input;
use std::process::Command as Process;
use std::sync::Arc;

use allocation_counter::measure;
use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use clap::Parser;
use tandem::apply::{Batch, Debts, Target};
use tandem::command::scanner::Scanner;
use tandem::command::{Catalog, Dialect, Effects, for_each_in};
use tandem::config::{Flush, Publish};
use tandem::converge::{Claims, Docket, Filed, Judge, Table};
use tandem::intake::decoder::Decoder;
use tandem::intake::event::Event;
use tandem::intake::filter::Filter;
use tandem::model::{
    BatchReader, Cursor, Epoch, FrameBuilder, Hlc, InstanceId, Mark, Offset, RecordRef, Seen,
    SiteId, Tags, mark_key,
};
use tandem::rdb::Reader;
use tandem::redis::{Info, ReplyScanner, put_command};

/// What is read at once under load.
const TURN: u64 = 256;
/// How often each part is run before it is measured: then its memory is there.
const WARM: u64 = 40;
/// The same, while it is measured.
const TURNS: u64 = 40;

/// Measures the parts of the data path.
#[derive(Debug, Parser)]
struct Args {
    /// Fails when something is beyond its limit.
    #[arg(long)]
    check: bool,
    /// Runs this part so often, and prints nothing: for whoever counts instructions.
    #[arg(long, num_args = 2, value_names = ["PART", "TURNS"])]
    run: Vec<String>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Does something [`TURN`] times.
type Turn = Box<dyn FnMut()>;

/// A part, and what one of what it works on may cost.
struct Part {
    name: &'static str,
    make: fn() -> Result<Turn>,
    /// The most allocations of a thousand.
    allocations: u64,
    /// The most bytes that are allocated for one.
    bytes: u64,
    /// The most instructions of one.
    instructions: u64,
}

/// The limits of instructions are a fifth above what was measured.
const PARTS: &[Part] = &[
    Part {
        name: "scanner",
        make: scanner,
        allocations: 0,
        bytes: 0,
        instructions: 300,
    },
    Part {
        name: "decoder",
        make: decoder,
        allocations: 0,
        bytes: 0,
        instructions: 1340,
    },
    Part {
        name: "echo",
        make: echo,
        allocations: 40,
        bytes: 10,
        instructions: 600,
    },
    Part {
        name: "table",
        make: table,
        allocations: 5,
        bytes: 1,
        instructions: 1050,
    },
    Part {
        name: "frame",
        make: frame,
        allocations: 5,
        bytes: 1,
        instructions: 270,
    },
    Part {
        name: "records",
        make: records,
        allocations: 5,
        bytes: 1,
        instructions: 210,
    },
    Part {
        name: "batch",
        make: batch,
        allocations: 20,
        bytes: 130,
        instructions: 690,
    },
    Part {
        name: "judge",
        make: judge,
        allocations: 20,
        bytes: 10,
        instructions: 280,
    },
    Part {
        name: "replies",
        make: replies,
        allocations: 5,
        bytes: 50,
        instructions: 280,
    },
    Part {
        name: "rdb",
        make: rdb,
        allocations: 15,
        bytes: 700,
        instructions: 1950,
    },
];

fn main() -> Result<()> {
    let args = Args::parse();
    if let [name, turns] = &args.run[..] {
        let part = PARTS.iter().find(|part| part.name == name);
        let mut turn = (part.context("no such part")?.make)()?;
        (0..turns.parse()?).for_each(|_| turn());
        return Ok(());
    }
    println!("part       allocations of 1000   bytes of one   instructions of one");
    let mut beyond = Vec::new();
    for part in PARTS {
        let mut turn = (part.make)()?;
        (0..WARM).for_each(|_| turn());
        let counted = measure(|| (0..TURNS).for_each(|_| turn()));
        let allocations = counted.count_total * 1000 / (TURNS * TURN);
        let bytes = counted.bytes_total / (TURNS * TURN);
        let instructions = instructions(part.name)?;
        let told = instructions.map_or_else(|| "no valgrind".to_owned(), |n| n.to_string());
        println!("{:10} {allocations:19} {bytes:14} {told:>21}", part.name);
        if allocations > part.allocations
            || bytes > part.bytes
            || instructions.is_some_and(|n| n > part.instructions)
        {
            beyond.push(part.name);
        }
    }
    ensure!(
        !args.check || beyond.is_empty(),
        "dearer than benches/parts.rs allows: {}",
        beyond.join(", ")
    );
    Ok(())
}

/// The instructions of one: those of two runs, the one longer than the other, and no more.
fn instructions(part: &str) -> Result<Option<u64>> {
    let (Some(less), Some(more)) = (run(part, WARM)?, run(part, WARM + TURNS)?) else {
        return Ok(None);
    };
    Ok(Some(more.saturating_sub(less) / (TURNS * TURN)))
}

/// The instructions of a run of this program; none where nobody counts them.
fn run(part: &str, turns: u64) -> Result<Option<u64>> {
    let counted = Process::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["--run", part, &turns.to_string()])
        .output();
    let Ok(counted) = counted else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&counted.stderr);
    let told = text.lines().find_map(|l| l.split("Collected :").nth(1));
    Ok(told.and_then(|number| number.trim().parse().ok()))
}

/// A piece of stream is cut into commands.
fn scanner() -> Result<Turn> {
    let (bytes, mut scanner, mut found) = (stream(0), Scanner::default(), 0);
    Ok(Box::new(move || {
        let scanned = scanner.for_each(&bytes, |command| found += command.len());
        assert!(scanned.is_ok() && found > 0, "it is a stream");
    }))
}

/// A piece of stream becomes writes.
fn decoder() -> Result<Turn> {
    let catalog = Catalog::default();
    let mut decoder = Decoder::new(Offset(0), 0, catalog, Filter::default());
    let (bytes, mut buffer) = (stream(0), BytesMut::new());
    Ok(Box::new(move || {
        buffer.extend_from_slice(&bytes);
        let mut count = 0;
        while let Ok(Some(event)) = decoder.next(&mut buffer, 0) {
            if let Event::Write(write) = event {
                decoder.reuse(write);
                count += 1;
            }
        }
        assert_eq!(count, TURN, "each is a write");
    }))
}

/// Writes of a peer come back in a marked transaction.
fn echo() -> Result<Turn> {
    let key = mark_key(&SiteId::try_new("b")?);
    let mark = format!("1 i=7 n=1 at=1/{TURN} hlc={TURN} low=1/1 base=1 home=1 owes=0 seen=a:1/1");
    Mark::parse(mark.as_bytes())?;
    let mut bytes = Vec::new();
    put_command(&mut bytes, &[b"MULTI"]);
    put_command(&mut bytes, &[b"SET", key.as_bytes(), mark.as_bytes()]);
    bytes.extend_from_slice(&stream(0));
    put_command(&mut bytes, &[b"EXEC"]);
    let catalog = Catalog::default();
    let mut decoder = Decoder::new(Offset(0), 0, catalog, Filter::default());
    let mut buffer = BytesMut::new();
    Ok(Box::new(move || {
        buffer.extend_from_slice(&bytes);
        let event = decoder.next(&mut buffer, 0);
        let is_echo = matches!(event, Ok(Some(Event::Echo { .. })));
        assert!(is_echo && buffer.is_empty(), "it is one echo");
    }))
}

/// Writes of ours go into the table, and are forgotten when the peer has seen them.
fn table() -> Result<Turn> {
    let catalog = Catalog::default();
    let table = Arc::new(Table::new(1 << 19));
    let (a, b) = (SiteId::try_new("a")?, SiteId::try_new("b")?);
    let claims = Claims::new(&a, std::slice::from_ref(&b));
    let dockets = BTreeMap::from([(b, Docket::default())]);
    let tables = (table, Arc::default());
    let mut judge = Judge::new(a, tables, catalog.clone(), (&dockets, claims));
    let turns: Vec<_> = (0..64).map(|turn| stream(turn * TURN)).collect();
    let (mut effects, mut place, mut turn) = (Effects::default(), 0, 0);
    Ok(Box::new(move || {
        let bytes = turns.get(turn % turns.len()).map_or(&[][..], |b| b);
        turn += 1;
        let scanned = for_each_in(bytes, 0, |command, db| {
            effects.add(&catalog, command, db, |_, _| true);
            place += 1;
            judge.on_own(&mut effects, at(place), Hlc(place));
        });
        assert!(scanned.is_ok(), "it is a stream");
        judge.note();
        judge.forget(at(place.saturating_sub(10 * TURN)), |_| Cursor::ZERO);
    }))
}

/// Records are put into a frame, as it goes into the journal and to the peer.
fn frame() -> Result<Turn> {
    let (commands, seen) = (command(7), Arc::new(Seen::default()));
    let (mut frame, mut place) = (FrameBuilder::new(Offset(0)), 0);
    Ok(Box::new(move || {
        frame.begin(Offset(place));
        for _ in 0..TURN {
            place += 110;
            frame.push(tags(place, &seen), &commands);
        }
    }))
}

/// Records are read from a frame.
fn records() -> Result<Turn> {
    let (commands, seen) = (command(7), Arc::new(Seen::default()));
    let mut frame = FrameBuilder::new(Offset(0));
    (1..=TURN).for_each(|n| frame.push(tags(n * 110, &seen), &commands));
    let body = Bytes::from(frame.finish());
    Ok(Box::new(move || {
        let mut reader = BatchReader::new(Offset(0), body.clone());
        let mut count = 0;
        while let Ok(Some(_)) = reader.next_record() {
            count += 1;
        }
        assert_eq!(count, TURN, "each can be read");
    }))
}

/// Records are put into a transaction.
fn batch() -> Result<Turn> {
    let (a, b) = (SiteId::try_new("a")?, SiteId::try_new("b")?);
    let target = Target {
        dialect: Dialect::of(&Info::parse("redis_version:8.0.0\r\n")),
        catalog: Catalog::default(),
        flush: Flush::Forward,
        publish: Publish::Forward,
        debts: Debts::new(&b, &Claims::new(&a, std::slice::from_ref(&b))),
        disputes: false,
        site: a.clone(),
        table: Arc::new(Table::new(1 << 19)),
        peer: b,
        foreign: Arc::default(),
    };
    let mut seen = Seen::default();
    seen.advance(&a, at(1));
    let seen = Arc::new(seen);
    let records: Vec<_> = (1..=TURN).map(|n| (n * 110, command(n))).collect();
    let bytes = records.iter().map(|(_, commands)| commands.len()).sum();
    Ok(Box::new(move || {
        let mut batch = Batch::new(target.clone());
        batch.reserve(bytes);
        for (offset, commands) in &records {
            let tags = tags(*offset, &seen);
            let pushed = batch.push(RecordRef { tags, commands });
            assert!(pushed.is_ok(), "it can be read");
        }
        assert_eq!(u64::from(batch.records()), TURN, "each is in it");
    }))
}

/// Records come back whose writer had seen all that was written here, and are judged.
fn judge() -> Result<Turn> {
    let (a, b) = (SiteId::try_new("a")?, SiteId::try_new("b")?);
    let (docket, claims) = (Docket::default(), Claims::new(&a, std::slice::from_ref(&b)));
    let dockets = BTreeMap::from([(b.clone(), docket.clone())]);
    let tables = (Arc::new(Table::new(1 << 19)), Arc::default());
    let mut judge = Judge::new(a, tables, Catalog::default(), (&dockets, claims));
    let seen = Arc::new(Seen::default());
    let frame = |first| {
        let mut frame = FrameBuilder::new(Offset(first));
        (first..first + TURN).for_each(|n| frame.push(tags(n + 1, &seen), &command(n)));
        (first, Bytes::from(frame.finish()))
    };
    // Records are judged once: each turn has its own.
    let frames = (0..WARM + TURNS).map(|turn| frame(turn * TURN));
    let mut frames = frames.collect::<Vec<_>>().into_iter();
    let mut mark = Mark::parse(b"1 i=7 n=1 at=1/0 hlc=0 low=1/0 base=1 home=1 owes=0 seen=a:1/0")?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    Ok(Box::new(move || {
        let (first, body) = frames.next().unwrap_or_default();
        let (epoch, start) = (Epoch(1), Offset(first));
        runtime.block_on(docket.file(Filed::Records { epoch, start, body }));
        mark.at = at(first + TURN);
        let here = (InstanceId::new(7), 0);
        judge.on_echo(&b, &mark, Vec::new(), here, at(first));
        let found = judge.take();
        assert!(found.found.is_empty(), "it is no conflict");
        assert_eq!(judge.judged().of(&b), mark.at, "all are judged");
    }))
}

/// The server answers a transaction.
fn replies() -> Result<Turn> {
    let count = usize::try_from(TURN)?;
    let mut bytes = b"+QUEUED\r\n".repeat(count);
    bytes.extend_from_slice(format!("*{TURN}\r\n").as_bytes());
    bytes.extend_from_slice(&b"+OK\r\n".repeat(count));
    let (mut scanner, mut buffer) = (ReplyScanner::default(), BytesMut::new());
    Ok(Box::new(move || {
        buffer.extend_from_slice(&bytes);
        let queued = scanner.take_queued(&mut buffer, count);
        let executed = scanner.take(&mut buffer).ok().flatten();
        let executed = executed.map_or(0, |reply| reply.array().len());
        assert_eq!(queued + executed, 2 * count, "all are replies");
    }))
}

/// A snapshot of small strings is read.
fn rdb() -> Result<Turn> {
    let mut bytes = b"REDIS0009".to_vec();
    for number in 0..TURN {
        bytes.push(0);
        for text in [format!("k{number:011}"), format!("{number:064}")] {
            // Less than 128 bytes: two bits that say how the length is told, and it, in two bytes.
            bytes.extend_from_slice(&[0x40, u8::try_from(text.len())?]);
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    // The end, without a checksum.
    bytes.push(0xff);
    bytes.extend_from_slice(&[0; 8]);
    Ok(Box::new(move || {
        let mut count = 0;
        if let Ok(mut reader) = Reader::try_new(Input::new(&bytes)) {
            while let Ok(Some(_)) = reader.next_entry() {
                count += 1;
            }
        }
        assert_eq!(count, TURN, "each is a key");
    }))
}

/// So many writes, as Redis streams them.
fn stream(first: u64) -> Vec<u8> {
    (first..first + TURN).flat_map(command).collect()
}

fn command(number: u64) -> Vec<u8> {
    let key = format!("k{number:011}");
    format!("*3\r\n$3\r\nSET\r\n$12\r\n{key}\r\n$64\r\n{number:064}\r\n").into_bytes()
}

const fn tags(offset: u64, seen: &Arc<Seen>) -> Tags<'_> {
    Tags {
        offset: Offset(offset),
        hlc: Hlc(offset),
        db: 0,
        seen,
        causes: seen,
        count: 1,
    }
}

const fn at(offset: u64) -> Cursor {
    Cursor {
        epoch: Epoch(1),
        offset: Offset(offset),
    }
}
