//! The table of all metrics.

use super::Values::{Peer, PeerBy, PeerBy2, PeerIfKnown, PeerTimes, Site, SiteBy, SiteIfKnown};
use super::{Row, Values};
use crate::status::{CopyStatus, PeerState, PeerStatus};
use prometheus::proto::MetricType;

pub(super) const ROWS: &[Row] = &[
    gauge(
        "tandem_build_info",
        "1, labelled with the version of this program.",
        SiteBy("version", |s| vec![(s.version.clone(), 1.0)]),
    ),
    gauge(
        "tandem_site_info",
        "1, labelled with the name of this site.",
        SiteBy("site", |s| vec![(s.site.clone(), 1.0)]),
    ),
    gauge(
        "tandem_settled",
        "1 when all that this site has read is applied at every peer. 0 under load is normal; 0 \
         without writes means that a peer is away, stopped or copying: see tandem_peer_state.",
        Site(|s| flag(s.settled)),
    ),
    gauge(
        "tandem_standby",
        "1 while another sidecar of this site works and this one stands by to take over.",
        Site(|s| flag(s.standby_for.is_some())),
    ),
    gauge(
        "tandem_redis_up",
        "1 when the local Redis can be used: reachable, logged in, loaded. When 0, /readyz says \
         why.",
        Site(|s| flag(s.redis.usable)),
    ),
    gauge(
        "tandem_redis_stream_connected",
        "1 while the replication stream of the local Redis is read. While 0, its new writes \
         wait in its backlog; when the backlog overflows, a full resync follows.",
        Site(|s| flag(s.redis.connected)),
    ),
    gauge(
        "tandem_redis_offset_bytes",
        "Offset in the local replication stream up to which it is read and journaled. Standing \
         still under writes means that the stream or the journal is stuck.",
        Site(|s| number(s.redis.offset)),
    ),
    gauge(
        "tandem_redis_epoch",
        "Number of the unbroken history being read. A new one means that history was lost and \
         peers need a full copy.",
        Site(|s| number(s.redis.epoch)),
    ),
    counter(
        "tandem_redis_resyncs_total",
        "Resyncs with the local Redis since the start. Repeated kind=\"full\" means that its \
         repl-backlog-size is too small for the interruptions it has.",
        SiteBy("kind", |s| {
            vec![
                ("full".to_owned(), number(s.redis.resyncs_full)),
                ("partial".to_owned(), number(s.redis.resyncs_partial)),
            ]
        }),
    ),
    counter(
        "tandem_writes_not_selected_total",
        "Writes that touched keys inside and outside of [sync] databases and keys, could not be \
         divided, and did not travel.",
        Site(|s| number(s.redis.writes_not_selected)),
    ),
    gauge(
        "tandem_evictions_told",
        "1 while evictions of the local Redis are told from clients' deletes. Absent unless [sync] \
         evictions is keep_local; while 0, they travel as deletes, and /status says why.",
        SiteIfKnown(|s| s.redis.evictions.as_ref().map(|e| flag(e.told))),
    ),
    counter(
        "tandem_evictions_kept_total",
        "Keys that the local Redis has evicted and that stayed at the other sites.",
        SiteIfKnown(|s| s.redis.evictions.as_ref().map(|e| number(e.kept))),
    ),
    counter(
        "tandem_deletes_in_doubt_total",
        "Deletes that could not be told from evictions, and travelled: clients' are among them. \
         Growth means that the notifications of Redis are not heard.",
        SiteIfKnown(|s| s.redis.evictions.as_ref().map(|e| number(e.in_doubt))),
    ),
    gauge(
        "tandem_journal_bytes",
        "Size of the journal on disk. It grows while a peer is away; at \
         tandem_journal_max_bytes that peer will need a full copy.",
        Site(|s| number(s.journal.bytes)),
    ),
    gauge(
        "tandem_journal_max_bytes",
        "The configured limit of the journal: max_size in [journal].",
        Site(|s| number(s.journal.max_bytes)),
    ),
    gauge(
        "tandem_journal_failed",
        "1 while the journal cannot be written (a full disk, for example): nothing new is sent \
         until it can. /status says why.",
        Site(|s| flag(s.journal.error.is_some() || s.journal.sync_error.is_some())),
    ),
    gauge(
        "tandem_journal_nearly_full",
        "1 while 80 % of the journal is taken by what a peer has not got: /status says what follows \
         and when.",
        Site(|s| flag(s.journal.warning.is_some())),
    ),
    counter(
        "tandem_journal_overflows_total",
        "How often the oldest part of a full journal was dropped although a peer had not got it: that \
         peer needs a copy.",
        Site(|s| number(s.journal.overflows)),
    ),
    gauge(
        "tandem_peer_state",
        "1 for the state of the link, 0 for the others. connecting is retried for ever; stopped \
         needs a person: see tandem_peer_stop and tandem status.",
        PeerBy("state", |p| {
            let states = STATES.iter();
            states
                .map(|(word, state)| ((*word).to_owned(), flag(p.state == *state)))
                .collect()
        }),
    ),
    gauge(
        "tandem_peer_stop",
        "1 while the peer is stopped, labelled with the reason. `tandem status` says what to \
         do.",
        PeerBy("reason", |p| {
            p.stop.iter().map(|s| (s.reason.clone(), 1.0)).collect()
        }),
    ),
    gauge(
        "tandem_peer_settled",
        "1 when all that this site has read is applied at the peer and nothing is under way.",
        Peer(|p| flag(p.settled)),
    ),
    gauge(
        "tandem_peer_waiting",
        "1 while applying the peer's writes here waits for the local Redis (OOM, LOADING, ...). \
         Nothing is skipped; /status says for what.",
        Peer(|p| flag(p.waiting.is_some())),
    ),
    gauge(
        "tandem_peer_clock_ahead_seconds",
        "How far the stamps of the peer's writes are ahead of the clock here, when that is more than \
         a minute, and 0 otherwise.",
        Peer(|p| p.clock_ahead_seconds.unwrap_or(0.0)),
    ),
    gauge(
        "tandem_peer_lag_bytes",
        "Bytes of this site's journal that the peer has not applied yet.",
        Peer(|p| number(p.lag_bytes)),
    ),
    gauge(
        "tandem_peer_lag_seconds",
        "Age of the oldest write of this site that the peer has not applied yet; 0 when there \
         is none. Grows with the clock while the peer is away.",
        Peer(|p| p.lag_seconds),
    ),
    gauge(
        "tandem_peer_round_trip_seconds",
        "Round trip of the link, from its heartbeats. Absent until known.",
        PeerIfKnown(|p| p.round_trip_seconds),
    ),
    gauge(
        "tandem_peer_last_record_offset_bytes",
        "Offset of the last write of this site that the peer must reach.",
        Peer(|p| number(p.last_record_offset)),
    ),
    gauge(
        "tandem_peer_sent_offset_bytes",
        "Offset of this site up to which all is sent to the peer. Far behind \
         tandem_redis_offset_bytes: the link is too slow or away.",
        Peer(|p| number(p.sent_offset)),
    ),
    gauge(
        "tandem_peer_acknowledged_offset_bytes",
        "Offset of this site up to which the peer has received all.",
        Peer(|p| number(p.acknowledged_offset)),
    ),
    gauge(
        "tandem_peer_applied_offset_bytes",
        "Offset of this site up to which the peer has applied all. Far behind the acknowledged \
         offset: the peer's Redis is too slow, or its tandem_peer_waiting is 1.",
        Peer(|p| number(p.applied_offset)),
    ),
    gauge(
        "tandem_peer_received_offset_bytes",
        "Offset of the peer up to which all is received here.",
        Peer(|p| number(p.received_offset)),
    ),
    gauge(
        "tandem_peer_committed_offset_bytes",
        "Offset of the peer up to which all is applied here. Far behind the received offset: \
         the local Redis is too slow, or tandem_peer_waiting is 1.",
        Peer(|p| number(p.committed_offset)),
    ),
    counter(
        "tandem_peer_sessions_total",
        "Sessions of the link since the start. Growing steadily means that the link is cut \
         again and again.",
        Peer(|p| number(p.sessions)),
    ),
    counter(
        "tandem_peer_records_sent_total",
        "Writes of this site sent to the peer since the start; a transaction counts as one.",
        Peer(|p| number(p.records_sent)),
    ),
    counter(
        "tandem_peer_message_bytes_total",
        "Bytes of messages sent to the peer, before they are compressed.",
        Peer(|p| number(p.message_bytes)),
    ),
    counter(
        "tandem_peer_link_bytes_total",
        "Bytes sent to the peer: fewer than those of the messages with [link] compression.",
        Peer(|p| number(p.link_bytes)),
    ),
    counter(
        "tandem_peer_records_applied_total",
        "Writes of the peer applied here since the start; a transaction counts as one.",
        Peer(|p| number(p.records_applied)),
    ),
    counter(
        "tandem_peer_failed_commands_total",
        "Commands of the peer that failed here since the start. Their keys are mended by state; \
         growth means that the servers differ in version or settings.",
        Peer(|p| number(p.failed_commands)),
    ),
    counter(
        "tandem_peer_conflicts_total",
        "Keys that both sites have written before they had seen each other's write, and in an order \
         that matters, by what met and whose write prevails. Both sites count the same ones.",
        PeerBy2(("kind", "winner"), |p| {
            let found = p.conflicts.found.iter();
            found
                .flat_map(|(kind, by)| [(kind, "here", by.here), (kind, "peer", by.peer)])
                .map(|(kind, winner, count)| (kind.clone(), winner.to_owned(), number(count)))
                .collect()
        }),
    ),
    counter(
        "tandem_peer_repairs_total",
        "States of single keys, which mend conflicts and commands that failed: asked of the peer, and \
         then taken, equal to what was here, or refused and asked for again; sent to the peer.",
        PeerBy("outcome", |p| {
            let counts = &p.conflicts;
            [
                ("asked", counts.asked),
                ("taken", counts.taken),
                ("equal", counts.equal),
                ("refused", counts.refused),
                ("sent", counts.sent),
            ]
            .map(|(outcome, count)| (outcome.to_owned(), number(count)))
            .into()
        }),
    ),
    Row {
        name: "tandem_peer_conflict_mended_seconds",
        help: "From the later of two writes in conflict until the right value was here, where it was \
               the peer's. Three round trips and some milliseconds are normal.",
        kind: MetricType::HISTOGRAM,
        values: PeerTimes(|p| p.conflicts.mended_seconds),
    },
    counter(
        "tandem_peer_conflicts_unlogged_total",
        "Conflicts left out of the conflict log: beyond max_rate in [conflicts], or the disk is slow.",
        Peer(|p| number(p.conflicts.unlogged)),
    ),
    counter(
        "tandem_peer_unheld_total",
        "Commands and values of the peer that the Redis here has nothing to hold, and that were \
         left out: functions, modules, expiries of hash fields on an older server.",
        Peer(|p| number(p.unheld)),
    ),
    gauge(
        "tandem_peer_states_owed",
        "Keys whose whole value was asked of the peer and has not come yet. Should return to 0 \
         within a few round trips.",
        Peer(|p| number(p.states_owed)),
    ),
    gauge(
        "tandem_peer_copy_percent",
        "How far the copy under way has come, 0 to 100. Absent when there is none.",
        PeerBy("direction", |p| copies(p, |c| c.percent)),
    ),
    gauge(
        "tandem_peer_copy_done_bytes",
        "Bytes of the snapshot copied so far. Absent when no copy is under way.",
        PeerBy("direction", |p| copies(p, |c| number(c.bytes_done))),
    ),
    gauge(
        "tandem_peer_copy_size_bytes",
        "Bytes of the snapshot being copied. Absent when no copy is under way.",
        PeerBy("direction", |p| copies(p, |c| number(c.bytes_total))),
    ),
    gauge(
        "tandem_peer_copy_bytes_per_second",
        "How fast the copy under way is. Absent when there is none.",
        PeerBy("direction", |p| copies(p, |c| c.bytes_per_second)),
    ),
    gauge(
        "tandem_peer_copied_keys",
        "What the last copies received from the peer did with keys: created, overwritten, kept \
         (the value here stayed), refused (written here meanwhile, asked for again); returned: those \
         created among which may be keys that clients had deleted here while nobody read; deleted: \
         those that they certainly had, and that are deleted at the peer too.",
        PeerBy("outcome", |p| {
            vec![
                ("created".to_owned(), number(p.copied.created)),
                ("overwritten".to_owned(), number(p.copied.overwritten)),
                ("kept".to_owned(), number(p.copied.kept)),
                ("refused".to_owned(), number(p.copied.refused)),
                ("returned".to_owned(), number(p.copied.returned)),
                ("deleted".to_owned(), number(p.copied.deleted)),
            ]
        }),
    ),
];

/// The states, in the words of `/status`.
const STATES: [(&str, PeerState); 4] = [
    ("connecting", PeerState::Connecting),
    ("full_sync", PeerState::FullSync),
    ("synchronizing", PeerState::Synchronizing),
    ("stopped", PeerState::Stopped),
];

const fn gauge(name: &'static str, help: &'static str, values: Values) -> Row {
    Row {
        name,
        help,
        kind: MetricType::GAUGE,
        values,
    }
}

const fn counter(name: &'static str, help: &'static str, values: Values) -> Row {
    Row {
        name,
        help,
        kind: MetricType::COUNTER,
        values,
    }
}

fn copies(peer: &PeerStatus, read: fn(&CopyStatus) -> f64) -> Vec<(String, f64)> {
    let copies = peer.sending.iter().chain(&peer.receiving);
    copies
        .map(|copy| (copy.direction.clone(), read(copy)))
        .collect()
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// Exact up to 2^53, which is 9 PB: Prometheus knows no other numbers.
const fn number(value: u64) -> f64 {
    value as f64
}
