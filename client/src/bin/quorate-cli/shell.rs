//! The shell: a connection, the watches on it, and the commands that are run in it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_client::{Client, ClientBuilder, Error, ErrorCode, State, path};
use serde_json::{Value, json};
use thiserror::Error as ThisError;
use tokio::time::timeout;

use crate::args::{Args, ArgsError};
use crate::commands::{self, Command};
use crate::console::{Console, Event};
use crate::watches::Watches;
use crate::words::{self, Unclosed};

/// What a command answers.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// For the standard output. Data of znodes is passed on as it is.
    pub(crate) out: Vec<u8>,
    /// For the standard error, where zkCli says that it created something.
    pub(crate) note: String,
    /// The same for programs.
    pub(crate) json: Value,
}

impl Answer {
    /// Text for the standard output, and the same as JSON.
    pub(crate) fn new(out: impl Into<Vec<u8>>, json: Value) -> Self {
        Answer {
            out: out.into(),
            note: String::new(),
            json,
        }
    }

    /// Nothing to say but to programs.
    pub(crate) fn quiet(json: Value) -> Self {
        Answer::new("", json)
    }

    /// With a remark, a line of its own.
    pub(crate) fn with_note(mut self, note: &str) -> Self {
        self.note = format!("{note}\n");
        self
    }
}

/// Why a command failed.
#[derive(Debug, ThisError)]
pub(crate) enum Failure {
    #[error("there is no command {name:?}{}; `help` lists them all", suggestion(*.similar))]
    UnknownCommand {
        name: String,
        similar: Option<&'static str>,
    },
    #[error("{0}")]
    Line(#[from] Unclosed),
    #[error("{command}: {source}\nusage: {command} {usage}")]
    Usage {
        command: &'static str,
        usage: &'static str,
        source: ArgsError,
    },
    #[error("{}", explain(command, source))]
    Operation {
        command: &'static str,
        source: Error,
    },
    #[error("not connected; `connect [HOST:PORT]` connects")]
    NotConnected,
    #[error("{0}")]
    Refused(String),
    /// Arguments that the command found wrong; becomes [`Failure::Usage`].
    #[error("{0}")]
    Args(#[from] ArgsError),
    /// What the client answered to the command; becomes [`Failure::Operation`].
    #[error("{0}")]
    Client(#[from] Error),
}

/// What scripts expect of a command that succeeded, failed, or does not exist.
pub(crate) const SUCCESS: u8 = 0;
const FAILURE: u8 = 1;
const NOT_FOUND: u8 = 127;

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Failure::UnknownCommand { .. } => NOT_FOUND,
            _ => FAILURE,
        }
    }

    /// For programs: what kind, in the protocol's words where it has one, and the message.
    pub(crate) fn json(&self) -> Value {
        let (kind, code) = match self {
            Failure::UnknownCommand { .. } => ("UNKNOWN_COMMAND", None),
            Failure::Line(_) | Failure::Usage { .. } | Failure::Args(_) => ("USAGE", None),
            Failure::NotConnected => ("NOT_CONNECTED", None),
            Failure::Refused(_) => ("REFUSED", None),
            Failure::Client(source) | Failure::Operation { source, .. } => match source.code() {
                Some(code) => (code.name().unwrap_or("UNKNOWN"), Some(code.0)),
                None => ("CLIENT", None),
            },
        };
        json!({ "kind": kind, "code": code, "message": self.to_string() })
    }
}

fn suggestion(similar: Option<&str>) -> String {
    similar.map_or(String::new(), |name| format!(", did you mean {name:?}?"))
}

