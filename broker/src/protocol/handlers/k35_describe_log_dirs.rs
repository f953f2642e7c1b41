//! DescribeLogDirs (key 35), versions 1 to 4. Size of each partition and of the disk (KIP-113, KIP-827).
//!
//! Behaviour: needs Describe on the cluster. There is one folder; without a list, all topics. Versions: 2 flexible, 3 an error for the whole, 4 the
//! disk's size and what is free.

use std::collections::HashSet;

use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName};

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::wire::{once, text};

/// Answers.
pub(crate) async fn handle(cx: &Context, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse {
    if let Err(code) = cx.allowed(Operation::Describe, Resource::Cluster) {
        let answer = DescribeLogDirsResponse::default();
        return if cx.version >= 3 { answer.with_error_code(code.code()) } else { answer };
    }
    let wanted: Vec<(TopicName, Option<HashSet<i32>>)> = match request.topics {
        Some(list) => once(list, |t| t.topic.clone())
            .into_iter()
            .map(|t| (t.topic, Some(t.partitions.into_iter().collect())))
            .collect(),
        None => cx.core.storage.topics().iter().map(|t| (TopicName(text(t.name())), None)).collect(),
    };
    let topics = wanted.into_iter().filter_map(|(name, numbers)| {
        let topic = cx.core.storage.topic(&name.0)?;
        let is_wanted = |number: i32| numbers.as_ref().is_none_or(|list| list.contains(&number));
        let partitions = topic.partitions().into_iter().filter(|p| is_wanted(p.number())).map(|p| {
            DescribeLogDirsPartition::default()
                .with_partition_index(p.number())
                .with_partition_size(i64::try_from(p.size_bytes()).unwrap_or(i64::MAX))
        });
        Some(DescribeLogDirsTopic::default().with_name(name).with_partitions(partitions.collect()))
    });
    let dir = &cx.core.data_dir;
    let mut answer =
        DescribeLogDirsResult::default().with_log_dir(text(&dir.display().to_string())).with_topics(topics.collect());
    if cx.version >= 4 {
        let dir = dir.clone();
        let sizes = tokio::task::spawn_blocking(move || (fs4::total_space(&dir), fs4::available_space(&dir))).await;
        let number = |size: std::io::Result<u64>| size.ok().and_then(|n| i64::try_from(n).ok()).unwrap_or(-1);
        if let Ok((total, free)) = sizes {
            answer = answer.with_total_bytes(number(total)).with_usable_bytes(number(free));
        }
    }
    DescribeLogDirsResponse::default().with_results(vec![answer])
}
