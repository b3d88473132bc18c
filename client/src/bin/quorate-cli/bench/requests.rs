//! What the load consists of: the znodes, the frames that name them, and the order of requests.

use std::ops::Range;

use quorate_proto::jute::Encode;
use quorate_proto::{Acl, OpCode, Perms, frame};

/// Which figure an operation counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
}

/// A source of requests.
pub(super) trait Work {
    /// Appends the next frame for the connection `conn`, numbered `xid`; `None` when that
    /// connection has nothing more to send.
    fn next(&mut self, conn: usize, xid: i32, out: &mut Vec<u8>) -> Option<Kind>;
}

/// Znodes of a folder. Folders keep the list of children far below `jute.maxbuffer`.
const FOLDER: usize = 1000;

/// The znodes of a run. All of their paths have the same length, so that every operation of a kind
/// is a frame of the same size.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// The fresh parent of everything.
    pub(super) root: String,
    /// How many znodes carry data.
    pub(super) nodes: usize,
}

/// `/123456`, and `/789` behind it for a znode in the folder.
const FOLDER_NAME: usize = 7;
const NODE_NAME: usize = 4;

impl Layout {
    pub(super) fn folders(&self) -> usize {
        self.nodes.div_ceil(FOLDER)
    }

    fn append_folder(&self, index: usize, out: &mut Vec<u8>) {
        self.append(index, None, out);
    }

    fn append_node(&self, index: usize, out: &mut Vec<u8>) {
        self.append(index / FOLDER, Some(index % FOLDER), out);
    }

    /// Writes the path as a jute string, without a table of paths that would compete with the
    /// server for the caches.
    fn append(&self, folder: usize, node: Option<usize>, out: &mut Vec<u8>) {
        let len = self.root.len() + FOLDER_NAME + node.map_or(0, |_| NODE_NAME);
        i32::try_from(len).unwrap_or(i32::MAX).encode(out);
        out.extend_from_slice(self.root.as_bytes());
        append_name::<FOLDER_NAME>(folder, out);
        if let Some(node) = node {
            append_name::<NODE_NAME>(node, out);
        }
    }
}

/// Appends a slash and `number` in `N - 1` digits.
fn append_name<const N: usize>(mut number: usize, out: &mut Vec<u8>) {
    let mut name = [b'/'; N];
    for digit in name[1..].iter_mut().rev() {
        *digit = b"0123456789"[number % 10];
        number /= 10;
    }
    out.extend_from_slice(&name);
}

/// A frame whose body, behind the header, is what `body` appends.
pub(super) fn request(op: OpCode, xid: i32, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    frame::write(out, |out| {
        xid.encode(out);
        op.encode(out);
        body(out);
    });
}

/// Reads and writes of random znodes, without an end.
pub(super) struct Mixed<'a> {
    pub(super) layout: &'a Layout,
    pub(super) value: &'a [u8],
    /// Share of reads in percent.
    pub(super) reads: u8,
    pub(super) random: fastrand::Rng,
}

impl Work for Mixed<'_> {
    fn next(&mut self, _conn: usize, xid: i32, out: &mut Vec<u8>) -> Option<Kind> {
        let node = self.random.usize(..self.layout.nodes);
        if self.random.u8(..100) < self.reads {
            request(OpCode::GetData, xid, out, |out| {
                self.layout.append_node(node, out);
                false.encode(out);
            });
            Some(Kind::Read)
        } else {
            request(OpCode::SetData, xid, out, |out| {
                self.layout.append_node(node, out);
                self.value.encode(out);
                ANY_VERSION.encode(out);
            });
            Some(Kind::Write)
        }
    }
}

/// Matches every version.
const ANY_VERSION: i32 = -1;

/// One request for each number of a range, over whichever connection has room.
pub(super) struct Each<F> {
    pub(super) range: Range<usize>,
    pub(super) encode: F,
}

impl<F: FnMut(usize, i32, &mut Vec<u8>)> Work for Each<F> {
    fn next(&mut self, _conn: usize, xid: i32, out: &mut Vec<u8>) -> Option<Kind> {
        let index = self.range.next()?;
        (self.encode)(index, xid, out);
        Some(Kind::Write)
    }
}

/// One request on each connection of a range.
pub(super) struct Once<F> {
    connections: Range<usize>,
    asked: Vec<bool>,
    encode: F,
}

impl<F: FnMut(i32, &mut Vec<u8>)> Once<F> {
    pub(super) fn new(connections: Range<usize>, encode: F) -> Self {
        Once {
            asked: vec![false; connections.len()],
            connections,
            encode,
        }
    }
}

impl<F: FnMut(i32, &mut Vec<u8>)> Work for Once<F> {
    fn next(&mut self, conn: usize, xid: i32, out: &mut Vec<u8>) -> Option<Kind> {
        if !self.connections.contains(&conn) {
            return None;
        }
        let asked = &mut self.asked[conn - self.connections.start];
        if std::mem::replace(asked, true) {
            return None;
        }
        (self.encode)(xid, out);
        Some(Kind::Read)
    }
}

