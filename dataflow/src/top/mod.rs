//! `tidewatch top`: the live view in a terminal, over the API or the store.
//!
//! A thread asks ([`poll`]) and hands over whole [`poll::Snapshot`]s; the loop here draws the newest and takes keys, so that a server
//! that does not answer never holds up a key. What is seen is [`state::View`], and drawn by [`draw`].
//!
//! Invariants
//! - The terminal is as it was when the program ends: by a key, a signal, an error or a panic in any thread.
//! - Text from logs reaches the screen printable: no control characters, nothing that reorders text.

pub mod draw;
pub mod poll;
pub mod state;

use crate::cli::views::{self, PlaceArgs};
use crate::exit::{self, Failure};
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use state::{Action, View};
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long is waited for a key before something new is looked for.
const TICK: Duration = Duration::from_millis(100);

/// The live view in a terminal: traffic, alerts, top paths and clients, time.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidewatch top
  tidewatch top --url http://127.0.0.1:8080/
  TIDEWATCH_TOKEN=… tidewatch top --url https://ops.example.org/tidewatch/

Keys: q quit, tab next view, h next host, p pause, ? help.")]
pub struct TopArgs {
    /// How much time is shown.
    #[arg(long, value_name = "LENGTH", default_value = "15m", value_parser = views::length)]
    since: tidewatch_events::time::Millis,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Shows the view until somebody leaves it.
pub fn run(args: &TopArgs) -> Result<(), Failure> {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    if dumb || !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Failure::usage("`top` needs a terminal; `tidewatch report` writes a summary anywhere"));
    }
    let answers = views::open(&args.place, PATIENCE)?;
    let colors = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut view = View::new(answers.name(), colors);
    // What cannot work at all is said before the screen is taken.
    answers.status()?;
    let (stopping, interrupted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    for (signal, flags) in [
        (signal_hook::consts::SIGTERM, [&stopping, &stopping]),
        (signal_hook::consts::SIGHUP, [&stopping, &stopping]),
        (signal_hook::consts::SIGINT, [&stopping, &interrupted]),
    ] {
        for flag in flags {
            signal_hook::flag::register(signal, flag.clone())
                .map_err(|error| Failure::failed(format!("signals cannot be handled: {error}")))?;
        }
    }
    let poller = poll::Poller::start(answers, args.since)?;
    // Its panic hook gives the terminal back before ours ends the process.
    let mut terminal = ratatui::try_init().map_err(cannot)?;
    let result = show(&mut terminal, &mut view, &poller, &stopping);
    ratatui::try_restore().map_err(cannot)?;
    if result? == Action::Interrupt || interrupted.load(Ordering::Relaxed) {
        exit::interrupt();
    }
    Ok(())
}

fn cannot(error: std::io::Error) -> Failure {
    Failure::failed(format!("the terminal cannot be used: {error}"))
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    view: &mut View,
    poller: &poll::Poller,
    stopping: &AtomicBool,
) -> Result<Action, Failure> {
    loop {
        while let Some(snapshot) = poller.newest() {
            view.take(snapshot);
        }
        terminal.draw(|frame| draw::draw(frame, view)).map_err(cannot)?;
        if stopping.load(Ordering::Relaxed) {
            return Ok(Action::Quit);
        }
        if !event::poll(TICK).map_err(cannot)? {
            continue;
        }
        // A new size is drawn by the next turn.
        if let Event::Key(key) = event::read().map_err(cannot)?
            && key.kind != KeyEventKind::Release
        {
            match view.press(key) {
                Action::None => {}
                Action::Ask => poller.ask(view.host().map(str::to_owned)),
                leave => return Ok(leave),
            }
        }
    }
}
