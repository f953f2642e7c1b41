//! The client against the embedded broker.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::collections::BTreeMap;

use millrace_broker::{Broker, BrokerConfig};
use millrace_log::admin::*;
use millrace_log::client::ConnectionConfig;
use millrace_log::clock::SystemClock;
use millrace_log::fs::RealFs;
use millrace_log::record::TopicPartition;
use tokio_util::sync::CancellationToken;

/// Asks a fresh broker what `ask` wants to know.
async fn with_broker<F: Future>(ask: impl FnOnce(Admin) -> F) -> F::Output {
    let folder = tempfile::tempdir().unwrap();
    let config = BrokerConfig { listen: "127.0.0.1:0".to_owned(), ..BrokerConfig::default() };
    let mut registry = prometheus_client::registry::Registry::default();
    let broker = Broker::open(config, folder.path(), RealFs::shared(), SystemClock::shared(), &mut registry);
    let broker = broker.await.unwrap();
    let address = broker.bind().await.unwrap();
    let token = CancellationToken::new();
    let stop = token.clone();
    #[allow(clippy::disallowed_methods)] // a test's own task
    let serving = tokio::task::spawn(async move { broker.run(stop).await });
    let config = ConnectionConfig { brokers: vec![address.to_string()], ..ConnectionConfig::default() };
    let told = ask(Admin::connect(&config).await.unwrap()).await;
    token.cancel();
    serving.await.unwrap().unwrap();
    told
}

#[tokio::test]
async fn topics_are_made_changed_and_deleted() {
    with_broker(|mut admin| async move {
        let new = NewTopic {
            name: "logs".to_owned(),
            partitions: 2,
            replication: -1,
            settings: vec![("retention.ms".to_owned(), "1000".to_owned())],
        };
        assert_eq!(admin.create_topic(&new, false).await.unwrap(), 2);
        assert_eq!(admin.create_topic(&new, false).await.unwrap_err().code(), Some(36));
        admin.grow_topic("logs", 3).await.unwrap();
        admin
            .alter_topic("logs", &[("segment.ms".to_owned(), "5".to_owned())], &["retention.ms".to_owned()])
            .await
            .unwrap();
        let topic = admin.topic("logs").await.unwrap();
        assert_eq!(topic.partitions.len(), 3);
        let settings = admin.settings(&["logs"], None).await.unwrap();
        let set: Vec<&str> = settings["logs"].iter().filter(|s| s.is_set).map(|s| s.name.as_str()).collect();
        assert_eq!(set, ["segment.ms"]);
        let ends = admin.offsets(std::slice::from_ref(&topic), OffsetAt::End).await.unwrap();
        assert_eq!(ends.values().copied().collect::<Vec<_>>(), [0, 0, 0]);
        assert_eq!(admin.sizes(std::slice::from_ref(&topic)).await.unwrap().len(), 3);
        assert_eq!(admin.trim(&topic, &BTreeMap::from([(1, -1)])).await.unwrap(), BTreeMap::from([(1, 0)]));
        admin.delete_topic("logs").await.unwrap();
        let gone = admin.topic("logs").await.unwrap_err().to_string();
        assert!(gone.contains("topic `logs`") && gone.contains("UNKNOWN_TOPIC_OR_PARTITION"), "{gone}");
    })
    .await;
}

#[tokio::test]
async fn offsets_of_groups_are_set_and_deleted() {
    with_broker(|mut admin| async move {
        let new = NewTopic { name: "logs".to_owned(), partitions: 1, replication: -1, settings: Vec::new() };
        admin.create_topic(&new, false).await.unwrap();
        let at = BTreeMap::from([(TopicPartition::new("logs", 0), 7)]);
        admin.commit("readers", &at).await.unwrap();
        let told = admin.committed("readers").await.unwrap();
        assert_eq!(told[&TopicPartition::new("logs", 0)].offset, 7);
        let listed = admin.groups().await.unwrap();
        assert_eq!((listed[0].group.as_str(), listed[0].state.as_str()), ("readers", "Empty"));
        assert!(admin.group("readers").await.unwrap().members.is_empty());
        admin.delete_group("readers").await.unwrap();
        assert_eq!(admin.group("readers").await.unwrap_err().code(), Some(69));
    })
    .await;
}

#[tokio::test]
async fn nobody_there_is_told_with_the_address() {
    let config = ConnectionConfig { brokers: vec!["127.0.0.1:9".to_owned()], ..ConnectionConfig::default() };
    let error = Admin::connect(&config).await.unwrap_err();
    assert!(error.is_unavailable() && error.to_string().contains("127.0.0.1:9"), "{error}");
}
