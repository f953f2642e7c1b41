//! The coordinator over a log in memory that forgets what was not synced.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::classic::tests::join;
use super::classic::{Join, Sync};
use super::*;
use crate::config::StorageConfig;
use crate::keyed::partition_for;
use crate::storage::{Storage, TopicSettings};
use bytes::Bytes;
use millrace_log::clock::{ManualClock, SharedClock};
use millrace_log::fs::SimFs;
use millrace_log::record::{Offset, TopicPartition};
use millrace_log::value::ByteSize;

const START_NS: i64 = 1_700_000_000_000_000_000;

struct Setting {
    fs: SimFs,
    clock: Arc<ManualClock>,
    config: GroupConfig,
}

impl Setting {
    fn new() -> Self {
        Self { fs: SimFs::new(), clock: ManualClock::at_ns(START_NS), config: GroupConfig::default() }
    }

    async fn open(&self) -> Coordinator {
        let fs: Arc<dyn millrace_log::fs::Filesystem> = Arc::new(self.fs.clone());
        let clock: SharedClock = Arc::clone(&self.clock) as _;
        let storage = Storage::open(Path::new("/log"), fs, Arc::clone(&clock), StorageConfig::default()).unwrap();
        Coordinator::open(storage, clock, self.config.clone()).await.unwrap()
    }
}

fn commit_of(partition: i32, offset: i64) -> Commit {
    let partition = TopicPartition::new("t", partition);
    Commit { partition, offset: Offset::new(offset), leader_epoch: 3, metadata: "note".to_owned() }
}

const NOBODY: Committer<'static> = Committer { member: "", instance: None, generation: -1, knows_epochs: true };

async fn commit(groups: &Coordinator, group: &str, partition: i32, offset: i64) {
    let answers = groups.commit(group, NOBODY, vec![commit_of(partition, offset)]).await.unwrap();
    assert_eq!(answers, [Ok(())]);
}

fn offsets(groups: &Coordinator, group: &str) -> Vec<(i32, i64)> {
    let all = groups.committed(group, None);
    all.into_iter().map(|(tp, committed)| (tp.partition, committed.unwrap().offset.get())).collect()
}

#[tokio::test]
async fn an_answered_commit_survives_a_power_cut() {
    let setting = Setting::new();
    let groups = setting.open().await;
    for (partition, offset) in [(0, 5), (1, 7), (0, 9)] {
        commit(&groups, "g", partition, offset).await;
    }
    let too_long = Commit { metadata: "x".repeat(4097), ..commit_of(2, 1) };
    let answers = groups.commit("g", NOBODY, vec![too_long, commit_of(3, 4)]).await.unwrap();
    assert_eq!(answers, [Err(GroupError::MetadataTooLarge), Ok(())]);
    drop(groups);
    setting.fs.crash();
    let groups = setting.open().await;
    assert_eq!(offsets(&groups, "g"), [(0, 9), (1, 7), (3, 4)]);
    let found = groups.committed("g", Some(&[TopicPartition::new("t", 1), TopicPartition::new("t", 2)]));
    assert_eq!(found[0].1.as_ref().map(|c| (c.leader_epoch, c.metadata.as_str())), Some((3, "note")));
    assert_eq!(found[1].1, None);
}

#[tokio::test]
async fn a_commit_that_the_disk_refused_does_not_count() {
    let setting = Setting::new();
    let groups = setting.open().await;
    commit(&groups, "g", 0, 5).await;
    setting.fs.fail_next_syncs(1);
    let refused = groups.commit("g", NOBODY, vec![commit_of(0, 6)]).await;
    assert!(matches!(refused, Err(GroupError::Log(_))), "{refused:?}");
    assert_eq!(offsets(&groups, "g"), [(0, 5)]);
}

