//! Bars over time as SVG, with the hour written below and the largest count at the side.
//!
//! In: (time, value) per step. Out: markup. Touches nothing. Colours come from the style sheet, so that the bars
//! follow light and dark.

use maud::{Markup, html};

use super::data::Range;
use super::page::clock_text;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 88.0;

/// Draws the bars of a range; empty steps leave their place free.
pub fn draw(range: &Range, bars: &[(i64, f64)]) -> Markup {
    let top = bars.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    let span = (range.end_ns - range.start_ns) as f64;
    let width = WIDTH * range.step_ns as f64 / span;
    let boxes: Vec<(f64, f64, String)> = bars
        .iter()
        .filter(|(_, value)| *value > 0.0 && top > 0.0)
        .map(|(time_ns, value)| {
            // A point at t counts (t − step, t]: its bar stands before it.
            let x = WIDTH * (time_ns - range.step_ns - range.start_ns) as f64 / span;
            let height = (HEIGHT * value / top).max(1.5);
            (x.max(0.0), height, format!("{} — {}", clock_text(time_ns - range.step_ns), number(*value)))
        })
        .collect();
    html! {
        figure.histogram {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" role="img"
                aria-label=(format!("lines over time, at most {} in one bar", number(top))) {
                @for (x, height, title) in &boxes {
                    rect x=(format!("{x:.1}")) y=(format!("{:.1}", HEIGHT - height))
                        width=(format!("{:.1}", (width - 1.0).max(1.0))) height=(format!("{height:.1}")) { title { (title) } }
                }
            }
            figcaption {
                span { (clock_text(range.start_ns)) }
                span { "up to " (number(top)) " per bar" }
                span { (clock_text(range.end_ns)) }
            }
        }
    }
}

/// Whole numbers without a fraction, others with three digits.
pub fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 { format!("{value:.0}") } else { format!("{value:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_bar_fills_the_height() {
        let range = Range { name: "5m", start_ns: 0, end_ns: 300_000_000_000, step_ns: 5_000_000_000 };
        let text = draw(&range, &[(5_000_000_000, 10.0), (10_000_000_000, 5.0), (15_000_000_000, 0.0)]).into_string();
        assert_eq!(text.matches("<rect").count(), 2, "{text}");
        assert!(text.contains(r#"height="88.0""#) && text.contains(r#"height="44.0""#), "{text}");
        assert!(text.contains("up to 10 per bar"));
    }
}
