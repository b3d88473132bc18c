//! What the client counts, with the feature `metrics`; the crate's documentation lists it all.

pub(crate) use inner::Meter;

/// How much there is of something right now, and since the connection was made.
#[derive(Debug, Clone, Copy, Default)]
#[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "nobody counts"))]
pub(crate) struct Levels {
    pub(crate) in_flight: usize,
    pub(crate) watches: usize,
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

#[cfg(feature = "metrics")]
mod inner {
    use std::collections::BTreeMap;
    use std::fmt;
    use std::time::Duration;

    use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
    use parking_lot::Mutex;
    use quorate_proto::{ErrorCode, OpCode};

    use super::Levels;

    /// Counts for the recorder that is installed when the client is built.
    pub(crate) struct Meter {
        connections: Gauge,
        connected: Counter,
        lost: Counter,
        failed_attempts: Counter,
        expired: Counter,
        sent: Counter,
        received: Counter,
        in_flight: Gauge,
        watches: Gauge,
        state: Mutex<State>,
    }

    /// Used by the session's task alone.
    #[derive(Default)]
    struct State {
        last: Levels,
        operations: BTreeMap<OpCode, Operation>,
    }

    struct Operation {
        requests: Counter,
        seconds: Histogram,
    }

    impl Default for Meter {
        fn default() -> Self {
            Meter {
                connections: gauge!("quorate_client_connections"),
                connected: counter!("quorate_client_connections_made_total"),
                lost: counter!("quorate_client_connections_lost_total"),
                failed_attempts: counter!("quorate_client_connect_failures_total"),
                expired: counter!("quorate_client_sessions_expired_total"),
                sent: counter!("quorate_client_sent_bytes_total"),
                received: counter!("quorate_client_received_bytes_total"),
                in_flight: gauge!("quorate_client_requests_in_flight"),
                watches: gauge!("quorate_client_watches"),
                state: Mutex::default(),
            }
        }
    }

    impl fmt::Debug for Meter {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Meter")
        }
    }

    impl Meter {
        pub(crate) fn connected(&self) {
            self.connected.increment(1);
            self.connections.increment(1);
        }

        /// A connection has ended: lost, or with its session.
        pub(crate) fn disconnected(&self, lost: bool) {
            self.connections.decrement(1);
            self.lost.increment(u64::from(lost));
            // The next connection counts its bytes from the beginning.
            let mut state = self.state.lock();
            self.in_flight.decrement(float(state.last.in_flight));
            state.last = Levels {
                watches: state.last.watches,
                ..Levels::default()
            };
        }

        pub(crate) fn attempt_failed(&self) {
            self.failed_attempts.increment(1);
        }

        pub(crate) fn expired(&self) {
            self.expired.increment(1);
        }

        pub(crate) fn answered(&self, operation: OpCode, code: ErrorCode, after: Duration) {
            let mut state = self.state.lock();
            let handles = state.handles(operation);
            handles.requests.increment(1);
            handles.seconds.record(after);
            if code != ErrorCode::OK {
                failed(operation, code);
            }
        }

        /// There will be no answer.
        pub(crate) fn unanswered(&self, operation: OpCode) {
            self.state.lock().handles(operation).requests.increment(1);
            failed(operation, ErrorCode::CONNECTION_LOSS);
        }

        pub(crate) fn observe(&self, now: Levels) {
            let mut state = self.state.lock();
            let last = std::mem::replace(&mut state.last, now);
            self.sent.increment(now.sent - last.sent);
            self.received.increment(now.received - last.received);
            let change = |now, last| float(now) - float(last);
            self.in_flight
                .increment(change(now.in_flight, last.in_flight));
            self.watches.increment(change(now.watches, last.watches));
        }
    }

    impl State {
        fn handles(&mut self, operation: OpCode) -> &Operation {
            self.operations.entry(operation).or_insert_with(|| {
                let name = format!("{operation:?}");
                Operation {
                    requests: counter!("quorate_client_requests_total", "operation" => name.clone()),
                    seconds: histogram!("quorate_client_request_seconds", "operation" => name),
                }
            })
        }
    }

    fn failed(operation: OpCode, code: ErrorCode) {
        let code = code
            .name()
            .map_or_else(|| code.0.to_string(), str::to_owned);
        counter!(
            "quorate_client_request_errors_total",
            "operation" => format!("{operation:?}"),
            "code" => code
        )
        .increment(1);
    }

    /// Exact up to more than there can be of anything.
    fn float(count: usize) -> f64 {
        f64::from(u32::try_from(count).unwrap_or(u32::MAX))
    }
}

#[cfg(not(feature = "metrics"))]
mod inner {
    use std::time::Duration;

    use quorate_proto::{ErrorCode, OpCode};

    use super::Levels;

    /// Counts nothing.
    #[derive(Debug, Default)]
    pub(crate) struct Meter {}

    impl Meter {
        pub(crate) fn connected(&self) {}
        pub(crate) fn disconnected(&self, _: bool) {}
        pub(crate) fn attempt_failed(&self) {}
        pub(crate) fn expired(&self) {}
        pub(crate) fn answered(&self, _: OpCode, _: ErrorCode, _: Duration) {}
        pub(crate) fn unanswered(&self, _: OpCode) {}
        pub(crate) fn observe(&self, _: Levels) {}
    }
}
