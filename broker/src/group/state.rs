//! One consumer group of the classic protocol: members, generations, rebalances. Pure: no I/O, no clock of its own.
//!
//! In: joins, syncs, heartbeats, leaves, each with the time in ms; `tick` as time goes by. Out: answers, at once or by
//! the [`oneshot`] that a waiting member got. Touches nothing. Leaves committed offsets to [`super::offsets`], the
//! codes of the wire to the broker's door.
//!
//! States as Kafka names them: Empty → PreparingRebalance (members join) → CompletingRebalance (the leader assigns) →
//! Stable → PreparingRebalance … Sources: Kafka's protocol guide on group membership, KIP-62 (rebalance time-out),
//! KIP-345 (static members), KIP-394 (member id required), KIP-814 (assignment skipped by a returning static leader).

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::sync::oneshot;

/// What a group says no with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// Not a name for a group.
    #[error("the group id is empty")]
    InvalidGroupId,
    /// Nobody of that id is in the group.
    #[error("the member is not known: join again without a member id")]
    UnknownMember,
    /// Not the present generation.
    #[error("the generation is not the present one: join again")]
    IllegalGeneration,
    /// Join again.
    #[error("the group is rebalancing: join again")]
    RebalanceInProgress,
    /// Another member has taken over the static id.
    #[error("another member has taken over this group.instance.id: it must be given to one member only")]
    FencedInstance,
    /// No common protocol.
    #[error("the protocols have nothing in common with those of the other members")]
    InconsistentProtocol,
    /// Session time-out out of bounds.
    #[error("session.timeout.ms is outside of what the broker allows")]
    InvalidSessionTimeout,
    /// Join again with this id (KIP-394).
    #[error("join again with the member id {0}")]
    MemberIdRequired(String),
    /// Too many members.
    #[error("the group is full: raise broker.group.max_members")]
    Full,
    /// Has members.
    #[error("the group has members: stop them first")]
    NotEmpty,
    /// No such group.
    #[error("there is no such group")]
    NotFound,
    /// The broker stops, or the group was removed while the member waited.
    #[error("the coordinator is not available at the moment")]
    NotAvailable,
    /// Metadata of a commit is too long.
    #[error("the metadata of the commit is too long")]
    MetadataTooLarge,
    /// The log did not take it.
    #[error("offsets can't be kept: {0}")]
    Log(String),
    /// The transaction of the commit has ended in the meantime.
    #[error("the transaction of the commit has ended")]
    TxnState,
    /// The producer of the commit has been replaced.
    #[error("a newer producer with the same transactional id has taken over")]
    FencedProducer,
    /// The broker stops: another one, or this one when it is back, serves the group.
    #[error("the broker stops")]
    NotCoordinator,
    /// A request that says what it may not.
    #[error("{0}")]
    InvalidRequest(String),
    /// A heartbeat in an epoch that is not the member's.
    #[error("{0}")]
    FencedEpoch(String),
    /// Another member has taken over the static id, by name.
    #[error("{0}")]
    FencedBy(String),
    /// The static id belongs to a member that has not left.
    #[error("{0}")]
    UnreleasedInstance(String),
    /// A commit or fetch in an epoch that is not the member's.
    #[error("the member epoch is stale: wait for the next heartbeat")]
    StaleEpoch,
    /// Nobody of that id is in the group, by name.
    #[error("{0}")]
    NoMember(String),
    /// No such group, or one of another kind, by name.
    #[error("{0}")]
    NoGroup(String),
    /// The server has no assignor of that name.
    #[error("{0}")]
    UnsupportedAssignor(String),
    /// A pattern of topics that can't be read.
    #[error("{0}")]
    InvalidRegex(String),
    /// Members of the new protocol must commit by OffsetCommit 9 or later.
    #[error("members of the consumer protocol must commit by OffsetCommit 9 or later")]
    UnsupportedVersion,
}