#[tokio::test]
async fn members_and_generation_survive_a_restart() {
    let setting = Setting::new();
    let groups = setting.open().await;
    let joined = groups.join("g", join("", "")).await.unwrap();
    let assignments = vec![(joined.member_id.clone(), Bytes::from_static(b"all"))];
    let sync = Sync { member_id: joined.member_id.clone(), generation: 1, assignments, ..Sync::default() };
    assert_eq!(groups.sync("g", sync.clone()).await.unwrap().assignment, "all");
    groups.tick().await;
    drop(groups);
    setting.fs.crash();
    let groups = setting.open().await;
    assert_eq!(groups.heartbeat("g", &joined.member_id, None, 1), Ok(()));
    assert_eq!(groups.sync("g", sync).await.unwrap().assignment, "all");
    assert_eq!(groups.delete("g").await, Err(GroupError::NotEmpty));
    setting.clock.advance(Duration::from_secs(10));
    groups.tick().await;
    let listed = |g: &Listed| (g.id.clone(), g.state, g.protocol_type.clone(), g.kind);
    let want = ("g".to_owned(), "Empty", "consumer".to_owned(), "classic");
    assert_eq!(groups.list().iter().map(listed).collect::<Vec<_>>(), [want]);
    assert_eq!(groups.heartbeat("g", &joined.member_id, None, 1), Err(GroupError::UnknownMember));
}

#[tokio::test]
async fn offsets_of_idle_groups_expire_and_those_of_others_do_not() {
    let setting = Setting::new();
    let groups = setting.open().await;
    commit(&groups, "idle", 0, 1).await;
    commit(&groups, "used", 0, 1).await;
    let joined = groups.join("used", join("", "")).await.unwrap();
    for _ in 0..7 * 24 {
        setting.clock.advance(Duration::from_secs(3600));
        drop(groups.heartbeat("used", &joined.member_id, None, 1));
    }
    groups.tidy().await;
    assert_eq!(groups.list().into_iter().map(|g| g.id).collect::<Vec<_>>(), ["used"]);
    assert_eq!(offsets(&groups, "used"), [(0, 1)]);
    drop(groups);
    let groups = setting.open_after_crash().await;
    assert_eq!(offsets(&groups, "idle"), []);
}

#[tokio::test]
async fn deleted_groups_offsets_and_topics_stay_away() {
    let setting = Setting::new();
    let groups = setting.open().await;
    for group in ["a", "b", "c"] {
        commit(&groups, group, 0, 1).await;
        commit(&groups, group, 1, 1).await;
    }
    assert_eq!(groups.delete("a").await, Ok(()));
    assert_eq!(groups.delete("a").await, Err(GroupError::NotFound));
    assert_eq!(groups.delete_offsets("b", &[TopicPartition::new("t", 1)]).await, Ok(vec![Ok(())]));
    for groups in [groups, setting.open_after_crash().await] {
        assert_eq!((offsets(&groups, "a").len(), offsets(&groups, "b").len(), offsets(&groups, "c").len()), (0, 1, 2));
    }
    let groups = setting.open_after_crash().await;
    groups.forget_topic("t").await;
    assert_eq!(offsets(&groups, "c"), []);
}

impl Setting {
    async fn open_after_crash_of(&self, groups: Coordinator) -> Coordinator {
        drop(groups);
        self.open_after_crash().await
    }

    async fn open_after_crash(&self) -> Coordinator {
        self.fs.crash();
        self.open().await
    }
}

#[tokio::test]
async fn a_grown_topic_is_written_anew_with_what_counts() {
    let mut setting = Setting::new();
    setting.config.compact_at = ByteSize(20_000);
    let groups = setting.open().await;
    for i in 0..300 {
        commit(&groups, "g", i % 3, i64::from(i)).await;
    }
    let partition = Arc::clone(&groups.partitions[partition_for("g", groups.partitions.len())]);
    assert_eq!(partition.log_start_offset(), 0);
    groups.tidy().await;
    assert_eq!((partition.log_start_offset(), partition.log_end_offset()), (300, 304));
    commit(&groups, "g", 0, 1000).await;
    drop((groups, partition));
    let groups = setting.open_after_crash().await;
    assert_eq!(offsets(&groups, "g"), [(0, 1000), (1, 298), (2, 299)]);
}

fn joining(member: &str) -> consumer::Beat {
    consumer::Beat {
        member_id: member.to_owned(),
        rebalance_timeout_ms: Some(10_000),
        topics: Some(vec!["t".to_owned()]),
        owned: Some(consumer::Assignment::new()),
        ..consumer::Beat::default()
    }
}

