//! What the load and the servers cost: CPU time and memory.

use std::fs;
use std::time::Duration;

use rustix::param::clock_ticks_per_second;
use rustix::time::{ClockId, clock_gettime};

/// CPU time of this process so far.
pub(super) fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanos)
}

/// CPU time and memory of a process, from `/proc`.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProcessUsage {
    /// User and system time since its start.
    pub(super) cpu: Duration,
    /// Resident memory in bytes.
    pub(super) resident: u64,
}

impl ProcessUsage {
    /// `None` if there is no such process, or no `/proc`.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(ProcessUsage {
            cpu: cpu_of(&stat)?,
            resident: resident_of(&status)?,
        })
    }
}

/// The name of the program stands in parentheses and may hold anything, so fields are counted from
/// the last of them: user time is the 12th behind it, system time the 13th.
fn cpu_of(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let user: u64 = times.next()?.parse().ok()?;
    let system: u64 = times.next()?.parse().ok()?;
    let ticks = (user + system) as f64;
    Some(Duration::from_secs_f64(
        ticks / clock_ticks_per_second() as f64,
    ))
}

fn resident_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_fields_of_proc() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 500 0 1 0 250 50 0 0 20 0 3 0 9 1 2";
        let ticks = clock_ticks_per_second() as f64;
        assert_eq!(cpu_of(stat), Some(Duration::from_secs_f64(300.0 / ticks)));
        assert_eq!(resident_of("VmPeak: 9 kB\nVmRSS:\t  12 kB\n"), Some(12288));
        assert_eq!(cpu_of("42"), None);
        assert_eq!(resident_of(""), None);
    }
}
