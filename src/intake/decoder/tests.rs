//! Streams, and what they mean.

use bytes::Bytes;

use super::*;
use crate::command::{Effects, ScanError, for_each_in};
use crate::model::{Cursor, Epoch, Hlc, InstanceId, Mark, Owes, Seen};
use crate::redis::put_command;

/// The stream of these commands.
fn stream(lines: &[&str]) -> Vec<u8> {
    let mut stream = Vec::new();
    for line in lines {
        // The value of a mark has spaces: it stands behind a bar.
        let (words, value) = line.split_once('|').unwrap_or((line, ""));
        let words = words.split_whitespace().map(str::as_bytes);
        let value = Some(value.as_bytes()).filter(|v| !v.is_empty());
        put_command(&mut stream, &words.chain(value).collect::<Vec<_>>());
    }
    stream
}

/// The events of a stream that arrives in pieces, each with where it ends, and the decoder behind it.
fn events_of<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<(Event, Offset)>, Decoder) {
    let mut decoder = Decoder::new(Offset(0), 0, Catalog::default(), Filter::default());
    let (mut buffer, mut events) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while let Some(event) = decoder.next(&mut buffer, 0).unwrap() {
            events.push((event, decoder.offset()));
        }
    }
    assert!(buffer.is_empty(), "all of it is read");
    (events, decoder)
}

/// The events of a stream that arrives byte by byte, and the decoder behind it.
fn events(lines: &[&str]) -> (Vec<Event>, Decoder) {
    let (events, decoder) = events_of(stream(lines).chunks(1));
    (
        events.into_iter().map(|(event, _)| event).collect(),
        decoder,
    )
}

#[test]
fn the_events_are_the_same_however_the_stream_is_cut() {
    let mark = mark();
    let lines = [
        "SET a 1",
        "PING",
        "MULTI",
        "SET own 1",
        &mark,
        "SET b 2",
        "DEL c",
        "EXEC",
        "SELECT 3",
        "REPLCONF GETACK *",
        "SET d 4",
        "SWAPDB 0 3",
        "PING",
    ];
    // Bare newlines stand between commands, and do not count.
    let commands = lines.map(|line| [&stream(&[line])[..], b"\n\n"].concat());
    let (stream, counted) = (commands.concat(), stream(&lines).len());
    let (expected, decoder) = events_of(stream.chunks(1));
    let read = decoder.offset().0;
    assert_eq!((expected.len(), read), (7, counted as u64));
    for size in [2, 3, 7, 50, 100, 1000, stream.len()] {
        let (found, cut) = events_of(stream.chunks(size));
        assert_eq!(found, expected, "{size}");
        assert_eq!(cut.boundary(), decoder.boundary(), "{size}");
    }
}

#[test]
fn what_stands_behind_an_event_is_left() {
    let (first, second) = (stream(&["PING", "SET a 1"]), stream(&["PING", "SET b 2"]));
    let mut buffer = BytesMut::from(&[&first[..], &second, b"*1\r\n$4\r\nPI"].concat()[..]);
    let mut decoder = Decoder::new(Offset(0), 0, Catalog::default(), Filter::default());
    for left in [&second[..], b""] {
        let event = decoder.next(&mut buffer, 0).unwrap();
        assert!(matches!(event, Some(Event::Write(_))));
        assert_eq!(buffer, [left, b"*1\r\n$4\r\nPI"].concat()[..]);
    }
    assert_eq!(decoder.next(&mut buffer, 0), Ok(None));
    buffer.extend_from_slice(b"NG\r\n!");
    let wrong = decoder.next(&mut buffer, 0);
    assert_eq!(wrong, Err(DecodeError::Scan(ScanError::NoCommand(b'!'))));
    assert_eq!(buffer, b"!"[..], "what was read before it is gone");
    assert_eq!(
        decoder.boundary().0.0,
        (first.len() + second.len() + 14) as u64
    );
}

#[test]
fn what_was_evicted_does_not_travel() {
    let lines = ["SET a 1", "DEL a", "DEL b", "DEL tandem:self"];
    let mut buffer = BytesMut::new();
    let mut ends = Vec::new();
    for line in lines {
        let mut raw = Vec::new();
        put_command(
            &mut raw,
            &line.split(' ').map(str::as_bytes).collect::<Vec<_>>(),
        );
        buffer.extend_from_slice(&raw);
        ends.push(Offset(buffer.len() as u64));
    }
    let mut decoder = Decoder::new(Offset(0), 0, Catalog::default(), Filter::default());
    decoder.expect_evictions([ends[1], ends[3]]);
    let mut events = Vec::new();
    while let Some(event) = decoder.next(&mut buffer, 0).unwrap() {
        events.push(event);
    }
    let key = (0, Bytes::from_static(b"a"));
    assert_eq!(events[1], Event::Evicted(key));
    assert!(matches!(events[2], Event::Write(_)), "a client's");
    assert_eq!(events[3], Event::MarksRemoved { strays: None });
    assert_eq!((events.len(), decoder.boundary().0), (4, ends[3]));
}

