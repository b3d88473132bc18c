//! What znodes are made of: data, and how they are created.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::jute::Encode;
use quorate_proto::{Acl, CreateMode, Id, OpCode, Perms, Stat};

/// Everything for everybody, the ACL of znodes that are created without another.
pub const OPEN_ACL: &[Acl<'static>] = &[Acl {
    perms: Perms::ALL,
    id: Id {
        scheme: Cow::Borrowed("world"),
        id: Cow::Borrowed("anyone"),
    },
}];

/// The data of a znode, on its way to the server.
///
/// Made from byte slices, strings and `Bytes`. A znode can also have no data at all, which is not
/// the same as empty data: [`Data::NULL`], or `None`.
///
/// ```
/// use quorate_client::Data;
///
/// assert_eq!(Data::from("text").as_slice(), Some(&b"text"[..]));
/// assert_eq!(Data::from(b"").as_slice(), Some(&b""[..]));
/// assert_eq!(Data::NULL.as_slice(), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Data<'a>(Option<&'a [u8]>);

impl<'a> Data<'a> {
    /// No data.
    pub const NULL: Data<'static> = Data(None);

    /// The bytes; `None` for null.
    pub fn as_slice(self) -> Option<&'a [u8]> {
        self.0
    }

    /// How many bytes it has.
    pub(crate) fn len(self) -> usize {
        self.0.map_or(0, <[u8]>::len)
    }
}

macro_rules! data_from {
    ($($t:ty),*) => {$(
        impl<'a> From<&'a $t> for Data<'a> {
            fn from(data: &'a $t) -> Self {
                Data(Some(data.as_ref()))
            }
        }
    )*};
}
data_from!([u8], str, Vec<u8>, String, Bytes);

impl<'a, const N: usize> From<&'a [u8; N]> for Data<'a> {
    fn from(data: &'a [u8; N]) -> Self {
        Data(Some(data))
    }
}

impl<'a> From<Option<&'a [u8]>> for Data<'a> {
    fn from(data: Option<&'a [u8]>) -> Self {
        Data(data)
    }
}

/// How a znode is created. A [`CreateMode`] alone converts into options with the open ACL.
///
/// ```
/// use std::time::Duration;
/// use quorate_client::{Acl, CreateMode, CreateOptions, Perms};
///
/// let acl = [Acl::new(Perms::ALL, "auth", ""), Acl::world(Perms::READ)];
/// let readable = CreateOptions::new(CreateMode::EphemeralSequential).acl(&acl);
/// let cache = CreateOptions::new(CreateMode::Persistent).ttl(Duration::from_secs(60));
/// # let _ = (readable, cache);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct CreateOptions<'a> {
    mode: CreateMode,
    acl: &'a [Acl<'a>],
    ttl: Option<Duration>,
}

impl<'a> CreateOptions<'a> {
    /// The open ACL and no time to live.
    pub const fn new(mode: CreateMode) -> Self {
        CreateOptions {
            mode,
            acl: OPEN_ACL,
            ttl: None,
        }
    }

    /// Who may do what with the znode. Servers refuse an empty list.
    pub const fn acl(mut self, acl: &'a [Acl<'a>]) -> Self {
        self.acl = acl;
        self
    }

    /// Lets the servers reap the znode when it has no children and was not set for so long, counted
    /// in milliseconds. Only persistent znodes can have a time to live.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self.mode = match self.mode {
            CreateMode::Persistent => CreateMode::PersistentWithTtl,
            CreateMode::PersistentSequential => CreateMode::PersistentSequentialWithTtl,
            mode => mode,
        };
        self
    }

    pub(crate) fn mode(&self) -> CreateMode {
        self.mode
    }

    /// The operation that creates such a znode and answers its stat, or why there is none.
    pub(crate) fn operation(&self) -> Result<OpCode, &'static str> {
        match (self.mode.is_ttl(), self.ttl) {
            (false, Some(_)) => Err("only persistent znodes can have a time to live"),
            (true, None) => Err("the mode asks for a time to live, set one with `ttl`"),
            (true, Some(_)) => Ok(OpCode::CreateTtl),
            (false, None) if self.mode == CreateMode::Container => Ok(OpCode::CreateContainer),
            (false, None) => Ok(OpCode::Create2),
        }
    }

    /// Appends the request that [`operation`](Self::operation) takes.
    pub(crate) fn encode(&self, path: &str, data: Data<'_>, out: &mut Vec<u8>) {
        path.encode(out);
        data.0.encode(out);
        encode_acl(self.acl, out);
        self.mode.encode(out);
        if let Some(ttl) = self.ttl {
            i64::try_from(ttl.as_millis())
                .unwrap_or(i64::MAX)
                .encode(out);
        }
    }
}

impl From<CreateMode> for CreateOptions<'_> {
    fn from(mode: CreateMode) -> Self {
        CreateOptions::new(mode)
    }
}

/// A vector of ACL entries, from a slice.
pub(crate) fn encode_acl(acl: &[Acl<'_>], out: &mut Vec<u8>) {
    i32::try_from(acl.len()).unwrap_or(i32::MAX).encode(out);
    for entry in acl {
        entry.encode(out);
    }
}

/// A znode that was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its path, with the counter that the server appended in sequential modes.
    pub path: String,
    /// Its stat. `czxid` numbers the creation, and grows with every later one.
    pub stat: Stat,
}
