//! The trait of a compiled stage.
//!
//! Touches nothing.

use super::line_filter::CompiledFilter;
use super::line_state::LineState;

/// A compiled stage.
pub(crate) trait Run: Send + Sync + std::fmt::Debug {
    /// Whether the line stays.
    fn process<'a>(&'a self, state: &mut LineState<'a>) -> bool;

    /// Labels that must be known for it, for [`Hints`].
    fn required(&self, _names: &mut Vec<String>) {}

    /// May change the line: later filters can't be answered by the store.
    fn changes_line(&self) -> bool {
        false
    }

    /// Tests the line alone, without state.
    fn line_filter(&self) -> Option<&CompiledFilter> {
        None
    }
}

impl Run for CompiledFilter {
    fn process<'a>(&'a self, state: &mut LineState<'a>) -> bool {
        self.stays(&state.line)
    }

    fn line_filter(&self) -> Option<&CompiledFilter> {
        Some(self)
    }
}
