//! What a connection to the election port begins with: who calls, and where it can be called back.

use std::io;
use std::net::IpAddr;

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::zab::Sid;
use crate::zab::election::BadNotification;

/// One address follows.
const ONE_ADDRESS: i64 = -65536;
/// Several addresses follow.
const ADDRESSES: i64 = -65535;
/// Longest text of the addresses.
const MAX_ADDRESSES: i32 = 2048;
/// The id of those that have none, and so cannot be called back.
const ANONYMOUS: Sid = Sid::MAX;

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) sid: Sid,
    /// None where the caller does not know, or does not say.
    pub(super) addresses: Vec<HostPort>,
}

/// A name or an address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostPort {
    pub(super) host: String,
    pub(super) port: u16,
}

/// Why a connection is refused.
#[derive(Debug, Error)]
pub(super) enum Refusal {
    #[error("it does not speak the election protocol ({0}); is it a client, or a port scanner?")]
    Garbage(String),
    #[error("it did not say in time which server it is")]
    Silent,
    #[error("it closed the connection before it said which server it is: {0}")]
    Broken(#[from] io::Error),
    #[error(
        "it says that it is server {0}, which is this server; \
         two servers have the same number in their file myid"
    )]
    OwnId(Sid),
    #[error("it is an observer without a number; give it a server.N line and a file myid")]
    Anonymous,
    #[error("there are too many connections")]
    TooMany,
    #[error("what it sent is no vote: {0}")]
    Vote(BadNotification),
}

impl Refusal {
    /// What it is told once for.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Refusal::Garbage(_) => "garbage",
            Refusal::Silent => "silent",
            Refusal::Broken(_) => "broken",
            Refusal::OwnId(_) => "own id",
            Refusal::Anonymous => "anonymous",
            Refusal::TooMany => "too many",
            Refusal::Vote(_) => "vote",
        }
    }
}

impl Greeting {
    pub(super) fn encode(&self, multi_address: bool) -> Bytes {
        let shown = if multi_address { usize::MAX } else { 1 };
        let addresses = self.addresses.iter().take(shown);
        let text: Vec<String> = addresses.map(HostPort::to_text).collect();
        let text = text.join("|");
        let mut bytes = BytesMut::with_capacity(20 + text.len());
        bytes.put_i64(if multi_address {
            ADDRESSES
        } else {
            ONE_ADDRESS
        });
        bytes.put_i64(self.sid);
        bytes.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        bytes.put_slice(text.as_bytes());
        bytes.freeze()
    }

    pub(super) async fn read(input: &mut (impl AsyncRead + Unpin)) -> Result<Self, Refusal> {
        let first = input.read_i64().await?;
        if first >= 0 {
            // Servers before 3.5 say their id and nothing else.
            return Greeting::of(first, Vec::new());
        }
        if first != ONE_ADDRESS && first != ADDRESSES {
            let what = format!("version {first} is not known");
            return Err(Refusal::Garbage(what));
        }
        let sid = input.read_i64().await?;
        let length = input.read_i32().await?;
        if !(1..=MAX_ADDRESSES).contains(&length) {
            let what = format!("an address of {length} bytes");
            return Err(Refusal::Garbage(what));
        }
        let mut text = vec![0; usize::try_from(length).unwrap_or(0)];
        input.read_exact(&mut text).await?;
        let text = String::from_utf8(text)
            .map_err(|_| Refusal::Garbage("an address that is no text".to_owned()))?;
        let addresses = text.split('|').map(HostPort::from_text);
        let mut addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        addresses.retain(|address| !address.is_wildcard());
        Greeting::of(sid, addresses)
    }

    fn of(sid: Sid, addresses: Vec<HostPort>) -> Result<Self, Refusal> {
        match sid {
            ANONYMOUS => Err(Refusal::Anonymous),
            _ => Ok(Greeting { sid, addresses }),
        }
    }
}

impl HostPort {
    /// An address that says nothing.
    pub(super) fn wildcard(port: u16) -> Self {
        HostPort {
            host: "0.0.0.0".to_owned(),
            port,
        }
    }

    fn is_wildcard(&self) -> bool {
        self.host
            .parse()
            .is_ok_and(|ip: IpAddr| ip.is_unspecified())
    }

    fn to_text(&self) -> String {
        let HostPort { host, port } = self;
        match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        }
    }

    fn from_text(text: &str) -> Result<Self, Refusal> {
        let bad = || Refusal::Garbage(format!("{text:?} is no host and port"));
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        if host.is_empty() {
            return Err(bad());
        }
        Ok(HostPort {
            host: host.to_owned(),
            port: port.parse().map_err(|_| bad())?,
        })
    }
}
