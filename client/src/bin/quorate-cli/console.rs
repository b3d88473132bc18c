//! Where answers, failures and events are written.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustyline::ExternalPrinter;
use serde_json::{Value, json};

use crate::OutputFormat;
use crate::shell::{Answer, Failure};

/// The standard output and error, shared by the commands and by the watches behind them.
#[derive(Clone)]
pub(crate) struct Console {
    format: OutputFormat,
    shared: Arc<Shared>,
}

struct Shared {
    /// Whether events are printed at all.
    events: AtomicBool,
    /// Draws events above the line that is being edited, while there is one.
    printer: Mutex<Option<Box<dyn ExternalPrinter + Send>>>,
}

impl Console {
    pub(crate) fn new(format: OutputFormat) -> Self {
        Console {
            format,
            shared: Arc::new(Shared {
                events: AtomicBool::new(true),
                printer: Mutex::new(None),
            }),
        }
    }

    /// Prints events through the line editor from now on.
    pub(crate) fn print_events_through(&self, printer: impl ExternalPrinter + Send + 'static) {
        *self.shared.printer.lock() = Some(Box::new(printer));
    }

    /// Switches events on or off.
    pub(crate) fn show_events(&self, show: bool) {
        self.shared.events.store(show, Ordering::Relaxed);
    }

    /// Are events printed?
    pub(crate) fn shows_events(&self) -> bool {
        self.shared.events.load(Ordering::Relaxed)
    }

    /// Prints what a command answered: its result on the standard output, and what zkCli says on
    /// the standard error there.
    pub(crate) fn answer(&self, answer: &Answer) -> io::Result<()> {
        match self.format {
            OutputFormat::Text => {
                io::stderr().write_all(answer.note.as_bytes())?;
                let mut out = io::stdout().lock();
                if out.is_terminal() {
                    out.write_all(harmless(&answer.out).as_bytes())?;
                } else {
                    out.write_all(&answer.out)?;
                }
                out.flush()
            }
            OutputFormat::Json => self.object(&answer.json),
        }
    }

    /// Prints why a command failed.
    pub(crate) fn failure(&self, failure: &Failure) -> io::Result<()> {
        match self.format {
            OutputFormat::Text => writeln!(io::stderr(), "{failure}"),
            OutputFormat::Json => self.object(&json!({ "error": failure.json() })),
        }
    }

    /// Prints an event, unless events are off.
    pub(crate) fn event(&self, event: &Event) {
        if !self.shows_events() {
            return;
        }
        let text = match self.format {
            OutputFormat::Text => format!("\nWATCHER::\n\n{}\n", event.text()),
            OutputFormat::Json => format!("{}\n", json!({ "event": event.json() })),
        };
        // An event that cannot be shown has nobody to be shown to.
        let _ = match &mut *self.shared.printer.lock() {
            Some(printer) => printer.print(text).map_err(io::Error::other),
            None => {
                let mut out = io::stdout().lock();
                out.write_all(text.as_bytes()).and_then(|()| out.flush())
            }
        };
    }

    fn object(&self, value: &Value) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{value}")?;
        out.flush()
    }
}

/// Something that happened to a watched znode, or to the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// The state of the session, in zkCli's words.
    pub(crate) state: &'static str,
    /// What happened, in zkCli's words; `None` for a change of the session.
    pub(crate) kind: &'static str,
    /// To which znode.
    pub(crate) path: Option<String>,
    /// In which transaction.
    pub(crate) zxid: Option<i64>,
}

impl Event {
    fn text(&self) -> String {
        const NO_ZXID: i64 = -1;
        let path = self.path.as_deref().unwrap_or("null");
        let zxid = self.zxid.unwrap_or(NO_ZXID);
        let Event { state, kind, .. } = self;
        format!("WatchedEvent state:{state} type:{kind} path:{path} zxid: {zxid}")
    }

    fn json(&self) -> Value {
        json!({
            "state": self.state,
            "type": self.kind,
            "path": self.path,
            "zxid": self.zxid,
        })
    }
}

/// Data as a terminal may see it: control characters could drive the terminal, so they are shown
/// by their numbers.
fn harmless(data: &[u8]) -> String {
    let text = String::from_utf8_lossy(data);
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && !matches!(c, '\n' | '\t') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_read_as_zkcli_prints_them() {
        let mut event = Event {
            state: "SyncConnected",
            kind: "NodeDataChanged",
            path: Some("/a".into()),
            zxid: Some(7),
        };
        assert_eq!(
            event.text(),
            "WatchedEvent state:SyncConnected type:NodeDataChanged path:/a zxid: 7"
        );
        event = Event {
            state: "Expired",
            kind: "None",
            path: None,
            zxid: None,
        };
        assert_eq!(
            event.text(),
            "WatchedEvent state:Expired type:None path:null zxid: -1"
        );
    }

    #[test]
    fn a_terminal_sees_no_control_characters() {
        assert_eq!(harmless(b"a\n\tb\x1b[2Jc\r"), "a\n\tb\\u{1b}[2Jc\\r");
        assert_eq!(harmless(&[b'a', 255]), "a\u{fffd}");
    }
}
