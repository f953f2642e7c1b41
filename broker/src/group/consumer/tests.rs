//! The rules of the new group protocol as tables, and as a property of random members, on a clock that only moves when
//! told.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut as _, Bytes, BytesMut};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::group::GroupError;
use crate::group::classic::{self as classic_protocol, Join, Limits, Sync};

const RULES: Rules = Rules { session_ms: 45_000, heartbeat_ms: 5_000, max_members: 100 };
const LIMITS: Limits =
    Limits { initial_rebalance_delay_ms: 0, min_session_ms: 6000, max_session_ms: 300_000, max_members: 100 };

/// Ids of topics and their numbers of partitions.
type Known = BTreeMap<String, (Uuid, i32)>;

#[derive(Default)]
struct World(RefCell<(u64, Known)>);

impl World {
    fn of(topics: &[(&str, i32)]) -> Self {
        let world = Self::default();
        topics.iter().for_each(|(name, count)| world.set(name, *count));
        world
    }

    /// Makes, grows or (with nought) deletes a topic.
    fn set(&self, name: &str, count: i32) {
        let mut inner = self.0.borrow_mut();
        inner.0 += 1;
        let version = inner.0;
        if count == 0 {
            inner.1.remove(name);
        } else {
            inner.1.entry(name.to_owned()).or_insert((Uuid::from_u128(u128::from(version)), 0)).1 = count;
        }
    }
}

impl Topics for World {
    fn version(&self) -> u64 {
        self.0.borrow().0
    }
    fn topic(&self, name: &str) -> Option<(Uuid, i32)> {
        self.0.borrow().1.get(name).copied()
    }
    fn name(&self, id: Uuid) -> Option<String> {
        self.0.borrow().1.iter().find(|(_, (own, _))| *own == id).map(|(name, _)| name.clone())
    }
    fn sight(&self) -> Option<u64> {
        Some(self.version())
    }
    fn names(&self) -> Vec<String> {
        self.0.borrow().1.keys().cloned().collect()
    }
}

fn joining(id: &str, topics: &[&str]) -> Beat {
    Beat {
        member_id: id.to_owned(),
        rebalance_timeout_ms: Some(10_000),
        topics: Some(topics.iter().map(|t| (*t).to_owned()).collect()),
        owned: Some(Assignment::new()),
        ..Beat::default()
    }
}

fn going(id: &str, epoch: i32) -> Beat {
    Beat { member_id: id.to_owned(), epoch, ..Beat::default() }
}

fn numbers(assignment: &Assignment) -> Vec<i32> {
    assignment.values().flatten().copied().collect()
}

fn beat(group: &mut Group, world: &World, beat: Beat) -> Result<(i32, Option<Vec<i32>>), GroupError> {
    group.beat(beat, RULES, world, 0).map(|b| (b.epoch, b.assigned.as_ref().map(numbers)))
}

#[test]
fn a_second_member_gets_what_the_first_lets_go_of() {
    let world = World::of(&[("t", 4)]);
    let mut group = Group::new("g", 0);
    let own = |list: &[i32]| -> Option<Assignment> {
        Some([(world.topic("t").unwrap().0, list.iter().copied().collect())].into())
    };
    assert_eq!(beat(&mut group, &world, joining("a", &["t"])), Ok((1, Some(vec![0, 1, 2, 3]))));
    assert_eq!(group.state(), "Stable");
    assert_eq!(beat(&mut group, &world, joining("b", &["t"])), Ok((2, Some(vec![]))), "all is held by the first");
    assert_eq!(group.state(), "Reconciling");
    let told = beat(&mut group, &world, Beat { owned: own(&[0, 1, 2, 3]), ..going("a", 1) });
    assert_eq!(told, Ok((1, Some(vec![0, 1]))), "stays in its epoch until it has let go");
    assert_eq!(beat(&mut group, &world, going("a", 1)), Ok((1, None)));
    assert_eq!(beat(&mut group, &world, going("b", 2)), Ok((2, None)));
    assert_eq!(beat(&mut group, &world, Beat { owned: own(&[0, 1]), ..going("a", 1) }), Ok((2, None)));
    assert_eq!(beat(&mut group, &world, going("b", 2)), Ok((2, Some(vec![2, 3]))));
    assert_eq!(group.state(), "Stable");
    let lost = beat(&mut group, &world, Beat { owned: own(&[0, 1]), ..going("a", 1) });
    assert_eq!(lost, Ok((2, None)), "the answer with the new epoch was lost");
    for wrong in [going("a", 1), Beat { owned: own(&[0, 3]), ..going("a", 1) }, going("a", 9), joining("a", &["t"])] {
        assert!(matches!(beat(&mut group, &world, wrong), Err(GroupError::FencedEpoch(_))));
    }
    assert_eq!(beat(&mut group, &world, going("b", LEAVE)), Ok((LEAVE, None)));
    assert_eq!(group.state(), "Assigning");
    assert_eq!(beat(&mut group, &world, going("a", 2)), Ok((3, Some(vec![0, 1, 2, 3]))));
    assert!(matches!(beat(&mut group, &world, going("b", 2)), Err(GroupError::NoMember(_))));
}

