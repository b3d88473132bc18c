//! The packets of the quorum port as bytes (spec: quorum protocol, section 1).
//!
//! No length stands in front of a packet: its type, zxid, data and identities say where it ends.

use bytes::{Buf, Bytes, BytesMut};
use quorate_proto::Id;
use quorate_proto::jute::{Decode, DecodeError, Encode, Reader};
use thiserror::Error;

use crate::zab::{Entry, Features, Packet, Request, Sid, epoch_of, zxid_of};

/// The only version of the protocol that is spoken.
const PROTOCOL_VERSION: i32 = 0x1_0000;
/// Type and zxid.
const HEAD_SIZE: usize = 12;
/// A client has few identities; each takes eight bytes at least.
const MAX_IDS: usize = 1 << 12;

mod kind {
    pub(super) const REQUEST: i32 = 1;
    pub(super) const PROPOSAL: i32 = 2;
    pub(super) const ACK: i32 = 3;
    pub(super) const COMMIT: i32 = 4;
    pub(super) const PING: i32 = 5;
    pub(super) const REVALIDATE: i32 = 6;
    pub(super) const SYNC: i32 = 7;
    pub(super) const INFORM: i32 = 8;
    pub(super) const COMMIT_AND_ACTIVATE: i32 = 9;
    pub(super) const NEW_LEADER: i32 = 10;
    pub(super) const FOLLOWER_INFO: i32 = 11;
    pub(super) const UP_TO_DATE: i32 = 12;
    pub(super) const DIFF: i32 = 13;
    pub(super) const TRUNC: i32 = 14;
    pub(super) const SNAP: i32 = 15;
    pub(super) const OBSERVER_INFO: i32 = 16;
    pub(super) const LEADER_INFO: i32 = 17;
    pub(super) const ACK_EPOCH: i32 = 18;
    pub(super) const INFORM_AND_ACTIVATE: i32 = 19;
    /// Not of Apache's protocol: its servers pass over what they do not know.
    pub(super) const HAND_OVER: i32 = 0x5155_0001;
}

/// Bytes that are no packet.
#[derive(Debug, Error)]
pub(super) enum PacketError {
    #[error("{what} of {len} bytes, where {max} are allowed (jute.maxbuffer)")]
    TooLong {
        what: &'static str,
        len: i64,
        max: usize,
    },
    #[error("a packet of type {kind} that cannot be read: {source}")]
    Malformed {
        kind: i32,
        #[source]
        source: DecodeError,
    },
    #[error("a first packet of type {kind}, which no learner begins with")]
    Stranger { kind: i32 },
    #[error("protocol version {0:#x} is too old: servers from 3.4 on are understood")]
    Version(i32),
}

impl PacketError {
    /// What is wrong, without the particulars.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            PacketError::TooLong { .. } => "too long",
            PacketError::Malformed { .. } => "malformed",
            PacketError::Stranger { .. } => "first packet",
            PacketError::Version(_) => "version",
        }
    }
}

/// Appends a PROPOSAL.
pub(super) fn encode_proposal(entry: &Entry, out: &mut Vec<u8>) {
    encode_parts(kind::PROPOSAL, entry.zxid, Some(&entry.bytes), out);
}

