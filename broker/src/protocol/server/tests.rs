//! The broker as clients see it: librdkafka against a broker in the same process, and raw frames.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request as ApiRequest, StrBytes};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::protocol::error::Code;
use millrace_log::client::{
    BatchProducer as _, ConnectionConfig, DELIVERY_TIMEOUT, StartAt, WireConsumer, WireProducer,
};
use millrace_log::clock::SystemClock;
use millrace_log::fs::RealFs;
use millrace_log::record::{Record, TopicPartition};

/// A broker on a free port, stopped by `stop`.
struct Running {
    core: std::sync::Arc<Core>,
    registry: Registry,
    address: SocketAddr,
    token: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), BrokerError>>,
}

impl Running {
    #[allow(clippy::disallowed_methods, reason = "a test's own task")]
    async fn start(dir: &Path, change: impl FnOnce(&mut BrokerConfig)) -> Self {
        let mut config = BrokerConfig { listen: "127.0.0.1:0".to_owned(), ..BrokerConfig::default() };
        change(&mut config);
        let mut registry = Registry::default();
        let broker = Broker::open(config, dir, RealFs::shared(), SystemClock::shared(), &mut registry).await.unwrap();
        let address = broker.bind().await.unwrap();
        let token = CancellationToken::new();
        let stop = token.clone();
        let core = std::sync::Arc::clone(&broker.core);
        let task = tokio::spawn(async move { broker.run(stop).await });
        Self { core, registry, address, token, task }
    }