fn going(member: &str, epoch: i32) -> consumer::Beat {
    consumer::Beat { member_id: member.to_owned(), epoch, ..consumer::Beat::default() }
}

fn count(beaten: &consumer::Beaten) -> usize {
    beaten.assigned.iter().flat_map(|a| a.values()).map(BTreeSet::len).sum()
}

fn shown(groups: &Coordinator) -> Vec<(String, &'static str, &'static str)> {
    groups.list().into_iter().map(|g| (g.id, g.kind, g.state)).collect()
}

#[tokio::test]
async fn a_consumer_group_survives_a_power_cut_as_it_was_answered() {
    let setting = Setting::new();
    let groups = setting.open().await;
    groups.storage.create_topic("t", 3, TopicSettings::default()).await.unwrap();
    let told = groups.beat("g", joining("a"), true, Sight::ALL).await.unwrap();
    assert_eq!((told.epoch, count(&told)), (1, 3));
    let pattern = consumer::Beat { regex: Some("t".to_owned()), topics: None, ..joining("b") };
    assert_eq!(groups.beat("g", pattern, true, Sight::ALL).await.unwrap().epoch, 2);
    assert_eq!(groups.beat("h", joining("c"), true, Sight::ALL).await.unwrap().epoch, 1);
    assert_eq!(groups.beat("h", going("c", consumer::LEAVE), true, Sight::ALL).await.unwrap().epoch, consumer::LEAVE);
    let before = groups.describe_consumer("g").unwrap();
    drop(groups);
    let groups = setting.open_after_crash().await;
    assert_eq!(shown(&groups), [("g".to_owned(), "consumer", "Reconciling")], "a group without members is no loss");
    let after = groups.describe_consumer("g").unwrap();
    assert_eq!((after.epoch, after.assignment_epoch), (before.epoch, before.assignment_epoch));
    for (old, new) in before.members.iter().zip(&after.members) {
        assert_eq!((&old.id, &old.target, &old.member.current), (&new.id, &new.target, &new.member.current));
        assert_eq!((&old.member.topics, &old.member.regex), (&new.member.topics, &new.member.regex));
    }
    let told = groups.beat("g", going("a", 1), true, Sight::ALL).await.unwrap();
    assert_eq!((told.epoch, count(&told)), (1, 2), "goes on where it was: one is to be let go of");
    assert!(matches!(groups.beat("g", going("z", 1), true, Sight::ALL).await, Err(GroupError::NoMember(_))));
    assert!(matches!(groups.beat("no", going("z", 1), true, Sight::ALL).await, Err(GroupError::NoGroup(_))));
    assert_eq!(groups.delete("g").await, Err(GroupError::NotEmpty));
    setting.clock.advance(Duration::from_secs(45));
    groups.tick().await;
    assert_eq!(shown(&groups), [("g".to_owned(), "consumer", "Empty")]);
    assert_eq!(groups.delete("g").await, Ok(()));
    assert_eq!(shown(&groups), []);
    drop(groups);
    assert_eq!(shown(&setting.open_after_crash().await), []);
}

#[tokio::test]
async fn a_heartbeat_that_the_disk_refused_is_not_answered_and_kept_later() {
    let setting = Setting::new();
    let groups = setting.open().await;
    groups.storage.create_topic("t", 1, TopicSettings::default()).await.unwrap();
    setting.fs.fail_next_syncs(1);
    assert!(matches!(groups.beat("g", joining("a"), true, Sight::ALL).await, Err(GroupError::Log(_))));
}

