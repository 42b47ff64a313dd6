//! The status as text for a terminal.

use std::fmt::Write as _;

use crate::status::{PeerState, PeerStatus, Status};

/// What `tandem status` prints.
#[must_use]
pub fn render(status: &Status) -> String {
    let mut lines = vec![
        format!(
            "{}  tandem {}, up {}, {}",
            status.site,
            status.version,
            duration(status.uptime_seconds),
            if status.settled {
                "settled"
            } else {
                "not settled"
            },
        ),
        String::new(),
    ];
    if let Some(holder) = &status.standby_for {
        lines.push(format!(
            "standing by: {holder} works for this site; takes over when it is gone"
        ));
        lines.push(String::new());
    }
    lines.extend(redis_and_journal(status));
    lines.push(String::new());
    lines.extend(table(&status.peers));
    let notes: Vec<_> = status.peers.iter().flat_map(notes).collect();
    if !notes.is_empty() {
        lines.push(String::new());
        lines.extend(notes);
    }
    let mut text = String::new();
    for line in lines {
        // Errors can repeat what a server said: nothing of it may steer the terminal.
        text.extend(line.trim_end().chars().filter(|c| !c.is_control()));
        text.push('\n');
    }
    text
}

fn redis_and_journal(status: &Status) -> Vec<String> {
    let redis = &status.redis;
    let state = match (redis.usable, redis.connected) {
        (true, true) => "up, stream connected",
        (true, false) => "up, stream not connected",
        (false, _) => "not usable",
    };
    let server = if redis.version.is_empty() {
        String::new()
    } else {
        format!("  {} {}", redis.version, redis.role)
    };
    let journal = &status.journal;
    let mut lines = vec![
        format!("redis    {}  {state}{server}", known(&redis.address)),
        format!(
            "         epoch {}, offset {}, {} full and {} partial resyncs",
            redis.epoch, redis.offset, redis.resyncs_full, redis.resyncs_partial
        ),
    ];
    lines.extend(redis.error.iter().map(|e| format!("         error: {e}")));
    if let Some(evictions) = &redis.evictions {
        let told = match evictions.told {
            true => "told from deletes",
            false => "not told from deletes",
        };
        lines.push(format!(
            "         evictions {told}: {} kept local, {} deletes in doubt",
            evictions.kept, evictions.in_doubt
        ));
        let error = evictions.error.iter();
        lines.extend(error.map(|e| format!("         error: {e}")));
    }
    lines.push(format!(
        "journal  {} of {}, from {} to {}",
        bytes(journal.bytes),
        bytes(journal.max_bytes),
        known(&journal.first),
        known(&journal.end)
    ));
    let errors = journal.error.iter().chain(&journal.sync_error);
    lines.extend(errors.map(|e| format!("         error: {e}")));
    let warning = journal.warning.iter();
    lines.extend(warning.map(|w| format!("         warning: {w}")));
    lines
}

const COLUMNS: [&str; 9] = [
    "PEER",
    "STATE",
    "SETTLED",
    "LAG",
    "ROUND TRIP",
    "SENT",
    "APPLIED",
    "OWED",
    "FAILED",
];

fn table(peers: &[PeerStatus]) -> Vec<String> {
    let row = |peer: &PeerStatus| {
        let round_trip = peer.round_trip_seconds.map(duration);
        [
            peer.site.clone(),
            state(peer.state).to_owned(),
            if peer.settled { "yes" } else { "no" }.to_owned(),
            format!("{}, {}", bytes(peer.lag_bytes), duration(peer.lag_seconds)),
            round_trip.unwrap_or_else(|| "-".to_owned()),
            peer.records_sent.to_string(),
            peer.records_applied.to_string(),
            peer.states_owed.to_string(),
            peer.failed_commands.to_string(),
        ]
    };
    let head = COLUMNS.map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(peers.iter().map(row)).collect();
    let mut widths = [0; COLUMNS.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; COLUMNS.len()]| {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a String cannot fail.
            write!(line, "{cell:width$}  ").ok();
        }
        line
    };
    rows.iter().map(line).collect()
}

/// What does not fit into the table: stops, errors, waits, copies.
fn notes(peer: &PeerStatus) -> Vec<String> {
    let site = &peer.site;
    let mut notes = Vec::new();
    if let Some(stop) = &peer.stop {
        notes.push(format!("{site} is stopped: {}", stop.reason));
        notes.push(format!("  {}", stop.detail));
        notes.push(format!("  remedy: {}", stop.remedy));
    }
    let copies = peer.sending.iter().chain(&peer.receiving);
    notes.extend(copies.map(|copy| format!("{site}: {} a copy, {copy}", copy.direction)));
    let copied = &peer.copied;
    if *copied != Default::default() {
        notes.push(format!(
            "{site}: copied from it: {} created, {} overwritten, {} kept, {} refused and asked again",
            copied.created, copied.overwritten, copied.kept, copied.refused
        ));
        if copied.returned > 0 {
            notes.push(format!(
                "{site}: {} of them may have been deleted here while nobody read",
                copied.returned
            ));
        }
        if copied.deleted > 0 {
            notes.push(format!(
                "{site}: {} more were deleted here while nobody read, and are deleted there too",
                copied.deleted
            ));
        }
    }
    let conflicts = &peer.conflicts;
    if conflicts.total() > 0 || conflicts.asked > 0 {
        notes.push(format!(
            "{site}: {} conflicts found; {} states asked of it, {} sent to it",
            conflicts.total(),
            conflicts.asked,
            conflicts.sent
        ));
    }
    if peer.unheld > 0 {
        notes.push(format!(
            "{site}: the Redis here cannot hold {} of its commands and values; left out",
            peer.unheld
        ));
    }
    let waiting = peer.waiting.iter();
    notes.extend(waiting.map(|reason| format!("{site}: applying its writes waits: {reason}")));
    if let Some(seconds) = peer.clock_ahead_seconds {
        let ahead = duration(seconds);
        notes.push(format!(
            "{site}: its clock is, or was, {ahead} ahead of the one here; set the clocks right"
        ));
    }
    let error = peer.error.iter();
    notes.extend(error.map(|error| format!("{site}: last error: {error}")));
    notes
}

