//! Checks of the data directories and of what is in them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use quorate_server::{config::Config, storage::Case};
use rustix::fs::statvfs;

use super::Report;
use crate::purge;

/// Looks at the data directories; `running` is the pid of the server if it runs already.
pub(super) fn check(config: &Config, running: Option<u32>, report: &mut Report) {
    if config.data_dir.as_os_str().is_empty() {
        return;
    }
    let mut usable = directory("dataDir", &config.data_dir, config, report);
    if let Some(log_dir) = &config.data_log_dir {
        usable &= directory("dataLogDir", log_dir, config, report);
    }
    misplaced(config, report);
    if usable {
        content(config, running, report);
    }
}

/// The file of the data that was written last.
pub(super) fn newest_file(config: &Config) -> Option<(PathBuf, SystemTime)> {
    let directories = [config.snapshot_dir(), config.log_dir()];
    let files = directories.iter().flat_map(|directory| {
        names(directory)
            .into_iter()
            .map(|name| directory.join(name))
    });
    let written = files.filter_map(|path| {
        let time = fs::metadata(&path)
            .and_then(|metadata| metadata.modified())
            .ok()?;
        Some((path, time))
    });
    written.max_by_key(|(_, time)| *time)
}

/// Checks that one directory is there or can be created, may be written, and has room.
fn directory(key: &str, path: &Path, config: &Config, report: &mut Report) -> bool {
    let versioned = path.join("version-2");
    let shown = path.display();
    if !versioned.exists() && !config.datadir_autocreate {
        report.error(
            key,
            format!(
                "{} is missing, and datadir.autocreate is off",
                versioned.display()
            ),
            "create it, or mount the disk that holds it",
        );
        return false;
    }
    // The part of the path that exists decides whether the rest can be created.
    let existing = versioned
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(Path::new("."));
    if !existing.is_dir() {
        let what = format!("{} is not a directory", existing.display());
        report.error(key, what, "name a directory, or move that file away");
        return false;
    }
    // A file without a name tells more than the permissions do: also a disk mounted read-only.
    if let Err(error) = tempfile::tempfile_in(existing) {
        report.error(
            key,
            format!(
                "{} cannot be written by this user: {error}",
                existing.display()
            ),
            "run as the user that owns it, or give it to this one (chown)",
        );
        return false;
    }
    let state = match existing == versioned {
        true => "can be read and written",
        false if path.exists() => "is empty: a new server begins there",
        false => "will be created",
    };
    report.ok(key, format!("{shown} {state}"));
    room(key, existing, config, report);
    true
}

fn room(key: &str, path: &Path, config: &Config, report: &mut Report) {
    let Ok(disk) = statvfs(path) else {
        return;
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let total = disk.f_blocks.saturating_mul(disk.f_frsize);
    let percent = free.saturating_mul(100) / total.max(1);
    let subject = format!("{key} space");
    let what = format!("{} of {} free ({percent} %)", human(free), human(total));
    const FEW_PERCENT: u64 = 5;
    const LITTLE: u64 = 1 << 30;
    const FEW_FILES: u64 = 1000;
    let advice = "make room, or purge old snapshots and logs: quorate-server purge";
    if free < config.pre_alloc_size.saturating_mul(2) {
        let what = format!("{what}: less than two log files grow by");
        report.error(&subject, what, advice);
    } else if percent < FEW_PERCENT && free < LITTLE {
        report.warning(&subject, format!("{what}: the disk is nearly full"), advice);
    } else if disk.f_files > 0 && disk.f_favail < FEW_FILES {
        report.warning(
            &subject,
            format!("{what}, but only {} more files", disk.f_favail),
            advice,
        );
    } else {
        report.ok(&subject, what);
    }
}

/// Looks for data files above the directory in which a server looks for them.
fn misplaced(config: &Config, report: &mut Report) {
    for root in [config.data_dir.as_path(), config.data_log_root()] {
        let is_data = |name: &String| name.starts_with("log.") || name.starts_with("snapshot.");
        let strays: Vec<String> = names(root).into_iter().filter(is_data).collect();
        if let Some(first) = strays.first() {
            let (count, shown) = (strays.len(), root.display());
            let what = format!("{count} data files lie in {shown}, {first} among them");
            let advice = match root.ends_with("version-2") {
                true => "name the directory above version-2 in zoo.cfg",
                false => "a server reads only what is in version-2 below it; move them there",
            };
            report.error(FILES, what, advice);
        }
        if config.data_log_root() == config.data_dir {
            break;
        }
    }
}

const FILES: &str = "data files";

/// Reads all data as a start would, and tells what a start would make of it.
fn content(config: &Config, running: Option<u32>, report: &mut Report) {
    if running.is_some() {
        report.ok(FILES, "not read, because the server writes to them");
        return;
    }
    if ![config.snapshot_dir(), config.log_dir()]
        .iter()
        .all(|directory| directory.is_dir())
    {
        return;
    }
    let read = match purge::storage(config).inspect() {
        Ok(read) => read,
        Err(error) => {
            report.error(FILES, error.to_string(), "");
            return;
        }
    };
    for finding in &read.findings {
        match finding.case {
            Case::Empty => {}
            _ => report.warning(FILES, finding.to_string(), ""),
        }
    }
    match &read.snapshot {
        Some(snapshot) => report.ok(
            FILES,
            format!(
                "{} and {} transactions after it lead to zxid {:#x}",
                snapshot.display(),
                read.replayed,
                read.last_zxid
            ),
        ),
        None => report.ok(
            FILES,
            format!("no snapshot yet; zxid {:#x}", read.last_zxid),
        ),
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 10 * 1024 && unit + 1 < UNITS.len() {
        value /= 1024;
        unit += 1;
    }
    format!("{value} {}", UNITS[unit])
}
