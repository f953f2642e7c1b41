//! Which APIs are served at which versions, and the shape of each request.
//!
//! Out: the table that ApiVersions tells clients and that every request is held to. The versions are those of Apache
//! Kafka 4.1 as far as the codec and the handlers go. Delegation tokens (38 to 41) are not
//! served, so not listed: clients then say so themselves.

use std::sync::LazyLock;

use kafka_protocol::messages::ApiKey;

use crate::protocol::wire::shape::Shape;

/// One API.
#[derive(Debug)]
pub(crate) struct Api {
    pub key: ApiKey,
    pub min: i16,
    pub max: i16,
    pub shape: Shape,
}

const fn api(key: ApiKey, min: i16, max: i16, shape: &'static str) -> Api {
    Api { key, min, max, shape: Shape::new(shape) }
}

/// All APIs by key.
pub(crate) static APIS: LazyLock<Vec<Api>> = LazyLock::new(|| {
    vec![
        api(ApiKey::Produce, 3, 13, "s@3+ 2 4 [ s@0-12 16@13+ [ 4 b ] ]"),
        api(
            ApiKey::Fetch,
            4,
            18,
            "4@0-14 4 4 4@3+ 1@4+ 4@7+ 4@7+ [ s@0-12 16@13+ [ 4 4@9+ 8 4@12+ 8@5+ 4 < 0 16 >@17+ < 1 8 >@18+ ] ] \
             [ s@7-12 16@13+ ( 4 ) ]@7+ s@11+ < 0 s >@12+ << 1 4 8 >>@15+",
        ),
        api(ApiKey::ListOffsets, 1, 10, "4 1@2+ [ s [ 4 4@4+ 8 ] ] 4@10+"),
        api(ApiKey::Metadata, 0, 13, "[ 16@10+ s ] 1@4+ 1@8-10 1@8+"),
        api(ApiKey::OffsetCommit, 2, 9, "s 4 s s@7+ 8@2-4 [ s [ 4 8 4@6+ s ] ]"),
        api(ApiKey::OffsetFetch, 1, 9, "s@0-7 [ s ( 4 ) ]@0-7 [ s s@9+ 4@9+ [ s ( 4 ) ] ]@8+ 1@7+"),
        api(ApiKey::FindCoordinator, 0, 6, "s@0-3 1@1+ ( s )@4+"),
        api(ApiKey::JoinGroup, 0, 9, "s 4 4@1+ s s@5+ s [ s b ] s@8+"),
        api(ApiKey::Heartbeat, 0, 4, "s 4 s s@3+"),
        api(ApiKey::LeaveGroup, 0, 5, "s s@0-2 [ s s s@5+ ]@3+"),
        api(ApiKey::SyncGroup, 0, 5, "s 4 s s@3+ s@5+ s@5+ [ s b ]"),
        api(ApiKey::DescribeGroups, 0, 6, "( s ) 1@3+"),
        api(ApiKey::ListGroups, 0, 5, "( s )@4+ ( s )@5+"),
        api(ApiKey::SaslHandshake, 0, 1, "s"),
        api(ApiKey::ApiVersions, 0, 4, "s@3+ s@3+"),
        api(ApiKey::CreateTopics, 2, 7, "[ s 4 2 [ 4 ( 4 ) ] [ s s ] ] 4 1"),
        api(ApiKey::DeleteTopics, 1, 6, "[ s 16 ]@6+ ( s )@0-5 4"),
        api(ApiKey::DeleteRecords, 0, 2, "[ s [ 4 8 ] ] 4"),
        api(ApiKey::InitProducerId, 0, 5, "s 4 8@3+ 2@3+"),
        api(ApiKey::AddPartitionsToTxn, 0, 5, "[ s 8 2 1 [ s ( 4 ) ] ]@4+ s@0-3 8@0-3 2@0-3 [ s ( 4 ) ]@0-3"),
        api(ApiKey::AddOffsetsToTxn, 0, 4, "s 8 2 s"),
        api(ApiKey::EndTxn, 0, 5, "s 8 2 1"),
        api(ApiKey::WriteTxnMarkers, 1, 1, "[ 8 2 1 [ s ( 4 ) ] 4 ]"),
        api(ApiKey::TxnOffsetCommit, 0, 5, "s s 8 2 4@3+ s@3+ s@3+ [ s [ 4 8 4@2+ s ] ]"),
        api(ApiKey::OffsetForLeaderEpoch, 2, 4, "4@3+ [ s [ 4 4 4 ] ]"),
        api(ApiKey::DescribeAcls, 1, 3, "1 s 1 s s 1 1"),
        api(ApiKey::CreateAcls, 1, 3, "[ 1 s 1 s s 1 1 ]"),
        api(ApiKey::DeleteAcls, 1, 3, "[ 1 s 1 s s 1 1 ]"),
        api(ApiKey::DescribeConfigs, 1, 4, "[ 1 s ( s ) ] 1 1@3+"),
        api(ApiKey::AlterConfigs, 0, 2, "[ 1 s [ s s ] ] 1"),
        api(ApiKey::DescribeLogDirs, 1, 4, "[ s ( 4 ) ]"),
        api(ApiKey::SaslAuthenticate, 0, 2, "b"),
        api(ApiKey::CreatePartitions, 0, 3, "[ s 4 [ ( 4 ) ] ] 4 1"),
        api(ApiKey::DeleteGroups, 0, 2, "( s )"),
        api(ApiKey::ElectLeaders, 0, 2, "1@1+ [ s ( 4 ) ] 4"),
        api(ApiKey::IncrementalAlterConfigs, 0, 1, "[ 1 s [ s 1 s ] ] 1"),
        api(ApiKey::AlterPartitionReassignments, 0, 1, "4 1@1+ [ s [ 4 ( 4 ) ] ]"),
        api(ApiKey::ListPartitionReassignments, 0, 0, "4 [ s ( 4 ) ]"),
        api(ApiKey::OffsetDelete, 0, 0, "s [ s [ 4 ] ]"),
        api(ApiKey::DescribeClientQuotas, 0, 1, "[ s 1 s ] 1"),
        api(ApiKey::AlterClientQuotas, 0, 1, "[ [ s s ] [ s 8 1 ] ] 1"),
        api(ApiKey::DescribeUserScramCredentials, 0, 0, "[ s ]"),
        api(ApiKey::AlterUserScramCredentials, 0, 0, "[ s 1 ] [ s 1 4 b b ]"),
        api(ApiKey::DescribeQuorum, 0, 2, "[ s [ 4 ] ]"),
        api(ApiKey::UpdateFeatures, 0, 2, "4 [ s 2 1@0 1@1+ ] 1@1+"),
        api(ApiKey::DescribeCluster, 0, 2, "1 1@1+ 1@2+"),
        api(ApiKey::DescribeProducers, 0, 0, "[ s ( 4 ) ]"),
        api(ApiKey::DescribeTransactions, 0, 0, "( s )"),
        api(ApiKey::ListTransactions, 0, 2, "( s ) ( 8 ) 8@1+ s@2+"),
        api(ApiKey::ConsumerGroupHeartbeat, 0, 1, "s s 4 s s 4 ( s ) s@1+ s [ 16 ( 4 ) ]"),
        api(ApiKey::ConsumerGroupDescribe, 0, 1, "( s ) 1"),
        api(ApiKey::ListConfigResources, 0, 1, "( 1 )@1+"),
        api(ApiKey::DescribeTopicPartitions, 0, 0, "[ s ] 4 { s 4 }"),
    ]
});

/// An API by key.
pub(crate) fn find(key: ApiKey) -> Option<&'static Api> {
    APIS.iter().find(|api| api.key as i16 == key as i16)
}
