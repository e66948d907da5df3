//! A key of one rule with another value than the file gives it, for `compare --sweep`.
//!
//! The value is put into the text before that is checked, so every check and message is that of a file with this value.

use super::diagnostic::{Diagnostic, Diagnostics, SourceText, nearest};
use super::low::{Entry, LowConfig, Table, Value};

/// The keys of a rule that are numbers or lengths of time.
pub const KEYS: [&str; 7] = ["threshold", "at_least", "baseline_factor", "ceiling", "window", "hop", "resolve_after"];

/// One key of one rule and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The rule's name.
    pub rule: String,
    /// One of [`KEYS`].
    pub key: &'static str,
    /// The value: a number, or a length of time.
    pub value: String,
}

impl Setting {
    /// A rule, and which of its keys.
    ///
    /// # Errors
    /// Where there is no such key.
    pub fn key_of(name: &str) -> Result<&'static str, Box<Diagnostic>> {
        KEYS.iter().copied().find(|key| *key == name).ok_or_else(|| {
            let hint = nearest(name, KEYS.iter().copied())
                .map_or_else(|| format!("the keys are {}", KEYS.join(", ")), |near| format!("did you mean {near}?"));
            let words = format!("`{name}` is no key of a rule that is a number or a length of time");
            Box::new(Diagnostic::error(words).hint(hint))
        })
    }

    /// The value as TOML.
    fn toml(&self) -> String {
        let is_number = self.value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if is_number { self.value.clone() } else { format!("\"{}\"", self.value) }
    }

    /// The text with this value in it.
    ///
    /// # Errors
    /// Where the text is not TOML.
    pub fn within(&self, source: SourceText) -> Result<SourceText, Diagnostics> {
        let low = LowConfig::parse(source)?;
        let (mut text, value) = (low.source.text, self.toml());
        match table_of(&low.root, &self.rule) {
            None => {
                let list = low.root.get("rule").map_or(text.len(), |entry| entry.node.span.start);
                match text[list..].starts_with('[') && !text[list..].starts_with("[[") {
                    // The rules are a list of inline tables.
                    true => {
                        text.insert_str(list + 1, &format!("{{ name = \"{}\", {} = {value} }}, ", self.rule, self.key))
                    }
                    false => text.push_str(&format!("\n[[rule]]\nname = \"{}\"\n{} = {value}\n", self.rule, self.key)),
                }
            }
            Some((table, name)) => match table.get(self.key) {
                Some(entry) => text.replace_range(entry.node.span.clone(), &value),
                None => {
                    let is_inline = text[table.span.start..].starts_with('{');
                    let separator = if is_inline { ", " } else { "\n" };
                    text.insert_str(name.node.span.end, &format!("{separator}{} = {value}", self.key));
                }
            },
        }
        Ok(SourceText::new(low.source.name, text))
    }
}

/// The table of a rule, and the entry that names it.
fn table_of<'a>(root: &'a Table, rule: &str) -> Option<(&'a Table, &'a Entry)> {
    let Value::List(items) = &root.get("rule")?.node.value else { return None };
    items.iter().find_map(|item| {
        let Value::Table(table) = &item.value else { return None };
        let name = table.get("name")?;
        matches!(&name.node.value, Value::Text(text) if text == rule).then_some((table, name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_stands_in_the_text() {
        // name, text, key, value, the text with it
        let rows: &[(&str, &str, &'static str, &str, &str)] = &[
            (
                "no rules",
                "memory = \"1GiB\"",
                "threshold",
                "50",
                "memory = \"1GiB\"\n[[rule]]\nname = \"a\"\nthreshold = 50\n",
            ),
            (
                "inline, of another rule",
                "rule = [{ name = \"b\" }]",
                "threshold",
                "50",
                "rule = [{ name = \"a\", threshold = 50 }, { name = \"b\" }]",
            ),
            ("nothing at all", "", "window", "30s", "\n[[rule]]\nname = \"a\"\nwindow = \"30s\"\n"),
            (
                "another rule only",
                "[[rule]]\nname = \"b\"\nthreshold = 1\n",
                "threshold",
                "50",
                "[[rule]]\nname = \"b\"\nthreshold = 1\n\n[[rule]]\nname = \"a\"\nthreshold = 50\n",
            ),
            (
                "in the place of another value",
                "[[rule]]\nname = \"b\"\nthreshold = 1\n[[rule]]\nthreshold = 100.0 # much\nname = \"a\"\n",
                "threshold",
                "0.5",
                "[[rule]]\nname = \"b\"\nthreshold = 1\n[[rule]]\nthreshold = 0.5 # much\nname = \"a\"\n",
            ),
            (
                "beside a comment",
                "[[rule]]\nname = \"a\" # its name\nseverity = \"low\"\n",
                "hop",
                "1s",
                "[[rule]]\nname = \"a\"\nhop = \"1s\" # its name\nseverity = \"low\"\n",
            ),
            (
                "inline",
                "rule = [{ name = \"a\", severity = \"low\" }]",
                "at_least",
                "7",
                "rule = [{ name = \"a\", at_least = 7, severity = \"low\" }]",
            ),
        ];
        for (name, text, key, value, want) in rows {
            let setting = Setting { rule: "a".into(), key, value: (*value).into() };
            let source = setting.within(SourceText::new("c.toml", *text)).unwrap();
            assert_eq!((source.name.as_str(), source.text.as_str()), ("c.toml", *want), "{name}");
            assert!(LowConfig::parse(source).is_ok(), "{name}");
        }
    }

    #[test]
    fn only_numbers_and_lengths_are_set() {
        assert_eq!(Setting::key_of("hop"), Ok("hop"));
        assert_eq!(Setting::key_of("treshold").unwrap_err().hint.unwrap(), "did you mean threshold?");
        assert!(Setting::key_of("measure").is_err());
    }
}
