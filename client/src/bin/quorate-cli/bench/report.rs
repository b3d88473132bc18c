//! What a run prints, for people and for programs.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use hdrhistogram::Histogram;
use quorate_proto::ErrorCode;
use serde_json::{Value, json};

use super::engine::Tally;
use super::usage::ProcessUsage;

/// The result of a run.
pub(super) struct Report {
    pub(super) servers: Vec<SocketAddr>,
    pub(super) connections: usize,
    pub(super) depth: usize,
    pub(super) threads: usize,
    pub(super) reads: u8,
    pub(super) nodes: usize,
    pub(super) value_size: usize,
    /// The parent of the znodes, if they were to be kept.
    pub(super) kept: Option<String>,
    pub(super) measured: Measured,
}

/// What each mode measures.
pub(super) enum Measured {
    Mixed(Load),
    Created(Load),
    Told(Told),
}

/// Operations and their cost.
pub(super) struct Load {
    pub(super) tally: Tally,
    /// CPU time of the load generator.
    pub(super) own_cpu: Duration,
    pub(super) servers: Vec<ServerCost>,
}

/// What a server process used before and after.
pub(super) struct ServerCost {
    pub(super) pid: u32,
    pub(super) before: ProcessUsage,
    pub(super) after: ProcessUsage,
}

/// Rounds of watchers of one znode: the time until the last had heard, in ascending order.
#[derive(Default)]
pub(super) struct Told {
    pub(super) rounds: Vec<Duration>,
}

/// The percentiles that are printed, with their names in JSON.
const PERCENTILES: [(f64, &str, &str); 4] = [
    (50.0, "p50", "p50"),
    (90.0, "p90", "p90"),
    (99.0, "p99", "p99"),
    (99.9, "p99.9", "p99_9"),
];

impl Report {
    pub(super) fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        let servers: Vec<String> = self.servers.iter().map(ToString::to_string).collect();
        write!(out, "{}: ", servers.join(","))?;
        match &self.measured {
            Measured::Mixed(load) => {
                writeln!(
                    out,
                    "{} connections × {} in flight, {} % reads, {} znodes of {} bytes, {:.1} s",
                    self.connections,
                    self.depth,
                    self.reads,
                    thousands(self.nodes as u64),
                    self.value_size,
                    load.tally.elapsed.as_secs_f64()
                )?;
                load.write_text(out)?;
            }
            Measured::Created(load) => {
                writeln!(
                    out,
                    "{} znodes of {} bytes created by {} connections × {} in flight, {:.1} s",
                    thousands(self.nodes as u64),
                    self.value_size,
                    self.connections,
                    self.depth,
                    load.tally.elapsed.as_secs_f64()
                )?;
                load.write_text(out)?;
                for cost in &load.servers {
                    let each = cost.growth() / self.nodes.max(1) as f64;
                    line(
                        out,
                        "memory",
                        format_args!("{each:.0} bytes a znode in process {}", cost.pid),
                    )?;
                }
            }
            Measured::Told(told) => {
                let watchers = self.watchers();
                writeln!(
                    out,
                    "{watchers} watchers of one znode, {} rounds",
                    told.rounds.len()
                )?;
                let median = told.at(0.5);
                line(
                    out,
                    "all told",
                    format_args!(
                        "min {}  median {}  max {}",
                        human(told.at(0.0)),
                        human(median),
                        human(told.at(1.0))
                    ),
                )?;
                let each = median / u32::try_from(watchers).unwrap_or(u32::MAX).max(1);
                line(out, "each", format_args!("{} of the median", human(each)))?;
            }
        }
        if let Some(root) = &self.kept {
            line(out, "kept", format_args!("{root}"))?;
        }
        out.flush()
    }

    pub(super) fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        let mut value = json!({
            "servers": self.servers.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "connections": self.connections,
            "depth": self.depth,
            "threads": self.threads,
            "value_size": self.value_size,
            "kept": self.kept,
        });
        let measured = match &self.measured {
            Measured::Mixed(load) => {
                value["mode"] = json!("mixed");
                value["reads_percent"] = json!(self.reads);
                value["nodes"] = json!(self.nodes);
                load.json()
            }
            Measured::Created(load) => {
                value["mode"] = json!("create");
                value["nodes"] = json!(self.nodes);
                let mut measured = load.json();
                let grown: f64 = load.servers.iter().map(ServerCost::growth).sum();
                if !load.servers.is_empty() {
                    let per_node = grown / load.servers.len() as f64 / self.nodes as f64;
                    measured["server_bytes_per_znode"] = json!(round(per_node));
                }
                measured
            }
            Measured::Told(told) => {
                value["mode"] = json!("watchers");
                value["watchers"] = json!(self.watchers());
                told.json()
            }
        };
        merge(&mut value, measured);
        writeln!(out, "{value}")?;
        out.flush()
    }

    /// The last connection is the writer's.
    fn watchers(&self) -> usize {
        self.connections - 1
    }
}

