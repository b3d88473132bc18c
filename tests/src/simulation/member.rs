//! A member: what survives its processes, and the process that runs, if one does.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::Path;

use quorate_proto::jute::{Decode, DecodeError, Reader};
use quorate_proto::{Acl, PersistedStat};
use quorate_server::config::DynamicFiles;
use quorate_server::storage::epoch::{EpochFile, Epochs};
use quorate_server::storage::log::LogOptions;
use quorate_server::storage::mem_disk::MemDisk;
use quorate_server::storage::purge::MIN_RETAINED;
use quorate_server::storage::replica::Replica;
use quorate_server::storage::snapshot::{Head, Progress, Source, Tail};
use quorate_server::storage::{Options, Storage, StorageError};
use quorate_server::tree::{Loader, NodeWalk, Tree};
use quorate_server::zab::{Entry, Input, Link, LogRead, Membership, Millis, Peer, Position, Role};

use super::Micros;
use super::checker::sid;
use super::clock::Clock;
use super::flaw::{Flaw, FlawedDisk};
use super::network::WireId;
use super::service::Service;
use super::show::Show;

/// Bytes that one read of the log answers: few, so that it takes several.
const READ: usize = 600;
/// Where a member keeps its snapshots, and the configurations that it knows.
const DATA: &str = "/data/version-2";
/// Bytes of a dump between two moments at which transactions may be applied.
const DUMPED: usize = 300;

/// A byte of a file that is not what was written.
#[derive(Debug)]
pub struct Rot {
    /// Which file.
    pub file: String,
    /// Which byte.
    pub offset: usize,
    /// The bits that have changed.
    pub bits: u8,
    /// What it is.
    pub now: u8,
}

/// A member of the ensemble.
#[derive(Debug)]
pub struct Member {
    /// Its place in the world; its id is one more.
    pub index: usize,
    /// Its clock.
    pub clock: Clock,
    /// Its disk, as the next process finds it.
    pub disk: MemDisk,
    /// Which of its processes this is; links and events of older ones are void.
    pub life: u64,
    /// The process, while one runs.
    pub process: Option<Box<Process>>,
    /// It does nothing until then.
    pub paused_until: Micros,
    /// Its disk takes so many times as long.
    pub slowness: u64,
    /// Its disk does nothing.
    pub hangs: bool,
    /// Its disk was made to fail.
    pub failing: bool,
    /// It begins again without its data, and must not vote until it has it back.
    pub blank: bool,
    /// What is damaged on its disk.
    pub rot: Option<Rot>,
    /// The ensemble as its settings have it.
    pub configured: Membership,
}

impl Member {
    /// Is there a process?
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Makes the damaged byte what it was, unless another file has taken the place of that one: a
    /// recovery brings to its end what a crash has left half done.
    pub fn mend(&mut self) {
        let Some(Rot {
            file,
            offset,
            bits,
            now,
        }) = self.rot.take()
        else {
            return;
        };
        let content = self.disk.get(&file).unwrap_or_default();
        if content.get(offset) == Some(&now) {
            self.disk.damage(file, offset, bits);
        }
    }

    /// What it is at the moment, if it is up.
    pub fn role(&self) -> Option<Role> {
        self.process.as_ref().map(|process| process.peer.role())
    }

    /// Does it lead an ensemble that works?
    pub fn leads(&self) -> bool {
        let process = self.process.as_deref();
        let serves = process.is_some_and(|process| process.service.serves());
        serves && self.role() == Some(Role::Leading)
    }
}

