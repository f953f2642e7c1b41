//! Hostile and slow clients: what they may take, and that others don't notice.

use std::time::Instant;

use kafka_protocol::messages::*;
use millrace_broker::LimitsConfig;
use millrace_log::value::Span;

use super::*;

/// A plain broker with one listener.
fn plain(limits: LimitsConfig) -> BrokerConfig {
    BrokerConfig { listeners: vec![ListenerConfig { limits, ..door("plain") }], ..BrokerConfig::default() }
}

pub(super) async fn make_topic(raw: &mut Raw) {
    let topic = create_topics_request::CreatableTopic::default();
    let topic = topic.with_name(TopicName(text("t"))).with_num_partitions(1).with_replication_factor(1);
    let answer = raw.call(5, &CreateTopicsRequest::default().with_topics(vec![topic])).await.unwrap();
    assert_eq!(answer.topics[0].error_code, 0);
}

pub(super) fn produce(size: usize) -> ProduceRequest {
    use kafka_protocol::records::*;
    let record = Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset: 0,
        sequence: -1,
        timestamp: SystemClock::shared().now_ms(),
        key: None,
        value: Some(vec![b'x'; size].into()),
        headers: Default::default(),
    };
    let mut batch = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut batch, [&record], &options).unwrap();
    let part = produce_request::PartitionProduceData::default().with_records(Some(batch.freeze()));
    let topic = produce_request::TopicProduceData::default().with_name(TopicName(text("t")));
    ProduceRequest::default()
        .with_acks(1)
        .with_timeout_ms(1000)
        .with_topic_data(vec![topic.with_partition_data(vec![part])])
}

pub(super) fn fetch() -> FetchRequest {
    let part = fetch_request::FetchPartition::default().with_partition_max_bytes(50 << 20);
    let topic = fetch_request::FetchTopic::default().with_topic(TopicName(text("t"))).with_partitions(vec![part]);
    FetchRequest::default().with_max_bytes(50 << 20).with_min_bytes(1).with_max_wait_ms(100).with_topics(vec![topic])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connections_and_slow_readers_hold_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = guarded();
    config.authorization.enabled = false;
    config.stall_timeout = Span(Duration::from_millis(700));
    config.listeners.push(door("plain"));
    let broker = Running::start(dir.path(), config).await;
    let mut good = Raw::connect(broker.door("plain")).await;
    make_topic(&mut good).await;
    for _ in 0..20 {
        assert_eq!(good.call(9, &produce(900 << 10)).await.unwrap().responses[0].partition_responses[0].error_code, 0);
    }
    let mut hostile = Vec::new();
    // Some never log in, some send half a frame, some announce a large one, some never read 18 MB that they asked for.
    for i in 0..40u32 {
        let mut raw = Raw::connect(broker.door(if i % 4 == 0 { "sasl" } else { "plain" })).await;
        match i % 4 {
            1 => raw.0.write_all(&[0, 0, 1, 0, 0]).await.unwrap(),
            2 => raw.0.write_all(&(90u32 << 20).to_be_bytes()).await.unwrap(),
            3 => raw.send(4, &fetch()).await.unwrap(),
            _ => {}
        }
        hostile.push(raw);
    }
    let mut slowest = Duration::ZERO;
    let began = Instant::now();
    // Drips: a byte now and then is no progress.
    let mut drips = 0;
    while began.elapsed() < Duration::from_millis(1500) {
        let asked = Instant::now();
        let answer = good.call(9, &produce(100)).await.unwrap();
        assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
        slowest = slowest.max(asked.elapsed());
        for raw in hostile.iter_mut().skip(1).step_by(4) {
            drips += usize::from(raw.0.write_all(b"x").await.is_ok());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Generous, for a busy machine: one that is held up waits for a stall after the other.
    assert!(slowest < Duration::from_secs(4), "{slowest:?} after {drips} drips");
    broker.tells("millrace_log_connections_ended_total{listener=\"plain\",cause=\"stalled\"} 30").await;
    broker.stop().await;
}

#[tokio::test]
async fn one_address_may_hold_only_so_many_connections() {
    let dir = tempfile::tempdir().unwrap();
    let limits = LimitsConfig { max_connections_per_address: 3, ..LimitsConfig::default() };
    let broker = Running::start(dir.path(), plain(limits)).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut raw = Raw::connect(broker.door("plain")).await;
        assert!(raw.call(0, &ApiVersionsRequest::default()).await.is_some());
        held.push(raw);
    }
    assert!(Raw::connect(broker.door("plain")).await.is_ended().await);
    broker.tells("millrace_log_connections_ended_total{listener=\"plain\",cause=\"address_limit\"} 1").await;
    broker.tells("millrace_log_connections{listener=\"plain\"} 3").await;
    held.pop();
    broker.tells("millrace_log_connections{listener=\"plain\"} 2").await;
    assert!(Raw::connect(broker.door("plain")).await.call(0, &ApiVersionsRequest::default()).await.is_some());
    broker.stop().await;
}

#[tokio::test]
async fn strangers_take_only_their_part_of_the_connections() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = guarded();
    config.listeners[0].limits.max_unauthenticated = 4;
    let broker = Running::start(dir.path(), config).await;
    let mut strangers = Vec::new();
    for _ in 0..2 {
        strangers.push(Raw::connect(broker.door("sasl")).await);
    }
    broker.tells("millrace_log_connections{listener=\"sasl\"} 2").await;
    assert!(Raw::connect(broker.door("sasl")).await.is_ended().await);
    strangers.pop();
    broker.tells("millrace_log_connections{listener=\"sasl\"} 1").await;
    for _ in 0..5 {
        let known = Raw::log_in(broker.door("sasl"), "alice", "wonder").await;
        strangers.push(known);
    }
    broker.tells("millrace_log_connections_ended_total{listener=\"sasl\",cause=\"login_limit\"} 1").await;
    broker.stop().await;
}

