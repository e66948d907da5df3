//! Draws the view: from 60 columns and 16 rows on, with more of everything where there is more room.
//!
//! Invariants
//! - Drawing changes nothing and asks nothing.
//! - Nothing is told by colour alone: severities and states are words too.

use super::poll::Snapshot;
use super::state::{Tab, View};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Sparkline, Table, Tabs, Wrap};
use tidewatch_connectors::answers::{AlertRow, HeldBy, SeriesRow, TopRow, Tops};
use tidewatch_connectors::report::figures::{bytes, decimals, grouped, latency, length, percent, second, short};
use tidewatch_events::alert::{AlertState, Mode, Severity};

/// Below this nothing can be shown that makes sense.
const LEAST: (u16, u16) = (60, 16);

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, view: &View) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text =
            format!("the terminal is too small: {}x{} of at least {}x{}", area.width, area.height, LEAST.0, LEAST.1);
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let [head, tabs, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)])
            .areas(area);
    let paint = Paint { colors: view.colors };
    frame.render_widget(header(view, paint, head.width), head);
    let titles = Tab::ALL.iter().enumerate().map(|(at, (_, title))| format!("{} {title}", at + 1));
    let chosen = Style::new().add_modifier(Modifier::REVERSED);
    frame.render_widget(Tabs::new(titles).select(view.tab.index()).highlight_style(chosen), tabs);
    match &view.snapshot {
        None => {
            let text = if view.error.is_some() { "No answer yet." } else { "Asking …" };
            frame.render_widget(Paragraph::new(text).block(Block::bordered()), body);
        }
        Some(snapshot) => match view.tab {
            Tab::Overview => overview(frame, body, snapshot, paint),
            Tab::Alerts => alerts(frame, body, snapshot, view.first, paint),
            Tab::Traffic => traffic(frame, body, snapshot, view.first, paint),
            Tab::Time => time(frame, body, snapshot, view.first, paint),
        },
    }
    frame.render_widget(footer(view, paint), foot);
    if view.help {
        help(frame, area);
    }
}

/// Colours, or none of them.
#[derive(Clone, Copy)]
struct Paint {
    colors: bool,
}

impl Paint {
    fn of(self, color: Color) -> Style {
        if self.colors { Style::new().fg(color) } else { Style::new() }
    }

    fn severity(self, severity: Severity) -> Style {
        match severity {
            Severity::Critical => self.of(Color::Magenta).add_modifier(Modifier::BOLD),
            Severity::High => self.of(Color::Red).add_modifier(Modifier::BOLD),
            Severity::Medium => self.of(Color::Yellow),
            Severity::Low => self.of(Color::Cyan),
            Severity::Info => Style::new(),
        }
    }

    fn dim(self) -> Style {
        if self.colors { Style::new().fg(Color::DarkGray) } else { Style::new().add_modifier(Modifier::DIM) }
    }
}

fn header(view: &View, paint: Paint, width: u16) -> Paragraph<'static> {
    let mut spans = vec![Span::styled("tidewatch ", Style::new().add_modifier(Modifier::BOLD))];
    let host = view.host().map_or("all hosts".to_owned(), |host| format!("host {host}"));
    spans.push(Span::raw(format!("{host}  ")));
    if let Some(snapshot) = &view.snapshot {
        let to = snapshot.series.to.0;
        spans.push(Span::raw(if to == 0 { "no data yet  ".to_owned() } else { format!("to {} UTC  ", second(to)) }));
        if let Some(behind) = snapshot.status.catching_up {
            // A share that rounds to all of it is not all of it.
            let words = format!("catching up {} %  ", (behind.share * 100.0).floor());
            spans.push(Span::styled(words, paint.of(Color::Yellow)));
        }
        if let Some(age) = quiet_for(snapshot) {
            spans.push(Span::styled(format!("newest event {} old  ", length(age)), paint.of(Color::Yellow)));
        }
        if snapshot.status.mode != "store" {
            spans.push(Span::raw(format!("{} events/s  ", decimals(snapshot.status.rate))));
        }
        let troubled = snapshot.status.sinks.iter().filter(|sink| sink.state != "ok");
        for sink in troubled {
            spans.push(Span::styled(format!("{} is {}  ", sink.name, sink.state), paint.of(Color::Red)));
        }
        for source in snapshot.status.sources.iter().filter(|source| source.away > 0) {
            spans.push(Span::styled(format!("{} is disconnected  ", source.name), paint.of(Color::Red)));
        }
    }
    let (word, style) = match view.paused {
        true => ("PAUSED ", paint.of(Color::Yellow).add_modifier(Modifier::BOLD)),
        false => ("live ", paint.of(Color::Green)),
    };
    spans.push(Span::styled(word, style));
    let used: usize = spans.iter().map(Span::width).sum();
    let room = usize::from(width).saturating_sub(used);
    spans.push(Span::styled(cut(&view.place, room), paint.dim()));
    Paragraph::new(Line::from(spans))
}