/// What ends with a crash.
#[derive(Debug)]
pub struct Process {
    /// The state machine.
    pub peer: Peer,
    /// What is applied.
    pub tree: Tree,
    /// The disk as this process sees it.
    pub host: DiskHost,
    /// What clients see.
    pub service: Service,
    /// What the peer is to be told next.
    pub inbox: VecDeque<Input>,
    /// An event for the inbox is scheduled.
    pub called: bool,
    /// Dumps of the tree that are under way.
    pub dumps: Vec<(DumpFor, Dumping)>,
    /// When it wants to be woken, if that is scheduled.
    pub wake: Option<Millis>,
    /// It dies before its next output but this many.
    pub outputs_left: Option<u32>,
    /// Transactions applied since the last snapshot.
    pub since_snapshot: u32,
    /// The number of the next connection that it accepts.
    pub next_link: u64,
    /// Its connections: which, and which end of it.
    pub links: BTreeMap<Link, (WireId, usize)>,
}

impl Process {
    /// The history is another one from now on. The tree follows where it has to.
    pub fn replace(&mut self, tree: Tree, installed: bool) {
        if installed || self.tree.last_zxid() > tree.last_zxid() {
            self.tree = tree;
        }
        self.dumps.clear();
        self.since_snapshot = 0;
        let jobs = &mut self.host.jobs;
        jobs.retain(|job| !matches!(job, Job::Snapshot(..)));
    }
}

/// What the disk is to do.
#[derive(Debug)]
pub enum Job {
    /// Append and sync.
    Append {
        /// What.
        entries: Vec<Entry>,
        /// Behind the last of them.
        position: Position,
    },
    /// Write an epoch file.
    Epoch {
        /// Which.
        file: EpochFile,
        /// What.
        epoch: u32,
    },
    /// Keep a configuration that is proposed.
    Propound(Box<Membership>),
    /// Keep a configuration that is committed.
    Activate(Box<Membership>),
    /// Cut the log.
    Truncate {
        /// Behind this.
        zxid: i64,
    },
    /// Install a tree that came from a leader.
    Install {
        /// On which link.
        link: Link,
        /// The tree.
        dump: Box<Dump>,
    },
    /// Write a snapshot of the member's own, and remove what is old then if that is wanted.
    Snapshot(Box<Dump>, bool),
}

/// What a job came to.
#[derive(Debug)]
pub enum Done {
    /// To be told to the peer.
    Said(Input),
    /// The history is another one now, and this is its tree.
    Replaced(Box<Tree>, Input),
    /// Nothing.
    Nothing,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Done::Said(input) | Done::Replaced(_, input) => write!(f, "done: {}", Show(input)),
            Done::Nothing => f.write_str("done"),
        }
    }
}

/// The disk of a process: what waits for it, and the real storage on a disk in memory.
#[derive(Debug)]
pub struct DiskHost {
    storage: Storage,
    replica: Replica,
    files: DynamicFiles,
    /// What waits, the first of them under way.
    pub jobs: VecDeque<Job>,
    /// An event for the end of the first is scheduled.
    pub busy: bool,
    /// Reads of the log under way, which do not wait for the jobs.
    pub reads: VecDeque<(Link, i64, i64)>,
}

/// Storage as members have it: snapshots and logs lie in directories of their own, files grow a
/// little ahead of what is in them, and a log is never long.
fn options(blank: bool) -> Options {
    Options {
        log_dir: "/log".into(),
        create_database: !blank,
        log: LogOptions {
            preallocation: 1 << 10,
            size_limit: Some(4 << 10),
            ..LogOptions::default()
        },
        ..Options::new("/data")
    }
}

/// What a process finds at its start.
#[derive(Debug)]
pub struct Found {
    /// The disk, ready to be used.
    pub host: DiskHost,
    /// The state.
    pub tree: Tree,
    /// The newest transaction; -1 for a member without data that must not vote.
    pub last_zxid: i64,
    /// Its epochs.
    pub epochs: Epochs,
    /// The configuration that it knows to be committed, and a newer one that is proposed.
    pub configs: (Membership, Option<Membership>),
}

