//! Membership in a consumer group by the classic protocol: joining, the range assignment, heartbeats, leaving.
//!
//! In: a group, its topics, how to start where nothing was committed. Out: partitions, which are read at once through
//! [`Fetching`]; who the member is at each assignment. Touches the network through [`Cluster`].
//!
//! Rebalances are eager: with the first sign of one all partitions are given up and the group is joined again, while the
//! user of the records may still be at work. What it then commits carries the generation that its records were read in
//! ([`Membership::committer`]), and the coordinator refuses it. The assignment is that of `range` as Java and librdkafka
//! compute it, so members of all three share a group. <https://kafka.apache.org/documentation/#impl_offsettracking>,
//! KIP-345 for static members.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition as Assigned;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, GroupId, HeartbeatRequest, JoinGroupRequest,
    LeaveGroupRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::{Decodable as _, Encodable as _, StrBytes};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::cluster::{Cluster, Coordinates, Use};
use super::connection::checked;
use super::error::WireError;
use super::fetch::{Fetching, Start, StartAt};
use super::offsets::{CommittedOffset, Committer, committed, coordinator_moved, text, topic_name};
use crate::record::TopicPartition;
use crate::topic_id::TopicId;

/// Versions: JoinGroup 5 and the others' 3 have static members, which is all that is needed here.
const JOIN: (i16, i16) = (2, 5);
const SYNC: (i16, i16) = (1, 3);
const HEARTBEAT: (i16, i16) = (1, 3);
const LEAVE: (i16, i16) = (1, 3);
const PROTOCOL_TYPE: &str = "consumer";
const ASSIGNOR: &str = "range";
/// How long the group waits for members that have to join again.
const REBALANCE: Duration = Duration::from_secs(60);
const SESSION: Duration = Duration::from_secs(45);

/// Who wants to be a member, and of what.
#[derive(Debug, Clone)]
pub(crate) struct MemberSettings {
    pub group: String,
    /// Name that outlives the process (KIP-345).
    pub instance_id: Option<String>,
    pub topics: Vec<String>,
    /// Where to start in partitions of which the group has no offset.
    pub start: StartAt,
    /// Time without a heartbeat after which the group gives its partitions away.
    pub session_timeout: Option<Duration>,
    /// How often the member that leads the group looks for new topics and partitions at least.
    pub refresh: Option<Duration>,
    /// How long the group may be out of reach before that is a trouble; `None`: for as long as it takes.
    pub outage: Option<Duration>,
}

/// Partitions, and where the group says they are read on.
pub(crate) type Starts = Vec<Start>;

#[derive(Debug)]
struct Current {
    /// Its number among the assignments of [`Fetching`].
    assignment: u64,
    /// Who this member is in it.
    committer: Committer,
    starts: Starts,
}

#[derive(Debug, Default)]
struct State {
    /// The assignment that is read.
    current: Option<Current>,
    member_id: String,
    /// Why it is no member, where that may last.
    trouble: Option<WireError>,
    /// Since when every attempt to join fails.
    failing_since: Option<Instant>,
    /// Another member of its name has taken over: it has ended.
    fenced: bool,
}

/// A place in a group.
#[derive(Debug)]
pub(crate) struct Membership {
    cluster: Arc<Cluster>,
    fetching: Arc<Fetching>,
    settings: MemberSettings,
    state: Mutex<State>,
}

/// What a member got.
struct Joined {
    committer: Committer,
    partitions: Vec<TopicPartition>,
    /// Partitions of each topic of the group, where this member leads it.
    led: Option<BTreeMap<String, usize>>,
}

impl Membership {
    pub fn new(cluster: Arc<Cluster>, fetching: Arc<Fetching>, settings: MemberSettings) -> Self {
        Self { cluster, fetching, settings, state: Mutex::default() }
    }

    /// The group's name.
    pub fn group(&self) -> &str {
        &self.settings.group
    }

    /// Who commits what was read in an assignment; `None` if that is over.
    pub fn committer(&self, assignment: u64) -> Option<Committer> {
        let state = self.state.lock();
        state
            .current
            .as_ref()
            .filter(|current| current.assignment == assignment)
            .map(|current| current.committer.clone())
    }

    /// The partitions of an assignment, with the offsets that it began at; none if that is over.
    pub fn starts(&self, assignment: u64) -> Starts {
        let state = self.state.lock();
        let current = state.current.as_ref().filter(|current| current.assignment == assignment);
        current.map(|current| current.starts.clone()).unwrap_or_default()
    }

