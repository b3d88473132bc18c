//! `quorate-cli bench`: loads a server, any that speaks the protocol, and measures it.
//!
//! It talks raw frames and not through the client library, so that what it measures is the server.

mod connection;
mod engine;
mod report;
mod requests;
mod stream;
mod usage;

use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use quorate_proto::ErrorCode;
use thiserror::Error;

use engine::{Engine, Goal, Shared, Tally};
use quorate_client::TlsOptions;
use quorate_client::rustls::pki_types::ServerName;
use report::{Load, Measured, Report, Told};
use requests::{Each, Layout, Mixed, Once, Work};
use stream::Servers;
use usage::{ProcessUsage, own_cpu};

use crate::OutputFormat;

/// Loads a server and prints throughput, latency and what they cost.
///
/// Creates znodes under a fresh parent, measures, and removes them. Works against any server of
/// the ZooKeeper protocol. Without a mode it reads and writes random znodes for a while. A
/// connection that breaks meanwhile goes on with its session at the next server; how many did,
/// what stayed without an answer, and the longest time without a write are told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate-cli bench --connections 16 --depth 16 --reads 90
      16 connections with 16 requests in flight each, 90 % reads, for ten seconds
  quorate-cli bench --connections 1 --depth 1 --reads 0 --server-pid 4711
      the latency of one write at a time, and the CPU time that it costs the server
  quorate-cli --server HOST1,HOST2,HOST3 bench --reads 70 --duration 60
      what an ensemble does while one of its servers is killed
  quorate-cli bench --watchers 1000
      how long until a thousand watchers of one znode have heard of a change
  quorate-cli bench --create 1000000 --value-size 100 --server-pid 4711
      how much memory a znode takes")]
pub(crate) struct BenchArgs {
    /// Connections, each with a session of its own.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=20_000))]
    connections: u16,
    /// Requests that each connection keeps in flight.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096))]
    depth: u16,
    /// Share of reads; the rest are writes.
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    reads: u8,
    /// Bytes of data in each znode.
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    value_size: u32,
    /// How long to measure, in seconds.
    #[arg(long, value_name = "SECS", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=3600))]
    duration: u16,
    /// How long to load the server before measuring, in seconds.
    #[arg(long, value_name = "SECS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=3600))]
    warmup: u16,
    /// Znodes to spread the load over.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    nodes: u32,
    /// Threads that generate the load. One is enough for more than a million reads a second.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Measures how long it takes until N watchers of one znode have heard of a change.
    #[arg(long, value_name = "N", conflicts_with_all = ["create", "connections", "depth", "reads", "nodes", "threads"], value_parser = clap::value_parser!(u16).range(1..=20_000))]
    watchers: Option<u16>,
    /// Measures the creation of COUNT znodes, and with --server-pid the memory that they take.
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["reads", "nodes", "duration", "warmup"], value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    create: Option<u32>,
    /// Leaves the znodes where they are.
    #[arg(long)]
    keep: bool,
    /// Measures CPU time and memory of this server process too; may be repeated.
    #[arg(long, value_name = "PID")]
    server_pid: Vec<u32>,
}

