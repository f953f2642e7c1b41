//! Load for a broker from a bare client that costs next to nothing itself, so that the broker is what is measured.
//!
//! In: `topic ADDRESS NAME PARTITIONS` makes a topic and waits until it is served; `produce ADDRESS TOPIC [--producers 1]
//! [--partitions 1] [--in-flight 5] [--batch-records 80] [--record-bytes 200] [--rate BATCHES_PER_SECOND]
//! [--seconds N | --batches N]` sends batches that were made once, each producer on a connection of its own to one partition
//! after the other, acks=all. Out: one line of JSON. With a rate, latency counts from the moment a batch was due or the
//! timer told so, so that a broker that stalls is not asked less. Ctrl-C ends it early. Any answer but success ends it with
//! an error. For tests/bench/broker.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::future::try_join_all;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, CreateTopicsResponse, ListOffsetsRequest, ListOffsetsResponse, ProduceRequest,
    ProduceResponse, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, Record, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};
use millrace_log::clock::{Clock as _, SystemClock};
use rand::RngCore as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

type Outcome<T> = Result<T, Box<dyn Error>>;

const PRODUCE: i16 = 9;
const CREATE_TOPICS: i16 = 5;
const LIST_OFFSETS: i16 = 4;
const EARLIEST: i64 = -2;
const CONSUMER: BrokerId = BrokerId(-1);
/// Where the correlation id stands in a frame.
const CORRELATION: usize = 8;

#[derive(Clone)]
struct Plan {
    address: String,
    topic: String,
    producers: usize,
    partitions: i32,
    in_flight: usize,
    batch_records: usize,
    record_bytes: usize,
    rate: Option<f64>,
    seconds: Option<f64>,
    batches: Option<u64>,
}

fn frame<T: Encodable + HeaderVersion + Request>(version: i16, request: &T) -> Outcome<BytesMut> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let header = RequestHeader::default()
        .with_request_api_key(T::KEY)
        .with_request_api_version(version)
        .with_client_id(Some(StrBytes::from_static_str("load")));
    let mut out = BytesMut::new();
    out.put_i32(0);
    header.encode(&mut out, T::header_version(version)).map_err(|e| text(&e))?;
    request.encode(&mut out, version).map_err(|e| text(&e))?;
    let length = i32::try_from(out.len() - 4)?;
    out[..4].copy_from_slice(&length.to_be_bytes());
    Ok(out)
}

async fn answer(reader: &mut (impl AsyncRead + Unpin)) -> Outcome<Bytes> {
    let length = usize::try_from(reader.read_i32().await?)?;
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).await?;
    Ok(bytes.into())
}

/// Asks one request and reads its answer.
async fn ask<T, A>(stream: &mut TcpStream, version: i16, request: &T) -> Outcome<A>
where
    T: Encodable + HeaderVersion + Request,
    A: Decodable + HeaderVersion,
{
    let (mut reader, mut writer) = stream.split();
    writer.write_all(&frame(version, request)?).await?;
    let mut bytes = answer(&mut reader).await?;
    ResponseHeader::decode(&mut bytes, A::header_version(version)).map_err(|e| e.to_string())?;
    Ok(A::decode(&mut bytes, version).map_err(|e| e.to_string())?)
}

/// Makes a topic and waits until all its partitions are served: Kafka answers before they are.
async fn make_topic(address: &str, name: &str, partitions: i32) -> Outcome<()> {
    let name = TopicName(StrBytes::from_string(name.to_owned()));
    let topic =
        CreatableTopic::default().with_name(name.clone()).with_num_partitions(partitions).with_replication_factor(1);
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
    let mut stream = TcpStream::connect(address).await?;
    let made: CreateTopicsResponse = ask(&mut stream, CREATE_TOPICS, &request).await?;
    if let Some(failed) = made.topics.iter().find(|topic| topic.error_code != 0) {
        return Err(format!("topic {}: error {} {:?}", *name, failed.error_code, failed.error_message).into());
    }
    let all = (0..partitions).map(|p| ListOffsetsPartition::default().with_partition_index(p).with_timestamp(EARLIEST));
    let topic = ListOffsetsTopic::default().with_name(name.clone()).with_partitions(all.collect());
    let request = ListOffsetsRequest::default().with_replica_id(CONSUMER).with_topics(vec![topic]);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let served: ListOffsetsResponse = ask(&mut stream, LIST_OFFSETS, &request).await?;
        match served.topics.iter().flat_map(|topic| &topic.partitions).find(|partition| partition.error_code != 0) {
            None => return Ok(()),
            Some(_) if Instant::now() < deadline => sleep(Duration::from_millis(20)).await,
            Some(p) => {
                return Err(format!("topic {} [{}]: error {}", *name, p.partition_index, p.error_code).into());
            }
        }
    }
}

