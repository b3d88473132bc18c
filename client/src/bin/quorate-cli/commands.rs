//! The commands of the shell, with zkCli's names, flags and output.
//!
//! A command is an entry of one of the tables below this module, beside the function that runs
//! it; help, completion and parsing all read the entry.

mod ensemble;
mod local;
mod quotas;
mod session;
mod subtree;
mod watching;
mod znodes;

use std::fmt::Write;
use std::ops::RangeInclusive;

use futures::future::LocalBoxFuture;

use crate::args::{Args, Flag};
use crate::shell::{Answer, Failure, Shell};

/// A command.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    /// What may stand behind the name.
    pub(crate) usage: &'static str,
    /// What it does, in a line.
    pub(crate) about: &'static str,
    pub(crate) flags: &'static [Flag],
    /// How many words stand behind it that are no flags.
    pub(crate) count: RangeInclusive<usize>,
    pub(crate) run: Run,
}

/// Runs a command in a shell.
type Run = for<'a> fn(&'a mut Shell, &'a Args) -> LocalBoxFuture<'a, Result<Answer, Failure>>;

/// All commands by subject, in the order of `help`.
const SUBJECTS: &[(&str, &[Command])] = &[
    ("Znodes", znodes::COMMANDS),
    ("Whole subtrees", subtree::COMMANDS),
    ("Watches", watching::COMMANDS),
    ("Quotas", quotas::COMMANDS),
    ("Session", session::COMMANDS),
    ("Ensemble", ensemble::COMMANDS),
    ("Shell", local::COMMANDS),
];

/// All commands, in the order of `help`.
pub(crate) fn all() -> impl Iterator<Item = &'static Command> + Clone {
    SUBJECTS.iter().flat_map(|(_, commands)| *commands)
}

/// The command of that name.
pub(crate) fn find(name: &str) -> Option<&'static Command> {
    all().find(|command| command.name == name)
}

/// The command that somebody who typed `name` may have meant.
pub(crate) fn similar(name: &str) -> Option<&'static str> {
    let lower = name.to_lowercase();
    let mut names = all().map(|command| command.name);
    names
        .clone()
        .find(|candidate| candidate.to_lowercase() == lower)
        .or_else(|| names.find(|candidate| !name.is_empty() && candidate.starts_with(name)))
}

/// A line for each command.
pub(crate) fn overview() -> String {
    let mut out = String::new();
    for (subject, commands) in SUBJECTS {
        let _ = writeln!(out, "{subject}:");
        for Command {
            name, usage, about, ..
        } in *commands
        {
            let form = format!("{name} {usage}");
            if form.len() <= FORM_WIDTH {
                let _ = writeln!(out, "  {form:<FORM_WIDTH$}  {about}");
            } else {
                let _ = writeln!(out, "  {form}\n  {:<FORM_WIDTH$}  {about}", "");
            }
        }
    }
    out + "\n" + RULES
}

/// What holds for all of them.
const RULES: &str = "\
Flags may stand anywhere behind the name; behind -- there are none. Words with blanks go into
'single' or \"double\" quotes. `help COMMAND` explains the flags.
";

/// Columns for the commands in front of what they do.
const FORM_WIDTH: usize = 40;

/// Everything about one command.
fn explain(command: &Command) -> String {
    let Command {
        name, usage, about, ..
    } = command;
    let mut out = format!("{name} {usage}\n  {about}\n");
    for flag in command.flags {
        let form = match flag.value {
            Some(value) => format!("{} {value}", flag.name),
            None => flag.name.to_owned(),
        };
        let _ = writeln!(out, "    {form:<16}  {}", flag.about);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_usage_names_every_flag() {
        let mut names: Vec<&str> = all().map(|command| command.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        for command in all() {
            for flag in command.flags {
                assert!(
                    command.usage.contains(flag.name),
                    "{} {}",
                    command.name,
                    flag.name
                );
            }
        }
    }

    #[test]
    fn every_command_of_zkcli_is_there() {
        for name in [
            "addWatch",
            "addauth",
            "close",
            "config",
            "connect",
            "create",
            "delete",
            "deleteall",
            "delquota",
            "exit",
            "get",
            "getAcl",
            "getAllChildrenNumber",
            "getEphemerals",
            "history",
            "listquota",
            "ls",
            "printwatches",
            "quit",
            "reconfig",
            "redo",
            "removewatches",
            "set",
            "setAcl",
            "setquota",
            "stat",
            "sync",
            "version",
            "whoami",
        ] {
            assert!(find(name).is_some(), "{name}");
        }
    }

    #[test]
    fn near_misses_are_suggested() {
        assert_eq!(similar("getacl"), Some("getAcl"));
        assert_eq!(similar("LS"), Some("ls"));
        assert_eq!(similar("getEph"), Some("getEphemerals"));
        assert_eq!(similar("frobnicate"), None);
        assert_eq!(similar(""), None);
    }
}
