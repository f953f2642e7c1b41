//! What OpenTelemetry's messages take in memory once they are decoded, for the budget of all requests.
//!
//! Out: shapes for [`millrace_log::push::protobuf`]. Touches nothing. Field numbers:
//! <https://github.com/open-telemetry/opentelemetry-proto/tree/main/opentelemetry/proto>.

use millrace_log::push::protobuf::Shape;

/// What an element of a body in JSON takes in memory at most, besides its bytes.
pub(super) const ELEMENT_BYTES: u64 = 300;

// What messages take once they are decoded: structures in lists that grow, records and metadata that are made of them.
pub(super) static EXPORT: Shape = Shape { bytes: 0, fields: &[(1, &RESOURCE_LOGS)] };
pub(super) static RESOURCE_LOGS: Shape = Shape { bytes: 500, fields: &[(1, &RESOURCE), (2, &SCOPE_LOGS)] };
static RESOURCE: Shape = Shape { bytes: 0, fields: &[(1, &ATTRIBUTE), (3, &ENTITY)] };
static ENTITY: Shape = Shape { bytes: 256, fields: &[(3, &TEXT), (4, &TEXT)] };
static TEXT: Shape = Shape { bytes: 64, fields: &[] };
static SCOPE_LOGS: Shape = Shape { bytes: 400, fields: &[(1, &SCOPE), (2, &RECORD)] };
static SCOPE: Shape = Shape { bytes: 0, fields: &[(3, &ATTRIBUTE)] };
static RECORD: Shape = Shape { bytes: 900, fields: &[(5, &VALUE), (6, &ATTRIBUTE)] };
pub(super) static ATTRIBUTE: Shape = Shape { bytes: 350, fields: &[(2, &VALUE)] };
static VALUE: Shape = Shape { bytes: 100, fields: &[(5, &LIST), (6, &MAP)] };
static LIST: Shape = Shape { bytes: 0, fields: &[(1, &VALUE)] };
static MAP: Shape = Shape { bytes: 0, fields: &[(1, &ATTRIBUTE)] };
