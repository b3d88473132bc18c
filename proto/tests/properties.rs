//! Every record that can be written can be read back, and bytes from outside do no harm.

#![allow(clippy::unwrap_used, reason = "what is missing fails the test")]

use std::borrow::Cow;
use std::fmt::Debug;
use std::iter::Cycle;
use std::slice;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;
use quorate_proto::jute::{Decode, DecodeError, Encode, Reader};
use quorate_proto::*;

/// What records are filled from: numbers and texts that proptest chose, over and over.
struct Source<'a> {
    numbers: Cycle<slice::Iter<'a, i64>>,
    texts: Cycle<slice::Iter<'a, String>>,
}

impl<'a> Source<'a> {
    fn any<T: Any<'a>>(&mut self) -> T {
        T::any(self)
    }

    fn number(&mut self) -> i64 {
        *self.numbers.next().unwrap()
    }

    /// A number below `n`.
    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.number().rem_euclid(i64::try_from(n).unwrap())).unwrap()
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// A value that can be filled from a source.
trait Any<'a> {
    fn any(source: &mut Source<'a>) -> Self;
}

impl<'a> Any<'a> for &'a str {
    fn any(source: &mut Source<'a>) -> Self {
        source.texts.next().unwrap()
    }
}

impl<'a> Any<'a> for &'a [u8] {
    fn any(source: &mut Source<'a>) -> Self {
        source.any::<&str>().as_bytes()
    }
}

impl<'a> Any<'a> for Cow<'a, str> {
    fn any(source: &mut Source<'a>) -> Self {
        Cow::Borrowed(source.any())
    }
}

impl<'a, T: Any<'a>> Any<'a> for Option<T> {
    fn any(source: &mut Source<'a>) -> Self {
        source.any::<bool>().then(|| source.any())
    }
}

impl<'a, T: Any<'a>> Any<'a> for Vec<T> {
    fn any(source: &mut Source<'a>) -> Self {
        (0..source.below(4)).map(|_| source.any()).collect()
    }
}

/// Implements `Any` by an expression over the source.
macro_rules! any {
    ($($type:ty => |$source:ident| $value:expr;)*) => {$(
        impl<'a> Any<'a> for $type {
            fn any($source: &mut Source<'a>) -> Self {
                $value
            }
        }
    )*};
}

/// A record with each field filled from the source.
macro_rules! filled {
    ($source:ident, $record:ident { $($field:ident),* }) => {
        $record { $($field: $source.any()),* }
    };
}

