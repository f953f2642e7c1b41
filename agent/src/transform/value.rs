//! VRL values as texts, labels and metadata, within their bounds.
//!
//! In: a value that a program left. Out: labels, metadata, texts, or why it can't be a record. Touches nothing.

use millrace_log::record::Labels;
use vrl::value::{ObjectMap, Value};

/// Entries of an event's metadata at most, as in Loki.
const MAX_METADATA: usize = 128;
/// Bytes of all of them at most, as in Loki.
const MAX_METADATA_BYTES: usize = 64 << 10;
/// Levels of maps and arrays in an event.
const MAX_DEPTH: usize = 64;

/// The bytes of a text.
pub(super) fn text(value: &Value) -> Option<&[u8]> {
    match value {
        Value::Bytes(bytes) => Some(bytes),
        Value::String(text) => Some(text.as_bytes()),
        _ => None,
    }
}

/// A value as one text: what has no text of its own becomes JSON, null nothing.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        value => Some(value.to_string_lossy().into_owned()),
    }
}

pub(super) fn article(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Integer(_) => format!("an {}", value.kind_str()),
        Value::Null => "null".to_owned(),
        _ => format!("a {}", value.kind_str()),
    }
}

pub(super) fn labels_of(pairs: &ObjectMap) -> Result<Labels, String> {
    let mut labels = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        match value {
            Value::Object(_) | Value::Array(_) => {
                return Err(format!(
                    "`.labels.{name}` is {}: labels name the stream and are texts, keep other data under another name",
                    article(value)
                ));
            }
            Value::Null => {}
            value => labels.push((name.as_str(), value.to_string_lossy().into_owned())),
        }
    }
    let labels = Labels::new(labels);
    labels.check().map_err(|error| format!("`.labels`: {error}"))?;
    Ok(labels)
}

pub(super) fn check_metadata(pairs: &ObjectMap) -> Result<(), String> {
    if pairs.is_empty() {
        return Ok(());
    }
    if pairs.len() > MAX_METADATA {
        return Err(format!("`.metadata` has {} entries, {MAX_METADATA} are allowed", pairs.len()));
    }
    let mut left = MAX_METADATA_BYTES;
    for (name, value) in pairs {
        left = left.saturating_sub(name.len());
        measure(value, &mut left, 0, MAX_METADATA_BYTES)
            .map_err(|_| format!("`.metadata` has more than the {MAX_METADATA_BYTES} bytes that are allowed"))?;
    }
    Ok(())
}

pub(super) fn metadata_of(pairs: &ObjectMap) -> Labels {
    Labels::new(pairs.iter().filter_map(|(name, value)| Some((name.as_str(), scalar(value)?))))
}

/// Takes the bytes of a value, about as JSON has them, from what is left.
pub(super) fn measure(value: &Value, left: &mut usize, depth: usize, max: usize) -> Result<(), String> {
    let too_large = || format!("the event is larger than {max} bytes: see `max_output_bytes`");
    if depth > MAX_DEPTH {
        return Err(format!("the event is nested deeper than {MAX_DEPTH} levels"));
    }
    let mut take = |bytes: usize| {
        *left = left.checked_sub(bytes).ok_or_else(too_large)?;
        Ok::<(), String>(())
    };
    match value {
        Value::Bytes(bytes) => take(bytes.len() + 2),
        Value::String(text) => take(text.len() + 2),
        Value::Object(map) => {
            take(2)?;
            for (name, value) in map {
                *left = left.checked_sub(name.len() + 4).ok_or_else(too_large)?;
                measure(value, left, depth + 1, max)?;
            }
            Ok(())
        }
        Value::Array(items) => {
            take(2 + items.len())?;
            items.iter().try_for_each(|item| measure(item, left, depth + 1, max))
        }
        _ => take(8),
    }
}

pub(super) fn texts_of(value: &mut Value, change: &mut dyn FnMut(&[u8]) -> Option<Vec<u8>>, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    match value {
        Value::Object(map) => map.values_mut().for_each(|value| texts_of(value, change, depth + 1)),
        Value::Array(items) => items.iter_mut().for_each(|value| texts_of(value, change, depth + 1)),
        // A card's number may be a number.
        Value::Integer(number) => {
            if let Some(new) = change(number.to_string().as_bytes()) {
                *value = Value::Bytes(new.into());
            }
        }
        other => {
            if let Some(new) = text(other).and_then(&mut *change) {
                *other = Value::Bytes(new.into());
            }
        }
    }
}