#[test]
fn heartbeats_that_say_what_they_may_not() {
    type Change = fn(&mut Beat);
    let changes: [(&str, Change); 12] = [
        ("InvalidRequest", |b| b.member_id.clear()),
        ("InvalidRequest", |b| b.instance_id = Some(String::new())),
        ("InvalidRequest", |b| b.rack_id = Some(String::new())),
        ("InvalidRequest", |b| b.rebalance_timeout_ms = None),
        ("InvalidRequest", |b| b.owned = None),
        ("InvalidRequest", |b| b.owned = Some([(Uuid::nil(), [1].into())].into())),
        ("InvalidRequest", |b| b.topics = None),
        ("InvalidRequest", |b| b.epoch = LEAVE_STATIC),
        ("InvalidRequest", |b| b.epoch = -3),
        ("UnsupportedAssignor", |b| b.assignor = Some("nosuch".to_owned())),
        ("InvalidRegex", |b| b.regex = Some("[".to_owned())),
        ("InvalidRegex", |b| b.regex = Some("a(?=b)".to_owned())),
    ];
    for (want, change) in changes {
        let mut asked = joining("a", &["t"]);
        change(&mut asked);
        let error = check("g", &asked, true).unwrap_err();
        assert!(format!("{error:?}").starts_with(want), "{error:?}");
    }
    assert_eq!(check("g", &Beat { regex: Some(String::new()), ..joining("", &["t"]) }, false), Ok(()));
    assert!(check("", &joining("a", &["t"]), true).is_err());
}

