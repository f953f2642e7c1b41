//! Draws the view of `top`: stages, bottlenecks, sources.
//!
//! In: the model. Out: a frame, or the same as text. Side effects: none besides the frame.

use ratatui::Frame;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table, Wrap};

use super::model::Model;
use crate::exit::Failure;
use crate::human::{bytes, count, rate};
use crate::ledger::slowest;

const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const WARN: Style = Style::new().fg(Color::Yellow);
const HEAD: Style = Style::new().add_modifier(Modifier::BOLD);
/// Lines of troubles shown at most.
const TROUBLES: usize = 4;

/// Draws a frame.
pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model) {
    let state = state_lines(model);
    let hops = u16::try_from(model.hops().len()).unwrap_or(8) + 2;
    let [title, top, middle, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(hops),
        Constraint::Length(u16::try_from(state.len()).unwrap_or(8) + 1),
        Constraint::Min(3),
    ])
    .areas(frame.area());
    let order = format!("  s: order by {}  q: quit", model.order.name());
    frame.render_widget(
        Line::from(vec![Span::styled(format!("millrace top  {}", model.addr), HEAD), Span::raw(order)]),
        title,
    );
    frame.render_widget(hops_table(model), top);
    frame.render_widget(Paragraph::new(state).wrap(Wrap { trim: false }), middle);
    let rows = usize::from(bottom.height.saturating_sub(2));
    frame.render_widget(sources_table(model, rows), bottom);
}

/// The frame as text.
pub(super) fn text(model: &mut Model, (width, height): (u16, u16)) -> Result<String, Failure> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).map_err(anyhow::Error::new)?;
    terminal.draw(|frame| draw(frame, model)).map_err(anyhow::Error::new)?;
    let buffer = terminal.backend().buffer();
    let mut out = String::new();
    for y in 0..height {
        let row: String = (0..width).filter_map(|x| buffer.cell((x, y))).map(|cell| cell.symbol()).collect();
        out.push_str(row.trim_end());
        out.push('\n');
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    Ok(out)
}

fn hops_table(model: &Model) -> Table<'static> {
    let rows = model.hops().into_iter().map(|(hop, pace)| {
        let bad = if hop.adds_up() { Style::new() } else { BAD };
        Row::new(vec![
            hop.hop.clone(),
            pace.map_or_else(String::new, |pace| rate(pace.in_per_s)),
            pace.map_or_else(String::new, |pace| rate(pace.out_per_s)),
            count(hop.read),
            count(hop.stored),
            count(hop.dropped),
            count(hop.waiting),
            hop.behind_text(),
            pace.map_or_else(String::new, |pace| pace.delay_text()),
            if hop.adds_up() { "balanced".to_owned() } else { "NOT BALANCED".to_owned() },
        ])
        .style(bad)
    });
    let widths = [24, 9, 9, 9, 9, 9, 9, 10, 13, 15].map(Constraint::Length);
    let head = ["stage", "in/s", "out/s", "read", "stored", "dropped", "waiting", "behind", "delay", "ledger"];
    Table::new(rows, widths).header(Row::new(head).style(HEAD))
}

fn state_lines(model: &Model) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    if let Some(error) = &model.error {
        lines.push(Line::styled(format!("last refresh failed: {error}"), BAD));
    }
    let hops = model.hops();
    if let Some(line) = slowest(hops.iter().filter_map(|(hop, pace)| Some((*hop, (*pace)?)))) {
        lines.push(Line::styled(line, WARN));
    }
    if let Some(condition) = model.condition() {
        let (used, max) = (condition.waiting_bytes, condition.max_waiting_bytes);
        let text = format!("memory: {} of {} waiting for the log", bytes(used), bytes(max));
        lines.push(Line::raw(text));
        match condition.paused.as_deref() {
            None => {}
            Some("memory") => {
                let text = "reading is paused: agent.max_waiting_bytes is used up, the log is slow or unreachable";
                lines.push(Line::styled(text, BAD));
            }
            Some("queue") => {
                let text = "reading is paused: the queue of a partition is full (agent.queue_pieces), the log is slow or unreachable";
                lines.push(Line::styled(text, BAD));
            }
            Some("log") => {
                let text = "reading waits for acknowledgements of the log, as usual while a backlog is read";
                lines.push(Line::styled(text, WARN));
            }
            Some(other) => lines.push(Line::styled(format!("reading is paused: {other}"), BAD)),
        }
        for (partition, trouble) in condition.troubles.iter().take(TROUBLES) {
            lines.push(Line::styled(format!("{partition}: {trouble}"), BAD));
        }
        if condition.troubles.len() > TROUBLES {
            lines.push(Line::styled(format!("and {} more", condition.troubles.len() - TROUBLES), BAD));
        }
    }
    for (hop, _) in &hops {
        // The condition of the agent is shown above, in more detail.
        if let Some(trouble) = hop.trouble.as_ref().filter(|_| hop.hop != "agent") {
            lines.push(Line::styled(format!("{}: {trouble}", hop.hop), BAD));
        }
        if hop.holes > 0 {
            lines.push(Line::styled(format!("{}: {} holes in the log", hop.hop, hop.holes), BAD));
        }
    }
    lines
}

fn sources_table(model: &mut Model, rows: usize) -> Table<'static> {
    let sources = model.sources();
    // The list may have become shorter.
    model.from = model.from.min(sources.len().saturating_sub(1));
    let title = format!("{} sources", sources.len());
    let rows = sources.into_iter().skip(model.from).take(rows).map(|row| {
        let style = match (row.adds_up, row.dropped > 0) {
            (false, _) => BAD,
            (true, true) => WARN,
            (true, false) => Style::new(),
        };
        let cells = [
            row.name,
            row.kind,
            rate(row.lines_per_s),
            format!("{}/s", bytes(whole(row.bytes_per_s))),
            bytes(row.unread),
            count(row.waiting),
            count(row.dropped),
        ];
        Row::new(cells.map(Cell::from)).style(style)
    });
    let widths = [Constraint::Min(30), Constraint::Length(9)]
        .into_iter()
        .chain([9, 12, 10, 9, 9].map(Constraint::Length))
        .collect::<Vec<_>>();
    let head = ["source", "type", "lines/s", "bytes/s", "unread", "waiting", "dropped"];
    Table::new(rows, widths).header(Row::new(head).style(HEAD)).block(Block::new().borders(Borders::TOP).title(title))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // shown with few digits
fn whole(rate: f64) -> u64 {
    rate.max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::model;
    use super::*;

    #[test]
    fn a_frame_shows_bottlenecks() {
        insta::assert_snapshot!(text(&mut model(), (120, 20)).unwrap());
    }

    #[test]
    fn a_small_terminal_does_no_harm() {
        for size in [(1, 1), (20, 5), (80, 3)] {
            assert!(text(&mut model(), size).unwrap().ends_with('\n'), "{size:?}");
        }
    }
}