/// The requests that build and clear the layout.
impl Layout {
    pub(super) fn create_root(&self, xid: i32, out: &mut Vec<u8>) {
        create(xid, out, |out| self.root.as_str().encode(out), None);
    }

    pub(super) fn create_folder(&self, index: usize, xid: i32, out: &mut Vec<u8>) {
        create(xid, out, |out| self.append_folder(index, out), None);
    }

    pub(super) fn create_node(&self, index: usize, value: &[u8], xid: i32, out: &mut Vec<u8>) {
        create(xid, out, |out| self.append_node(index, out), Some(value));
    }

    pub(super) fn delete_root(&self, xid: i32, out: &mut Vec<u8>) {
        delete(xid, out, |out| self.root.as_str().encode(out));
    }

    pub(super) fn delete_folder(&self, index: usize, xid: i32, out: &mut Vec<u8>) {
        delete(xid, out, |out| self.append_folder(index, out));
    }

    pub(super) fn delete_node(&self, index: usize, xid: i32, out: &mut Vec<u8>) {
        delete(xid, out, |out| self.append_node(index, out));
    }

    /// Catches up with the leader, so that what another connection created is there to be read.
    pub(super) fn sync(&self, xid: i32, out: &mut Vec<u8>) {
        request(OpCode::Sync, xid, out, |out| self.root.as_str().encode(out));
    }

    /// Leaves a one-shot watch on the data of the root.
    pub(super) fn watch_root(&self, xid: i32, out: &mut Vec<u8>) {
        request(OpCode::GetData, xid, out, |out| {
            self.root.as_str().encode(out);
            true.encode(out);
        });
    }

    /// Sets the data of the root, which fires those watches.
    pub(super) fn touch_root(&self, value: &[u8], xid: i32, out: &mut Vec<u8>) {
        request(OpCode::SetData, xid, out, |out| {
            self.root.as_str().encode(out);
            value.encode(out);
            ANY_VERSION.encode(out);
        });
    }
}

fn create(xid: i32, out: &mut Vec<u8>, path: impl FnOnce(&mut Vec<u8>), data: Option<&[u8]>) {
    const PERSISTENT: i32 = 0;
    request(OpCode::Create, xid, out, |out| {
        path(out);
        data.encode(out);
        1i32.encode(out);
        Acl::world(Perms::ALL).encode(out);
        PERSISTENT.encode(out);
    });
}

fn delete(xid: i32, out: &mut Vec<u8>, path: impl FnOnce(&mut Vec<u8>)) {
    request(OpCode::Delete, xid, out, |out| {
        path(out);
        ANY_VERSION.encode(out);
    });
}

#[cfg(test)]
mod tests {
    use quorate_proto::jute::Decode;
    use quorate_proto::{CreateRequest, RequestHeader, SetDataRequest, VersionRequest};

    use super::*;

    fn layout() -> Layout {
        Layout {
            root: "/bench".into(),
            nodes: 2500,
        }
    }

    #[test]
    fn frames_decode_as_the_records_they_stand_for() {
        let mut out = Vec::new();
        layout().create_node(1234, b"value", 7, &mut out);
        let body = frame::split(&out, frame::DEFAULT_MAX_FRAME)
            .unwrap()
            .unwrap();
        assert_eq!(body.len() + frame::LENGTH_SIZE, out.len());
        let header = RequestHeader::from_slice(body).unwrap();
        assert_eq!((header.xid, header.op), (7, OpCode::Create.number()));
        let create = CreateRequest::from_slice(&body[8..]).unwrap();
        assert_eq!(create.path, "/bench/000001/234");
        assert_eq!(create.data, Some(&b"value"[..]));
        assert_eq!(create.acl, Some(vec![Acl::world(Perms::ALL)]));

        out.clear();
        layout().delete_folder(2, 8, &mut out);
        let delete = VersionRequest::from_slice(&out[12..]).unwrap();
        assert_eq!((delete.path, delete.version), ("/bench/000002", -1));
    }

    #[test]
    fn a_mix_keeps_to_the_znodes_and_to_the_share_of_reads() {
        let layout = layout();
        let mut mixed = Mixed {
            layout: &layout,
            value: b"v",
            reads: 0,
            random: fastrand::Rng::with_seed(1),
        };
        let mut out = Vec::new();
        assert_eq!(mixed.next(0, 1, &mut out), Some(Kind::Write));
        let set = SetDataRequest::from_slice(&out[12..]).unwrap();
        assert!(set.path.starts_with("/bench/00000"));
        mixed.reads = 100;
        assert_eq!(mixed.next(0, 2, &mut out), Some(Kind::Read));
    }

    #[test]
    fn once_asks_each_connection_of_its_range_once() {
        let mut once = Once::new(1..3, |_, out| out.push(0));
        let mut out = Vec::new();
        let asked: Vec<bool> = [0, 1, 1, 2, 2, 3]
            .map(|conn| once.next(conn, 1, &mut out).is_some())
            .into();
        assert_eq!(asked, [false, true, false, true, false, false]);
    }
}
