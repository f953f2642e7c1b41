//! The consumer against a broker that answers as a script says: errors of leaders, cut and damaged batches, aborted
//! transactions, positions that are gone.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use bytes::BytesMut;
use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::fetch_response::{AbortedTransaction, FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, BrokerId, FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse,
    MetadataRequest, MetadataResponse, ProducerId, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

use super::*;
use crate::native::encode::{Records, Turn, Zstd};
use crate::native::offsets::topic_name;

const LONG: Duration = Duration::from_secs(30);

/// What becomes of the next fetch.
#[derive(Debug, Clone, Copy)]
enum Act {
    Refuse(Code),
    /// The connection ends.
    Drop,
    /// The records end in the middle of their last batch.
    Cut,
}

#[derive(Debug, Default)]
struct Script {
    batches: Vec<Bytes>,
    aborted: Vec<(i64, i64)>,
    start: i64,
    end: i64,
    acts: VecDeque<Act>,
    /// Bytes of records that were sent.
    sent: usize,
}

/// A broker with one topic `t` of one partition.
#[derive(Clone)]
struct Fake {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

impl Fake {
    fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Self { address: listener.local_addr().unwrap(), script: Arc::new(Mutex::new(script)) };
        let serving = fake.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (serving, stream) = (serving.clone(), stream.unwrap());
                std::thread::spawn(move || serving.serve(stream));
            }
        });
        fake
    }

    /// Answers until the connection ends.
    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        loop {
            let mut length = [0; 4];
            stream.read_exact(&mut length).ok()?;
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut request).ok()?;
            let mut request = Bytes::from(request);
            let key = ApiKey::try_from(i16::from_be_bytes([request[0], request[1]])).unwrap();
            let version = i16::from_be_bytes([request[2], request[3]]);
            let header = RequestHeader::decode(&mut request, key.request_header_version(version)).unwrap();
            let mut answer = BytesMut::new();
            let of = ResponseHeader::default().with_correlation_id(header.correlation_id);
            of.encode(&mut answer, key.response_header_version(version)).unwrap();
            self.answer(key, version, request, &mut answer)?;
            stream.write_all(&(answer.len() as u32).to_be_bytes()).ok()?;
            stream.write_all(&answer).ok()?;
        }
    }

    fn answer(&self, key: ApiKey, version: i16, mut request: Bytes, out: &mut BytesMut) -> Option<()> {
        match key {
            ApiKey::ApiVersions => {
                let of = |key: ApiKey, min, max| {
                    ApiVersion::default().with_api_key(key as i16).with_min_version(min).with_max_version(max)
                };
                let keys = vec![
                    of(ApiKey::Fetch, 4, 12),
                    of(ApiKey::ListOffsets, 1, 6),
                    of(ApiKey::Metadata, 0, 9),
                    of(ApiKey::ApiVersions, 0, 3),
                ];
                ApiVersionsResponse::default().with_api_keys(keys).encode(out, version).unwrap();
            }
            ApiKey::Metadata => {
                let asked = MetadataRequest::decode(&mut request, version).unwrap();
                let node = MetadataResponseBroker::default()
                    .with_node_id(BrokerId(1))
                    .with_host(StrBytes::from_static_str("127.0.0.1"))
                    .with_port(i32::from(self.address.port()));
                let topics = asked.topics.unwrap_or_default().into_iter().map(|topic| {
                    let is_there = topic.name.as_ref().is_some_and(|name| name.as_str() == "t");
                    let part = MetadataResponsePartition::default().with_leader_id(BrokerId(1)).with_leader_epoch(4);
                    MetadataResponseTopic::default()
                        .with_name(topic.name)
                        .with_error_code(if is_there { 0 } else { 3 })
                        .with_partitions(if is_there { vec![part] } else { Vec::new() })
                });
                let answer = MetadataResponse::default().with_brokers(vec![node]).with_topics(topics.collect());
                answer.encode(out, version).unwrap();
            }
            ApiKey::ListOffsets => {
                let asked = ListOffsetsRequest::decode(&mut request, version).unwrap();
                let script = self.script.lock();
                let is_start = asked.topics[0].partitions[0].timestamp == -2;
                let offset = if is_start { script.start } else { script.end };
                let part = ListOffsetsPartitionResponse::default().with_offset(offset);
                let topic = ListOffsetsTopicResponse::default().with_name(topic_name("t")).with_partitions(vec![part]);
                ListOffsetsResponse::default().with_topics(vec![topic]).encode(out, version).unwrap();
            }
            ApiKey::Fetch => {
                let asked = FetchRequest::decode(&mut request, version).unwrap();
                let of = &asked.topics[0].partitions[0];
                assert_eq!((of.current_leader_epoch, asked.isolation_level), (4, 1));
                let mut script = self.script.lock();
                let act = script.acts.pop_front();
                let mut part = PartitionData::default()
                    .with_high_watermark(script.end)
                    .with_last_stable_offset(script.end)
                    .with_log_start_offset(script.start);
                let mut records = Vec::new();
                match act {
                    Some(Act::Drop) => return None,
                    Some(Act::Refuse(code)) => part.error_code = code.code(),
                    _ if !(script.start..=script.end).contains(&of.fetch_offset) => {
                        part.error_code = Code::OffsetOutOfRange.code();
                    }
                    act => {
                        for batch in &script.batches {
                            if last_offset(batch) >= of.fetch_offset
                                && (records.is_empty() || records.len() < of.partition_max_bytes as usize)
                            {
                                records.extend_from_slice(batch);
                            }
                        }
                        if matches!(act, Some(Act::Cut)) {
                            records.truncate(records.len() - 5);
                        }
                    }
                }
                script.sent += records.len();
                let is_empty = records.is_empty() && part.error_code == 0;
                let aborted = script.aborted.iter().map(|(producer, first)| {
                    AbortedTransaction::default().with_producer_id(ProducerId(*producer)).with_first_offset(*first)
                });
                part.aborted_transactions = Some(aborted.collect());
                part.records = Some(records.into());
                drop(script);
                if is_empty {
                    std::thread::sleep(Duration::from_millis(u64::try_from(asked.max_wait_ms).unwrap()));
                }
                let topic = FetchableTopicResponse::default().with_topic(topic_name("t")).with_partitions(vec![part]);
                FetchResponse::default().with_responses(vec![topic]).encode(out, version).unwrap();
            }
            other => panic!("nobody shall ask for {other:?}"),
        }
        Some(())
    }

    fn consumer(&self, options: &[(&str, &str)]) -> WireConsumer {
        let own = [("retry.backoff.ms", "1"), ("retry.backoff.max.ms", "5"), ("fetch.wait.max.ms", "5")];
        let options = own.iter().chain(options).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = ConnectionConfig {
            brokers: vec![self.address.to_string()],
            options: options.collect(),
            ..ConnectionConfig::default()
        };
        WireConsumer::new(&config, "group").unwrap()
    }
}

