//! The shell on a terminal: editing, history, completion.

use std::io;
use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs};

use quorate_proto::path;
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::{CompletionType, Config, Context, Editor, Helper, Highlighter, Hinter, Validator};
use tokio::runtime::{Handle, Runtime};
use tokio::time::timeout;

use crate::commands;
use crate::shell::{Link, Shell};
use crate::words::{self, Unfinished};

/// Lines kept from one run to the next.
const KEPT_LINES: usize = 1000;

/// Reads commands from the terminal and runs them, until `quit` or the end of the input.
pub(crate) fn run(shell: &mut Shell, runtime: &Runtime) -> Result<(), ReadlineError> {
    let config = Config::builder()
        .max_history_size(KEPT_LINES)?
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        .build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(Assistant {
        link: shell.link.clone(),
        runtime: runtime.handle().clone(),
    }));
    let history = history_file();
    if let Some(file) = &history {
        // There is none before the first run.
        let _ = editor.load_history(file);
    }
    shell
        .console
        .print_events_through(editor.create_external_printer()?);
    if let Err(failure) = runtime.block_on(shell.connect()) {
        shell.console.failure(&failure)?;
    }
    while !shell.quit {
        match editor.readline(&prompt(shell)) {
            Ok(line) => {
                if !holds_a_secret(&line) {
                    editor.add_history_entry(line.as_str())?;
                }
                runtime.block_on(run_line(shell, &line))?;
            }
            // Gives up the line, as in every shell.
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error),
        }
    }
    if let Some(file) = &history {
        keep(&mut editor, file)?;
    }
    Ok(())
}

/// Runs a line, unless the user gives it up. What it has asked of the server by then may happen
/// nevertheless.
async fn run_line(shell: &mut Shell, line: &str) -> io::Result<()> {
    tokio::select! {
        result = shell.run_line(line) => result,
        interrupt = tokio::signal::ctrl_c() => {
            eprintln!("interrupted");
            interrupt
        }
    }
}

/// Credentials stay out of the file.
fn holds_a_secret(line: &str) -> bool {
    line.trim_start().starts_with("addauth")
}

fn prompt(shell: &Shell) -> String {
    let state = shell.link.state_name();
    let number = shell.history.len();
    format!("[zk: {}({state}) {number}] ", shell.settings.servers)
}

/// In the user's directory for state, which is where the XDG specification puts histories.
fn history_file() -> Option<PathBuf> {
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|dir| dir.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local").join("state")))?;
    Some(state.join("quorate").join("cli-history"))
}

fn keep(
    editor: &mut Editor<Assistant, rustyline::history::DefaultHistory>,
    file: &PathBuf,
) -> io::Result<()> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    editor.append_history(file).map_err(io::Error::other)
}

/// Completes commands, flags and paths.
#[derive(Helper, Highlighter, Hinter, Validator)]
struct Assistant {
    link: Link,
    runtime: Handle,
}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let line = line.get(..pos).unwrap_or(line);
        let word = words::unfinished(line);
        let candidates = if word.index == 0 {
            complete_command(word.text)
        } else if word.text.starts_with('/') {
            self.complete_path(&word)
        } else if word.text.starts_with('-') {
            complete_flag(line, word.text)
        } else {
            Vec::new()
        };
        Ok((word.start, candidates))
    }
}

impl Assistant {
    /// Asks the server, but does not keep the user waiting for one that is slow or away.
    fn complete_path(&self, word: &Unfinished<'_>) -> Vec<Pair> {
        const PATIENCE: Duration = Duration::from_millis(500);
        let Some(client) = self
            .link
            .get()
            .filter(|client| client.state().is_connected())
        else {
            return Vec::new();
        };
        let cut = word.text.rfind('/').unwrap_or(0);
        let (parent, begun) = (&word.text[..cut.max(1)], &word.text[cut + 1..]);
        if path::validate(parent).is_err() {
            return Vec::new();
        }
        let answer = self
            .runtime
            .block_on(timeout(PATIENCE, client.get_children(parent)));
        let Ok(Ok(mut children)) = answer else {
            return Vec::new();
        };
        children.retain(|name| name.starts_with(begun));
        children.sort_unstable();
        let pair = |name: &String| Pair {
            display: name.clone(),
            replacement: quoted(path::join(parent, name), word.quote),
        };
        children.iter().map(pair).collect()
    }
}

/// A path with blanks needs a quote in front, unless there is one.
fn quoted(path: String, quote: Option<char>) -> String {
    if quote.is_none() && path.contains(char::is_whitespace) {
        return format!("\"{path}");
    }
    path
}

fn complete_command(begun: &str) -> Vec<Pair> {
    let mut names: Vec<&str> = commands::all().map(|command| command.name).collect();
    names.retain(|name| name.starts_with(begun));
    names.sort_unstable();
    // Nothing but its arguments can follow a name.
    let pair = |name: &str| Pair {
        display: name.to_owned(),
        replacement: format!("{name} "),
    };
    names.into_iter().map(pair).collect()
}

fn complete_flag(line: &str, begun: &str) -> Vec<Pair> {
    let name = line.split_whitespace().next().unwrap_or_default();
    let flags = commands::find(name).map_or(&[][..], |command| command.flags);
    let matching = flags.iter().filter(|flag| flag.name.starts_with(begun));
    let pair = |flag: &crate::args::Flag| Pair {
        display: format!("{}  {}", flag.name, flag.about),
        replacement: format!("{} ", flag.name),
    };
    matching.map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replacements(pairs: Vec<Pair>) -> Vec<String> {
        pairs.into_iter().map(|pair| pair.replacement).collect()
    }

    #[test]
    fn paths_with_blanks_are_quoted() {
        assert_eq!(quoted("/a b".into(), None), "\"/a b");
        assert_eq!(quoted("/a b".into(), Some('\'')), "/a b");
        assert_eq!(quoted("/ab".into(), None), "/ab");
    }

    #[test]
    fn commands_and_flags_are_completed() {
        assert_eq!(
            replacements(complete_command("get")),
            ["get ", "getAcl ", "getAllChildrenNumber ", "getEphemerals "]
        );
        assert_eq!(
            replacements(complete_flag("reconfig -m", "-m")),
            ["-members "]
        );
        assert!(complete_flag("nonsense -", "-").is_empty());
    }
}