/// How old the newest event is, where that is longer than it takes to see one.
fn quiet_for(snapshot: &Snapshot) -> Option<u64> {
    let status = &snapshot.status;
    let age = snapshot.at.saturating_sub(status.last_event?);
    let is_present = status.mode != "store" && status.catching_up.is_none();
    (is_present && age > snapshot.series.step.0.saturating_mul(3).max(60_000)).then_some(age)
}

fn footer(view: &View, paint: Paint) -> Paragraph<'static> {
    let missing = view.snapshot.as_ref().and_then(|snapshot| snapshot.missing.as_ref());
    if let Some(error) = view.error.as_ref().or(missing) {
        return Paragraph::new(Line::styled(error.clone(), paint.of(Color::Red)));
    }
    let keys = "q quit  tab next view  h host  p pause  ↑↓ scroll  ? help";
    Paragraph::new(Line::styled(keys, paint.dim()))
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let lines = [
        "q, Esc, Ctrl-C   leave",
        "Tab, →, ←, 1-4   other view",
        "h, H, a          next host, host before, all hosts",
        "p                pause: what is shown stands still",
        "↑ ↓ PgUp PgDn    scroll a list; Home: to its start",
        "",
        "Figures go back from the newest data. Of several hosts",
        "p95 is the highest and clients are the most of any.",
    ];
    let (width, height) = (60.min(area.width), (lines.len() as u16 + 2).min(area.height));
    let place = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    frame.render_widget(Clear, place);
    let text: Vec<Line<'_>> = lines.into_iter().map(Line::raw).collect();
    frame.render_widget(Paragraph::new(text).block(Block::bordered().title("Keys (any key closes)")), place);
}

fn overview(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot, paint: Paint) {
    let third = Constraint::Fill(1);
    let [tiles, charts, news, tops] = Layout::vertical([Constraint::Length(2), third, third, third]).areas(area);
    frame.render_widget(self::tiles(snapshot, paint), tiles);
    let rows = &snapshot.series.rows;
    let [upper, lower] = Layout::vertical([Constraint::Fill(1), Constraint::Fill(1)]).areas(charts);
    let half = [Constraint::Fill(1), Constraint::Fill(1)];
    let ([one, two], [three, four]) = (Layout::horizontal(half).areas(upper), Layout::horizontal(half).areas(lower));
    let most = |value: fn(&SeriesRow) -> f64| rows.iter().map(value).fold(0.0, f64::max);
    let rps = |row: &SeriesRow| row.rps;
    let errors = |row: &SeriesRow| row.status_5xx as f64 / row.requests.max(1) as f64;
    let p95 = |row: &SeriesRow| row.latency_p95.unwrap_or(0.0);
    let clients = |row: &SeriesRow| row.clients as f64;
    let timed = rows.iter().any(|row| row.latency_p95.is_some());
    let slowest = latency(timed.then(|| most(p95)));
    let mut draw = |area: Rect, title: String, value: fn(&SeriesRow) -> f64, color| {
        chart(frame, area, &title, &over_time(snapshot, value, area.width.saturating_sub(2)), paint.of(color));
    };
    draw(one, format!("requests/s, most {}", decimals(most(rps))), rps, Color::Green);
    draw(two, format!("5xx, most {}", percent(most(errors))), errors, Color::Red);
    draw(three, format!("latency p95, most {slowest}"), p95, Color::Yellow);
    draw(four, format!("clients a window, most {}", grouped(most(clients) as u64)), clients, Color::Cyan);
    let block = Block::bordered().title("Newest alerts");
    let height = usize::from(news.height.saturating_sub(2));
    frame.render_widget(alert_table(snapshot.alerts.rows.iter().take(height), news.width, paint).block(block), news);
    let [left, right] = Layout::horizontal(half).areas(tops);
    ranking(frame, left, "Top paths", &snapshot.paths, 0, paint);
    ranking(frame, right, "Top clients", &snapshot.clients, 0, paint);
}

