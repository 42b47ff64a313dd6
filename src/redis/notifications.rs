//! Keyspace notifications: what a server publishes about its keys.

/// Whether a server with this value of `notify-keyspace-events` publishes, by event, what it evicts.
#[must_use]
pub fn tells_evictions(flags: &str) -> bool {
    // `A` stands for all kinds of events, evictions among them.
    flags.contains('E') && flags.contains(['e', 'A'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_event_and_of_evictions() {
        for (flags, tells) in [
            ("Ee", true),
            ("AKE", true),
            ("gxeE", true),
            ("", false),
            ("Ke", false),
            ("Ex", false),
            ("A", false),
        ] {
            assert_eq!(tells_evictions(flags), tells, "{flags}");
        }
    }
}
