//! ApiVersions (key 18), versions 0 to 4. Which APIs are served at which versions.
//!
//! Behaviour: a version that is not known gets a version 0 answer with code 35 and our range (KIP-511), see
//! [`crate::protocol::dispatch::unserved`]. From version 3 on name and version of the client's software must fit their pattern.
//! Produce is listed from version 0 on as Kafka 4 does: older librdkafka takes it for a sign of compression; versions
//! 0 to 2 themselves end the connection.

use kafka_protocol::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse};

use crate::protocol::context::Context;
use crate::protocol::error::Code;
use crate::protocol::features::{FEATURES, FEATURES_EPOCH};
use crate::protocol::wire::apis::{APIS, Api};
use crate::protocol::wire::text;

fn listed(api: &Api) -> ApiVersion {
    let min = if matches!(api.key, ApiKey::Produce) { 0 } else { api.min };
    ApiVersion::default().with_api_key(api.key as i16).with_min_version(min).with_max_version(api.max)
}

fn with_features(answer: ApiVersionsResponse, version: i16) -> ApiVersionsResponse {
    if version < 3 {
        return answer;
    }
    // Clients of version 3 take a lowest version of 0 for a fault (KIP-1023).
    let known = FEATURES.iter().filter(|feature| version >= 4 || feature.known.0 > 0);
    let known = known.map(|feature| {
        let (min, max) = feature.known;
        SupportedFeatureKey::default().with_name(text(feature.name)).with_min_version(min).with_max_version(max)
    });
    let in_force = FEATURES.iter().filter(|feature| feature.level > 0).map(|feature| {
        FinalizedFeatureKey::default()
            .with_name(text(feature.name))
            .with_min_version_level(feature.level)
            .with_max_version_level(feature.level)
    });
    answer
        .with_supported_features(known.collect())
        .with_finalized_features_epoch(FEATURES_EPOCH)
        .with_finalized_features(in_force.collect())
}

/// Letters and digits, with dots and dashes inside.
fn is_software_word(word: &str) -> bool {
    let is_end = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = word.as_bytes();
    is_end(bytes.first())
        && is_end(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
}

/// The range of ApiVersions itself.
pub(crate) fn own_range() -> Vec<ApiVersion> {
    APIS.iter().filter(|api| matches!(api.key, ApiKey::ApiVersions)).map(listed).collect()
}

/// Answers.
pub(crate) fn handle(cx: &Context, request: &ApiVersionsRequest) -> ApiVersionsResponse {
    let fits = is_software_word(&request.client_software_name) && is_software_word(&request.client_software_version);
    if cx.version >= 3 && !fits {
        return ApiVersionsResponse::default().with_error_code(Code::InvalidRequest.code());
    }
    let answer = ApiVersionsResponse::default().with_api_keys(APIS.iter().map(listed).collect());
    with_features(answer, cx.version)
}
