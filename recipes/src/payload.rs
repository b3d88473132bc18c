//! What applications keep in znodes, and how it is written there.

use std::error::Error as StdError;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// A value that can be kept in a znode.
///
/// [`Json`] makes one of everything that `serde` knows. Text is kept as UTF-8 and [`Bytes`] as they
/// are, for znodes that other programs write.
pub trait Payload: Sized + Send + 'static {
    /// The bytes of the znode.
    ///
    /// # Errors
    ///
    /// Why the value cannot be written.
    fn encode(&self) -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>>;

    /// The value in the bytes of a znode.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    fn decode(data: &Bytes) -> Result<Self, Box<dyn StdError + Send + Sync>>;
}

/// A value that is kept as JSON.
///
/// ```
/// use quorate_recipes::{Json, Payload};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Job {
///     url: String,
/// }
///
/// let job = Json(Job { url: "http://example.org".into() });
/// assert_eq!(job.encode().unwrap(), br#"{"url":"http://example.org"}"#);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Json<T>(pub T);

impl<T: Serialize + DeserializeOwned + Send + 'static> Payload for Json<T> {
    fn encode(&self) -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>> {
        Ok(serde_json::to_vec(&self.0)?)
    }

    fn decode(data: &Bytes) -> Result<Self, Box<dyn StdError + Send + Sync>> {
        Ok(Json(serde_json::from_slice(data)?))
    }
}

impl<T> Deref for Json<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Json<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl Payload for Bytes {
    fn encode(&self) -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>> {
        Ok(self.to_vec())
    }

    fn decode(data: &Bytes) -> Result<Self, Box<dyn StdError + Send + Sync>> {
        Ok(data.clone())
    }
}

impl Payload for String {
    fn encode(&self) -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>> {
        Ok(self.clone().into_bytes())
    }

    fn decode(data: &Bytes) -> Result<Self, Box<dyn StdError + Send + Sync>> {
        Ok(std::str::from_utf8(data)?.to_owned())
    }
}

/// The bytes of `value`, which is meant for the znode `path`.
pub(crate) fn encode<T: Payload>(path: &str, value: &T) -> Result<Vec<u8>, Error> {
    value.encode().map_err(|source| Error::Payload {
        path: path.to_owned(),
        source: Arc::from(source),
    })
}

/// The value in the znode `path`.
pub(crate) fn decode<T: Payload>(path: &str, data: &Bytes) -> Result<T, Error> {
    T::decode(data).map_err(|source| Error::Payload {
        path: path.to_owned(),
        source: Arc::from(source),
    })
}
