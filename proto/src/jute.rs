//! Jute, the encoding of every record on the wire and on disk.
//!
//! Fields follow each other in order, big-endian, without tags or padding; strings, buffers and
//! vectors carry a 32-bit length in front, where -1 stands for null. Decoding borrows from the
//! input, never panics, and reserves no more memory than the input itself could fill.

use std::borrow::Cow;

use thiserror::Error;

/// Why bytes could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input ended inside a field.
    #[error("input ends early: {wanted} more bytes wanted, {left} left")]
    UnexpectedEnd {
        /// Bytes that the field needs.
        wanted: usize,
        /// Bytes that the input still had.
        left: usize,
    },
    /// A length below -1, or -1 where null is not allowed.
    #[error("invalid length {0}")]
    InvalidLength(i32),
    /// A string that is not UTF-8.
    #[error("a string is not valid UTF-8")]
    InvalidUtf8,
    /// A type, mode or marker that the record does not know.
    #[error("unknown {what} {value}")]
    Unknown {
        /// What kind of number it is.
        what: &'static str,
        /// The number found.
        value: i32,
    },
}

/// A cursor over encoded bytes; what is decoded borrows from the input.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    input: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts reading at the beginning of `input`.
    pub fn new(input: &'a [u8]) -> Self {
        Reader { input }
    }

    /// The bytes not read yet.
    pub fn remaining(&self) -> &'a [u8] {
        self.input
    }

    /// True when every byte has been read.
    pub fn is_empty(&self) -> bool {
        self.input.is_empty()
    }

    /// Takes the next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let Some((taken, rest)) = self.input.split_at_checked(n) else {
            return Err(DecodeError::UnexpectedEnd {
                wanted: n,
                left: self.input.len(),
            });
        };
        self.input = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let Some((taken, rest)) = self.input.split_first_chunk::<N>() else {
            return Err(DecodeError::UnexpectedEnd {
                wanted: N,
                left: self.input.len(),
            });
        };
        self.input = rest;
        Ok(*taken)
    }

    /// Reads any decodable value.
    pub fn read<T: Decode<'a>>(&mut self) -> Result<T, DecodeError> {
        T::decode(self)
    }

    /// Reads a length; `None` for null.
    pub fn length(&mut self) -> Result<Option<usize>, DecodeError> {
        match i32::decode(self)? {
            -1 => Ok(None),
            n => usize::try_from(n)
                .map(Some)
                .map_err(|_| DecodeError::InvalidLength(n)),
        }
    }
}

/// A value that can be appended to a buffer in jute.
pub trait Encode {
    /// Appends the encoding of `self` to `out`.
    fn encode(&self, out: &mut Vec<u8>);

    /// The encoding as a buffer of its own.
    fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

/// A value that can be read from jute.
pub trait Decode<'a>: Sized {
    /// The fewest bytes an encoding can have; bounds what a vector reserves.
    const MIN_SIZE: usize;

    /// Reads one value and leaves the reader behind it.
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError>;

    /// Decodes from the beginning of `input`; bytes behind the value are ignored, as every
    /// ZooKeeper server does.
    fn from_slice(input: &'a [u8]) -> Result<Self, DecodeError> {
        Self::decode(&mut Reader::new(input))
    }
}

macro_rules! integers {
    ($($t:ty),*) => {$(
        impl Encode for $t {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }
        }
        impl Decode<'_> for $t {
            const MIN_SIZE: usize = size_of::<$t>();
            fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                reader.array().map(<$t>::from_be_bytes)
            }
        }
    )*};
}
integers!(i32, i64, u64);

impl Encode for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl Decode<'_> for bool {
    const MIN_SIZE: usize = 1;
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.array::<1>().map(|[b]| b != 0)
    }
}

/// Lengths above `i32::MAX` cannot be expressed; every caller is bounded by `jute.maxbuffer`.
fn encode_length(len: usize, out: &mut Vec<u8>) {
    i32::try_from(len).unwrap_or(i32::MAX).encode(out);
}

impl Encode for [u8] {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_length(self.len(), out);
        out.extend_from_slice(self);
    }
}

impl Encode for str {
    fn encode(&self, out: &mut Vec<u8>) {
        self.as_bytes().encode(out);
    }
}

impl<T: Encode + ?Sized> Encode for &T {
    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }
}

impl<T: Encode> Encode for Option<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Some(value) => value.encode(out),
            None => (-1i32).encode(out),
        }
    }
}

impl Encode for Cow<'_, str> {
    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }
}

impl<T: Encode> Encode for [T] {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_length(self.len(), out);
        for item in self {
            item.encode(out);
        }
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.as_slice().encode(out);
    }
}

