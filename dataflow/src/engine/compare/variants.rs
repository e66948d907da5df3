//! The rule sets that are compared: whether they can be, and what they change.

use crate::cli::options::ReplayInputs;
use crate::config::{Config, Diagnostic, RuleEntry, measure};
use crate::engine::{allowed, inputs};
use serde::Serialize;
use tidewatch_events::alert::Mode;
use tidewatch_events::rule::{Allow, Rule};

/// A configuration, of which the rules and allow lists are compared.
#[derive(Clone, Debug)]
pub struct Variant {
    /// What it is called: `A`, `B`, or `threshold = 50`.
    pub name: String,
    /// Where it comes from, made printable: a file, or `defaults`.
    pub of: String,
    /// All of it.
    pub config: Config,
}

/// Why two configurations cannot be compared over these inputs in one pass: whatever decides which lines are events and when
/// must be the same.
pub fn refusal(a: &Variant, b: &Variant, from: &ReplayInputs) -> Option<Diagnostic> {
    let mut keys: Vec<String> = beside_rules(&a.config, &b.config).into_iter().map(str::to_owned).collect();
    let read = |variant: &Variant| -> Vec<(String, String)> {
        let named = inputs::named(&variant.config, from);
        named.into_iter().map(|named| (named.source.name, named.source.lines.describe())).collect()
    };
    if read(a) != read(b) {
        keys.push("how the input is read ([[source]])".to_owned());
    }
    let words = format!("{} and {} differ in more than rules and allow lists: {}", a.of, b.of, keys.join(", "));
    let hint = "the input is read and timed once for both, so make these the same";
    (!keys.is_empty()).then(|| Diagnostic::error(words).hint(hint))
}

/// The keys that decide which events rules see, when, and how many of their findings count, where they differ.
fn beside_rules(a: &Config, b: &Config) -> Vec<&'static str> {
    fn parts(config: &Config) -> [(&'static str, String); 9] {
        let Config { memory, ipv6_prefix, privacy, time, alerts, .. } = config;
        // The key does not show; what it makes of an address stands for it.
        let pseudonym = privacy.client_ip(std::net::Ipv6Addr::LOCALHOST.into());
        [
            ("memory", format!("{memory:?}")),
            ("ipv6_prefix", ipv6_prefix.to_string()),
            ("[privacy] client", format!("{:?} {pseudonym}", privacy.client)),
            ("[privacy] redact_query", format!("{:?}", privacy.redact_query)),
            ("[time] max_out_of_order", time.max_out_of_order.to_string()),
            ("[time] allowed_lateness", time.allowed_lateness.to_string()),
            ("[time] max_ahead", time.max_ahead.to_string()),
            ("[alerts] max_findings", alerts.max_findings.to_string()),
            ("[alerts] max_open", alerts.max_open.to_string()),
        ]
    }
    let pairs = parts(a).into_iter().zip(parts(b));
    pairs.filter(|((_, a), (_, b))| a != b).map(|((name, _), _)| name).collect()
}

/// Something that two rule sets do not have alike; a row of `changed` in `compare.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// The rule; `[[allow]]` for an allow list.
    pub rule: String,
    /// The key; of a list what it is.
    pub key: String,
    /// Its value in the first.
    pub a: String,
    /// Its value in the second.
    pub b: String,
}

/// What two configurations do not have alike of what matters to alerts.
pub fn changes(a: &Config, b: &Config) -> Vec<Changed> {
    let of = |config: &'_ Config, name: &str| -> Option<RuleEntry> {
        config.all_rules.iter().find(|entry| entry.enabled && entry.rule.name == name).cloned()
    };
    let mut names: Vec<&str> = a.all_rules.iter().map(|entry| entry.rule.name.as_str()).collect();
    for entry in &b.all_rules {
        if !names.contains(&entry.rule.name.as_str()) {
            names.push(&entry.rule.name);
        }
    }
    let mut all = Vec::new();
    for name in names {
        let mut add = |key: &str, a: String, b: String| {
            if a != b {
                all.push(Changed { rule: name.to_owned(), key: key.to_owned(), a, b });
            }
        };
        match (of(a, name), of(b, name)) {
            (Some(a), Some(b)) => {
                let pairs = keys(&a.rule).into_iter().zip(keys(&b.rule));
                pairs.for_each(|((key, a), (_, b))| add(key, a, b));
            }
            (None, None) => {}
            (a, b) => {
                let is_there = |entry: Option<RuleEntry>| if entry.is_some() { "on" } else { "off or not there" };
                add("rule", is_there(a).to_owned(), is_there(b).to_owned());
            }
        }
    }
    let lists = |own: &[Allow], other: &[Allow], here: &str, there: &str| -> Vec<Changed> {
        let key = |list: &Allow| format!("{}: {}", allowed::describe(list), list.filter.describe());
        let changed =
            |list: &Allow| Changed { rule: "[[allow]]".into(), key: key(list), a: here.into(), b: there.into() };
        own.iter().filter(|list| !other.contains(list)).map(changed).collect()
    };
    all.extend(lists(&a.allow, &b.allow, "there", "not there"));
    all.extend(lists(&b.allow, &a.allow, "not there", "there"));
    all
}