impl DiskHost {
    /// Recovers from the disk of a member.
    pub fn recover(
        member: &Member,
        disk: &MemDisk,
        flaw: Option<Flaw>,
    ) -> Result<Found, StorageError> {
        let disk = FlawedDisk::put(disk, flaw);
        let files = DynamicFiles::within(disk.clone(), sid(member.index), Path::new(DATA));
        let storage = Storage::on(disk, options(member.blank));
        let recovered = storage.recover()?;
        let last_zxid = recovered.report.last_zxid;
        let epochs = storage.epochs(last_zxid)?;
        let shown = Membership::shown_by(&recovered.tree);
        let configs = files.load(member.configured.clone(), shown)?;
        let host = DiskHost {
            files,
            replica: Replica::new(storage.clone(), last_zxid),
            storage,
            jobs: VecDeque::new(),
            busy: false,
            reads: VecDeque::new(),
        };
        Ok(Found {
            host,
            tree: recovered.tree,
            last_zxid,
            epochs,
            configs,
        })
    }

    /// The last transactions of the log, without a gap up to its end.
    pub fn recent(&self, last_zxid: i64, count: usize) -> Result<Vec<Entry>, StorageError> {
        self.storage.recent(last_zxid, count, usize::MAX)
    }

    /// Takes the first job, with those behind it that go together with it.
    fn take(&mut self) -> Option<Job> {
        let mut job = self.jobs.pop_front()?;
        if let Job::Append { entries, position } = &mut job {
            while let Some(Job::Append { .. }) = self.jobs.front()
                && let Some(Job::Append {
                    entries: more,
                    position: behind,
                }) = self.jobs.pop_front()
            {
                entries.extend(more);
                *position = behind;
            }
        }
        Some(job)
    }

    /// Does the first job, and those behind it that go together with it.
    pub fn work(&mut self) -> Result<Option<(Job, Done)>, (Job, StorageError)> {
        let Some(job) = self.take() else {
            return Ok(None);
        };
        match self.carry_out(&job) {
            Ok(done) => Ok(Some((job, done))),
            Err(err) => Err((job, err)),
        }
    }

    /// Does what it can of the first job, before the power goes.
    pub fn interrupt(&mut self) -> Option<Job> {
        let job = self.take()?;
        // Whether it came to its end is not known to anybody.
        let _ = self.carry_out(&job);
        Some(job)
    }

    fn carry_out(&mut self, job: &Job) -> Result<Done, StorageError> {
        Ok(match job {
            Job::Append { entries, position } => {
                self.replica.append(entries)?;
                self.replica.sync()?;
                Done::Said(Input::Durable {
                    position: *position,
                })
            }
            Job::Epoch { file, epoch } => {
                self.replica.write_epoch(*file, *epoch)?;
                Done::Said(Input::EpochWritten {
                    file: *file,
                    epoch: *epoch,
                })
            }
            Job::Propound(config) => {
                self.files.propose(config)?;
                Done::Nothing
            }
            Job::Activate(config) => {
                self.files.activate(config)?;
                Done::Nothing
            }
            Job::Truncate { zxid } => match self.replica.truncate(*zxid)? {
                Some(tree) => {
                    let last_zxid = Some(tree.last_zxid());
                    Done::Replaced(Box::new(tree), Input::Truncated { last_zxid })
                }
                None => Done::Said(Input::Truncated { last_zxid: None }),
            },
            Job::Install { link, dump, .. } => {
                let tree = dump.load()?;
                let shown = Membership::shown_by(&tree);
                if let Some(config) = &shown {
                    self.files.await_tree(config)?;
                }
                self.replica.install(&tree)?;
                let (link, zxid) = (*link, tree.last_zxid());
                let input = Input::Installed { link, zxid, shown };
                Done::Replaced(Box::new(tree), input)
            }
            Job::Snapshot(dump, purges) => {
                self.replica.roll()?;
                self.storage.write_snapshot(&mut Recorded::of(dump))?;
                if *purges {
                    self.storage.purge(MIN_RETAINED)?;
                }
                Done::Nothing
            }
        })
    }

