//! From a request to the handler of its API.
//!
//! In: requests whose shape was checked. Out: a future of the framed answer; for produce the append is done before the
//! future is given, so that requests of a connection are appended in their order. Touches nothing itself.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use kafka_protocol::messages::{ApiKey, ApiVersionsResponse};

use crate::metrics::ApiLabel;
use crate::protocol::context::{Context, Core, Session};
use crate::protocol::error::Code;
use crate::protocol::handlers::{
    k00_produce, k01_fetch, k02_list_offsets, k03_metadata, k08_offset_commit, k09_offset_fetch, k10_find_coordinator,
    k11_join_group, k12_heartbeat, k13_leave_group, k14_sync_group, k15_describe_groups, k16_list_groups,
    k17_sasl_handshake, k18_api_versions, k19_create_topics, k20_delete_topics, k21_delete_records,
    k22_init_producer_id, k23_offset_for_leader_epoch, k24_add_partitions_to_txn, k25_add_offsets_to_txn, k26_end_txn,
    k27_write_txn_markers, k28_txn_offset_commit, k29_describe_acls, k30_create_acls, k31_delete_acls,
    k32_describe_configs, k33_alter_configs, k35_describe_log_dirs, k36_sasl_authenticate, k37_create_partitions,
    k42_delete_groups, k43_elect_leaders, k44_incremental_alter_configs, k45_alter_partition_reassignments,
    k46_list_partition_reassignments, k47_offset_delete, k48_describe_client_quotas, k49_alter_client_quotas,
    k50_describe_user_scram_credentials, k51_alter_user_scram_credentials, k55_describe_quorum, k57_update_features,
    k60_describe_cluster, k61_describe_producers, k65_describe_transactions, k66_list_transactions,
    k68_consumer_group_heartbeat, k69_consumer_group_describe, k74_list_config_resources,
    k75_describe_topic_partitions,
};
use crate::protocol::wire::reply::{self, Reply};
use crate::protocol::wire::{Request, RequestFault, framed};

/// An answer, or none (produce with acks=0).
pub(crate) type Answer = Result<Option<Reply>, RequestFault>;

/// Whether a request may wait for the disk together with others of its kind.
pub(crate) fn overlaps(request: &Request) -> bool {
    matches!(request.key, ApiKey::Produce)
}

/// The answer to ApiVersions at a version we don't know: version 0, code 35, and the range we do know (KIP-511).
pub(crate) fn unserved(fault: &RequestFault) -> Option<Bytes> {
    match fault {
        RequestFault::UnservedVersion { key: ApiKey::ApiVersions, correlation_id, .. } => {
            let answer = ApiVersionsResponse::default()
                .with_error_code(Code::UnsupportedVersion.code())
                .with_api_keys(k18_api_versions::own_range());
            framed(*correlation_id, 0, &answer).ok()
        }
        _ => None,
    }
}

/// Starts a request; the future gives its answer.
pub(crate) async fn start(
    core: &Arc<Core>,
    session: &Session,
    mut request: Request,
) -> Result<BoxFuture<'static, Answer>, RequestFault> {
    let began = Instant::now();
    let api: &'static str = name(request.key);
    let cx = Context {
        core: Arc::clone(core),
        peer: session.peer,
        listener: Arc::clone(&session.listener),
        who: Arc::clone(&session.who),
        version: request.version,
        client_id: request.client_id.clone(),
    };
    let answer: BoxFuture<'static, Answer> = if overlaps(&request) {
        let produce = request.decode()?;
        // What is appended need not stay in memory until its flush.
        request.body = Bytes::new();
        let appended = k00_produce::start(&cx, produce).await;
        async move {
            match k00_produce::finish(&cx, appended).await? {
                Some(answer) => request.answer(&answer).map(|answer| Some(answer.into())),
                None => Ok(None),
            }
        }
        .boxed()
    } else if request.key == ApiKey::Fetch {
        async move {
            let fetch = request.decode()?;
            // Only the copy in the session is needed while it waits.
            request.body = Bytes::new();
            let (answer, stored) = k01_fetch::handle(&cx, fetch).await;
            reply::fetched(request.correlation_id, request.version, &answer, stored).map(Some)
        }
        .boxed()
    } else {
        async move {
            let answer = if is_heavy(&request) { apart(cx, request).await } else { handle(&cx, &request).await };
            answer.map(|answer| Some(answer.into()))
        }
        .boxed()
    };
    let seconds = core.metrics.request_seconds.get_or_create(&ApiLabel { api }).clone();
    Ok(answer.inspect(move |_| seconds.observe(began.elapsed().as_secs_f64())).boxed())
}

