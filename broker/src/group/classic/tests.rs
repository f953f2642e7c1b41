//! The rules of the classic group protocol as tables, on a clock that only moves when told.

use super::*;
use crate::group::GroupError;

use bytes::Bytes;

const LIMITS: Limits =
    Limits { initial_rebalance_delay_ms: 0, min_session_ms: 6000, max_session_ms: 300_000, max_members: 10 };

pub(crate) fn join(member: &str, fresh: &str) -> Join {
    Join {
        member_id: member.to_owned(),
        instance_id: None,
        client_id: "c".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), Bytes::from_static(b"meta"))],
        require_known_id: false,
        can_skip_assignment: false,
        fresh_id: fresh.to_owned(),
    }
}

fn now<T>(mut later: Later<T>) -> Option<Result<T, GroupError>> {
    later.try_recv().ok()
}

/// A stable group of one member, `c-1`.
fn stable() -> Group {
    let mut group = Group::new("g", LIMITS, 0);
    let joined = now(group.join(join("", "1"), 0)).unwrap().unwrap();
    assert_eq!((joined.member_id.as_str(), joined.leader.as_str(), joined.generation), ("c-1", "c-1", 1));
    let assignments = vec![("c-1".to_owned(), Bytes::from_static(b"all"))];
    let sync = Sync { member_id: "c-1".to_owned(), generation: 1, assignments, ..Sync::default() };
    assert_eq!(now(group.sync(sync, 0)).unwrap().unwrap().assignment, "all");
    assert_eq!(group.state, State::Stable);
    group
}

#[test]
fn a_second_member_moves_the_group_on() {
    let mut group = stable();
    let mut second = group.join(join("", "2"), 100);
    assert!(second.try_recv().is_err(), "waits for the first member");
    assert_eq!(group.heartbeat("c-1", None, 1, 200), Err(GroupError::RebalanceInProgress));
    let first = now(group.join(join("c-1", ""), 300)).unwrap().unwrap();
    let second = second.try_recv().unwrap().unwrap();
    assert_eq!((first.generation, second.generation), (2, 2));
    assert_eq!((first.members.len(), second.members.len()), (2, 0), "only the leader sees the members");
    let sync = |id: &str| Sync { member_id: id.to_owned(), generation: 2, ..Sync::default() };
    let mut waits = group.sync(sync("c-2"), 400);
    assert!(waits.try_recv().is_err(), "waits for the leader");
    let assignments = vec![("c-2".to_owned(), Bytes::from_static(b"half"))];
    assert_eq!(now(group.sync(Sync { assignments, ..sync("c-1") }, 400)).unwrap().unwrap().assignment, "");
    assert_eq!(waits.try_recv().unwrap().unwrap().assignment, "half");
}

#[test]
fn who_speaks_is_checked() {
    for (member, generation, heartbeat, commit) in [
        ("c-1", 1, Ok(()), Ok(())),
        ("c-1", 2, Err(GroupError::IllegalGeneration), Err(GroupError::IllegalGeneration)),
        ("c-1", 0, Err(GroupError::IllegalGeneration), Err(GroupError::IllegalGeneration)),
        ("nobody", 1, Err(GroupError::UnknownMember), Err(GroupError::UnknownMember)),
        ("", -1, Err(GroupError::UnknownMember), Err(GroupError::UnknownMember)),
    ] {
        let mut group = stable();
        assert_eq!(group.heartbeat(member, None, generation, 1), heartbeat, "heartbeat {member} {generation}");
        assert_eq!(group.may_commit(member, None, generation, 1), commit, "commit {member} {generation}");
    }
    let mut empty = Group::new("g", LIMITS, 0);
    assert_eq!(empty.may_commit("", None, -1, 0), Ok(()), "from outside while nobody is in");
}

#[test]
fn joins_that_do_not_fit_are_refused() {
    type Change = fn(&mut Join);
    let cases: [(Change, GroupError); 6] = [
        (|j| j.session_timeout_ms = 5999, GroupError::InvalidSessionTimeout),
        (|j| j.session_timeout_ms = 300_001, GroupError::InvalidSessionTimeout),
        (|j| j.protocol_type = "connect".to_owned(), GroupError::InconsistentProtocol),
        (|j| j.protocols[0].0 = "sticky".to_owned(), GroupError::InconsistentProtocol),
        (|j| j.protocols.clear(), GroupError::InconsistentProtocol),
        (|j| j.member_id = "nobody".to_owned(), GroupError::UnknownMember),
    ];
    for (change, want) in cases {
        let mut asked = join("", "2");
        change(&mut asked);
        let mut group = stable();
        assert_eq!(now(group.join(asked, 0)).unwrap(), Err(want));
        assert_eq!(group.state, State::Stable);
    }
    let mut group = Group::new("g", Limits { max_members: 1, ..LIMITS }, 0);
    drop(group.join(join("", "1"), 0));
    assert_eq!(now(group.join(join("", "2"), 0)).unwrap(), Err(GroupError::Full));
}

