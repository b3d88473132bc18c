//! Numbers and values that many change (spec: recipes, section 3.12).

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use quorate_client::{Acl, Client};
use tokio::sync::Mutex;

use crate::config::{Config, Versioned};
use crate::error::Error;
use crate::payload::Payload;

/// A number that many change at once, none of whose changes is lost or made twice, also if
/// connections are lost.
///
/// It is kept as Curator's `DistributedAtomicLong` does unless another [`Encoding`] is chosen.
/// A counter that does not exist is 0.
///
/// ```no_run
/// # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
/// use quorate_recipes::Counter;
///
/// let visits = Counter::new(&client, "/counters/visits");
/// println!("visitor number {}", visits.add(1).await?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a counter does nothing by itself"]
pub struct Counter {
    config: Config<Bytes>,
    encoding: Encoding,
}

/// How a number is kept in a znode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Encoding {
    /// Eight bytes, the most significant first: Curator's `DistributedAtomicLong`.
    #[default]
    Long,
    /// Four bytes, the most significant first: Curator's `DistributedAtomicInteger` and
    /// `SharedCount`, and kazoo's `Counter` that supports Curator.
    Int,
    /// Decimal digits: kazoo's `Counter`.
    Text,
}

impl Encoding {
    fn write(self, number: i64) -> Option<Bytes> {
        Some(match self {
            Encoding::Long => number.to_be_bytes().to_vec().into(),
            Encoding::Int => i32::try_from(number).ok()?.to_be_bytes().to_vec().into(),
            Encoding::Text => number.to_string().into(),
        })
    }

    /// Nothing reads as 0.
    fn read(self, data: &[u8]) -> Option<i64> {
        match self {
            _ if data.is_empty() => Some(0),
            Encoding::Long => data.try_into().ok().map(i64::from_be_bytes),
            Encoding::Int => data
                .try_into()
                .ok()
                .map(|data| i32::from_be_bytes(data).into()),
            Encoding::Text => std::str::from_utf8(data).ok()?.trim().parse().ok(),
        }
    }
}

impl Counter {
    /// The number in the znode at `path`.
    pub fn new(client: &Client, path: impl Into<String>) -> Self {
        Counter {
            config: Config::new(client, path),
            encoding: Encoding::default(),
        }
    }

    /// Keeps the number as another program does.
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// Who may do what with the znode if it is created here; everybody everything unless set.
    pub fn acl(mut self, acl: impl Into<Vec<Acl<'static>>>) -> Self {
        self.config = self.config.acl(acl);
        self
    }

    /// The path.
    pub fn path(&self) -> &str {
        self.config.path()
    }

    /// The number. The server that answers catches up with the leader before.
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`] if there is something else; [`Error::Client`] when the session ends, and
    /// with what a server refuses.
    ///
    /// Cancel safe.
    pub async fn get(&self) -> Result<i64, Error> {
        let found = self.config.get().await?;
        self.read(found.map(|versioned| versioned.value))
    }

    /// Adds to the number, once, and answers the sum.
    ///
    /// # Errors
    ///
    /// [`Error::Overflow`]; otherwise as for [`get`](Counter::get). Only if [`Error::outcome`] says
    /// that it is unknown may it have been added nevertheless.
    ///
    /// Dropping the future gives up the wait only.
    pub async fn add(&self, delta: i64) -> Result<i64, Error> {
        let mut sum = 0;
        let add = |data| {
            let value = self.read(data)?;
            let written = value.checked_add(delta).and_then(|added| {
                sum = added;
                self.encoding.write(added)
            });
            let path = self.path().to_owned();
            let overflow = || Error::Overflow { path, value, delta };
            written.ok_or_else(overflow).map(Some)
        };
        self.config.try_update(add).await?;
        Ok(sum)
    }

    /// Sets the number, whatever it is.
    ///
    /// # Errors
    ///
    /// As for [`add`](Counter::add).
    ///
    /// Dropping the future gives up the wait only.
    pub async fn set(&self, number: i64) -> Result<(), Error> {
        self.config.set(&self.write(number)?).await
    }

    /// Sets the number to `to` if it is `from`. Answers whether it was, also if connections are
    /// lost.
    ///
    /// # Errors
    ///
    /// As for [`add`](Counter::add).
    ///
    /// Dropping the future gives up the wait only.
    pub async fn compare_and_set(&self, from: i64, to: i64) -> Result<bool, Error> {
        let data = self.write(to)?;
        let mut equal = false;
        let exchange = |found| {
            equal = self.read(found)? == from;
            Ok(equal.then(|| data.clone()))
        };
        self.config.try_update(exchange).await?;
        Ok(equal)
    }

    /// The number now, and after each change. Several quick changes may be seen as one, but the last
    /// one is never missed.
    ///
    /// Something that is no number is an error, after which the stream goes on; after any other it
    /// ends.
    pub fn watch(&self) -> impl Stream<Item = Result<i64, Error>> + Send + Unpin + use<> {
        let counter = self.clone();
        self.config.watch().map(move |found| {
            let found = found?;
            counter.read(found.map(|versioned| versioned.value))
        })
    }

    fn read(&self, data: Option<Bytes>) -> Result<i64, Error> {
        let data = data.unwrap_or_default();
        self.encoding.read(&data).ok_or_else(|| Error::Mismatch {
            path: self.path().to_owned(),
            expected: format!("a number ({:?})", self.encoding),
            found: format!("{data:?}"),
        })
    }

    fn write(&self, number: i64) -> Result<Bytes, Error> {
        let path = self.path().to_owned();
        let (value, delta) = (0, number);
        let overflow = || Error::Overflow { path, value, delta };
        self.encoding.write(number).ok_or_else(overflow)
    }
}

/// A value with a version that counts its changes, as Curator's `SharedValue`: a [`Config`] that is
/// never without a value.
///
/// ```no_run
/// # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
/// use quorate_recipes::SharedValue;
///
/// let colour = SharedValue::new(&client, "/values/colour", "red".to_owned());
/// let now = colour.get().await?;
/// if colour.compare_and_set(&now, &"blue".to_owned()).await? {
///     println!("it was {} before", now.value);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a value does nothing by itself"]
pub struct SharedValue<T> {
    config: Config<T>,
    seed: T,
}

impl<T: Payload + Clone> SharedValue<T> {
    /// The value in the znode at `path`, which gets the value `seed` when it is missing.
    pub fn new(client: &Client, path: impl Into<String>, seed: T) -> Self {
        SharedValue {
            config: Config::new(client, path),
            seed,
        }
    }

