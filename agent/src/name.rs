//! Names of labels and metadata, from names that others chose.
//!
//! In: any text. Out: a name that the log takes. Touches nothing.

/// Every character that a name may not have becomes `_`, as does a name without any; `before_digit` is put before a digit at its
/// start.
pub(crate) fn plain_name(name: &str, before_digit: &str) -> String {
    if name.is_empty() {
        return "_".to_owned();
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    let digit = name.starts_with(|c: char| c.is_ascii_digit());
    let head = if digit { before_digit } else { "" };
    head.chars().chain(name.chars().map(plain)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_what_they_may() {
        for (name, before_digit, want) in [
            ("app_1", "_", "app_1"),
            ("k8s.pod/name", "_", "k8s_pod_name"),
            ("größe", "_", "gr__e"),
            ("9p", "_", "_9p"),
            ("9p", "key_", "key_9p"),
            ("9p", "", "9p"),
            ("", "key_", "_"),
        ] {
            assert_eq!(plain_name(name, before_digit), want);
        }
    }
}