/// Appends a packet.
pub(super) fn encode(packet: &Packet, out: &mut Vec<u8>) {
    match packet {
        Packet::Proposal(entry) => encode_proposal(entry, out),
        Packet::Inform(entry) => encode_parts(kind::INFORM, entry.zxid, Some(&entry.bytes), out),
        Packet::Commit { zxid } => encode_parts(kind::COMMIT, *zxid, None, out),
        Packet::Ack { zxid } => encode_parts(kind::ACK, *zxid, None, out),
        // A leader of Apache's gives up a learner whose ping has null for no sessions.
        Packet::Ping { zxid, sessions } => encode_parts(kind::PING, *zxid, Some(sessions), out),
        Packet::Request(request) => encode_request(request, out),
        Packet::Revalidate(data) => encode_parts(kind::REVALIDATE, -1, Some(data), out),
        Packet::Sync => encode_parts(kind::SYNC, 0, None, out),
        Packet::Diff { zxid } => encode_parts(kind::DIFF, *zxid, None, out),
        Packet::Truncate { zxid } => encode_parts(kind::TRUNC, *zxid, None, out),
        Packet::Snapshot { zxid } => encode_parts(kind::SNAP, *zxid, None, out),
        Packet::UpToDate => encode_parts(kind::UP_TO_DATE, -1, None, out),
        Packet::NewLeader { epoch, config } => {
            encode_parts(kind::NEW_LEADER, zxid_of(*epoch, 0), Some(config), out);
        }
        Packet::CommitAndActivate { zxid, leader } => {
            encode_parts(
                kind::COMMIT_AND_ACTIVATE,
                *zxid,
                Some(&leader.to_be_bytes()),
                out,
            );
        }
        Packet::InformAndActivate { entry, leader } => {
            let data = [&leader.to_be_bytes()[..], &entry.bytes].concat();
            encode_parts(kind::INFORM_AND_ACTIVATE, entry.zxid, Some(&data), out);
        }
        Packet::HandOver { to } => {
            encode_parts(kind::HAND_OVER, -1, Some(&to.to_be_bytes()), out);
        }
        Packet::LearnerInfo {
            observer,
            accepted,
            sid,
            config_version,
        } => {
            let kind = match observer {
                true => kind::OBSERVER_INFO,
                false => kind::FOLLOWER_INFO,
            };
            let mut data = Vec::with_capacity(20);
            sid.encode(&mut data);
            PROTOCOL_VERSION.encode(&mut data);
            config_version.cast_signed().encode(&mut data);
            encode_parts(kind, zxid_of(*accepted, 0), Some(&data), out);
        }
        Packet::LeaderInfo { epoch, features } => {
            let data = with_features(PROTOCOL_VERSION, *features);
            encode_parts(kind::LEADER_INFO, zxid_of(*epoch, 0), Some(&data), out);
        }
        Packet::AckEpoch {
            last_zxid,
            current,
            features,
        } => {
            let current = current.map_or(-1, u32::cast_signed);
            let data = with_features(current, *features);
            encode_parts(kind::ACK_EPOCH, *last_zxid, Some(&data), out);
        }
        Packet::Unknown { kind } => encode_parts(*kind, -1, None, out),
    }
}

/// A number of Apache's protocol, and behind it what only our members read.
fn with_features(number: i32, features: Features) -> Vec<u8> {
    let mut data = number.to_be_bytes().to_vec();
    if features != Features::default() {
        data.extend_from_slice(&features.0.to_be_bytes());
    }
    data
}

fn encode_parts(kind: i32, zxid: i64, data: Option<&[u8]>, out: &mut Vec<u8>) {
    kind.encode(out);
    zxid.encode(out);
    data.encode(out);
    // No identities.
    (-1i32).encode(out);
}

fn encode_request(request: &Request, out: &mut Vec<u8>) {
    kind::REQUEST.encode(out);
    (-1i64).encode(out);
    quorate_proto::frame::write(out, |out| {
        request.session.encode(out);
        request.cxid.encode(out);
        request.op.encode(out);
        out.extend_from_slice(&request.body);
    });
    request.ids.encode(out);
}

/// Takes the first packet out of `input`; `None` while bytes of it are missing. `max` bounds its
/// data.
pub(super) fn decode(input: &mut BytesMut, max: usize) -> Result<Option<Packet>, PacketError> {
    let Some(size) = packet_size(input, max)? else {
        return Ok(None);
    };
    let packet = input.split_to(size).freeze();
    let mut reader = Reader::new(&packet);
    let malformed = |kind| move |source| PacketError::Malformed { kind, source };
    let (kind, zxid): (i32, i64) = (
        reader.read().map_err(malformed(0))?,
        reader.read().map_err(malformed(0))?,
    );
    let data: Option<&[u8]> = reader.read().map_err(malformed(kind))?;
    let ids = reader.remaining();
    let data = data.map_or_else(Bytes::new, |data| packet.slice_ref(data));
    match packet_of(kind, zxid, data, ids) {
        Ok(Err(version)) => Err(PacketError::Version(version)),
        Ok(Ok(packet)) => Ok(Some(packet)),
        Err(source) => Err(PacketError::Malformed { kind, source }),
    }
}