/// Where a group is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No members; offsets may be there.
    Empty,
    /// Waits for members to join.
    Preparing,
    /// Waits for the leader to assign.
    Completing,
    /// All members have their assignment.
    Stable,
}

impl State {
    /// As Kafka's tools print it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Preparing => "PreparingRebalance",
            Self::Completing => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// What groups are held to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a first rebalance waits for more members.
    pub initial_rebalance_delay_ms: i64,
    /// Shortest session.
    pub min_session_ms: i32,
    /// Longest session.
    pub max_session_ms: i32,
    /// Most members.
    pub max_members: usize,
}

/// A member who wants in, or again.
#[derive(Debug, Clone)]
pub struct Join {
    /// Its id, empty at first.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// As the client calls itself.
    pub client_id: String,
    /// Where from, with a leading slash as Kafka shows it.
    pub client_host: String,
    /// Time without heartbeats after which it is taken for dead.
    pub session_timeout_ms: i32,
    /// Time it may take to join again.
    pub rebalance_timeout_ms: i32,
    /// `consumer`, `connect` …
    pub protocol_type: String,
    /// Strategies in order of preference, with the member's metadata for each.
    pub protocols: Vec<(String, Bytes)>,
    /// Whether a first join only gets an id (JoinGroup 4 and later).
    pub require_known_id: bool,
    /// Whether a returning static leader may be told to skip the assignment (JoinGroup 9 and later).
    pub can_skip_assignment: bool,
    /// A fresh unique id, used if the member needs one.
    pub fresh_id: String,
}

/// Answer to a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Generation that begins.
    pub generation: i32,
    /// Protocol type of the group.
    pub protocol_type: Option<String>,
    /// Strategy that all members know.
    pub protocol: Option<String>,
    /// Who assigns.
    pub leader: String,
    /// Whom this answer is for.
    pub member_id: String,
    /// All members (id, instance id, metadata), only for the leader.
    pub members: Vec<(String, Option<String>, Bytes)>,
    /// The leader need not assign (KIP-814).
    pub skip_assignment: bool,
}

/// Answer to a sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    /// Protocol type of the group.
    pub protocol_type: Option<String>,
    /// Strategy in use.
    pub protocol: Option<String>,
    /// What the leader gave this member.
    pub assignment: Bytes,
}

/// An answer that comes now or later; a dropped sender means [`GroupError::NotAvailable`].
pub type Later<T> = oneshot::Receiver<Result<T, GroupError>>;
type Waiting<T> = oneshot::Sender<Result<T, GroupError>>;

/// One member.
#[derive(Debug)]
pub struct Member {
    /// Its id.
    pub id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// As the client calls itself.
    pub client_id: String,
    /// Where from.
    pub client_host: String,
    /// Time without heartbeats after which it is taken for dead.
    pub session_timeout_ms: i32,
    /// Time it may take to join again.
    pub rebalance_timeout_ms: i32,
    /// Strategies in order of preference with metadata.
    pub protocols: Vec<(String, Bytes)>,
    /// What the leader gave it.
    pub assignment: Bytes,
    expires_at_ms: i64,
    join: Option<Waiting<Joined>>,
    sync: Option<Waiting<Synced>>,
    has_synced: bool,
}

impl Member {
    /// A member as it was read from the log.
    pub fn restored(id: String, instance_id: Option<String>, sessions: (i32, i32), now_ms: i64) -> Self {
        let (session_timeout_ms, rebalance_timeout_ms) = sessions;
        Self {
            id,
            instance_id,
            client_id: String::new(),
            client_host: String::new(),
            session_timeout_ms,
            rebalance_timeout_ms,
            protocols: Vec::new(),
            assignment: Bytes::new(),
            expires_at_ms: now_ms + i64::from(session_timeout_ms),
            join: None,
            sync: None,
            has_synced: true,
        }
    }