fn tiles(snapshot: &Snapshot, paint: Paint) -> Paragraph<'static> {
    let rows = &snapshot.series.rows;
    // The newest window is still open; the one before is whole.
    let now = rows.len().checked_sub(2).or(rows.len().checked_sub(1)).map(|at| rows[at]).unwrap_or_default();
    let sum = |value: fn(&SeriesRow) -> u64| rows.iter().fold(0u64, |sum, row| sum.saturating_add(value(row)));
    let (requests, errors) = (sum(|row| row.requests), sum(|row| row.status_5xx));
    let share = errors as f64 / requests.max(1) as f64;
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let figure = |name: &str, value: String, style: Style| {
        [Span::styled(value, style.add_modifier(Modifier::BOLD)), Span::raw(format!(" {name}   "))]
    };
    let alarm = |on: bool, color| if on { paint.of(color) } else { bold };
    let counts = snapshot.status.alerts;
    let first = [
        figure("requests/s", decimals(now.rps), bold),
        figure("5xx", percent(share), alarm(share >= 0.01, Color::Red)),
        figure("avg", latency(now.latency_avg), bold),
        figure("p95", latency(now.latency_p95), bold),
        figure("clients", grouped(now.clients), bold),
    ];
    let second = [
        figure("requests", grouped(requests), bold),
        figure("sent", bytes(sum(|row| row.bytes)), bold),
        figure("alerts fire", grouped(counts.firing), alarm(counts.firing > 0, Color::Yellow)),
        figure("critical", grouped(counts.critical), alarm(counts.critical > 0, Color::Magenta)),
        figure("fired in all", grouped(counts.fired), bold),
    ];
    let line = |figures: [[Span<'static>; 2]; 5]| Line::from(figures.into_iter().flatten().collect::<Vec<_>>());
    Paragraph::new(vec![line(first), line(second)])
}

/// A value for each of at most `width` columns of the span that is shown, in thousandths; columns that stand for several rows have
/// the largest.
fn over_time(snapshot: &Snapshot, value: fn(&SeriesRow) -> f64, width: u16) -> Vec<u64> {
    let series = &snapshot.series;
    let (from, length) = (series.from.0, series.to.0.saturating_sub(series.from.0));
    let count = length.div_ceil(series.step.0.max(1));
    let columns = count.min(u64::from(width));
    let mut out = vec![0; usize::try_from(columns).unwrap_or(0)];
    for row in &series.rows {
        let at = row.time.0.saturating_sub(from) / series.step.0.max(1);
        let at = u128::from(at) * u128::from(columns) / u128::from(count.max(1));
        if let Some(column) = usize::try_from(at).ok().and_then(|at| out.get_mut(at)) {
            *column = (*column).max((value(row) * 1000.0) as u64);
        }
    }
    out
}

fn chart(frame: &mut Frame<'_>, area: Rect, title: &str, values: &[u64], style: Style) {
    let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(area);
    frame.render_widget(Paragraph::new(format!(" {title}")), head);
    let body = Rect::new(body.x + 1, body.y, body.width.saturating_sub(2), body.height);
    frame.render_widget(Sparkline::default().data(values).style(style), body);
}

/// A table of alerts that is `width` columns wide, with its border.
fn alert_table<'a>(rows: impl Iterator<Item = &'a AlertRow>, width: u16, paint: Paint) -> Table<'static> {
    // What the other columns, the space between them and the border leave.
    let room = usize::from(width.saturating_sub(8 + 14 + 14 + 7 + 9 + 5 + 2));
    let rows: Vec<Row<'static>> =
        rows.map(|alert| Row::new(alert_cells(alert, room)).style(paint.severity(alert.severity))).collect();
    let widths = [
        Constraint::Length(8),
        Constraint::Length(14),
        Constraint::Max(14),
        Constraint::Fill(1),
        Constraint::Length(7),
        Constraint::Length(9),
    ];
    Table::new(rows, widths)
}