    async fn stop(self) {
        self.token.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Settings for a client that is not ours.
    fn librdkafka(&self) -> rdkafka::ClientConfig {
        let mut client = rdkafka::ClientConfig::new();
        client.set("bootstrap.servers", self.address.to_string());
        client
    }

    fn client(&self) -> ConnectionConfig {
        ConnectionConfig { brokers: vec![self.address.to_string()], ..ConnectionConfig::default() }
    }
}

fn record(value: &str) -> Record {
    Record {
        timestamp_ms: SystemClock::shared().now_ms(),
        key: Some("key".into()),
        value: Some(value.to_owned().into()),
        headers: Default::default(),
    }
}

/// All values of a partition from an offset on.
async fn read(client: ConnectionConfig, tp: TopicPartition, from: i64, count: usize) -> Vec<String> {
    tokio::task::spawn_blocking(move || {
        let consumer = WireConsumer::new(&client, "readers").unwrap();
        consumer.assign(&[(tp, StartAt::Offset(from))]).unwrap();
        let mut values = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(20);
        while values.len() < count && Instant::now() < deadline {
            for got in consumer.poll_batch(1000, Duration::from_millis(200)).unwrap() {
                assert_eq!(got.offset, from + values.len() as i64);
                values.push(String::from_utf8(got.record.value.unwrap().to_vec()).unwrap());
            }
        }
        values
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_read_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), |_| {}).await;
    let producer = WireProducer::new(&broker.client(), Some(DELIVERY_TIMEOUT)).unwrap();
    assert_eq!(producer.ensure_topic("lines", 3).await.unwrap(), 3);
    let tp = TopicPartition::new("lines", 2);
    let want: Vec<String> = (0..500).map(|i| format!("line {i}")).collect();
    let first = producer.send(&tp, want.iter().map(|v| record(v)).collect()).await.unwrap();
    assert_eq!(first, 0);
    assert_eq!(read(broker.client(), tp.clone(), 0, 500).await, want);
    let client = broker.client();
    let committed = TopicPartition::new("lines", 2);
    tokio::task::spawn_blocking(move || {
        let consumer = WireConsumer::new(&client, "readers").unwrap();
        consumer.commit(&[(committed, 321)]).unwrap();
    })
    .await
    .unwrap();
    drop(producer);
    broker.stop().await;

    let broker = Running::start(dir.path(), |_| {}).await;
    assert_eq!(read(broker.client(), tp.clone(), 490, 10).await, want[490..]);
    let client = broker.client();
    let of = tp.clone();
    let committed = tokio::task::spawn_blocking(move || {
        WireConsumer::new(&client, "readers").unwrap().committed(&[of, TopicPartition::new("lines", 0)]).unwrap()
    });
    assert_eq!(committed.await.unwrap(), [Some(321), None]);
    let producer = WireProducer::new(&broker.client(), Some(DELIVERY_TIMEOUT)).unwrap();
    assert_eq!(producer.send(&tp, vec![record("more")]).await.unwrap(), 500);
    broker.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_one_clear_line() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let broker = Running::start(one.path(), |_| {}).await;
    let config = BrokerConfig { listen: broker.address.to_string(), ..BrokerConfig::default() };
    let mut registry = Registry::default();
    let second = Broker::open(config, two.path(), RealFs::shared(), SystemClock::shared(), &mut registry).await;
    let error = second.unwrap().bind().await.unwrap_err().to_string();
    let want = format!(
        "port of {} is in use: stop the program that uses it, or set `broker.listen` to another port",
        broker.address
    );
    assert_eq!(error, want);
    broker.stop().await;
}

/// Polls consumers in turns until they hold so many partitions each, all different.
fn balance(members: &[&BaseConsumer], want: &[usize]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut all = BTreeSet::new();
        let mut counts = Vec::new();
        for member in members {
            drop(member.poll(Duration::from_millis(50)));
            let assigned = member.assignment().unwrap();
            counts.push(assigned.count());
            all.extend(
                assigned.elements().iter().map(rdkafka::topic_partition_list::TopicPartitionListElem::partition),
            );
        }
        if counts == want && all.len() == want.iter().sum::<usize>() {
            return;
        }
        assert!(Instant::now() < deadline, "want {want:?}, have {counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_members_of_a_group_share_a_topic_and_keep_it_over_a_restart_of_the_broker() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), |_| {}).await;
    let producer = WireProducer::new(&broker.client(), Some(DELIVERY_TIMEOUT)).unwrap();
    producer.ensure_topic("shared", 4).await.unwrap();
    let mut client = broker.librdkafka();
    client.set("group.id", "g").set("heartbeat.interval.ms", "200").set("session.timeout.ms", "6000");
    let address = broker.address;
    let (one, two) = tokio::task::spawn_blocking(move || {
        let one: BaseConsumer = client.create().unwrap();
        let two: BaseConsumer = client.create().unwrap();
        one.subscribe(&["shared"]).unwrap();
        balance(&[&one], &[4]);
        two.subscribe(&["shared"]).unwrap();
        balance(&[&one, &two], &[2, 2]);
        (one, two)
    })
    .await
    .unwrap();
    drop(producer);
    broker.stop().await;

    let broker = Running::start(dir.path(), |config| config.listen = address.to_string()).await;
    let storage_side = broker.client();
    tokio::task::spawn_blocking(move || {
        balance(&[&one, &two], &[2, 2]);
        drop(two);
        balance(&[&one], &[4]);
        drop(storage_side);
    })
    .await
    .unwrap();
    broker.stop().await;
}

/// Frames by hand.
struct Raw(TcpStream);

impl Raw {
    async fn connect(broker: &Running) -> Self {
        Self(TcpStream::connect(broker.address).await.unwrap())
    }

    async fn send<T: ApiRequest>(&mut self, version: i16, request: &T) {
        self.0.write_all(&frame(version, request)).await.unwrap();
    }

    async fn receive<T: Decodable + HeaderVersion>(&mut self, version: i16) -> T {
        let length = self.0.read_i32().await.unwrap();
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut bytes).await.unwrap();
        let mut bytes = Bytes::from(bytes);
        ResponseHeader::decode(&mut bytes, T::header_version(version)).unwrap();
        let answer = T::decode(&mut bytes, version).unwrap();
        assert!(bytes.is_empty(), "{} bytes too many", bytes.len());
        answer
    }

    async fn call<T: ApiRequest>(&mut self, version: i16, request: &T) -> T::Response {
        self.send(version, request).await;
        self.receive(version).await
    }

    async fn ends(mut self) -> bool {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), self.0.read_to_end(&mut rest)).await;
        // A reset is a close too: bytes of ours were not read.
        read.is_ok_and(|read| read.is_err() || rest.is_empty())
    }
}

fn frame<T: ApiRequest>(version: i16, request: &T) -> Bytes {
    let header = RequestHeader::default()
        .with_request_api_key(T::KEY)
        .with_request_api_version(version)
        .with_correlation_id(7)
        .with_client_id(Some(StrBytes::from_static_str("raw")));
    let mut body = BytesMut::new();
    header.encode(&mut body, T::header_version(version)).unwrap();
    request.encode(&mut body, version).unwrap();
    let mut framed = BytesMut::from(&i32::try_from(body.len()).unwrap().to_be_bytes()[..]);
    framed.extend_from_slice(&body);
    framed.freeze()
}

