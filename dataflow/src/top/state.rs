//! What somebody looks at: the view, the host, what is selected; and what a key does to it.

use super::poll::{Round, Snapshot};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// A view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Tab {
    Overview,
    Alerts,
    Traffic,
    Time,
}

impl Tab {
    /// All, in the order of the keys 1 to 4.
    pub const ALL: [(Tab, &'static str); 4] =
        [(Tab::Overview, "Overview"), (Tab::Alerts, "Alerts"), (Tab::Traffic, "Traffic"), (Tab::Time, "Time")];

    /// Its place among them.
    pub fn index(self) -> usize {
        Tab::ALL.iter().position(|(tab, _)| *tab == self).unwrap_or(0)
    }

    fn by(self, steps: usize) -> Tab {
        Tab::ALL[(self.index() + steps) % Tab::ALL.len()].0
    }
}

/// What a key asks of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing but to draw.
    None,
    /// Ask anew: another host.
    Ask,
    /// Leave.
    Quit,
    /// Leave as after SIGINT.
    Interrupt,
}

/// What is looked at.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct View {
    /// Who answers.
    pub place: String,
    pub colors: bool,
    pub tab: Tab,
    pub paused: bool,
    pub help: bool,
    /// The first row of the list that is shown.
    pub first: usize,
    pub snapshot: Option<Snapshot>,
    /// Why the newest round found nothing.
    pub error: Option<String>,
    host: Option<String>,
}

impl View {
    /// The overview of all hosts.
    pub fn new(place: String, colors: bool) -> View {
        let place = tidewatch_events::text::printable(place.as_bytes()).into_owned();
        View {
            place,
            colors,
            tab: Tab::Overview,
            paused: false,
            help: false,
            first: 0,
            snapshot: None,
            error: None,
            host: None,
        }
    }

    /// The host that is looked at; none: all of them.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Takes what was found, unless it stands still or is of another host.
    pub fn take(&mut self, round: Round) {
        match round {
            Ok(snapshot) => {
                self.error = None;
                let first = self.snapshot.is_none();
                if first || (!self.paused && snapshot.host == self.host) {
                    self.snapshot = Some(snapshot);
                }
            }
            Err(error) => self.error = Some(tidewatch_events::text::printable(error.as_bytes()).into_owned()),
        }
    }

