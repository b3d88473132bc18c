//! Takes a line apart into words, the way zkCli does.
//!
//! A word that begins with `'` or `"` reaches to the next such quote and loses both; every other
//! word reaches to the next blank. There are no escapes, so data with backslashes stays as it is.

use thiserror::Error;

/// A quote without an end.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the {quote} that opens at character {at} is never closed")]
pub(crate) struct Unclosed {
    quote: char,
    /// Counted from 1.
    at: usize,
}

/// The words of a line, without their quotes.
pub(crate) fn split(line: &str) -> Result<Vec<String>, Unclosed> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, behind) = if matches!(first, '\'' | '"') {
            let unclosed = || Unclosed {
                quote: first,
                at: line[..line.len() - rest.len()].chars().count() + 1,
            };
            rest[1..].split_once(first).ok_or_else(unclosed)?
        } else {
            rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()))
        };
        words.push(word.to_owned());
        rest = behind.trim_start();
    }
    Ok(words)
}

/// The word at the end of a line that is still being typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unfinished<'a> {
    /// How many words stand before it.
    pub(crate) index: usize,
    /// Where it begins, in bytes, behind its quote if it has one.
    pub(crate) start: usize,
    /// What there is of it.
    pub(crate) text: &'a str,
    /// The quote that it began with.
    pub(crate) quote: Option<char>,
}

/// Finds the word that is being typed at the end of `line`.
pub(crate) fn unfinished(line: &str) -> Unfinished<'_> {
    let mut index = 0;
    let mut at = 0;
    loop {
        at = line.len() - line[at..].trim_start().len();
        let quote = line[at..]
            .chars()
            .next()
            .filter(|c| matches!(c, '\'' | '"'));
        let start = at + quote.map_or(0, char::len_utf8);
        let end = match quote {
            Some(quote) => line[start..].find(quote).map(|n| start + n + 1),
            None => line[start..].find(char::is_whitespace).map(|n| start + n),
        };
        match end {
            Some(end) => at = end,
            None => {
                return Unfinished {
                    index,
                    start,
                    text: &line[start..],
                    quote,
                };
            }
        }
        index += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_zkcli_splits_them() {
        for (line, words) in [
            ("", &[][..]),
            ("   ", &[]),
            ("ls /", &["ls", "/"]),
            ("  get\t/a  ", &["get", "/a"]),
            (r#"create /a "two words""#, &["create", "/a", "two words"]),
            ("create /a ''", &["create", "/a", ""]),
            (r#"set /a '{"k": 1}'"#, &["set", "/a", r#"{"k": 1}"#]),
            (r#"set /a {"k":1}"#, &["set", "/a", r#"{"k":1}"#]),
            (r#"set /a C:\new"#, &["set", "/a", r"C:\new"]),
            (r#""a"'b'c"#, &["a", "b", "c"]),
            ("create /ü é", &["create", "/ü", "é"]),
        ] {
            assert_eq!(split(line).unwrap(), words, "{line}");
        }
    }

    #[test]
    fn an_open_quote_is_named() {
        let error = split("set /ü 'abc").unwrap_err();
        assert_eq!(error, Unclosed { quote: '\'', at: 8 });
    }

    #[test]
    fn finds_the_word_under_the_cursor() {
        for (line, index, start, text, quote) in [
            ("", 0, 0, "", None),
            ("g", 0, 0, "g", None),
            ("get ", 1, 4, "", None),
            ("get /a/b", 1, 4, "/a/b", None),
            ("get -s '/a b", 2, 8, "/a b", Some('\'')),
            (r#"set "/a b" x"#, 2, 11, "x", None),
        ] {
            let expected = Unfinished {
                index,
                start,
                text,
                quote,
            };
            assert_eq!(unfinished(line), expected, "{line}");
        }
    }
}
