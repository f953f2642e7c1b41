//! Bars over time as SVG, with the time written below and the largest count at the side. Each bar leads to its time.
//!
//! In: (start, value) per bar. Out: markup. Touches nothing. Colours come from the style sheet, so that the bars follow
//! light and dark.

use maud::{Markup, html};

use super::range::Range;
use super::text::{clock, date_tag, number, rfc3339};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 88.0;

/// One bar that is not empty.
struct Bar {
    start_ns: i64,
    x: f64,
    height: f64,
    value: f64,
}

/// Draws the bars of a range; empty ones leave their place free. `to` makes the link to the time of a bar.
pub fn draw(range: &Range, bars: &[(i64, f64)], to: impl Fn(&Range) -> String) -> Markup {
    let top = bars.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    let span = range.span_ns() as f64;
    let width = WIDTH * range.step_ns as f64 / span;
    let boxes = bars.iter().filter(|(_, value)| *value > 0.0 && top > 0.0).map(|&(start_ns, value)| {
        let x = WIDTH * start_ns.saturating_sub(range.start_ns) as f64 / span;
        Bar { start_ns, x: x.max(0.0), height: (HEIGHT * value / top).max(1.5), value }
    });
    html! {
        figure.histogram {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" role="img"
                aria-label=(format!("lines over time, at most {} in one bar", number(top))) {
                @for bar in boxes {
                    a href=(to(&Range::between(bar.start_ns, bar.start_ns.saturating_add(range.step_ns)))) tabindex="-1" {
                        rect x=(format!("{:.1}", bar.x)) y=(format!("{:.1}", HEIGHT - bar.height))
                            width=(format!("{:.1}", (width - 1.0).max(1.0))) height=(format!("{:.1}", bar.height)) {
                            title data-time=(rfc3339(bar.start_ns)) data-value=(number(bar.value)) {
                                (clock(bar.start_ns)) " UTC: " (number(bar.value))
                            }
                        }
                    }
                }
            }
            figcaption {
                span { (date_tag(range.start_ns)) }
                span { "up to " (number(top)) " per bar" }
                span { (date_tag(range.end_ns)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_bar_fills_the_height() {
        let second = 1_000_000_000;
        let range = Range::between(0, 300 * second);
        let bars = [(0, 10.0), (5 * second, 5.0), (10 * second, 0.0)];
        let text = draw(&range, &bars, |range| format!("/?from={}", range.start_ns)).into_string();
        assert_eq!(text.matches("<rect").count(), 2, "{text}");
        assert!(text.contains(r#"height="88.0""#) && text.contains(r#"height="44.0""#), "{text}");
        assert!(text.contains(r#"<rect x="16.0""#) && text.contains(r#"href="/?from=5000000000""#), "{text}");
        assert!(text.contains("up to 10 per bar"));
    }
}