    /// The assignment that is read now.
    pub fn assignment(&self) -> Option<u64> {
        self.state.lock().current.as_ref().map(|current| current.assignment)
    }

    /// Why it is no member, told once.
    pub fn trouble(&self) -> Option<WireError> {
        self.state.lock().trouble.take()
    }

    /// Whether another one has taken its name.
    pub fn is_fenced(&self) -> bool {
        self.state.lock().fenced
    }

    /// Joins, stays and joins again until the name is taken by another.
    pub async fn run(self: Arc<Self>) {
        let (mut wait, longest) = self.cluster.options().backoff;
        loop {
            let error = match self.stay().await {
                Ok(()) => {
                    wait = self.cluster.options().backoff.0;
                    continue;
                }
                Err(error) => error,
            };
            self.give_up();
            tracing::debug!(group = self.settings.group, %error, "membership ended, joining again");
            match error.code() {
                Some(Code::FencedInstanceId) => {
                    self.state.lock().fenced = true;
                    return;
                }
                Some(Code::UnknownMemberId) => self.state.lock().member_id.clear(),
                Some(Code::RebalanceInProgress | Code::IllegalGeneration) => continue,
                _ if coordinator_moved(&self.cluster, Coordinates::Group, &self.settings.group, &error) => {
                    let mut state = self.state.lock();
                    let since = *state.failing_since.get_or_insert_with(Instant::now);
                    if self.settings.outage.is_some_and(|limit| since.elapsed() >= limit) {
                        state.trouble = Some(error);
                    }
                }
                _ => self.state.lock().trouble = Some(error),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(longest);
        }
    }

    /// One membership: from joining to the next rebalance.
    async fn stay(&self) -> Result<(), WireError> {
        let mut joined = self.join().await?;
        joined.committer.topic_ids = self.topic_ids(&joined.partitions).await?;
        let starts = self.committed(&joined).await?;
        {
            let mut state = self.state.lock();
            let assignment = self.fetching.assign(&starts);
            state.current = Some(Current { assignment, committer: joined.committer.clone(), starts });
            (state.trouble, state.failing_since) = (None, None);
        }
        let partitions = joined.partitions.len();
        tracing::debug!(group = self.settings.group, generation = joined.committer.generation, partitions, "joined");
        let session = self.session_timeout();
        let each = self.cluster.options().heartbeat.unwrap_or(session / 3).min(session / 2).min(Duration::from_secs(3));
        let refresh = self.cluster.options().metadata_refresh;
        let refresh = self.settings.refresh.map_or(refresh, |own| own.min(refresh));
        let mut last_sign = Instant::now();
        let mut looked = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(each) => {}
                // Joining again finds the offsets of the old topic, and leaves them.
                () = self.fetching.recreated() => {
                    self.give_up();
                    return Ok(());
                }
            }
            match self.heartbeat(&joined.committer).await {
                Ok(()) => last_sign = Instant::now(),
                Err(error) => {
                    let passes = coordinator_moved(&self.cluster, Coordinates::Group, &self.settings.group, &error);
                    // By then the others have its partitions.
                    if !passes || last_sign.elapsed() > session {
                        return Err(error);
                    }
                }
            }
            if let Some(led) = &joined.led
                && looked.elapsed() >= refresh
            {
                looked = Instant::now();
                let topics: Vec<&str> = led.keys().map(String::as_str).collect();
                if let Ok(now) = self.cluster.metadata(&topics).await
                    && led.iter().any(|(topic, count)| now.get(topic).map_or(0, Vec::len) != *count)
                {
                    self.give_up();
                    return Ok(());
                }
            }
        }
    }

    fn give_up(&self) {
        let mut state = self.state.lock();
        if state.current.take().is_some() {
            self.fetching.assign(&[]);
        }
    }

    fn session_timeout(&self) -> Duration {
        self.cluster.options().session_timeout.or(self.settings.session_timeout).unwrap_or(SESSION)
    }

    async fn join(&self) -> Result<Joined, WireError> {
        let group = &self.settings.group;
        let instance = self.settings.instance_id.as_deref();
        let session = self.session_timeout();
        let mut subscription = BytesMut::new();
        subscription.put_i16(0);
        let unreadable = |cause: String| WireError::Answer { address: self.cluster.brokers(), cause };
        ConsumerProtocolSubscription::default()
            .with_topics(self.settings.topics.iter().map(|topic| text(topic)).collect())
            .encode(&mut subscription, 0)
            .map_err(|error| unreadable(error.to_string()))?;
        let subscription = subscription.freeze();
        let answer = loop {
            let member_id = self.state.lock().member_id.clone();
            let request = |version: i16| {
                let protocol = JoinGroupRequestProtocol::default()
                    .with_name(StrBytes::from_static_str(ASSIGNOR))
                    .with_metadata(subscription.clone());
                JoinGroupRequest::default()
                    .with_group_id(GroupId(text(group)))
                    .with_session_timeout_ms(millis(session))
                    .with_rebalance_timeout_ms(millis(REBALANCE.max(session)))
                    .with_member_id(text(&member_id))
                    .with_group_instance_id(instance.filter(|_| version >= 5).map(text))
                    .with_protocol_type(StrBytes::from_static_str(PROTOCOL_TYPE))
                    .with_protocols(vec![protocol])
            };
            let connection = self.cluster.coordinator(Coordinates::Group, group, Use::Group).await?;
            let limit = REBALANCE.max(session) + self.cluster.options().request_timeout;
            let answer = connection.call_as(request, JOIN, limit).await?;
            // From version 4 on the first join only gives a name.
            if Code::try_from_code(answer.error_code) == Some(Code::MemberIdRequired) {
                self.state.lock().member_id = answer.member_id.to_string();
                continue;
            }
            checked(answer.error_code, None)?;
            break answer;
        };
        let member_id = answer.member_id.to_string();
        self.state.lock().member_id.clone_from(&member_id);
        let mut led = None;
        let mut assignments = Vec::new();
        if answer.leader == answer.member_id {
            let wanted = subscriptions(&answer.members).map_err(&unreadable)?;
            let topics: Vec<&str> = wanted.iter().flat_map(|(_, _, topics)| topics).map(String::as_str).collect();
            let known = self.cluster.metadata(&topics).await?;
            let counts = topics.iter().map(|topic| ((*topic).to_owned(), known.get(*topic).map_or(0, Vec::len)));
            let counts: BTreeMap<String, usize> = counts.collect();
            assignments = assign_ranges(&wanted, &known).map_err(&unreadable)?;
            led = Some(counts);
        }
        let instance_id = self.settings.instance_id.clone();
        let committer =
            Committer { generation: answer.generation_id, member_id, instance_id, topic_ids: Arc::default() };
        let request = |version: i16| {
            SyncGroupRequest::default()
                .with_group_id(GroupId(text(group)))
                .with_generation_id(committer.generation)
                .with_member_id(text(&committer.member_id))
                .with_group_instance_id(instance.filter(|_| version >= 3).map(text))
                .with_assignments(assignments.clone())
        };
        let connection = self.cluster.coordinator(Coordinates::Group, group, Use::Group).await?;
        let limit = REBALANCE.max(session) + self.cluster.options().request_timeout;
        let answer = connection.call_as(request, SYNC, limit).await?;
        checked(answer.error_code, None)?;
        let mut bytes = answer.assignment;
        let mut partitions = Vec::new();
        if bytes.len() > 2 {
            let version = bytes.get_i16().clamp(0, 3);
            let mine = ConsumerProtocolAssignment::decode(&mut bytes, version);
            for topic in mine.map_err(|error| unreadable(error.to_string()))?.assigned_partitions {
                let name: Arc<str> = topic.topic.as_str().into();
                partitions.extend(topic.partitions.iter().map(|p| TopicPartition::new(Arc::clone(&name), *p)));
            }
        }
        Ok(Joined { committer, partitions, led })
    }

    /// The ids of the topics of some partitions, where the log has ids.
    async fn topic_ids(&self, of: &[TopicPartition]) -> Result<Arc<BTreeMap<Arc<str>, TopicId>>, WireError> {
        let topics: BTreeSet<&str> = of.iter().map(|tp| &*tp.topic).collect();
        if !topics.is_empty() {
            self.cluster.metadata(&topics.into_iter().collect::<Vec<_>>()).await?;
        }
        let id = |tp: &TopicPartition| Some((Arc::clone(&tp.topic), self.cluster.topic_id(tp)?));
        Ok(Arc::new(of.iter().filter_map(id).collect()))
    }

    /// From the committed offsets on; those of a topic that was created anew since begin at its start.
    async fn committed(&self, joined: &Joined) -> Result<Starts, WireError> {
        if joined.partitions.is_empty() {
            return Ok(Vec::new());
        }
        let offsets = committed(&self.cluster, &self.settings.group, &joined.partitions).await?;
        let start = |tp: &TopicPartition, offset: Option<CommittedOffset>| {
            let now = joined.committer.topic_ids.get(&tp.topic).copied();
            let at = match offset {
                None => self.settings.start,
                Some(offset) if TopicId::differ(offset.topic_id, now) => {
                    tracing::warn!(
                        group = self.settings.group, partition = %tp, committed = offset.next,
                        "the topic was deleted and created anew since the group's offset was committed: reading it from \
                         its start"
                    );
                    StartAt::Earliest
                }
                Some(offset) => StartAt::Offset(offset.next),
            };
            (tp.clone(), at, now)
        };
        Ok(joined.partitions.iter().zip(offsets).map(|(tp, offset)| start(tp, offset)).collect())
    }

    async fn heartbeat(&self, of: &Committer) -> Result<(), WireError> {
        let group = &self.settings.group;
        let request = |version: i16| {
            HeartbeatRequest::default()
                .with_group_id(GroupId(text(group)))
                .with_generation_id(of.generation)
                .with_member_id(text(&of.member_id))
                .with_group_instance_id(of.instance_id.as_deref().filter(|_| version >= 3).map(text))
        };
        let connection = self.cluster.coordinator(Coordinates::Group, group, Use::Group).await?;
        let answer = connection.call_as(request, HEARTBEAT, self.session_timeout()).await?;
        checked(answer.error_code, None)
    }

    /// Leaves, so that the others need not wait for the session to end; static members stay.
    pub async fn leave(&self) -> Result<(), WireError> {
        let member_id = self.state.lock().member_id.clone();
        if self.settings.instance_id.is_some() || member_id.is_empty() {
            return Ok(());
        }
        let group = &self.settings.group;
        let request = |version: i16| {
            let request = LeaveGroupRequest::default().with_group_id(GroupId(text(group)));
            if version >= 3 {
                request.with_members(vec![MemberIdentity::default().with_member_id(text(&member_id))])
            } else {
                request.with_member_id(text(&member_id))
            }
        };
        // Not on the connection where a join may wait.
        let connection = self.cluster.coordinator(Coordinates::Group, group, Use::Requests).await?;
        let answer = connection.call_as(request, LEAVE, self.cluster.options().request_timeout).await?;
        checked(answer.error_code, None)
    }
}