#[tokio::test]
async fn groups_change_their_kind_with_their_members() {
    let setting = Setting::new();
    let groups = setting.open().await;
    groups.storage.create_topic("t", 2, TopicSettings::default()).await.unwrap();
    let classic = |member: &str| {
        let metadata = Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff");
        Join { protocols: vec![("range".to_owned(), metadata)], ..join(member, "") }
    };
    let joined = groups.join("g", classic("")).await.unwrap();
    let id = joined.member_id.clone();
    let given = Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\0\0\0\x02\0\0\0\0\0\0\0\x01\xff\xff\xff\xff");
    let sync = Sync { member_id: id.clone(), generation: 1, assignments: vec![(id.clone(), given)], ..Sync::default() };
    drop(groups.sync("g", sync).await.unwrap());
    groups.tick().await;
    assert_eq!(groups.beat("g", joining("new"), true, Sight::ALL).await.unwrap().epoch, 2);
    let mixed = [("g".to_owned(), "consumer", "Reconciling")];
    assert_eq!(shown(&groups), mixed);
    drop(groups);
    let groups = setting.open_after_crash().await;
    assert_eq!(shown(&groups), mixed);
    assert_eq!(groups.heartbeat("g", &id, None, 1), Err(GroupError::RebalanceInProgress));
    assert_eq!(groups.join("g", classic(&id)).await.unwrap().generation, 2);
    assert_eq!(groups.beat("g", going("new", consumer::LEAVE), true, Sight::ALL).await.unwrap().epoch, consumer::LEAVE);
    let parted = [("g".to_owned(), "classic", "PreparingRebalance")];
    assert_eq!(shown(&groups), parted);
    groups.tick().await;
    drop(groups);
    let groups = setting.open_after_crash().await;
    assert_eq!(shown(&groups), [("g".to_owned(), "classic", "Stable")], "its member is there");
    assert_eq!(groups.heartbeat("g", &id, None, 3), Ok(()));

    // Members that are no plain consumers stay among themselves.
    let other = Join { protocol_type: "connect".to_owned(), ..classic("") };
    drop(groups.join("k", other).await.unwrap());
    assert!(matches!(groups.beat("k", joining("new"), true, Sight::ALL).await, Err(GroupError::NoGroup(_))));
}

#[tokio::test]
async fn settings_of_groups_are_kept_and_hold() {
    let setting = Setting::new();
    let groups = setting.open().await;
    let pairs = |value: &str| [(settings::SESSION_TIMEOUT.to_owned(), value.to_owned())].into();
    for wrong in ["44999", "60001", "x"] {
        assert!(groups.set_settings("g", pairs(wrong), false).await.unwrap().is_err(), "{wrong}");
    }
    assert_eq!(groups.set_settings("g", pairs("50000"), true).await, Ok(Ok(())));
    assert_eq!(groups.settings_of("g").session_ms, 45_000, "only tried");
    assert_eq!(groups.set_settings("g", pairs("50000"), false).await, Ok(Ok(())));
    drop(groups);
    let groups = setting.open_after_crash().await;
    assert_eq!((groups.settings_of("g").session_ms, groups.settings_of("h").session_ms), (50_000, 45_000));
    assert_eq!(groups.groups_with_settings(), ["g"]);
    assert_eq!(groups.set_settings("g", BTreeMap::new(), false).await, Ok(Ok(())));
    assert!(setting.open_after_crash_of(groups).await.groups_with_settings().is_empty());
}

#[tokio::test]
async fn who_waits_at_a_stop_is_told() {
    let setting = Setting::new();
    let groups = Arc::new(setting.open().await);
    drop(groups.join("g", join("", "")).await.unwrap());
    let waits = groups.join("g", join("", ""));
    tokio::pin!(waits);
    assert!(futures::poll!(waits.as_mut()).is_pending(), "waits for the first member");
    groups.close();
    assert_eq!(waits.await.unwrap_err(), GroupError::NotCoordinator);
    assert_eq!(groups.heartbeat("g", "a", None, 1), Err(GroupError::NotCoordinator));
    assert_eq!(groups.beat("g", joining("a"), true, Sight::ALL).await, Err(GroupError::NotCoordinator));
}

#[tokio::test]
async fn a_tick_only_looks_at_groups_whose_time_has_come() {
    let setting = Setting::new();
    let groups = setting.open().await;
    for i in 0..50 {
        drop(groups.join(&format!("g{i}"), join("", "")).await.unwrap());
    }
    groups.tick().await;
    let armed = groups.timers.lock().len();
    assert_eq!(armed, 50, "one timer for each");
    for _ in 0..20 {
        setting.clock.advance(Duration::from_secs(3));
        for i in 0..50 {
            let id = groups.describe(&format!("g{i}")).unwrap().members[0].id.clone();
            drop(groups.heartbeat(&format!("g{i}"), &id, None, 1));
        }
        groups.tick().await;
    }
    assert!(groups.timers.lock().len() <= 100, "{}", groups.timers.lock().len());
}
