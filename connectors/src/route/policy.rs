//! What a route takes, how it groups alerts, and when it holds them back.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use std::collections::BTreeMap;
use tidewatch_events::alert::{Alert, Mode, Severity};
use tidewatch_events::subject;

/// Most messages in an hour that go beyond a route's limit, for the worst alerts.
pub const URGENT_PER_HOUR: usize = 10;

/// How a route decides. Lengths of time in ms.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Alerts below are not told.
    pub min_severity: Severity,
    /// Only these rules; empty for all.
    pub rules: Vec<String>,
    /// Only alerts whose subject names one of these hosts; empty for all.
    pub hosts: Vec<String>,
    /// What alerts have in common that share a message.
    pub group_by: Vec<GroupKey>,
    /// How long the first message of a group waits for company.
    pub group_wait: u64,
    /// The least time between two messages of a group.
    pub group_interval: u64,
    /// After how long an alert that goes on is told again.
    pub repeat_every: Option<u64>,
    /// Whether that goes on whatever holds messages back (an acknowledgement, a silence, quiet hours): for programs that
    /// would take it for an end that they hear nothing.
    pub repeats_always: bool,
    /// Most messages in an hour.
    pub max_per_hour: Option<u64>,
    /// Alerts of this severity and above that fire are told beyond it, in at most [`URGENT_PER_HOUR`] further messages an hour.
    pub limit_except: Option<Severity>,
    /// When nobody is to be disturbed.
    pub quiet: Option<Quiet>,
    /// Whether ends are told.
    pub resolved: bool,
    /// Whether it is told that an alert goes on by another id.
    pub ids: bool,
    /// How many alerts a message lists.
    pub listing: usize,
    /// Whether a message counts those that it does not list; else the next message lists them.
    pub counts_rest: bool,
}

impl Policy {
    /// For people: a message a rule at once, then at most one a minute, 60 an hour and some for what is critical.
    pub fn people() -> Policy {
        Policy {
            min_severity: Severity::Info,
            rules: Vec::new(),
            hosts: Vec::new(),
            group_by: vec![GroupKey::Rule],
            group_wait: 0,
            group_interval: 60_000,
            repeat_every: None,
            repeats_always: false,
            max_per_hour: Some(60),
            limit_except: Some(Severity::Critical),
            quiet: None,
            resolved: true,
            ids: false,
            listing: 20,
            counts_rest: true,
        }
    }

    /// For programs: everything at once.
    pub fn programs() -> Policy {
        Policy {
            group_by: Vec::new(),
            group_interval: 0,
            max_per_hour: None,
            ids: true,
            listing: 500,
            counts_rest: false,
            ..Policy::people()
        }
    }

    /// Whether an alert is told here at all.
    pub fn takes(&self, alert: &Alert) -> bool {
        alert.mode == Mode::Live
            && alert.severity >= self.min_severity
            && (self.rules.is_empty() || self.rules.contains(&alert.rule))
            && (self.hosts.is_empty() || alert.subject.get("host").is_some_and(|host| self.hosts.contains(host)))
    }

    /// Whether an alert is told although the messages of the hour are spent.
    pub fn is_urgent(&self, severity: Severity) -> bool {
        self.limit_except.is_some_and(|least| severity >= least)
    }

    /// The name of an alert's group.
    pub fn group(&self, alert: &Alert) -> String {
        let mut name = String::new();
        for key in &self.group_by {
            // Values are printable: the separator stands in none of them.
            name.push('\n');
            match key {
                GroupKey::Rule => name.push_str(&alert.rule),
                GroupKey::Severity => name.push_str(alert.severity.as_str()),
                GroupKey::Alert => name.push_str(&alert.key),
                GroupKey::Field(field) => name.push_str(alert.subject.get(field).map_or("", String::as_str)),
            }
        }
        name
    }
}

/// What alerts of a group have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupKey {
    /// The rule.
    Rule,
    /// The severity.
    Severity,
    /// Everything: each alert is a group.
    Alert,
    /// A field of the subject.
    Field(String),
}

impl GroupKey {
    /// The key of a name in the configuration: `rule`, `severity`, `alert`, or a field.
    pub fn from_name(name: &str) -> Option<GroupKey> {
        match name {
            "rule" => Some(GroupKey::Rule),
            "severity" => Some(GroupKey::Severity),
            "alert" => Some(GroupKey::Alert),
            field => {
                tidewatch_events::field::Field::from_name(field).map(|field| GroupKey::Field(field.name().to_owned()))
            }
        }
    }
}

/// Hours of the day in which only the worst is told; they may go past midnight.
#[derive(Clone, Debug)]
pub struct Quiet {
    /// First minute of the day.
    pub from: u16,
    /// First minute that is not quiet any more.
    pub to: u16,
    /// Where the day is.
    pub zone: TimeZone,
    /// Alerts of this severity and above are told all the same.
    pub except: Option<Severity>,
}

impl Quiet {
    /// `HH:MM-HH:MM` as minutes of the day.
    pub fn parse(text: &str) -> Option<(u16, u16)> {
        let minute = |text: &str| {
            let (hour, minute) = text.trim().split_once(':')?;
            let number = |digits: &str, most: u16| {
                let good = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
                good.then(|| digits.parse::<u16>().ok()).flatten().filter(|n| *n <= most)
            };
            Some(number(hour, 23)? * 60 + number(minute, 59)?)
        };
        let (from, to) = text.split_once('-')?;
        let (from, to) = (minute(from)?, minute(to)?);
        (from != to).then_some((from, to))
    }

    fn local(&self, now: u64) -> Option<Zoned> {
        let at = Timestamp::from_millisecond(i64::try_from(now).ok()?).ok()?;
        Some(at.to_zoned(self.zone.clone()))
    }