#[test]
fn static_members_come_back_to_what_they_had() {
    let world = World::of(&[("t", 2)]);
    let fixed = |id: &str, epoch| Beat { instance_id: Some("i".to_owned()), ..going(id, epoch) };
    let join = |id: &str| Beat { instance_id: Some("i".to_owned()), ..joining(id, &["t"]) };
    let mut group = Group::new("g", 0);
    assert_eq!(beat(&mut group, &world, join("a")), Ok((1, Some(vec![0, 1]))));
    assert!(matches!(beat(&mut group, &world, join("b")), Err(GroupError::UnreleasedInstance(_))));
    assert!(matches!(beat(&mut group, &world, join("a")), Err(GroupError::UnreleasedInstance(_))));
    assert!(matches!(beat(&mut group, &world, fixed("b", 1)), Err(GroupError::FencedBy(_))));
    assert_eq!(beat(&mut group, &world, fixed("a", LEAVE_STATIC)), Ok((LEAVE_STATIC, None)));
    assert_eq!(beat(&mut group, &world, join("b")), Ok((1, Some(vec![0, 1]))), "no rebalance");
    assert!(matches!(beat(&mut group, &world, fixed("a", 1)), Err(GroupError::FencedBy(_))));
    assert_eq!(group.members.keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(beat(&mut group, &world, fixed("b", LEAVE_STATIC)), Ok((LEAVE_STATIC, None)));
    group.tick(44_999);
    assert_eq!(group.members.len(), 1);
    group.tick(45_000);
    assert_eq!(group.state(), "Empty", "who does not come back is gone after its session");
}

#[test]
fn topics_that_come_grow_and_go() {
    let world = World::of(&[("t", 1)]);
    let mut group = Group::new("g", 0);
    let pattern = Beat { regex: Some("t.*".to_owned()), topics: None, ..joining("a", &[]) };
    assert_eq!(beat(&mut group, &world, pattern), Ok((1, Some(vec![0]))));
    world.set("other", 5);
    assert_eq!(beat(&mut group, &world, going("a", 1)), Ok((1, None)), "none of ours");
    world.set("t", 3);
    assert_eq!(beat(&mut group, &world, going("a", 1)), Ok((2, Some(vec![0, 1, 2]))));
    world.set("tt", 1);
    assert_eq!(beat(&mut group, &world, going("a", 2)).map(|(epoch, got)| (epoch, got.unwrap().len())), Ok((3, 4)));
    assert!(group.reads("tt") && !group.reads("other"));
    world.set("t", 0);
    let told = beat(&mut group, &world, going("a", 3)).unwrap();
    assert_eq!(told, (3, Some(vec![0])));
    let own = Some([(world.topic("tt").unwrap().0, [0].into())].into());
    assert_eq!(beat(&mut group, &world, Beat { owned: own, ..going("a", 3) }), Ok((4, None)));
    let names = Beat { regex: Some(String::new()), topics: Some(vec!["other".to_owned()]), ..going("a", 4) };
    assert_eq!(beat(&mut group, &world, names), Ok((4, Some(vec![]))));
    assert!(group.regexes.is_empty());
    let changes = group.take_changes();
    assert!(changes.regexes.contains("t.*"), "the log is told that it is gone");
}

#[test]
fn silence_ends_members() {
    let world = World::of(&[("t", 2)]);
    let mut group = Group::new("g", 0);
    assert!(beat(&mut group, &world, joining("a", &["t"])).is_ok());
    assert!(beat(&mut group, &world, joining("b", &["t"])).is_ok());
    assert!(beat(&mut group, &world, going("a", 1)).is_ok(), "is told to let go of one");
    assert_eq!(group.due_ms(), 10_000);
    group.tick(9_999);
    assert_eq!(group.members.len(), 2);
    group.tick(10_000);
    assert_eq!(group.members.keys().collect::<Vec<_>>(), ["b"], "did not let go in time");
    assert_eq!(group.due_ms(), 45_000);
}

#[test]
fn commits_and_fetches_are_held_to_the_epoch() {
    let world = World::of(&[("t", 1)]);
    let mut group = Group::new("g", 0);
    assert_eq!(group.may_commit("", -1, true), Ok(()), "from outside while nobody is in");
    assert!(beat(&mut group, &world, joining("a", &["t"])).is_ok());
    assert_eq!(group.may_commit("a", 1, true), Ok(()));
    assert_eq!(group.may_commit("a", 2, true), Err(GroupError::StaleEpoch));
    assert_eq!(group.may_commit("a", 1, false), Err(GroupError::UnsupportedVersion));
    assert!(matches!(group.may_commit("", -1, true), Err(GroupError::NoMember(_))));
    assert_eq!(group.may_fetch(None, -1), Ok(()));
    assert_eq!(group.may_fetch(Some("a"), 1), Ok(()));
    assert_eq!(group.may_fetch(Some("a"), 0), Err(GroupError::StaleEpoch));
    assert!(matches!(group.may_fetch(Some("b"), 1), Err(GroupError::NoMember(_))));
}

fn metadata(topics: &[&str], owned: &[(&str, Vec<i32>)]) -> Bytes {
    let mut out = BytesMut::new();
    let put = |out: &mut BytesMut, text: &str| {
        out.put_i16(i16::try_from(text.len()).unwrap());
        out.put_slice(text.as_bytes());
    };
    out.put_i16(1);
    out.put_i32(i32::try_from(topics.len()).unwrap());
    topics.iter().for_each(|t| put(&mut out, t));
    out.put_i32(-1);
    out.put_i32(i32::try_from(owned.len()).unwrap());
    for (topic, list) in owned {
        put(&mut out, topic);
        out.put_i32(i32::try_from(list.len()).unwrap());
        list.iter().for_each(|p| out.put_i32(*p));
    }
    out.freeze()
}

fn classic_join(id: &str, owned: &[(&str, Vec<i32>)]) -> Join {
    Join {
        member_id: id.to_owned(),
        instance_id: None,
        client_id: "c".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), metadata(&["t"], owned))],
        require_known_id: false,
        can_skip_assignment: false,
        fresh_id: "x".to_owned(),
    }
}

