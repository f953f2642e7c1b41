//! Throttling: how long a client that asks too often should wait: `throttle_time_ms` of its answer (KIP-219).
//!
//! In: a framed answer. Out: the same with the time filled in. Touches nothing. The answer itself comes at once; the
//! connection is not read until the time is over, so that a client that does not listen gains nothing.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;

/// Where an answer has the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ThrottleField {
    Nowhere,
    First,
    /// Behind an error code.
    Second,
    /// Before the tagged fields of the whole.
    Last,
}

fn place(key: ApiKey, version: i16) -> ThrottleField {
    let first_since = match key {
        ApiKey::Produce => return ThrottleField::Last,
        ApiKey::ApiVersions if version >= 1 => return ThrottleField::Last,
        ApiKey::OffsetDelete => return ThrottleField::Second,
        ApiKey::Fetch
        | ApiKey::FindCoordinator
        | ApiKey::Heartbeat
        | ApiKey::LeaveGroup
        | ApiKey::SyncGroup
        | ApiKey::DescribeGroups
        | ApiKey::ListGroups
        | ApiKey::DeleteTopics => 1,
        ApiKey::ListOffsets | ApiKey::JoinGroup | ApiKey::CreateTopics | ApiKey::OffsetForLeaderEpoch => 2,
        ApiKey::Metadata | ApiKey::OffsetCommit | ApiKey::OffsetFetch => 3,
        ApiKey::SaslHandshake | ApiKey::SaslAuthenticate | ApiKey::ApiVersions => i16::MAX,
        ApiKey::DeleteRecords
        | ApiKey::InitProducerId
        | ApiKey::AddPartitionsToTxn
        | ApiKey::AddOffsetsToTxn
        | ApiKey::EndTxn
        | ApiKey::TxnOffsetCommit
        | ApiKey::DescribeAcls
        | ApiKey::CreateAcls
        | ApiKey::DeleteAcls
        | ApiKey::DescribeConfigs
        | ApiKey::AlterConfigs
        | ApiKey::DescribeLogDirs
        | ApiKey::CreatePartitions
        | ApiKey::DeleteGroups
        | ApiKey::ElectLeaders
        | ApiKey::IncrementalAlterConfigs
        | ApiKey::AlterPartitionReassignments
        | ApiKey::ListPartitionReassignments
        | ApiKey::UpdateFeatures
        | ApiKey::DescribeClientQuotas
        | ApiKey::AlterClientQuotas
        | ApiKey::DescribeUserScramCredentials
        | ApiKey::AlterUserScramCredentials
        | ApiKey::DescribeCluster
        | ApiKey::DescribeProducers
        | ApiKey::DescribeTransactions
        | ApiKey::ListTransactions
        | ApiKey::ConsumerGroupHeartbeat
        | ApiKey::ConsumerGroupDescribe
        | ApiKey::DescribeTopicPartitions => 0,
        _ => i16::MAX,
    };
    if version >= first_since { ThrottleField::First } else { ThrottleField::Nowhere }
}

