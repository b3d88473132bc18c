//! What the demos share.

pub mod chart;

use std::env;
use std::error::Error;
use std::fmt::Display;
use std::io::{IsTerminal, Write, stdout};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use quorate_recipes::Client;
use quorate_server::Ensemble;

/// Whatever ends a demo before its end.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Which servers a demo uses.
#[derive(Debug, Clone, Args)]
pub struct Where {
    /// A running ensemble to use; without it, one of three servers is started for the time of the
    /// demo
    #[arg(long, value_name = "HOST:PORT[,…]")]
    pub connect: Option<String>,
}

/// The servers of a demo, whose participants have a session each, as if they were processes.
#[derive(Debug)]
pub struct Servers {
    /// Runs until the demo ends.
    _ensemble: Option<Ensemble>,
    addresses: String,
    session: Duration,
}

impl Servers {
    /// The servers to use, for sessions of this timeout: how long the dead count among the living.
    ///
    /// # Errors
    ///
    /// If an ensemble cannot be started.
    pub async fn new(place: Where, session: Duration, story: &Story) -> Result<Self, Failure> {
        let (ensemble, addresses) = match place.connect {
            Some(addresses) => (None, addresses),
            None => {
                // Sessions last from two to twenty ticks.
                let ensemble = Ensemble::builder().tick_time(session / 12).start().await?;
                let addresses = ensemble.connect_string();
                story.tell(format_args!("an ensemble is up at {addresses}"));
                (Some(ensemble), addresses)
            }
        };
        Ok(Servers {
            _ensemble: ensemble,
            addresses,
            session,
        })
    }

    /// A session of its own.
    ///
    /// # Errors
    ///
    /// If no server can be reached.
    pub async fn client(&self) -> Result<Client, Failure> {
        let client = Client::builder().session_timeout(self.session);
        Ok(client.connect(&self.addresses).await?)
    }
}

/// A [`Screen`] that many tell at.
#[derive(Debug, Clone, Default)]
pub struct Story(Arc<Mutex<Screen>>);

impl Story {
    /// Adds a line.
    pub fn tell(&self, line: impl Display) {
        let mut screen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        screen.tell(line);
    }

    /// Tells how it ended, and makes an exit code of it: 0 only if it was right.
    pub fn end(&self, outcome: Result<Result<String, String>, Failure>) -> ExitCode {
        match outcome {
            Ok(Ok(right)) => {
                self.tell(format_args!("RIGHT: {right}"));
                ExitCode::SUCCESS
            }
            Ok(Err(wrong)) => {
                self.tell(format_args!("WRONG: {wrong}"));
                ExitCode::FAILURE
            }
            Err(failure) => {
                eprintln!("{failure}");
                ExitCode::FAILURE
            }
        }
    }
}

/// Tells a story on standard output: lines that stay, each with its time, and below them, on a
/// terminal, a picture of how things stand.
#[derive(Debug)]
pub struct Screen {
    start: Instant,
    is_terminal: bool,
    picture: Vec<String>,
}

impl Default for Screen {
    fn default() -> Self {
        let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        Screen {
            start: Instant::now(),
            is_terminal: stdout().is_terminal() && !is_dumb,
            picture: Vec::new(),
        }
    }
}

impl Screen {
    /// Adds a line to the story.
    pub fn tell(&mut self, line: impl Display) {
        let line = format!("{:6.2} s  {line}\n", self.start.elapsed().as_secs_f64());
        let picture = self.picture.clone();
        self.print(&line, picture);
    }

    /// Adds lines that carry no time, such as a table.
    pub fn add(&mut self, lines: &[String]) {
        let picture = self.picture.clone();
        self.print(&format!("{}\n", lines.join("\n")), picture);
    }

    /// Shows this picture in place of the last one.
    pub fn show(&mut self, picture: Vec<String>) {
        if self.is_terminal && self.picture != picture {
            self.print("", picture);
        }
    }

    /// Prints text where the old picture is, and the new picture below.
    fn print(&mut self, text: &str, picture: Vec<String>) {
        let mut out = String::new();
        if self.is_terminal {
            // Moving up by no line would move up by one.
            match self.picture.len() {
                0 => {}
                lines => out.push_str(&format!("\x1b[{lines}A\x1b[J")),
            }
        }
        out.push_str(text);
        for line in &picture {
            out.push_str(line);
            out.push('\n');
        }
        self.picture = picture;
        // Nobody is there to be told that nobody listens.
        let _ = stdout().write_all(out.as_bytes());
        let _ = stdout().flush();
    }
}
