//! The command line of Tandem: an outline; the library does the work.

use std::process::ExitCode;

use tandem::app::App;
use tandem::cli::{self, Cli, Command, Exit};
use tandem::config::Config;
use tandem::{demo, logging, precheck};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

fn main() -> ExitCode {
    match run() {
        Ok(()) => Exit::Done.into(),
        Err(exit) => exit.into(),
    }
}

fn run() -> Result<(), Exit> {
    let cli = Cli::read()?;
    if let Err(error) = logging::init(&cli.log.log_level, cli.log.log_format) {
        cli::complain(&error);
        return Err(Exit::Usage);
    }
    match cli.command {
        Command::Run(file) => block_on(serve(cli::load(&file.config)?))?,
        Command::Check(file) => {
            let config = cli::load(&file.config)?;
            block_on(async {
                Box::pin(precheck::run(&config))
                    .await
                    .then_some(())
                    .ok_or(Exit::Failed)
            })?
        }
        Command::Status(args) => done(cli::status(&args)),
        Command::Verify(args) => block_on(async { done(Box::pin(cli::verify(args)).await) })?,
        Command::Healthcheck(file) => done(cli::healthcheck(&file)),
        Command::Demo(args) => {
            let options = demo::Options {
                seconds: args.seconds,
                keep: args.keep,
                redis_server: args.redis_server,
            };
            block_on(async {
                match Box::pin(demo::run(options)).await {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(Exit::Failed),
                    Err(error) => {
                        cli::complain(&*error);
                        Err(Exit::Failed)
                    }
                }
            })?
        }
    }
}

fn done(exit: Exit) -> Result<(), Exit> {
    if exit == Exit::Done {
        Ok(())
    } else {
        Err(exit)
    }
}

/// Runs a future on a runtime of its own, in this thread: handing a batch from thread to thread costs
/// more than all that is done with it. Files are read and forced elsewhere, and so is the admin
/// interface.
fn block_on(future: impl Future<Output = Result<(), Exit>>) -> Result<Result<(), Exit>, Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => Ok(runtime.block_on(future)),
        Err(error) => {
            cli::complain(&error);
            Err(Exit::Failed)
        }
    }
}

/// The sidecar: build, then run until a signal.
async fn serve(config: Config) -> Result<(), Exit> {
    let stop = CancellationToken::new();
    let signalled = stop.clone();
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        error!("cannot listen for signals");
        return Err(Exit::Failed);
    };
    let app = App::build(config).map_err(|error| {
        error!("{error}");
        Exit::Failed
    })?;
    let mut running = Box::pin(app.run(stop));
    let ended = tokio::select! {
        ended = &mut running => ended,
        _ = term.recv() => { signalled.cancel(); info!("stopping"); running.await }
        _ = int.recv() => { signalled.cancel(); info!("stopping"); running.await }
    };
    ended.map_err(|error| {
        error!("{error}");
        Exit::Failed
    })
}
