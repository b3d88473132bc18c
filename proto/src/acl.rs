//! Access control lists: who may do what with a znode.

use std::borrow::Cow;
use std::fmt;
use std::ops::BitOr;

use crate::jute::{Decode, DecodeError, Encode, Reader, records};

/// A set of permissions. Bits without a meaning are kept as they came.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Perms(pub i32);

impl Perms {
    /// Read data and list children.
    pub const READ: Perms = Perms(1);
    /// Set data.
    pub const WRITE: Perms = Perms(2);
    /// Create children.
    pub const CREATE: Perms = Perms(4);
    /// Delete children.
    pub const DELETE: Perms = Perms(8);
    /// Set the ACL.
    pub const ADMIN: Perms = Perms(16);
    /// All five.
    pub const ALL: Perms = Perms(31);

    /// Do the two sets share a permission?
    pub const fn intersects(self, other: Perms) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Perms {
    type Output = Perms;
    fn bitor(self, other: Perms) -> Perms {
        Perms(self.0 | other.0)
    }
}

/// Prints the letters that `zkCli` uses: `cdrwa`.
impl fmt::Display for Perms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (perm, letter) in [
            (Perms::CREATE, "c"),
            (Perms::DELETE, "d"),
            (Perms::READ, "r"),
            (Perms::WRITE, "w"),
            (Perms::ADMIN, "a"),
        ] {
            if self.intersects(perm) {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Perms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Perms({:#x} {self})", self.0)
    }
}

impl Encode for Perms {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
}

impl Decode<'_> for Perms {
    const MIN_SIZE: usize = 4;
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.read().map(Perms)
    }
}

records! {
    /// An identity: an authentication scheme and what identifies somebody within it.
    #[derive(Hash)]
    pub struct Id<'a> {
        /// `world`, `auth`, `digest`, `ip`, `x509`, `sasl`, …
        scheme: Cow<'a, str>,
        /// What the scheme understands, such as `user:hash` for `digest`.
        id: Cow<'a, str>,
    }

    /// One entry of an access control list: permissions for an identity.
    ///
    /// ```
    /// use quorate_proto::{Acl, Perms};
    /// let readers = Acl::world(Perms::READ);
    /// let owner = Acl::new(Perms::ALL, "auth", "");
    /// assert_eq!(readers.perms, Perms::READ);
    /// assert_eq!(owner.id.scheme, "auth");
    /// ```
    #[derive(Hash)]
    pub struct Acl<'a> {
        /// What is permitted.
        perms: Perms,
        /// To whom.
        id: Id<'a>,
    }
}

impl<'a> Id<'a> {
    /// An identity of `scheme`.
    pub fn new(scheme: impl Into<Cow<'a, str>>, id: impl Into<Cow<'a, str>>) -> Self {
        Id {
            scheme: scheme.into(),
            id: id.into(),
        }
    }

    /// The same identity, borrowing nothing.
    pub fn into_owned(self) -> Id<'static> {
        Id {
            scheme: self.scheme.into_owned().into(),
            id: self.id.into_owned().into(),
        }
    }
}

impl<'a> Acl<'a> {
    /// `perms` for the identity `id` of `scheme`.
    pub fn new(perms: Perms, scheme: impl Into<Cow<'a, str>>, id: impl Into<Cow<'a, str>>) -> Self {
        Acl {
            perms,
            id: Id::new(scheme, id),
        }
    }

    /// `perms` for everybody.
    pub fn world(perms: Perms) -> Self {
        Acl::new(perms, "world", "anyone")
    }

    /// The same entry, borrowing nothing.
    pub fn into_owned(self) -> Acl<'static> {
        Acl {
            perms: self.perms,
            id: self.id.into_owned(),
        }
    }
}

impl fmt::Display for Acl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.id.scheme, self.id.id, self.perms)
    }
}
