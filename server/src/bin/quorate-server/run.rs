//! The server in the foreground, from its settings to its end.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    sync::Arc,
};

use quorate_server::{
    Server, ServerError,
    config::{Config, Loaded},
    storage::StorageError,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::{
    cli::Options,
    notify,
    pid_file::{PidFile, TakeError},
    place::{self, Place},
};

/// Runs a server until it is told to stop or cannot go on.
pub(crate) fn foreground(place: &Place, options: &Options, detach: bool) -> ExitCode {
    if let Err(error) = log_events(options) {
        let _ = writeln!(io::stderr(), "quorate-server: --log: {error}");
        return ExitCode::from(crate::USAGE);
    }
    if detach {
        // A process that leads its group already has a session, or a terminal that it may keep.
        let _ = rustix::process::setsid();
    }
    let Loaded {
        config, notices, ..
    } = match place.load() {
        Ok(loaded) => loaded,
        Err(invalid) => {
            for problem in invalid.problems() {
                error!("{problem}");
            }
            error!("Invalid config, exiting abnormally");
            return ExitCode::from(invalid.exit_code());
        }
    };
    info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        settings = %place.file.as_ref().map_or_else(|| "flags".into(), |file| file.display().to_string()),
        data_dir = %config.data_dir.display(),
        "starting"
    );
    for notice in notices {
        warn!("{notice}");
    }
    let pid_file = match hold_pid_file(&config, options) {
        Ok(pid_file) => pid_file,
        Err(held) => {
            error!("{held}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "cannot start the threads of the server");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(serve(config));
    // What is still being read for a start that was given up need not be waited for.
    runtime.shutdown_background();
    drop(pid_file);
    ended
}

/// Takes the pid file. Where it cannot be written the server runs without one, unless it is the
/// data directory itself that cannot be used, which the start will tell better.
fn hold_pid_file(config: &Config, options: &Options) -> Result<Option<PidFile>, TakeError> {
    let path = place::pid_file(config, options);
    if config.datadir_autocreate && path.starts_with(&config.data_dir) {
        let _ = std::fs::create_dir_all(&config.data_dir);
    }
    match PidFile::take(&path) {
        Ok(file) => Ok(Some(file)),
        Err(error @ TakeError::Io { .. }) => {
            warn!("{error}; `stop` and `check` will not find this server");
            Ok(None)
        }
        Err(held) => Err(held),
    }
}

async fn serve(config: Config) -> ExitCode {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            error!(%error, "cannot listen for signals");
            return ExitCode::FAILURE;
        }
    };
    let patience = config.shutdown_timeout;
    let server = tokio::select! {
        started = Server::start(config) => match started {
            Ok(server) => server,
            Err(error) => {
                error!("{error}");
                return ExitCode::from(start_exit_code(&error));
            }
        },
        name = signals.stop() => {
            info!(signal = name, "stopped before it served");
            return ExitCode::SUCCESS;
        }
    };
    if server.client_addr().is_none() {
        warn!("serving nobody: clientPort is not set");
    }
    notify::send(notify::READY);
    let name = tokio::select! {
        ended = server.stopped() => return exit(ended),
        name = signals.stop() => name,
    };
    info!(signal = name, "stopping: finishing the requests in work");
    notify::send(notify::STOPPING);
    tokio::select! {
        ended = timeout(patience, server.shutdown()) => ended.map_or_else(
            |_| {
                warn!(?patience, "stopping at once: clients do not take their answers");
                ExitCode::SUCCESS
            },
            exit,
        ),
        name = signals.stop() => {
            warn!(signal = name, "stopping at once");
            ExitCode::FAILURE
        }
    }
}

/// How a server that has run ends.
fn exit(ended: Result<(), Arc<ServerError>>) -> ExitCode {
    match ended {
        Ok(()) => {
            info!("stopped");
            ExitCode::SUCCESS
        }
        Err(cause) => {
            error!("stopped: {cause}");
            ExitCode::from(match &*cause {
                ServerError::Storage(_) => WRITING_FAILED,
                _ => UNEXPECTED,
            })
        }
    }
}

/// The exit code of a server that does not start.
fn start_exit_code(error: &ServerError) -> u8 {
    match error {
        ServerError::Config(invalid) => invalid.exit_code(),
        ServerError::Storage(StorageError::Io { .. }) => DATA_DIR_UNUSABLE,
        _ => UNEXPECTED,
    }
}

/// Exit codes, as Apache's server has them.
const UNEXPECTED: u8 = 1;
const DATA_DIR_UNUSABLE: u8 = 3;
const WRITING_FAILED: u8 = 10;

/// The signals that a server heeds.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal to stop, and names it. The end of a terminal is none.
    async fn stop(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => {}
            }
        }
    }
}

/// One line an event on standard error; what, by `--log`, or `RUST_LOG`, or `info`.
fn log_events(options: &Options) -> Result<(), tracing_subscriber::filter::ParseError> {
    let from_environment = std::env::var(EnvFilter::DEFAULT_ENV)
        .ok()
        .filter(|text| !text.is_empty());
    let wanted = options
        .log
        .clone()
        .or(from_environment)
        .unwrap_or_else(|| "info".to_owned());
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(wanted)?)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    Ok(())
}