any! {
    i64 => |s| s.number();
    u64 => |s| s.number().cast_unsigned();
    i32 => |s| {
        let [.., a, b, c, d] = s.number().to_be_bytes();
        i32::from_be_bytes([a, b, c, d])
    };
    bool => |s| s.number() & 1 == 1;
    ErrorCode => |s| ErrorCode(s.any());
    Perms => |s| Perms(s.any());
    Id<'a> => |s| filled!(s, Id { scheme, id });
    Acl<'a> => |s| filled!(s, Acl { perms, id });
    EventType => |s| s.one_of(EventType::ALL);
    ClientInfo<'a> => |s| filled!(s, ClientInfo { scheme, user });
    Stat => |s| filled!(s, Stat {
        czxid, mzxid, ctime, mtime, version, cversion, aversion, ephemeral_owner, data_length,
        num_children, pzxid
    });
    CreateRequest<'a> => |s| filled!(s, CreateRequest { path, data, acl, flags });
    CreateTtlRequest<'a> => |s| filled!(s, CreateTtlRequest { path, data, acl, flags, ttl });
    CreateResponse<'a> => |s| filled!(s, CreateResponse { path });
    Create2Response<'a> => |s| filled!(s, Create2Response { path, stat });
    VersionRequest<'a> => |s| filled!(s, VersionRequest { path, version });
    SetDataRequest<'a> => |s| filled!(s, SetDataRequest { path, data, version });
    WatchedRequest<'a> => |s| filled!(s, WatchedRequest { path, watch });
    StatResponse => |s| filled!(s, StatResponse { stat });
    GetDataResponse<'a> => |s| filled!(s, GetDataResponse { data, stat });
    GetChildrenResponse<'a> => |s| filled!(s, GetChildrenResponse { children });
    CreateTxn<'a> => |s| filled!(s, CreateTxn { path, data, acl, ephemeral, parent_cversion });
    CreateContainerTxn<'a> => |s| filled!(s, CreateContainerTxn {
        path, data, acl, parent_cversion
    });
    CreateTtlTxn<'a> => |s| filled!(s, CreateTtlTxn { path, data, acl, parent_cversion, ttl });
    DeleteTxn<'a> => |s| filled!(s, DeleteTxn { path });
    SetDataTxn<'a> => |s| filled!(s, SetDataTxn { path, data, version });
    SetAclTxn<'a> => |s| filled!(s, SetAclTxn { path, acl, version });
    CheckTxn<'a> => |s| filled!(s, CheckTxn { path, version });
    MultiOp<'a> => |s| match s.below(9) {
        0 => MultiOp::Create(s.any()),
        1 => MultiOp::Create2(s.any()),
        2 => MultiOp::CreateContainer(s.any()),
        3 => MultiOp::CreateTtl(s.any()),
        4 => MultiOp::Delete(s.any()),
        5 => MultiOp::SetData(s.any()),
        6 => MultiOp::Check(s.any()),
        7 => MultiOp::GetData(s.any()),
        _ => MultiOp::GetChildren(s.any()),
    };
    MultiResult<'a> => |s| match s.below(8) {
        0 => MultiResult::Create(s.any()),
        1 => MultiResult::Create2(s.any()),
        2 => MultiResult::Delete,
        3 => MultiResult::SetData(s.any()),
        4 => MultiResult::Check,
        5 => MultiResult::GetData(s.any()),
        6 => MultiResult::GetChildren(s.any()),
        _ => MultiResult::Error(s.any()),
    };
}

/// A transaction of each kind that may stand in a multi.
fn part<'a>(s: &mut Source<'a>) -> Txn<'a> {
    match s.below(9) {
        0 => Txn::Error(s.any()),
        1 => Txn::Create(s.any()),
        2 => Txn::Create2(s.any()),
        3 => Txn::CreateContainer(s.any()),
        4 => Txn::CreateTtl(s.any()),
        5 => Txn::Delete(s.any()),
        6 => Txn::DeleteContainer(s.any()),
        7 => Txn::SetData(s.any()),
        _ => Txn::Check(s.any()),
    }
}

/// One transaction of every kind.
fn transactions<'a>(s: &mut Source<'a>) -> Vec<Txn<'a>> {
    vec![
        Txn::CreateSession(CreateSessionTxn { timeout: s.any() }),
        Txn::CloseSession(None),
        // Only paths can be told from a digest that follows.
        Txn::CloseSession(Some(
            s.any::<Vec<&str>>()
                .into_iter()
                .filter(|text| text.starts_with('/'))
                .collect(),
        )),
        Txn::Error(s.any()),
        Txn::Create(s.any()),
        Txn::Create2(s.any()),
        Txn::CreateContainer(s.any()),
        Txn::CreateTtl(s.any()),
        Txn::Delete(s.any()),
        Txn::DeleteContainer(s.any()),
        Txn::SetData(s.any()),
        Txn::SetAcl(s.any()),
        Txn::Reconfig(s.any()),
        Txn::Check(s.any()),
        Txn::Multi((0..s.below(4)).map(|_| part(s)).collect()),
    ]
}

/// Decodes what `_like` is.
fn decode<'a, T: Decode<'a>>(_like: &T, bytes: &'a [u8]) -> Result<T, DecodeError> {
    T::from_slice(bytes)
}