/// An error as zkCli words it, which scripts may look for, and what to do about it.
fn explain(command: &str, error: &Error) -> String {
    // What a create or a delete lacks it lacks in the parent.
    let above = matches!(command, "create" | "delete" | "deleteall");
    match error {
        Error::NoNode { path } if command == "create" => {
            let parent = path::parent(path).unwrap_or("/");
            format!("Node does not exist: {path} (create its parent {parent} first)")
        }
        Error::NoNode { path } => format!("Node does not exist: {path}"),
        Error::NodeExists { path } => {
            format!("Node already exists: {path} (`set {path} DATA` changes its data)")
        }
        Error::BadVersion { path } => {
            format!("version No is not valid : {path} (`get -s {path}` shows the one that it has)")
        }
        Error::NotEmpty { path } => {
            format!("Node not empty: {path} (`deleteall {path}` deletes its children too)")
        }
        Error::NoAuth { path } => {
            let guarded = path::parent(path).filter(|_| above).unwrap_or(path);
            format!(
                "Insufficient permission : {path} (`getAcl {guarded}` shows who may do what, \
                 `addauth` adds a credential)"
            )
        }
        Error::NoChildrenForEphemerals { path } => {
            format!("Ephemerals cannot have children: {path}")
        }
        Error::InvalidAcl { path } => format!(
            "Acl is not valid : {path} (`auth` needs a credential, which `addauth` adds; \
             `digest` needs user:hash)"
        ),
        Error::Server { code, .. } => match server_setting(command, *code) {
            Some(setting) => format!("{error} (it needs {setting} on the servers)"),
            None => error.to_string(),
        },
        error if error.is_session_over() => {
            format!("{error} (`connect` opens a new session)")
        }
        error => error.to_string(),
    }
}

/// The setting without which servers refuse a command.
fn server_setting(command: &str, code: ErrorCode) -> Option<&'static str> {
    match (command, code) {
        ("create", ErrorCode::UNIMPLEMENTED) => Some("extendedTypesEnabled=true"),
        ("reconfig", ErrorCode::RECONFIG_DISABLED) => Some("reconfigEnabled=true"),
        _ => None,
    }
}

/// How to connect.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The connect string.
    pub(crate) servers: String,
    pub(crate) session_timeout: Duration,
    /// Everything else.
    pub(crate) client: ClientBuilder,
}

/// The shell's connection, shared with the prompt and with completion.
#[derive(Clone, Default)]
pub(crate) struct Link(Arc<Mutex<Option<Client>>>);

impl Link {
    pub(crate) fn get(&self) -> Option<Client> {
        self.0.lock().clone()
    }

    fn set(&self, client: Option<Client>) -> Option<Client> {
        std::mem::replace(&mut *self.0.lock(), client)
    }

    /// The state of the session, in zkCli's words.
    pub(crate) fn state_name(&self) -> &'static str {
        match self.get().map(|client| client.state()) {
            Some(State::Connected) => "CONNECTED",
            Some(State::ConnectedReadOnly) => "CONNECTEDREADONLY",
            Some(State::Connecting | State::Disconnected) => "CONNECTING",
            Some(State::AuthFailed) => "AUTH_FAILED",
            _ => "CLOSED",
        }
    }
}

/// A shell.
pub(crate) struct Shell {
    pub(crate) settings: Settings,
    pub(crate) console: Console,
    pub(crate) watches: Watches,
    pub(crate) link: Link,
    /// The lines so far, numbered from 0.
    pub(crate) history: Vec<String>,
    /// Closed by command, so that no command opens it again but `connect`.
    closed: bool,
    /// Set by the command that ends the shell.
    pub(crate) quit: bool,
    /// What the last command answered to scripts.
    pub(crate) exit_code: u8,
}

impl Shell {
    pub(crate) fn new(settings: Settings, console: Console) -> Self {
        Shell {
            settings,
            watches: Watches::new(console.clone()),
            console,
            link: Link::default(),
            history: Vec::new(),
            closed: false,
            quit: false,
            exit_code: SUCCESS,
        }
    }

