//! Fetch sessions (KIP-227): a client names its partitions once; later fetches name only changes, and answers only news.
//!
//! In: session id and epoch of a request with its partitions. Out: the partitions to read. Touches nothing. Bounded in
//! sessions and in partitions of all of them: the session unused for longest gives way to a new one, whose client then starts
//! over, and one that alone would take all of it is not kept.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchRequest};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::protocol::error::Code;

/// Most partitions of all sessions together, of some hundred bytes each.
const MAX_PARTITIONS: usize = 1 << 20;

/// A partition as a request names it: by name up to version 12, by id from 13 on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Named {
    pub topic: TopicName,
    pub id: Uuid,
    pub partition: i32,
}

/// What was sent about a partition last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SentState {
    pub high_watermark: i64,
    pub log_start_offset: i64,
}

/// One partition of a session.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub asked: FetchPartition,
    pub sent: Option<SentState>,
}

#[derive(Debug)]
struct Session {
    epoch: i32,
    partitions: IndexMap<Named, Wanted>,
}

/// A session with what all must be compared by, which no fetch holds for long.
#[derive(Debug)]
struct CachedSession {
    session: Arc<Mutex<Session>>,
    used: Instant,
    partitions: usize,
}

#[derive(Debug, Default)]
struct SessionCache {
    by_id: IndexMap<i32, CachedSession>,
    /// Partitions of all sessions.
    partitions: usize,
}

impl SessionCache {
    fn remove(&mut self, id: i32) {
        if let Some(gone) = self.by_id.swap_remove(&id) {
            self.partitions -= gone.partitions;
        }
    }

    /// Makes room for a session, or for one that has grown, among so many; the one unused for longest goes first.
    fn evict(&mut self, most: usize, partitions: usize, spared: i32) {
        while self.by_id.len() > most || self.partitions + partitions > MAX_PARTITIONS {
            let others = self.by_id.iter().filter(|(id, _)| **id != spared);
            let Some(oldest) = others.min_by_key(|(_, entry)| entry.used).map(|(id, _)| *id) else { return };
            self.remove(oldest);
        }
    }

    /// Notes that a session has other partitions than before; false if they are too many.
    fn resize(&mut self, id: i32, partitions: usize) -> bool {
        let Some(entry) = self.by_id.get_mut(&id) else { return true };
        self.partitions = self.partitions - entry.partitions + partitions;
        entry.partitions = partitions;
        self.evict(usize::MAX, 0, id);
        if partitions > MAX_PARTITIONS {
            self.remove(id);
        }
        partitions <= MAX_PARTITIONS
    }
}

/// What a request amounts to.
#[derive(Debug)]
pub(crate) struct Plan {
    /// For the answer; 0 is no session.
    pub session_id: i32,
    /// Whether partitions without news are left out of the answer.
    pub is_incremental: bool,
    /// What to read, in order.
    pub partitions: Vec<(Named, Wanted)>,
}

/// All sessions.
#[derive(Debug)]
pub(crate) struct FetchSessions {
    max: usize,
    kept: Mutex<SessionCache>,
}

fn named(request: &FetchRequest) -> impl Iterator<Item = (Named, FetchPartition)> + '_ {
    request.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|asked| {
            let name = Named { topic: topic.topic.clone(), id: topic.topic_id, partition: asked.partition };
            (name, asked.clone())
        })
    })
}

fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

impl FetchSessions {
    pub fn new(max: usize) -> Self {
        Self { max, kept: Mutex::default() }
    }

