//! ApiVersions (key 18), versions 0 to 4. Which APIs are served at which versions.
//!
//! Behaviour: a version that is not known gets a version 0 answer with code 35 and our range (KIP-511), see
//! [`super::dispatch::unserved`]. From version 3 on name and version of the client's software must fit their pattern.
//! Produce is listed from version 0 on as Kafka 4 does: older librdkafka takes it for a sign of compression; versions
//! 0 to 2 themselves end the connection.

use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse};

use super::apis::{APIS, Api};
use super::context::Context;
use super::error::Code;

fn listed(api: &Api) -> ApiVersion {
    let min = if matches!(api.key, ApiKey::Produce) { 0 } else { api.min };
    ApiVersion::default().with_api_key(api.key as i16).with_min_version(min).with_max_version(api.max)
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
pub(super) fn own_range() -> Vec<ApiVersion> {
    APIS.iter().filter(|api| matches!(api.key, ApiKey::ApiVersions)).map(listed).collect()
}

/// Answers.
pub(super) fn handle(cx: &Context, request: &ApiVersionsRequest) -> ApiVersionsResponse {
    let fits = is_software_word(&request.client_software_name) && is_software_word(&request.client_software_version);
    if cx.version >= 3 && !fits {
        return ApiVersionsResponse::default().with_error_code(Code::InvalidRequest.code());
    }
    ApiVersionsResponse::default().with_api_keys(APIS.iter().map(listed).collect())
}
