//! Znodes as text, to the letter as zkCli prints them, and as JSON.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use quorate_proto::{Acl, Perms, Stat};
use serde_json::{Value, json};

/// A stat, one field a line.
pub(crate) fn stat(stat: &Stat) -> String {
    format!(
        "cZxid = {:#x}\nctime = {}\nmZxid = {:#x}\nmtime = {}\npZxid = {:#x}\ncversion = {}\n\
         dataVersion = {}\naclVersion = {}\nephemeralOwner = {:#x}\ndataLength = {}\n\
         numChildren = {}\n",
        stat.czxid,
        time(stat.ctime, &TimeZone::system()),
        stat.mzxid,
        time(stat.mtime, &TimeZone::system()),
        stat.pzxid,
        stat.cversion,
        stat.version,
        stat.aversion,
        stat.ephemeral_owner,
        stat.data_length,
        stat.num_children
    )
}

/// Zxids and times are numbers; a session id is text, since it is beyond what most readers of
/// JSON hold exactly.
pub(crate) fn stat_json(stat: &Stat) -> Value {
    json!({
        "czxid": stat.czxid,
        "mzxid": stat.mzxid,
        "pzxid": stat.pzxid,
        "ctime": stat.ctime,
        "mtime": stat.mtime,
        "version": stat.version,
        "cversion": stat.cversion,
        "aversion": stat.aversion,
        "ephemeral_owner": format!("{:#x}", stat.ephemeral_owner),
        "data_length": stat.data_length,
        "num_children": stat.num_children,
    })
}

/// Milliseconds since 1970 as `Thu Jan 01 00:00:00 UTC 1970`.
fn time(millis: i64, zone: &TimeZone) -> String {
    match Timestamp::from_millisecond(millis) {
        Ok(time) => {
            let time = time.to_zoned(zone.clone());
            time.strftime("%a %b %d %H:%M:%S %Z %Y").to_string()
        }
        Err(_) => format!("{millis} ms"),
    }
}

/// `[a, b]`
pub(crate) fn list(items: &[impl AsRef<str>]) -> String {
    let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    format!("[{}]", items.join(", "))
}

/// An ACL, two lines an entry.
pub(crate) fn acl(acl: &[Acl<'_>]) -> String {
    acl.iter().fold(String::new(), |mut out, entry| {
        let Acl { perms, id } = entry;
        let _ = writeln!(out, "'{},'{}\n: {perms}", id.scheme, id.id);
        out
    })
}

pub(crate) fn acl_json(acl: &[Acl<'_>]) -> Value {
    acl.iter()
        .map(|entry| {
            json!({
                "scheme": entry.id.scheme,
                "id": entry.id.id,
                "perms": entry.perms.to_string(),
            })
        })
        .collect()
}

/// Reads `scheme:id:perms` entries separated by commas. The id may have colons.
pub(crate) fn parse_acl(text: &str) -> Result<Vec<Acl<'static>>, String> {
    let entry = |entry: &str| {
        let malformed = || format!("{entry:?} does not have the form scheme:id:perms");
        let (scheme, rest) = entry.split_once(':').ok_or_else(malformed)?;
        let (id, perms) = rest.rsplit_once(':').ok_or_else(malformed)?;
        let perms = parse_perms(perms).map_err(|letter| {
            format!("{entry:?}: there is no permission {letter:?}; they are c, d, r, w and a")
        })?;
        Ok(Acl::new(perms, scheme, id).into_owned())
    };
    text.split(',').map(entry).collect()
}

fn parse_perms(letters: &str) -> Result<Perms, char> {
    letters.chars().try_fold(Perms(0), |perms, letter| {
        Ok(perms
            | match letter {
                'c' => Perms::CREATE,
                'd' => Perms::DELETE,
                'r' => Perms::READ,
                'w' => Perms::WRITE,
                'a' => Perms::ADMIN,
                _ => return Err(letter),
            })
    })
}

/// Data as a field of JSON: text if it is text, base64 under another name if it is not.
pub(crate) fn data_json(data: Option<&[u8]>, as_base64: bool) -> (&'static str, Value) {
    match data {
        None => ("data", Value::Null),
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if !as_base64 => ("data", text.into()),
            _ => ("data_base64", base64(bytes).into()),
        },
    }
}

pub(crate) fn base64(data: &[u8]) -> String {
    STANDARD.encode(data)
}

/// Reads base64.
pub(crate) fn parse_base64(text: &str) -> Result<Vec<u8>, String> {
    let decoded = STANDARD.decode(text);
    decoded.map_err(|err| format!("{text:?} is not base64: {err}"))
}

