//! How the text of a setting becomes its value, and back.
//!
//! Apache's numbers are bare, with the unit fixed by the key (`tickTime=2000` is milliseconds). They
//! are read as such; where a unit is written out (`tickTime=2s`, `preAllocSize=16MiB`) it is honoured.

use std::{
    net::{IpAddr, ToSocketAddrs},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use super::types::{FourLetterWords, PeerType, Secret, SnapshotCompression};

/// Reads and shows the values of one kind of setting.
pub(super) struct Format<T> {
    /// Reads a trimmed value; the error says what was expected.
    pub(super) parse: fn(&str) -> Result<T, String>,
    /// Shows a value the way it may stand in `zoo.cfg`; empty for "not set".
    pub(super) show: fn(&T) -> String,
    /// What a bare number counts, or the values to choose from; empty if the name says it.
    pub(super) unit: &'static str,
}

/// A boolean of the keys that Apache parses itself: `true` or `false` in any case, nothing else.
pub(super) const SWITCH: Format<bool> = Format {
    parse: |text| match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("invalid option {text:?}: neither true nor false")),
    },
    show: bool::to_string,
    unit: "true/false",
};

/// A boolean of the keys that pass through as properties: `true` in any case is true, all else false.
pub(super) const PROPERTY_SWITCH: Format<bool> = Format {
    parse: |text| Ok(text.eq_ignore_ascii_case("true")),
    show: bool::to_string,
    unit: "true/false",
};

/// On unless the value is exactly `no`.
pub(super) const YES_UNLESS_NO: Format<bool> = Format {
    parse: |text| Ok(text != "no"),
    show: show_yes_no,
    unit: "yes/no",
};

/// Off unless the value is exactly `yes`.
pub(super) const NO_UNLESS_YES: Format<bool> = Format {
    parse: |text| Ok(text == "yes"),
    show: show_yes_no,
    unit: "yes/no",
};

pub(super) const MILLIS: Format<Duration> = Format {
    parse: |text| duration(text, Duration::from_millis(1)),
    show: show_millis,
    unit: "ms",
};

/// Milliseconds; zero and negative values mean "not set".
pub(super) const MILLIS_OR_OFF: Format<Option<Duration>> = Format {
    parse: |text| off_unless_positive(text, |text| duration(text, Duration::from_millis(1))),
    show: |value| optional(value.as_ref(), show_millis),
    unit: "ms",
};

/// Milliseconds; only negative values mean "not set".
pub(super) const MILLIS_OR_DEFAULT: Format<Option<Duration>> = Format {
    parse: |text| match text.starts_with('-') {
        true => integer::<i64>(text).map(|_| None),
        false => duration(text, Duration::from_millis(1)).map(Some),
    },
    show: |value| optional(value.as_ref(), show_millis),
    unit: "ms",
};

/// Hours; zero and negative values mean "not set".
pub(super) const HOURS_OR_OFF: Format<Option<Duration>> = Format {
    parse: |text| off_unless_positive(text, |text| duration(text, Duration::from_secs(3600))),
    show: |value| optional(value.as_ref(), |d| format!("{}ms", d.as_millis())),
    unit: "hours",
};

pub(super) const BYTES: Format<usize> = Format {
    parse: |text| size(text, 1).and_then(narrow),
    show: usize::to_string,
    unit: "bytes",
};

pub(super) const KIB: Format<u64> = Format {
    parse: |text| size(text, 1024),
    show: show_kib,
    unit: "KiB",
};

/// Kibibytes; zero and negative values mean "not set".
pub(super) const KIB_OR_OFF: Format<Option<u64>> = Format {
    parse: |text| off_unless_positive(text, |text| size(text, 1024)),
    show: |value| optional(value.as_ref(), show_kib),
    unit: "KiB",
};

pub(super) const COUNT: Format<u32> = Format {
    parse: integer,
    show: u32::to_string,
    unit: "",
};

/// A count; zero and negative values mean "no limit" or "not set".
pub(super) const COUNT_OR_OFF: Format<Option<u32>> = Format {
    parse: |text| off_unless_positive(text, integer),
    show: |value| optional(value.as_ref(), u32::to_string),
    unit: "",
};

pub(super) const RATIO: Format<f64> = Format {
    parse: |text| match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(format!("{text:?} is not a number")),
    },
    show: f64::to_string,
    unit: "ratio",
};

pub(super) const PORT: Format<Option<u16>> = Format {
    parse: |text| port(text).map(Some),
    show: |value| optional(value.as_ref(), u16::to_string),
    unit: "port",
};

/// A port; zero and negative values mean "not set".
pub(super) const PORT_OR_OFF: Format<Option<u16>> = Format {
    parse: |text| off_unless_positive(text, port),
    show: |value| optional(value.as_ref(), u16::to_string),
    unit: "port",
};

/// An address, or the name of a host, of which the first address is taken.
pub(super) const HOST: Format<Option<IpAddr>> = Format {
    parse: |text| resolve(text).map(Some),
    show: |value| optional(value.as_ref(), IpAddr::to_string),
    unit: "host",
};

pub(super) const DIRECTORY: Format<PathBuf> = Format {
    parse: |text| Ok(PathBuf::from(text)),
    show: |path| path.display().to_string(),
    unit: "path",
};