    /// The connection. The first command that needs it opens it.
    ///
    /// # Errors
    ///
    /// If no server answers within the session timeout, or `close` has closed it.
    pub(crate) async fn client(&mut self) -> Result<Client, Failure> {
        let client = match self.link.get() {
            Some(client) => client,
            None if self.closed => return Err(Failure::NotConnected),
            None => {
                let client = self
                    .settings
                    .client
                    .clone()
                    .connect(&self.settings.servers)
                    .await?;
                self.adopt(client.clone());
                client
            }
        };
        let within = self.settings.session_timeout;
        match timeout(within, client.connected()).await {
            Ok(connected) => connected?,
            Err(_) => {
                return Err(Failure::Refused(format!(
                    "no server of {} has answered for {within:?}; `connect HOST:PORT` tries others",
                    self.settings.servers
                )));
            }
        }
        Ok(client)
    }

    /// Begins to connect, and goes on in the background until it succeeds. A session that there is
    /// gets closed.
    pub(crate) async fn connect(&mut self) -> Result<(), Failure> {
        // Long enough for a server that is up, so that the next prompt shows the connection.
        const PATIENCE: Duration = Duration::from_secs(1);
        self.close().await;
        let client = self
            .settings
            .client
            .clone()
            .connect_lazy(&self.settings.servers)?;
        self.adopt(client.clone());
        // Whatever comes of it is an event, or the answer to the next command.
        let _ = timeout(PATIENCE, client.connected()).await;
        Ok(())
    }

    /// Ends the session, if there is one.
    pub(crate) async fn close(&mut self) {
        self.watches.clear();
        self.closed = true;
        if let Some(client) = self.link.set(None) {
            // The session ends by itself if the server cannot be told.
            let _ = client.close().await;
        }
    }

    fn adopt(&mut self, client: Client) {
        self.closed = false;
        self.watches.follow_session(&client);
        self.link.set(Some(client));
    }

    /// Runs a line of a shell or script.
    pub(crate) async fn run_line(&mut self, line: &str) -> std::io::Result<()> {
        if line.trim().is_empty() {
            return Ok(());
        }
        self.history.push(line.to_owned());
        match words::split(line) {
            Ok(words) => self.run(words).await,
            Err(unclosed) => self.report(Err(unclosed.into())),
        }
    }

    /// Runs a command and prints what it answers.
    pub(crate) async fn run(&mut self, words: Vec<String>) -> std::io::Result<()> {
        let result = self.execute(words).await;
        self.report(result)
    }

    fn report(&mut self, result: Result<Answer, Failure>) -> std::io::Result<()> {
        match result {
            Ok(answer) => {
                // The command that ends a script is not what the script was run for.
                if !self.quit {
                    self.exit_code = SUCCESS;
                }
                self.console.answer(&answer)
            }
            Err(failure) => {
                self.exit_code = failure.exit_code();
                self.console.failure(&failure)
            }
        }
    }

    /// Runs a command.
    pub(crate) async fn execute(&mut self, words: Vec<String>) -> Result<Answer, Failure> {
        let mut words = words.into_iter();
        let name = words.next().unwrap_or_default();
        let command = commands::find(&name).ok_or_else(|| Failure::UnknownCommand {
            similar: commands::similar(&name),
            name,
        })?;
        let result = match Args::parse(words.collect(), command.flags, &command.count) {
            Ok(args) => (command.run)(self, &args).await,
            Err(error) => Err(error.into()),
        };
        result.map_err(|failure| in_context(failure, command))
    }
}

/// Says how a command is to be used if it was used wrongly, and what its failure means.
fn in_context(failure: Failure, command: &'static Command) -> Failure {
    match failure {
        Failure::Args(source) => Failure::Usage {
            command: command.name,
            usage: command.usage,
            source,
        },
        Failure::Client(source) => Failure::Operation {
            command: command.name,
            source,
        },
        other => other,
    }
}

/// A change of the session as an event.
pub(crate) fn session_event(state: State) -> Option<Event> {
    let state = match state {
        State::Connected => "SyncConnected",
        State::ConnectedReadOnly => "ConnectedReadOnly",
        State::Disconnected => "Disconnected",
        State::Expired => "Expired",
        State::AuthFailed => "AuthFailed",
        State::Closed => "Closed",
        _ => return None,
    };
    Some(Event {
        state,
        kind: "None",
        path: None,
        zxid: None,
    })
}
