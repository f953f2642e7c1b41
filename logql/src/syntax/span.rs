//! Spans: where a node stands in the text of a query.
//!
//! In: byte offsets. Out: spans that join. Touches nothing.

/// Bytes of the query's text, `start..end`. Equal to any other span: trees are equal when they say the same.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// Behind the last byte.
    pub end: u32,
}

impl PartialEq for Span {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Span {}

impl Span {
    /// From the start of this one to the end of that one.
    pub fn to(self, that: Span) -> Self {
        Self { start: self.start.min(that.start), end: self.end.max(that.end) }
    }
}