impl Load {
    fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        for (name, latencies) in [("reads", &self.tally.reads), ("writes", &self.tally.writes)] {
            if !latencies.is_empty() {
                self.write_latencies(out, name, latencies)?;
            }
        }
        if let Some(gap) = self.tally.longest_gap {
            line(
                out,
                "longest gap",
                format_args!("{} between acknowledged writes", human(gap)),
            )?;
        }
        self.write_errors(out)?;
        line(
            out,
            "load generator",
            format_args!("{:.2} µs CPU an operation", self.micros_each(self.own_cpu)),
        )?;
        for cost in &self.servers {
            line(
                out,
                "server",
                format_args!(
                    "{:.2} µs CPU an operation, {:.1} MB resident (before {:.1}), process {}",
                    self.micros_each(cost.cpu()),
                    megabytes(cost.after.resident),
                    megabytes(cost.before.resident),
                    cost.pid
                ),
            )?;
        }
        Ok(())
    }

    fn write_latencies(
        &self,
        out: &mut impl Write,
        name: &str,
        latencies: &Histogram<u64>,
    ) -> io::Result<()> {
        let rate = thousands(self.rate(latencies.len()) as u64);
        let count = thousands(latencies.len());
        line(out, name, format_args!("{rate}/s ({count})"))?;
        let mut text = String::new();
        for (percentile, label, _) in PERCENTILES {
            let nanos = latencies.value_at_percentile(percentile);
            text += &format!("{label} {}  ", human(Duration::from_nanos(nanos)));
        }
        let max = human(Duration::from_nanos(latencies.max()));
        line(out, "", format_args!("{text}max {max}"))
    }

    fn write_errors(&self, out: &mut impl Write) -> io::Result<()> {
        let tally = &self.tally;
        if tally.errors.is_empty() && tally.lost.is_empty() {
            return line(out, "errors", format_args!("none"));
        }
        for (&code, &count) in &tally.errors {
            let code = ErrorCode(code);
            line(out, "errors", format_args!("{} × {code}", thousands(count)))?;
        }
        if tally.unanswered > 0 {
            let count = thousands(tally.unanswered);
            line(out, "errors", format_args!("{count} × no answer"))?;
        }
        let mut lost = BTreeMap::new();
        for reason in &tally.lost {
            *lost.entry(reason).or_insert(0u64) += 1;
        }
        for (reason, count) in lost {
            line(out, "lost", format_args!("{} × {reason}", thousands(count)))?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let tally = &self.tally;
        let errors: serde_json::Map<String, Value> = tally
            .errors
            .iter()
            .map(|(&code, &count)| {
                let name = ErrorCode(code).name();
                (name.map_or(code.to_string(), str::to_owned), json!(count))
            })
            .collect();
        let servers: Vec<Value> = self
            .servers
            .iter()
            .map(|cost| {
                json!({
                    "pid": cost.pid,
                    "cpu_us_per_operation": round(self.micros_each(cost.cpu())),
                    "resident_before": cost.before.resident,
                    "resident_after": cost.after.resident,
                })
            })
            .collect();
        json!({
            "elapsed_s": tally.elapsed.as_secs_f64(),
            "operations": tally.operations(),
            "operations_per_s": round(self.rate(tally.operations())),
            "reads": self.latencies_json(&tally.reads),
            "writes": self.latencies_json(&tally.writes),
            "longest_write_gap_ms": tally.longest_gap.map(|gap| round(gap.as_secs_f64() * 1e3)),
            "errors": errors,
            "unanswered": tally.unanswered,
            "lost_connections": tally.lost,
            "load_cpu_us_per_operation": round(self.micros_each(self.own_cpu)),
            "server_processes": servers,
        })
    }

    fn latencies_json(&self, latencies: &Histogram<u64>) -> Value {
        if latencies.is_empty() {
            return Value::Null;
        }
        let micros = |nanos: u64| round(nanos as f64 / 1e3);
        let mut value = json!({
            "count": latencies.len(),
            "per_s": round(self.rate(latencies.len())),
            "mean_us": round(latencies.mean() / 1e3),
            "max_us": micros(latencies.max()),
        });
        for (percentile, _, name) in PERCENTILES {
            let nanos = latencies.value_at_percentile(percentile);
            value[format!("{name}_us")] = json!(micros(nanos));
        }
        value
    }

    /// A second.
    fn rate(&self, count: u64) -> f64 {
        count as f64 / self.tally.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    fn micros_each(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() * 1e6 / self.tally.operations().max(1) as f64
    }
}

impl ServerCost {
    fn cpu(&self) -> Duration {
        self.after.cpu.saturating_sub(self.before.cpu)
    }

    /// Bytes of resident memory that came or, negative, went.
    fn growth(&self) -> f64 {
        self.after.resident as f64 - self.before.resident as f64
    }
}

impl Told {
    fn at(&self, quantile: f64) -> Duration {
        let last = self.rounds.len().saturating_sub(1);
        let index = (last as f64 * quantile).round() as usize;
        self.rounds.get(index).copied().unwrap_or_default()
    }

    fn json(&self) -> Value {
        let millis = |quantile| round(self.at(quantile).as_secs_f64() * 1e3);
        json!({
            "rounds": self.rounds.len(),
            "all_told_min_ms": millis(0.0),
            "all_told_median_ms": millis(0.5),
            "all_told_max_ms": millis(1.0),
        })
    }
}

fn line(out: &mut impl Write, label: &str, text: std::fmt::Arguments<'_>) -> io::Result<()> {
    writeln!(out, "  {label:<15} {text}")
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

/// To three decimals, which is finer than anything measured here.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// With three digits or more, in the unit that fits.
fn human(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    match micros {
        ..1000.0 => format!("{micros:.1} µs"),
        1000.0..1e6 => format!("{:.2} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

/// `1234567` as `1,234,567`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(human(Duration::from_nanos(1500)), "1.5 µs");
        assert_eq!(human(Duration::from_micros(2345)), "2.35 ms");
        assert_eq!(human(Duration::from_secs(2)), "2.00 s");
    }

    #[test]
    fn rounds_have_a_median() {
        let told = Told {
            rounds: [1, 2, 9].map(Duration::from_millis).into(),
        };
        assert_eq!(told.at(0.5), Duration::from_millis(2));
        assert_eq!(told.at(1.0), Duration::from_millis(9));
        assert_eq!(Told::default().at(0.5), Duration::ZERO);
    }
}