/// Requests that name more than this are handled on a thread of their own: the threads of the runtime belong to all.
const HEAVY_ELEMENTS: usize = 4096;

/// Whether a request would hold up others. Those that wait for other clients only wait, whatever they name.
fn is_heavy(request: &Request) -> bool {
    request.elements > HEAVY_ELEMENTS && !matches!(request.key, ApiKey::JoinGroup | ApiKey::SyncGroup)
}

/// Handles a heavy request on a thread for what blocks; few at a time, as each takes a processor.
async fn apart(cx: Context, request: Request) -> Result<Bytes, RequestFault> {
    // Never closed; without a turn it would be handled all the same.
    let turn = Arc::clone(&cx.core.heavy).acquire_owned().await.ok();
    let runtime = tokio::runtime::Handle::current();
    let handled = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        runtime.block_on(handle(&cx, &request))
    });
    match handled.await {
        Ok(answer) => answer,
        Err(gone) => match gone.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => futures::future::pending().await, // The runtime ends, and this task with it.
        },
    }
}

/// Boxed: it is the largest future of all, and compiled once, not at each place that awaits it.
fn handle<'a>(cx: &'a Context, request: &'a Request) -> BoxFuture<'a, Result<Bytes, RequestFault>> {
    dispatch(cx, request).boxed()
}

