//! The tree on its way from a leader to a learner.

use bytes::{BufMut, BytesMut};
use proptest::prelude::*;
use quorate_proto::TxnEntry;
use quorate_proto::jute::Decode;
use quorate_server::storage::StorageError;
use quorate_server::storage::snapshot::{TreeDump, TreeReceiver};
use quorate_server::tree::Tree;

use crate::support::{apply_next, digest_at, fixture, storage};

fn dump(tree: &Tree, chunk: usize) -> Vec<u8> {
    let mut dump = TreeDump::begin(tree);
    let mut all = Vec::new();
    while dump.next(tree, chunk, &mut all) {}
    all
}

/// Feeds `bytes` in pieces of a length. Answers what came out, and how much was taken for it.
fn receive(zxid: i64, bytes: &[u8], piece: usize) -> Result<(Option<Tree>, usize), StorageError> {
    let mut receiver = TreeReceiver::new(zxid);
    let mut input = BytesMut::new();
    let mut fed = 0;
    for piece in bytes.chunks(piece) {
        input.put_slice(piece);
        fed += piece.len();
        if let Some(tree) = receiver.feed(&mut input)? {
            return Ok((Some(tree), fed - input.len()));
        }
    }
    Ok((None, fed - input.len()))
}

fn sessions(tree: &Tree) -> Vec<(i64, i32)> {
    let mut sessions: Vec<_> = tree.sessions().collect();
    sessions.sort_unstable();
    sessions
}

#[test]
fn a_tree_arrives_as_it_was_whatever_the_pieces() {
    for name in ["standalone-plain", "ensemble-member"] {
        let tree = storage(&fixture(name).0).recover().unwrap().tree;
        for chunk in [1, 100, 1 << 20] {
            let mut bytes = dump(&tree, chunk);
            let len = bytes.len();
            bytes.extend_from_slice(b"packets");
            for piece in [1, 7, 4096, len, len + 7] {
                let (received, taken) = receive(tree.last_zxid(), &bytes, piece).unwrap();
                assert_eq!(taken, len, "what follows stays");
                let received = received.unwrap();
                assert_eq!(received.last_zxid(), tree.last_zxid());
                assert_eq!(received.digest(), tree.digest());
                assert_eq!(received.len(), tree.len());
                assert_eq!(sessions(&received), sessions(&tree));
                assert_eq!(dump(&received, 1 << 20).len(), len, "ACLs too");
            }
        }
    }
}

#[test]
fn what_changes_during_the_dump_is_mended_by_the_transactions_that_follow() {
    for txns in 0..4 {
        let mut tree = Tree::new();
        for _ in 0..30 {
            apply_next(&mut tree);
        }
        let mut dump = TreeDump::begin(&tree);
        assert_eq!(dump.zxid(), 30);
        let mut bytes = Vec::new();
        let mut entries = Vec::new();
        while dump.next(&tree, 1, &mut bytes) {
            entries.extend((0..txns).map(|_| apply_next(&mut tree)));
        }
        let mut receiver = TreeReceiver::new(dump.zxid());
        let received = receiver.feed(&mut BytesMut::from(&bytes[..])).unwrap();
        let mut received = received.unwrap();
        for entry in entries {
            let entry = TxnEntry::from_slice(&entry).unwrap();
            received.apply(&entry.header, &entry.txn, &mut ());
        }
        assert_eq!(received.last_zxid(), tree.last_zxid());
        assert_eq!(received.digest(), digest_at(tree.last_zxid()));
    }
}

#[test]
fn what_is_no_tree_is_refused_where_that_shows() {
    let tree = storage(&fixture("standalone-plain").0)
        .recover()
        .unwrap()
        .tree;
    let bytes = dump(&tree, 4096);
    let refuse = |bytes: &[u8]| {
        let err = receive(5, bytes, 4096).unwrap_err();
        assert!(matches!(err, StorageError::Received { .. }), "{err}");
        err.to_string()
    };
    let mut other_end = bytes.clone();
    *other_end.last_mut().unwrap() ^= 1;
    assert!(refuse(&other_end).contains("end as it should"));

    // No session, no ACL; then a znode without a parent, or with an impossible length.
    let mut orphan = vec![0; 8];
    orphan.extend_from_slice(b"\0\0\0\x04/a/b\0\0\0\0");
    orphan.extend_from_slice(&[0; 68]);
    assert!(refuse(&orphan).contains("offset 8: znode \"/a/b\" comes without its parent"));
    for length in [-2, i32::MAX] {
        let mut claim = vec![0; 8];
        claim.extend_from_slice(b"\0\0\0\x02/a");
        claim.put_i32(length);
        refuse(&claim);
    }
    for cut in [0, 3, 4, 100, bytes.len() - 1] {
        let (received, _) = receive(5, &bytes[..cut], 64).unwrap();
        assert!(received.is_none(), "cut at {cut}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Nothing that comes in makes the receiver panic, and it takes nothing that it cannot use.
    #[test]
    fn any_bytes(
        mut noise in prop::collection::vec(any::<u8>(), 0..200),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        piece in 1usize..300,
        whole in any::<bool>(),
    ) {
        let mut bytes = match whole {
            true => {
                let mut tree = Tree::new();
                (0..6).for_each(|_| { apply_next(&mut tree); });
                dump(&tree, 64)
            }
            false => vec![0; 8],
        };
        bytes.append(&mut noise);
        for (at, flip) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        let mut receiver = TreeReceiver::new(1);
        let mut input = BytesMut::new();
        for piece in bytes.chunks(piece) {
            input.put_slice(piece);
            match receiver.feed(&mut input) {
                Ok(None) => {}
                Ok(Some(tree)) => {
                    prop_assert_eq!(tree.last_zxid(), 1);
                    break;
                }
                Err(err) => {
                    let refused = matches!(err, StorageError::Received { .. });
                    prop_assert!(refused, "{}", err);
                    break;
                }
            }
        }
    }
}