#[test]
fn classic_and_new_members_share_a_group_and_part_again() {
    let world = World::of(&[("t", 4)]);
    // A classic group of one member that has all.
    let mut old = classic_protocol::Group::new("g", LIMITS, 0);
    let mut joined = old.join(classic_join("", &[]), 0);
    let id = joined.try_recv().unwrap().unwrap().member_id;
    let mut given = BytesMut::new();
    given.put_slice(b"\0\0\0\0\0\x01\0\x01t\0\0\0\x04\0\0\0\0\0\0\0\x01\0\0\0\x02\0\0\0\x03\xff\xff\xff\xff");
    let assignments = vec![(id.clone(), given.freeze())];
    drop(old.sync(Sync { member_id: id.clone(), generation: 1, assignments, ..Sync::default() }, 0));
    let mut group = Group::from_classic(&old, &world, 0).unwrap();
    assert_eq!((group.epoch, group.state()), (1, "Stable"));
    assert!(group.is_all_classic());

    assert_eq!(beat(&mut group, &world, joining("new", &["t"])), Ok((2, Some(vec![]))));
    assert_eq!(group.classic_heartbeat(&id, None, 1, 0), Err(GroupError::RebalanceInProgress));
    assert_eq!(group.due_ms(), 10_000);
    // A cooperative member still owns what it shall let go of, so it stays in its generation and joins once more.
    let owned = |list: &[i32]| vec![("t", list.to_vec())];
    let join = |group: &mut Group, list: &[i32]| {
        group.classic_join(classic_join(&id, &owned(list)), LIMITS, RULES, &world, 0).map(|j| j.generation)
    };
    let sync = |group: &mut Group, generation| {
        let asked = Sync { member_id: id.clone(), generation, ..Sync::default() };
        group.classic_sync(&asked, &world, 0).map(|s| numbers_of(&s.assignment))
    };
    assert_eq!(join(&mut group, &[0, 1, 2, 3]), Ok(1));
    assert_eq!(sync(&mut group, 1), Ok(vec![0, 1]));
    assert_eq!(group.classic_heartbeat(&id, None, 1, 0), Err(GroupError::RebalanceInProgress));
    assert_eq!(beat(&mut group, &world, going("new", 2)), Ok((2, None)), "not let go yet");
    assert_eq!(join(&mut group, &[0, 1]), Ok(2));
    assert_eq!(sync(&mut group, 2), Ok(vec![0, 1]));
    assert_eq!(group.classic_heartbeat(&id, None, 2, 0), Ok(()));
    assert_eq!(beat(&mut group, &world, going("new", 2)), Ok((2, Some(vec![2, 3]))));
    assert_eq!(group.state(), "Stable");
    assert_eq!(group.may_commit(&id, 1, true), Err(GroupError::IllegalGeneration));
    assert_eq!(group.classic_leave("new", None, 0), Err(GroupError::UnknownMember), "leaves by its own protocol");

    assert!(beat(&mut group, &world, going("new", LEAVE)).is_ok());
    assert!(group.is_all_classic());
    let mut back = group.to_classic(LIMITS, &world, 0);
    assert_eq!((back.state, back.generation), (classic_protocol::State::Preparing, 3));
    assert_eq!(back.heartbeat(&id, None, 3, 0), Err(GroupError::RebalanceInProgress));
    let mut joined = back.join(classic_join(&id, &owned(&[0, 1])), 0);
    let joined = joined.try_recv().unwrap().unwrap();
    assert_eq!((joined.generation, joined.leader == id), (4, true));
}

