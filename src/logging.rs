//! What is logged, how, and where: to stderr, so that stdout holds only what was asked for.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::TryInitError;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One line of text for each event.
    Text,
    /// One JSON object for each event.
    Json,
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is no filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Something else logs already.
    #[error("logging was started before")]
    Started(#[from] TryInitError),
}

/// Why a text is not a log filter.
#[derive(Debug, thiserror::Error)]
#[error("not a log level; write error, warn, info, debug or trace, or info,tandem::link=debug")]
pub struct FilterError(#[from] tracing_subscriber::filter::ParseError);

/// What is logged when nobody chose: what a person on duty reads.
pub const DEFAULT_LEVEL: &str = "info";

/// Starts logging. `filter` is a level, or a list such as `info,tandem::link=debug`.
///
/// # Errors
/// The filter is not one, or logging was started before.
pub fn init(filter: &str, format: Format) -> Result<(), Error> {
    use tracing_subscriber::util::SubscriberInitExt as _;

    let terminal = io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parse_filter(filter)?)
        .with_writer(io::stderr)
        // It would say on stderr that stderr cannot be written, and panic: a full disk under the
        // log must not end the process.
        .log_internal_errors(false)
        .with_ansi(terminal);
    if format == Format::Json || (format == Format::Auto && !terminal) {
        let json = builder.json().flatten_event(true);
        json.with_current_span(false).finish().try_init()?;
    } else {
        builder.finish().try_init()?;
    }
    Ok(())
}

/// Reads a filter. An empty one is the default: that is what compose files make of a variable that
/// they do not find, and nobody means it.
///
/// # Errors
/// It is not one.
pub fn parse_filter(filter: &str) -> Result<EnvFilter, FilterError> {
    let filter = if filter.is_empty() {
        DEFAULT_LEVEL
    } else {
        filter
    };
    Ok(EnvFilter::builder().parse(filter)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        for good in [DEFAULT_LEVEL, "warn", "info,tandem::link=debug", "off"] {
            assert!(parse_filter(good).is_ok(), "{good}");
        }
        for bad in ["info,tandem=loud", "a=b=c"] {
            assert!(parse_filter(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_filter("").unwrap().to_string(), DEFAULT_LEVEL);
    }
}