/// The keys of a rule and their values, as a configuration has them.
fn keys(rule: &Rule) -> [(&'static str, String); 12] {
    let number = |number: Option<f64>| number.map_or("none".to_owned(), |number| number.to_string());
    let group: Vec<&str> = rule.group_by.iter().map(|field| field.name()).collect();
    [
        ("where", if rule.filter.is_empty() { "every event".into() } else { rule.filter.describe() }),
        ("group_by", if group.is_empty() { "nothing".into() } else { group.join(", ") }),
        ("measure", measure::show(&rule.measure)),
        ("window", rule.window.to_string()),
        ("hop", rule.hop.to_string()),
        ("threshold", rule.threshold.to_string()),
        ("baseline_factor", number(rule.baseline_factor)),
        ("ceiling", number(rule.ceiling)),
        ("at_least", rule.at_least.to_string()),
        ("resolve_after", rule.resolve_after.to_string()),
        ("severity", rule.severity.as_str().to_owned()),
        ("mode", if rule.mode == Mode::Shadow { "shadow".into() } else { "live".into() }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::config;
    use std::path::PathBuf;

    #[test]
    fn only_rules_and_allow_lists_may_differ() {
        let from = ReplayInputs { files: vec![PathBuf::from("/no/access.log")], ..ReplayInputs::default() };
        let source = |more: &str| format!("[[source]]\nkind = \"file\"\npaths = [\"/no/access.log\"]\n{more}");
        let variant = |of: &str, text: &str| Variant { name: of.into(), of: of.into(), config: config(text) };
        // name, first, second, what differs
        let rows: &[(&str, String, String, Option<&str>)] = &[
            ("nothing", String::new(), String::new(), None),
            (
                "rules, lists, windows and outputs",
                String::new(),
                "[windows]\nsize = \"1m\"\n[[rule]]\nname = \"ip-spike\"\nthreshold = 7\n[[allow]]\nnetworks = [\"::/0\"]\nreason = \"r\"\n[page]\nlisten = \"127.0.0.1:1\"".into(),
                None,
            ),
            ("how time moves", "[time]\nmax_out_of_order = \"9s\"".into(), String::new(), Some("[time] max_out_of_order")),
            (
                "two",
                "ipv6_prefix = 56\n[alerts]\nmax_open = 3".into(),
                String::new(),
                Some("ipv6_prefix, [alerts] max_open"),
            ),
            ("where nothing is said of the input", source(""), String::new(), None),
            (
                "how the input is read",
                source("host = \"web1\""),
                source(""),
                Some("how the input is read ([[source]])"),
            ),
            (
                "a source of something else",
                "[[source]]\nkind = \"file\"\npaths = [\"/no/other.log\"]\nhost = \"x\"\n".to_owned() + &source(""),
                "[[source]]\nkind = \"file\"\npaths = [\"/no/other.log\"]\nhost = \"y\"\n".to_owned() + &source(""),
                None,
            ),
        ];
        for (name, a, b, want) in rows {
            let refused = refusal(&variant("a.toml", a), &variant("b.toml", b), &from).map(|problem| problem.message);
            let want = want.map(|keys| format!("a.toml and b.toml differ in more than rules and allow lists: {keys}"));
            assert_eq!(refused, want, "{name}");
        }
    }

    #[test]
    fn what_changed_is_named() {
        let a = config(
            "[[rule]]\nname = \"ip-spike\"\nthreshold = 50\n[[rule]]\nname = \"mine\"\nwindow = \"10s\"\nthreshold = 1\nseverity = \"low\"",
        );
        let b = config(
            "[[rule]]\nname = \"ip-spike\"\nseverity = \"low\"\nmode = \"shadow\"\n[[rule]]\nname = \"dark-paths\"\nenabled = false\n[[allow]]\nnetworks = [\"192.0.2.0/24\"]\nreason = \"r\"",
        );
        let shown: Vec<String> =
            changes(&a, &b).iter().map(|c| format!("{} {}: {} -> {}", c.rule, c.key, c.a, c.b)).collect();
        let want = [
            "ip-spike threshold: 50 -> 100",
            "ip-spike severity: high -> low",
            "ip-spike mode: live -> shadow",
            "dark-paths rule: on -> off or not there",
            "mine rule: on -> off or not there",
            "[[allow]] \"r\", for all rules: client_ip|cidr = [\"192.0.2.0/24\"]: not there -> there",
        ];
        assert_eq!(shown, want);
        assert!(changes(&a, &a).is_empty());
    }
}