    /// What a key does.
    pub fn press(&mut self, key: KeyEvent) -> Action {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Action::Interrupt } else { Action::None };
        }
        if self.help {
            self.help = false;
            return if key.code == KeyCode::Char('q') { Action::Quit } else { Action::None };
        }
        let tabs = Tab::ALL.len();
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Action::Quit,
            KeyCode::Char('?') => self.help = true,
            KeyCode::Char('p') => self.paused = !self.paused,
            KeyCode::Char('h') => return self.next_host(1),
            KeyCode::Char('H') => return self.next_host(usize::MAX),
            KeyCode::Char('a') => return self.choose_host(None),
            KeyCode::Tab | KeyCode::Right => self.go(self.tab.by(1)),
            KeyCode::BackTab | KeyCode::Left => self.go(self.tab.by(tabs - 1)),
            KeyCode::Char(digit @ '1'..='4') => self.go(Tab::ALL[digit as usize - '1' as usize].0),
            KeyCode::Down => self.first = self.first.saturating_add(1),
            KeyCode::Up => self.first = self.first.saturating_sub(1),
            KeyCode::PageDown => self.first = self.first.saturating_add(10),
            KeyCode::PageUp => self.first = self.first.saturating_sub(10),
            KeyCode::Home => self.first = 0,
            _ => {}
        }
        self.first = self.first.min(self.rows().saturating_sub(1));
        Action::None
    }

    /// How many rows the longest list of the view has.
    fn rows(&self) -> usize {
        let Some(snapshot) = &self.snapshot else { return 0 };
        match self.tab {
            Tab::Overview => 0,
            Tab::Alerts => snapshot.alerts.rows.len(),
            Tab::Traffic => snapshot.paths.rows.len().max(snapshot.clients.rows.len()),
            Tab::Time => snapshot.time.partitions.len(),
        }
    }

    fn go(&mut self, tab: Tab) {
        (self.tab, self.first) = (tab, 0);
    }

    /// All hosts, then each; `usize::MAX` steps are one back.
    fn next_host(&mut self, steps: usize) -> Action {
        let hosts = self.snapshot.as_ref().map(|snapshot| snapshot.status.hosts.as_slice()).unwrap_or_default();
        let at = self.host.as_ref().and_then(|host| hosts.iter().position(|h| h == host)).map_or(0, |at| at + 1);
        let count = hosts.len() + 1;
        let next = if steps == usize::MAX { (at + count - 1) % count } else { (at + steps) % count };
        let host = next.checked_sub(1).and_then(|at| hosts.get(at)).cloned();
        self.choose_host(host)
    }

    fn choose_host(&mut self, host: Option<String>) -> Action {
        if host == self.host {
            return Action::None;
        }
        // What stands still is of the host before.
        (self.host, self.paused, self.first) = (host, false, 0);
        Action::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        let mut view = View::new("store".into(), true);
        let mut snapshot = Snapshot::default();
        snapshot.status.hosts = vec!["a".into(), "b".into()];
        view.take(Ok(snapshot));
        view
    }

    fn press(view: &mut View, code: KeyCode) -> Action {
        view.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn keys() {
        let rows: &[(&str, &[KeyCode], Action, (Tab, Option<&str>, bool))] = &[
            ("quit", &[KeyCode::Char('q')], Action::Quit, (Tab::Overview, None, false)),
            ("next", &[KeyCode::Tab, KeyCode::Right], Action::None, (Tab::Traffic, None, false)),
            ("before the first", &[KeyCode::BackTab], Action::None, (Tab::Time, None, false)),
            ("after the last", &[KeyCode::Char('4'), KeyCode::Tab], Action::None, (Tab::Overview, None, false)),
            ("a host", &[KeyCode::Char('h')], Action::Ask, (Tab::Overview, Some("a"), false)),
            ("the last host", &[KeyCode::Char('H')], Action::Ask, (Tab::Overview, Some("b"), false)),
            ("all again", &[KeyCode::Char('H'), KeyCode::Char('h')], Action::Ask, (Tab::Overview, None, false)),
            ("all already", &[KeyCode::Char('a')], Action::None, (Tab::Overview, None, false)),
            ("pause", &[KeyCode::Char('p')], Action::None, (Tab::Overview, None, true)),
            (
                "another host goes on",
                &[KeyCode::Char('p'), KeyCode::Char('h')],
                Action::Ask,
                (Tab::Overview, Some("a"), false),
            ),
            ("help takes a key", &[KeyCode::Char('?'), KeyCode::Tab], Action::None, (Tab::Overview, None, false)),
            ("nothing to scroll", &[KeyCode::Char('2'), KeyCode::PageDown], Action::None, (Tab::Alerts, None, false)),
        ];
        for (name, codes, action, want) in rows {
            let mut view = view();
            let last = codes.iter().fold(Action::None, |_, code| press(&mut view, *code));
            assert_eq!((last, (view.tab, view.host(), view.paused)), (*action, *want), "{name}");
            assert_eq!(view.first, 0, "{name}");
        }
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(view().press(control_c), Action::Interrupt);
    }

    #[test]
    fn what_stands_still_stays() {
        let mut view = view();
        press(&mut view, KeyCode::Char('p'));
        view.take(Ok(Snapshot { at: 7, ..Snapshot::default() }));
        assert_eq!(view.snapshot.as_ref().unwrap().at, 0);
        press(&mut view, KeyCode::Char('p'));
        view.take(Ok(Snapshot { at: 7, host: Some("other".into()), ..Snapshot::default() }));
        assert_eq!(view.snapshot.as_ref().unwrap().at, 0, "an answer for the host before");
        view.take(Err("gone \u{1b}[2J".into()));
        assert_eq!(view.error.as_deref(), Some("gone \\x1B[2J"));
        assert_eq!(view.snapshot.as_ref().unwrap().at, 0, "the last is kept");
    }
}
