//! `settings`: what can be set.

use std::io::{self, Write};

use quorate_server::config::{Scope, Setting};

/// Prints the settings whose key contains `filter`. Returns whether there is one.
pub(crate) fn print(filter: Option<&str>, out: &mut dyn Write) -> io::Result<bool> {
    let wanted = filter.unwrap_or_default().to_ascii_lowercase();
    let mut any = false;
    for setting in Setting::all() {
        if !setting.key.to_ascii_lowercase().contains(&wanted) {
            continue;
        }
        any = true;
        let default = match setting.default_text() {
            text if text.is_empty() => "not set".to_owned(),
            text => text,
        };
        let unit = match setting.unit {
            "" => String::new(),
            unit => format!(" [{unit}]"),
        };
        writeln!(out, "{} = {default}{unit}", setting.key)?;
        writeln!(out, "    {}", setting.meaning())?;
        match setting.scope {
            Scope::File => {}
            Scope::Property => writeln!(out, "    JVM option: -Dzookeeper.{}", setting.key)?,
            Scope::Jvm => writeln!(out, "    JVM option: -D{}", setting.key)?,
        }
    }
    if !any {
        writeln!(out, "no setting has {wanted:?} in its key")?;
    }
    Ok(any)
}