#[tokio::test]
async fn what_is_no_request_ends_its_connection_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), |_| {}).await;
    let mut other = Raw::connect(&broker).await;
    let cases: [(&str, &[u8]); 9] = [
        ("http", b"GET / HTTP/1.1\r\n\r\n"),
        ("negative length", &[0xff; 4]),
        ("giant length", b"\x7f\xff\xff\xff"),
        ("length just over the limit", &(100i32 << 20).wrapping_add(1).to_be_bytes()),
        ("empty frame", &[0; 4]),
        ("unknown api", b"\0\0\0\x0a\x27\x0f\0\0\0\0\0\x01\xff\xff"),
        ("produce version 2", b"\0\0\0\x0a\0\0\0\x02\0\0\0\x01\xff\xff"),
        ("body cut short", b"\0\0\0\x0c\0\x03\0\x04\0\0\0\x01\xff\xff\0\0"),
        ("array of billions", b"\0\0\0\x0f\0\x03\0\x04\0\0\0\x01\xff\xff\x7f\xff\xff\xf0\0"),
    ];
    for (name, bytes) in cases {
        let mut raw = Raw::connect(&broker).await;
        raw.0.write_all(bytes).await.unwrap();
        assert!(raw.ends().await, "{name}");
        let answer = other.call(0, &ApiVersionsRequest::default()).await;
        assert_eq!(answer.error_code, 0, "after {name}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn an_unknown_version_of_api_versions_is_answered_in_version_0() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), |_| {}).await;
    let mut raw = Raw::connect(&broker).await;
    let mut bytes = frame(3, &ApiVersionsRequest::default()).to_vec();
    bytes[6..8].copy_from_slice(&99i16.to_be_bytes());
    raw.0.write_all(&bytes).await.unwrap();
    let answer: ApiVersionsResponse = raw.receive(0).await;
    let range: Vec<_> = answer.api_keys.iter().map(|a| (a.api_key, a.min_version, a.max_version)).collect();
    assert_eq!((answer.error_code, range), (35, vec![(18, 0, 4)]));
    broker.stop().await;
}

#[tokio::test]
async fn connections_over_the_limit_are_closed() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), |config| config.max_connections = 2).await;
    let (mut one, mut two) = (Raw::connect(&broker).await, Raw::connect(&broker).await);
    for raw in [&mut one, &mut two] {
        raw.call(0, &ApiVersionsRequest::default()).await;
    }
    assert!(Raw::connect(&broker).await.ends().await);
    drop(one);
    // Its place is free as soon as the broker has seen the hang-up.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut raw = Raw::connect(&broker).await;
        raw.send(0, &ApiVersionsRequest::default()).await;
        if raw.0.read_i32().await.is_ok() {
            break;
        }
        assert!(Instant::now() < deadline, "the place stays taken");
    }
    broker.stop().await;
}

#[tokio::test]
async fn half_a_request_and_silence_end_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), |config| {
        config.stall_timeout = millrace_log::value::Span::millis(50);
        config.idle_timeout = millrace_log::value::Span::millis(200);
    })
    .await;
    let mut half = Raw::connect(&broker).await;
    half.0.write_all(&frame(0, &ApiVersionsRequest::default())[..6]).await.unwrap();
    assert!(half.ends().await);
    assert!(Raw::connect(&broker).await.ends().await, "idle");
    broker.stop().await;
}

#[tokio::test]
async fn a_long_poll_ends_at_the_stop_of_the_broker() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), |_| {}).await;
    let mut raw = Raw::connect(&broker).await;
    let name = TopicName(StrBytes::from_static_str("t"));
    let topic = metadata_request::MetadataRequestTopic::default().with_name(Some(name.clone()));
    let metadata = raw.call(4, &MetadataRequest::default().with_topics(Some(vec![topic]))).await;
    assert_eq!((metadata.topics[0].error_code, metadata.topics[0].partitions.len()), (0, 4), "made on first use");
    let partition = fetch_request::FetchPartition::default().with_partition_max_bytes(1000);
    let topic = fetch_request::FetchTopic::default().with_topic(name).with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_max_wait_ms(600_000)
        .with_min_bytes(1)
        .with_max_bytes(1000)
        .with_topics(vec![topic]);
    // It asks for a session, which is made before it waits.
    raw.send(11, &request.with_session_epoch(0)).await;
    while broker.core.sessions.count() == 0 {
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    let (answer, ()) = tokio::join!(raw.receive::<FetchResponse>(11), broker.stop());
    assert_eq!(answer.responses[0].partitions[0].error_code, 0);
    assert!(began.elapsed() < accept::DRAIN, "{:?}", began.elapsed());
}

/// The topic `t` with one partition, and its id.
async fn make_topic(raw: &mut Raw) -> (TopicName, uuid::Uuid) {
    let name = TopicName(StrBytes::from_static_str("t"));
    let new = create_topics_request::CreatableTopic::default().with_name(name.clone());
    let new = new.with_num_partitions(1).with_replication_factor(1);
    let made = raw.call(7, &CreateTopicsRequest::default().with_topics(vec![new]).with_timeout_ms(5000)).await;
    assert_eq!(made.topics[0].error_code, 0, "{made:?}");
    (name, made.topics[0].topic_id)
}

