//! What time it is at a server. Keys expire by its clock, whatever ours says.

use std::time::Instant;

use super::reply::Reply;

/// The clock of a server: what TIME has said, and how long ago.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerClock {
    said: Option<(u64, Instant)>,
}

impl ServerClock {
    /// Takes note of the reply to TIME, which came at this moment. A server that refuses to tell leaves
    /// what is known.
    pub fn set(&mut self, reply: &Reply, now: Instant) {
        let number = |r: &Reply| r.text().parse::<u64>().ok();
        let Reply::Array(parts) = reply else { return };
        let mut numbers = parts.iter().map(number);
        if let (Some(Some(seconds)), Some(Some(micros))) = (numbers.next(), numbers.next()) {
            let millis = seconds.saturating_mul(1000).saturating_add(micros / 1000);
            self.said = Some((millis, now));
        }
    }

    /// Milliseconds since 1970 there; none if it never said so.
    #[must_use]
    pub fn millis(&self, now: Instant) -> Option<u64> {
        let (said, at) = self.said?;
        let since = now.saturating_duration_since(at).as_millis();
        Some(said.saturating_add(u64::try_from(since).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;

    #[test]
    fn it_goes_on_from_what_the_server_has_said() {
        let now = Instant::now();
        let mut clock = ServerClock::default();
        assert_eq!(clock.millis(now), None);
        let text = |text: &'static str| Reply::Bulk(Bytes::from_static(text.as_bytes()));
        clock.set(&Reply::Array(vec![text("1000"), text("250999")]), now);
        assert_eq!(clock.millis(now), Some(1_000_250));
        let later = now + Duration::from_millis(40);
        for refused in [Reply::Error("NOPERM".to_owned()), Reply::Array(vec![])] {
            clock.set(&refused, later);
            assert_eq!(clock.millis(later), Some(1_000_290));
        }
    }
}