/// Refuses what no learner begins with, before more of it is waited for.
pub(super) fn check_first(input: &[u8]) -> Result<(), PacketError> {
    let Some(kind) = input.first_chunk::<4>().copied().map(i32::from_be_bytes) else {
        return Ok(());
    };
    match kind {
        kind::FOLLOWER_INFO | kind::OBSERVER_INFO => Ok(()),
        _ => Err(PacketError::Stranger { kind }),
    }
}

/// How many bytes the first packet has, once they are all there.
fn packet_size(input: &[u8], max: usize) -> Result<Option<usize>, PacketError> {
    let mut scan = Scan {
        input,
        at: HEAD_SIZE,
    };
    let Some(()) = scan.skip_bytes("data", max)? else {
        return Ok(None);
    };
    let Some(count) = scan.number() else {
        return Ok(None);
    };
    if count > MAX_IDS as i32 {
        let (what, len) = ("a list of identities", i64::from(count));
        return Err(PacketError::TooLong {
            what,
            len,
            max: MAX_IDS,
        });
    }
    for _ in 0..2 * count.max(0) {
        let Some(()) = scan.skip_bytes("an identity", max)? else {
            return Ok(None);
        };
    }
    Ok(Some(scan.at))
}

struct Scan<'a> {
    input: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn number(&mut self) -> Option<i32> {
        let number = self.input.get(self.at..)?.first_chunk::<4>()?;
        self.at += 4;
        Some(i32::from_be_bytes(*number))
    }

    fn skip_bytes(&mut self, what: &'static str, max: usize) -> Result<Option<()>, PacketError> {
        let Some(len) = self.number() else {
            return Ok(None);
        };
        let size = usize::try_from(len).unwrap_or(0);
        if size > max || len < -1 {
            let len = i64::from(len);
            return Err(PacketError::TooLong { what, len, max });
        }
        self.at += size;
        Ok((self.at <= self.input.len()).then_some(()))
    }
}

/// The packet, or the version of a protocol that is not spoken.
fn packet_of(
    kind: i32,
    zxid: i64,
    data: Bytes,
    ids: &[u8],
) -> Result<Result<Packet, i32>, DecodeError> {
    let mut reader = Reader::new(&data);
    Ok(Ok(match kind {
        kind::PROPOSAL => Packet::Proposal(Entry { zxid, bytes: data }),
        kind::INFORM => Packet::Inform(Entry { zxid, bytes: data }),
        kind::COMMIT => Packet::Commit { zxid },
        kind::ACK => Packet::Ack { zxid },
        kind::PING => Packet::Ping {
            zxid,
            sessions: data,
        },
        kind::REQUEST => Packet::Request(request(data, ids)?),
        kind::REVALIDATE => Packet::Revalidate(data),
        kind::SYNC => Packet::Sync,
        kind::DIFF => Packet::Diff { zxid },
        kind::TRUNC => Packet::Truncate { zxid },
        kind::SNAP => Packet::Snapshot { zxid },
        kind::UP_TO_DATE => Packet::UpToDate,
        kind::NEW_LEADER => Packet::NewLeader {
            epoch: epoch_of(zxid),
            config: data,
        },
        kind::COMMIT_AND_ACTIVATE => Packet::CommitAndActivate {
            zxid,
            leader: reader.read()?,
        },
        kind::INFORM_AND_ACTIVATE => {
            let leader = reader.read()?;
            let bytes = data.slice(size_of::<Sid>()..);
            Packet::InformAndActivate {
                entry: Entry { zxid, bytes },
                leader,
            }
        }
        kind::HAND_OVER => Packet::HandOver { to: reader.read()? },
        kind::FOLLOWER_INFO | kind::OBSERVER_INFO => {
            let sid = reader.read()?;
            let version = optional(&mut reader)?.unwrap_or(PROTOCOL_VERSION);
            if version < PROTOCOL_VERSION {
                return Ok(Err(version));
            }
            Packet::LearnerInfo {
                observer: kind == kind::OBSERVER_INFO,
                accepted: epoch_of(zxid),
                sid,
                config_version: optional::<i64>(&mut reader)?.unwrap_or(0).cast_unsigned(),
            }
        }
        kind::LEADER_INFO => {
            let version: i32 = reader.read()?;
            if version < PROTOCOL_VERSION {
                return Ok(Err(version));
            }
            let features = features(&mut reader)?;
            Packet::LeaderInfo {
                epoch: epoch_of(zxid),
                features,
            }
        }
        kind::ACK_EPOCH => {
            let current: i32 = reader.read()?;
            Packet::AckEpoch {
                last_zxid: zxid,
                current: (current != -1).then_some(current.cast_unsigned()),
                features: features(&mut reader)?,
            }
        }
        kind => Packet::Unknown { kind },
    }))
}

