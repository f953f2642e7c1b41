//! Errors as one line for people.
//!
//! In: an error. Out: its text with those of its causes. Touches nothing.

/// All causes of an error in one line, repeats left out.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(of) = cause {
        let of_text = of.to_string();
        if !text.contains(&of_text) {
            text.push_str(": ");
            text.push_str(&of_text);
        }
        cause = of.source();
    }
    text
}
