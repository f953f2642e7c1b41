//! How many elements a JSON text has, found without parsing it.
//!
//! In: the text. Out: a number of elements, never too low, and the memory that they take. Touches nothing, allocates nothing.

use memchr::memchr2;

/// Elements of objects and arrays, at all levels: openings and commas outside of strings.
pub fn elements(text: &[u8]) -> u64 {
    let mut count = 0;
    let mut rest = text;
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        match byte {
            b'{' | b'[' | b',' => count += 1,
            b'"' => rest = behind_string(rest),
            _ => {}
        }
    }
    count
}

/// What an element takes at most as a tree of `serde_json` values, besides its bytes: an object of one entry is a list with room for
/// four, and a table.
pub const TREE_ELEMENT_BYTES: u64 = 400;

/// Bytes of memory that a text takes once it is parsed: its own, and so many for each element.
pub fn cost(text: &[u8], element_bytes: u64) -> u64 {
    elements(text).saturating_mul(element_bytes).saturating_add(text.len() as u64)
}

fn behind_string(mut rest: &[u8]) -> &[u8] {
    while let Some(at) = memchr2(b'"', b'\\', rest) {
        if rest.get(at) == Some(&b'"') {
            return rest.get(at + 1..).unwrap_or_default();
        }
        rest = rest.get(at + 2..).unwrap_or_default();
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_outside_of_strings_count() {
        for (text, want) in [
            ("", 0),
            (r#""a,b{[""#, 0),
            (r#"[1, 2]"#, 2),
            (r#"{"a": {"b,": [1,2,3]}, "c\",{": null}"#, 6),
            (r#"["a\\", "b\\\",", "c"]"#, 3),
            (r#"["open, never closed"#, 1),
            (r#"["\"#, 1),
        ] {
            assert_eq!(elements(text.as_bytes()), want, "{text}");
        }
    }
}
