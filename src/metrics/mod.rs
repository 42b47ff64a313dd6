//! Every metric in one place: name, help, kind, labels, and where on the board its value stands
//! (`table.rs`).
//!
//! Values are read from the [`Board`] when Prometheus asks, so that `/metrics` and `/status` never
//! disagree and the data path does not know of metrics. Labels are names of sites and of states,
//! never of keys.

mod table;

use std::collections::HashMap;
use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Registry, TextEncoder};

use self::table::ROWS;
use crate::status::{Board, PeerStatus, Status, Times};

/// All metrics of this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

/// One metric: a row of the table.
struct Row {
    name: &'static str,
    /// What it means, and what to look at when it is not as it should be.
    help: &'static str,
    kind: MetricType,
    values: Values,
}

/// Where the values of a metric are read.
enum Values {
    /// One for the site, without labels.
    Site(fn(&Status) -> f64),
    /// One for the site where it is known.
    SiteIfKnown(fn(&Status) -> Option<f64>),
    /// One for the site for each value of one label.
    SiteBy(&'static str, fn(&Status) -> Vec<(String, f64)>),
    /// One for each peer, labelled `peer`.
    Peer(fn(&PeerStatus) -> f64),
    /// One for each peer where it is known.
    PeerIfKnown(fn(&PeerStatus) -> Option<f64>),
    /// For each peer, one for each value of one more label.
    PeerBy(&'static str, fn(&PeerStatus) -> Vec<(String, f64)>),
    /// For each peer, one for each pair of values of two more labels.
    PeerBy2(
        (&'static str, &'static str),
        fn(&PeerStatus) -> Vec<(String, String, f64)>,
    ),
    /// For each peer, a histogram.
    PeerTimes(fn(&PeerStatus) -> Times),
}

/// A value of a metric.
enum Sample {
    Number(f64),
    Times(Times),
}

impl Metrics {
    /// The metrics of this board and of this process.
    ///
    /// # Errors
    /// A metric has a bad name or stands in the table twice: a bug.
    pub fn try_new(board: Arc<Board>) -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(FromBoard::try_new(board)?))?;
        registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Self { registry })
    }

    /// All values as of now, in the text format of Prometheus.
    ///
    /// # Errors
    /// The encoder refuses a value: a bug.
    pub fn render(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// Turns the board into metrics whenever it is asked.
struct FromBoard {
    board: Arc<Board>,
    /// One for each row, in the same order.
    descs: Vec<Desc>,
}

impl FromBoard {
    fn try_new(board: Arc<Board>) -> prometheus::Result<Self> {
        let desc = |row: &Row| {
            let labels = row
                .values
                .labels()
                .iter()
                .map(|l| (*l).to_owned())
                .collect();
            Desc::new(
                row.name.to_owned(),
                row.help.to_owned(),
                labels,
                HashMap::new(),
            )
        };
        let descs = ROWS.iter().map(desc).collect::<prometheus::Result<_>>()?;
        Ok(Self { board, descs })
    }
}

impl Collector for FromBoard {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let status = self.board.status();
        ROWS.iter().map(|row| row.family(&status)).collect()
    }
}

impl Row {
    fn family(&self, status: &Status) -> MetricFamily {
        let metrics = self.values.read(status);
        let metrics = metrics.into_iter().map(|(labels, value)| {
            let mut metric = Metric::from_label(labels);
            match value {
                Sample::Number(value) if self.kind == MetricType::COUNTER => {
                    let mut counter = Counter::default();
                    counter.set_value(value);
                    metric.set_counter(counter);
                }
                Sample::Number(value) => {
                    let mut gauge = Gauge::default();
                    gauge.set_value(value);
                    metric.set_gauge(gauge);
                }
                Sample::Times(times) => metric.set_histogram(histogram(&times)),
            }
            metric
        });
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(self.kind);
        family.set_metric(metrics.collect());
        family
    }
}

impl Values {
    fn labels(&self) -> Vec<&'static str> {
        match self {
            Self::Site(_) | Self::SiteIfKnown(_) => vec![],
            Self::SiteBy(label, _) => vec![*label],
            Self::Peer(_) | Self::PeerIfKnown(_) | Self::PeerTimes(_) => vec![PEER],
            Self::PeerBy(label, _) => vec![PEER, *label],
            Self::PeerBy2((first, second), _) => vec![PEER, *first, *second],
        }
    }

    fn read(&self, status: &Status) -> Vec<(Vec<LabelPair>, Sample)> {
        let peers = status.peers.iter();
        let number = |(labels, value)| (labels, Sample::Number(value));
        let of = |peer: &PeerStatus| pairs(&[(PEER, &peer.site)]);
        match self {
            Self::Site(read) => vec![number((vec![], read(status)))],
            Self::SiteIfKnown(read) => {
                let value = read(status).into_iter();
                value.map(|value| number((vec![], value))).collect()
            }
            Self::SiteBy(label, read) => {
                let values = read(status).into_iter();
                let labelled = |(word, value): (String, f64)| (pairs(&[(label, &word)]), value);
                values.map(labelled).map(number).collect()
            }
            Self::Peer(read) => peers.map(|p| number((of(p), read(p)))).collect(),
            Self::PeerIfKnown(read) => peers
                .filter_map(|p| Some(number((of(p), read(p)?))))
                .collect(),
            Self::PeerBy(label, read) => {
                let labelled = |peer: &PeerStatus, (word, value): (String, f64)| {
                    number((pairs(&[(PEER, &peer.site), (label, &word)]), value))
                };
                let all = |p| read(p).into_iter().map(move |value| labelled(p, value));
                peers.flat_map(all).collect()
            }
            Self::PeerBy2((first, second), read) => {
                let labelled = |peer: &PeerStatus, (one, other, value): (String, String, f64)| {
                    let labels = [(PEER, peer.site.as_str()), (first, &one), (second, &other)];
                    number((pairs(&labels), value))
                };
                let all = |p| read(p).into_iter().map(move |value| labelled(p, value));
                peers.flat_map(all).collect()
            }
            Self::PeerTimes(read) => peers.map(|p| (of(p), Sample::Times(read(p)))).collect(),
        }
    }
}