    /// Whether it is quiet at a time of the wall clock, ms.
    pub fn is_quiet(&self, now: u64) -> bool {
        let Some(local) = self.local(now) else { return false };
        let minute = local.hour() as u16 * 60 + local.minute() as u16;
        match self.from < self.to {
            true => (self.from..self.to).contains(&minute),
            false => minute >= self.from || minute < self.to,
        }
    }

    /// When to look again whether it is quiet: the next full minute.
    pub fn look_again(&self, now: u64) -> u64 {
        (now / 60_000 + 1) * 60_000
    }

    /// Whether an alert is told although it is quiet.
    pub fn lets_pass(&self, severity: Severity) -> bool {
        self.except.is_some_and(|least| severity >= least)
    }
}

/// Alerts of which nobody is told for some time. Times are those of the wall clock, ms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    /// The rules it is about; empty: all.
    pub rules: Vec<String>,
    /// What the subject must hold.
    pub subject: BTreeMap<String, String>,
    /// When it begins.
    pub from: u64,
    /// When it ends.
    pub until: u64,
    /// Why, for whoever reads it.
    pub reason: String,
}

impl Silence {
    /// Whether it is time for it.
    pub fn is_on(&self, now: u64) -> bool {
        self.from <= now && now < self.until
    }

    /// Whether it covers alerts of a rule about a subject.
    pub fn covers(&self, rule: &str, about: &BTreeMap<String, String>) -> bool {
        (self.rules.is_empty() || self.rules.iter().any(|one| one == rule)) && subject::holds(about, &self.subject)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::alert;
    use super::*;
    use tidewatch_events::alert::AlertState;

    #[test]
    fn hours_of_the_day() {
        let rows: &[(&str, Option<(u16, u16)>)] = &[
            ("22:00-07:00", Some((1320, 420))),
            ("00:00-23:59", Some((0, 1439))),
            ("9:00-10:00", None),
            ("22:00", None),
            ("24:00-01:00", None),
            ("08:00-08:00", None),
            ("+8:00-09:00", None),
        ];
        for (text, want) in rows {
            assert_eq!(Quiet::parse(text), *want, "{text}");
        }
    }

    #[test]
    fn quiet_is_local() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let quiet = |from, to| Quiet { from, to, zone: zone.clone(), except: Some(Severity::Critical) };
        let night = quiet(1320, 420); // 22:00-07:00
        // Berlin is UTC+1 in winter and UTC+2 in summer.
        let rows: &[(&str, &str, bool)] = &[
            ("before", "2026-01-15T20:59:59Z", false),
            ("first minute", "2026-01-15T21:00:00Z", true),
            ("past midnight", "2026-01-16T01:00:00Z", true),
            ("last", "2026-01-16T05:59:59Z", true),
            ("over", "2026-01-16T06:00:00Z", false),
            ("in summer an hour earlier", "2026-07-15T20:00:00Z", true),
            ("in summer over", "2026-07-16T05:00:00Z", false),
        ];
        for (name, at, want) in rows {
            let at = at.parse::<Timestamp>().unwrap().as_millisecond() as u64;
            assert_eq!(night.is_quiet(at), *want, "{name}");
        }
        let noon = "2026-01-15T11:30:00Z".parse::<Timestamp>().unwrap().as_millisecond() as u64;
        assert!(quiet(720, 780).is_quiet(noon) && !quiet(720, 750).is_quiet(noon));
        assert!(night.lets_pass(Severity::Critical) && !night.lets_pass(Severity::High));
    }

    #[test]
    fn what_a_route_takes() {
        let base = alert("ip-spike", "10.0.0.1", 0, AlertState::Firing);
        let of = |change: fn(&mut Policy)| {
            let mut policy = Policy::people();
            change(&mut policy);
            policy.takes(&base)
        };
        assert!(of(|_| {}));
        assert!(of(|p| p.min_severity = Severity::High) && !of(|p| p.min_severity = Severity::Critical));
        assert!(of(|p| p.rules = vec!["x".into(), "ip-spike".into()]) && !of(|p| p.rules = vec!["x".into()]));
        assert!(!of(|p| p.hosts = vec!["web1".into()]), "it names no host");
        let mut shadow = base.clone();
        shadow.mode = Mode::Shadow;
        assert!(!Policy::people().takes(&shadow));
        let mut hosted = base.clone();
        hosted.subject.insert("host".into(), "web1".into());
        assert!(Policy { hosts: vec!["web1".into()], ..Policy::people() }.takes(&hosted));
    }

    #[test]
    fn a_silence_covers_what_it_names() {
        let base = alert("ip-spike", "10.0.0.1", 0, AlertState::Firing);
        let silence = |rules: &[&str], subject: &[(&str, &str)]| Silence {
            rules: rules.iter().map(|r| (*r).to_owned()).collect(),
            subject: subject.iter().map(|(f, v)| ((*f).to_owned(), (*v).to_owned())).collect(),
            from: 0,
            until: 1,
            reason: String::new(),
        };
        let rows: &[(&str, Silence, bool)] = &[
            ("everything", silence(&[], &[]), true),
            ("its rule", silence(&["x", "ip-spike"], &[]), true),
            ("another rule", silence(&["x"], &[]), false),
            ("its client", silence(&[], &[("client_ip", "10.0.0.1")]), true),
            ("another client", silence(&[], &[("client_ip", "10.0.0.2")]), false),
            ("a field it has not", silence(&[], &[("host", "web1")]), false),
            ("its network", silence(&[], &[("client_ip", "10.0.0.0/24")]), true),
        ];
        for (name, silence, want) in rows {
            assert_eq!(silence.covers(&base.rule, &base.subject), *want, "{name}");
        }
    }
}