/// Why a run came to nothing.
#[derive(Debug, Error)]
pub(crate) enum BenchError {
    #[error("cannot resolve {host:?}: {source}; give servers as HOST:PORT[,HOST:PORT…]")]
    Resolve { host: String, source: io::Error },
    #[error("{0}")]
    Tls(#[from] quorate_client::Error),
    #[error("cannot open a session with {server}: {source}")]
    Connect {
        server: SocketAddr,
        source: io::Error,
    },
    #[error("the server has not answered for {0:?}")]
    Silent(Duration),
    #[error("{step} failed: {reason}")]
    Step { step: &'static str, reason: String },
    #[error("{source}; remove what is left with `quorate-cli deleteall {root}`")]
    Left {
        root: String,
        source: Box<BenchError>,
    },
    #[error("interrupted")]
    Interrupted,
    #[error("there is no process {0}, or /proc does not show it")]
    NoProcess(u32),
    #[error("the load generator failed: {0}")]
    Io(#[from] io::Error),
    #[error("cannot keep the latencies: {0}")]
    Histogram(#[from] hdrhistogram::CreationError),
    #[error("cannot add up the latencies: {0}")]
    Addition(#[from] hdrhistogram::AdditionError),
}

/// Runs the benchmark that `args` describes and prints its report to `out`.
pub(crate) fn run(
    args: &BenchArgs,
    servers: &str,
    tls: Option<&TlsOptions>,
    format: OutputFormat,
    out: &mut impl Write,
) -> Result<(), BenchError> {
    let (hosts, chroot) = match servers.split_once('/') {
        Some((hosts, chroot)) => (hosts, format!("/{chroot}")),
        None => (servers, String::new()),
    };
    let mut bench = Bench::connect(args, resolve(hosts, tls)?, &chroot)?;
    stop_on_interrupt(Arc::clone(&bench.shared))?;
    let result = bench.measure();
    let cleaned = if args.keep { Ok(()) } else { bench.clear() };
    bench.close();
    let report = result?;
    match format {
        OutputFormat::Text => report.write_text(out)?,
        OutputFormat::Json => report.write_json(out)?,
    }
    cleaned
}

const DEFAULT_PORT: u16 = 2181;

fn resolve(hosts: &str, tls: Option<&TlsOptions>) -> Result<Servers, BenchError> {
    let mut servers = Servers {
        addresses: Vec::new(),
        names: Vec::new(),
        tls: tls.map(TlsOptions::config).transpose()?.map(Arc::new),
    };
    for host in hosts.split(',').map(str::trim) {
        let unknown = |source| BenchError::Resolve {
            host: host.to_owned(),
            source,
        };
        let (name, with_port) = match host.rsplit_once(':') {
            Some((name, port)) if port.parse::<u16>().is_ok() => (name, host.to_owned()),
            _ => (host, format!("{host}:{DEFAULT_PORT}")),
        };
        let address = with_port.to_socket_addrs().map_err(unknown)?.next();
        let address =
            address.ok_or_else(|| unknown(io::Error::other("the name has no address")))?;
        servers.addresses.push(address);
        if tls.is_some() {
            let name = name.trim_matches(['[', ']']).to_owned();
            let name = ServerName::try_from(name).map_err(|e| unknown(io::Error::other(e)))?;
            servers.names.push(name);
        }
    }
    Ok(servers)
}

/// A run: its connections, and what it has created.
struct Bench<'a> {
    args: &'a BenchArgs,
    servers: Arc<Servers>,
    engines: Vec<Engine>,
    layout: Layout,
    /// How much of the layout exists.
    built: Built,
    value: Vec<u8>,
    shared: Arc<Shared>,
}

/// How far the znodes have been created, so that no more is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Built {
    Nothing,
    Root,
    Folders,
    Nodes,
}

/// Appends the request about the znode of a number.
trait EncodeEach: Fn(&Layout, &[u8], usize, i32, &mut Vec<u8>) + Copy + Send {}
impl<F: Fn(&Layout, &[u8], usize, i32, &mut Vec<u8>) + Copy + Send> EncodeEach for F {}

impl<'a> Bench<'a> {
    fn connect(args: &'a BenchArgs, servers: Servers, chroot: &str) -> Result<Self, BenchError> {
        // One more for the writer that the watchers wait for.
        let (connections, depth, threads) = match args.watchers {
            Some(watchers) => (usize::from(watchers) + 1, 1, 1),
            None => (
                usize::from(args.connections),
                usize::from(args.depth),
                usize::from(args.threads.min(args.connections)),
            ),
        };
        let servers = Arc::new(servers);
        let engines = shares(connections, threads)
            .map(|share| Engine::connect(&servers, share.start, share.len(), depth))
            .collect::<Result<_, _>>()?;
        let nodes = match (args.watchers, args.create) {
            (Some(_), _) => 0,
            (None, Some(count)) => count as usize,
            (None, None) => args.nodes as usize,
        };
        let mut value = vec![0; args.value_size as usize];
        fastrand::fill(&mut value);
        Ok(Bench {
            args,
            servers,
            engines,
            layout: Layout {
                root: format!("{chroot}/quorate-bench-{:016x}", fastrand::u64(..)),
                nodes,
            },
            built: Built::Nothing,
            value,
            shared: Arc::default(),
        })
    }

    fn measure(&mut self) -> Result<Report, BenchError> {
        self.build_root()?;
        let measured = if self.args.watchers.is_some() {
            Measured::Told(self.measure_watchers()?)
        } else if self.args.create.is_some() {
            Measured::Created(self.measure_create()?)
        } else {
            self.build_nodes("creating the znodes")?;
            Measured::Mixed(self.measure_mixed()?)
        };
        Ok(Report {
            servers: self.servers.addresses.clone(),
            connections: self.engines.iter().map(Engine::connections).sum(),
            depth: usize::from(self.args.depth),
            threads: self.engines.len(),
            reads: self.args.reads,
            nodes: self.layout.nodes,
            value_size: self.value.len(),
            kept: self.args.keep.then(|| self.layout.root.clone()),
            measured,
        })
    }

    /// Random reads and writes until the time is over.
    fn measure_mixed(&mut self) -> Result<Load, BenchError> {
        if self.args.warmup > 0 {
            self.mixed("warming up", self.args.warmup)?;
        }
        let before = self.usage()?;
        let own_before = own_cpu();
        let tally = self.mixed("measuring", self.args.duration)?;
        Ok(Load {
            own_cpu: own_cpu() - own_before,
            servers: self.usage_since(&before)?,
            tally,
        })
    }

    fn mixed(&mut self, step: &'static str, seconds: u16) -> Result<Tally, BenchError> {
        let length = Duration::from_secs(u64::from(seconds));
        let (args, layout, value) = (self.args, &self.layout, &self.value);
        let goal = Goal {
            until: Some(Instant::now() + length),
            ..Goal::default()
        };
        let bar = time_bar(step, length);
        drive(&mut self.engines, &self.shared, goal, &bar, |_| Mixed {
            layout,
            value,
            reads: args.reads,
            random: fastrand::Rng::new(),
        })
    }

    /// The znodes of the layout, and what they cost.
    fn measure_create(&mut self) -> Result<Load, BenchError> {
        let before = self.usage()?;
        let own_before = own_cpu();
        let tally = self.build_nodes("creating znodes")?;
        Ok(Load {
            own_cpu: own_cpu() - own_before,
            servers: self.usage_since(&before)?,
            tally,
        })
    }

    /// Rounds of watches on one znode and a change of it, until the time is over.
    fn measure_watchers(&mut self) -> Result<Told, BenchError> {
        let length = Duration::from_secs(u64::from(self.args.duration));
        let bar = time_bar("telling the watchers", length);
        let (layout, value, shared) = (&self.layout, &self.value, &self.shared);
        let Some(engine) = self.engines.first_mut() else {
            return Ok(Told::default());
        };
        let writer = engine.connections() - 1;
        let started = Instant::now();
        let mut rounds = Vec::new();
        while !shared.is_stopped() && (rounds.is_empty() || started.elapsed() < length) {
            let mut watch = Once::new(0..writer, |xid, out| layout.watch_root(xid, out));
            check(
                "watching",
                &engine.run(&mut watch, Goal::default(), shared)?,
            )?;
            let mut touch = Once::new(writer..writer + 1, |xid, out| {
                layout.touch_root(value, xid, out);
            });
            let goal = Goal {
                events: writer as u64,
                ..Goal::default()
            };
            let tally = engine.run(&mut touch, goal, shared)?;
            check("telling the watchers", &tally)?;
            rounds.push(tally.elapsed);
            bar.set_position(millis(started.elapsed()));
        }
        bar.finish_and_clear();
        rounds.sort_unstable();
        Ok(Told { rounds })
    }

    fn build_root(&mut self) -> Result<(), BenchError> {
        self.built = Built::Root;
        const STEP: &str = "creating the parent";
        self.create(STEP, 1, |layout, _, _, xid, out| {
            layout.create_root(xid, out);
        })?;
        self.sync()
    }

    fn build_nodes(&mut self, step: &'static str) -> Result<Tally, BenchError> {
        self.built = Built::Folders;
        self.create(step, self.layout.folders(), |layout, _, index, xid, out| {
            layout.create_folder(index, xid, out);
        })?;
        self.sync()?;
        self.built = Built::Nodes;
        let nodes = self.layout.nodes;
        let tally = self.create(step, nodes, |layout, value, index, xid, out| {
            layout.create_node(index, value, xid, out);
        })?;
        self.sync()?;
        Ok(tally)
    }

    /// Removes what was created, even after an interruption.
    fn clear(&mut self) -> Result<(), BenchError> {
        self.shared.stop.store(false, Ordering::Relaxed);
        self.remove_all().map_err(|err| BenchError::Left {
            root: self.layout.root.clone(),
            source: Box::new(err),
        })
    }

    fn remove_all(&mut self) -> Result<(), BenchError> {
        if self.built >= Built::Nodes {
            self.remove(self.layout.nodes, |layout, _, index, xid, out| {
                layout.delete_node(index, xid, out);
            })?;
        }
        if self.built >= Built::Folders {
            self.remove(self.layout.folders(), |layout, _, index, xid, out| {
                layout.delete_folder(index, xid, out);
            })?;
        }
        if self.built >= Built::Root {
            self.remove(1, |layout, _, _, xid, out| layout.delete_root(xid, out))?;
        }
        Ok(())
    }

    /// Creates `count` znodes; every one must succeed.
    fn create(
        &mut self,
        step: &'static str,
        count: usize,
        encode: impl EncodeEach,
    ) -> Result<Tally, BenchError> {
        let tally = self.each(step, count, encode)?;
        check(step, &tally)?;
        if self.shared.is_stopped() {
            return Err(BenchError::Interrupted);
        }
        Ok(tally)
    }

    /// Deletes `count` znodes, of which some may never have been created.
    fn remove(&mut self, count: usize, encode: impl EncodeEach) -> Result<(), BenchError> {
        const STEP: &str = "removing the znodes";
        let mut tally = self.each(STEP, count, encode)?;
        tally.errors.remove(&ErrorCode::NO_NODE.0);
        check(STEP, &tally)
    }

    /// One request for each number below `count`.
    fn each(
        &mut self,
        step: &'static str,
        count: usize,
        encode: impl EncodeEach,
    ) -> Result<Tally, BenchError> {
        let (layout, value) = (&self.layout, &self.value);
        let parts: Vec<Range<usize>> = shares(count, self.engines.len()).collect();
        let bar = count_bar(step, count);
        drive(
            &mut self.engines,
            &self.shared,
            Goal::default(),
            &bar,
            |thread| Each {
                range: parts[thread].clone(),
                encode: move |index, xid, out: &mut Vec<u8>| encode(layout, value, index, xid, out),
            },
        )
    }

    /// Brings the server behind every connection up to date.
    fn sync(&mut self) -> Result<(), BenchError> {
        let layout = &self.layout;
        let bar = ProgressBar::hidden();
        let widths: Vec<usize> = self.engines.iter().map(Engine::connections).collect();
        let goal = Goal::default();
        let tally = drive(&mut self.engines, &self.shared, goal, &bar, |thread| {
            Once::new(0..widths[thread], |xid, out: &mut Vec<u8>| {
                layout.sync(xid, out);
            })
        })?;
        check("sync", &tally)
    }

    fn usage(&self) -> Result<Vec<(u32, ProcessUsage)>, BenchError> {
        let of = |&pid| ProcessUsage::of(pid).map(|usage| (pid, usage));
        let pids = self.args.server_pid.iter();
        pids.map(|pid| of(pid).ok_or(BenchError::NoProcess(*pid)))
            .collect()
    }

    fn usage_since(
        &self,
        before: &[(u32, ProcessUsage)],
    ) -> Result<Vec<report::ServerCost>, BenchError> {
        let now = self.usage()?;
        Ok(before
            .iter()
            .zip(now)
            .map(|(&(pid, before), (_, after))| report::ServerCost { pid, before, after })
            .collect())
    }

    fn close(self) {
        for engine in self.engines {
            engine.close();
        }
    }
}

/// Ends the measurement at the first interrupt, so that the znodes are still removed, and the
/// program at the second.
fn stop_on_interrupt(shared: Arc<Shared>) -> io::Result<()> {
    const INTERRUPTED: i32 = 130;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                shared.stop.store(true, Ordering::Relaxed);
            }
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(INTERRUPTED);
            }
        });
    });
    Ok(())
}

