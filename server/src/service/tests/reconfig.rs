//! The members of an ensemble, and how they are changed (spec: quorum protocol, section 9).

use quorate_proto::jute::Reader;
use quorate_proto::{ReconfigRequest, Stat};

use super::*;
use crate::config::{self, Config, Members};

const MEMBERS: &str = "server.1=a:1:2;3\nserver.2=b:1:2;3\nserver.3=c:1:2;3";

fn with_members(config: &mut Config) {
    let (members, version) = Members::read(MEMBERS).unwrap();
    let my_id = config.server_id();
    config.ensemble = Some(config::Ensemble {
        my_id,
        version,
        members,
    });
    config.reconfig_enabled = true;
    config.skip_acl = true;
}

async fn change(client: &mut Client, joining: &str, config_id: i64) -> (ErrorCode, String, i64) {
    let request = ReconfigRequest {
        joining: Some(joining),
        leaving: None,
        new_members: None,
        config_id,
    };
    let (err, body) = client.call(OpCode::Reconfig, &request).await;
    if err != ErrorCode::OK {
        return (err, String::new(), 0);
    }
    let mut reader = Reader::new(&body);
    let data: &[u8] = reader.read().unwrap();
    let stat: Stat = reader.read().unwrap();
    assert_eq!(stat.version, -1);
    let text = String::from_utf8(data.to_vec()).unwrap();
    (err, text, stat.mzxid)
}

async fn shown(client: &mut Client) -> String {
    let config = unwatched("/zookeeper/config");
    let (err, body) = client.call(OpCode::GetData, &config).await;
    assert_eq!(err, ErrorCode::OK);
    let data: &[u8] = Reader::new(&body).read().unwrap();
    String::from_utf8(data.to_vec()).unwrap()
}

#[tokio::test]
async fn members_change_by_a_request_to_any_server() {
    let ensemble = Ensemble::with(3, with_members).await;
    ensemble.elect(0).await;
    let mut others = Vec::new();
    for server in 0..3 {
        let mut client = Client::connect(ensemble.address(server)).await;
        assert!(shown(&mut client).await.ends_with("\nversion=0"));
        others.push(client);
    }
    let mut version = 0;
    for server in 0..3 {
        let mut client = Client::connect(ensemble.address(server)).await;
        let joining = format!("server.2=b{server}:1:2;3");
        let refused = change(&mut client, &joining, 99).await;
        assert_eq!(refused.0, ErrorCode::BAD_VERSION);
        let (err, text, zxid) = change(&mut client, &joining, version).await;
        assert_eq!(err, ErrorCode::OK);
        assert!(text.contains(&format!("server.2=b{server}:")), "{text}");
        assert!(text.ends_with(&format!("version={zxid:x}")), "{text}");
        version = zxid;
        ensemble.settle().await;
        for other in &mut others {
            assert_eq!(shown(other).await, text);
        }
        let digests = [0, 1, 2].map(|server| ensemble.digest(server));
        assert!(digests.iter().all(|digest| *digest == digests[0]));
    }
}

#[tokio::test]
async fn one_change_has_to_end_before_the_next() {
    let ensemble = Ensemble::with(3, with_members).await;
    ensemble.elect(0).await;
    let mut clients = Vec::new();
    for server in 0..2 {
        clients.push(Client::connect(ensemble.address(server)).await);
    }
    ensemble.hold();
    let request_of = |joining| ReconfigRequest {
        joining: Some(joining),
        leaving: None,
        new_members: None,
        config_id: -1,
    };
    let first = request_of("server.3=x:1:2;3");
    clients[0].send(&request(1, OpCode::Reconfig, &first)).await;
    until("proposed", || ensemble.held() > 0).await;
    let second = request_of("server.3=y:1:2;3");
    clients[1]
        .send(&request(1, OpCode::Reconfig, &second))
        .await;
    until("proposed", || ensemble.held() > 1).await;
    ensemble.release();
    assert_eq!(clients[0].next().await.outcome(), (1, ErrorCode::OK));
    let busy = (1, ErrorCode::RECONFIG_IN_PROGRESS);
    assert_eq!(clients[1].next().await.outcome(), busy);
}