const fn state(state: PeerState) -> &'static str {
    match state {
        PeerState::Connecting => "connecting",
        PeerState::FullSync => "full sync",
        PeerState::Synchronizing => "synchronizing",
        PeerState::Stopped => "stopped",
    }
}

fn known(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 4] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ];
    match UNITS.iter().find(|(_, unit)| count >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", count as f64 / *unit as f64),
        None => format!("{count} B"),
    }
}

fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).floor();
    let hours = (minutes / 60.0).floor();
    if seconds == 0.0 {
        "0 s".to_owned()
    } else if seconds < 1.0 {
        format!("{:.1} ms", seconds * 1000.0)
    } else if minutes < 2.0 {
        format!("{seconds:.1} s")
    } else if hours < 1.0 {
        format!("{minutes} min")
    } else if hours < 48.0 {
        format!("{hours} h {} min", minutes % 60.0)
    } else {
        format!("{} d {} h", (hours / 24.0).floor(), hours % 24.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{CopyCounts, JournalStatus, RedisStatus, Stop};

    fn status() -> Status {
        let redis = RedisStatus {
            address: "127.0.0.1:6379".to_owned(),
            connected: true,
            usable: true,
            version: "7.0.15".to_owned(),
            role: "master".to_owned(),
            epoch: 3,
            offset: 1_234_567,
            resyncs_full: 1,
            ..Default::default()
        };
        let journal = JournalStatus {
            first: "3/100".to_owned(),
            end: "3/1234567".to_owned(),
            bytes: 1_258_291,
            max_bytes: 10 << 30,
            ..Default::default()
        };
        let singapore = PeerStatus {
            site: "singapore".to_owned(),
            state: PeerState::Synchronizing,
            round_trip_seconds: Some(0.0312),
            records_sent: 10_240,
            records_applied: 77,
            copied: CopyCounts {
                created: 12,
                ..Default::default()
            },
            settled: true,
            ..Default::default()
        };
        let oslo = PeerStatus {
            site: "oslo".to_owned(),
            state: PeerState::Stopped,
            stop: Some(Stop {
                reason: "both_have_data".to_owned(),
                detail: "oslo holds 12 keys and this site 7".to_owned(),
                remedy: "choose with existing in [sync]".to_owned(),
            }),
            error: Some("closed\u{1b}[31m by peer".to_owned()),
            receiving: Some(crate::status::CopyStatus {
                direction: "receiving".to_owned(),
                keys_done: 5,
                bytes_done: 1 << 20,
                bytes_total: 4 << 20,
                percent: 25.0,
                bytes_per_second: 1_572_864.0,
                seconds_left: Some(2.0),
                ..Default::default()
            }),
            waiting: Some("OOM".to_owned()),
            lag_bytes: 1_468_006,
            lag_seconds: 63.04,
            states_owed: 2,
            ..Default::default()
        };
        Status {
            site: "hangzhou".to_owned(),
            instance: "0".to_owned(),
            version: "0.1.0".to_owned(),
            uptime_seconds: 7_391.0,
            standby_for: None,
            settled: false,
            redis,
            journal,
            peers: vec![singapore, oslo],
        }
    }

    #[test]
    fn a_person_can_read_it() {
        let expected = "\
hangzhou  tandem 0.1.0, up 2 h 3 min, not settled

redis    127.0.0.1:6379  up, stream connected  7.0.15 master
         epoch 3, offset 1234567, 1 full and 0 partial resyncs
journal  1.2 MiB of 10.0 GiB, from 3/100 to 3/1234567

PEER       STATE          SETTLED  LAG              ROUND TRIP  SENT   APPLIED  OWED  FAILED
singapore  synchronizing  yes      0 B, 0 s         31.2 ms     10240  77       0     0
oslo       stopped        no       1.4 MiB, 63.0 s  -           0      0        2     0

singapore: copied from it: 12 created, 0 overwritten, 0 kept, 0 refused and asked again
oslo is stopped: both_have_data
  oslo holds 12 keys and this site 7
  remedy: choose with existing in [sync]
oslo: receiving a copy, 25 %: 5 keys, 1.0 MiB of 4.0 MiB, 1.5 MiB/s, 2 s left
oslo: applying its writes waits: OOM
oslo: last error: closed[31m by peer
";
        assert_eq!(render(&status()), expected);
    }

    #[test]
    fn what_is_wrong_here_is_said_too() {
        let mut status = status();
        status.peers.clear();
        status.redis.usable = false;
        status.redis.version.clear();
        status.redis.error = Some("NOAUTH; set a password".to_owned());
        status.journal = JournalStatus {
            error: Some("No space left on device".to_owned()),
            warning: Some("nearly full".to_owned()),
            ..Default::default()
        };
        let text = render(&status);
        for line in [
            "redis    127.0.0.1:6379  not usable",
            "         error: NOAUTH; set a password",
            "journal  0 B of 0 B, from - to -",
            "         error: No space left on device",
            "         warning: nearly full",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn times_are_short() {
        for (seconds, text) in [
            (0.0, "0 s"),
            (0.0004, "0.4 ms"),
            (1.0, "1.0 s"),
            (119.9, "119.9 s"),
            (120.0, "2 min"),
            (3_600.0, "1 h 0 min"),
            (200_000.0, "2 d 7 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
