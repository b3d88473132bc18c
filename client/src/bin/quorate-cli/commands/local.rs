//! Commands that need no server.

use serde_json::json;

use super::{Command, explain, find, overview, similar};
use crate::args::{Args, ArgsError};
use crate::shell::{Answer, Failure, Shell};
use crate::words;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "help",
        usage: "[command]",
        about: "Explains a command, or lists them all",
        flags: &[],
        count: 0..=1,
        run: |_, args| Box::pin(async { help(args) }),
    },
    Command {
        name: "history",
        usage: "",
        about: "Lists the last commands with their numbers",
        flags: &[],
        count: 0..=0,
        run: |shell, _| Box::pin(async { Ok(history(shell)) }),
    },
    Command {
        name: "redo",
        usage: "number",
        about: "Runs a command of the history again",
        flags: &[],
        count: 1..=1,
        run: |shell, args| Box::pin(redo(shell, args)),
    },
    Command {
        name: "printwatches",
        usage: "[on|off]",
        about: "Switches the display of events on or off, or tells which",
        flags: &[],
        count: 0..=1,
        run: |shell, args| Box::pin(async { printwatches(shell, args) }),
    },
    Command {
        name: "version",
        usage: "",
        about: "Tells the version of this program",
        flags: &[],
        count: 0..=0,
        run: |_, _| Box::pin(async { Ok(version()) }),
    },
    Command {
        name: "quit",
        usage: "",
        about: "Ends the session and the shell",
        flags: &[],
        count: 0..=0,
        run: |shell, _| Box::pin(quit(shell)),
    },
    Command {
        name: "exit",
        usage: "",
        about: "The same as quit",
        flags: &[],
        count: 0..=0,
        run: |shell, _| Box::pin(quit(shell)),
    },
];

fn help(args: &Args) -> Result<Answer, Failure> {
    let Some(name) = args.words.first() else {
        let names: Vec<&str> = super::all().map(|command| command.name).collect();
        return Ok(Answer::new(overview(), json!({ "commands": names })));
    };
    let command = find(name).ok_or_else(|| Failure::UnknownCommand {
        name: name.clone(),
        similar: similar(name),
    })?;
    let json = json!({
        "command": command.name,
        "usage": command.usage,
        "about": command.about,
    });
    Ok(Answer::new(explain(command), json))
}

/// How many lines `history` lists, itself included.
const LISTED: usize = 11;

fn history(shell: &Shell) -> Answer {
    let first = shell.history.len().saturating_sub(LISTED);
    let lines = shell.history.iter().enumerate().skip(first);
    let text: String = lines
        .clone()
        .map(|(number, line)| format!("{number} - {line}\n"))
        .collect();
    let json = lines
        .map(|(number, line)| json!({ "number": number, "line": line }))
        .collect();
    Answer::new(text, json!({ "history": serde_json::Value::Array(json) }))
}

async fn redo(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    let number: Option<usize> = args.word(0).parse().ok();
    // The last line is this redo itself.
    let earlier = shell.history.len().saturating_sub(1);
    let line = number
        .filter(|number| *number < earlier)
        .and_then(|number| shell.history.get(number).cloned())
        .ok_or_else(|| {
            ArgsError::Invalid(format!(
                "{:?} is no number of an earlier command; `history` lists them",
                args.word(0)
            ))
        })?;
    let words = words::split(&line)?;
    if words.first().is_some_and(|name| name == "redo") {
        return Err(ArgsError::Invalid("a redo cannot be redone".into()).into());
    }
    if let Some(last) = shell.history.last_mut() {
        *last = line;
    }
    shell.execute(words).await
}

fn printwatches(shell: &Shell, args: &Args) -> Result<Answer, Failure> {
    let text = match args.words.first().map(String::as_str) {
        None if shell.console.shows_events() => "printwatches is on\n",
        None => "printwatches is off\n",
        Some("on") => {
            shell.console.show_events(true);
            ""
        }
        Some("off") => {
            shell.console.show_events(false);
            ""
        }
        Some(other) => {
            return Err(ArgsError::Invalid(format!("{other:?} is neither on nor off")).into());
        }
    };
    let json = json!({ "printwatches": shell.console.shows_events() });
    Ok(Answer::new(text, json))
}

fn version() -> Answer {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    let text = format!("quorate-cli version: {VERSION}\n");
    Answer::new(text, json!({ "version": VERSION }))
}

async fn quit(shell: &mut Shell) -> Result<Answer, Failure> {
    shell.close().await;
    shell.quit = true;
    Ok(Answer::quiet(json!({})))
}
