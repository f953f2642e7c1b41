//! A configuration as text without its secrets: what `GET /api/v2/status` shows and amtool reads.
//!
//! In: the tree of `alertmanager.yml`. Out: YAML that reads as the same but for secrets. Touches nothing.

use millrace_log::go::quote;
use millrace_log::yaml::{Node, Value};

/// What stands for a secret, as in Alertmanager.
const MASK: &str = "<secret>";

/// The whole tree.
pub(crate) fn shown(root: &Node) -> String {
    let mut out = String::new();
    block(root, 0, false, &mut out);
    out
}

/// Whether values of a key are not to be shown. Receivers hold tokens in addresses.
fn is_secret(key: &str, in_receiver: bool) -> bool {
    if key.ends_with("_file") {
        return false;
    }
    let words = ["password", "secret", "token", "credentials", "api_key", "routing_key", "service_key", "user_key"];
    words.iter().any(|word| key.contains(word) && !key.ends_with("_url"))
        || key == "slack_api_url"
        || (in_receiver && matches!(key, "url" | "webhook_url" | "api_url"))
        || key == "proxy_url"
}

/// Maps and lists in lines of their own, from a depth on.
fn block(node: &Node, depth: usize, in_receiver: bool, out: &mut String) {
    let indent = "  ".repeat(depth);
    match &node.value {
        Value::Map(entries) => {
            for entry in entries {
                let in_receiver = in_receiver || entry.key.ends_with("_configs");
                out.push_str(&format!("{indent}{}:", key(&entry.key)));
                if is_secret(&entry.key, in_receiver) && matches!(entry.node.value, Value::Scalar { .. }) {
                    out.push_str(if entry.node.is_null() { " null\n" } else { " <secret>\n" });
                } else if is_secret(&entry.key, in_receiver) && !entry.node.is_empty() {
                    out.push_str(&format!(" [{MASK}]\n"));
                } else {
                    below(&entry.node, depth + 1, in_receiver, out);
                }
            }
        }
        Value::List(items) => {
            for item in items {
                out.push_str(&format!("{indent}-"));
                below(item, depth + 1, in_receiver, out);
            }
        }
        Value::Scalar { .. } => out.push_str(&format!("{indent}{}\n", scalar(node))),
    }
}

/// What stands behind a key or a dash.
fn below(node: &Node, depth: usize, in_receiver: bool, out: &mut String) {
    match &node.value {
        Value::Map(entries) if entries.is_empty() => out.push_str(" {}\n"),
        Value::List(items) if items.is_empty() => out.push_str(" []\n"),
        Value::Scalar { .. } => out.push_str(&format!(" {}\n", scalar(node))),
        _ => {
            out.push('\n');
            block(node, depth, in_receiver, out);
        }
    }
}

/// Keys that could be read as something else are quoted.
fn key(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if is_plain { text.to_owned() } else { quote(text) }
}

/// Texts are quoted; what was not, and is a number, a duration or a flag, stays so.
fn scalar(node: &Node) -> String {
    match &node.value {
        Value::Scalar { text, plain: true }
            if (text.bytes().all(|b| b.is_ascii_alphanumeric()) && !text.is_empty()) || text.parse::<f64>().is_ok() =>
        {
            text.clone()
        }
        Value::Scalar { .. } if node.is_null() => "null".to_owned(),
        Value::Scalar { text, .. } => quote(text),
        _ => String::new(),
    }
}