/// One record, as a batch.
fn batch(value: &str) -> Bytes {
    use kafka_protocol::records::*;
    let record = kafka_protocol::records::Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        timestamp_type: TimestampType::Creation,
        offset: 0,
        sequence: NO_SEQUENCE,
        timestamp: SystemClock::shared().now_ms(),
        key: None,
        value: Some(value.to_owned().into()),
        headers: Default::default(),
    };
    let mut out = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut out, [&record], &options).unwrap();
    out.freeze()
}

fn produce(name: &TopicName, acks: i16, index: i32, records: Bytes) -> ProduceRequest {
    let part = produce_request::PartitionProduceData::default().with_index(index).with_records(Some(records));
    let data = produce_request::TopicProduceData::default().with_name(name.clone()).with_partition_data(vec![part]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(5000).with_topic_data(vec![data])
}

#[tokio::test]
async fn pipelined_batches_keep_their_order_and_other_requests_wait_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), |config| config.max_in_flight = 3).await;
    let mut raw = Raw::connect(&broker).await;
    let (name, _) = make_topic(&mut raw).await;
    for i in 0..50 {
        raw.send(9, &produce(&name, -1, 0, batch(&i.to_string()))).await;
    }
    let part = list_offsets_request::ListOffsetsPartition::default().with_timestamp(-1);
    let asked = list_offsets_request::ListOffsetsTopic::default().with_name(name).with_partitions(vec![part]);
    raw.send(7, &ListOffsetsRequest::default().with_topics(vec![asked])).await;
    for i in 0..50 {
        let answer: ProduceResponse = raw.receive(9).await;
        let part = &answer.responses[0].partition_responses[0];
        assert_eq!((part.error_code, part.base_offset), (0, i));
    }
    let end: ListOffsetsResponse = raw.receive(7).await;
    assert_eq!(end.topics[0].partitions[0].offset, 50);
    broker.stop().await;
}

#[tokio::test]
async fn without_acks_there_is_no_answer_and_a_failure_hangs_up() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), |_| {}).await;
    let mut raw = Raw::connect(&broker).await;
    let (name, _) = make_topic(&mut raw).await;
    raw.send(9, &produce(&name, 0, 0, batch("quiet"))).await;
    let next = raw.call(0, &ApiVersionsRequest::default()).await;
    assert_eq!(next.error_code, 0, "the next answer is that of the next request");
    raw.send(9, &produce(&name, 0, 9, batch("nowhere"))).await;
    assert!(raw.ends().await);
    broker.stop().await;
}

#[tokio::test]
async fn topics_are_found_by_id_whatever_name_stands_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), |_| {}).await;
    let mut raw = Raw::connect(&broker).await;
    let (name, id) = make_topic(&mut raw).await;
    for (asked_name, asked_id, want) in [
        (None, id, (0, Some(name.clone()))),
        (Some(TopicName::default()), id, (0, Some(name.clone()))),
        (None, uuid::Uuid::from_u128(7), (Code::UnknownTopicId.code(), None)),
        (Some(name.clone()), uuid::Uuid::nil(), (0, Some(name.clone()))),
    ] {
        let asked = metadata_request::MetadataRequestTopic::default().with_name(asked_name).with_topic_id(asked_id);
        let answer = raw.call(12, &MetadataRequest::default().with_topics(Some(vec![asked]))).await;
        assert_eq!((answer.topics[0].error_code, answer.topics[0].name.clone()), want);
    }
    broker.stop().await;
}