/// Fills in how long the client should wait.
pub(crate) fn set_throttle_time(answer: Bytes, key: ApiKey, version: i16, wait: Duration) -> Bytes {
    // Length and correlation id, then the tagged fields of the header in flexible versions: none, which is one byte.
    let header = 8 + usize::from(key.response_header_version(version) >= 1);
    let is_flexible = key.request_header_version(version) >= 2;
    let at = match place(key, version) {
        ThrottleField::Nowhere => return answer,
        ThrottleField::First => header,
        ThrottleField::Second => header + 2,
        // Where the answer ends in tagged fields the place is not known: the mute alone must do.
        ThrottleField::Last if is_flexible && answer.last() != Some(&0) => return answer,
        ThrottleField::Last => answer.len().saturating_sub(4 + usize::from(is_flexible)),
    };
    let mut answer = BytesMut::from(answer);
    // Rounded up: a client that waits this long is not throttled again.
    let ms = i32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
    if at >= header
        && let Some(field) = answer.get_mut(at..at + 4)
    {
        field.copy_from_slice(&ms.to_be_bytes());
    }
    answer.freeze()
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::*;
    use kafka_protocol::protocol::{Decodable, HeaderVersion};

    use super::*;
    use crate::protocol::wire::framed;

    fn decoded<T: Decodable + HeaderVersion>(told: &Bytes, version: i16) -> T {
        let mut rest = told.slice(4..);
        ResponseHeader::decode(&mut rest, T::header_version(version)).unwrap();
        let answer = T::decode(&mut rest, version).unwrap();
        assert!(rest.is_empty());
        answer
    }

    #[test]
    fn the_time_stands_where_clients_read_it() {
        let wait = Duration::from_micros(1_500_001);
        macro_rules! check {
            ($($key:ident $answer:ident $versions:expr;)+) => {$(
                for version in $versions {
                    let framed = framed(7, version, &$answer::default()).unwrap();
                    let told = set_throttle_time(framed, ApiKey::$key, version, wait);
                    assert_eq!(decoded::<$answer>(&told, version).throttle_time_ms, 1501, "{} {version}", stringify!($key));
                }
            )+};
        }
        check! {
            Produce ProduceResponse 3..=13;
            Fetch FetchResponse 4..=17;
            ListOffsets ListOffsetsResponse 2..=10;
            Metadata MetadataResponse 3..=13;
            OffsetCommit OffsetCommitResponse 3..=9;
            OffsetFetch OffsetFetchResponse 3..=9;
            FindCoordinator FindCoordinatorResponse 1..=6;
            JoinGroup JoinGroupResponse 2..=9;
            Heartbeat HeartbeatResponse 1..=4;
            LeaveGroup LeaveGroupResponse 1..=5;
            SyncGroup SyncGroupResponse 1..=5;
            DescribeGroups DescribeGroupsResponse 1..=6;
            ListGroups ListGroupsResponse 1..=5;
            ApiVersions ApiVersionsResponse 1..=4;
            CreateTopics CreateTopicsResponse 2..=7;
            DeleteTopics DeleteTopicsResponse 1..=6;
            DeleteRecords DeleteRecordsResponse 0..=2;
            InitProducerId InitProducerIdResponse 0..=5;
            OffsetForLeaderEpoch OffsetForLeaderEpochResponse 2..=4;
            AddPartitionsToTxn AddPartitionsToTxnResponse 0..=5;
            AddOffsetsToTxn AddOffsetsToTxnResponse 0..=4;
            EndTxn EndTxnResponse 0..=5;
            TxnOffsetCommit TxnOffsetCommitResponse 0..=5;
            DescribeAcls DescribeAclsResponse 1..=3;
            CreateAcls CreateAclsResponse 1..=3;
            DeleteAcls DeleteAclsResponse 1..=3;
            DescribeConfigs DescribeConfigsResponse 1..=4;
            AlterConfigs AlterConfigsResponse 0..=2;
            DescribeLogDirs DescribeLogDirsResponse 1..=4;
            CreatePartitions CreatePartitionsResponse 0..=3;
            DeleteGroups DeleteGroupsResponse 0..=2;
            ElectLeaders ElectLeadersResponse 0..=2;
            IncrementalAlterConfigs IncrementalAlterConfigsResponse 0..=1;
            AlterPartitionReassignments AlterPartitionReassignmentsResponse 0..=1;
            UpdateFeatures UpdateFeaturesResponse 0..=2;
            ListPartitionReassignments ListPartitionReassignmentsResponse 0..=0;
            OffsetDelete OffsetDeleteResponse 0..=0;
            DescribeClientQuotas DescribeClientQuotasResponse 0..=1;
            AlterClientQuotas AlterClientQuotasResponse 0..=1;
            DescribeUserScramCredentials DescribeUserScramCredentialsResponse 0..=0;
            AlterUserScramCredentials AlterUserScramCredentialsResponse 0..=0;
            DescribeCluster DescribeClusterResponse 0..=2;
            DescribeProducers DescribeProducersResponse 0..=0;
            DescribeTransactions DescribeTransactionsResponse 0..=0;
            ListTransactions ListTransactionsResponse 0..=1;
            ConsumerGroupHeartbeat ConsumerGroupHeartbeatResponse 0..=1;
            ConsumerGroupDescribe ConsumerGroupDescribeResponse 0..=1;
            DescribeTopicPartitions DescribeTopicPartitionsResponse 0..=0;
        }
    }

    #[test]
    fn answers_without_the_field_stay_as_they_are() {
        for (key, version, answer) in [
            (ApiKey::Metadata, 2, framed(7, 2, &MetadataResponse::default())),
            (ApiKey::SaslHandshake, 1, framed(7, 1, &SaslHandshakeResponse::default())),
        ] {
            let answer = answer.unwrap();
            assert_eq!(set_throttle_time(answer.clone(), key, version, Duration::from_secs(1)), answer);
        }
    }
}
