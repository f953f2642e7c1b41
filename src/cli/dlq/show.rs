//! `millrace dlq show`: prints one dead letter.
//!
//! In: partition and offset. Out: reason, headers, key and value, as text or JSON. Side effects: network, reading only.

use millrace_log::admin::Admin;

use super::letter::Letter;
use super::memory::Memory;
use super::reading::DeadLetters;
use crate::cli::broker::format;
use crate::cli::cluster::failed;
use crate::cli::table::or_dash;
use crate::cli::terminal::{Output, print, print_json};
use crate::exit::{Code, Failure};
use crate::human::time;

/// Reads `0@17` or `0:17`.
fn place_of(text: &str) -> Option<(i32, i64)> {
    let (partition, offset) = text.split_once(['@', ':'])?;
    let (partition, offset) = (partition.parse().ok()?, offset.parse().ok()?);
    (partition >= 0 && offset >= 0).then_some((partition, offset))
}

/// Finds the letter and shows it.
pub async fn show(place: &DeadLetters, id: &str, output: Output) -> Result<(), Failure> {
    let (partition, offset) = place_of(id).ok_or_else(|| {
        Failure::text(Code::Usage, format!("`{id}`: expected PARTITION@OFFSET as printed by `millrace dlq list`"))
    })?;
    let gone = || {
        let text = format!("{} has no dead letter {id}: see `millrace dlq list`", place.topic);
        Failure::text(Code::Failed, text)
    };
    let mut admin = Admin::connect(&place.connection).await.map_err(failed)?;
    let extent = place.extent(&mut admin).await?.ok_or_else(gone)?;
    let end = extent.ends.get(&partition).copied().unwrap_or(0);
    if offset >= end || extent.starts.get(&partition).is_none_or(|start| offset < *start) {
        return Err(gone());
    }
    let each = move |found: &mut Option<Letter>, letter: Letter| {
        if letter.record.partition != partition {
            return Ok(true);
        }
        // The end of a transaction takes an offset too: what comes behind it is another letter.
        *found = (letter.record.offset == offset).then_some(letter);
        Ok(false)
    };
    let from = extent.ends.iter().map(|(p, end)| (*p, if *p == partition { offset } else { *end })).collect();
    let (found, result) = place.read(&extent, &from, None, each).await?;
    result?;
    let letter = found.ok_or_else(gone)?;
    let memory = Memory::load(&mut admin, &place.group, &extent.info).await?;
    let replayed = memory.has(partition, offset);
    match output {
        Output::Json => {
            let mut told = serde_json::Map::new();
            told.insert("letter".to_owned(), letter.id().into());
            told.insert("reason".to_owned(), letter.reason.clone().into());
            told.insert("stage".to_owned(), letter.stage.clone().into());
            told.insert("refused".to_owned(), or_dash(time(letter.time_ms)).into());
            told.insert("from".to_owned(), letter.from.as_ref().map(ToString::to_string).into());
            told.insert("replayed".to_owned(), replayed.into());
            told.insert("record".to_owned(), format::as_json(&place.topic, &letter.record));
            print_json(&told)
        }
        Output::Table => print(&as_text(&letter, replayed)),
    }
}

fn as_text(letter: &Letter, replayed: bool) -> String {
    let from = letter.from.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    let mut text = String::new();
    for (name, value) in [
        ("letter", letter.id()),
        ("reason", letter.reason.clone()),
        ("stage", letter.stage.clone()),
        ("refused", or_dash(time(letter.time_ms))),
        ("from", from),
        ("replayed", if replayed { "yes" } else { "no" }.to_owned()),
        ("key", readable(letter.record.key.as_deref())),
    ] {
        text.push_str(&format!("{name:<9} {value}\n"));
    }
    text.push_str("headers\n");
    let wide = letter.record.headers.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in &letter.record.headers {
        text.push_str(&format!("  {name:<wide$}  {}\n", readable(value.as_deref())));
    }
    let value = letter.record.value.as_deref();
    text.push_str(&format!("value     {} bytes\n{}\n", value.map_or(0, <[u8]>::len), readable(value)));
    text
}

/// Text unchanged; other bytes escaped as in Rust: `\x00\xff`.
fn readable(bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else { return "null".to_owned() };
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::letter::tests_support::letter;
    use super::*;

    #[test]
    fn a_letter_is_shown_whole() {
        let mut one =
            letter(&[("labels", "{}"), ("dlq.reason", "why"), ("dlq.stage", "decode"), ("dlq.from", "l-0@1")]);
        one.record.key = Some(vec![0, 0xff].into());
        one.record.headers.push(("none".to_owned(), None));
        let text = as_text(&one, true);
        let want = "letter    0@17\nreason    why\nstage     decode\nrefused   1970-01-01T00:00:00.005Z\nfrom      l-0@1\n\
            replayed  yes\nkey       \\x00\\xff\nheaders\n  labels      {}\n  dlq.reason  why\n  dlq.stage   decode\n  \
            dlq.from    l-0@1\n  none        null\nvalue     4 bytes\nline\n";
        assert_eq!(text, want);
    }

    #[test]
    fn places_of_letters() {
        assert_eq!((place_of("0@17"), place_of("3:4")), (Some((0, 17)), Some((3, 4))));
        for text in ["17", "-1@3", "0@-3", "a@b", ""] {
            assert_eq!(place_of(text), None, "{text}");
        }
    }
}
