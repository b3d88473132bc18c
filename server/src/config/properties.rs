//! The format of `zoo.cfg`: Java's properties files.
//!
//! `key=value`, `key:value` or `key value`; comments begin with `#` or `!`; a backslash escapes a
//! character or continues the line.

use std::str::Chars;

/// One entry of a properties file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Property {
    pub(super) key: String,
    pub(super) value: String,
    /// The line on which it begins, counted from 1.
    pub(super) line: usize,
}

/// A line that is not in the format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) line: usize,
    pub(super) what: String,
}

/// Reads all entries in their order, keys and values trimmed; duplicates are all there.
pub(super) fn parse(text: &str) -> Result<Vec<Property>, Malformed> {
    let mut entries = Vec::new();
    for (line, logical) in logical_lines(text) {
        let (raw_key, raw_value) = split_entry(&logical);
        let unescape = |raw: &str| unescape(raw).map_err(|what| Malformed { line, what });
        entries.push(Property {
            key: unescape(raw_key)?.trim().to_owned(),
            value: unescape(raw_value)?.trim().to_owned(),
            line,
        });
    }
    Ok(entries)
}

/// The text without the entries whose keys are `unwanted`. Everything else stays as it is, but for
/// the ends of lines.
pub(super) fn without(text: &str, unwanted: impl Fn(&str) -> bool) -> Result<String, Malformed> {
    let entries = parse(text)?.into_iter();
    let unwanted: Vec<usize> = entries
        .filter(|entry| unwanted(&entry.key))
        .map(|entry| entry.line)
        .collect();
    let mut kept = String::with_capacity(text.len());
    let mut continued = false;
    for (index, line) in unix_lines(text).split_inclusive('\n').enumerate() {
        if continued || unwanted.binary_search(&(index + 1)).is_ok() {
            continued = continues(line.trim_end_matches('\n'));
        } else {
            kept.push_str(line);
        }
    }
    Ok(kept)
}

/// Reads bytes as UTF-8, or as ISO 8859-1 if they are none.
pub(super) fn decode(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| error.into_bytes().into_iter().map(char::from).collect())
}

const BLANKS: [char; 3] = [' ', '\t', '\u{c}'];

fn unix_lines(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// Joins continued lines and leaves out comments and empty ones.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let normal = unix_lines(text);
    let mut lines = normal.split('\n').enumerate();
    let mut logical = Vec::new();
    while let Some((index, line)) = lines.next() {
        let line = line.trim_start_matches(BLANKS);
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let mut joined = line.to_owned();
        while continues(&joined) {
            joined.pop();
            match lines.next() {
                Some((_, next)) => joined.push_str(next.trim_start_matches(BLANKS)),
                None => break,
            }
        }
        if !joined.is_empty() {
            logical.push((index + 1, joined));
        }
    }
    logical
}

/// A line continues if it ends in a backslash that is not itself escaped.
fn continues(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// Splits at the first unescaped `=`, `:` or blank; blanks around an `=` or `:` belong to it.
fn split_entry(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|c: char| {
        let ends = !escaped && (c == '=' || c == ':' || BLANKS.contains(&c));
        escaped = c == '\\' && !escaped;
        ends
    });
    let (key, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = rest.trim_start_matches(BLANKS);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, rest.trim_start_matches(BLANKS))
}

fn unescape(raw: &str) -> Result<String, String> {
    let mut text = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('t') => text.push('\t'),
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('f') => text.push('\u{c}'),
            Some('u') => text.push(unicode_escape(&mut chars)?),
            Some(other) => text.push(other),
            None => {}
        }
    }
    Ok(text)
}

/// Reads what follows `\u`: four hex digits, twice for a character beyond 16 bits.
fn unicode_escape(chars: &mut Chars<'_>) -> Result<char, String> {
    let malformed = || "malformed \\uXXXX escape; write \\\\ for a backslash".to_owned();
    let first = code_unit(chars).ok_or_else(malformed)?;
    let mut units = vec![first];
    if (0xd800..0xdc00).contains(&first) {
        let escaped = chars.next() == Some('\\') && chars.next() == Some('u');
        units.push(
            escaped
                .then(|| code_unit(chars))
                .flatten()
                .ok_or_else(malformed)?,
        );
    }
    match char::decode_utf16(units)
        .collect::<Result<Vec<char>, _>>()
        .as_deref()
    {
        Ok(&[c]) => Ok(c),
        _ => Err(malformed()),
    }
}

fn code_unit(chars: &mut Chars<'_>) -> Option<u16> {
    let mut unit = 0u16;
    for _ in 0..4 {
        let digit = chars.next()?.to_digit(16)?;
        unit = (unit << 4) | u16::try_from(digit).ok()?;
    }
    Some(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text)
            .unwrap()
            .into_iter()
            .map(|entry| (entry.key, entry.value))
            .collect()
    }

    fn owned(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn separators_and_blanks() {
        let text = "a=1\nb:2\nc 3\n  d  =  4  \ne\t:\t5\nf\ng==6\nh = : 7\n=8";
        let expected = [
            ("a", "1"),
            ("b", "2"),
            ("c", "3"),
            ("d", "4"),
            ("e", "5"),
            ("f", ""),
            ("g", "=6"),
            ("h", ": 7"),
            ("", "8"),
        ];
        assert_eq!(pairs(text), owned(&expected));
    }

    #[test]
    fn comments_and_line_ends() {
        let text = "# x=1\r\n ! y=2\r\n\r\na=1\rb=2 # not a comment\n";
        assert_eq!(
            pairs(text),
            owned(&[("a", "1"), ("b", "2 # not a comment")])
        );
    }

    #[test]
    fn escapes() {
        let text = "a\\=b\\ c=x\\ty\npath=C:\\\\data\nu=\\u00e9\\uD83D\\uDE00\nk=\\q";
        let expected = [
            ("a=b c", "x\ty"),
            ("path", "C:\\data"),
            ("u", "é😀"),
            ("k", "q"),
        ];
        assert_eq!(pairs(text), owned(&expected));
    }

    #[test]
    fn continued_lines_count_from_their_first() {
        let text = "\na=1,\\\n   2,\\\n\t3\n# c\\\nb=\\\\\nc=4\\";
        let entries = parse(text).unwrap();
        let seen: Vec<_> = entries
            .iter()
            .map(|e| (e.line, e.key.as_str(), e.value.as_str()))
            .collect();
        assert_eq!(seen, [(2, "a", "1,2,3"), (6, "b", "\\"), (7, "c", "4")]);
    }

    #[test]
    fn malformed_escapes_name_their_line() {
        for bad in [
            "a=\\u12",
            "a=\\uzzzz",
            "a=\\ud800",
            "a=\\ud800\\u0041",
            "a=\\udc00",
        ] {
            let error = parse(&format!("x=1\n{bad}\n")).unwrap_err();
            assert_eq!(error.line, 2, "{bad}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_latin1() {
        assert_eq!(decode(vec![b'a', 0xe9]), "aé");
        assert_eq!(decode("aé".as_bytes().to_vec()), "aé");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*|[\\\\u#!=: \n\r\tab0-9]*") {
            let lines = text.len() + 1;
            match parse(&text) {
                Ok(entries) => assert!(entries.iter().all(|entry| entry.line <= lines)),
                Err(error) => assert!(error.line <= lines),
            }
        }
    }
}
