//! Fetch sessions (KIP-227): a client names its partitions once; later fetches name only changes, and answers only news.
//!
//! In: session id and epoch of a request with its partitions. Out: the partitions to read. Touches nothing. Bounded:
//! the session unused for longest gives way to a new one, whose client then starts over.

use std::sync::Arc;
use std::time::Instant;

use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchRequest};
use parking_lot::Mutex;
use uuid::Uuid;

use super::error::Code;

/// A partition as a request names it: by name up to version 12, by id from 13 on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Named {
    pub topic: TopicName,
    pub id: Uuid,
    pub partition: i32,
}

/// What was told of a partition last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Told {
    pub high_watermark: i64,
    pub log_start_offset: i64,
}

/// One partition of a session.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub asked: FetchPartition,
    pub told: Option<Told>,
}

#[derive(Debug)]
struct Session {
    epoch: i32,
    used: Instant,
    partitions: IndexMap<Named, Wanted>,
}

/// What a request amounts to.
#[derive(Debug)]
pub(super) struct Plan {
    /// For the answer; 0 is no session.
    pub session_id: i32,
    /// Whether partitions without news are left out of the answer.
    pub is_incremental: bool,
    /// What to read, in order.
    pub partitions: Vec<(Named, Wanted)>,
}

/// All sessions.
#[derive(Debug)]
pub(super) struct FetchSessions {
    max: usize,
    sessions: Mutex<IndexMap<i32, Arc<Mutex<Session>>>>,
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
        Self { max, sessions: Mutex::default() }
    }

    /// How many there are.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.sessions.lock().len()
    }

    /// Finds or makes the session of a request and says what to read.
    pub fn plan(&self, request: &FetchRequest) -> Result<Plan, Code> {
        let (id, epoch) = (request.session_id, request.session_epoch);
        if epoch <= 0 {
            let mut sessions = self.sessions.lock();
            if id != 0 {
                sessions.swap_remove(&id);
            }
            let fresh = |(name, asked)| (name, Wanted { asked, told: None });
            let partitions: IndexMap<Named, Wanted> = named(request).map(fresh).collect();
            let list = partitions.iter().map(|(n, w)| (n.clone(), w.clone())).collect();
            // Epoch -1 wants no session, and one without partitions is of no use.
            if epoch < 0 || partitions.is_empty() {
                return Ok(Plan { session_id: 0, is_incremental: false, partitions: list });
            }
            if sessions.len() >= self.max {
                let oldest = sessions.iter().min_by_key(|(_, s)| s.lock().used).map(|(id, _)| *id);
                oldest.and_then(|id| sessions.swap_remove(&id));
            }
            let session_id = loop {
                let id = rand::random_range(1..i32::MAX);
                if !sessions.contains_key(&id) {
                    break id;
                }
            };
            let session = Session { epoch: 1, used: Instant::now(), partitions };
            sessions.insert(session_id, Arc::new(Mutex::new(session)));
            return Ok(Plan { session_id, is_incremental: false, partitions: list });
        }
        let session = self.sessions.lock().get(&id).cloned().ok_or(Code::FetchSessionIdNotFound)?;
        let mut session = session.lock();
        if session.epoch != epoch {
            return Err(Code::InvalidFetchSessionEpoch);
        }
        session.epoch = next_epoch(epoch);
        session.used = Instant::now();
        for topic in &request.forgotten_topics_data {
            for partition in &topic.partitions {
                let name = Named { topic: topic.topic.clone(), id: topic.topic_id, partition: *partition };
                session.partitions.shift_remove(&name);
            }
        }
        for (name, asked) in named(request) {
            match session.partitions.get_mut(&name) {
                Some(wanted) => wanted.asked = asked,
                None => drop(session.partitions.insert(name, Wanted { asked, told: None })),
            }
        }
        let partitions = session.partitions.iter().map(|(n, w)| (n.clone(), w.clone())).collect();
        Ok(Plan { session_id: id, is_incremental: true, partitions })
    }

    /// Remembers what an answer told. Who got records goes to the end, so that all get their turn.
    pub fn told(&self, session_id: i32, answers: impl IntoIterator<Item = (Named, Told, bool)>) {
        let Some(session) = self.sessions.lock().get(&session_id).cloned() else { return };
        let mut session = session.lock();
        for (name, told, had_records) in answers {
            let Some(mut wanted) = session.partitions.get(&name).cloned() else { continue };
            wanted.told = Some(told);
            if had_records {
                session.partitions.shift_remove(&name);
            }
            session.partitions.insert(name, wanted);
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
        sessions.told(id, [(name, Told::default(), true)]);
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
}
