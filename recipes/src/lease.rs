//! The lease with an end by the clock (spec: recipes, section 3.4).

use std::time::{Duration, SystemTime};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Unit};
use quorate_client::{Client, CreateMode, CreateOptions, Error as ClientError};
use serde::{Deserialize, Serialize};
use tracing::instrument;

use crate::chance;
use crate::changes::look_synced;
use crate::error::Error;
use crate::guard::Guard;
use crate::layout::Layout;
use crate::lock::Lock;
use crate::payload::{Json, decode, encode};
use crate::protect::{join, patient};
use crate::settings::{Settings, setters};

/// The version of the format, which kazoo bumps when it changes.
const VERSION: u32 = 1;
/// How the end is written, in UTC.
const FORMAT: &str = "%Y-%m-%dT%H:%M:%S";

/// Something that one holder has until a point in time, whether or not its process and its session
/// live on: for work that is done now and then, by one of many.
///
/// The lease is that of kazoo's `NonBlockingLease` on the same path. It depends on clocks that agree
/// to about a second, unlike a [`Lock`], which does not depend on any clock.
///
/// ```no_run
/// # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
/// use std::time::Duration;
/// use quorate_recipes::Lease;
///
/// let lease = Lease::new(&client, "/leases/report", "host-7");
/// if lease.obtain(Duration::from_secs(3600)).await? {
///     println!("the report is mine for an hour");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a lease does nothing until it is obtained"]
pub struct Lease {
    settings: Settings,
    holder: String,
}

/// Who has a lease, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseTerm {
    /// The name of the holder.
    pub holder: String,
    /// The end, to the second.
    pub end: SystemTime,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    holder: String,
    end: String,
}

impl Lease {
    /// The lease at `path`, for a holder who is told by a name.
    pub fn new(client: &Client, path: impl Into<String>, holder: impl Into<String>) -> Self {
        let mut settings = Settings::new(client, path);
        settings.layout = Layout::Kazoo;
        Lease {
            settings,
            holder: holder.into(),
        }
    }

    setters!(acl);

    /// Takes the lease from now on for so long, rounded up to seconds, or extends it, unless another
    /// holder has it. Answers whether it did.
    ///
    /// # Errors
    ///
    /// [`Error::Payload`] and [`Error::Mismatch`] if what says who has it cannot be understood;
    /// otherwise as for [`Lock::acquire`].
    ///
    /// Dropping the future gives up the wait only.
    #[instrument(name = "Lease::obtain", level = "debug", skip_all, fields(path = self.path()))]
    pub async fn obtain(&self, time: Duration) -> Result<bool, Error> {
        self.write(|term| {
            let now = chance::now(&self.settings.client);
            if term.is_some_and(|term| term.holder != self.holder && now < term.end) {
                return None;
            }
            Some(LeaseTerm {
                holder: self.holder.clone(),
                end: now.checked_add(time)?,
            })
        })
        .await
    }

    /// Ends the lease now, if this holder has it. Answers whether it did.
    ///
    /// # Errors
    ///
    /// As for [`obtain`](Lease::obtain).
    ///
    /// Dropping the future gives up the wait only.
    pub async fn end(&self) -> Result<bool, Error> {
        self.write(|term| {
            let mut term = term.filter(|term| term.holder == self.holder)?;
            // kazoo rounds down.
            term.end = SystemTime::UNIX_EPOCH;
            Some(term)
        })
        .await
    }

    /// Who has the lease now, and until when; `None` if nobody has.
    ///
    /// # Errors
    ///
    /// As for [`obtain`](Lease::obtain).
    pub async fn term(&self) -> Result<Option<LeaseTerm>, Error> {
        let term = self.read().await?.map(|(term, _)| term);
        Ok(term.filter(|term| chance::now(&self.settings.client) < term.end))
    }

    fn record(&self) -> String {
        join(self.path(), "lease_holder")
    }

    async fn read(&self) -> Result<Option<(LeaseTerm, i32)>, Error> {
        let path = self.record();
        let Some((data, stat)) = look_synced(&self.settings.client, &path).await? else {
            return Ok(None);
        };
        let Json(record) = decode::<Json<Record>>(&path, &data)?;
        let mismatch = |expected: &str, found: String| Error::Mismatch {
            path: path.clone(),
            expected: expected.to_owned(),
            found,
        };
        if record.version != VERSION {
            let found = record.version.to_string();
            return Err(mismatch("version 1 of a lease", found));
        }
        let end = DateTime::strptime(FORMAT, &record.end);
        let end = end.and_then(|end| end.to_zoned(TimeZone::UTC));
        let Ok(end) = end else {
            return Err(mismatch("a time such as 2026-01-31T23:59:59", record.end));
        };
        let term = LeaseTerm {
            holder: record.holder,
            end: end.timestamp().into(),
        };
        Ok(Some((term, stat.version)))
    }

    /// Makes another term of the current one while nobody else does; `None` leaves it as it is.
    async fn write(
        &self,
        change: impl Fn(Option<LeaseTerm>) -> Option<LeaseTerm>,
    ) -> Result<bool, Error> {
        loop {
            let lock = Lock::with_settings(self.settings.clone());
            let guard = lock.acquire().await?;
            let written = self.write_locked(&guard, &change).await;
            match written {
                // The lock was lost; nothing was written by then, or the same is written again.
                Err(Error::Lost { .. }) => {}
                written => return written,
            }
        }
    }

    async fn write_locked(
        &self,
        guard: &Guard,
        change: impl Fn(Option<LeaseTerm>) -> Option<LeaseTerm>,
    ) -> Result<bool, Error> {
        let found = self.read().await?;
        let version = found.as_ref().map(|(_, version)| *version);
        let Some(term) = change(found.map(|(term, _)| term)) else {
            return Ok(false);
        };
        let path = self.record();
        let record = Record {
            version: VERSION,
            holder: term.holder,
            end: written(term.end),
        };
        let data = encode(&path, &Json(record))?;
        let options = CreateOptions::new(CreateMode::Persistent).acl(&self.settings.acl);
        let transaction = match version {
            Some(_) => guard.transaction().set_data(&path, &data, None),
            None => guard.transaction().create(&path, &data, options),
        };
        let commit = || async {
            match transaction.clone().commit().await {
                Err(Error::Client(error)) => Err(error),
                outcome => Ok(outcome),
            }
        };
        match patient().run_idempotent(commit).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(error)) => Err(error),
            // An earlier attempt created it, since nobody else does while the lock is held.
            Err(ClientError::Transaction { source, .. })
                if matches!(*source, ClientError::NodeExists { .. }) =>
            {
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// A time as kazoo writes it.
fn written(time: SystemTime) -> String {
    let time = Timestamp::try_from(time).unwrap_or(Timestamp::MAX);
    let rounded = jiff::TimestampRound::new()
        .smallest(Unit::Second)
        .mode(jiff::RoundMode::Ceil);
    let time = time.round(rounded).unwrap_or(time);
    time.strftime(FORMAT).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_kazoo_does() {
        let at = |seconds: f64| written(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds));
        assert_eq!(at(0.0), "1970-01-01T00:00:00");
        assert_eq!(at(1_700_000_000.5), "2023-11-14T22:13:21");
    }
}