fn last_offset(batch: &[u8]) -> i64 {
    i64::from_be_bytes(batch[..8].try_into().unwrap())
        + i64::from(i32::from_be_bytes(batch[23..27].try_into().unwrap()))
}

fn tp() -> TopicPartition {
    TopicPartition::new("t", 0)
}

fn record(value: &str) -> Record {
    let headers = vec![("labels".into(), "{}".into()), ("other".into(), Bytes::new())];
    Record { timestamp_ms: 7, key: Some("key".into()), value: Some(value.to_owned().into()), headers }
}

/// A batch whose records are their offsets.
fn batch(from: i64, count: i64) -> Bytes {
    written(from, count, None, 0)
}

/// The same of a producer's transaction, or (`attributes` 0x20) its end.
fn written(from: i64, count: i64, producer: Option<i64>, attributes: u8) -> Bytes {
    let records: Vec<Record> = (from..from + count).map(|offset| record(&offset.to_string())).collect();
    let mut records = Records::from_records(&records);
    if attributes & 0x20 != 0 {
        records = Records::default();
        records.push(1, Some(&[0, 0, 0, attributes & 1]), Some(b"\0\0\0\0\0\0"), &[]);
    }
    let turn = Turn { producer_id: producer.unwrap_or(-1), epoch: 0, sequence: 0 };
    let packed = records.compress(&mut Zstd::new(from % 2 == 0, 3));
    let batch = if producer.is_some() { packed.transactional_batch(turn) } else { packed.batch(turn) };
    let mut batch = batch.to_vec();
    batch[..8].copy_from_slice(&from.to_be_bytes());
    batch[22] |= attributes & 0x20;
    checked(batch)
}

