//! The command line: what can be asked for, and how the process ends.

mod ask;
mod verify;

use std::path::PathBuf;
use std::process;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

pub use self::ask::{complain, healthcheck, load, status};
pub use self::verify::verify;
use crate::logging;
use crate::redis;
use crate::verify::report::ShowKeys;

/// Keeps two or more Redis or Valkey servers in two-way sync. One tandem runs beside each server.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, after_help = EXAMPLE)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to log.
    #[command(flatten)]
    pub log: Log,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Keep this site's Redis in sync, until SIGTERM or SIGINT
    Run(ConfigFile),
    /// Check the configuration and the local Redis, and change nothing
    Check(ConfigFile),
    /// Show what a running tandem does: its Redis, its journal, and each peer
    Status(StatusArgs),
    /// Ask whether tandem is alive; exits 0 or 1 (for a Docker HEALTHCHECK)
    Healthcheck(ConfigFile),
    /// Compare what two or more sites hold, while they run and are written to
    Verify(VerifyArgs),
    /// Start two Redis servers on this machine, sync them, and show it
    Demo(DemoArgs),
}

/// The configuration file.
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// The configuration file (TOML)
    #[arg(long, short, value_name = "FILE", env = "TANDEM_CONFIG")]
    pub config: PathBuf,
}

