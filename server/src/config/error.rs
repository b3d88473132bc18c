//! What can be wrong with a configuration, and what is only worth saying.

use std::{fmt, path::PathBuf, sync::Arc};

/// Where a setting was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A line of a file, counted from 1.
    File {
        /// The file.
        path: Arc<PathBuf>,
        /// The line on which the setting begins.
        line: usize,
    },
    /// A file as a whole.
    WholeFile(Arc<PathBuf>),
    /// A `-D` option in this environment variable.
    Environment(String),
    /// This flag of the command line.
    Flag(String),
    /// Settings made in code.
    Code,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::WholeFile(path) => write!(f, "{}", path.display()),
            Origin::Environment(variable) => write!(f, "environment variable {variable}"),
            Origin::Flag(flag) => write!(f, "{flag}"),
            Origin::Code => f.write_str("configuration"),
        }
    }
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// Where it was written.
    pub origin: Origin,
    /// The key; empty when it is not about one key.
    pub key: String,
    /// The kind of problem.
    pub kind: ProblemKind,
    /// What is wrong.
    pub what: String,
    /// What to do about it; empty when that is plain.
    pub advice: String,
}

/// The kinds of [`Problem`], as a program may want to tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProblemKind {
    /// The file cannot be read, or is not in the format of a properties file.
    Unreadable,
    /// A required setting is missing.
    Missing,
    /// A value cannot be read as what the key needs.
    BadValue,
    /// Two settings contradict each other.
    Conflict,
    /// A line about the members of the ensemble is wrong.
    Members,
    /// The file `myid` is missing, or its number cannot be used.
    MyId,
    /// The number in `myid` is none of the members'.
    NotAMember,
    /// The setting asks for a protection or a service that this server does not offer, so that
    /// to run without it would be unsafe or useless.
    Unsupported,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)?;
        if !self.advice.is_empty() {
            write!(f, "; {}", self.advice)?;
        }
        Ok(())
    }
}

/// A configuration that a server cannot run with: everything that is wrong with it, at least one thing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    /// An error if there is any problem.
    pub(super) fn check(problems: Vec<Problem>) -> Result<(), ConfigError> {
        match problems.is_empty() {
            true => Ok(()),
            false => Err(ConfigError { problems }),
        }
    }

    /// The exit code with which a server ends: 2 for an invalid configuration, 1 if it is valid and
    /// all that is wrong is that this server cannot serve it.
    pub fn exit_code(&self) -> u8 {
        let cannot_serve = |problem: &Problem| {
            matches!(
                problem.kind,
                ProblemKind::Unsupported | ProblemKind::NotAMember
            )
        };
        if self.problems.iter().all(cannot_serve) {
            1
        } else {
            2
        }
    }

    /// Everything that is wrong, in the order of the file as far as it has one.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> ConfigError {
        ConfigError {
            problems: vec![problem],
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

/// Something about a configuration that is worth saying and does not keep a server from running.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notice {
    /// Where it was written.
    pub origin: Origin,
    /// The key; empty when it is not about one key.
    pub key: String,
    /// What is to be said.
    pub text: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.text)
    }
}
