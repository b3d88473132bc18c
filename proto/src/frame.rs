//! Frames: a 32-bit length, then that many bytes.

use thiserror::Error;

use crate::jute::Encode;

/// The default of `jute.maxbuffer`, the longest frame that either side takes.
pub const DEFAULT_MAX_FRAME: usize = 0xfffff;

/// Bytes of the length in front of a frame.
pub const LENGTH_SIZE: usize = 4;

/// A length that no peer may send.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a frame of {len} bytes is outside the limit of {max} (jute.maxbuffer)")]
pub struct FrameError {
    /// The length in front of the frame.
    pub len: i32,
    /// The longest that is allowed.
    pub max: usize,
}

/// Looks for a frame at the beginning of `input`.
///
/// Answers the body, or `None` while bytes are missing. The frame takes [`LENGTH_SIZE`] bytes more
/// than its body.
///
/// ```
/// use quorate_proto::frame;
/// assert_eq!(frame::split(&[0, 0, 0, 2, 7, 8, 0], 100), Ok(Some(&[7, 8][..])));
/// assert_eq!(frame::split(&[0, 0, 0, 2, 7], 100), Ok(None));
/// assert!(frame::split(&[0x7f, 0, 0, 0], 100).is_err());
/// ```
pub fn split(input: &[u8], max: usize) -> Result<Option<&[u8]>, FrameError> {
    let Some((length, rest)) = input.split_first_chunk::<LENGTH_SIZE>() else {
        return Ok(None);
    };
    let len = i32::from_be_bytes(*length);
    match usize::try_from(len) {
        Ok(n) if n <= max => Ok(rest.get(..n)),
        _ => Err(FrameError { len, max }),
    }
}

/// Appends a frame whose body is what `body` appends, and returns what `body` returns.
pub fn write<R>(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let start = out.len();
    0i32.encode(out);
    let result = body(out);
    let len = i32::try_from(out.len() - start - LENGTH_SIZE).unwrap_or(i32::MAX);
    out[start..start + LENGTH_SIZE].copy_from_slice(&len.to_be_bytes());
    result
}
