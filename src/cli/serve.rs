//! `braidlog serve`: opens the store, answers calls, and stops in order.
//!
//! | it ends | status |
//! |---|---|
//! | after SIGTERM or SIGINT: calls and tails are ended, the store is closed | 0 |
//! | after a second signal, at once | 128 + its number |
//! | because the store stopped after a failed write | 75 |
//! | because the data directory or the address is in use, or the system refused for now | 75 |
//! | because settings cannot be used, or the store is corrupt or no store | 78 |
//!
//! 75 says: start it again. 78 says: that would not help. Stopping in order takes ten
//! seconds at most; what is cut off then is as safe as in a crash.

use std::{
    error::Error as StdError,
    io::{self, ErrorKind, Write},
    net::SocketAddr,
    process,
    time::Duration,
};

use clap::Args;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    failure::{Exit, Failure},
    logging,
    present::{Happening, Line},
    quantity::size,
    settings::{Settings, SettingsArgs},
};
use crate::{
    config::{Config, LogFormat},
    engine::Store,
    error::OpenError,
    grpc::server,
};

/// How long calls may take to end when the server stops.
const CALLS_END_MAX: Duration = Duration::from_secs(8);
/// How long the store may take to close after that.
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// How long calls may take to learn that the store has stopped.
const LAST_ANSWERS_MAX: Duration = Duration::from_millis(100);

const EXAMPLES: &str = "\
Examples:
  braidlog serve
  braidlog serve --data-dir /var/lib/braidlog --listen 0.0.0.0:4480
  BRAIDLOG_LOG=info,braidlog=debug braidlog serve --log-format json 2>> braidlog.log

A setting comes from the command line, else from the environment, else from
the file, else it has its default: `braidlog config show` tells which, and
lists settings that have no option.
Exit status: 0 stopped in order, 75 start it again, 78 that will not help.";

/// Serves a store
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Runs the server until it is told to stop, or cannot go on.
pub(super) async fn run(args: ServeArgs) -> Result<(), Failure> {
    let Settings { config, unknown_variables, .. } = args.settings.settings()?;
    logging::start(&config.log, config.log_format)?;
    for name in unknown_variables {
        tracing::warn!(%name, "this environment variable is not known");
    }
    let mut signals = Signals::new()?;
    // Nothing has been promised yet: a signal during recovery is a plain end.
    let store = tokio::select! {
        store = open(&config) => store?,
        _ = signals.next() => return Ok(()),
    };
    let (listener, address) = listen(&config.listen).await?;
    tracing::info!(total = %size(config.store.memory_bytes()), "memory budget");
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server::serve(listener, store.clone(), stop.clone()));
    say_ready(address, &config);
    watch(&store, serving, stop, signals).await
}

async fn open(config: &Config) -> Result<Store, Failure> {
    let options = config.store.clone();
    let store = tokio::task::spawn_blocking(|| Store::open(options)).await;
    let store = store.map_err(|panic| cannot_go_on(&panic))?;
    store.map_err(|error| Failure {
        exit: open_exit(&error),
        reason: "OPEN",
        message: format!("cannot open the store: {error}"),
    })
}

fn open_exit(error: &OpenError) -> Exit {
    match error {
        // Whoever has it may be about to end.
        OpenError::Locked { .. } => Exit::Restart,
        OpenError::NotAStore { .. } | OpenError::Corrupt { .. } | OpenError::Options { .. } => {
            Exit::DoNotRestart
        }
        OpenError::Io { source, .. } => io_exit(source),
    }
}

/// Whether the system may think otherwise at the next try.
fn io_exit(error: &io::Error) -> Exit {
    match error.kind() {
        ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::PermissionDenied
        | ErrorKind::NotADirectory
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::AddrNotAvailable
        | ErrorKind::InvalidInput => Exit::DoNotRestart,
        _ => Exit::Restart,
    }
}

async fn listen(address: &str) -> Result<(TcpListener, SocketAddr), Failure> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let local = listener.local_addr()?;
        Ok((listener, local))
    };
    bound.await.map_err(|error: io::Error| Failure {
        exit: io_exit(&error),
        reason: "LISTEN",
        message: format!("cannot listen on {address}: {error}"),
    })
}

/// Tells that calls are answered from now on.
fn say_ready(address: SocketAddr, config: &Config) {
    let data_dir = config.store.data_dir.display();
    let line = match config.log_format {
        LogFormat::Text => format!("listening on {address}, data in {data_dir}"),
        LogFormat::Json => {
            let (listen, data_dir) = (address.to_string(), data_dir.to_string());
            let ready = Line::new(Happening::Ready { listen, data_dir });
            serde_json::to_string(&ready).unwrap_or_default()
        }
    };
    // A server whose standard error is closed serves all the same.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Waits for the end and makes it an orderly one.
async fn watch<E: StdError + Send + 'static>(
    store: &Store,
    mut server: JoinHandle<Result<(), E>>,
    stop: CancellationToken,
    mut signals: Signals,
) -> Result<(), Failure> {
    tokio::select! {
        cause = store.stopped() => {
            tracing::error!(%cause, "the store has stopped");
            stop.cancel();
            // Calls in flight get their answer if there is time for it.
            let _ = timeout(LAST_ANSWERS_MAX, &mut server).await;
            Err(Failure {
                exit: Exit::Restart,
                reason: "STOPPED",
                message: format!("the store has stopped: {cause}; start the server again"),
            })
        }
        ended = &mut server => match ended {
            Ok(Ok(())) => Err(cannot_go_on(&"the server ended by itself")),
            Ok(Err(error)) => Err(cannot_go_on(&error)),
            Err(panic) => Err(cannot_go_on(&panic)),
        },
        name = signals.next() => {
            tracing::info!(signal = name, "shutting down");
            stop.cancel();
            tokio::spawn(async move { signals.exit_at_next().await });
            shut_down(store, server).await
        }
    }
}

async fn shut_down<E>(store: &Store, server: JoinHandle<Result<(), E>>) -> Result<(), Failure> {
    if timeout(CALLS_END_MAX, server).await.is_err() {
        tracing::warn!("calls have not ended in time; they are cut off");
    }
    match timeout(CLOSE_MAX, store.close()).await {
        Ok(closed) => closed.map_err(|error| cannot_go_on(&error))?,
        Err(_) => tracing::warn!("the store has not closed in time; the next start recovers it"),
    }
    tracing::info!("stopped");
    Ok(())
}

fn cannot_go_on(cause: &dyn std::fmt::Display) -> Failure {
    Failure { exit: Exit::Restart, reason: "SERVER", message: format!("cannot go on: {cause}") }
}

/// The signals that ask for an end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::io("signals", &error));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// The name of the next one.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Does not wait for anything any more.
    async fn exit_at_next(&mut self) {
        let number = match self.next().await {
            "SIGINT" => 2,
            _ => 15,
        };
        process::exit(128 + number);
    }
}
