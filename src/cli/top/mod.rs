//! `millrace top`: the ledger of a running process as a terminal view, refreshed once a second.
//!
//! In: the ledger by HTTP, keys. Out: frames on the terminal (`view.rs`), made from what two looks differ by (`model.rs`).
//! Touches the network and the terminal, which it leaves as it found it.

use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;

use super::door::DoorFlags;
use super::runtime::runtime;
use super::terminal::print;
use crate::exit::{Code, Failure};
use model::{Look, Model};

/// What is shown, from two looks.
mod model;
/// How it is drawn.
mod view;

/// How often keys are looked at.
const KEYS: Duration = Duration::from_millis(100);
/// Size of the frame of `--once` where there is no terminal.
const SIZE: (u16, u16) = (120, 40);

/// What to show.
#[derive(Debug, clap::Args)]
pub struct TopArgs {
    #[command(flatten)]
    door: DoorFlags,
    /// Refresh interval
    #[arg(long, value_name = "TIME", value_parser = millrace_log::value::Span::parse, default_value = "1s")]
    interval: millrace_log::value::Span,
    /// Print one frame as plain text after one interval, and exit
    #[arg(long)]
    once: bool,
}

/// Shows until `q`, Escape or Ctrl-C.
pub fn top(args: &TopArgs) -> Result<(), Failure> {
    let interval = args.interval.0.clamp(Duration::from_millis(100), Duration::from_secs(3600));
    let runtime = runtime()?;
    if args.once {
        return runtime.block_on(once(&args.door, interval));
    }
    // Errors of the terminal or of the connection are reported before the screen is taken over.
    let client = args.door.client()?;
    let first = runtime.block_on(args.door.ledger(&client))?;
    let mut model = Model::new(&args.door.addr);
    model.take(Ok(Look::now(first)));
    let (looks, mut seen) = mpsc::channel(1);
    let door = args.door.clone();
    let looking = runtime.spawn(async move {
        let mut turns = tokio::time::interval(interval);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        turns.tick().await;
        loop {
            turns.tick().await;
            let look = door.ledger(&client).await.map(Look::now).map_err(|failure| failure.to_string());
            if looks.send(look).await.is_err() {
                return;
            }
        }
    });
    let mut terminal = ratatui::try_init().map_err(|error| {
        let text = "standard output is not a terminal that can be drawn on: use --once";
        Failure::new(Code::Usage, anyhow::Error::new(error).context(text))
    })?;
    let shown = (|| -> std::io::Result<()> {
        loop {
            while let Ok(look) = seen.try_recv() {
                model.take(look);
            }
            terminal.draw(|frame| view::draw(frame, &mut model))?;
            if !event::poll(KEYS)? {
                continue;
            }
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                let rows = isize::try_from(terminal.size()?.height / 2).unwrap_or(10);
                match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
                    KeyCode::Char('s') => model.next_order(),
                    KeyCode::Char('j') | KeyCode::Down => model.scroll(1),
                    KeyCode::Char('k') | KeyCode::Up => model.scroll(-1),
                    KeyCode::PageDown | KeyCode::Char(' ') => model.scroll(rows),
                    KeyCode::PageUp => model.scroll(-rows),
                    KeyCode::Home => model.scroll(isize::MIN),
                    KeyCode::End => model.scroll(isize::MAX),
                    _ => {}
                }
            }
        }
    })();
    ratatui::restore();
    looking.abort();
    Ok(shown?)
}

async fn once(door: &DoorFlags, interval: Duration) -> Result<(), Failure> {
    let client = door.client()?;
    let mut model = Model::new(&door.addr);
    model.take(Ok(Look::now(door.ledger(&client).await?)));
    tokio::time::sleep(interval).await;
    model.take(Ok(Look::now(door.ledger(&client).await?)));
    print(&view::text(&mut model, SIZE)?)
}