fn millis(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}

/// Name for the order, member id, topics.
type Wanted = (String, String, Vec<String>);

/// What each member wants to read, in the order of the assignment: static members by their instance id.
fn subscriptions(members: &[JoinGroupResponseMember]) -> Result<Vec<Wanted>, String> {
    let mut wanted = Vec::with_capacity(members.len());
    for member in members {
        let mut bytes = member.metadata.clone();
        if bytes.len() < 2 {
            return Err(format!("subscription of member {} is cut", member.member_id));
        }
        let version = bytes.get_i16().clamp(0, 3);
        let of = ConsumerProtocolSubscription::decode(&mut bytes, version).map_err(|error| error.to_string())?;
        let mut topics: Vec<String> = of.topics.iter().map(ToString::to_string).collect();
        topics.sort_unstable();
        topics.dedup();
        let name = member.group_instance_id.as_ref().unwrap_or(&member.member_id).to_string();
        wanted.push((name, member.member_id.to_string(), topics));
    }
    wanted.sort();
    Ok(wanted)
}

/// `range`: of each topic every member that wants it gets a stretch of partitions, the first ones one more if it does not
/// come out even.
fn assign_ranges(
    wanted: &[Wanted],
    known: &BTreeMap<String, Vec<i32>>,
) -> Result<Vec<SyncGroupRequestAssignment>, String> {
    let mut by_member: BTreeMap<&str, Vec<Assigned>> =
        wanted.iter().map(|(_, member, _)| (member.as_str(), Vec::new())).collect();
    for (topic, partitions) in known {
        let takers: Vec<&str> =
            wanted.iter().filter(|(_, _, topics)| topics.contains(topic)).map(|(_, m, _)| m.as_str()).collect();
        let (each, more) = match takers.len() {
            0 => continue,
            count => (partitions.len() / count, partitions.len() % count),
        };
        let mut rest = partitions.as_slice();
        for (i, member) in takers.into_iter().enumerate() {
            let (mine, left) = rest.split_at(each + usize::from(i < more));
            rest = left;
            if !mine.is_empty()
                && let Some(of) = by_member.get_mut(member)
            {
                of.push(Assigned::default().with_topic(topic_name(topic)).with_partitions(mine.to_vec()));
            }
        }
    }
    let encoded = by_member.into_iter().map(|(member, partitions)| {
        let mut bytes = BytesMut::new();
        bytes.put_i16(0);
        let assignment = ConsumerProtocolAssignment::default().with_assigned_partitions(partitions);
        assignment.encode(&mut bytes, 0).map_err(|error| error.to_string())?;
        Ok(SyncGroupRequestAssignment::default().with_member_id(text(member)).with_assignment(Bytes::from(bytes)))
    });
    encoded.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_group_out_of_reach_is_a_trouble_when_it_lasts() {
        let cluster = Cluster::new(&["127.0.0.1:1".to_owned()], crate::native::connection::Manner::default());
        let settings = crate::native::fetch::FetchSettings { committed_only: true, report_ends: false };
        let fetching = Arc::new(Fetching::new(settings, cluster.options()));
        for (outage, want) in [(Some(Duration::from_secs(5)), true), (None, false)] {
            let settings = MemberSettings {
                group: "g".to_owned(),
                instance_id: None,
                topics: vec!["t".to_owned()],
                start: StartAt::Earliest,
                session_timeout: None,
                refresh: None,
                outage,
            };
            let cluster = Cluster::new(&["127.0.0.1:1".to_owned()], crate::native::connection::Manner::default());
            let member = Arc::new(Membership::new(Arc::new(cluster), Arc::clone(&fetching), settings));
            let watch = async {
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_secs(60) {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    if let Some(trouble) = member.trouble() {
                        assert!(begun.elapsed() >= Duration::from_secs(5), "{trouble}");
                        return true;
                    }
                }
                false
            };
            tokio::select! {
                () = Arc::clone(&member).run() => panic!("nobody has taken its name"),
                told = watch => assert_eq!(told, want, "{outage:?}"),
            }
        }
    }

    #[test]
    fn ranges_are_those_of_other_clients() {
        let wanted = |members: &[(&str, &[&str])]| -> Vec<Wanted> {
            let of = |(name, topics): &(&str, &[&str])| {
                ((*name).to_owned(), (*name).to_owned(), topics.iter().map(|t| (*t).to_owned()).collect())
            };
            members.iter().map(of).collect()
        };
        let known = BTreeMap::from([("a".to_owned(), vec![0, 1, 2, 3]), ("b".to_owned(), vec![0, 1, 2])]);
        let assigned = |members: &[(&str, &[&str])]| -> Vec<String> {
            let all = assign_ranges(&wanted(members), &known).unwrap();
            let shown = all.into_iter().map(|of| {
                let mut bytes = of.assignment;
                assert_eq!(bytes.get_i16(), 0);
                let got = ConsumerProtocolAssignment::decode(&mut bytes, 0).unwrap().assigned_partitions;
                let got: Vec<String> = got.iter().map(|t| format!("{}{:?}", t.topic.as_str(), t.partitions)).collect();
                format!("{}: {}", of.member_id, got.join(" "))
            });
            shown.collect()
        };
        assert_eq!(assigned(&[("m", &["a"])]), ["m: a[0, 1, 2, 3]"]);
        assert_eq!(assigned(&[("m", &["a", "b"]), ("n", &["a", "b"])]), ["m: a[0, 1] b[0, 1]", "n: a[2, 3] b[2]"]);
        assert_eq!(assigned(&[("m", &["a", "none"]), ("n", &["b"])]), ["m: a[0, 1, 2, 3]", "n: b[0, 1, 2]"]);
        let five: Vec<(&str, &[&str])> = ["m", "n", "o", "p", "q"].into_iter().map(|m| (m, &["b"][..])).collect();
        assert_eq!(assigned(&five), ["m: b[0]", "n: b[1]", "o: b[2]", "p: ", "q: "]);
    }
}