fn numbers_of(bytes: &[u8]) -> Vec<i32> {
    classic::assignment(bytes).unwrap().into_iter().flat_map(|(_, list)| list).collect()
}

#[test]
fn a_classic_join_that_does_not_fit_is_refused() {
    let world = World::of(&[("t", 1)]);
    let mut group = Group::new("g", 0);
    assert!(beat(&mut group, &world, joining("a", &["t"])).is_ok());
    type Change = fn(&mut Join);
    let cases: [(Change, GroupError); 5] = [
        (|j| j.session_timeout_ms = 1, GroupError::InvalidSessionTimeout),
        (|j| j.protocol_type = "connect".to_owned(), GroupError::InconsistentProtocol),
        (|j| j.protocols.clear(), GroupError::InconsistentProtocol),
        (|j| j.protocols[0].1 = Bytes::from_static(b"x"), GroupError::InconsistentProtocol),
        (|j| j.require_known_id = true, GroupError::MemberIdRequired("c-x".to_owned())),
    ];
    for (change, want) in cases {
        let mut asked = classic_join("", &[]);
        change(&mut asked);
        assert_eq!(group.classic_join(asked, LIMITS, RULES, &world, 0), Err(want));
        assert_eq!(group.members.len(), 1);
    }
}

/// A client of the new protocol as it should be: reads what it is given, lets go of the rest a while later.
#[derive(Debug, Default, Clone)]
struct Client {
    epoch: i32,
    owns: Assignment,
    shall: Assignment,
    reads: Vec<&'static str>,
    is_in: bool,
    /// An answer was lost: the next heartbeat says all, so that it is told all.
    says_all: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Beat(usize),
    LoseAnswer(usize),
    LetGo(usize),
    Join(usize, u8),
    Leave(usize),
    Vanish(usize),
    Topic(usize, i32),
    Restart,
    Time(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0usize..5;
    let step = prop_oneof![
        8 => who.clone().prop_map(Step::Beat),
        1 => who.clone().prop_map(Step::LoseAnswer),
        4 => who.clone().prop_map(Step::LetGo),
        4 => (who.clone(), 1u8..8).prop_map(|(w, t)| Step::Join(w, t)),
        1 => who.clone().prop_map(Step::Leave),
        1 => who.prop_map(Step::Vanish),
        1 => (0usize..3, 0i32..6).prop_map(|(t, n)| Step::Topic(t, n)),
        1 => Just(Step::Restart),
        2 => (1i64..20_000).prop_map(Step::Time),
    ];
    proptest::collection::vec(step, 1..120)
}

const NAMES: [&str; 3] = ["t0", "t1", "t2"];

struct Game {
    world: World,
    group: Group,
    clients: Vec<Client>,
    now_ms: i64,
}

impl Game {
    fn new() -> Self {
        let world = World::of(&[("t0", 3), ("t1", 4)]);
        Self { world, group: Group::new("g", 0), clients: vec![Client::default(); 5], now_ms: 0 }
    }

    /// Beats as a good client does; fenced, it gives up all and joins again.
    fn beat(&mut self, who: usize, lose_answer: bool) {
        let client = self.clients[who].clone();
        if !client.is_in {
            return;
        }
        let owned = Some(client.owns.clone());
        let asked = if client.says_all {
            Beat { owned, epoch: client.epoch, ..joining(&format!("m{who}"), &client.reads) }
        } else {
            Beat { owned, ..going(&format!("m{who}"), client.epoch) }
        };
        let answer = self.group.beat(asked, RULES, &self.world, self.now_ms);
        self.clients[who].says_all = lose_answer;
        if lose_answer {
            return;
        }
        match answer {
            Ok(told) => self.hear(who, &told),
            Err(_) => self.clients[who] = Client::default(),
        }
    }