#[tokio::test]
async fn metrics_show_watermarks_and_lags_and_are_zero_from_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::start(dir.path(), |_| {}).await;
    let mut raw = Raw::connect(&broker).await;
    let (name, _) = make_topic(&mut raw).await;
    for _ in 0..3 {
        raw.call(9, &produce(&name, -1, 0, batch("v"))).await;
    }
    let part = offset_commit_request::OffsetCommitRequestPartition::default().with_committed_offset(1);
    let topic = offset_commit_request::OffsetCommitRequestTopic::default().with_name(name).with_partitions(vec![part]);
    let commit = OffsetCommitRequest::default().with_group_id(GroupId(StrBytes::from_static_str("g")));
    let commit = commit.with_generation_id_or_member_epoch(-1).with_topics(vec![topic]);
    assert_eq!(raw.call(8, &commit).await.topics[0].partitions[0].error_code, 0);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &broker.registry).unwrap();
    for line in [
        "millrace_log_high_watermark_offset{topic=\"t\",partition=\"0\"} 3",
        "millrace_log_group_lag_records{group=\"g\",topic=\"t\",partition=\"0\"} 2",
        "millrace_log_group_lags_left_out 0",
        "millrace_log_in_records_total 3",
        "millrace_log_topic_in_records_total{topic=\"t\"} 3",
        "millrace_log_connections{listener=\"default\"} 1",
        "millrace_log_connections_ended_total{listener=\"default\",cause=\"client\"} 0",
        "millrace_log_connections_ended_total{listener=\"default\",cause=\"address_limit\"} 0",
        "millrace_log_request_seconds_count{api=\"Produce\"} 3",
        "millrace_log_produce_wait_seconds_count 3",
        "millrace_log_transaction_states{state=\"Ongoing\"} 0",
        "millrace_log_open_transactions 0",
        "millrace_log_longest_open_transaction_seconds 0.0",
        "millrace_log_transactions_ended_total{outcome=\"timeout\"} 0",
        "millrace_log_transaction_marker_seconds_count 0",
        "millrace_log_transaction_failed_markers_total 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    broker.stop().await;
}

#[test]
fn shapes_agree_with_the_codec_at_every_version() {
    for api in crate::protocol::wire::apis::APIS.iter() {
        for version in api.min..=api.max {
            let flexible = api.key.request_header_version(version) >= 2;
            for body in samples(api.key, version) {
                let result = api.shape.check(&body, version, flexible);
                assert!(result.is_ok(), "{:?} version {version}: {body:?}", api.key);
                for cut in 0..body.len() {
                    let result = api.shape.check(&body[..cut], version, flexible);
                    assert!(result.is_err(), "{:?} version {version} cut at {cut}: {body:?}", api.key);
                }
            }
        }
    }
}