fn histogram(times: &Times) -> Histogram {
    let bucket = |(bound, count)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(times.cumulative().map(bucket).collect());
    histogram.set_sample_count(times.count());
    histogram.set_sample_sum(times.sum);
    histogram
}

/// The label that names a peer.
const PEER: &str = "peer";

fn pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::{ConflictKind, InstanceId, SiteId, Winner};
    use crate::status::{PeerState, Stop};

    fn board() -> Arc<Board> {
        let site = |name| SiteId::try_new(name).unwrap();
        Board::new(site("a"), InstanceId::new(1), &[site("b"), site("c")])
    }

    fn rendered(board: &Arc<Board>) -> String {
        let metrics = Metrics::try_new(Arc::clone(board)).unwrap();
        metrics.render().unwrap()
    }

    #[test]
    fn values_come_from_the_board() {
        let board = board();
        {
            let mut redis = board.redis();
            redis.usable = true;
            redis.offset = 12_345_678_901;
            redis.resyncs_full = 2;
        }
        board.journal().max_bytes = 10 << 30;
        {
            let peer = board.peer(&SiteId::try_new("c").unwrap()).unwrap();
            let mut peer = peer.lock();
            peer.state = PeerState::Stopped;
            peer.lag_seconds = 1.5;
            peer.records_sent = 7;
            peer.conflicts.add(ConflictKind::Delete, Winner::Here, 4);
            peer.conflicts.mended_seconds.observe(0.25);
            peer.conflicts.mended_seconds.observe(5000.0);
            peer.round_trip_seconds = Some(0.025);
            peer.stop = Some(Stop {
                reason: "history_lost".to_owned(),
                detail: String::new(),
                remedy: String::new(),
            });
            peer.receiving = Some(crate::status::CopyStatus {
                direction: "receiving".to_owned(),
                percent: 12.5,
                ..Default::default()
            });
        }
        let text = rendered(&board);
        let version = env!("CARGO_PKG_VERSION");
        for line in [
            &format!("tandem_build_info{{version=\"{version}\"}} 1"),
            "tandem_site_info{site=\"a\"} 1",
            "# TYPE tandem_redis_up gauge",
            "tandem_redis_up 1",
            "tandem_redis_stream_connected 0",
            "tandem_redis_offset_bytes 12345678901",
            "# TYPE tandem_redis_resyncs_total counter",
            "tandem_redis_resyncs_total{kind=\"full\"} 2",
            "tandem_redis_resyncs_total{kind=\"partial\"} 0",
            "tandem_journal_max_bytes 10737418240",
            "tandem_peer_state{peer=\"b\",state=\"connecting\"} 1",
            "tandem_peer_state{peer=\"c\",state=\"connecting\"} 0",
            "tandem_peer_state{peer=\"c\",state=\"stopped\"} 1",
            "tandem_peer_stop{peer=\"c\",reason=\"history_lost\"} 1",
            "tandem_peer_lag_seconds{peer=\"b\"} 0",
            "tandem_peer_lag_seconds{peer=\"c\"} 1.5",
            "tandem_peer_round_trip_seconds{peer=\"c\"} 0.025",
            "tandem_peer_records_sent_total{peer=\"c\"} 7",
            "tandem_peer_copy_percent{peer=\"c\",direction=\"receiving\"} 12.5",
            "tandem_peer_conflicts_total{peer=\"c\",kind=\"delete\",winner=\"here\"} 4",
            "tandem_peer_conflicts_total{peer=\"c\",kind=\"delete\",winner=\"peer\"} 0",
            "tandem_peer_conflict_mended_seconds_bucket{peer=\"c\",le=\"0.1\"} 0",
            "tandem_peer_conflict_mended_seconds_bucket{peer=\"c\",le=\"0.3\"} 1",
            "tandem_peer_conflict_mended_seconds_bucket{peer=\"c\",le=\"+Inf\"} 2",
            "tandem_peer_conflict_mended_seconds_sum{peer=\"c\"} 5000.25",
            "# TYPE process_cpu_seconds_total counter",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(!text.contains("round_trip_seconds{peer=\"b\""), "{text}");
        assert!(!text.contains("tandem_peer_stop{peer=\"b\""), "{text}");
    }

    #[test]
    fn names_follow_the_practice() {
        let names: BTreeSet<_> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len());
        for row in ROWS {
            let counter = row.kind == MetricType::COUNTER;
            assert!(row.name.starts_with("tandem_"), "{}", row.name);
            assert_eq!(row.name.ends_with("_total"), counter, "{}", row.name);
            assert!(row.help.ends_with('.'), "{}", row.name);
            assert!(!row.help.contains("  "), "{}", row.name);
        }
    }

    #[test]
    fn every_state_is_labelled_as_in_the_status() {
        let text = rendered(&board());
        for state in [
            PeerState::Connecting,
            PeerState::FullSync,
            PeerState::Synchronizing,
            PeerState::Stopped,
        ] {
            let word = serde_json::to_string(&state).unwrap();
            assert!(text.contains(&format!("state={word}")), "{word}");
        }
    }
}
