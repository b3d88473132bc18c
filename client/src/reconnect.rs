//! When to connect, for how long, and when to give the session up.
//!
//! Pure functions: what happened so far, the time and chance come in, a decision goes out. All
//! times are measured from events, so neither a clock nor a socket is needed to test them.

use std::time::Duration;

/// The pause that spreads out the clients of a server which has just failed.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between rounds over all servers.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A server gets at least so long to accept and to answer the handshake, however many others wait.
const SHORTEST_ATTEMPT: Duration = Duration::from_secs(1);

/// What has happened so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct History {
    /// Servers in the list.
    pub(crate) servers: usize,
    /// No server has been tried yet.
    pub(crate) untried: bool,
    /// Attempts since the last connection on which a server answered a request.
    pub(crate) failures: u32,
    /// The session's timeout: the negotiated one, or the requested one before there is one.
    pub(crate) timeout: Duration,
    /// For how long no server has been heard; `None` without a session, which cannot expire.
    pub(crate) silence: Option<Duration>,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Connect to the next server.
    Try {
        /// The pause before the attempt.
        after: Duration,
        /// The time for the attempt: names, TCP and handshake together.
        within: Duration,
    },
    /// The ensemble has surely expired the session by now, if it works at all: stop waiting.
    GiveUp,
}

/// Decides, with `chance` from `0.0..1.0`.
pub(crate) fn decide(history: &History, chance: f64) -> Decision {
    let servers = history.servers.max(1);
    let patience = history.timeout * 4 / 3;
    if history.silence.is_some_and(|silence| silence >= patience) {
        return Decision::GiveUp;
    }
    let within = attempt_limit(history, servers);
    let mut after = pause(history, servers, chance);
    if let Some(silence) = history.silence {
        after = after.min(patience - silence);
        // While the session can still be saved, a pause must not eat the time of the attempts.
        if let Some(left) = history.timeout.checked_sub(silence) {
            after = after.min(left / (2 * u32::try_from(servers).unwrap_or(u32::MAX)));
        }
    }
    Decision::Try { after, within }
}

/// Every server gets its share: of the time that is left to save the session, otherwise of the
/// session's timeout.
fn attempt_limit(history: &History, servers: usize) -> Duration {
    let left = history
        .silence
        .and_then(|silence| history.timeout.checked_sub(silence))
        .unwrap_or(history.timeout);
    let share = left / u32::try_from(servers).unwrap_or(u32::MAX);
    share.max(SHORTEST_ATTEMPT.min(history.timeout))
}

/// None before the first attempt of all and within a round; after a loss a short one, so that the
/// clients of a failed server do not arrive together; between rounds it doubles.
fn pause(history: &History, servers: usize, chance: f64) -> Duration {
    if history.untried {
        return Duration::ZERO;
    }
    if history.failures == 0 {
        return FIRST_PAUSE.mul_f64(chance);
    }
    let failures = usize::try_from(history.failures).unwrap_or(usize::MAX);
    if !failures.is_multiple_of(servers) {
        return Duration::ZERO;
    }
    let rounds = u32::try_from(failures / servers).unwrap_or(u32::MAX);
    let longest = FIRST_PAUSE
        .saturating_mul(2u32.saturating_pow(rounds))
        .min(LONGEST_PAUSE);
    longest.mul_f64(0.5 + chance / 2.0)
}

/// When to act on a connection that is up, as fractions of the negotiated timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rhythm {
    /// A heartbeat goes out when nothing else has for so long.
    pub(crate) heartbeat: Duration,
    /// A server that has sent nothing for so long is abandoned.
    pub(crate) patience: Duration,
}

impl Rhythm {
    /// A third to notice that the connection is idle, a third for the heartbeat's answer, and a
    /// third left to reach another server.
    pub(crate) fn new(timeout: Duration) -> Self {
        Rhythm {
            heartbeat: (timeout / 3).min(Duration::from_secs(10)),
            patience: timeout * 2 / 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: Duration = Duration::from_secs(12);

    fn lost(servers: usize, failures: u32, silence: Duration) -> History {
        History {
            servers,
            untried: false,
            failures,
            timeout: T,
            silence: Some(silence),
        }
    }

    fn tried(history: &History, chance: f64) -> (Duration, Duration) {
        match decide(history, chance) {
            Decision::Try { after, within } => (after, within),
            Decision::GiveUp => panic!("gave up on {history:?}"),
        }
    }

    #[test]
    fn the_first_attempt_of_all_is_at_once() {
        let history = History {
            servers: 3,
            untried: true,
            failures: 0,
            timeout: T,
            silence: None,
        };
        assert_eq!(tried(&history, 0.9), (Duration::ZERO, T / 3));
    }

    #[test]
    fn after_a_loss_the_next_attempt_follows_after_a_short_random_pause() {
        let history = lost(3, 0, Duration::ZERO);
        assert_eq!(tried(&history, 0.0).0, Duration::ZERO);
        assert_eq!(tried(&history, 0.5), (FIRST_PAUSE / 2, T / 3));
    }

    #[test]
    fn within_a_round_there_is_no_pause_and_between_rounds_it_doubles() {
        let silence = T + Duration::from_secs(1);
        let after = |failures| tried(&lost(3, failures, silence), 0.0).0.as_millis();
        let pauses: Vec<_> = (1..=15).map(after).collect();
        assert_eq!(
            pauses,
            [0, 0, 100, 0, 0, 200, 0, 0, 400, 0, 0, 500, 0, 0, 500]
        );
    }

    #[test]
    fn a_session_that_can_be_saved_does_not_wait_long() {
        let history = lost(1, 20, T - Duration::from_millis(100));
        assert_eq!(tried(&history, 1.0).0, Duration::from_millis(50));
    }

    #[test]
    fn all_servers_share_the_time_that_is_left() {
        let within = |silence| tried(&lost(3, 0, silence), 0.0).1;
        assert_eq!(within(Duration::ZERO), T / 3);
        assert_eq!(within(T / 2), T / 6);
        assert_eq!(within(T * 9 / 10), SHORTEST_ATTEMPT);
        assert_eq!(within(T + Duration::from_millis(1)), T / 3);
    }

    #[test]
    fn a_session_is_given_up_after_four_thirds_of_its_timeout() {
        let just = T * 4 / 3;
        assert_eq!(decide(&lost(3, 9, just), 0.5), Decision::GiveUp);
        assert!(matches!(
            decide(&lost(3, 9, just - Duration::from_millis(1)), 0.5),
            Decision::Try { .. }
        ));
    }

    proptest! {
        #[test]
        fn decisions_stay_within_bounds(
            servers in 0usize..50,
            untried: bool,
            failures: u32,
            timeout in 0u64..1_000_000,
            silence in proptest::option::of(0u64..2_000_000),
            chance in 0.0f64..1.0,
        ) {
            let timeout = Duration::from_millis(timeout);
            let history = History {
                servers,
                untried,
                failures,
                timeout,
                silence: silence.map(Duration::from_millis),
            };
            match decide(&history, chance) {
                Decision::GiveUp => prop_assert!(history.silence >= Some(timeout * 4 / 3)),
                Decision::Try { after, within } => {
                    prop_assert!(after <= LONGEST_PAUSE);
                    prop_assert!(within <= timeout);
                    if let Some(silence) = history.silence {
                        prop_assert!(silence + after <= timeout * 4 / 3);
                    }
                }
            }
        }
    }
}