/// With the right checksum.
fn checked(mut batch: Vec<u8>) -> Bytes {
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch.into()
}

/// Values until the position of the reader is reached.
fn read(consumer: &WireConsumer, until: i64) -> Vec<i64> {
    let mut all = Vec::new();
    let deadline = Instant::now() + LONG;
    while consumer.position(&tp()).is_none_or(|position| position < until) {
        assert!(Instant::now() < deadline, "{all:?}");
        for one in consumer.poll_batch(7, Duration::from_millis(50)).unwrap() {
            let value = String::from_utf8(one.record.value.unwrap().to_vec()).unwrap();
            assert_eq!((one.partition, value), (tp(), one.offset.to_string()));
            assert_eq!((one.record.timestamp_ms, one.record.key.as_deref()), (7, Some(&b"key"[..])));
            assert_eq!(one.record.headers.len(), 2);
            all.push(one.offset);
        }
    }
    all
}

#[test]
fn reading_goes_on_over_leaders_that_move_and_connections_that_end() {
    use Act::{Cut, Drop, Refuse};
    let acts = [
        Refuse(Code::NotLeaderOrFollower),
        Drop,
        Cut,
        Refuse(Code::FencedLeaderEpoch),
        Refuse(Code::UnknownLeaderEpoch),
        Refuse(Code::KafkaStorageError),
        Refuse(Code::OffsetNotAvailable),
        Drop,
    ];
    let batches = (0..20).map(|n| batch(n * 10, 10)).collect();
    let fake = Fake::start(Script { batches, end: 200, acts: acts.into(), ..Script::default() });
    // Batches are asked for one or two at a time, so that all acts are played.
    let consumer = fake.consumer(&[("max.partition.fetch.bytes", "1024")]);
    assert_eq!(consumer.partitions("t").unwrap(), [0]);
    assert_eq!(consumer.partitions("none").unwrap(), [0; 0]);
    assert_eq!(consumer.watermarks(&tp()).unwrap(), (0, 200));
    consumer.assign(&[(tp(), StartAt::Offset(13))]).unwrap();
    assert_eq!(read(&consumer, 200), (13..200).collect::<Vec<_>>(), "from the middle of a batch, each once, in order");
    assert!(fake.script.lock().acts.is_empty());
    for (start, first) in [(StartAt::Earliest, Some(0)), (StartAt::Latest, None)] {
        consumer.assign(&[(tp(), start)]).unwrap();
        let batch = consumer.poll_batch(1, if first.is_some() { LONG } else { Duration::from_millis(20) }).unwrap();
        assert_eq!(batch.first().map(|one| one.offset), first, "{start:?}");
    }
}

#[test]
fn a_position_out_of_range_is_reported_with_the_log_start_and_waits_for_another() {
    let fake = Fake::start(Script { batches: vec![batch(40, 10)], start: 40, end: 50, ..Script::default() });
    let consumer = fake.consumer(&[]);
    consumer.assign(&[(tp(), StartAt::Offset(7))]).unwrap();
    let error = consumer.poll_batch(10, LONG).unwrap_err();
    assert!(matches!(error, ClientError::OutOfRange { offset: 7, log_start: 40, .. }), "{error}");
    assert!(consumer.poll_batch(10, Duration::from_millis(20)).unwrap().is_empty());
    consumer.assign(&[(tp(), StartAt::Offset(40))]).unwrap();
    assert_eq!(read(&consumer, 50), (40..50).collect::<Vec<_>>());
}