fn optional<'a, T: Decode<'a>>(reader: &mut Reader<'a>) -> Result<Option<T>, DecodeError> {
    if reader.is_empty() {
        return Ok(None);
    }
    reader.read().map(Some)
}

fn features(reader: &mut Reader<'_>) -> Result<Features, DecodeError> {
    let features = optional::<i32>(reader)?.unwrap_or(0).cast_unsigned();
    Ok(Features(features & Features::ALL.0))
}

fn request(mut data: Bytes, ids: &[u8]) -> Result<Request, DecodeError> {
    let mut reader = Reader::new(&data);
    let (session, cxid, op) = (reader.read()?, reader.read()?, reader.read()?);
    let head = data.len() - reader.remaining().len();
    data.advance(head);
    let ids: Option<Vec<Id<'_>>> = Reader::new(ids).read()?;
    let ids = ids.unwrap_or_default().into_iter();
    let owned = |id: Id<'_>| Id::new(id.scheme.into_owned(), id.id.into_owned());
    Ok(Request {
        session,
        cxid,
        op,
        body: data,
        ids: ids.map(owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        let pair =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(pair).collect()
    }

    fn both_ways(packet: &Packet, bytes: &[u8]) {
        let mut out = Vec::new();
        encode(packet, &mut out);
        assert_eq!(out, bytes, "{packet:?}");
        let mut input = BytesMut::from(bytes);
        assert_eq!(decode(&mut input, 1000).unwrap().as_ref(), Some(packet));
        assert!(input.is_empty());
    }

    /// The samples of the spec, section 14.
    #[test]
    fn packets_are_apaches() {
        let samples = [
            (
                Packet::LearnerInfo {
                    observer: true,
                    accepted: 0,
                    sid: 99,
                    config_version: 0,
                },
                "00000010 0000000000000000 00000014 0000000000000063 00010000 0000000000000000 ffffffff",
            ),
            (
                Packet::LeaderInfo {
                    epoch: 2,
                    features: Features::default(),
                },
                "00000011 0000000200000000 00000004 00010000 ffffffff",
            ),
            (
                Packet::AckEpoch {
                    last_zxid: zxid_of(2, 0x10b),
                    current: Some(1),
                    features: Features::default(),
                },
                "00000012 000000020000010b 00000004 00000001 ffffffff",
            ),
            (
                Packet::Diff {
                    zxid: zxid_of(2, 0x10b),
                },
                "0000000d 000000020000010b ffffffff ffffffff",
            ),
            (
                Packet::UpToDate,
                "0000000c ffffffffffffffff ffffffff ffffffff",
            ),
            (
                Packet::Ping {
                    zxid: zxid_of(2, 0),
                    sessions: Bytes::new(),
                },
                "00000005 0000000200000000 00000000 ffffffff",
            ),
            (
                Packet::Ping {
                    zxid: zxid_of(2, 0),
                    sessions: hex("6300000001234567 00007530").into(),
                },
                "00000005 0000000200000000 0000000c 6300000001234567 00007530 ffffffff",
            ),
            (
                Packet::Commit {
                    zxid: zxid_of(2, 0x10c),
                },
                "00000004 000000020000010c ffffffff ffffffff",
            ),
            (Packet::Sync, "00000007 0000000000000000 ffffffff ffffffff"),
            (
                Packet::Revalidate(hex("6300000001234567 01").into()),
                "00000006 ffffffffffffffff 00000009 6300000001234567 01 ffffffff",
            ),
            (
                Packet::CommitAndActivate {
                    zxid: zxid_of(2, 0x11d),
                    leader: 3,
                },
                "00000009 000000020000011d 00000008 0000000000000003 ffffffff",
            ),
        ];
        for (packet, bytes) in samples {
            both_ways(&packet, &hex(bytes));
        }
    }

    #[test]
    fn a_request_carries_the_identities_of_its_client() {
        let request = Request {
            session: 0x6300_0000_0123_4567,
            cxid: 7,
            op: 5,
            body: Bytes::from_static(b"body"),
            ids: [Id::new("ip", "127.0.0.1"), Id::new("digest", "a:b")].into(),
        };
        let mut out = Vec::new();
        encode(&Packet::Request(request.clone()), &mut out);
        let mut input = BytesMut::from(&out[..]);
        assert_eq!(
            decode(&mut input, 1000).unwrap(),
            Some(Packet::Request(request))
        );
    }

    #[test]
    fn a_request_without_identities_is_apaches() {
        let bytes = hex(
            "00000001 ffffffffffffffff 00000014 6300000001234567 00000000 fffffff6 00007530 ffffffff",
        );
        let Some(Packet::Request(request)) = decode(&mut BytesMut::from(&bytes[..]), 100).unwrap()
        else {
            panic!("no request");
        };
        assert_eq!(
            (request.op, request.cxid, &request.body[..]),
            (-10, 0, &[0, 0, 0x75, 0x30][..])
        );
    }

    #[test]
    fn our_own_servers_find_each_other() {
        let packet = Packet::LeaderInfo {
            epoch: 2,
            features: Features::ALL,
        };
        both_ways(
            &packet,
            &hex("00000011 0000000200000000 00000008 00010000 00000001 ffffffff"),
        );
    }

    #[test]
    fn what_claims_to_be_long_is_refused_at_once() {
        let mut input = BytesMut::from(&hex("00000002 0000000000000001 7fffffff")[..]);
        assert!(matches!(
            decode(&mut input, 1000),
            Err(PacketError::TooLong { .. })
        ));
        let mut input = BytesMut::from(&hex("00000001 0000000000000001 ffffffff 7fffffff")[..]);
        assert!(matches!(
            decode(&mut input, 1000),
            Err(PacketError::TooLong { .. })
        ));
        assert!(check_first(b"GET / HTTP/1.1").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut input = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut input, 100) {}
        }

        #[test]
        fn any_body_of_any_known_type_is_taken_or_refused(
            kind in 0i32..20, zxid: i64, data in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut bytes = Vec::new();
            encode_parts(kind, zxid, Some(&data), &mut bytes);
            let whole = bytes.len();
            for cut in 0..whole {
                let mut input = BytesMut::from(&bytes[..cut]);
                prop_assert!(matches!(decode(&mut input, 100), Ok(None)));
            }
            let mut input = BytesMut::from(&bytes[..]);
            if let Ok(packet) = decode(&mut input, 100) {
                prop_assert!(packet.is_some() && input.is_empty());
            }
        }
    }
}