/// Bytes as a table of offsets, hexadecimal numbers and characters, 16 a row.
pub(crate) fn hexdump(data: &[u8]) -> String {
    const ROW: usize = 16;
    let numbers = "-".repeat(3 * ROW + 1);
    let characters = "-".repeat(ROW);
    let rule = format!("+--------+{numbers}+{characters}+");
    let columns: String = (0..ROW).fold(String::new(), |mut out, column| {
        let _ = write!(out, "  {column:x}");
        out
    });
    let mut out = format!("         +{numbers}+\n         |{columns} |\n{rule}\n");
    for (index, row) in data.chunks(ROW).enumerate() {
        let hex = row.iter().fold(String::new(), |mut out, byte| {
            let _ = write!(out, " {byte:02x}");
            out
        });
        let text: String = row.iter().map(|byte| printable(*byte)).collect();
        let offset = index * ROW;
        let _ = writeln!(out, "|{offset:08x}|{hex:<48} |{text:<ROW$}|");
    }
    out + &rule
}

fn printable(byte: u8) -> char {
    if matches!(byte, b' '..=b'~') {
        char::from(byte)
    } else {
        '.'
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_reads_as_zkcli_prints_it() {
        let znode = Stat {
            czxid: 0x44a4c1,
            mzxid: 0x44a4c6,
            pzxid: 0x44a4c3,
            cversion: 2,
            version: 3,
            aversion: 1,
            ephemeral_owner: 0x0100_0020_5f93_0000,
            data_length: 5,
            num_children: 4,
            ..Stat::default()
        };
        let text = stat(&znode);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 11);
        assert_eq!(lines[0], "cZxid = 0x44a4c1");
        assert!(lines[1].starts_with("ctime = "));
        assert_eq!(lines[2], "mZxid = 0x44a4c6");
        assert_eq!(
            lines[4..7],
            ["pZxid = 0x44a4c3", "cversion = 2", "dataVersion = 3"]
        );
        assert_eq!(
            lines[7..9],
            ["aclVersion = 1", "ephemeralOwner = 0x10000205f930000"]
        );
        assert_eq!(lines[9..], ["dataLength = 5", "numChildren = 4"]);
        assert_eq!(stat_json(&znode)["ephemeral_owner"], "0x10000205f930000");
    }

    #[test]
    fn times_read_as_java_prints_dates() {
        assert_eq!(time(0, &TimeZone::UTC), "Thu Jan 01 00:00:00 UTC 1970");
        assert_eq!(
            time(1_795_204_585_000, &TimeZone::UTC),
            "Fri Nov 20 19:56:25 UTC 2026"
        );
        assert_eq!(time(i64::MAX, &TimeZone::UTC), format!("{} ms", i64::MAX));
    }

    #[test]
    fn lists_and_acls_read_as_zkcli_prints_them() {
        assert_eq!(list(&["a", "b"]), "[a, b]");
        assert_eq!(list(&[] as &[&str]), "[]");
        let entries = parse_acl("world:anyone:r,digest:user:hash=:cdrwa").unwrap();
        assert_eq!(entries[1], Acl::new(Perms::ALL, "digest", "user:hash="));
        assert_eq!(
            acl(&entries),
            "'world,'anyone\n: r\n'digest,'user:hash=\n: cdrwa\n"
        );
        assert_eq!(acl_json(&entries)[0]["perms"], "r");
    }

    #[test]
    fn a_malformed_acl_says_what_is_wrong() {
        assert!(parse_acl("world:anyone").unwrap_err().contains("the form"));
        assert!(parse_acl("world").unwrap_err().contains("the form"));
        assert!(parse_acl("ip:::rx").unwrap_err().contains("'x'"));
    }

    #[test]
    fn data_is_text_or_base64() {
        assert_eq!(data_json(None, false), ("data", Value::Null));
        assert_eq!(data_json(Some(b"x"), false), ("data", "x".into()));
        assert_eq!(data_json(Some(b"x"), true), ("data_base64", "eA==".into()));
        assert_eq!(
            data_json(Some(&[255]), false),
            ("data_base64", "/w==".into())
        );
        assert_eq!(parse_base64("eA==").unwrap(), b"x");
        assert!(parse_base64("?").is_err());
    }

    #[test]
    fn a_hexdump_has_offsets_numbers_and_characters() {
        assert_eq!(
            hexdump(b"hello\n"),
            "         +-------------------------------------------------+\n\
             \x20        |  0  1  2  3  4  5  6  7  8  9  a  b  c  d  e  f |\n\
             +--------+-------------------------------------------------+----------------+\n\
             |00000000| 68 65 6c 6c 6f 0a                               |hello.          |\n\
             +--------+-------------------------------------------------+----------------+"
        );
    }
}
