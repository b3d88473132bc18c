//! What can go wrong in a recipe.

use std::sync::Arc;
use std::time::Duration;

use quorate_client as client;
use quorate_client::Outcome;
use thiserror::Error;

use crate::hold::LostReason;

/// Why a recipe failed.
///
/// ```
/// use quorate_recipes::Error;
///
/// # fn handle(error: Error) {
/// match error {
///     Error::TimedOut { path, within } => println!("{path} was busy for {within:?}"),
///     Error::Lost { reason, .. } => println!("stop at once: {reason}"),
///     error if error.is_session_over() => println!("connect anew: {error}"),
///     error => println!("{error}"),
/// }
/// # }
/// ```
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation failed, or the session ended while the recipe waited.
    #[error(transparent)]
    Client(#[from] client::Error),

    /// It was not this caller's turn within the time given. Nothing is held, and the place in the
    /// queue is given up.
    #[error("{path:?} could not be acquired within {within:?}")]
    TimedOut {
        /// The recipe's path.
        path: String,
        /// The time given.
        within: Duration,
    },

    /// Among the recipe's znodes is one that is none of them, such as one of another layout. Whoever
    /// has created it may not see those of this recipe, or it would be waited for in vain, so nothing
    /// is granted and nobody counted while it is there.
    #[error(
        "{path:?} is none of this recipe's: delete it, give it another parent, \
         or use the layout of the program that created it"
    )]
    ForeignChild {
        /// The znode.
        path: String,
    },

    /// More was asked for at once than there ever is.
    #[error("{path:?} has {limit} permits in all, {asked} were asked for")]
    TooMany {
        /// The recipe's path.
        path: String,
        /// How many were asked for.
        asked: usize,
        /// How many there are.
        limit: usize,
    },

    /// A value cannot be written as the data of a znode, or the data is no such value.
    #[error("{path:?} does not hold what is expected: {source}")]
    Payload {
        /// The znode.
        path: String,
        /// What is wrong.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// The number would be larger or smaller than what is kept in the znode can be.
    #[error("{path:?}: {value} and {delta} make a number that does not fit")]
    Overflow {
        /// The znode.
        path: String,
        /// The number there.
        value: i64,
        /// What was to be added.
        delta: i64,
    },

    /// Those who share the path do not agree about how it is set up.
    #[error("{path:?} is set up with {found}, not with {expected}, by who came first")]
    Mismatch {
        /// The znode that says so.
        path: String,
        /// What is expected here.
        expected: String,
        /// What was found.
        found: String,
    },

    /// What the guard stood for is not held any more.
    #[error("{path:?} is not held any more: {reason}")]
    Lost {
        /// The recipe's path.
        path: String,
        /// Why.
        reason: LostReason,
    },
}

impl Error {
    /// Whether the operation took effect although it failed; see
    /// [`client::Error::outcome`](quorate_client::Error::outcome).
    pub fn outcome(&self) -> Outcome {
        match self {
            Error::Client(error) => error.outcome(),
            _ => Outcome::DidNotHappen,
        }
    }

    /// Is the session over, so that a new client is needed?
    pub fn is_session_over(&self) -> bool {
        match self {
            Error::Client(error) => error.is_session_over(),
            Error::Lost { reason, .. } => matches!(
                reason,
                LostReason::SessionExpired | LostReason::AuthFailed | LostReason::Closed
            ),
            _ => false,
        }
    }
}