    /// Metadata for a strategy.
    pub fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols.iter().find(|(name, _)| name == protocol).map(|(_, data)| data.clone()).unwrap_or_default()
    }

    fn seen(&mut self, now_ms: i64) {
        self.expires_at_ms = now_ms + i64::from(self.session_timeout_ms);
    }

    fn is_waiting(&self) -> bool {
        self.join.as_ref().is_some_and(|w| !w.is_closed()) || self.sync.as_ref().is_some_and(|w| !w.is_closed())
    }
}

fn tell<T>(waiting: Option<Waiting<T>>, answer: Result<T, GroupError>) {
    // A client that hung up meanwhile hears nothing; its session ends by time.
    if let Some(waiting) = waiting {
        drop(waiting.send(answer));
    }
}

/// An answer that is there already.
pub(super) fn now_or_later<T>(answer: Result<T, GroupError>) -> Later<T> {
    let (tx, rx) = oneshot::channel();
    tell(Some(tx), answer);
    rx
}

/// One group.
#[derive(Debug)]
pub struct Group {
    /// Its name.
    pub id: String,
    /// Where it is.
    pub state: State,
    /// Present generation, 0 before the first.
    pub generation: i32,
    /// `consumer`, `connect` …; none before the first member.
    pub protocol_type: Option<String>,
    /// Strategy in use.
    pub protocol: Option<String>,
    /// Who assigns.
    pub leader: Option<String>,
    /// In the order they came.
    pub members: Vec<Member>,
    /// When it was last Empty with nobody left, for the expiry of offsets.
    pub empty_since_ms: i64,
    /// Counts the changes of what [`super::offsets`] keeps of it.
    pub changes: u64,
    /// How often a rebalance began.
    pub rebalances: u64,
    /// Ids given out that have not come back yet, with the time they are forgotten.
    pending: BTreeMap<String, i64>,
    deadline_ms: i64,
    is_initial: bool,
    initial_grew: bool,
    initial_left_ms: i64,
    limits: Limits,
}

impl Group {
    /// An empty group.
    pub fn new(id: &str, limits: Limits, now_ms: i64) -> Self {
        Self {
            id: id.to_owned(),
            state: State::Empty,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: Vec::new(),
            empty_since_ms: now_ms,
            changes: 0,
            rebalances: 0,
            pending: BTreeMap::new(),
            deadline_ms: i64::MAX,
            is_initial: false,
            initial_grew: false,
            initial_left_ms: 0,
            limits,
        }
    }

    /// Takes up a group as it was read from the log, with members whose sessions begin anew.
    pub fn restore(&mut self, generation: i32, protocol: (Option<String>, Option<String>), leader: Option<String>) {
        (self.protocol_type, self.protocol) = protocol;
        self.generation = generation;
        self.leader = leader.filter(|id| self.members.iter().any(|m| m.id == *id));
        self.state = if self.members.is_empty() { State::Empty } else { State::Stable };
    }

    /// Takes over the members of a group of the new protocol, who are told to join again.
    pub fn adopt(&mut self, generation: i32, protocol_type: &str, now_ms: i64) {
        self.restore(generation, (Some(protocol_type.to_owned()), self.choose()), None);
        self.leader = self.members.first().map(|m| m.id.clone());
        self.changes += 1;
        self.rebalance(now_ms);
    }

    /// Answers all who wait, because the group goes on elsewhere or in another way.
    pub fn release(&mut self, answer: &GroupError) {
        for member in &mut self.members {
            tell(member.join.take(), Err(answer.clone()));
            tell(member.sync.take(), Err(answer.clone()));
        }
    }

    /// The earliest time at which [`Self::tick`] has something to do.
    pub fn due_ms(&self) -> i64 {
        let members = self.members.iter().map(|m| m.expires_at_ms);
        members.chain(self.pending.values().copied()).fold(self.deadline_ms, i64::min)
    }

    /// Whether nobody is in it nor on the way in.
    pub fn is_idle(&self) -> bool {
        self.members.is_empty() && self.pending.is_empty()
    }

    /// Whether anybody who reads a topic is in it, as far as members of type `consumer` tell.
    pub fn reads(&self, topic: &str) -> bool {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        self.members.iter().any(|m| subscribed_topics(&m.metadata(protocol)).iter().any(|t| t == topic))
    }