impl<'a> Decode<'a> for Option<&'a [u8]> {
    const MIN_SIZE: usize = 4;
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        reader.length()?.map(|n| reader.take(n)).transpose()
    }
}

impl<'a> Decode<'a> for &'a [u8] {
    const MIN_SIZE: usize = 4;
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Option::decode(reader)?.ok_or(DecodeError::InvalidLength(-1))
    }
}

impl<'a> Decode<'a> for &'a str {
    const MIN_SIZE: usize = 4;
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Option::decode(reader)?.ok_or(DecodeError::InvalidLength(-1))
    }
}

impl<'a> Decode<'a> for Option<&'a str> {
    const MIN_SIZE: usize = 4;
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let bytes: Option<&[u8]> = reader.read()?;
        bytes
            .map(|b| std::str::from_utf8(b).map_err(|_| DecodeError::InvalidUtf8))
            .transpose()
    }
}

/// Text that need not be valid UTF-8: Java writes characters beyond U+FFFF as two surrogates, and
/// reads them back as replacement characters, and so do we. Null reads as empty.
impl<'a> Decode<'a> for Cow<'a, str> {
    const MIN_SIZE: usize = 4;
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let bytes: Option<&[u8]> = reader.read()?;
        Ok(String::from_utf8_lossy(bytes.unwrap_or_default()))
    }
}

impl<'a, T: Decode<'a>> Decode<'a> for Vec<T> {
    const MIN_SIZE: usize = 4;
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Option::decode(reader)?.ok_or(DecodeError::InvalidLength(-1))
    }
}

impl<'a, T: Decode<'a>> Decode<'a> for Option<Vec<T>> {
    const MIN_SIZE: usize = 4;
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let Some(count) = reader.length()? else {
            return Ok(None);
        };
        let mut items =
            Vec::with_capacity(count.min(reader.remaining().len() / T::MIN_SIZE.max(1)));
        for _ in 0..count {
            items.push(reader.read()?);
        }
        Ok(Some(items))
    }
}

/// Declares records: a struct whose fields are encoded in the order written.
macro_rules! records {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident $(<$lt:lifetime>)? {
            $( $(#[$fmeta:meta])* $field:ident : $ty:ty, )*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name $(<$lt>)? {
            $( $(#[$fmeta])* pub $field: $ty, )*
        }
        impl $(<$lt>)? $crate::jute::Encode for $name $(<$lt>)? {
            fn encode(&self, out: &mut Vec<u8>) {
                let _ = &out;
                $( self.$field.encode(out); )*
            }
        }
        $crate::jute::records!(@decode $name [$($lt)?] { $($field: $ty,)* });
    )*};
    (@decode $name:ident [] { $($field:ident : $ty:ty,)* }) => {
        impl<'r> $crate::jute::Decode<'r> for $name {
            const MIN_SIZE: usize = 0 $( + <$ty as $crate::jute::Decode<'r>>::MIN_SIZE )*;
            fn decode(
                reader: &mut $crate::jute::Reader<'r>,
            ) -> Result<Self, $crate::jute::DecodeError> {
                let _ = &reader;
                Ok($name { $( $field: reader.read()?, )* })
            }
        }
    };
    (@decode $name:ident [$lt:lifetime] { $($field:ident : $ty:ty,)* }) => {
        impl<$lt> $crate::jute::Decode<$lt> for $name<$lt> {
            const MIN_SIZE: usize = 0 $( + <$ty as $crate::jute::Decode<$lt>>::MIN_SIZE )*;
            fn decode(
                reader: &mut $crate::jute::Reader<$lt>,
            ) -> Result<Self, $crate::jute::DecodeError> {
                Ok($name { $( $field: reader.read()?, )* })
            }
        }
    };
}
pub(crate) use records;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_length_reserves_only_what_the_input_can_hold() {
        let claim = i32::MAX.to_be_bytes();
        assert!(Vec::<i64>::from_slice(&claim).is_err());
        assert!(Vec::<&str>::from_slice(&claim).is_err());
        assert!(<&[u8]>::from_slice(&claim).is_err());
    }

    #[test]
    fn null_and_empty_stay_apart() {
        assert_eq!(
            Option::<&[u8]>::from_slice(&(-1i32).to_be_bytes()),
            Ok(None)
        );
        assert_eq!(
            Option::<&[u8]>::from_slice(&0i32.to_be_bytes()),
            Ok(Some(&[][..]))
        );
        assert_eq!(
            Option::<&[u8]>::from_slice(&(-2i32).to_be_bytes()),
            Err(DecodeError::InvalidLength(-2))
        );
    }
}
