//! Two sites on this machine, live: two Redis servers, two sidecars, writes at both, and a verdict.
//!
//! It uses nothing of the sidecar but what a user has: the program, its configuration file and
//! `/status`. Everything it starts is a child process with its files in one temporary directory,
//! and both are gone when it ends, however it ends.

mod client;
mod compare;
mod load;
mod operations;
mod servers;
mod view;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior};

use self::load::{Load, Tally};
use self::servers::Stage;
use self::view::{Frame, View};

/// What `tandem demo` was asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long to write at both sites, in seconds.
    pub seconds: u64,
    /// Leave everything running after the verdict, until Ctrl-C.
    pub keep: bool,
    /// The server to start; found in `PATH` when `None`.
    pub redis_server: Option<PathBuf>,
}

/// How long two empty sites may take to find each other.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long after the load the sites may take to have nothing left to send.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// How often the view is drawn on a terminal. Fast enough to look alive.
const FRAME: Duration = Duration::from_millis(250);

/// Runs the demo and says whether both sites ended equal and every counter exact.
///
/// # Errors
/// No server was found, something did not start or died, the sites did not settle in time, or the
/// demo was interrupted.
pub async fn run(options: Options) -> Result<bool> {
    let mut signals = Signals::listen()?;
    let program = servers::find_redis(options.redis_server.as_deref())?;
    let mut stage = Stage::set(program)?;
    let mut view = View::stdout();
    let ended = tokio::select! {
        verdict = play(&mut stage, &options, &mut view) => Some(verdict),
        () = signals.received() => None,
    };
    let verdict = match ended {
        Some(Ok(verdict)) if options.keep => {
            let invited = view.invite(&stage.sites);
            signals.received().await;
            invited.map(|()| verdict)
        }
        Some(verdict) => verdict.map_err(|error| stage.explain(error)),
        None => Err(anyhow!("interrupted before the verdict")),
    };
    let cleared = stage.clear().await;
    let verdict = verdict?;
    cleared?;
    Ok(verdict)
}

/// The demo itself, from the first server to the verdict.
async fn play(stage: &mut Stage, options: &Options, view: &mut View) -> Result<bool> {
    view.say("Starting two Redis servers and two sidecars.")?;
    stage.start_redis().await?;
    stage.start_sidecars()?;
    stage.wait_until_synchronizing(READY_WITHIN).await?;
    view.say("Both sidecars are synchronizing. Writing at both sites.")?;

    let tally = write_and_watch(stage, options.seconds, view).await?;
    let waited = compare::wait_until_settled(stage, SETTLED_WITHIN).await?;
    let comparison = compare::databases(&stage.sites).await?;
    let counters = compare::counters(&stage.sites, &tally).await?;
    view.verdict(&tally, waited, &comparison, &counters)?;
    Ok(comparison.is_equal() && counters.is_exact())
}

/// Writes at both sites for a while, drawing the view; returns what was acknowledged.
async fn write_and_watch(stage: &mut Stage, seconds: u64, view: &mut View) -> Result<Tally> {
    let duration = Duration::from_secs(seconds);
    let mut load = Load::start(&stage.sites).await?;
    let mut eyes = view::Eyes::open(&stage.sites).await?;
    let started = Instant::now();
    let mut frames = tokio::time::interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while started.elapsed() < duration {
        frames.tick().await;
        stage.check()?;
        if let Some(ended) = load.ended_early() {
            ended.context("write to Redis")?;
            bail!("a writer ended before it was told to");
        }
        let frame = Frame {
            elapsed: started.elapsed().min(duration),
            duration,
            sites: eyes.look(&load).await?,
        };
        view.draw(&frame)?;
    }
    load.stop().await.context("write to Redis")
}

/// The signals that end the demo.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for the next of them. Cancel-safe.
    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