    fn find(&mut self, id: &str) -> Option<&mut Member> {
        self.members.iter_mut().find(|m| m.id == id)
    }

    fn static_id(&self, instance: &str) -> Option<String> {
        self.members.iter().find(|m| m.instance_id.as_deref() == Some(instance)).map(|m| m.id.clone())
    }

    /// Checks who speaks: the member id, and that nobody took over its static id.
    fn known(&mut self, id: &str, instance: Option<&str>) -> Result<&mut Member, GroupError> {
        if let Some(instance) = instance {
            match self.static_id(instance) {
                None => return Err(GroupError::UnknownMember),
                Some(owner) if owner != id => return Err(GroupError::FencedInstance),
                Some(_) => {}
            }
        }
        self.find(id).ok_or(GroupError::UnknownMember)
    }

    /// Checks that a commit may be taken: from a member of this generation, or from outside while nobody is in.
    pub fn may_commit(
        &mut self,
        id: &str,
        instance: Option<&str>,
        generation: i32,
        now_ms: i64,
    ) -> Result<(), GroupError> {
        if generation < 0 && self.state == State::Empty {
            return Ok(());
        }
        let (state, current) = (self.state, self.generation);
        let member = self.known(id, instance)?;
        if generation != current {
            return Err(GroupError::IllegalGeneration);
        }
        match state {
            State::Empty => Err(GroupError::UnknownMember),
            State::Completing => {
                member.seen(now_ms);
                Err(GroupError::RebalanceInProgress)
            }
            State::Stable | State::Preparing => {
                member.seen(now_ms);
                Ok(())
            }
        }
    }

    /// The same for a commit within a transaction: older producers say nothing of a member, and then none is asked for
    /// (KIP-447).
    pub fn may_commit_in_transaction(
        &mut self,
        id: &str,
        instance: Option<&str>,
        generation: i32,
        now_ms: i64,
    ) -> Result<(), GroupError> {
        if generation < 0 && id.is_empty() && instance.is_none() {
            return Ok(());
        }
        let current = self.generation;
        let member = self.known(id, instance)?;
        if generation != current {
            return Err(GroupError::IllegalGeneration);
        }
        member.seen(now_ms);
        Ok(())
    }

    fn agrees(&self, join: &Join) -> bool {
        if join.protocol_type.is_empty() || join.protocols.is_empty() {
            return false;
        }
        if self.members.is_empty() {
            return true;
        }
        self.protocol_type.as_deref() == Some(join.protocol_type.as_str())
            && join.protocols.iter().any(|(name, _)| {
                self.members
                    .iter()
                    .filter(|m| m.id != join.member_id)
                    .all(|m| m.protocols.iter().any(|(theirs, _)| theirs == name))
            })
    }

    /// A member joins, or joins again.
    pub fn join(&mut self, join: Join, now_ms: i64) -> Later<Joined> {
        match self.try_join(join, now_ms) {
            Ok(later) => later,
            Err(error) => now_or_later(Err(error)),
        }
    }