/// Decodes the whole of `bytes` into what is expected.
fn read_back<'a, T>(expected: &T, bytes: &'a [u8]) -> Result<(), TestCaseError>
where
    T: Decode<'a> + PartialEq + Debug,
{
    let mut reader = Reader::new(bytes);
    let found = reader.read::<T>();
    prop_assert_eq!(found.as_ref(), Ok(expected));
    prop_assert!(reader.is_empty(), "bytes left behind {:?}", expected);
    prop_assert!(bytes.len() >= T::MIN_SIZE, "{:?} is short", expected);
    Ok(())
}

/// Runs a test on one value of every type that is encoded. The test is a macro, because the types
/// borrow, each from a buffer of its own.
macro_rules! every_type {
    ($s:ident, $test:ident) => {
        $test!(filled!($s, RequestHeader { xid, op }));
        $test!(filled!($s, ReplyHeader { xid, zxid, err }));
        $test!(filled!(
            $s,
            ConnectRequest {
                protocol_version,
                last_zxid_seen,
                timeout,
                session_id,
                password,
                read_only
            }
        ));
        $test!(filled!(
            $s,
            ConnectResponse {
                protocol_version,
                timeout,
                session_id,
                password,
                read_only
            }
        ));
        $test!($s.any::<Stat>());
        $test!($s.any::<Id<'_>>());
        $test!($s.any::<Acl<'_>>());
        $test!(filled!($s, AuthPacket { kind, scheme, auth }));
        $test!($s.any::<CreateRequest<'_>>());
        $test!($s.any::<CreateTtlRequest<'_>>());
        $test!($s.any::<CreateResponse<'_>>());
        $test!($s.any::<Create2Response<'_>>());
        $test!($s.any::<VersionRequest<'_>>());
        $test!($s.any::<WatchedRequest<'_>>());
        $test!(filled!($s, PathRecord { path }));
        $test!($s.any::<GetDataResponse<'_>>());
        $test!($s.any::<SetDataRequest<'_>>());
        $test!($s.any::<StatResponse>());
        $test!($s.any::<GetChildrenResponse<'_>>());
        $test!(filled!($s, GetChildren2Response { children, stat }));
        $test!(filled!($s, GetAclResponse { acl, stat }));
        $test!(filled!($s, SetAclRequest { path, acl, version }));
        $test!(filled!($s, GetAllChildrenNumberResponse { total }));
        $test!(filled!($s, GetEphemeralsResponse { paths }));
        $test!(filled!(
            $s,
            SetWatches {
                relative_zxid,
                data,
                exist,
                child
            }
        ));
        $test!(filled!(
            $s,
            SetWatches2 {
                relative_zxid,
                data,
                exist,
                child,
                persistent,
                persistent_recursive
            }
        ));
        $test!(filled!($s, WatchRequest { path, kind }));
        $test!(filled!($s, WatcherEvent { kind, state, path }));
        $test!(filled!($s, ErrorResponse { err }));
        $test!(filled!($s, MultiHeader { op, done, err }));
        $test!(filled!(
            $s,
            ReconfigRequest {
                joining,
                leaving,
                new_members,
                config_id
            }
        ));
        $test!(filled!($s, SaslToken { token }));
        $test!($s.any::<ClientInfo<'_>>());
        $test!(filled!($s, WhoAmIResponse { infos }));
        $test!(filled!($s, MultiRequest { ops }));
        $test!(filled!($s, MultiResponse { results }));
        $test!($s.one_of(OpCode::ALL));
        $test!($s.one_of(EventType::ALL));
        $test!($s.one_of(AddWatchMode::ALL));
        $test!($s.one_of(WatcherType::ALL));
        $test!($s.one_of(CreateMode::ALL));
        $test!($s.one_of(ErrorCode::ALL));
        $test!($s.any::<CreateTxn<'_>>());
        $test!(filled!(
            $s,
            TxnHeader {
                session_id,
                cxid,
                zxid,
                time,
                op
            }
        ));
        for txn in transactions(&mut $s) {
            let header = TxnHeader {
                session_id: $s.any(),
                cxid: $s.any(),
                zxid: $s.any(),
                time: $s.any(),
                op: txn.op().number(),
            };
            let digest = $s.any::<bool>().then(|| TxnDigest {
                version: 2,
                digest: $s.any(),
            });
            $test!(TxnEntry {
                header,
                txn,
                digest
            });
        }
    };
}

/// A change to encoded bytes.
#[derive(Debug, Clone)]
enum Damage {
    /// Everything from here on is missing.
    Cut(Index),
    /// A byte is another one.
    Byte(Index, u8),
    /// Four bytes, which may be a length, are another number.
    Number(Index, i32),
    /// Bytes follow.
    Tail(Vec<u8>),
    /// Other bytes altogether.
    Noise(Vec<u8>),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Damage::Tail(tail) => bytes.extend_from_slice(tail),
            Damage::Noise(noise) => bytes.clone_from(noise),
            _ if bytes.is_empty() => {}
            Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Damage::Byte(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Damage::Number(at, number) => {
                let at = at.index(bytes.len());
                for (byte, new) in bytes[at..].iter_mut().zip(number.to_be_bytes()) {
                    *byte = new;
                }
            }
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let number = prop_oneof![
        Just(i32::MAX),
        Just(i32::MIN),
        Just(-1),
        Just(0x4000_0000),
        -3..100,
        any::<i32>()
    ];
    let noise = proptest::collection::vec(any::<u8>(), 0..80);
    prop_oneof![
        any::<Index>().prop_map(Damage::Cut),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        (any::<Index>(), number).prop_map(|(at, number)| Damage::Number(at, number)),
        noise.clone().prop_map(Damage::Tail),
        noise.prop_map(Damage::Noise),
    ]
}

fn numbers() -> impl Strategy<Value = Vec<i64>> {
    let number = prop_oneof![any::<i64>(), -2i64..10];
    proptest::collection::vec(number, 1..40)
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    let text = prop_oneof!["(/[a-zé世]{0,5}){1,3}", ".{0,8}", Just(String::new())];
    proptest::collection::vec(text, 1..8)
}

fn source<'a>(numbers: &'a [i64], texts: &'a [String]) -> Source<'a> {
    Source {
        numbers: numbers.iter().cycle(),
        texts: texts.iter().cycle(),
    }
}

proptest! {
    #[test]
    fn every_type_survives_a_round_trip(numbers in numbers(), texts in texts()) {
        let mut source = source(&numbers, &texts);
        macro_rules! test {
            ($value:expr) => {{
                let value = $value;
                read_back(&value, &value.to_vec())?;
            }};
        }
        every_type!(source, test);
    }

    /// What decodes at all, from whatever bytes, encodes to bytes that decode to the same.
    #[test]
    fn damaged_bytes_are_refused_or_mean_one_thing(
        numbers in numbers(),
        texts in texts(),
        damages in proptest::collection::vec(damage(), 1..4),
    ) {
        let mut source = source(&numbers, &texts);
        macro_rules! test {
            ($value:expr) => {{
                let value = $value;
                let mut bytes = value.to_vec();
                damages.iter().for_each(|damage| damage.apply(&mut bytes));
                if let Ok(found) = decode(&value, &bytes) {
                    read_back(&found, &found.to_vec())?;
                }
            }};
        }
        every_type!(source, test);
    }

    /// Lengths lie everywhere in a record; none of them makes the decoder work for what is not there.
    #[test]
    fn claimed_lengths_cost_nothing(numbers in numbers(), texts in texts()) {
        let mut source = source(&numbers, &texts);
        let start = Instant::now();
        let mut decoded = 0u32;
        macro_rules! test {
            ($value:expr) => {{
                let value = $value;
                let bytes = value.to_vec();
                for at in 0..bytes.len().saturating_sub(3) {
                    let mut bytes = bytes.clone();
                    bytes[at..at + 4].copy_from_slice(&i32::MAX.to_be_bytes());
                    let _ = decode(&value, &bytes);
                    decoded += 1;
                }
            }};
        }
        every_type!(source, test);
        // Filling memory to a single claim takes longer than this for each.
        let limit = Duration::from_millis(1) * decoded.max(1000);
        prop_assert!(start.elapsed() < limit, "{decoded} took {:?}", start.elapsed());
    }

    #[test]
    fn frames_are_found_behind_each_other(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..6),
        cut in any::<Index>(),
    ) {
        let mut stream = Vec::new();
        for body in &bodies {
            frame::write(&mut stream, |out| out.extend_from_slice(body));
        }
        let mut rest = &stream[..];
        for body in &bodies {
            let found = frame::split(rest, 50).unwrap().unwrap();
            prop_assert_eq!(found, &body[..]);
            rest = &rest[frame::LENGTH_SIZE + found.len()..];
        }
        prop_assert_eq!(frame::split(rest, 50), Ok(None));
        // However the stream is cut, only whole frames come out.
        let mut rest = &stream[..cut.index(stream.len() + 1)];
        while let Some(found) = frame::split(rest, 50).unwrap() {
            rest = &rest[frame::LENGTH_SIZE + found.len()..];
        }
    }

    #[test]
    fn a_frame_is_refused_by_its_length_alone(len in any::<i32>(), max in 0usize..2000) {
        let fits = usize::try_from(len).is_ok_and(|len| len <= max);
        let expected = if fits && len == 0 {
            Ok(Some(&[][..]))
        } else if fits {
            Ok(None)
        } else {
            Err(frame::FrameError { len, max })
        };
        let header = len.to_be_bytes();
        prop_assert_eq!(frame::split(&header, max), expected);
    }

    #[test]
    fn a_path_that_is_accepted_can_be_taken_apart(text in "(/[a-z.é\u{0}-\u{20}]{0,3}){0,4}|.{0,12}") {
        if path::validate(&text).is_ok() && text != "/" {
            let parent = path::parent(&text).unwrap();
            prop_assert!(path::validate(parent).is_ok());
            prop_assert_eq!(path::join(parent, path::name(&text)), text);
        }
    }
}

#[test]
fn every_number_has_one_name() {
    fn check<T>(all: &[T], number: impl Fn(T) -> i32)
    where
        T: TryFrom<i32, Error = DecodeError> + Copy + PartialEq + Debug,
    {
        for &value in all {
            assert_eq!(T::try_from(number(value)), Ok(value));
        }
        assert!(T::try_from(12_345).is_err());
    }
    check(OpCode::ALL, OpCode::number);
    check(EventType::ALL, EventType::number);
    check(AddWatchMode::ALL, AddWatchMode::number);
    check(WatcherType::ALL, WatcherType::number);
    check(CreateMode::ALL, CreateMode::number);
    for code in ErrorCode::ALL {
        assert!(code.name().is_some(), "{code}");
        assert_eq!(code.into_result().is_ok(), *code == ErrorCode::OK);
    }
    assert_eq!(ErrorCode(-4711).name(), None);
}

#[test]
fn a_multi_holds_nothing_but_changes_of_znodes() {
    let texts = ["/a".to_owned()];
    for txn in transactions(&mut source(&[1], &texts)) {
        let op = txn.op();
        let may = !matches!(
            txn,
            Txn::CreateSession(_)
                | Txn::CloseSession(_)
                | Txn::SetAcl(_)
                | Txn::Reconfig(_)
                | Txn::Multi(_)
        );
        let bytes = Txn::Multi(vec![txn]).to_vec();
        let found = Txn::decode(OpCode::Multi.number(), &mut Reader::new(&bytes));
        assert_eq!(found.is_ok(), may, "{op:?}");
    }
}
