//! The interface as a caller sees it.

use super::*;
use crate::model::{InstanceId, SiteId};
use crate::status::Status;

fn board() -> Arc<Board> {
    let site = |name| SiteId::try_new(name).unwrap();
    Board::new(site("a"), InstanceId::new(1), &[site("b")])
}

fn start(board: &Arc<Board>) -> (Handle, String) {
    let bound = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = client::url(bound.local_addr());
    (bound.spawn(Arc::clone(board), Repairs::default()), url)
}

#[test]
fn every_route_answers() {
    let board = board();
    let (handle, url) = start(&board);
    let get = |path| {
        let answer = client::get(&url, path).unwrap();
        (answer.status, answer.body)
    };

    assert_eq!(get("/livez"), (200, "alive\n".to_owned()));
    let (status, body) = get("/");
    assert!(
        status == 200 && body.contains("/metrics /livez /readyz /status\n"),
        "{body}"
    );
    let (status, body) = get("/metrics");
    assert!(
        status == 200 && body.contains("\ntandem_redis_up 0\n"),
        "{body}"
    );
    let (status, body) = get("/status");
    let read: Status = serde_json::from_str(&body).unwrap();
    assert!(status == 200 && read.peers[0].site == "b", "{body}");
    assert_eq!(get("/nothing").0, 404);
    handle.stop();
    assert!(client::get(&url, "/livez").is_err());
}

#[test]
fn orders_to_repair_are_json_and_bounded() {
    let site = SiteId::try_new("b").unwrap();
    let docket = crate::converge::Docket::default();
    let repairs = Repairs::taken_by(Arc::new([(site, docket.clone())].into()));
    let bound = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = client::url(bound.local_addr());
    let handle = bound.spawn(board(), repairs);
    let post = |json: &str| client::post(&url, "/repair?peer=b", json).unwrap().status;
    assert_eq!(post("[{\"db\":0,\"key\":\"6b\"}]"), 202);
    assert_eq!(docket.take_asked().len(), 1);
    assert_eq!(post("{}"), 400);
    let get = client::get(&url, "/repair?peer=b").unwrap();
    assert_eq!(get.status, 405);
    assert!(docket.take_asked().is_empty());
    handle.stop();
}

#[test]
fn readiness_is_a_matter_of_the_local_redis_alone() {
    let board = board();
    let (handle, url) = start(&board);
    let ready = || {
        let answer = client::get(&url, "/readyz").unwrap();
        (answer.status, answer.body)
    };
    let reason = "the local Redis cannot be used: ";
    assert_eq!(ready(), (503, format!("{reason}not connected yet\n")));
    board.redis().error = Some("LOADING; wait".to_owned());
    assert_eq!(ready(), (503, format!("{reason}LOADING; wait\n")));
    board.redis().usable = true;
    assert_eq!(ready(), (200, "ready\n".to_owned()));
    handle.stop();
}

#[test]
fn a_port_in_use_is_a_clear_error() {
    let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let error = bind(first.local_addr()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&first.local_addr().to_string()), "{text}");
    assert!(text.contains("set listen in [admin]"), "{text}");
}

#[test]
fn a_caller_that_says_nothing_does_not_delay_the_stop() {
    let (handle, _) = start(&board());
    let _silent = std::net::TcpStream::connect(handle.local_addr()).unwrap();
    let begin = std::time::Instant::now();
    handle.stop();
    assert!(begin.elapsed() < DRAIN * 3);
}
