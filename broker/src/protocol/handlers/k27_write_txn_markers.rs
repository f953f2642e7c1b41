//! WriteTxnMarkers (key 27), version 1. Ends a transaction in single partitions, whatever the coordinator knows of it: what
//! brokers send each other, and how an administrator ends a transaction that hangs (`kafka-transactions.sh abort`, KIP-664).
//! A producer with a higher epoch (INVALID_PRODUCER_EPOCH) or a later coordinator (TRANSACTION_COORDINATOR_FENCED) goes first.

use kafka_protocol::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use kafka_protocol::messages::{WriteTxnMarkersRequest, WriteTxnMarkersResponse};

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::append_code;
use crate::storage::Marker;
use millrace_log::record::TopicPartition;

/// Answers.
pub(crate) async fn handle(cx: &Context, request: WriteTxnMarkersRequest) -> WriteTxnMarkersResponse {
    // Brokers have the one right, administrators the other.
    let allowed = if cx.sees(Operation::Alter, Resource::Cluster) {
        Ok(())
    } else {
        cx.allowed(Operation::ClusterAction, Resource::Cluster)
    };
    let mut results = Vec::with_capacity(request.markers.len());
    for asked in request.markers {
        let marker = Marker { commit: asked.transaction_result, coordinator_epoch: asked.coordinator_epoch };
        let producer = (asked.producer_id.0, asked.producer_epoch);
        let mut topics = Vec::with_capacity(asked.topics.len());
        for topic in asked.topics {
            let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
            for index in topic.partition_indexes {
                let tp = TopicPartition::new(&*topic.name.0, index);
                if let Err(code) = &allowed {
                    let result = WritableTxnMarkerPartitionResult::default().with_partition_index(index);
                    partitions.push(result.with_error_code(code.code()));
                    continue;
                }
                let written = cx.core.transactions.write_marker(&cx.core.groups, &tp, producer, marker).await;
                match &written {
                    Ok(()) => {
                        tracing::info!(partition = %tp, ?producer, ?marker, client = cx.client_id, "marker written on request")
                    }
                    Err(error) => tracing::warn!(partition = %tp, ?producer, ?marker, %error, "marker refused"),
                }
                let code = written.map_or_else(|e| append_code(&e).code(), |()| 0);
                let result = WritableTxnMarkerPartitionResult::default().with_partition_index(index);
                partitions.push(result.with_error_code(code));
            }
            topics.push(WritableTxnMarkerTopicResult::default().with_name(topic.name).with_partitions(partitions));
        }
        results.push(WritableTxnMarkerResult::default().with_producer_id(asked.producer_id).with_topics(topics));
    }
    WriteTxnMarkersResponse::default().with_markers(results)
}