/// Bodies of an API with lists of two elements, as the codec writes them.
fn samples(key: ApiKey, version: i16) -> Vec<Bytes> {
    fn body(request: impl Encodable, version: i16) -> Vec<Bytes> {
        let mut out = BytesMut::new();
        request.encode(&mut out, version).unwrap();
        vec![out.freeze()]
    }
    let v = version;
    let text = StrBytes::from_static_str;
    let topic = || TopicName(text("topic"));
    match key {
        ApiKey::SaslAuthenticate => {
            body(SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from_static(b"abc")), v)
        }
        ApiKey::DescribeAcls => body(
            DescribeAclsRequest::default().with_resource_name_filter(Some(text("name"))).with_pattern_type_filter(3),
            v,
        ),
        ApiKey::CreateAcls => {
            let acl = create_acls_request::AclCreation::default().with_principal(text("User:a"));
            body(CreateAclsRequest::default().with_creations(vec![acl.clone(), acl]), v)
        }
        ApiKey::DeleteAcls => {
            let filter = delete_acls_request::DeleteAclsFilter::default().with_host_filter(Some(text("*")));
            body(DeleteAclsRequest::default().with_filters(vec![filter.clone(), filter]), v)
        }
        ApiKey::DescribeClientQuotas => {
            let component = describe_client_quotas_request::ComponentData::default().with_entity_type(text("user"));
            body(DescribeClientQuotasRequest::default().with_components(vec![component.clone(), component]), v)
        }
        ApiKey::AlterClientQuotas => {
            let entity = alter_client_quotas_request::EntityData::default().with_entity_type(text("user"));
            let op = alter_client_quotas_request::OpData::default().with_key(text("rate"));
            let entry = alter_client_quotas_request::EntryData::default();
            let entry = entry.with_entity(vec![entity.clone(), entity]).with_ops(vec![op.clone(), op]);
            body(AlterClientQuotasRequest::default().with_entries(vec![entry.clone(), entry]), v)
        }
        ApiKey::DescribeUserScramCredentials => {
            let user = describe_user_scram_credentials_request::UserName::default().with_name(text("user"));
            body(DescribeUserScramCredentialsRequest::default().with_users(Some(vec![user.clone(), user])), v)
        }
        ApiKey::AlterUserScramCredentials => {
            let deletion = alter_user_scram_credentials_request::ScramCredentialDeletion::default();
            let upsertion = alter_user_scram_credentials_request::ScramCredentialUpsertion::default()
                .with_salt(Bytes::from_static(b"abc"));
            let request = AlterUserScramCredentialsRequest::default().with_deletions(vec![deletion.clone(), deletion]);
            body(request.with_upsertions(vec![upsertion.clone(), upsertion]), v)
        }
        ApiKey::Produce => {
            let part = produce_request::PartitionProduceData::default().with_records(Some(Bytes::from_static(b"abc")));
            let mut data = produce_request::TopicProduceData::default().with_partition_data(vec![part.clone(), part]);
            if v < 13 {
                data.name = topic();
            }
            body(ProduceRequest::default().with_topic_data(vec![data.clone(), data]), v)
        }
        ApiKey::Fetch => {
            let part = fetch_request::FetchPartition::default();
            let mut asked = fetch_request::FetchTopic::default().with_partitions(vec![part.clone(), part]);
            let mut request = FetchRequest::default();
            if v >= 7 {
                let forgotten = fetch_request::ForgottenTopic::default().with_partitions(vec![1, 2]);
                request.forgotten_topics_data = vec![forgotten.clone(), forgotten];
            }
            if v < 13 {
                asked.topic = topic();
            }
            body(request.with_topics(vec![asked.clone(), asked]), v)
        }
        ApiKey::ListOffsets => {
            let part = list_offsets_request::ListOffsetsPartition::default();
            let asked = list_offsets_request::ListOffsetsTopic::default().with_name(topic());
            body(ListOffsetsRequest::default().with_topics(vec![asked.with_partitions(vec![part.clone(), part])]), v)
        }
        ApiKey::Metadata => {
            let asked = metadata_request::MetadataRequestTopic::default().with_name(Some(topic()));
            body(MetadataRequest::default().with_topics(Some(vec![asked.clone(), asked])), v)
        }
        ApiKey::OffsetCommit => {
            let part = offset_commit_request::OffsetCommitRequestPartition::default();
            let asked = offset_commit_request::OffsetCommitRequestTopic::default().with_name(topic());
            body(OffsetCommitRequest::default().with_topics(vec![asked.with_partitions(vec![part.clone(), part])]), v)
        }
        ApiKey::OffsetFetch if v < 8 => {
            let asked = offset_fetch_request::OffsetFetchRequestTopic::default().with_partition_indexes(vec![1, 2]);
            body(OffsetFetchRequest::default().with_topics(Some(vec![asked.clone(), asked])), v)
        }
        ApiKey::OffsetFetch => {
            let asked = offset_fetch_request::OffsetFetchRequestTopics::default().with_partition_indexes(vec![1, 2]);
            let group = offset_fetch_request::OffsetFetchRequestGroup::default().with_topics(Some(vec![asked]));
            body(OffsetFetchRequest::default().with_groups(vec![group.clone(), group]), v)
        }
        ApiKey::FindCoordinator if v < 4 => body(FindCoordinatorRequest::default().with_key(text("g")), v),
        ApiKey::FindCoordinator => {
            body(FindCoordinatorRequest::default().with_coordinator_keys(vec![text("a"), text("b")]), v)
        }
        ApiKey::JoinGroup => {
            let protocol =
                join_group_request::JoinGroupRequestProtocol::default().with_metadata(Bytes::from_static(b"m"));
            body(JoinGroupRequest::default().with_protocols(vec![protocol.clone(), protocol]), v)
        }
        ApiKey::Heartbeat => body(HeartbeatRequest::default().with_member_id(text("m")), v),
        ApiKey::LeaveGroup if v < 3 => body(LeaveGroupRequest::default().with_member_id(text("m")), v),
        ApiKey::LeaveGroup => {
            let member = leave_group_request::MemberIdentity::default().with_member_id(text("m"));
            body(LeaveGroupRequest::default().with_members(vec![member.clone(), member]), v)
        }
        ApiKey::SyncGroup => {
            let given =
                sync_group_request::SyncGroupRequestAssignment::default().with_assignment(Bytes::from_static(b"a"));
            body(SyncGroupRequest::default().with_assignments(vec![given.clone(), given]), v)
        }
        ApiKey::DescribeGroups => {
            body(DescribeGroupsRequest::default().with_groups(vec![GroupId(text("a")), GroupId(text("b"))]), v)
        }
        ApiKey::ListGroups => {
            let mut request = ListGroupsRequest::default();
            if v >= 4 {
                request.states_filter = vec![text("Stable"), text("Empty")];
            }
            body(request, v)
        }
        ApiKey::SaslHandshake => body(SaslHandshakeRequest::default().with_mechanism(text("PLAIN")), v),
        ApiKey::ApiVersions => body(ApiVersionsRequest::default(), v),
        ApiKey::CreateTopics => {
            let replicas =
                create_topics_request::CreatableReplicaAssignment::default().with_broker_ids(vec![BrokerId(1)]);
            let config = create_topics_request::CreatableTopicConfig::default().with_name(text("n"));
            let asked =
                create_topics_request::CreatableTopic::default().with_assignments(vec![replicas.clone(), replicas]);
            body(CreateTopicsRequest::default().with_topics(vec![asked.with_configs(vec![config.clone(), config])]), v)
        }
        ApiKey::DeleteTopics if v < 6 => body(DeleteTopicsRequest::default().with_topic_names(vec![topic()]), v),
        ApiKey::DeleteTopics => {
            let asked = delete_topics_request::DeleteTopicState::default();
            body(DeleteTopicsRequest::default().with_topics(vec![asked.clone(), asked]), v)
        }
        ApiKey::DeleteRecords => {
            let part = delete_records_request::DeleteRecordsPartition::default();
            let asked = delete_records_request::DeleteRecordsTopic::default().with_partitions(vec![part.clone(), part]);
            body(DeleteRecordsRequest::default().with_topics(vec![asked.clone(), asked]), v)
        }
        ApiKey::InitProducerId => body(InitProducerIdRequest::default(), v),
        ApiKey::AddPartitionsToTxn => {
            let asked = add_partitions_to_txn_request::AddPartitionsToTxnTopic::default()
                .with_name(topic())
                .with_partitions(vec![1, 2]);
            let asked = vec![asked.clone(), asked];
            if v < 4 {
                return body(AddPartitionsToTxnRequest::default().with_v3_and_below_topics(asked), v);
            }
            let one = add_partitions_to_txn_request::AddPartitionsToTxnTransaction::default().with_topics(asked);
            body(AddPartitionsToTxnRequest::default().with_transactions(vec![one.clone(), one]), v)
        }
        ApiKey::AddOffsetsToTxn => body(AddOffsetsToTxnRequest::default().with_group_id(GroupId(text("g"))), v),
        ApiKey::EndTxn => body(EndTxnRequest::default().with_transactional_id(TransactionalId(text("x"))), v),
        ApiKey::WriteTxnMarkers => {
            let asked = write_txn_markers_request::WritableTxnMarkerTopic::default().with_partition_indexes(vec![1, 2]);
            let marker =
                write_txn_markers_request::WritableTxnMarker::default().with_topics(vec![asked.clone(), asked]);
            body(WriteTxnMarkersRequest::default().with_markers(vec![marker.clone(), marker]), v)
        }
        ApiKey::TxnOffsetCommit => {
            let part = txn_offset_commit_request::TxnOffsetCommitRequestPartition::default();
            let asked = txn_offset_commit_request::TxnOffsetCommitRequestTopic::default().with_name(topic());
            body(
                TxnOffsetCommitRequest::default().with_topics(vec![asked.with_partitions(vec![part.clone(), part])]),
                v,
            )
        }
        ApiKey::DescribeTransactions => {
            let ids = vec![TransactionalId(text("a")), TransactionalId(text("b"))];
            body(DescribeTransactionsRequest::default().with_transactional_ids(ids), v)
        }
        ApiKey::ListTransactions => {
            let request = ListTransactionsRequest::default()
                .with_state_filters(vec![text("Ongoing"), text("Empty")])
                .with_producer_id_filters(vec![ProducerId(1), ProducerId(2)]);
            let mut bodies = body(request.clone(), v);
            if v >= 2 {
                bodies.extend(body(request.with_transactional_id_pattern(Some(text("a.*"))), v));
            }
            bodies
        }
        ApiKey::OffsetForLeaderEpoch => {
            let part = offset_for_leader_epoch_request::OffsetForLeaderPartition::default();
            let asked = offset_for_leader_epoch_request::OffsetForLeaderTopic::default();
            body(
                OffsetForLeaderEpochRequest::default()
                    .with_topics(vec![asked.with_partitions(vec![part.clone(), part])]),
                v,
            )
        }
        ApiKey::DescribeConfigs => {
            let asked = describe_configs_request::DescribeConfigsResource::default();
            let asked = asked.with_configuration_keys(Some(vec![text("a"), text("b")]));
            body(DescribeConfigsRequest::default().with_resources(vec![asked.clone(), asked]), v)
        }
        ApiKey::AlterConfigs => {
            let config = alter_configs_request::AlterableConfig::default();
            let asked =
                alter_configs_request::AlterConfigsResource::default().with_configs(vec![config.clone(), config]);
            body(AlterConfigsRequest::default().with_resources(vec![asked.clone(), asked]), v)
        }
        ApiKey::DescribeLogDirs => {
            let asked = describe_log_dirs_request::DescribableLogDirTopic::default().with_partitions(vec![1, 2]);
            body(DescribeLogDirsRequest::default().with_topics(Some(vec![asked.clone(), asked])), v)
        }
        ApiKey::CreatePartitions => {
            let replicas =
                create_partitions_request::CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(1)]);
            let asked = create_partitions_request::CreatePartitionsTopic::default();
            body(CreatePartitionsRequest::default().with_topics(vec![asked.with_assignments(Some(vec![replicas]))]), v)
        }
        ApiKey::DeleteGroups => body(DeleteGroupsRequest::default().with_groups_names(vec![GroupId(text("a"))]), v),
        ApiKey::ElectLeaders => {
            let asked = elect_leaders_request::TopicPartitions::default().with_partitions(vec![1, 2]);
            body(ElectLeadersRequest::default().with_topic_partitions(Some(vec![asked.clone(), asked])), v)
        }
        ApiKey::AlterPartitionReassignments => {
            let partition = alter_partition_reassignments_request::ReassignablePartition::default()
                .with_replicas(Some(vec![BrokerId(1), BrokerId(2)]));
            let asked = alter_partition_reassignments_request::ReassignableTopic::default()
                .with_name(topic())
                .with_partitions(vec![partition.clone(), partition]);
            body(AlterPartitionReassignmentsRequest::default().with_topics(vec![asked]), v)
        }
        ApiKey::DescribeQuorum => {
            let partition = describe_quorum_request::PartitionData::default();
            let asked = describe_quorum_request::TopicData::default()
                .with_topic_name(topic())
                .with_partitions(vec![partition.clone(), partition]);
            body(DescribeQuorumRequest::default().with_topics(vec![asked]), v)
        }
        ApiKey::UpdateFeatures => {
            let update = update_features_request::FeatureUpdateKey::default().with_feature(text("f"));
            body(UpdateFeaturesRequest::default().with_feature_updates(vec![update.clone(), update]), v)
        }
        ApiKey::IncrementalAlterConfigs => {
            let config = incremental_alter_configs_request::AlterableConfig::default();
            let asked = incremental_alter_configs_request::AlterConfigsResource::default();
            let asked = asked.with_configs(vec![config.clone(), config]);
            body(IncrementalAlterConfigsRequest::default().with_resources(vec![asked]), v)
        }
        ApiKey::ListPartitionReassignments => {
            let asked = list_partition_reassignments_request::ListPartitionReassignmentsTopics::default();
            let asked = asked.with_partition_indexes(vec![1, 2]);
            body(ListPartitionReassignmentsRequest::default().with_topics(Some(vec![asked.clone(), asked])), v)
        }
        ApiKey::OffsetDelete => {
            let part = offset_delete_request::OffsetDeleteRequestPartition::default();
            let asked =
                offset_delete_request::OffsetDeleteRequestTopic::default().with_partitions(vec![part.clone(), part]);
            body(OffsetDeleteRequest::default().with_topics(vec![asked.clone(), asked]), v)
        }
        ApiKey::DescribeCluster => body(DescribeClusterRequest::default(), v),
        ApiKey::DescribeProducers => {
            let asked = describe_producers_request::TopicRequest::default().with_partition_indexes(vec![1, 2]);
            body(DescribeProducersRequest::default().with_topics(vec![asked.clone(), asked]), v)
        }
        ApiKey::DescribeTopicPartitions => {
            let asked = describe_topic_partitions_request::TopicRequest::default().with_name(topic());
            let cursor = describe_topic_partitions_request::Cursor::default().with_topic_name(topic());
            let request = DescribeTopicPartitionsRequest::default().with_topics(vec![asked.clone(), asked]);
            let mut bodies = body(request.clone(), v);
            bodies.extend(body(request.with_cursor(Some(cursor)), v));
            bodies
        }
        ApiKey::ConsumerGroupHeartbeat => {
            let owned = consumer_group_heartbeat_request::TopicPartitions::default().with_partitions(vec![1, 2]);
            let request = ConsumerGroupHeartbeatRequest::default()
                .with_subscribed_topic_names(Some(vec![topic(), topic()]))
                .with_topic_partitions(Some(vec![owned.clone(), owned]));
            body(request, v)
        }
        ApiKey::ConsumerGroupDescribe => {
            body(ConsumerGroupDescribeRequest::default().with_group_ids(vec![GroupId(text("a"))]), v)
        }
        ApiKey::ListConfigResources => {
            let request = ListConfigResourcesRequest::default();
            body(if v > 0 { request.with_resource_types(vec![2, 4]) } else { request }, v)
        }
        key => panic!("no sample of {key:?}"),
    }
}

/// Settings, quotas and what else administrators ask for.
mod admin;