#[tokio::test]
async fn who_asks_too_often_is_told_and_not_read_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let limits = LimitsConfig { max_requests_per_second: Some(20), ..LimitsConfig::default() };
    let broker = Running::start(dir.path(), plain(limits)).await;
    let mut raw = Raw::connect(broker.door("plain")).await;
    let began = Instant::now();
    let mut told = 0;
    for _ in 0..30 {
        let answer = raw.call(12, &MetadataRequest::default()).await.unwrap();
        told += u32::from(answer.throttle_time_ms > 0);
    }
    assert!(told >= 9, "{told} of 30");
    assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
    assert!(broker.metrics().contains("millrace_log_throttled_requests_total "));
    broker.stop().await;
}

#[tokio::test]
async fn idle_connections_are_closed_and_listeners_tell_their_own_names() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = plain(LimitsConfig::default());
    config.idle_timeout = Span(Duration::from_millis(100));
    let advertised = Some("kafka.example.org:19092".to_owned());
    config.listeners.push(ListenerConfig { advertised, ..door("public") });
    let broker = Running::start(dir.path(), config).await;
    let plain = broker.door("plain");
    for (name, want) in [
        ("plain", ("127.0.0.1".to_owned(), i32::from(plain.port()))),
        ("public", ("kafka.example.org".to_owned(), 19092)),
    ] {
        let mut raw = Raw::connect(broker.door(name)).await;
        let metadata = raw.call(12, &MetadataRequest::default()).await.unwrap();
        assert_eq!((metadata.brokers[0].host.to_string(), metadata.brokers[0].port), want);
        let group = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")]);
        let found = raw.call(4, &group).await.unwrap();
        assert_eq!((found.coordinators[0].host.to_string(), found.coordinators[0].port), want);
        let cluster = raw.call(0, &DescribeClusterRequest::default()).await.unwrap();
        assert_eq!((cluster.brokers[0].host.to_string(), cluster.brokers[0].port), want);
        assert!(raw.is_ended().await);
        broker.tells(&format!("millrace_log_connections_ended_total{{listener=\"{name}\",cause=\"idle\"}} 1")).await;
    }
    broker.stop().await;
}
