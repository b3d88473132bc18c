//! The flags and words behind a command's name, in zkCli's style: `-s`, `-v 3`, `-members LIST`,
//! anywhere in the line.

use std::ops::RangeInclusive;
use std::str::FromStr;

use thiserror::Error;

/// A flag of a command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    /// With its dash.
    pub(crate) name: &'static str,
    /// What its value is, if it has one.
    pub(crate) value: Option<&'static str>,
    /// What it does.
    pub(crate) about: &'static str,
}

/// Declares a flag without a value.
pub(crate) const fn switch(name: &'static str, about: &'static str) -> Flag {
    Flag {
        name,
        value: None,
        about,
    }
}

/// Declares a flag with a value.
pub(crate) const fn option(name: &'static str, value: &'static str, about: &'static str) -> Flag {
    Flag {
        name,
        value: Some(value),
        about,
    }
}

/// Why the words behind a command make no sense to it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum ArgsError {
    #[error("there is no flag {0} here; put -- in front of words that begin with a dash")]
    UnknownFlag(String),
    #[error("{0} needs a value")]
    MissingValue(&'static str),
    #[error("{0} is given twice")]
    Repeated(&'static str),
    #[error("{flag} cannot be {value:?}: it is {expected}")]
    InvalidValue {
        flag: &'static str,
        value: String,
        expected: &'static str,
    },
    #[error("{} missing", if *.missing == 1 { "an argument is" } else { "arguments are" })]
    TooFew { missing: usize },
    #[error("{0:?} is one argument too many; quote data that has blanks")]
    TooMany(String),
    #[error("{0} and {1} exclude each other")]
    Exclusive(&'static str, &'static str),
    #[error("{0}")]
    Invalid(String),
}

/// The parsed words of one command.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Args {
    flags: Vec<(&'static str, Option<String>)>,
    /// Words that are no flags, in order.
    pub(crate) words: Vec<String>,
}

impl Args {
    /// Sorts `input` into flags and at least and at most `count` other words.
    pub(crate) fn parse(
        input: Vec<String>,
        flags: &[Flag],
        count: &RangeInclusive<usize>,
    ) -> Result<Args, ArgsError> {
        let mut args = Args::default();
        let mut input = input.into_iter();
        while let Some(word) = input.next() {
            if word == "--" {
                args.words.extend(input);
                break;
            }
            if !is_flag(&word) {
                args.words.push(word);
                continue;
            }
            if let Some(flag) = flags.iter().find(|flag| flag.name == word) {
                let value = match flag.value {
                    Some(_) => Some(input.next().ok_or(ArgsError::MissingValue(flag.name))?),
                    None => None,
                };
                args.add(flag, value)?;
            } else {
                args.add_bundle(&word, flags)?;
            }
        }
        if let Some(missing) = count.start().checked_sub(args.words.len())
            && missing > 0
        {
            return Err(ArgsError::TooFew { missing });
        }
        match args.words.get(*count.end()) {
            Some(word) => Err(ArgsError::TooMany(word.clone())),
            None => Ok(args),
        }
    }

    /// Switches of one letter may stand together: `-sw`.
    fn add_bundle(&mut self, word: &str, flags: &[Flag]) -> Result<(), ArgsError> {
        for letter in word.chars().skip(1) {
            let is_letter = |flag: &&Flag| flag.name.chars().skip(1).eq([letter]);
            let flag = flags
                .iter()
                .find(is_letter)
                .filter(|flag| flag.value.is_none())
                .ok_or_else(|| ArgsError::UnknownFlag(word.to_owned()))?;
            self.add(flag, None)?;
        }
        Ok(())
    }

    fn add(&mut self, flag: &Flag, value: Option<String>) -> Result<(), ArgsError> {
        if self.has(flag.name) && value.is_some() {
            return Err(ArgsError::Repeated(flag.name));
        }
        self.flags.push((flag.name, value));
        Ok(())
    }

    /// Is the flag set?
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|(name, _)| *name == flag)
    }

    /// The value of the flag.
    pub(crate) fn value(&self, flag: &str) -> Option<&str> {
        let mut flags = self.flags.iter();
        flags
            .find(|(name, _)| *name == flag)
            .and_then(|(_, value)| value.as_deref())
    }

    /// The value of the flag as a number; `expected` says what kind.
    pub(crate) fn number<T: FromStr>(
        &self,
        flag: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>, ArgsError> {
        let parse = |value: &str| {
            value.parse().map_err(|_| ArgsError::InvalidValue {
                flag,
                value: value.to_owned(),
                expected,
            })
        };
        self.value(flag).map(parse).transpose()
    }

    /// The version that `-v` asks for; every version if it is not set.
    pub(crate) fn version(&self) -> Result<i32, ArgsError> {
        const ANY: i32 = -1;
        Ok(self
            .number("-v", "a version number, or -1 for any")?
            .unwrap_or(ANY))
    }

    /// Refuses two flags that contradict each other.
    pub(crate) fn exclusive(&self, a: &'static str, b: &'static str) -> Result<(), ArgsError> {
        if self.has(a) && self.has(b) {
            return Err(ArgsError::Exclusive(a, b));
        }
        Ok(())
    }

    /// The word at `index`; empty if there is none, which the count of the command rules out.
    pub(crate) fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", String::as_str)
    }
}

/// Negative numbers and a lone dash are words.
fn is_flag(word: &str) -> bool {
    word.len() > 1 && word.starts_with('-') && word.parse::<f64>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        switch("-s", "stat"),
        switch("-w", "watch"),
        option("-v", "VERSION", "version"),
        option("-add", "LIST", "servers"),
    ];

    fn parse(line: &str) -> Result<Args, ArgsError> {
        let words = line.split_whitespace().map(str::to_owned).collect();
        Args::parse(words, FLAGS, &(1..=2))
    }

    #[test]
    fn flags_may_stand_anywhere() {
        for line in ["-s -v 3 /a x", "/a -s x -v 3", "/a x -s -v 3"] {
            let args = parse(line).unwrap();
            assert_eq!(args.words, ["/a", "x"], "{line}");
            assert!(args.has("-s") && !args.has("-w"));
            assert_eq!(args.version(), Ok(3));
        }
        let args = parse("-sw -add server.1=h /a").unwrap();
        assert!(args.has("-s") && args.has("-w"));
        assert_eq!(args.value("-add"), Some("server.1=h"));
        assert_eq!(args.version(), Ok(-1));
    }

    #[test]
    fn what_looks_like_a_flag_can_be_data() {
        assert_eq!(parse("/a -5").unwrap().words, ["/a", "-5"]);
        assert_eq!(parse("/a -").unwrap().words, ["/a", "-"]);
        assert_eq!(parse("-- /a -s").unwrap().words, ["/a", "-s"]);
    }

    #[test]
    fn mistakes_are_named() {
        for (line, error) in [
            ("/a -q", ArgsError::UnknownFlag("-q".into())),
            ("/a -sq", ArgsError::UnknownFlag("-sq".into())),
            ("/a -v", ArgsError::MissingValue("-v")),
            ("/a -v 1 -v 2", ArgsError::Repeated("-v")),
            ("-s", ArgsError::TooFew { missing: 1 }),
            ("/a b c", ArgsError::TooMany("c".into())),
        ] {
            assert_eq!(parse(line).unwrap_err(), error, "{line}");
        }
        let error = parse("/a -v x").unwrap().version().unwrap_err();
        assert_eq!(
            error.to_string(),
            "-v cannot be \"x\": it is a version number, or -1 for any"
        );
    }
}