#[test]
fn records_that_can_not_be_read_are_reported_with_their_offsets_and_passed_over() {
    let mut damaged = batch(10, 10).to_vec();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    // The header is right, the records are none: all zeros, and far more than they may be.
    let mut bomb = batch(30, 10)[..61].to_vec();
    let zeros = std::io::repeat(0).take(300 << 20);
    bomb.extend(zstd::stream::encode_all(zeros, 1).unwrap());
    let length = bomb.len() as i32 - 12;
    bomb[8..12].copy_from_slice(&length.to_be_bytes());
    bomb[22] = 4;
    let batches = vec![batch(0, 10), damaged.into(), batch(20, 10), checked(bomb), batch(40, 5)];
    let fake = Fake::start(Script { batches, end: 45, ..Script::default() });
    let consumer = fake.consumer(&[]);
    consumer.assign(&[(tp(), StartAt::Offset(0))]).unwrap();
    let (mut read, mut lost) = (Vec::new(), Vec::new());
    let deadline = Instant::now() + LONG;
    while read.len() < 25 {
        assert!(Instant::now() < deadline, "{read:?}");
        match consumer.poll_batch(100, Duration::from_millis(50)) {
            Ok(batch) => {
                for one in batch {
                    match one.unreadable {
                        None => read.push(one.offset),
                        Some(reason) => lost.push((one.offset, reason, one.record)),
                    }
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    let want: Vec<i64> = (0..10).chain(20..30).chain(40..45).collect();
    assert_eq!(read, want);
    assert_eq!(lost.iter().map(|(offset, ..)| *offset).collect::<Vec<_>>(), [19, 39], "in their place");
    for ((_, reason, record), (start, cause)) in lost.iter().zip([
        ("offsets 10 to 19 can't be read: ", "checksum"),
        ("offsets 30 to 39 can't be read: ", "decompress to more than"),
    ]) {
        assert!(reason.starts_with(start) && reason.contains(cause), "{reason}");
        assert!(record.value.as_ref().is_some_and(|value| value.len() < 100_000), "the batch as it came");
        assert!(record.header(HEADER_CUT).is_some(), "no replay takes it for a record");
    }
}

#[test]
fn aborted_transactions_and_control_records_are_left_out_and_the_position_passes_them() {
    let batches = vec![
        written(0, 5, Some(7), 0),
        batch(5, 5),
        written(10, 5, Some(8), 0),
        written(15, 1, Some(7), 0x20), // 7 aborts
        written(16, 4, Some(7), 0),
        written(20, 1, Some(7), 0x21), // 7 commits its second
        written(21, 1, Some(8), 0x20), // 8 aborts
    ];
    let aborted = vec![(8, 10), (7, 0)];
    let fake = Fake::start(Script { batches, aborted, end: 22, ..Script::default() });
    let consumer = fake.consumer(&[]);
    consumer.assign(&[(tp(), StartAt::Earliest)]).unwrap();
    assert_eq!(read(&consumer, 22), (5..10).chain(16..20).collect::<Vec<_>>());
}

#[test]
fn no_more_is_fetched_ahead_than_the_limit() {
    let batches: Vec<Bytes> = (0..2000).map(|n| batch(n * 10 + 1, 10)).collect();
    let fake = Fake::start(Script { batches, start: 1, end: 20_001, ..Script::default() });
    let one = fake.script.lock().batches[0].len();
    let consumer = fake.consumer(&[("queued.max.messages.kbytes", "64"), ("max.partition.fetch.bytes", "16384")]);
    consumer.assign(&[(tp(), StartAt::Earliest)]).unwrap();
    assert_eq!(consumer.poll_batch(1, LONG).unwrap().len(), 1);
    let mut most = 0;
    for _ in 0..20 {
        // Each takes its time on the thread that would fetch more.
        consumer.watermarks(&tp()).unwrap();
        most = fake.script.lock().sent;
    }
    assert!(most <= (64 << 10) + 2 * (16384 + one), "{most} bytes");
    let rest = read(&consumer, 20_001);
    assert_eq!((rest.len(), rest.first(), rest.last()), (19_999, Some(&2), Some(&20_000)));
}