fn alert_cells(alert: &AlertRow, room: usize) -> [String; 6] {
    // What one value is of is told by the rule.
    let is_one = alert.subject.len() == 1;
    let part = |(key, value): (&String, &String)| if is_one { value.clone() } else { format!("{key}={value}") };
    let subject: Vec<String> = alert.subject.iter().map(part).collect();
    let mut state = alert.state.as_str();
    if alert.mode == Mode::Shadow {
        state = "shadow";
    } else if alert.silenced {
        state = "silenced";
    } else if alert.acknowledged.is_some() && alert.state == AlertState::Firing {
        state = "seen";
    }
    [
        alert.severity.as_str().to_owned(),
        // The month and day, and the time.
        second(alert.fired.0)[5..].to_owned(),
        cut(&alert.rule, 14),
        cut(&subject.join(" "), room),
        alert.value.map_or("-".into(), short),
        state.to_owned(),
    ]
}

fn alerts(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot, first: usize, paint: Paint) {
    let all = &snapshot.alerts.rows;
    let [list, detail] = Layout::vertical([Constraint::Min(5), Constraint::Length(7)]).areas(area);
    let more = if snapshot.alerts.truncated { " of more" } else { "" };
    let title = format!("Alerts, newest first: {}{more}", all.len());
    let head = Row::new(["severity", "fired", "rule", "subject", "value", "state"]).style(paint.dim());
    let block = Block::bordered().title(title);
    frame.render_widget(alert_table(all.iter().skip(first), list.width, paint).header(head).block(block), list);
    let block = Block::bordered().title("The first of the list");
    let lines = match all.get(first) {
        None => vec![Line::raw("No alerts.")],
        Some(alert) => {
            let threshold = alert.threshold.map_or("-".into(), short);
            let (from, to) = (second(alert.first.0), second(alert.last.0));
            let findings = if alert.findings == 1 { "finding" } else { "findings" };
            let about = format!("{from} to {to} UTC, {} {findings}, threshold {threshold}", grouped(alert.findings));
            let evidence = alert.evidence.first().cloned().unwrap_or_default();
            vec![Line::raw(alert.id.clone()), Line::raw(about), Line::raw(evidence)]
        }
    };
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).block(block), detail);
}

fn traffic(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot, first: usize, paint: Paint) {
    let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(area);
    ranking(frame, left, "Top paths", &snapshot.paths, first, paint);
    ranking(frame, right, "Top clients", &snapshot.clients, first, paint);
}

fn ranking(frame: &mut Frame<'_>, area: Rect, title: &str, tops: &Tops, first: usize, paint: Paint) {
    let title = if tops.approximate { format!("{title} (lower bounds)") } else { title.to_owned() };
    let room = usize::from(area.width.saturating_sub(8 + 4 + 7 + 3 + 2));
    let cells = |row: &TopRow| {
        let share = row.share.map_or("-".into(), |share| format!("{:.0}%", share * 100.0));
        let errors = row.status_4xx.unwrap_or(0).saturating_add(row.status_5xx.unwrap_or(0));
        let style = if errors > row.requests / 2 { paint.of(Color::Red) } else { Style::new() };
        let figures = [grouped(row.requests), share, grouped(errors)].map(|text| Line::from(text).right_aligned());
        Row::new(std::iter::once(Line::from(cut(&row.name, room))).chain(figures)).style(style)
    };
    let number = |n: u16| Constraint::Length(n);
    let table =
        Table::new(tops.rows.iter().skip(first).map(cells), [Constraint::Fill(1), number(8), number(4), number(7)])
            .header(
                Row::new(["", "requests", "", "4xx+5xx"].map(|text| Line::from(text).right_aligned()))
                    .style(paint.dim()),
            )
            .block(Block::bordered().title(title));
    frame.render_widget(table, area);
}

