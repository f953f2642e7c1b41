//! Suggestions for misspelt keys and names.
//!
//! In: a word and the known ones. Out: the nearest, if it is near enough to be meant. Touches nothing.

/// The known word nearest to a misspelt one: at most one change of a character for every four, and one more.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.chars().take(64).collect::<String>().to_lowercase().replace('-', "_");
    let wanted = plain(word);
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&wanted, &plain(name)), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested() {
        for (word, want) in [
            ("exprr", Some("expr")),
            ("lables", Some("labels")),
            ("Expr", Some("expr")),
            ("group-wait", Some("group_wait")),
            ("zzz", None),
        ] {
            assert_eq!(nearest(word, ["expr", "labels", "for", "group_wait"]), want, "{word}");
        }
    }
}