/// The arguments of `tandem status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The configuration file (TOML); the tandem that runs with it is asked
    #[arg(long, short, value_name = "FILE", env = "TANDEM_CONFIG")]
    #[arg(required_unless_present = "url")]
    pub config: Option<PathBuf>,
    /// Ask this address instead, for example http://10.0.0.7:9480
    #[arg(long)]
    pub url: Option<String>,
    /// Print the JSON of /status
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `tandem verify`.
#[derive(Debug, Args)]
#[command(after_help = VERIFY_EXAMPLE)]
pub struct VerifyArgs {
    /// The configuration file of a site (TOML); give one for each site that is compared. What the
    /// first says of databases and keys is compared
    #[arg(long, short, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// A server whose configuration file is not here, for example redis://:password@10.8.0.2:6379
    #[arg(long, value_name = "URL", value_parser = redis_url)]
    pub redis: Vec<redis::Settings>,
    /// How long a key may look different before it counts as different, in seconds: longer than the
    /// sites lag behind each other
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u64).range(..=3600))]
    pub patience: u64,
    /// The most keys a second that are read from each server; 0 for no limit. 10,000 take about a
    /// tenth of the time of a server
    #[arg(long, value_name = "KEYS", default_value_t = 10_000)]
    pub rate: u64,
    /// Compare only this part of the keys, chosen by their names: 0.01 or 1/100
    #[arg(long, value_name = "PART", default_value = "1", value_parser = part)]
    pub sample: f64,
    /// How the names of keys are shown
    #[arg(long, value_name = "HOW", default_value = "full")]
    pub show_keys: ShowKeys,
    /// The most keys that are shown
    #[arg(long, value_name = "KEYS", default_value_t = 100)]
    pub limit: usize,
    /// Take the values at this site as right: have the others fetch the keys that differ from there,
    /// through their running tandem, and delete those that are not there
    #[arg(long, value_name = "SITE")]
    pub repair: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `tandem demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// How long to write at both sites
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Leave everything running afterwards, until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// The server to start; found in PATH when not given
    #[arg(long, value_name = "PATH")]
    pub redis_server: Option<PathBuf>,
}

/// How to log.
#[derive(Debug, Args)]
pub struct Log {
    /// What to log: error, warn, info, debug, trace, or info,tandem::link=debug
    #[arg(long, global = true, value_name = "LEVEL", env = "TANDEM_LOG")]
    #[arg(default_value = logging::DEFAULT_LEVEL, value_parser = log_level)]
    pub log_level: String,
    /// How a line looks; auto is text on a terminal and json elsewhere
    #[arg(long, global = true, value_name = "FORMAT", default_value = "auto")]
    pub log_format: logging::Format,
}

/// How this process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done = 0,
    /// 1: it failed while running; starting it again can help.
    Failed = 1,
    /// 64: the command line is wrong (EX_USAGE of sysexits.h).
    Usage = 64,
    /// 69: a server cannot be reached or read, so nothing is known (EX_UNAVAILABLE).
    Unavailable = 69,
    /// 78: the configuration is wrong; starting it again does not help (EX_CONFIG).
    Config = 78,
}

/// What `--help` shows at its end.
const EXAMPLE: &str = "\
Example:
  tandem demo                              see two sites converge, in ten seconds
  tandem check --config site-a.toml        then, for each site, check its file
  tandem run --config site-a.toml          and keep it in sync
  tandem status --config site-a.toml       from another terminal
  tandem verify --config site-a.toml --config site-b.toml   do both hold the same?

A key of the file can be set by a variable: TANDEM__REDIS__PASSWORD for password in [redis].

Exit codes: 0 done, 1 failed, 64 wrong command line, 69 a server cannot be read (verify),
78 wrong configuration.";

/// What `tandem verify --help` shows at its end.
const VERIFY_EXAMPLE: &str = "\
Nothing is written, unless --repair is given. The sites may be written to meanwhile. Keys of Tandem's
own (tandem:*) are left out. Variables (TANDEM__REDIS__PASSWORD …) count for every file: where passwords
differ, use password_file.

Example:
  tandem verify --config a.toml --config b.toml
  tandem verify --config a.toml --redis redis://:secret@10.8.0.2:6379 --sample 1/100
  tandem verify --config a.toml --config b.toml --repair a     what a holds is right

Exit codes: 0 equal, 1 different (with --repair: still different), 64 wrong command line,
69 a server cannot be reached or read, 78 wrong configuration.";

impl Cli {
    /// Reads the command line of this process. Prints help, version and mistakes itself.
    ///
    /// # Errors
    /// There is nothing left to do but to exit so.
    pub fn read() -> Result<Self, Exit> {
        Self::try_parse().map_err(|error| {
            // Nobody is left to tell when the terminal is gone.
            error.print().ok();
            exit_of(&error)
        })
    }
}

impl From<Exit> for process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

fn exit_of(error: &clap::Error) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Done,
        _ => Exit::Usage,
    }
}

fn log_level(text: &str) -> Result<String, logging::FilterError> {
    logging::parse_filter(text).map(|_| text.to_owned())
}

fn redis_url(text: &str) -> Result<redis::Settings, redis::UrlError> {
    text.parse()
}

/// `0.01` or `1/100`.
fn part(text: &str) -> Result<f64, String> {
    let (above, below) = text.split_once('/').unwrap_or((text, "1"));
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let part = number(above).zip(number(below)).map(|(a, b)| a / b);
    part.filter(|part| *part > 0.0 && *part <= 1.0)
        .ok_or_else(|| "not a part above 0 and up to 1; write 0.01 or 1/100".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn read(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definitions_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_are_read() {
        let cli = read("tandem run --config a.toml --log-format json --log-level warn").unwrap();
        assert!(matches!(cli.command, Command::Run(c) if c.config.ends_with("a.toml")));
        assert_eq!(cli.log.log_level, "warn");
        assert_eq!(cli.log.log_format, logging::Format::Json);

        let cli = read("tandem verify -c a -c b --redis redis://h --sample 1/100").unwrap();
        let Command::Verify(verify) = cli.command else {
            panic!("{cli:?}");
        };
        assert!(verify.config.len() == 2 && verify.redis.len() == 1);
        assert!((verify.sample - 0.01).abs() < 1e-9 && verify.repair.is_none());

        let cli = read("tandem demo").unwrap();
        let Command::Demo(demo) = cli.command else {
            panic!("{cli:?}");
        };
        assert!(demo.seconds == 10 && !demo.keep && demo.redis_server.is_none());

        let cli = read("tandem status --url http://h:1 --json").unwrap();
        assert!(matches!(cli.command, Command::Status(s) if s.json && s.config.is_none()));
    }

    #[test]
    fn mistakes_exit_64_and_questions_0() {
        for line in [
            "tandem",
            "tandem walk",
            "tandem run",
            "tandem status",
            "tandem demo --seconds 0",
            "tandem demo --log-level a=b=c",
            "tandem verify --config a --sample 2",
            "tandem verify --config a --redis h:6379",
        ] {
            assert_eq!(exit_of(&read(line).unwrap_err()), Exit::Usage, "{line}");
        }
        for line in ["tandem --help", "tandem run --help", "tandem --version"] {
            assert_eq!(exit_of(&read(line).unwrap_err()), Exit::Done, "{line}");
        }
    }

    #[test]
    fn help_shows_an_example() {
        let help = read("tandem --help").unwrap_err().to_string();
        for part in [
            "tandem run --config site-a.toml",
            "78 wrong configuration",
            "TANDEM_LOG",
        ] {
            assert!(help.contains(part), "{help}");
        }
    }
}