    /// Answers the oldest read of the log.
    pub fn read(&mut self) -> Option<Input> {
        let (link, after, upto) = self.reads.pop_front()?;
        let read: LogRead = self.storage.log_range().read(after, upto, READ);
        Some(Input::LogRead { link, read })
    }
}

/// For whom a tree is dumped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DumpFor {
    /// The member's own disk.
    Disk,
    /// A learner, on this connection.
    Learner(WireId),
}

/// A dump that is under way, while transactions are applied.
#[derive(Debug)]
pub struct Dumping {
    head: Head,
    walk: NodeWalk,
    nodes: Vec<u8>,
}

impl Dumping {
    /// Begins.
    pub fn new(tree: &Tree) -> Self {
        let mut sessions: Vec<_> = tree.sessions().collect();
        sessions.sort_unstable();
        let acls = tree.stored_acls();
        let acls = acls.map(|(key, list)| (key, list.encoded().to_vec()));
        Dumping {
            head: Head {
                zxid: tree.last_zxid(),
                sessions,
                acls: acls.collect(),
            },
            walk: NodeWalk::new(tree),
            nodes: Vec::new(),
        }
    }

    /// Dumps some more; the whole dump once it is complete.
    pub fn go_on(&mut self, tree: &Tree) -> Option<Dump> {
        let until = self.nodes.len() + DUMPED;
        if self.walk.encode_next(tree, until, &mut self.nodes) {
            return None;
        }
        Some(Dump {
            head: Head {
                zxid: self.head.zxid,
                sessions: std::mem::take(&mut self.head.sessions),
                acls: std::mem::take(&mut self.head.acls),
            },
            nodes: std::mem::take(&mut self.nodes),
            tail: Tail {
                digest: Some((tree.last_zxid(), tree.digest())),
                last_zxid: Some(tree.last_zxid()),
            },
        })
    }
}

/// A dump of a tree that went on meanwhile.
#[derive(Debug)]
pub struct Dump {
    head: Head,
    nodes: Vec<u8>,
    tail: Tail,
}

impl Dump {
    /// Everything up to this transaction is in it.
    pub fn zxid(&self) -> i64 {
        self.head.zxid
    }

    /// Nothing behind this transaction is in it.
    pub fn end(&self) -> i64 {
        self.tail.last_zxid.unwrap_or(self.head.zxid)
    }

    /// The tree, as who receives it puts it together.
    fn load(&self) -> Result<Tree, StorageError> {
        let mut loader = Loader::new();
        self.fill(&mut loader).expect("a dump of ours can be read");
        Ok(loader.finish(self.head.zxid))
    }

    fn fill(&self, loader: &mut Loader) -> Result<(), DecodeError> {
        for (key, acl) in &self.head.acls {
            loader.acl(*key, Some(&Vec::<Acl<'_>>::from_slice(acl)?));
        }
        for (id, timeout) in &self.head.sessions {
            loader.session(*id, *timeout);
        }
        let mut nodes = Reader::new(&self.nodes);
        while !nodes.is_empty() {
            let (path, data): (&str, Option<&[u8]>) = (nodes.read()?, nodes.read()?);
            let (acl, stat): (i64, PersistedStat) = (nodes.read()?, nodes.read()?);
            loader
                .node(path, data, acl, stat)
                .expect("a dump of ours makes a tree");
        }
        Ok(())
    }
}

/// A dump as the source of a snapshot.
struct Recorded<'a>(&'a Dump);

impl<'a> Recorded<'a> {
    fn of(dump: &'a Dump) -> Self {
        Recorded(dump)
    }
}

impl Source for Recorded<'_> {
    fn head(&mut self) -> Head {
        Head {
            zxid: self.0.head.zxid,
            sessions: self.0.head.sessions.clone(),
            acls: self.0.head.acls.clone(),
        }
    }

    fn nodes(&mut self, out: &mut Vec<u8>) -> Progress {
        out.extend_from_slice(&self.0.nodes);
        Progress::Done
    }

    fn tail(&mut self) -> Tail {
        self.0.tail
    }
}