fn batch(plan: &Plan) -> Outcome<Bytes> {
    let timestamp = SystemClock.now_ms();
    let records: Vec<Record> = (0..plan.batch_records)
        .zip(0..)
        .map(|(_, offset)| {
            let mut value = vec![0; plan.record_bytes];
            rand::rng().fill_bytes(&mut value);
            Record {
                transactional: false,
                control: false,
                partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
                producer_id: NO_PRODUCER_ID,
                producer_epoch: NO_PRODUCER_EPOCH,
                timestamp_type: TimestampType::Creation,
                offset,
                // Rising like the offset: the encoder begins a new batch otherwise.
                sequence: NO_SEQUENCE + i32::try_from(offset).unwrap_or(0),
                timestamp,
                delete_horizon: false,
                key: None,
                value: Some(value.into()),
                headers: Default::default(),
            }
        })
        .collect();
    let mut out = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut out, &records, &options).map_err(|e| e.to_string())?;
    Ok(out.freeze())
}

/// One producer: frames by partition, what is under way, and when each was due.
struct Producer {
    frames: Vec<BytesMut>,
    begun: Rc<RefCell<VecDeque<Instant>>>,
    free: Rc<Semaphore>,
}

impl Producer {
    fn new(plan: &Plan, records: &Bytes) -> Outcome<Self> {
        let frames = (0..plan.partitions).map(|partition| {
            let data = PartitionProduceData::default().with_index(partition).with_records(Some(records.clone()));
            let topic = TopicProduceData::default()
                .with_name(TopicName(StrBytes::from_string(plan.topic.clone())))
                .with_partition_data(vec![data]);
            frame(
                PRODUCE,
                &ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic]),
            )
        });
        let frames = frames.collect::<Outcome<Vec<_>>>()?;
        Ok(Self { frames, begun: Rc::default(), free: Rc::new(Semaphore::new(plan.in_flight)) })
    }

    /// Sends until it is time to stop; returns how many.
    async fn send(
        &mut self,
        number: usize,
        plan: &Plan,
        writer: &mut OwnedWriteHalf,
        stop: &CancellationToken,
    ) -> Outcome<u64> {
        let began = Instant::now();
        let most = plan.batches.map_or(u64::MAX, |all| all / plan.producers as u64);
        let each = plan.rate.map(|rate| plan.producers as f64 / rate);
        let mut sent = 0;
        while sent < most && !stop.is_cancelled() {
            let due = each.map(|each| began + Duration::from_secs_f64(each * sent as f64));
            let begun = match due {
                // The broker held this up, if anybody did.
                Some(due) if due < Instant::now() => Some(due),
                // The timer ticks coarsely; that is not the broker's doing.
                Some(due) => {
                    sleep_until(due).await;
                    Some(Instant::now())
                }
                None => None,
            };
            self.free.acquire().await?.forget();
            let place = (number as u64 + sent) as usize % self.frames.len();
            let Some(frame) = self.frames.get_mut(place) else { break };
            frame[CORRELATION..CORRELATION + 4].copy_from_slice(&(sent as i32).to_be_bytes());
            self.begun.borrow_mut().push_back(begun.unwrap_or_else(Instant::now));
            writer.write_all(frame).await?;
            sent += 1;
        }
        Ok(sent)
    }
}

