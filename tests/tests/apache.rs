//! The harness itself: Debian's Apache ZooKeeper as a process.
#![cfg(feature = "peers")]

use quorate_proto::jute::Decode;
use quorate_proto::{ErrorCode, GetDataResponse, OpCode, WatchedRequest};
use quorate_tests::apache::Apache;
use quorate_tests::process::{ServerProcess, Settings};
use quorate_tests::raw::RawClient;

#[test]
fn what_was_acknowledged_survives_a_kill_and_a_stop() {
    let mut server = ServerProcess::start(Apache::from_env(), Settings::default());
    assert!(server.version().starts_with("3."), "{}", server.version());
    let mut client = RawClient::connect(server.address(), 10_000);
    assert_eq!(client.create("/a", b"kept", 0), ErrorCode::OK);
    server.kill();
    server.restart();
    server.stop();
    server.restart();
    let mut client = RawClient::connect(server.address(), 10_000);
    let request = WatchedRequest {
        path: "/a",
        watch: false,
    };
    let (header, body) = client.call(OpCode::GetData, &request);
    assert_eq!(header.err, ErrorCode::OK);
    let answer = GetDataResponse::from_slice(&body).unwrap();
    assert_eq!(answer.data, Some(&b"kept"[..]));
}