#[test]
fn a_first_join_may_only_get_an_id() {
    let mut group = Group::new("g", LIMITS, 0);
    let asked = Join { require_known_id: true, ..join("", "1") };
    assert_eq!(now(group.join(asked.clone(), 0)).unwrap(), Err(GroupError::MemberIdRequired("c-1".to_owned())));
    assert!(group.members.is_empty() && !group.is_idle());
    let joined = now(group.join(Join { member_id: "c-1".to_owned(), ..asked }, 1)).unwrap().unwrap();
    assert_eq!(joined.member_id, "c-1");

    let mut group = Group::new("g", LIMITS, 0);
    drop(group.join(Join { require_known_id: true, ..join("", "1") }, 0));
    group.tick(10_000);
    assert!(group.is_idle(), "an id that never comes back is forgotten");
}

#[test]
fn a_member_without_heartbeats_is_gone_after_its_session() {
    let mut group = stable();
    group.tick(9_999);
    assert_eq!(group.state, State::Stable);
    assert_eq!(group.heartbeat("c-1", None, 1, 9_999), Ok(()));
    group.tick(19_998);
    assert_eq!(group.state, State::Stable);
    group.tick(19_999);
    assert_eq!((group.state, group.members.len()), (State::Empty, 0));
}

#[test]
fn a_rebalance_ends_without_those_who_do_not_come() {
    let mut group = stable();
    let mut second = group.join(join("", "2"), 0);
    for at in (0..60_000).step_by(5_000) {
        assert_eq!(group.heartbeat("c-1", None, 1, at), Err(GroupError::RebalanceInProgress));
        group.tick(at);
    }
    assert!(second.try_recv().is_err());
    group.tick(60_000);
    let joined = second.try_recv().unwrap().unwrap();
    assert_eq!((joined.leader.as_str(), joined.generation, joined.members.len()), ("c-2", 2, 1));
    assert_eq!(group.heartbeat("c-1", None, 1, 60_000), Err(GroupError::UnknownMember));
}

#[test]
fn who_joins_and_never_syncs_is_out() {
    let mut group = stable();
    let mut second = group.join(join("", "2"), 0);
    drop(group.join(join("c-1", ""), 0));
    assert!(second.try_recv().unwrap().is_ok());
    let sync = Sync { member_id: "c-1".to_owned(), generation: 2, ..Sync::default() };
    assert!(now(group.sync(sync, 0)).unwrap().is_ok(), "the leader's sync makes it stable");
    assert_eq!(group.state, State::Stable);
    group.tick(10_000);
    assert!(group.members.is_empty(), "sessions end by time");
}

#[test]
fn a_first_rebalance_may_wait_for_more() {
    let mut group = Group::new("g", Limits { initial_rebalance_delay_ms: 3000, ..LIMITS }, 0);
    let mut one = group.join(join("", "1"), 0);
    group.tick(2_999);
    let mut two = group.join(join("", "2"), 2_999);
    group.tick(3_000);
    assert!(one.try_recv().is_err(), "somebody came: waits on");
    group.tick(6_000);
    assert_eq!(one.try_recv().unwrap().unwrap().generation, 1);
    assert_eq!(two.try_recv().unwrap().unwrap().generation, 1);
}

#[test]
fn a_static_member_comes_back_in_the_same_generation() {
    for (can_skip, leader, skip) in [(false, "i1-1", false), (true, "i1-2", true)] {
        let fixed =
            |fresh| Join { instance_id: Some("i1".to_owned()), can_skip_assignment: can_skip, ..join("", fresh) };
        let mut group = Group::new("g", LIMITS, 0);
        drop(group.join(fixed("1"), 0));
        let assignments = vec![("i1-1".to_owned(), Bytes::from_static(b"all"))];
        drop(group.sync(Sync { member_id: "i1-1".to_owned(), generation: 1, assignments, ..Sync::default() }, 0));
        let back = now(group.join(fixed("2"), 10)).unwrap().unwrap();
        assert_eq!((back.member_id.as_str(), back.generation, back.skip_assignment), ("i1-2", 1, skip));
        assert_eq!(back.leader, leader);
        assert_eq!(group.heartbeat("i1-1", Some("i1"), 1, 20), Err(GroupError::FencedInstance));
        assert_eq!(group.may_commit("i1-1", Some("i1"), 1, 20), Err(GroupError::FencedInstance));
        let sync = Sync { member_id: "i1-2".to_owned(), generation: 1, ..Sync::default() };
        assert_eq!(now(group.sync(sync, 20)).unwrap().unwrap().assignment, "all", "keeps what it had");
        assert_eq!(group.leave("", Some("i1"), 30), Ok("i1-2".to_owned()));
        assert_eq!(group.state, State::Empty);
    }
}

#[test]
fn leaving_shares_out_again() {
    let mut group = stable();
    let mut second = group.join(join("", "2"), 0);
    assert_eq!(group.leave("c-1", None, 10), Ok("c-1".to_owned()));
    assert_eq!(second.try_recv().unwrap().unwrap().leader, "c-2");
    assert_eq!(group.leave("c-1", None, 10), Err(GroupError::UnknownMember));
    let generation = group.generation;
    assert_eq!(group.leave("c-2", None, 20), Ok("c-2".to_owned()));
    assert_eq!((group.state, group.generation), (State::Empty, generation + 1));
}

#[test]
fn subscriptions_are_read_from_metadata() {
    let metadata = b"\0\x01\0\0\0\x02\0\x01a\0\x02bc\xff\xff\xff\xff";
    assert_eq!(subscribed_topics(metadata), ["a", "bc"]);
    assert!(subscribed_topics(b"\0\x01\x7f\xff\xff\xff").is_empty());
    assert!(subscribed_topics(b"").is_empty());
}
