//! JSON objects written as a format string: `{"ip":"$remote_addr","request":{"path":"$uri"},"status":$status}`.
//!
//! A variable is found by the key it stands under, in objects by the keys on the way joined with dots. A value that holds
//! more than one variable is read where together they are one thing (a request line, a target); where they are not, and
//! no other key has them, that is remarked upon.

use super::FormatError;
use super::line::Slot;
use super::log_format::{Item, says_something};

/// What a format string of JSON reads.
#[derive(Debug)]
pub(super) struct Template {
    /// Key → meaning, in the order written.
    pub keys: Vec<(String, Slot)>,
    /// What it holds that is not read, and why.
    pub remarks: Vec<String>,
}

/// Reads a format string of JSON.
pub(super) fn compile(items: &[Item]) -> Result<Template, FormatError> {
    let mut found = Found::default();
    for item in items {
        match item {
            Item::Literal(b) => found.literal(*b),
            item => found.value.push(Part::Variable(item)),
        }
    }
    let Found { keys, lost, .. } = found;
    if !keys.iter().any(|(_, slot)| *slot == Slot::Time) {
        return Err(FormatError::NoTime);
    }
    if !keys.iter().any(|(_, slot)| says_something(*slot)) {
        return Err(FormatError::OnlyTime);
    }
    let is_read = |slot: &Slot| keys.iter().any(|(_, read)| read == slot);
    let remarks = lost.iter().filter_map(|lost| lost.remark(is_read)).collect();
    Ok(Template { keys, remarks })
}

/// A part of a value.
enum Part<'a> {
    Literal(u8),
    Variable(&'a Item),
}

/// An object or list that is open.
struct Open {
    /// The key at hand; `None`: none was read since the last comma.
    key: Option<String>,
    is_list: bool,
}

/// A value that is not read.
struct Lost {
    /// Where it stands; `None` in a list.
    key: Option<String>,
    variables: Vec<(String, Slot)>,
}

#[derive(Default)]
struct Found<'a> {
    open: Vec<Open>,
    in_string: bool,
    value: Vec<Part<'a>>,
    keys: Vec<(String, Slot)>,
    lost: Vec<Lost>,
}

impl Found<'_> {
    fn literal(&mut self, b: u8) {
        match b {
            b'"' if self.in_string => {
                self.in_string = false;
                let value = std::mem::take(&mut self.value);
                match self.open.last_mut() {
                    Some(Open { key: key @ None, is_list: false }) => *key = Some(text(&value)),
                    _ => self.take(&value),
                }
            }
            b'"' => {
                self.in_string = true;
                self.value.clear();
            }
            b if self.in_string => self.value.push(Part::Literal(b)),
            b'{' | b'[' => self.open.push(Open { key: None, is_list: b == b'[' }),
            b',' | b'}' | b']' => {
                let value = std::mem::take(&mut self.value);
                self.take(&value);
                if b != b',' {
                    self.open.pop();
                }
                if let Some(open) = self.open.last_mut() {
                    open.key = None;
                }
            }
            b':' | b' ' | b'\t' | b'\r' | b'\n' => {}
            b => self.value.push(Part::Literal(b)),
        }
    }

    /// Takes the value that stands under the keys at hand.
    fn take(&mut self, value: &[Part<'_>]) {
        let variables: Vec<(String, Slot)> = value.iter().filter_map(Part::meaning).collect();
        if variables.iter().all(|(_, slot)| *slot == Slot::Ignored) {
            return;
        }
        let in_list = self.open.iter().any(|open| open.is_list);
        let keys: Option<Vec<&str>> = self.open.iter().map(|open| open.key.as_deref()).collect();
        let key = keys.map(|keys| keys.join(".")).filter(|_| !in_list);
        match (key, slot(value)) {
            (Some(key), Some(slot)) => {
                if self.keys.iter().all(|(_, taken)| *taken != slot) {
                    self.keys.push((key, slot));
                }
            }
            (key, _) => self.lost.push(Lost { key, variables }),
        }
    }
}

