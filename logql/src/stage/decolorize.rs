//! `| decolorize`: takes terminal colours out of the line.

use std::borrow::Cow;
use std::sync::LazyLock;

use super::line_state::LineState;
use super::run::Run;

/// ANSI escape sequences: CSI, OSC and single characters behind ESC.
static ANSI: LazyLock<Option<regex::bytes::Regex>> = LazyLock::new(|| {
    regex::bytes::Regex::new(
        r"[\x1b\x{9b}][\[\]()#;?]*(?:(?:(?:[a-zA-Z0-9]*(?:;[a-zA-Z0-9]*)*)?\x07)|(?:(?:[0-9]{1,4}(?:;[0-9]{0,4})*)?[0-9A-PRZcf-ntqry=><~]))",
    )
    .ok()
});

/// The stage.
#[derive(Debug)]
pub(super) struct Decolorize;

impl Run for Decolorize {
    fn process<'a>(&'a self, state: &mut LineState<'a>) -> bool {
        // 0x1b, or U+009B as UTF-8.
        if memchr::memchr2(0x1b, 0x9b, &state.line).is_some()
            && let Some(ansi) = ANSI.as_ref()
        {
            let plain = ansi.replace_all(&state.line, &b""[..]).into_owned();
            state.line = Cow::Owned(plain);
        }
        true
    }

    fn changes_line(&self) -> bool {
        true
    }
}
