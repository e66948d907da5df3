//! The top level of a configuration, the pipeline's and the host agent's: which keys and tables may stand there, and where
//! each is.

use super::Services;
use super::diagnostic::{Diagnostics, SourceText, nearest};
use super::low::{LowConfig, Node, Table, Value};
use super::reader::{Context, Environment};
use super::schema::Section;
use std::cell::RefCell;

/// What may stand in a file.
#[derive(Clone, Copy)]
pub struct Layout {
    /// All sections; the first is the top level itself.
    pub sections: &'static [&'static Section],
    /// A table that only holds other sections, as `[sink.…]`.
    pub group: Option<&'static str>,
}

/// The top level of a file.
pub struct TopLevel<'a> {
    root: &'a Table,
    /// Its own keys, as a table.
    pub keys: Table,
}

/// Parses a text and has its tables checked: what was made of it, with the warnings.
///
/// # Errors
/// Every problem, with its place.
pub fn checked<T>(
    source: SourceText,
    services: Services,
    environment: Environment<'_>,
    check: impl FnOnce(&Context<'_>, &Table) -> Option<T>,
) -> Result<(T, Diagnostics), Diagnostics> {
    let low = LowConfig::parse(source)?;
    let cx = Context { source: &low.source, environment, services, problems: RefCell::default() };
    let made = check(&cx, &low.root);
    let mut problems = cx.problems.into_inner();
    problems.sort();
    match made {
        Some(made) if !problems.has_errors() => Ok((made, problems)),
        _ => {
            assert!(problems.has_errors(), "a configuration that is not built has an error to show");
            Err(problems)
        }
    }
}

impl<'a> TopLevel<'a> {
    /// Reports unknown keys, and tables written as something else.
    pub fn new(cx: &Context<'_>, root: &'a Table, layout: Layout) -> TopLevel<'a> {
        layout.check(cx, root);
        let own = root.entries.iter().filter(|entry| layout.has_key(&entry.key)).cloned().collect();
        TopLevel { root, keys: Table { span: root.span.start..root.span.start, entries: own } }
    }

    /// What stands under a name.
    pub fn node(&self, name: &str) -> Option<&'a Node> {
        self.root.get(name).map(|entry| &entry.node)
    }

    /// The table of a name; what is none was reported.
    pub fn table(&self, name: &str) -> Option<&'a Table> {
        match self.node(name).map(|node| &node.value) {
            Some(Value::Table(table)) => Some(table),
            _ => None,
        }
    }
}

impl Layout {
    /// Whether the top level has a key of this name.
    fn has_key(&self, name: &str) -> bool {
        self.sections.iter().filter(|s| s.path.is_empty()).any(|top| top.keys.iter().any(|key| key.name == name))
    }

    /// The tables of the top level, each with whether it is a list.
    fn tables(&self) -> impl Iterator<Item = (&'static str, bool)> {
        self.sections.iter().filter(|s| !s.path.is_empty() && !s.path.contains('.')).map(|s| (s.path, s.many))
    }

    fn check(&self, cx: &Context<'_>, root: &Table) {
        for entry in &root.entries {
            let key = entry.key.as_str();
            if self.has_key(key) || self.group == Some(key) {
                continue;
            }
            let Some((_, many)) = self.tables().find(|(name, _)| *name == key) else {
                let keys = self.sections.iter().filter(|s| s.path.is_empty()).flat_map(|top| top.keys);
                let names: Vec<&str> =
                    keys.map(|key| key.name).chain(self.tables().map(|(name, _)| name)).chain(self.group).collect();
                let hint = match nearest(key, names.iter().copied()) {
                    Some(name) => format!("did you mean {}?", self.shown(name)),
                    None => match self.elsewhere(key) {
                        Some(section) => format!("`{key}` is a key of {}", self.shown(section)),
                        None => {
                            format!("known are {}", names.iter().map(|n| self.shown(n)).collect::<Vec<_>>().join(", "))
                        }
                    },
                };
                cx.wrong(&entry.key_span, format!("there is no key `{key}`"), hint);
                continue;
            };
            match &entry.node.value {
                Value::List(items) if many && items.iter().all(|item| matches!(item.value, Value::Table(_))) => {}
                Value::Table(_) if !many => {}
                Value::Table(table) => {
                    cx.wrong(&table.span, format!("`{key}` is a list of tables"), format!("write [[{key}]]"));
                }
                Value::List(_) if !many => {
                    cx.wrong(&entry.node.span, format!("`{key}` is one table, not a list"), format!("write [{key}]"));
                }
                _ => {
                    let message = format!("`{key}` is a table, not {}", entry.node.kind());
                    cx.wrong(&entry.node.span, message, format!("write {}", self.shown(key)));
                }
            }
        }
    }

    fn shown(&self, name: &str) -> String {
        match self.sections.iter().find(|section| section.path == name) {
            Some(section) if section.many => format!("[[{name}]]"),
            Some(_) => format!("[{name}]"),
            None if self.group == Some(name) => format!("[{name}.…]"),
            None => format!("`{name}`"),
        }
    }

    /// The section that has a key of this name, where only one has.
    fn elsewhere(&self, key: &str) -> Option<&'static str> {
        let mut sections = self.sections.iter().filter(|section| section.keys.iter().any(|k| k.name == key));
        let first = sections.next()?;
        sections.next().is_none().then_some(first.path)
    }
}
