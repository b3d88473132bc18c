//! The whole tree of a server, as a super user sees it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use quorate_proto::jute::{Decode, Encode};
use quorate_proto::{
    AuthPacket, ErrorCode, GetAclResponse, GetChildren2Response, GetDataResponse, OpCode,
    PathRecord, ReplyHeader, Stat, WatchedRequest, xid,
};

use super::generate::SUPER;
use super::observe::{Masks, acl_set};
use super::program::data;
use crate::raw::{Message, RawClient};

/// A znode with all that clients can see of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    data: Option<Vec<u8>>,
    acl: String,
    stat: Stat,
    children: Vec<String>,
}

/// Every znode by its path.
pub type Tree = BTreeMap<String, Node>;

/// Reads the tree in a session of its own, which is closed again.
pub fn walk(address: SocketAddr) -> Tree {
    let mut client = RawClient::connect(address, 60_000);
    log_in(&mut client);
    let mut tree = Tree::new();
    let mut level = vec!["/".to_owned()];
    while !level.is_empty() {
        let mut next = Vec::new();
        // Requests go out ahead of their answers, few enough for the buffers of the sockets.
        for paths in level.chunks(30) {
            for path in paths {
                ask(&mut client, path);
            }
            for path in paths {
                let node = answer(&mut client);
                let slash = if path == "/" { "" } else { path };
                next.extend(node.children.iter().map(|name| format!("{slash}/{name}")));
                tree.insert(path.clone(), node);
            }
        }
        level = next;
    }
    let (header, _) = client.call(OpCode::CloseSession, &0);
    assert_eq!(header.err, ErrorCode::OK);
    tree
}

fn log_in(client: &mut RawClient) {
    let packet = AuthPacket {
        kind: 0,
        scheme: "digest",
        auth: Some(SUPER),
    };
    client
        .send_request(xid::AUTH, OpCode::Auth.number(), &packet.to_vec())
        .unwrap();
    reply(client);
}

fn ask(client: &mut RawClient, path: &str) {
    let read = WatchedRequest { path, watch: false }.to_vec();
    let acl = PathRecord { path }.to_vec();
    for (op, body) in [
        (OpCode::GetData, &read),
        (OpCode::GetAcl, &acl),
        (OpCode::GetChildren2, &read),
    ] {
        client.send_request(1, op.number(), body).unwrap();
    }
}

fn answer(client: &mut RawClient) -> Node {
    let (body, acls, kids) = (reply(client), reply(client), reply(client));
    let body = GetDataResponse::from_slice(&body).unwrap();
    let acls = GetAclResponse::from_slice(&acls).unwrap();
    let kids = GetChildren2Response::from_slice(&kids).unwrap();
    assert_eq!((body.stat, body.stat), (acls.stat, kids.stat));
    let mut children: Vec<String> = kids.children.iter().map(ToString::to_string).collect();
    children.sort_unstable();
    Node {
        data: body.data.map(<[u8]>::to_vec),
        acl: acl_set(&acls.acl),
        stat: body.stat,
        children,
    }
}

fn reply(client: &mut RawClient) -> Vec<u8> {
    match client.read().unwrap() {
        Message::Reply(ReplyHeader { err, .. }, body) if err == ErrorCode::OK => body,
        other => panic!("the tree cannot be read: {other:?}"),
    }
}

/// Removes the nodes that hold the usage of quotas: clients can write anything there, and a server
/// that starts counts again.
pub fn forget_usage(tree: &mut Tree) {
    tree.retain(|path, _| !path.ends_with("/zookeeper_stats"));
}

/// Forgets when the node of the configuration was set: every server does that by itself as it starts.
pub fn forget_start(tree: &mut Tree) {
    if let Some(config) = tree.get_mut("/zookeeper/config") {
        config.stat.mtime = 0;
    }
}

/// The lines in which two trees differ; with masks, times and session ids may.
pub fn difference(
    (left, mut left_masks): (&Tree, Option<&mut Masks>),
    (right, mut right_masks): (&Tree, Option<&mut Masks>),
) -> Vec<String> {
    let mut lines = Vec::new();
    for path in left
        .keys()
        .chain(right.keys().filter(|p| !left.contains_key(*p)))
    {
        let left = show(left.get(path), left_masks.as_deref_mut());
        let right = show(right.get(path), right_masks.as_deref_mut());
        if left != right {
            lines.push(format!("{path:?}\n  {left}\n  {right}"));
        }
    }
    lines
}

fn show(node: Option<&Node>, masks: Option<&mut Masks>) -> String {
    let Some(node) = node else {
        return "missing".to_owned();
    };
    let stat = match masks {
        Some(masks) => masks.stat(&node.stat),
        None => format!("{:?}", node.stat),
    };
    let Node {
        data: bytes,
        acl,
        children,
        ..
    } = node;
    format!("{} {acl} {stat} {children:?}", data(bytes.as_deref()))
}