/// Takes answers until all that was sent is answered; returns the latencies.
async fn receive(
    mut reader: OwnedReadHalf,
    begun: Rc<RefCell<VecDeque<Instant>>>,
    free: Rc<Semaphore>,
    done: CancellationToken,
) -> Outcome<Vec<Duration>> {
    let mut took = Vec::new();
    let mut next = 0;
    loop {
        if begun.borrow().is_empty() && done.is_cancelled() {
            return Ok(took);
        }
        let mut bytes = tokio::select! {
            biased;
            bytes = answer(&mut reader) => bytes?,
            () = done.cancelled(), if begun.borrow().is_empty() => continue,
        };
        let since = begun.borrow_mut().pop_front().ok_or("an answer nobody asked for")?;
        took.push(since.elapsed());
        free.add_permits(1);
        if bytes.clone().get_i32() != next {
            return Err("answers are out of order".into());
        }
        next += 1;
        ResponseHeader::decode(&mut bytes, ProduceResponse::header_version(PRODUCE)).map_err(|e| e.to_string())?;
        let answer = ProduceResponse::decode(&mut bytes, PRODUCE).map_err(|e| e.to_string())?;
        let parts = answer.responses.iter().flat_map(|topic| &topic.partition_responses);
        if let Some(failed) = parts.filter(|part| part.error_code != 0).last() {
            return Err(format!("refused with {}: {:?}", failed.error_code, failed.error_message).into());
        }
    }
}

async fn produce(plan: Plan) -> Outcome<()> {
    let records = batch(&plan)?;
    let stop = CancellationToken::new();
    let began = Instant::now();
    let work = (0..plan.producers).map(|number| {
        let (plan, records, stop) = (&plan, &records, &stop);
        async move {
            let stream = TcpStream::connect(&plan.address).await?;
            stream.set_nodelay(true)?;
            let (reader, mut writer) = stream.into_split();
            let mut producer = Producer::new(plan, records)?;
            let done = CancellationToken::new();
            let taking = receive(reader, Rc::clone(&producer.begun), Rc::clone(&producer.free), done.clone());
            let sending = async {
                let sent = producer.send(number, plan, &mut writer, stop).await;
                done.cancel();
                sent
            };
            let (sent, took) = futures::try_join!(sending, taking)?;
            if sent != took.len() as u64 {
                return Err(format!("{sent} batches sent, {} answered", took.len()).into());
            }
            Ok::<_, Box<dyn Error>>(took)
        }
    });
    let end = async {
        match plan.seconds {
            Some(seconds) => {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs_f64(seconds)) => {}
                    _ = tokio::signal::ctrl_c() => {}
                }
                stop.cancel();
                Ok(())
            }
            None => Ok(()),
        }
    };
    let (took, ()) = futures::try_join!(try_join_all(work), end)?;
    let seconds = began.elapsed().as_secs_f64();
    let mut took: Vec<Duration> = took.into_iter().flatten().collect();
    took.sort_unstable();
    let at = |share: f64| took.get((took.len() as f64 * share) as usize).map_or(0.0, |d| d.as_secs_f64() * 1000.0);
    let bytes = took.len() * records.len();
    say(&serde_json::json!({
        "batches": took.len(),
        "records": took.len() * plan.batch_records,
        "bytes": bytes,
        "seconds": seconds,
        "bytes_per_s": bytes as f64 / seconds,
        "p50_ms": at(0.5),
        "p99_ms": at(0.99),
        "max_ms": at(0.999_999),
    }));
    Ok(())
}

#[allow(clippy::print_stdout, reason = "an example talks to its terminal")]
fn say(figures: &serde_json::Value) {
    println!("{figures}");
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match *words.as_slice() {
        ["topic", address, name, partitions] => make_topic(address, name, partitions.parse()?).await,
        ["produce", address, topic, ref rest @ ..] => {
            let mut plan = Plan {
                address: address.to_owned(),
                topic: topic.to_owned(),
                producers: 1,
                partitions: 1,
                in_flight: 5,
                batch_records: 80,
                record_bytes: 200,
                rate: None,
                seconds: None,
                batches: None,
            };
            for pair in rest.chunks(2) {
                match *pair {
                    ["--producers", n] => plan.producers = n.parse()?,
                    ["--partitions", n] => plan.partitions = n.parse()?,
                    ["--in-flight", n] => plan.in_flight = n.parse()?,
                    ["--batch-records", n] => plan.batch_records = n.parse()?,
                    ["--record-bytes", n] => plan.record_bytes = n.parse()?,
                    ["--rate", n] => plan.rate = Some(n.parse()?),
                    ["--seconds", n] => plan.seconds = Some(n.parse()?),
                    ["--batches", n] => plan.batches = Some(n.parse()?),
                    _ => return Err(format!("not understood: {}", pair.join(" ")).into()),
                }
            }
            produce(plan).await
        }
        _ => Err("usage: load topic ADDRESS NAME PARTITIONS | load produce ADDRESS TOPIC [OPTIONS]".into()),
    }
}