    fn try_join(&mut self, join: Join, now_ms: i64) -> Result<Later<Joined>, GroupError> {
        if !(self.limits.min_session_ms..=self.limits.max_session_ms).contains(&join.session_timeout_ms) {
            return Err(GroupError::InvalidSessionTimeout);
        }
        let is_new = join.member_id.is_empty() || self.pending.contains_key(&join.member_id);
        if is_new && self.members.len() + self.pending.len() >= self.limits.max_members {
            let returns = join.instance_id.as_deref().is_some_and(|i| self.static_id(i).is_some())
                || self.pending.contains_key(&join.member_id);
            if !returns {
                return Err(GroupError::Full);
            }
        }
        if !self.agrees(&join) {
            return Err(GroupError::InconsistentProtocol);
        }
        if join.member_id.is_empty() {
            let prefix = join.instance_id.as_deref().unwrap_or(&join.client_id);
            let id = format!("{prefix}-{}", join.fresh_id);
            if let Some(instance) = &join.instance_id {
                return Ok(match self.static_id(instance) {
                    Some(old) => self.replace_static(&old, id, join, now_ms),
                    None => self.add(id, join, now_ms),
                });
            }
            if join.require_known_id {
                self.pending.insert(id.clone(), now_ms + i64::from(join.session_timeout_ms));
                return Err(GroupError::MemberIdRequired(id));
            }
            return Ok(self.add(id, join, now_ms));
        }
        if join.instance_id.is_none() && self.pending.remove(&join.member_id).is_some() {
            let id = join.member_id.clone();
            return Ok(self.add(id, join, now_ms));
        }
        let is_leader = self.leader.as_deref() == Some(join.member_id.as_str());
        let state = self.state;
        let member = self.known(&join.member_id, join.instance_id.as_deref())?;
        let unchanged = member.protocols == join.protocols;
        match state {
            State::Empty => Err(GroupError::UnknownMember),
            State::Completing if unchanged => {
                member.seen(now_ms);
                Ok(now_or_later(Ok(self.present(&join.member_id, is_leader))))
            }
            State::Stable if unchanged && !is_leader => {
                member.seen(now_ms);
                Ok(now_or_later(Ok(self.present(&join.member_id, false))))
            }
            State::Preparing | State::Completing | State::Stable => Ok(self.rejoin(join, now_ms)),
        }
    }