    /// The configuration underneath, for streams of versions, among others.
    pub fn config(&self) -> &Config<T> {
        &self.config
    }

    /// The value in its current version.
    ///
    /// # Errors
    ///
    /// As for [`Config::get`].
    pub async fn get(&self) -> Result<Versioned<T>, Error> {
        loop {
            if let Some(value) = self.config.get().await? {
                return Ok(value);
            }
            self.config.compare_and_set(None, &self.seed).await?;
        }
    }

    /// Sets the value if it still is the one that was read. Answers whether it did, also if
    /// connections are lost.
    ///
    /// A value that was deleted and written anew since it was read is another one, also in the same
    /// version; see [`Config::exchange`] for the one moment in which that is not noticed.
    ///
    /// # Errors
    ///
    /// As for [`Config::update`].
    ///
    /// Dropping the future gives up the wait only.
    pub async fn compare_and_set(&self, read: &Versioned<T>, value: &T) -> Result<bool, Error> {
        self.config.exchange(read, value).await
    }
}

/// Numbers that are given out once, over all processes that use the same path.
///
/// They are taken from a [`Counter`] in blocks, so that most cost no request. Those of a block that
/// a process has not used when it ends are never given out.
///
/// ```no_run
/// # async fn demo(client: quorate_recipes::Client) -> Result<(), quorate_recipes::Error> {
/// use quorate_recipes::{Counter, IdGenerator};
///
/// let orders = IdGenerator::new(Counter::new(&client, "/ids/orders"), 100);
/// println!("order {}", orders.next().await?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a generator does nothing by itself"]
pub struct IdGenerator {
    counter: Counter,
    block: i64,
    /// The last number given out, and the last one of the block.
    block_left: Arc<Mutex<(i64, i64)>>,
}

impl IdGenerator {
    /// Gives out the numbers above what `counter` says, in blocks of so many.
    pub fn new(counter: Counter, block: u32) -> Self {
        IdGenerator {
            counter,
            block: i64::from(block.max(1)),
            block_left: Arc::default(),
        }
    }

    /// A number that nobody else gets.
    ///
    /// # Errors
    ///
    /// As for [`Counter::add`]. No number is given out twice in any case.
    ///
    /// Cancel safe.
    pub async fn next(&self) -> Result<i64, Error> {
        let mut left = self.block_left.lock().await;
        if left.0 == left.1 {
            let last = self.counter.add(self.block).await?;
            *left = (last - self.block, last);
        }
        left.0 += 1;
        Ok(left.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_kept_as_other_programs_do() {
        let written = |encoding: Encoding, number| encoding.write(number).unwrap();
        assert_eq!(
            written(Encoding::Long, -2),
            &b"\xff\xff\xff\xff\xff\xff\xff\xfe"[..]
        );
        assert_eq!(written(Encoding::Int, 258), &b"\0\0\x01\x02"[..]);
        assert_eq!(written(Encoding::Text, -17), &b"-17"[..]);
        assert_eq!(Encoding::Int.write(1 << 31), None);
        assert_eq!(Encoding::Int.read(b"\0\0\0\0\0\0\0\x01"), None);
        assert_eq!(Encoding::Text.read(b"1.5"), None);
    }

    proptest! {
        #[test]
        fn numbers_come_back(number: i64) {
            for encoding in [Encoding::Long, Encoding::Int, Encoding::Text] {
                if let Some(data) = encoding.write(number) {
                    prop_assert_eq!(encoding.read(&data), Some(number));
                }
            }
        }
    }
}
