//! Reading and writing in transactions against librdkafka's own broker in memory, which fails as it is told.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;
use crate::client::api::Limits;
use crate::client::group::GroupSettings;
use crate::kafka::ConnectionConfig;

const RECORDS: usize = 20_000;

fn connection(cluster: &MockCluster<'_, DefaultProducerContext>) -> ConnectionConfig {
    let options = [("retry.backoff.ms", "20"), ("retry.backoff.max.ms", "50")];
    ConnectionConfig {
        brokers: cluster.bootstrap_servers().split(',').map(str::to_owned).collect(),
        options: options.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        ..ConnectionConfig::default()
    }
}

fn output(topic: &str, partition: i32) -> Output {
    Output { topic: topic.into(), partition, ..Output::default() }
}

#[test]
fn records_that_come_back_during_an_abort_do_not_hold_up_the_next_copy() {
    let cluster = MockCluster::new(1).expect("a cluster");
    for topic in ["from", "to"] {
        cluster.create_topic(topic, 1, 1).expect("a topic");
    }
    let connection = connection(&cluster);
    let mut feed = rdkafka::ClientConfig::new();
    let feed: BaseProducer = feed.set("bootstrap.servers", cluster.bootstrap_servers()).create().expect("a producer");
    feed.send(BaseRecord::<[u8], [u8]>::to("from").payload(&b"record"[..])).expect("is queued");
    feed.flush(STEP).expect("is sent");
    let settings = GroupSettings {
        topics: vec!["from".to_owned()],
        group: "group".to_owned(),
        identity: "group-1".to_owned(),
        refresh: None,
    };
    let reader = GroupReader::<SourceRecord>::open(&connection, settings).expect("a reader");
    let settings = WriterSettings { transaction_timeout: STEP, max_batch_bytes: 1_000_000 };
    let writer = TransactionWriter::open(&reader, settings).expect("a writer");
    reader.join();
    let limits = Limits { records: 1, bytes: 1_000_000, wait: STEP, linger: Duration::ZERO };
    let records = reader.poll(&limits).expect("a batch");
    assert_eq!(records.len(), 1, "{reader:?}");
    let next: Vec<_> = records.iter().map(|record| (record.partition.clone(), record.offset + 1)).collect();
    let source = Source { generation: reader.generation(), records: &records, next: &next };
    writer.write(source, &[output("to", 0)], &|_| false).expect("is copied");
    // Answers take their time, so that records are on their way at the abort, and then tell to send these again.
    cluster.broker_round_trip_time(1, Duration::from_millis(300)).expect("is slow");
    let come_again = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS;
    cluster.request_errors(RDKafkaApiKey::Produce, &vec![come_again; 1000]);
    let mut outputs = vec![output("to", 0); RECORDS];
    outputs.push(output("to", 7));
    let begun = Instant::now();
    // The first is on its way once it is waited for, and the last can't be sent.
    let failed = writer.write(source, &outputs, &|_| false).expect_err("there is no such partition");
    assert!(matches!(failed, TransactionError::Aborted { step: "sending", .. }), "{failed}");
    assert!(begun.elapsed() < STEP / 3, "the abort took {:?}", begun.elapsed());
    cluster.clear_request_errors(RDKafkaApiKey::Produce);
    writer.write(source, &[output("to", 0)], &|_| false).expect("the same writer goes on");
}