    fn add(&mut self, id: String, join: Join, now_ms: i64) -> Later<Joined> {
        let (tx, rx) = oneshot::channel();
        let mut member = Member::restored(
            id.clone(),
            join.instance_id,
            (join.session_timeout_ms, join.rebalance_timeout_ms),
            now_ms,
        );
        member.client_id = join.client_id;
        member.client_host = join.client_host;
        member.protocols = join.protocols;
        member.join = Some(tx);
        member.has_synced = false;
        self.pending.remove(&id);
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type);
        }
        self.members.push(member);
        self.leader.get_or_insert(id);
        self.initial_grew = true;
        self.rebalance(now_ms);
        rx
    }

    fn rejoin(&mut self, join: Join, now_ms: i64) -> Later<Joined> {
        let (tx, rx) = oneshot::channel();
        if let Some(member) = self.find(&join.member_id) {
            member.protocols = join.protocols;
            member.session_timeout_ms = join.session_timeout_ms;
            member.rebalance_timeout_ms = join.rebalance_timeout_ms;
            member.client_id = join.client_id;
            member.client_host = join.client_host;
            member.seen(now_ms);
            // A repeated join replaces the one that still waits; its connection is gone.
            tell(member.join.replace(tx), Err(GroupError::RebalanceInProgress));
        }
        self.rebalance(now_ms);
        rx
    }

    /// A static member is back under a new member id; the old id is fenced (KIP-345).
    fn replace_static(&mut self, old: &str, id: String, join: Join, now_ms: i64) -> Later<Joined> {
        let old_leader = self.leader.clone().unwrap_or_default();
        let was_leader = old_leader == old;
        if was_leader {
            self.leader = Some(id.clone());
        }
        let can_skip = join.can_skip_assignment;
        if let Some(member) = self.find(old) {
            tell(member.join.take(), Err(GroupError::FencedInstance));
            tell(member.sync.take(), Err(GroupError::FencedInstance));
            member.id.clone_from(&id);
            member.protocols.clone_from(&join.protocols);
            member.session_timeout_ms = join.session_timeout_ms;
            member.rebalance_timeout_ms = join.rebalance_timeout_ms;
            member.client_id.clone_from(&join.client_id);
            member.client_host.clone_from(&join.client_host);
            member.seen(now_ms);
        }
        self.changes += 1;
        if self.state == State::Stable && self.choose() == self.protocol {
            let mut joined = self.present(&id, was_leader && can_skip);
            if was_leader && can_skip {
                joined.skip_assignment = true;
            } else {
                // Told of the old leader id, a returning leader does not assign anew.
                joined.leader = old_leader;
            }
            return now_or_later(Ok(joined));
        }
        self.rejoin(Join { member_id: id, ..join }, now_ms)
    }

    /// The answer to a join for the generation as it is.
    fn present(&self, id: &str, with_members: bool) -> Joined {
        let protocol = self.protocol.clone().unwrap_or_default();
        let members = self.members.iter().map(|m| (m.id.clone(), m.instance_id.clone(), m.metadata(&protocol)));
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            member_id: id.to_owned(),
            members: if with_members { members.collect() } else { Vec::new() },
            skip_assignment: false,
        }
    }

    fn rebalance_timeout_ms(&self) -> i64 {
        self.members.iter().map(|m| i64::from(m.rebalance_timeout_ms)).max().unwrap_or(0)
    }

    /// Starts a rebalance, or goes on with the one that runs.
    fn rebalance(&mut self, now_ms: i64) {
        // Without a delay the first member of a group waits for nobody who only asked for an id.
        let waits_for_pending = self.state != State::Empty;
        if self.state != State::Preparing {
            for member in &mut self.members {
                member.assignment =
                    if self.state == State::Completing { Bytes::new() } else { member.assignment.clone() };
                tell(member.sync.take(), Err(GroupError::RebalanceInProgress));
            }
            self.rebalances += 1;
            self.is_initial = self.state == State::Empty && self.limits.initial_rebalance_delay_ms > 0;
            let timeout = self.rebalance_timeout_ms();
            if self.is_initial {
                let delay = self.limits.initial_rebalance_delay_ms.min(timeout);
                self.initial_left_ms = timeout - delay;
                self.initial_grew = false;
                self.deadline_ms = now_ms + delay;
            } else {
                self.deadline_ms = now_ms + timeout;
            }
            self.state = State::Preparing;
        }
        let none_pending = self.pending.is_empty() || !waits_for_pending;
        if !self.is_initial && none_pending && self.members.iter().all(|m| m.join.is_some()) {
            self.complete(now_ms);
        }
    }

    /// All have joined, or time is over: the next generation begins.
    fn complete(&mut self, now_ms: i64) {
        // Who did not come is out; a static member keeps its place until its session ends.
        self.members.retain(|m| m.join.is_some() || m.instance_id.is_some());
        if !self.members.is_empty() && self.members.iter().all(|m| m.join.is_none()) {
            self.deadline_ms = now_ms + self.rebalance_timeout_ms().max(1);
            return;
        }
        self.is_initial = false;
        self.generation = self.generation.wrapping_add(1).max(1);
        if self.members.is_empty() {
            return self.become_empty(now_ms);
        }
        let leader_joined = self.members.iter().any(|m| Some(&m.id) == self.leader.as_ref() && m.join.is_some());
        if !leader_joined {
            self.leader = self.members.iter().find(|m| m.join.is_some()).map(|m| m.id.clone());
        }
        self.protocol = self.choose();
        self.state = State::Completing;
        self.deadline_ms = now_ms + self.rebalance_timeout_ms();
        let answers: Vec<Joined> =
            self.members.iter().map(|m| self.present(&m.id, Some(&m.id) == self.leader.as_ref())).collect();
        for (member, answer) in self.members.iter_mut().zip(answers) {
            member.has_synced = false;
            member.seen(now_ms);
            tell(member.join.take(), Ok(answer));
        }
    }

    fn become_empty(&mut self, now_ms: i64) {
        self.state = State::Empty;
        self.protocol = None;
        self.leader = None;
        self.deadline_ms = i64::MAX;
        self.empty_since_ms = now_ms;
        self.changes += 1;
    }

    /// The strategy that most members like best among those that all know.
    fn choose(&self) -> Option<String> {
        let known_by_all = |name: &str| self.members.iter().all(|m| m.protocols.iter().any(|(n, _)| n == name));
        let mut votes: Vec<(&str, usize)> = Vec::new();
        for member in &self.members {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| known_by_all(name)) {
                match votes.iter_mut().find(|(voted, _)| voted == name) {
                    Some((_, count)) => *count += 1,
                    None => votes.push((name, 1)),
                }
            }
        }
        let most = votes.iter().map(|(_, count)| *count).max()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| name.to_owned())
    }

    /// A member asks for its assignment; the leader brings all of them.
    pub fn sync(&mut self, sync: Sync, now_ms: i64) -> Later<Synced> {
        match self.try_sync(sync, now_ms) {
            Ok(later) => later,
            Err(error) => now_or_later(Err(error)),
        }
    }

    fn try_sync(&mut self, sync: Sync, now_ms: i64) -> Result<Later<Synced>, GroupError> {
        let (state, generation) = (self.state, self.generation);
        let differs = |asked: &Option<String>, ours: &Option<String>| asked.is_some() && asked != ours;
        let inconsistent = differs(&sync.protocol_type, &self.protocol_type) || differs(&sync.protocol, &self.protocol);
        let is_leader = self.leader.as_deref() == Some(sync.member_id.as_str());
        let member = self.known(&sync.member_id, sync.instance_id.as_deref())?;
        if sync.generation != generation {
            return Err(GroupError::IllegalGeneration);
        }
        if inconsistent {
            return Err(GroupError::InconsistentProtocol);
        }
        match state {
            State::Empty => Err(GroupError::UnknownMember),
            State::Preparing => Err(GroupError::RebalanceInProgress),
            State::Stable => {
                member.seen(now_ms);
                member.has_synced = true;
                let assignment = member.assignment.clone();
                Ok(now_or_later(Ok(self.synced(assignment))))
            }
            State::Completing => {
                let (tx, rx) = oneshot::channel();
                member.has_synced = true;
                member.seen(now_ms);
                tell(member.sync.replace(tx), Err(GroupError::RebalanceInProgress));
                if is_leader {
                    self.assign(&sync.assignments, now_ms);
                }
                Ok(rx)
            }
        }
    }

    fn synced(&self, assignment: Bytes) -> Synced {
        Synced { protocol_type: self.protocol_type.clone(), protocol: self.protocol.clone(), assignment }
    }

    fn assign(&mut self, assignments: &[(String, Bytes)], now_ms: i64) {
        self.state = State::Stable;
        self.changes += 1;
        let (protocol_type, protocol) = (self.protocol_type.clone(), self.protocol.clone());
        for member in &mut self.members {
            let given = assignments.iter().find(|(id, _)| *id == member.id);
            member.assignment = given.map(|(_, bytes)| bytes.clone()).unwrap_or_default();
            if member.sync.is_some() {
                member.seen(now_ms);
            }
            let answer = Synced {
                protocol_type: protocol_type.clone(),
                protocol: protocol.clone(),
                assignment: member.assignment.clone(),
            };
            tell(member.sync.take(), Ok(answer));
        }
    }

    /// A sign of life; tells whether to join again.
    pub fn heartbeat(
        &mut self,
        id: &str,
        instance: Option<&str>,
        generation: i32,
        now_ms: i64,
    ) -> Result<(), GroupError> {
        let (state, current) = (self.state, self.generation);
        let member = self.known(id, instance)?;
        if generation != current {
            return Err(GroupError::IllegalGeneration);
        }
        match state {
            State::Empty => Err(GroupError::UnknownMember),
            State::Preparing => {
                member.seen(now_ms);
                Err(GroupError::RebalanceInProgress)
            }
            State::Completing | State::Stable => {
                member.seen(now_ms);
                Ok(())
            }
        }
    }

    /// A member goes; a static one may be named by its instance id alone. Returns the id of who left.
    pub fn leave(&mut self, id: &str, instance: Option<&str>, now_ms: i64) -> Result<String, GroupError> {
        if instance.is_none() && self.pending.remove(id).is_some() {
            self.after_removal(now_ms);
            return Ok(id.to_owned());
        }
        let id = match instance {
            Some(instance) if id.is_empty() => self.static_id(instance).ok_or(GroupError::UnknownMember)?,
            _ => id.to_owned(),
        };
        self.known(&id, instance)?;
        self.remove(&id, now_ms);
        Ok(id)
    }

    fn remove(&mut self, id: &str, now_ms: i64) {
        let Some(at) = self.members.iter().position(|m| m.id == id) else { return };
        let member = self.members.remove(at);
        tell(member.join, Err(GroupError::UnknownMember));
        tell(member.sync, Err(GroupError::UnknownMember));
        if self.leader.as_deref() == Some(id) {
            self.leader = self.members.first().map(|m| m.id.clone());
        }
        self.changes += 1;
        self.after_removal(now_ms);
    }

    fn after_removal(&mut self, now_ms: i64) {
        match self.state {
            State::Empty => {}
            State::Stable | State::Completing | State::Preparing if self.members.is_empty() => {
                if self.pending.is_empty() || self.state != State::Preparing {
                    self.generation = self.generation.wrapping_add(1).max(1);
                    self.become_empty(now_ms);
                }
            }
            State::Stable | State::Completing | State::Preparing => self.rebalance(now_ms),
        }
    }

    /// Time has gone by: ends sessions and waits that are over.
    pub fn tick(&mut self, now_ms: i64) {
        let pending = self.pending.len();
        self.pending.retain(|_, until| *until > now_ms);
        if pending != self.pending.len() {
            self.after_removal(now_ms);
        }
        let expired: Vec<String> = self
            .members
            .iter()
            .filter(|m| !m.is_waiting() && m.expires_at_ms <= now_ms)
            .map(|m| m.id.clone())
            .collect();
        for id in expired {
            tracing::info!(group = self.id, member = id, "member is gone: no heartbeat within its session");
            self.remove(&id, now_ms);
        }
        if now_ms < self.deadline_ms {
            return;
        }
        match self.state {
            State::Preparing if self.is_initial && self.initial_grew && self.initial_left_ms > 0 => {
                let more = self.limits.initial_rebalance_delay_ms.min(self.initial_left_ms);
                self.initial_left_ms -= more;
                self.initial_grew = false;
                self.deadline_ms = now_ms + more;
            }
            State::Preparing => {
                self.pending.clear();
                self.complete(now_ms);
            }
            State::Completing => {
                self.deadline_ms = i64::MAX;
                let late: Vec<String> = self.members.iter().filter(|m| !m.has_synced).map(|m| m.id.clone()).collect();
                for id in late {
                    self.remove(&id, now_ms);
                }
            }
            State::Empty | State::Stable => self.deadline_ms = i64::MAX,
        }
    }
}

/// A member's request for its assignment.
#[derive(Debug, Clone, Default)]
pub struct Sync {
    /// Its id.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// The generation it joined.
    pub generation: i32,
    /// Protocol type it believes in, if it says.
    pub protocol_type: Option<String>,
    /// Strategy it believes in, if it says.
    pub protocol: Option<String>,
    /// What the leader gives to whom.
    pub assignments: Vec<(String, Bytes)>,
}

/// Topics in the metadata of a member of type `consumer`: version (i16), count (i32), names. Empty where it is none.
pub fn subscribed_topics(metadata: &[u8]) -> Vec<String> {
    let mut topics = Vec::new();
    let Some(count) = metadata.get(2..6).and_then(|b| b.first_chunk::<4>()) else { return topics };
    let mut rest = metadata.get(6..).unwrap_or_default();
    for _ in 0..i32::from_be_bytes(*count) {
        let Some((length, tail)) = rest.split_first_chunk::<2>() else { break };
        let length = usize::from(u16::from_be_bytes(*length));
        let Some((name, tail)) = tail.split_at_checked(length) else { break };
        topics.push(String::from_utf8_lossy(name).into_owned());
        rest = tail;
    }
    topics
}
