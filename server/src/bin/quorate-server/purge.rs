//! `purge`: removes what no restart needs.

use std::io::{self, Write};

use quorate_server::{
    config::Config,
    storage::{Options, Storage},
};

/// Removes old snapshots and logs, and says which. Returns whether that went well.
pub(crate) fn run(config: &Config, keep: Option<u32>, out: &mut dyn Write) -> io::Result<bool> {
    let keep = keep.unwrap_or(config.autopurge_snap_retain_count);
    match storage(config).purge(keep as usize) {
        Ok(purged) => {
            for path in &purged.removed {
                writeln!(out, "removed {}", path.display())?;
            }
            writeln!(
                out,
                "{} files removed, {} bytes",
                purged.removed.len(),
                purged.bytes
            )?;
            Ok(true)
        }
        Err(error) => {
            writeln!(out, "nothing more was removed: {error}")?;
            Ok(false)
        }
    }
}

/// The storage of `config`, to be looked at. Touches nothing yet.
pub(crate) fn storage(config: &Config) -> Storage {
    let mut options = Options::new(&config.data_dir);
    options.log_dir = config.data_log_root().to_owned();
    options.create_database = config.db_autocreate;
    options.trust_empty_snapshot = config.snapshot_trust_empty;
    Storage::new(options)
}