pub(super) const OPTIONAL_PATH: Format<Option<PathBuf>> = Format {
    parse: |text| Ok((!text.is_empty()).then(|| PathBuf::from(text))),
    show: |value| optional(value.as_ref(), |path| path.display().to_string()),
    unit: "path",
};

/// Names separated by commas; blanks around them do not count.
pub(super) const NAMES: Format<Vec<String>> = Format {
    parse: |text| {
        let names = text.split(',').map(str::trim);
        Ok(names
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect())
    },
    show: |names| names.join(","),
    unit: "list",
};

pub(super) const WORDS: Format<FourLetterWords> = Format {
    parse: |text| Ok(FourLetterWords::from_list(text)),
    show: FourLetterWords::to_string,
    unit: "list",
};

pub(super) const PEER_TYPE: Format<PeerType> = Format {
    parse: PeerType::from_str,
    show: PeerType::to_string,
    unit: "participant/observer",
};

pub(super) const COMPRESSION: Format<SnapshotCompression> = Format {
    parse: SnapshotCompression::from_str,
    show: SnapshotCompression::to_string,
    unit: "none/gz/snappy",
};

pub(super) const SECRET: Format<Option<Secret>> = Format {
    parse: |text| Ok((!text.is_empty()).then(|| Secret::new(text))),
    show: |value| optional(value.as_ref(), |_| "(hidden)".to_owned()),
    unit: "",
};

/// Reads a decimal number as Java does: an optional sign, then digits.
pub(super) fn integer<T: FromStr>(text: &str) -> Result<T, String> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{text:?} is not a whole number"));
    }
    text.parse().map_err(|_| match text.starts_with('-') {
        true => format!("{text} must not be negative"),
        false => format!("{text} is too large"),
    })
}

/// Reads the version of a configuration, which is a zxid.
pub(super) fn hexadecimal(text: &str) -> Result<u64, String> {
    let number = u64::from_str_radix(text, 16).ok();
    number
        .filter(|number| i64::try_from(*number).is_ok())
        .ok_or_else(|| format!("{text:?} is not a hexadecimal number"))
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    let number: i64 = integer(text)?;
    u16::try_from(number).map_err(|_| format!("port out of range: {number} (0 to 65535)"))
}

fn resolve(text: &str) -> Result<IpAddr, String> {
    let host = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    if let Ok(address) = host.parse() {
        return Ok(address);
    }
    let unknown = |why: String| format!("unknown host {host:?}{why}");
    if host.is_empty() {
        return Err(unknown(String::new()));
    }
    let mut addresses = (host, 0)
        .to_socket_addrs()
        .map_err(|error| unknown(format!(": {error}")))?;
    addresses
        .next()
        .map(|found| found.ip())
        .ok_or_else(|| unknown(String::new()))
}

fn off_unless_positive<T>(
    text: &str,
    parse: fn(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    match integer::<i64>(text) {
        Ok(number) if number <= 0 => Ok(None),
        _ => parse(text).map(Some),
    }
}

/// Reads a duration: a bare number counts `unit`, and ms, s, m, h and d may be written out.
fn duration(text: &str, unit: Duration) -> Result<Duration, String> {
    let (number, suffix) = split_unit(text)?;
    let unit = match suffix {
        "" => unit,
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        "d" => Duration::from_secs(24 * 3600),
        _ => {
            return Err(format!(
                "{suffix:?} is no unit of time; ms, s, m, h and d are"
            ));
        }
    };
    // Apache counts milliseconds in 32 bits in most places and in 64 bits in all, and every deadline
    // is a sum with the time now: a bound here keeps those sums from overflowing.
    const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 3600);
    u32::try_from(number)
        .ok()
        .and_then(|number| unit.checked_mul(number))
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| format!("{text} is too long a time"))
}

/// Reads a size in bytes: a bare number counts `unit` bytes; K, M and G, with `iB` or without, are powers of 1024.
fn size(text: &str, unit: u64) -> Result<u64, String> {
    let (number, suffix) = split_unit(text)?;
    let unit = match suffix.to_ascii_lowercase().as_str() {
        "" => unit,
        "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => {
            return Err(format!(
                "{suffix:?} is no unit of size; KiB, MiB and GiB are"
            ));
        }
    };
    number
        .checked_mul(unit)
        .filter(|bytes| i64::try_from(*bytes).is_ok())
        .ok_or_else(|| format!("{text} is too large"))
}

fn split_unit(text: &str) -> Result<(u64, &str), String> {
    let end = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Ok((integer(number.trim_end())?, unit))
}

fn narrow(bytes: u64) -> Result<usize, String> {
    usize::try_from(bytes).map_err(|_| format!("{bytes} is too large"))
}

fn optional<T>(value: Option<&T>, show: impl Fn(&T) -> String) -> String {
    value.map(show).unwrap_or_default()
}

fn show_millis(value: &Duration) -> String {
    value.as_millis().to_string()
}

fn show_kib(bytes: &u64) -> String {
    match bytes % 1024 {
        0 => (bytes / 1024).to_string(),
        _ => format!("{bytes}B"),
    }
}

fn show_yes_no(value: &bool) -> String {
    String::from(if *value { "yes" } else { "no" })
}