fn time(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot, first: usize, paint: Paint) {
    let [head, list] = Layout::vertical([Constraint::Length(2), Constraint::Min(3)]).areas(area);
    let time = &snapshot.time;
    let frontier = time.frontier.map_or("before the first event".to_owned(), |at| format!("{} UTC", second(at)));
    let held = match &time.held_by {
        Some(held) => {
            format!("held by {} {} since {} UTC: {}", held.source, held.partition, second(held.since), held.why)
        }
        None if snapshot.status.mode == "store" => {
            "What the store keeps. How far results are known, and who holds that up, only the process knows: --url"
                .to_owned()
        }
        None => "Nobody holds it.".to_owned(),
    };
    let first_line = match time.as_of {
        Some(at) => format!("Measured {} UTC", second(at)),
        None if snapshot.status.mode == "store" => {
            "The process that writes this store has measured nothing yet.".into()
        }
        None => format!("Frontier: {frontier}"),
    };
    let lines = vec![Line::raw(first_line), Line::raw(held)];
    frame.render_widget(Paragraph::new(lines), head);
    let holder = time.held_by.as_ref();
    let room = usize::from(list.width.saturating_sub(14 + 9 + 10 + 9 + 11 + 7 + 6 + 2 + 2));
    let cells = |p: &tidewatch_connectors::answers::Partition| {
        let is_it =
            |held: &HeldBy| (held.process, &held.source, &held.partition) == (p.process, &p.source, &p.partition);
        let holds = holder.is_some_and(is_it);
        let name = if p.partition.is_empty() {
            p.source.clone()
        } else if p.partition.starts_with(p.source.as_str()) {
            p.partition.clone()
        } else {
            format!("{} {}", p.source, p.partition)
        };
        let style = if holds { paint.of(Color::Yellow).add_modifier(Modifier::BOLD) } else { Style::new() };
        // The topic's or directory's name comes first, what tells partitions apart last.
        let name = cut_from_left(&name, room);
        Row::new([
            format!("{}{name}", if holds { "* " } else { "  " }),
            p.state.clone(),
            p.watermark.map_or("-".into(), |at| second(at)[11..].to_owned()),
            p.watermark_delay_ms.map_or("-".into(), |ms| latency(Some(ms as f64))),
            p.lag_messages.map_or("-".into(), grouped),
            grouped(p.events),
            grouped(p.late),
        ])
        .style(style)
    };
    let number = |n: u16| Constraint::Length(n);
    let widths = [Constraint::Fill(1), number(14), number(9), number(10), number(9), number(11), number(7)];
    let more = if time.truncated { " of more" } else { "" };
    let table = Table::new(time.partitions.iter().skip(first).map(cells), widths)
        .header(Row::new(["partition", "state", "watermark", "delay", "lag", "events", "late"]).style(paint.dim()))
        .block(Block::bordered().title(format!("Partitions, the least far first: {}{more}", time.partitions.len())));
    frame.render_widget(table, list);
}

/// The end of a text, of at most so many characters.
fn cut_from_left(text: &str, room: usize) -> String {
    let skipped = text.chars().count().saturating_sub(room);
    match skipped {
        0 => text.to_owned(),
        _ => Some('…').filter(|_| room > 0).into_iter().chain(text.chars().skip(skipped + 1)).collect(),
    }
}

/// At most so many characters.
fn cut(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(room.saturating_sub(1)).collect();
    if room > 0 {
        out.push('…');
    }
    out
}
