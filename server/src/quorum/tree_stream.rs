//! Whole trees on links, and pieces of the log for learners that are far behind.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::task::spawn_blocking;

use super::disk::DiskWork;
use super::link::LinkSocket;
use super::port::Fault;
use super::{Aftermath, Applying, Quorum, codec};
use crate::storage::snapshot::{TreeDump, TreeReceiver};
use crate::zab::{Input, Link, Packet};

/// Bytes of log that are read for a learner at once.
const AT_ONCE: usize = 1 << 20;
/// Bytes of znodes that are encoded under one hold of the tree's lock.
const HOLD: usize = 64 << 10;

impl Quorum {
    /// Reads the tree that comes behind a SNAP, and waits until it is installed. `input` holds what
    /// was read already, and then what came behind the tree.
    pub(super) async fn receive_tree(
        self: &Arc<Self>,
        link: &Arc<LinkSocket>,
        zxid: i64,
        input: &mut BytesMut,
    ) -> Result<(), Fault> {
        if link.is_closing() {
            return Ok(());
        }
        tracing::info!(address = %link.address, zxid = format_args!("{zxid:#x}"), "receiving a tree");
        let mut receiver = TreeReceiver::new(zxid);
        let tree = loop {
            if let Some(tree) = receiver.feed(input)? {
                break Box::new(tree);
            }
            if !link.read(input).await? {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        };
        let installing = link.begin_install().await;
        self.wires.disk.push(DiskWork::Install {
            link: link.id,
            zxid,
            tree,
            installing,
        });
        link.installed().await;
        Ok(())
    }

    /// Dumps the tree on a link, in a task of its own, once it shows `zxid`; what is sent later waits.
    pub(super) fn send_tree(self: &Arc<Self>, link: Link, zxid: i64) {
        let Some(link) = self.wires.link(link) else {
            return;
        };
        let first = link.hold();
        let this = Arc::clone(self);
        self.runtime.spawn(async move {
            this.service.shows(zxid).await;
            if let Err(error) = this.dump(&link, first).await {
                tracing::info!(address = %link.address, %error, "a tree could not be sent");
                this.close(link.id, "the tree could not be sent");
                return;
            }
            link.release();
            let sent = Aftermath {
                flush: vec![link],
                ..Aftermath::default()
            };
            this.conclude(sent, Applying::Here);
        });
    }

    async fn dump(self: &Arc<Self>, link: &Arc<LinkSocket>, mut chunk: Vec<u8>) -> io::Result<()> {
        let (mut dump, generation) = {
            let tree = self.service.tree();
            (TreeDump::begin(&tree), self.service.generation())
        };
        let zxid = dump.zxid();
        self.tell([Input::SnapshotBegun {
            link: link.id,
            zxid,
        }]);
        codec::encode(&Packet::Snapshot { zxid }, &mut chunk);
        let mut more = true;
        while more {
            if self.wires.link(link.id).is_none() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            {
                let tree = self.service.tree();
                if self.service.generation() != generation {
                    return Err(io::Error::other("another tree has taken its place"));
                }
                more = dump.next(&tree, HOLD, &mut chunk);
            }
            link.write_all(&chunk).await?;
            chunk.clear();
        }
        Ok(())
    }

    /// Reads some of the log for a learner, in a task of its own.
    pub(super) fn read_log(self: &Arc<Self>, link: Link, after: i64, upto: i64) {
        let this = Arc::clone(self);
        self.runtime.spawn(async move {
            let cursor = this.cursors.lock().remove(&link);
            let mut cursor = cursor.unwrap_or_else(|| this.storage.log_range());
            let reading = spawn_blocking(move || (cursor.read(after, upto, AT_ONCE), cursor));
            let Ok((read, cursor)) = reading.await else {
                return this.close(link, "the log could not be read");
            };
            this.cursors.lock().insert(link, cursor);
            if this.wires.link(link).is_none() {
                this.cursors.lock().remove(&link);
            }
            this.tell([Input::LogRead { link, read }]);
        });
    }
}
