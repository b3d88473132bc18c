//! The rules that a value alone cannot break: what must be set, and what must fit together.

use std::time::Duration;

use super::{Config, Origin, Problem, ProblemKind};

impl Config {
    /// Everything that keeps a server from running with these settings.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut rule = |broken: bool, key: &str, kind: ProblemKind, what: &str, advice: &str| {
            if broken {
                found.push(Problem {
                    origin: Origin::Code,
                    key: key.to_owned(),
                    kind,
                    what: what.to_owned(),
                    advice: advice.to_owned(),
                });
            }
        };
        use ProblemKind::{BadValue, Conflict, Missing, Unsupported};

        rule(
            self.data_dir.as_os_str().is_empty(),
            "dataDir",
            Missing,
            "dataDir is not set",
            "name the directory that keeps the data, as in dataDir=/var/lib/zookeeper",
        );
        rule(
            self.client_port_address.is_some() && self.client_port.is_none(),
            "clientPortAddress",
            Conflict,
            "clientPortAddress is set but clientPort is not set",
            "add the port, as in clientPort=2181",
        );
        rule(
            self.tick_time.is_zero(),
            "tickTime",
            Missing,
            "tickTime is not set",
            "give the milliseconds of a tick, as in tickTime=2000",
        );
        rule(
            self.session_timeouts().is_empty(),
            "minSessionTimeout",
            Conflict,
            &format!(
                "minSessionTimeout ({} ms) must not be larger than maxSessionTimeout ({} ms)",
                self.session_timeouts().start().as_millis(),
                self.session_timeouts().end().as_millis(),
            ),
            "they default to 2 and 20 ticks; set both, or change tickTime",
        );
        rule(
            *self.session_timeouts().end() > LONGEST_SESSION,
            "maxSessionTimeout",
            BadValue,
            "maxSessionTimeout does not fit the 32 bits of the protocol",
            "lower it, or tickTime, to 2147483647 ms at most",
        );
        rule(
            i32::try_from(self.jute_max_buffer).is_err(),
            "jute.maxbuffer",
            BadValue,
            "jute.maxbuffer does not fit the 32 bits of the protocol",
            "lower it to 2147483647 at most",
        );
        rule(
            self.jute_max_buffer < SMALLEST_FRAME,
            "jute.maxbuffer",
            BadValue,
            "jute.maxbuffer is smaller than a client's first request",
            "raise it; its default is 1048575 bytes",
        );
        rule(
            self.container_check_interval.is_zero(),
            "znode.container.checkIntervalMs",
            BadValue,
            "znode.container.checkIntervalMs must be more than 0",
            "its default is 60000 ms",
        );
        rule(
            self.container_max_per_minute == 0,
            "znode.container.maxPerMinute",
            BadValue,
            "znode.container.maxPerMinute must be more than 0",
            "its default is 10000",
        );
        rule(
            self.enforce_auth_enabled && self.enforce_auth_schemes.is_empty(),
            "enforce.auth.schemes",
            Missing,
            "enforce.auth.enabled is true but enforce.auth.schemes names no scheme",
            "name the schemes of which a client must use one, as in enforce.auth.schemes=digest",
        );
        for scheme in &self.enforce_auth_schemes {
            let offered = match scheme.as_str() {
                "digest" => self.digest_auth_enabled,
                "ip" => true,
                _ => false,
            };
            rule(
                self.enforce_auth_enabled && !offered,
                "enforce.auth.schemes",
                Unsupported,
                &format!("the authentication scheme {scheme:?} is not available"),
                "digest and ip are",
            );
        }
        if self.ensemble.is_some() {
            rule(
                self.init_limit == 0,
                "initLimit",
                Missing,
                "initLimit is not set",
                "an ensemble needs it; 10 ticks are usual",
            );
            rule(
                self.sync_limit == 0,
                "syncLimit",
                Missing,
                "syncLimit is not set",
                "an ensemble needs it; 5 ticks are usual",
            );
        }
        found
    }
}

/// Timeouts travel as 32-bit milliseconds.
const LONGEST_SESSION: Duration = Duration::from_millis(i32::MAX as u64);

/// Length of a connect request with a password and the read-only flag.
const SMALLEST_FRAME: usize = 45;