/// Splits `total` things into `parts` runs that differ by one at most.
fn shares(total: usize, parts: usize) -> impl Iterator<Item = Range<usize>> {
    (0..parts).map(move |part| total * part / parts..total * (part + 1) / parts)
}

/// Runs a phase on all threads and shows its progress. A phase whose measure is time ends `bar` by
/// the clock, any other by its operations.
fn drive<W: Work + Send>(
    engines: &mut [Engine],
    shared: &Shared,
    goal: Goal,
    bar: &ProgressBar,
    work: impl Fn(usize) -> W,
) -> Result<Tally, BenchError> {
    const REFRESH: Duration = Duration::from_millis(100);
    shared.done.store(0, Ordering::Relaxed);
    shared.gaps.reset();
    let started = Instant::now();
    let total = std::thread::scope(|scope| {
        let (results, arrivals) = mpsc::channel();
        let threads = engines.len();
        for (index, engine) in engines.iter_mut().enumerate() {
            let (results, mut work) = (results.clone(), work(index));
            scope.spawn(move || {
                // Nobody listens any more once another thread has failed.
                let _ = results.send(engine.run(&mut work, goal, shared));
            });
        }
        let mut total = Tally::new()?;
        let mut arrived = 0;
        while arrived < threads {
            match arrivals.recv_timeout(REFRESH) {
                Ok(tally) => {
                    total.add(&tally?)?;
                    arrived += 1;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let done = shared.done.load(Ordering::Relaxed);
            let rate = done as f64 / started.elapsed().as_secs_f64();
            bar.set_message(format!("{}/s", report::thousands(rate as u64)));
            bar.set_position(match goal.until {
                Some(_) => millis(started.elapsed()),
                None => done,
            });
        }
        total.longest_gap = shared.gaps.longest(goal.until);
        Ok(total)
    });
    bar.finish_and_clear();
    total
}

/// Every operation of a step that prepares or clears must succeed.
fn check(step: &'static str, tally: &Tally) -> Result<(), BenchError> {
    let reason = if let Some((&code, count)) = tally.errors.iter().next() {
        format!("{count} operations answered: {}", ErrorCode(code))
    } else if let Some(lost) = tally.lost.first() {
        lost.clone()
    } else {
        return Ok(());
    };
    Err(BenchError::Step { step, reason })
}

fn time_bar(step: &'static str, length: Duration) -> ProgressBar {
    bar(
        step,
        millis(length),
        "{prefix:>22} [{bar:40}] {elapsed} {msg}",
    )
}

fn count_bar(step: &'static str, count: usize) -> ProgressBar {
    bar(
        step,
        count as u64,
        "{prefix:>22} [{bar:40}] {human_pos}/{human_len} {msg}",
    )
}

/// Drawn on the standard error, and only if that is a terminal.
fn bar(step: &'static str, length: u64, template: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length)
        .with_prefix(step)
        .with_style(style.progress_chars("=> "))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