async fn dispatch(cx: &Context, request: &Request) -> Result<Bytes, RequestFault> {
    let r = request;
    match request.key {
        ApiKey::ListOffsets => r.answer(&k02_list_offsets::handle(cx, r.decode()?).await),
        ApiKey::Metadata => r.answer(&k03_metadata::handle(cx, r.decode()?).await),
        ApiKey::OffsetCommit => r.answer(&k08_offset_commit::handle(cx, r.decode()?).await),
        ApiKey::OffsetFetch => r.answer(&k09_offset_fetch::handle(cx, r.decode()?)),
        ApiKey::FindCoordinator => r.answer(&k10_find_coordinator::handle(cx, r.decode()?)),
        ApiKey::JoinGroup => r.answer(&k11_join_group::handle(cx, r.decode()?).await),
        ApiKey::Heartbeat => r.answer(&k12_heartbeat::handle(cx, &r.decode()?)),
        ApiKey::LeaveGroup => r.answer(&k13_leave_group::handle(cx, r.decode()?)),
        ApiKey::SyncGroup => r.answer(&k14_sync_group::handle(cx, r.decode()?).await),
        ApiKey::DescribeGroups => r.answer(&k15_describe_groups::handle(cx, r.decode()?)),
        ApiKey::ListGroups => r.answer(&k16_list_groups::handle(cx, &r.decode()?)),
        ApiKey::SaslHandshake => r.answer(&k17_sasl_handshake::handle(&r.decode()?)),
        ApiKey::ApiVersions => r.answer(&k18_api_versions::handle(cx, &r.decode()?)),
        ApiKey::CreateTopics => r.answer(&k19_create_topics::handle(cx, r.decode()?).await),
        ApiKey::DeleteTopics => r.answer(&k20_delete_topics::handle(cx, r.decode()?).await),
        ApiKey::DeleteRecords => r.answer(&k21_delete_records::handle(cx, r.decode()?).await),
        ApiKey::InitProducerId => r.answer(&k22_init_producer_id::handle(cx, r.decode()?).await),
        ApiKey::OffsetForLeaderEpoch => r.answer(&k23_offset_for_leader_epoch::handle(cx, r.decode()?)),
        ApiKey::AddPartitionsToTxn => r.answer(&k24_add_partitions_to_txn::handle(cx, r.decode()?).await),
        ApiKey::AddOffsetsToTxn => r.answer(&k25_add_offsets_to_txn::handle(cx, r.decode()?).await),
        ApiKey::EndTxn => r.answer(&k26_end_txn::handle(cx, r.decode()?).await),
        ApiKey::WriteTxnMarkers => r.answer(&k27_write_txn_markers::handle(cx, r.decode()?).await),
        ApiKey::TxnOffsetCommit => r.answer(&k28_txn_offset_commit::handle(cx, r.decode()?).await),
        ApiKey::DescribeConfigs => r.answer(&k32_describe_configs::handle(cx, r.decode()?)),
        ApiKey::AlterConfigs => r.answer(&k33_alter_configs::handle(cx, r.decode()?).await),
        ApiKey::DescribeLogDirs => r.answer(&k35_describe_log_dirs::handle(cx, r.decode()?).await),
        ApiKey::DescribeAcls => r.answer(&k29_describe_acls::handle(cx, r.decode()?)),
        ApiKey::CreateAcls => r.answer(&k30_create_acls::handle(cx, r.decode()?).await),
        ApiKey::DeleteAcls => r.answer(&k31_delete_acls::handle(cx, r.decode()?).await),
        ApiKey::DescribeClientQuotas => r.answer(&k48_describe_client_quotas::handle(cx, &r.decode()?)),
        ApiKey::AlterClientQuotas => r.answer(&k49_alter_client_quotas::handle(cx, r.decode()?).await),
        ApiKey::DescribeUserScramCredentials => r.answer(&k50_describe_user_scram_credentials::handle(cx, r.decode()?)),
        ApiKey::AlterUserScramCredentials => r.answer(&k51_alter_user_scram_credentials::handle(cx, r.decode()?).await),
        ApiKey::SaslAuthenticate => r.answer(&k36_sasl_authenticate::handle(&r.decode()?)),
        ApiKey::CreatePartitions => r.answer(&k37_create_partitions::handle(cx, r.decode()?).await),
        ApiKey::DeleteGroups => r.answer(&k42_delete_groups::handle(cx, r.decode()?).await),
        ApiKey::ElectLeaders => r.answer(&k43_elect_leaders::handle(cx, r.decode()?)),
        ApiKey::IncrementalAlterConfigs => r.answer(&k44_incremental_alter_configs::handle(cx, r.decode()?).await),
        ApiKey::ListPartitionReassignments => r.answer(&k46_list_partition_reassignments::handle(cx, &r.decode()?)),
        ApiKey::AlterPartitionReassignments => r.answer(&k45_alter_partition_reassignments::handle(cx, r.decode()?)),
        ApiKey::DescribeQuorum => r.answer(&k55_describe_quorum::handle(cx, r.decode()?)),
        ApiKey::UpdateFeatures => r.answer(&k57_update_features::handle(cx, r.decode()?)),
        ApiKey::OffsetDelete => r.answer(&k47_offset_delete::handle(cx, r.decode()?).await),
        ApiKey::DescribeCluster => r.answer(&k60_describe_cluster::handle(cx, &r.decode()?)),
        ApiKey::DescribeProducers => r.answer(&k61_describe_producers::handle(cx, r.decode()?).await),
        ApiKey::DescribeTransactions => r.answer(&k65_describe_transactions::handle(cx, r.decode()?)),
        ApiKey::ListTransactions => r.answer(&k66_list_transactions::handle(cx, r.decode()?)),
        ApiKey::ConsumerGroupHeartbeat => r.answer(&k68_consumer_group_heartbeat::handle(cx, r.decode()?).await),
        ApiKey::ConsumerGroupDescribe => r.answer(&k69_consumer_group_describe::handle(cx, r.decode()?)),
        ApiKey::ListConfigResources => r.answer(&k74_list_config_resources::handle(cx, &r.decode()?)),
        ApiKey::DescribeTopicPartitions => r.answer(&k75_describe_topic_partitions::handle(cx, r.decode()?)),
        key => Err(RequestFault::UnknownKey(key as i16)),
    }
}

fn name(key: ApiKey) -> &'static str {
    match key {
        ApiKey::Produce => "Produce",
        ApiKey::Fetch => "Fetch",
        ApiKey::ListOffsets => "ListOffsets",
        ApiKey::Metadata => "Metadata",
        ApiKey::OffsetCommit => "OffsetCommit",
        ApiKey::OffsetFetch => "OffsetFetch",
        ApiKey::FindCoordinator => "FindCoordinator",
        ApiKey::JoinGroup => "JoinGroup",
        ApiKey::Heartbeat => "Heartbeat",
        ApiKey::LeaveGroup => "LeaveGroup",
        ApiKey::SyncGroup => "SyncGroup",
        ApiKey::ApiVersions => "ApiVersions",
        ApiKey::ConsumerGroupHeartbeat => "ConsumerGroupHeartbeat",
        ApiKey::InitProducerId => "InitProducerId",
        ApiKey::AddPartitionsToTxn => "AddPartitionsToTxn",
        ApiKey::AddOffsetsToTxn => "AddOffsetsToTxn",
        ApiKey::EndTxn => "EndTxn",
        ApiKey::TxnOffsetCommit => "TxnOffsetCommit",
        _ => "Admin",
    }
}
