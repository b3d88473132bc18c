//! Repeating what is safe to repeat.

use std::time::Duration;

use backoff::backoff::Backoff;
use backoff::exponential::{ExponentialBackoff, ExponentialBackoffBuilder};
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::error::{Error, Outcome};

/// How operations that failed for a passing reason are repeated: with pauses that grow, up to a
/// time limit.
///
/// Requests that are issued while the client is disconnected wait by themselves; a policy is for
/// those that were under way when the connection was lost.
///
/// ```no_run
/// # async fn demo(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
/// use std::time::Duration;
/// use quorate_client::RetryPolicy;
///
/// let patient = RetryPolicy::default().give_up_after(Duration::from_secs(600));
/// let names = patient.run(|| client.get_children("/workers")).await?;
/// # let _ = names;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    first_pause: Duration,
    longest_pause: Duration,
    give_up_after: Option<Duration>,
}

/// Pauses of 50 ms to 2 s, each up to half longer or shorter by chance, for one minute.
impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(2),
            give_up_after: Some(Duration::from_secs(60)),
        }
    }
}

impl RetryPolicy {
    /// The pause before the first repetition; later ones grow by half each time.
    #[must_use]
    pub fn first_pause(mut self, pause: Duration) -> Self {
        self.first_pause = pause;
        self
    }

    /// The longest pause.
    #[must_use]
    pub fn longest_pause(mut self, pause: Duration) -> Self {
        self.longest_pause = pause;
        self
    }

    /// After how long the last error is returned instead of another try; `None` goes on for as long
    /// as the session lives.
    #[must_use]
    pub fn give_up_after(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.give_up_after = limit.into();
        self
    }

    /// Runs `operation` and repeats it after errors that pass by themselves, provided that it
    /// surely changed nothing: reads always, writes if they had not been sent.
    ///
    /// # Errors
    ///
    /// The first error that does not allow another try, or the last one when time is up.
    pub async fn run<T, F>(&self, operation: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.run_while(operation, |error| {
            error.is_transient() && error.outcome() == Outcome::DidNotHappen
        })
        .await
    }

    /// As [`run`](Self::run), for an operation that does no harm when it is executed twice: it is
    /// also repeated when it may have been executed already. The second execution may answer
    /// differently, such as [`Error::NoNode`] to a delete that succeeded before.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub async fn run_idempotent<T, F>(&self, operation: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.run_while(operation, Error::is_transient).await
    }

    async fn run_while<T, F>(
        &self,
        mut operation: impl FnMut() -> F,
        again: impl Fn(&Error) -> bool,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut pauses = self.pauses();
        loop {
            let error = match operation().await {
                Err(error) if again(&error) => error,
                outcome => return outcome,
            };
            let Some(pause) = pauses.next_backoff() else {
                return Err(error);
            };
            let pause = pause.mul_f64(0.5 + fastrand::f64());
            debug!(%error, ?pause, "repeating");
            sleep(pause).await;
        }
    }

    /// The pauses before they are made longer or shorter by chance.
    fn pauses(&self) -> ExponentialBackoff<Clock> {
        ExponentialBackoffBuilder::<Clock>::new()
            .with_randomization_factor(0.0)
            .with_initial_interval(self.first_pause)
            .with_max_interval(self.longest_pause)
            .with_max_elapsed_time(self.give_up_after)
            .build()
    }
}

/// The clock by which futures wait.
#[derive(Debug, Default)]
struct Clock;

impl backoff::Clock for Clock {
    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::ready;

    use quorate_proto::OpCode;

    use super::*;

    fn lost(sent: bool) -> Error {
        Error::ConnectionLoss {
            operation: OpCode::SetData,
            path: "/a".into(),
            sent,
        }
    }

    fn policy() -> RetryPolicy {
        RetryPolicy::default()
            .first_pause(Duration::from_millis(1))
            .longest_pause(Duration::from_millis(1))
    }

    /// Answers the given errors one after the other, then success.
    async fn run(errors: Vec<Error>, idempotent: bool) -> (Result<(), Error>, usize) {
        let left = errors.len();
        let errors = RefCell::new(errors.into_iter());
        let operation = || ready(errors.borrow_mut().next().map_or(Ok(()), Err));
        let outcome = if idempotent {
            policy().run_idempotent(operation).await
        } else {
            policy().run(operation).await
        };
        (outcome, left - errors.borrow().len())
    }

    #[tokio::test]
    async fn repeats_what_surely_did_not_happen() {
        let (outcome, used) = run(vec![lost(false), lost(false)], false).await;
        assert!(outcome.is_ok());
        assert_eq!(used, 2);
    }

    #[tokio::test]
    async fn repeats_an_unknown_outcome_only_if_told_that_it_is_safe() {
        let (outcome, used) = run(vec![lost(true), lost(true)], false).await;
        assert!(matches!(outcome, Err(Error::ConnectionLoss { .. })));
        assert_eq!(used, 1);
        assert!(run(vec![lost(true), lost(true)], true).await.0.is_ok());
    }

    #[tokio::test]
    async fn does_not_repeat_a_refusal() {
        let refusal = Error::NoNode { path: "/a".into() };
        let (outcome, used) = run(vec![refusal, lost(false)], true).await;
        assert!(matches!(outcome, Err(Error::NoNode { .. })));
        assert_eq!(used, 1);
    }

    #[tokio::test]
    async fn gives_up_when_time_is_up() {
        let outcome = policy()
            .give_up_after(Duration::ZERO)
            .run(|| ready(Err::<(), _>(lost(false))))
            .await;
        assert!(matches!(outcome, Err(Error::ConnectionLoss { .. })));
    }
}
