//! Input of fuzz targets as choices: small numbers and bytes that the fuzzer's bytes make.
//!
//! In: any bytes. Out: choices. Touches nothing. Compiled with the feature `fuzzing` and in tests, never into the product.

/// Choices that bytes make: small numbers, one after the other; noughts once the bytes are used up.
#[derive(Debug)]
pub(crate) struct Choices<'a>(pub &'a [u8]);

impl<'a> Choices<'a> {
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// A number below this one, which is at least 1.
    pub fn below(&mut self, end: usize) -> usize {
        (usize::from(self.byte()) | usize::from(self.byte()) << 8) % end
    }

    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (some, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        some
    }
}