impl Part<'_> {
    fn meaning(&self) -> Option<(String, Slot)> {
        match self {
            Part::Literal(_) => None,
            Part::Variable(Item::Value { name, slot, .. }) => Some((name.clone(), *slot)),
            Part::Variable(_) => Some(("%t".to_owned(), Slot::Time)),
        }
    }

    fn is(&self, b: u8) -> bool {
        matches!(self, Part::Literal(found) if *found == b)
    }
}

fn text(value: &[Part<'_>]) -> String {
    let bytes = value.iter().filter_map(|part| if let Part::Literal(b) = part { Some(*b) } else { None }).collect();
    String::from_utf8(bytes).unwrap_or_default()
}

/// What a value means as a whole, where it means one thing.
fn slot(value: &[Part<'_>]) -> Option<Slot> {
    // A time in brackets, as Apache's %t writes it.
    let value = match value {
        [first, inner @ .., last] if first.is(b'[') && last.is(b']') => inner,
        value => value,
    };
    let slots: Vec<Slot> = value.iter().filter_map(Part::meaning).map(|(_, slot)| slot).collect();
    match slots[..] {
        [slot] if value.len() == 1 => return Some(slot),
        // A time in parts.
        [Slot::Time, ..] if slots.iter().all(|slot| *slot == Slot::Time) => return Some(Slot::Time),
        _ => {}
    }
    match (value, &slots[..]) {
        (_, [Slot::Method, ..]) => {
            let [_, blank, target @ ..] = value else { return None };
            let end = target.iter().position(|part| part.is(b' ')).unwrap_or(target.len());
            // What follows is the protocol.
            (blank.is(b' ') && is_target(&target[..end]) && slots[1..].iter().all(in_request)).then_some(Slot::Request)
        }
        (_, [Slot::Client, Slot::Ignored]) => is_endpoint(value).then_some(Slot::Client),
        (_, [Slot::Host, Slot::Port | Slot::Ignored]) if is_endpoint(value) => Some(Slot::Host),
        // The scheme or the authority before the path.
        (_, [Slot::Ignored, Slot::Host, ..]) => {
            let path = value.iter().position(is_path)?;
            let before = &value[..path];
            let is_authority =
                matches!(text(before).as_str(), "://" | "://:") && matches!(before.last(), Some(Part::Variable(_)));
            (is_authority && is_target(&value[path..])).then_some(Slot::Target)
        }
        _ => is_target(value).then_some(Slot::Target),
    }
}

fn in_request(slot: &Slot) -> bool {
    matches!(slot, Slot::Target | Slot::Path | Slot::Query | Slot::Ignored)
}

/// A value, a colon and a value.
fn is_endpoint(value: &[Part<'_>]) -> bool {
    matches!(value, [Part::Variable(_), colon, Part::Variable(_)] if colon.is(b':'))
}

fn is_path(part: &Part<'_>) -> bool {
    matches!(part, Part::Variable(Item::Value { slot: Slot::Path | Slot::Target, .. }))
}

/// A path, and perhaps a query.
fn is_target(value: &[Part<'_>]) -> bool {
    let is_query = |part: &Part<'_>| match part {
        Part::Variable(Item::Value { slot, name, .. }) => *slot == Slot::Query || name == "$is_args",
        part => part.is(b'?'),
    };
    value.split_first().is_some_and(|(path, query)| is_path(path) && query.iter().all(is_query))
}

impl Lost {
    /// What is said of it, where no other key has what it holds.
    fn remark(&self, is_read: impl Fn(&Slot) -> bool) -> Option<String> {
        let lost = self.variables.iter().filter(|(_, slot)| *slot != Slot::Ignored && !is_read(slot));
        let names: Vec<&str> = lost.map(|(name, _)| name.as_str()).collect();
        let (last, rest) = names.split_last()?;
        let (names, verb) = match rest {
            [] => ((*last).to_owned(), "it is"),
            rest => (format!("{} and {last}", rest.join(", ")), "they are"),
        };
        Some(match (&self.key, rest) {
            (Some(key), _) => format!("the value of {key:?} holds more than {names}: {verb} not read"),
            (None, []) => format!("{names} is in a list: it is not read"),
            (None, _) => format!("{names} are in a list: they are not read"),
        })
    }
}
