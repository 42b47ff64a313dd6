//! What the target's errors mean: pure.

use crate::redis::Reply;
use crate::status::Stop;

/// What follows from an error reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// It passes: the same again later, nothing skipped.
    Wait,
    /// A person must act: this direction stops by name. Tried again now and then.
    Stop(Stop),
    /// The command failed by itself: the state of its keys is asked for.
    Failed,
}

/// What stands before the reason when a server of 7.0 or later refuses EXEC itself: its state has changed
/// after it had accepted the commands.
const AT_EXEC: &str = "EXECABORT Transaction discarded because of: ";
/// What a server before 7.0 says of a replica that is told to EXEC.
const REPLICA_AT_EXEC: &str =
    "ERR Transaction contains write commands but instance is now a read-only";

/// Judges an error message of the server.
#[must_use]
pub(super) fn classify(message: &str) -> Class {
    let message = message.strip_prefix(AT_EXEC).unwrap_or(message);
    if message.starts_with(REPLICA_AT_EXEC) {
        return Class::Wait;
    }
    let code = message.split(' ').next().unwrap_or_default();
    let stop = |reason: &str, remedy: &str| {
        Class::Stop(Stop {
            reason: reason.to_owned(),
            detail: format!("the local Redis answered: {message}"),
            remedy: remedy.to_owned(),
        })
    };
    match code {
        "OOM" | "LOADING" | "BUSY" | "MISCONF" | "NOREPLICAS" | "CLUSTERDOWN" | "TRYAGAIN"
        | "MASTERDOWN" | "READONLY" => Class::Wait,
        "NOAUTH" | "WRONGPASS" => stop(
            "redis_login",
            "correct the username and password in [redis]",
        ),
        "NOPERM" => stop(
            "redis_permission",
            "give the user of [redis] the permissions that the README lists",
        ),
        _ => Class::Failed,
    }
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Executed; the replies of its commands.
    Done(Vec<Reply>),
    /// Not executed: this is the first error, and the number of the command that it belongs to.
    Aborted {
        /// Counts the commands between MULTI and EXEC; none when it is EXEC's own.
        command: Option<usize>,
        /// The server's words.
        message: String,
    },
    /// Not executed: a watched key had changed.
    Changed,
}

/// Reads the replies to `MULTI`, to those commands that were not queued, by number, and to `EXEC`.
#[must_use]
pub(super) fn outcome(multi: &Reply, others: &[(usize, Reply)], exec: Reply) -> Outcome {
    if let Some(message) = multi.error() {
        return Outcome::Aborted {
            command: Some(0),
            message: message.clone(),
        };
    }
    let mut errors = others
        .iter()
        .filter_map(|(i, r)| r.error().map(|m| (*i, m)));
    let refused = errors.next();
    match (exec, refused) {
        (Reply::Array(replies), _) => Outcome::Done(replies),
        (Reply::Nil, _) => Outcome::Changed,
        (_, Some((command, message))) => Outcome::Aborted {
            command: Some(command),
            message: message.clone(),
        },
        (Reply::Error(message), None) => Outcome::Aborted {
            command: None,
            message,
        },
        (other, None) => Outcome::Aborted {
            command: None,
            message: format!("unexpected {other:?}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_judged_by_class() {
        assert_eq!(
            classify("OOM command not allowed when used memory > 'maxmemory'."),
            Class::Wait
        );
        assert_eq!(classify("WRONGTYPE Operation against a key"), Class::Failed);
        assert_eq!(classify("ERR unknown command 'HSETEX'"), Class::Failed);
        assert!(
            matches!(classify("NOPERM this user"), Class::Stop(s) if s.reason == "redis_permission")
        );
    }

    #[test]
    fn what_a_server_refuses_only_at_exec_is_judged_by_its_reason() {
        let ok = || Reply::Status("OK".into());
        let reasons = [
            "EXECABORT Transaction discarded because of: OOM command not allowed",
            "EXECABORT Transaction discarded because of: NOREPLICAS Not enough good replicas",
            "EXECABORT Transaction discarded because of: READONLY You can't write",
            "ERR Transaction contains write commands but instance is now a read-only replica. EXEC aborted.",
        ];
        for reason in reasons {
            assert_eq!(classify(reason), Class::Wait, "{reason}");
            // No command of it is to blame.
            let aborted = outcome(&ok(), &[], Reply::Error(reason.to_owned()));
            let message = reason.to_owned();
            assert_eq!(
                aborted,
                Outcome::Aborted {
                    command: None,
                    message
                }
            );
        }
        let lost = "EXECABORT Transaction discarded because of: NOPERM this user";
        assert!(matches!(classify(lost), Class::Stop(s) if s.reason == "redis_permission"));
        let strange = "EXECABORT Transaction discarded because of: ERR strange";
        assert_eq!(classify(strange), Class::Failed);
    }

    #[test]
    fn outcomes() {
        let ok = || Reply::Status("OK".into());
        let error = |m: &str| Reply::Error(m.to_owned());
        let done = outcome(&ok(), &[], Reply::Array(vec![ok()]));
        assert_eq!(done, Outcome::Done(vec![ok()]));
        assert_eq!(outcome(&ok(), &[], Reply::Nil), Outcome::Changed);
        let aborted = outcome(&ok(), &[(1, error("OOM x"))], error("EXECABORT y"));
        assert_eq!(
            aborted,
            Outcome::Aborted {
                command: Some(1),
                message: "OOM x".to_owned()
            }
        );
        let aborted = outcome(&error("NOPERM z"), &[], error("ERR EXEC without MULTI"));
        assert_eq!(
            aborted,
            Outcome::Aborted {
                command: Some(0),
                message: "NOPERM z".to_owned()
            }
        );
    }
}