    fn hear(&mut self, who: usize, told: &Beaten) {
        let client = &mut self.clients[who];
        client.epoch = told.epoch;
        client.is_in = true;
        if let Some(assigned) = &told.assigned {
            client.shall = assigned.clone();
            for (topic, list) in assigned {
                client.owns.entry(*topic).or_default().extend(list);
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Beat(who) => self.beat(who, false),
            Step::LoseAnswer(who) => self.beat(who, true),
            Step::LetGo(who) => {
                let client = &mut self.clients[who];
                client.owns.clone_from(&client.shall);
            }
            Step::Join(who, topics) => {
                if self.clients[who].is_in {
                    return;
                }
                let names: Vec<&'static str> = (0..3).filter(|i| topics & (1 << i) != 0).map(|i| NAMES[i]).collect();
                let assignor = (topics & 1 == 1).then(|| "range".to_owned());
                let asked = Beat { assignor, ..joining(&format!("m{who}"), &names) };
                if let Ok(told) = self.group.beat(asked, RULES, &self.world, self.now_ms) {
                    self.hear(who, &told);
                    self.clients[who].reads = names;
                }
            }
            Step::Leave(who) => {
                if std::mem::take(&mut self.clients[who]).is_in {
                    drop(self.group.beat(going(&format!("m{who}"), LEAVE), RULES, &self.world, self.now_ms));
                }
            }
            Step::Vanish(who) => self.clients[who] = Client::default(),
            Step::Topic(topic, count) => {
                let now = self.world.topic(NAMES[topic]).map_or(0, |(_, n)| n);
                // Topics never shrink.
                self.world.set(NAMES[topic], if count == 0 { 0 } else { now.max(count) });
            }
            Step::Restart => self.group.restored(RULES.session_ms, self.now_ms),
            Step::Time(ms) => {
                self.now_ms += ms;
                self.group.tick(self.now_ms);
                // Who was taken out has noticed by its own clock and given up all.
                for (who, client) in self.clients.iter_mut().enumerate() {
                    if !self.group.members.contains_key(&format!("m{who}")) {
                        *client = Client::default();
                    }
                }
            }
        }
    }

    fn no_partition_has_two_owners(&self) -> Result<(), TestCaseError> {
        let mut owners = BTreeSet::new();
        for client in &self.clients {
            for tp in client.owns.iter().flat_map(|(t, list)| list.iter().map(|p| (*t, *p))) {
                prop_assert!(owners.insert(tp), "{:?} is owned twice: {:?}", tp, self.clients);
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_two_members_own_a_partition_and_in_the_end_all_are_owned(list in steps()) {
        let mut game = Game::new();
        for step in &list {
            game.step(step);
            game.no_partition_has_two_owners()?;
        }
        // Those who vanished are gone after their sessions, the others go on until nothing changes.
        for _ in 0..40 {
            for who in 0..5 {
                game.beat(who, false);
                game.step(&Step::LetGo(who));
            }
            game.step(&Step::Time(5_000));
            game.no_partition_has_two_owners()?;
        }
        if game.group.members.is_empty() {
            return Ok(());
        }
        prop_assert_eq!(game.group.state(), "Stable");
        let mut owned: BTreeSet<(Uuid, i32)> = BTreeSet::new();
        for client in game.clients.iter().filter(|c| c.is_in) {
            owned.extend(client.owns.iter().flat_map(|(t, list)| list.iter().map(|p| (*t, *p))));
        }
        let mut want: BTreeSet<(Uuid, i32)> = BTreeSet::new();
        for name in game.group.members.values().flat_map(|m| &m.topics) {
            if let Some((id, count)) = game.world.topic(name) {
                want.extend((0..count).map(|p| (id, p)));
            }
        }
        prop_assert_eq!(owned, want, "every partition that is read has its reader");
        let (epoch, target) = (game.group.epoch, game.group.target.clone());
        for who in 0..5 {
            game.beat(who, false);
        }
        prop_assert_eq!((epoch, target), (game.group.epoch, game.group.target.clone()), "nothing moves any more");
    }
}
