//! Fuzz target `otlp`: messages of OpenTelemetry logs from strangers.
//!
//! In: any bytes. Out: a panic if a promise is broken: a message is refused with a text, or each of its records becomes a line or
//! is counted as rejected, within the memory that was reserved. See [`crate::fuzzing`].

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise must be seen")]

use bytes::Bytes;
use millrace_fuzzing::memory;
use millrace_log::push::DecodeBudget;
use millrace_log::record::is_label_name;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message as _;

use super::otlp_records::{MAX_METADATA, MAX_METADATA_BYTES, Partial, describe, plain, read_export, records};

/// Memory of all messages.
const BUDGET: u64 = 16 << 20;
/// What error texts take, and what one record takes on its way, whatever the message: its metadata as it is collected and sorted.
const SLACK: u64 = 512 << 10;

/// A message in JSON if it begins with a brace, else in protobuf.
pub(crate) fn otlp(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    let budget = DecodeBudget::new(BUDGET);
    let mut reserved = budget.begin();
    let is_json = body.first() == Some(&b'{');
    let ((), held) = memory::most(|| {
        let export = match read_export(body.clone(), is_json, &mut reserved) {
            Ok(export) => export,
            Err(refusal) => {
                assert!(refusal.status.is_client_error() && !refusal.text.is_empty(), "{body:?}");
                return;
            }
        };
        read(export, &mut |bytes| reserved.grow(bytes).is_ok());
    });
    let counted = budget.state().0;
    assert!(held <= counted + SLACK, "{held} bytes held, {counted} reserved for {body:?}");
}

fn read(export: ExportLogsServiceRequest, reserve: &mut dyn FnMut(u64) -> bool) {
    let shown = export.encoded_len();
    let sent: usize = export.resource_logs.iter().flat_map(|r| &r.scope_logs).map(|s| s.log_records.len()).sum();
    let names = ["service.name", "k8s.pod.name", "a"].map(|name| (name.to_owned(), plain(name)));
    let (mut partial, mut lines, mut has_room) = (Partial::default(), 0, true);
    for resource in export.resource_logs {
        let described = describe(&resource, &names);
        assert!(!described.labels.is_empty() && described.labels.check().is_ok(), "{:?}", described.labels);
        let done = records(resource, described.metadata, &mut partial, |line, bytes| {
            lines += 1;
            let metadata = line.metadata.unwrap();
            let really: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
            assert!(really == bytes && bytes <= MAX_METADATA_BYTES, "{really} bytes, counted as {bytes}");
            assert!(metadata.len() <= MAX_METADATA, "{} entries", metadata.len());
            assert!(metadata.iter().all(|(name, _)| is_label_name(name)), "{metadata:?}");
            assert!(line.time_ns.is_none_or(|ns| ns > 0), "{:?}", line.time_ns);
            has_room = reserve((line.text.len() + bytes) as u64);
            if has_room { Ok(()) } else { Err(millrace_doors::refusal::Refusal::bad("no room")) }
        });
        if done.is_err() {
            return assert!(!has_room, "{shown} bytes refused with room left");
        }
    }
    let rejected = usize::try_from(partial.rejected).unwrap();
    assert_eq!(lines + rejected, sent, "lines and rejected records of {sent}");
    assert_eq!(rejected > 0, !partial.text.is_empty(), "{}", partial.text);
}

/// Messages that reach far, in both forms.
pub(crate) fn otlp_seeds(_: u64) -> Vec<Vec<u8>> {
    let texts = [
        r#"{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"a"}},{"key":"9 x","value":{"intValue":"5"}}]},"scopeLogs":[{"scope":{"name":"lib","version":"1","attributes":[{"key":"s","value":{"boolValue":true}}]},"logRecords":[{"timeUnixNano":"1772366400000000000","severityNumber":9,"severityText":"Info","body":{"stringValue":"a line"},"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","flags":1,"attributes":[{"key":"m","value":{"kvlistValue":{"values":[{"key":"n","value":{"doubleValue":1.5}},{"key":"","value":{"arrayValue":{"values":[{"intValue":"1"},{"bytesValue":"AQI="}]}}}]}}}]}]}]}]}"#,
        r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"observedTimeUnixNano":"5","body":{"kvlistValue":{"values":[{"key":"a","value":{"stringValue":"x"}}]}}},{},{"body":{"arrayValue":{"values":[]}}}]},{}]},{}]}"#,
        r#"{"resourceLogs":[{"resource":{"attributes":[{"key":"a","value":{"stringValue":"x"}},{"key":"a","value":{}},{"key":"k8s.pod.name"}],"droppedAttributesCount":3},"schemaUrl":"s","scopeLogs":[{"logRecords":[{"droppedAttributesCount":2,"timeUnixNano":"18446744073709551615"}]}]}]}"#,
        r#"{}"#,
    ];
    let mut seeds = millrace_fuzzing::texts(&texts);
    for text in texts {
        let message: ExportLogsServiceRequest = serde_json::from_str(text).unwrap();
        seeds.push(message.encode_to_vec());
    }
    seeds.push(b"\x0a\x00".repeat(2000));
    seeds.push(long_names());
    seeds
}

/// A long name of a map with many entries, each of which would get it in front.
fn long_names() -> Vec<u8> {
    let pairs = vec![r#"{"key":"x","value":{"intValue":"1"}}"#; 40].join(",");
    let key = "k".repeat(2000);
    let text = format!(
        r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"attributes":[{{"key":"{key}","value":{{"kvlistValue":{{"values":[{pairs}]}}}}}}]}}]}}]}}]}}"#
    );
    serde_json::from_str::<ExportLogsServiceRequest>(&text).unwrap().encode_to_vec()
}
