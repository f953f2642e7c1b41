//! Aligned columns, and numbers as people read them.
//!
//! In: rows of text. Out: one text. Touches nothing.

use std::fmt::Write as _;

/// Rows below a head; numbers stand to the right.
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A head; a name that starts with `>` is a column of numbers.
    pub fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    /// Adds a row of as many cells as the head has.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<String> = self.head.iter().map(|name| name.trim_start_matches('>').to_uppercase()).collect();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.chain(names.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..names.len()).map(width).collect();
        for row in std::iter::once(&names).chain(&self.rows) {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                let wide = widths.get(i).copied().unwrap_or(0);
                let between = if i == 0 { "" } else { "  " };
                if self.head.get(i).is_some_and(|name| name.starts_with('>')) {
                    write!(line, "{between}{cell:>wide$}")?;
                } else {
                    write!(line, "{between}{cell:<wide$}")?;
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// `1.5GiB`: three digits and the unit that configuration takes.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count}B");
    }
    #[allow(clippy::cast_precision_loss)] // three digits are shown
    let mut amount = count as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in UNITS.into_iter().skip(1) {
        if amount < 999.5 {
            break;
        }
        amount /= 1024.0;
        unit = next;
    }
    let digits = if amount < 9.995 { 2 } else { usize::from(amount < 99.95) };
    let text = format!("{amount:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// Milliseconds as the largest units that say it whole: `7d`, `1h30m`; -1 is `for ever`.
pub fn span_ms(ms: i64) -> String {
    let Ok(mut rest) = u64::try_from(ms) else { return "for ever".to_owned() };
    if rest == 0 {
        return "0".to_owned();
    }
    let mut text = String::new();
    for (unit, length) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        if rest >= length {
            text.push_str(&format!("{}{unit}", rest / length));
            rest %= length;
        }
    }
    text
}

/// What is not known.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["topic", ">records"]);
        table.row(["a".to_owned(), "1000".to_owned()]);
        table.row(["longer".to_owned(), "7".to_owned()]);
        assert_eq!(table.to_string(), "TOPIC   RECORDS\na          1000\nlonger        7\n");
    }

    #[test]
    fn numbers_for_people() {
        for (count, want) in
            [(0, "0B"), (1023, "1023B"), (1024, "1KiB"), (1536, "1.5KiB"), (1 << 30, "1GiB"), (123_456_789, "118MiB")]
        {
            assert_eq!(bytes(count), want);
        }
        for (ms, want) in [(-1, "for ever"), (0, "0"), (604_800_000, "7d"), (5_400_000, "1h30m"), (250, "250ms")] {
            assert_eq!(span_ms(ms), want);
        }
    }
}