/// What travels, a transaction a line.
fn writes(lines: &[&str]) -> Vec<String> {
    let (events, _) = events(lines);
    let writes = events.into_iter().filter_map(|event| match event {
        Event::Write(write) => {
            let mut words = vec![write.db.to_string()];
            for_each_in(&write.commands, write.db, |command, _| {
                words.extend(command.args(0).map(|a| String::from_utf8_lossy(a).into()));
            })
            .unwrap();
            Some(words.join(" "))
        }
        _ => None,
    });
    writes.collect()
}

fn mark() -> String {
    let mark = Mark {
        instance: InstanceId::new(7),
        batch: 1,
        at: Cursor {
            epoch: Epoch(1),
            offset: Offset(9),
        },
        hlc: Hlc(0),
        low: Cursor::ZERO,
        base: Epoch(1),
        home: Epoch(1),
        owes: Owes::Nothing,
        entire: false,
        copy: None,
        part: None,
        seen: Seen::default(),
    };
    format!("SET tandem:from:b |{mark}")
}

#[test]
fn a_transaction_is_one_write_in_the_database_where_it_begins() {
    let lines = [
        "SELECT 3", "MULTI", "SET a 1", "SELECT 0", "SET b 2", "EXEC",
    ];
    assert_eq!(writes(&lines), ["3 SET a 1 SELECT 0 SET b 2"]);
    assert_eq!(writes(&["MULTI", "EXEC", "SET a 1"]), ["0 SET a 1"]);
}

#[test]
fn an_exec_of_its_own_ends_nothing() {
    let lines = ["PFCOUNT p", "EXEC", "SET a 1", "MULTI", "SET b 2", "EXEC"];
    assert_eq!(writes(&lines), ["0 PFCOUNT p", "0 SET a 1", "0 SET b 2"]);
    let (_, decoder) = events(&lines);
    assert_eq!(decoder.boundary().0, decoder.offset());
}

#[test]
fn what_stands_behind_a_mark_is_an_echo_and_what_stands_before_it_is_not() {
    let mark = mark();
    let lines = [
        "MULTI",
        "SET own 1",
        &mark,
        "SET theirs 2",
        "EXEC",
        "SET c 3",
    ];
    assert_eq!(writes(&lines), ["0 SET own 1", "0 SET c 3"]);
    // Redis from 7.0 drops MULTI and EXEC when nothing else had an effect.
    assert_eq!(writes(&[&mark, "SET c 3"]), ["0 SET c 3"]);
    let (events, _) = events(&[&mark]);
    assert!(matches!(&events[..], [Event::Echo { origin, .. }] if origin.as_str() == "b"));
    // What the applier found deleted is this site's own, wherever it is told.
    let gone = [
        "SELECT 3",
        "SET tandem:gone |\u{1}x\u{2}yz",
        "DEL tandem:gone",
    ];
    let lines = [&["MULTI", &mark][..], &gone, &["SELECT 0", "EXEC"]].concat();
    assert_eq!(writes(&lines), ["3 DEL x DEL yz SELECT 0"]);
    assert_eq!(writes(&gone), Vec::<String>::new(), "a client's is not");
}

#[test]
fn what_is_noted_is_what_the_commands_that_travel_do() {
    let lines = "SET a 1 EX 5; GETSET a 1; MSETEX 2 a 1 b 2 EX 9; RENAMENX a b; GETDEL a; \
        HGETDEL h FIELDS 1 f; ZADD z INCR 1 m; XADD x IDMPAUTO p * f v; COPY a b DB 3; \
        SORT a STORE d; DEL a tandem:x b; SET tandem:x y; SELECT 4; MOVE a 1; MULTI; SET a 1; \
        SELECT 5; SUNIONSTORE d e f; EXEC; FLUSHDB; PUBLISH c m; HSET h f v; NEW.COMMAND k; \
        SET z 1; MULTI; SET own 1; MARK; SET theirs 1; EXEC";
    let lines = lines.replace("MARK", &mark());
    let lines: Vec<&str> = lines.split("; ").collect();
    let (events, _) = events(&lines);
    let mut writes = 0;
    for event in &events {
        let Event::Write(write) = event else { continue };
        let mut effects = Effects::default();
        for_each_in(&write.commands, write.db, |command, db| {
            effects.add(&Catalog::default(), command, db, |_, _| true);
        })
        .unwrap();
        assert_eq!(write.effects, effects);
        writes += 1;
    }
    assert!(writes > 15);
}

#[test]
fn a_place_within_a_transaction_is_not_one_to_resume_from() {
    let (_, decoder) = events(&["SET a 1", "MULTI", "SET b 2"]);
    let (_, before) = events(&["SET a 1"]);
    assert_eq!(decoder.boundary(), before.boundary());
    assert!(decoder.offset() > decoder.boundary().0);
}
