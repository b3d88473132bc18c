//! What recovery can meet, as a table: each case with its cause and what is done about it. Nothing
//! that recovery meets goes unnamed, and a test brings about every row.

use std::fmt;
use std::path::PathBuf;

/// What recovery does about a [`Case`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Goes on; nothing was lost.
    Accept,
    /// Goes on and mends the files, once everything else turned out well.
    Repair,
    /// Starts no server and leaves every file as it was.
    Refuse,
}

macro_rules! cases {
    ($( $(#[$doc:meta])* $case:ident => $decision:ident, $label:literal, $cause:literal, $advice:literal; )*) => {
        /// One thing that recovery can meet in a data directory.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Case { $( $(#[$doc])* $case, )* }

        impl Case {
            /// Every case.
            pub const ALL: &[Case] = &[ $( Case::$case, )* ];

            /// What is done about it.
            pub fn decision(self) -> Decision {
                match self { $( Case::$case => Decision::$decision, )* }
            }

            /// A short name for logs.
            pub fn label(self) -> &'static str {
                match self { $( Case::$case => $label, )* }
            }

            /// What it means.
            pub fn cause(self) -> &'static str {
                match self { $( Case::$case => $cause, )* }
            }

            /// What was done, or what the operator has to do.
            pub fn advice(self) -> &'static str {
                match self { $( Case::$case => $advice, )* }
            }
        }
    };
}

cases! {
    /// `dataLogDir` differs from `dataDir` and holds a snapshot.
    SnapshotInLogDir => Refuse, "snapshot in log directory",
        "dataLogDir differs from dataDir, and yet dataLogDir holds snapshots",
        "move the snapshots to version-2 below dataDir, or drop dataLogDir from the configuration";
    /// `dataLogDir` differs from `dataDir`, which holds a log.
    LogInSnapshotDir => Refuse, "log in snapshot directory",
        "dataLogDir differs from dataDir, and yet dataDir holds transaction logs",
        "move the logs to version-2 below dataLogDir, or drop dataLogDir from the configuration";
    /// A temporary file.
    Leftover => Repair, "leftover",
        "a temporary file of a write that was interrupted",
        "it is removed";
    /// The mark of a change of the past that was decided and not completed.
    RewriteUnfinished => Repair, "unfinished rewrite",
        "the server stopped while it gave up a history of its own for that of its leader",
        "that is completed now";
    /// A snapshot whose seals or content do not hold.
    SnapshotDamaged => Accept, "damaged snapshot",
        "the snapshot is incomplete or damaged",
        "the next older snapshot is loaded instead, and more of the log is replayed";
    /// There are snapshots, none of which is whole.
    NoSnapshotWhole => Refuse, "no whole snapshot",
        "no snapshot can be loaded",
        "restore a backup; a member of an ensemble may start with an empty data directory instead \
         (keep myid) and gets everything from its leader";
    /// Logs and no snapshot, which Apache ZooKeeper before 3.5 could leave behind.
    LogWithoutSnapshot => Refuse, "log without snapshot",
        "there are transaction logs but no snapshot",
        "if no snapshot was ever lost, as after an upgrade from 3.4, start once with \
         snapshot.trust.empty=true; otherwise restore a backup";
    /// The same, but the configuration vouches for the logs.
    LogTrusted => Accept, "log without snapshot, trusted",
        "there are transaction logs but no snapshot, and snapshot.trust.empty is set",
        "the logs are replayed from an empty database";
    /// Neither snapshot nor log.
    Empty => Accept, "new database",
        "the data directory is empty",
        "a new database begins with snapshot.0";
    /// Neither snapshot nor log, and the configuration forbids to take that for a new database.
    EmptyUnexpected => Accept, "empty, must not vote",
        "the data directory is empty, and db.autocreate=false forbids to begin a new database",
        "a member of an ensemble gets everything from its leader; for a new database put an empty \
         file named initialize into dataLogDir";
    /// The newest log has no header yet.
    LogUnstarted => Repair, "log without records",
        "the newest log was created, and nothing whole was written to it before the server stopped",
        "it is removed; no acknowledged transaction was in it";
    /// The header of a log is something else.
    LogHeaderDamaged => Refuse, "damaged log header",
        "the file does not begin like a transaction log",
        "remove the file if it is none; otherwise restore it from a backup, or let a member of an \
         ensemble start with an empty data directory (keep myid)";
    /// The newest log ends in a record that was never completed.
    TornTail => Repair, "torn tail",
        "the newest log ends in records that were being written when the server stopped",
        "they are cut off; they were never acknowledged";
    /// An older log ends in a record that was never completed, and the next log goes on from there.
    TornTailPassed => Accept, "torn tail, passed over",
        "a log ends in records that were never completed, and the next log goes on from there",
        "nothing has to be done";
    /// A record does not fit its checksum, and that is no trace of a crash.
    RecordDamaged => Refuse, "damaged record",
        "a record was damaged after it had been written",
        "the transactions from there on may have been acknowledged: restore the file from a \
         backup, or let a member of an ensemble start with an empty data directory (keep myid); to \
         give them up, cut the file at that offset with truncate --size and remove later logs";
    /// A record is as it was written, but makes no sense.
    RecordUnknown => Refuse, "unknown record",
        "a record is whole, but no transaction that this version knows",
        "start the version that wrote it";
    /// A transaction is missing.
    Hole => Refuse, "hole",
        "transactions are missing in the log",
        "restore the missing log file, or let a member of an ensemble start with an empty data \
         directory (keep myid)";
    /// A transaction that is not newer than the one before it.
    Repeated => Accept, "repeated transaction",
        "a transaction does not come after the one in front of it",
        "it is skipped";
    /// The tree differs from what the leader had.
    DigestDiffers => Accept, "digest differs",
        "after this transaction the database is not what it was when the transaction was logged",
        "compare this server's data with the others'; if they differ, let it start with an empty \
         data directory (keep myid)";
}

/// A [`Case`] that was met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which case.
    pub case: Case,
    /// The file or directory.
    pub path: PathBuf,
    /// Where in the file, if it is a matter of one place.
    pub offset: Option<u64>,
    /// The particulars; may be empty.
    pub detail: String,
}

impl Finding {
    pub(crate) fn new(case: Case, path: impl Into<PathBuf>) -> Self {
        Finding {
            case,
            path: path.into(),
            offset: None,
            detail: String::new(),
        }
    }

    pub(crate) fn at(self, offset: u64) -> Self {
        Finding {
            offset: Some(offset),
            ..self
        }
    }

    pub(crate) fn detail(self, detail: impl Into<String>) -> Self {
        Finding {
            detail: detail.into(),
            ..self
        }
    }
}

/// `PATH at offset N: what it means (particulars); what is done`.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(offset) = self.offset {
            write!(f, " at offset {offset}")?;
        }
        write!(f, ": {}", self.case.cause())?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        write!(f, "; {}", self.case.advice())
    }
}