    /// How many there are.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.kept.lock().by_id.len()
    }

    /// Finds or makes the session of a request and says what to read.
    pub fn plan(&self, request: &FetchRequest) -> Result<Plan, Code> {
        let (id, epoch) = (request.session_id, request.session_epoch);
        if epoch <= 0 {
            if id != 0 {
                self.kept.lock().remove(id);
            }
            let fresh = |(name, asked)| (name, Wanted { asked, sent: None });
            let partitions: IndexMap<Named, Wanted> = named(request).map(fresh).collect();
            let list = partitions.iter().map(|(n, w)| (n.clone(), w.clone())).collect();
            // Epoch -1 wants no session, and one without partitions is of no use.
            if epoch < 0 || partitions.is_empty() || partitions.len() > MAX_PARTITIONS || self.max == 0 {
                return Ok(Plan { session_id: 0, is_incremental: false, partitions: list });
            }
            let mut kept = self.kept.lock();
            kept.evict(self.max - 1, partitions.len(), 0);
            let session_id = loop {
                let id = rand::random_range(1..i32::MAX);
                if !kept.by_id.contains_key(&id) {
                    break id;
                }
            };
            let count = partitions.len();
            let session = Arc::new(Mutex::new(Session { epoch: 1, partitions }));
            kept.partitions += count;
            kept.by_id.insert(session_id, CachedSession { session, used: Instant::now(), partitions: count });
            return Ok(Plan { session_id, is_incremental: false, partitions: list });
        }
        let session = {
            let mut kept = self.kept.lock();
            let entry = kept.by_id.get_mut(&id).ok_or(Code::FetchSessionIdNotFound)?;
            entry.used = Instant::now();
            Arc::clone(&entry.session)
        };
        let mut session = session.lock();
        if session.epoch != epoch {
            return Err(Code::InvalidFetchSessionEpoch);
        }
        session.epoch = next_epoch(epoch);
        let before = session.partitions.len();
        let forgotten: HashSet<Named> = request
            .forgotten_topics_data
            .iter()
            .flat_map(|topic| {
                let name = |n: &i32| Named { topic: topic.topic.clone(), id: topic.topic_id, partition: *n };
                topic.partitions.iter().map(name)
            })
            .collect();
        if !forgotten.is_empty() {
            session.partitions.retain(|name, _| !forgotten.contains(name));
        }
        for (name, asked) in named(request) {
            match session.partitions.get_mut(&name) {
                Some(wanted) => wanted.asked = asked,
                None => drop(session.partitions.insert(name, Wanted { asked, sent: None })),
            }
        }
        let count = session.partitions.len();
        if count != before && !self.kept.lock().resize(id, count) {
            return Err(Code::FetchSessionIdNotFound);
        }
        let partitions = session.partitions.iter().map(|(n, w)| (n.clone(), w.clone())).collect();
        Ok(Plan { session_id: id, is_incremental: true, partitions })
    }

    /// Remembers what an answer sent. Who got records goes to the end, so that all get their turn.
    pub fn note_sent(&self, session_id: i32, answers: impl IntoIterator<Item = (Named, SentState, bool)>) {
        let session = self.kept.lock().by_id.get(&session_id).map(|entry| Arc::clone(&entry.session));
        let Some(session) = session else { return };
        let mut session = session.lock();
        let mut served = HashSet::new();
        for (name, sent, had_records) in answers {
            let Some(wanted) = session.partitions.get_mut(&name) else { continue };
            wanted.sent = Some(sent);
            if had_records {
                served.insert(name);
            }
        }
        // Where all or none had records their order stays.
        if !served.is_empty() && served.len() < session.partitions.len() {
            session.partitions.sort_by_cached_key(|name, _| served.contains(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::fetch_request::{FetchTopic, ForgottenTopic};
    use kafka_protocol::protocol::StrBytes;

    fn request(id: i32, epoch: i32, partitions: &[i32], forgotten: &[i32]) -> FetchRequest {
        let name = TopicName(StrBytes::from_static_str("t"));
        let asked = partitions.iter().map(|p| FetchPartition::default().with_partition(*p)).collect();
        let mut request = FetchRequest::default().with_session_id(id).with_session_epoch(epoch);
        request.topics = vec![FetchTopic::default().with_topic(name.clone()).with_partitions(asked)];
        request.forgotten_topics_data =
            vec![ForgottenTopic::default().with_topic(name).with_partitions(forgotten.to_vec())];
        request
    }

    fn numbers(plan: &Plan) -> Vec<i32> {
        plan.partitions.iter().map(|(name, _)| name.partition).collect()
    }

    #[test]
    fn sessions_follow_their_epochs() {
        let sessions = FetchSessions::new(10);
        let full = sessions.plan(&request(0, 0, &[0, 1, 2], &[])).unwrap();
        assert_eq!((numbers(&full), full.is_incremental), (vec![0, 1, 2], false));
        let id = full.session_id;
        let next = sessions.plan(&request(id, 1, &[3], &[1])).unwrap();
        assert_eq!((numbers(&next), next.is_incremental), (vec![0, 2, 3], true));
        assert_eq!(sessions.plan(&request(id, 1, &[], &[])).err(), Some(Code::InvalidFetchSessionEpoch));
        let name = next.partitions[0].0.clone();
        sessions.note_sent(id, [(name, SentState::default(), true)]);
        assert_eq!(numbers(&sessions.plan(&request(id, 2, &[], &[])).unwrap()), [2, 3, 0], "turns");
        assert_eq!(sessions.plan(&request(id + 1, 1, &[], &[])).err(), Some(Code::FetchSessionIdNotFound));
        assert_eq!(sessions.plan(&request(id, -1, &[0], &[])).unwrap().session_id, 0);
        assert_eq!(sessions.plan(&request(id, 3, &[], &[])).err(), Some(Code::FetchSessionIdNotFound), "closed");
    }

    #[test]
    fn the_session_unused_for_longest_gives_way() {
        let sessions = FetchSessions::new(2);
        let ids: Vec<i32> = (0..3).map(|_| sessions.plan(&request(0, 0, &[0], &[])).unwrap().session_id).collect();
        assert_eq!(sessions.plan(&request(ids[0], 1, &[], &[])).err(), Some(Code::FetchSessionIdNotFound));
        assert!(sessions.plan(&request(ids[2], 1, &[], &[])).is_ok());
    }

    #[test]
    fn partitions_of_all_sessions_are_bounded() {
        let sessions = FetchSessions::new(10);
        let half: Vec<i32> = (0..1 << 19).collect();
        let one = sessions.plan(&request(0, 0, &half, &[])).unwrap().session_id;
        let two = sessions.plan(&request(0, 0, &half, &[])).unwrap().session_id;
        assert_eq!(sessions.kept.lock().partitions, MAX_PARTITIONS);
        // Asked later than the other.
        assert!(sessions.plan(&request(one, 1, &[], &[])).is_ok());
        let small = sessions.plan(&request(0, 0, &[1], &[])).unwrap().session_id;
        assert_eq!(sessions.plan(&request(two, 1, &[], &[])).err(), Some(Code::FetchSessionIdNotFound));
        let more: Vec<i32> = (1 << 19..1 << 20).collect();
        assert!(sessions.plan(&request(one, 2, &more, &[])).is_ok(), "grown as far as it goes");
        assert_eq!(sessions.plan(&request(small, 1, &[], &[])).err(), Some(Code::FetchSessionIdNotFound));
        let grown = sessions.plan(&request(one, 3, &[1 << 20], &[])).err();
        assert_eq!(grown, Some(Code::FetchSessionIdNotFound), "and no further");
        assert_eq!((sessions.count(), sessions.kept.lock().partitions), (0, 0));
    }

    #[test]
    fn many_are_forgotten_and_served_in_one_pass() {
        let sessions = FetchSessions::new(10);
        let all: Vec<i32> = (0..100_000).collect();
        let plan = sessions.plan(&request(0, 0, &all, &[])).unwrap();
        let even = plan.partitions.iter().filter(|(name, _)| name.partition % 2 == 0);
        let even: Vec<_> = even.map(|(name, _)| (name.clone(), SentState::default(), true)).collect();
        sessions.note_sent(plan.session_id, even);
        let began = Instant::now();
        let next = sessions.plan(&request(plan.session_id, 1, &[], &all[..99_999])).unwrap();
        assert_eq!(numbers(&next), [99_999]);
        assert!(began.elapsed().as_secs() < 20, "in linear time");
    }
}
