//! docs/openapi.yaml as data, and whether an answer is what it says.
//!
//! The file is read by a reader of just that much YAML as it is written in: block mappings and lists, flow mappings and lists,
//! double quotes, and `|` blocks.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

pub fn openapi() -> Value {
    let text = include_str!("../../../docs/openapi.yaml");
    let lines = text.lines().map(|line| (line.len() - line.trim_start().len(), line.trim().to_owned()));
    let mut reader = Reader { lines: lines.filter(|(_, l)| !l.is_empty() && !l.starts_with('#')).collect(), at: 0 };
    let found = reader.block(0);
    assert_eq!(reader.at, reader.lines.len(), "not read: {:?}", reader.lines.get(reader.at));
    found
}

struct Reader {
    /// Indent and text.
    lines: Vec<(usize, String)>,
    at: usize,
}

impl Reader {
    fn block(&mut self, indent: usize) -> Value {
        let is_list = self.lines[self.at].1.starts_with("- ");
        let (mut list, mut map) = (Vec::new(), Map::new());
        while let Some((found, text)) = self.lines.get(self.at).filter(|(found, _)| *found == indent).cloned() {
            if !is_list {
                let (key, value) = self.pair(found, &text);
                assert!(map.insert(key.clone(), value).is_none(), "{key:?} stands twice");
                continue;
            }
            let item = text.strip_prefix("- ").unwrap_or_else(|| panic!("not an item: {text}"));
            if item.starts_with('{') {
                self.at += 1;
                list.push(flow(item));
            } else {
                self.lines[self.at] = (indent + 2, item.to_owned());
                list.push(self.block(indent + 2));
            }
        }
        if is_list { Value::Array(list) } else { Value::Object(map) }
    }

    fn pair(&mut self, indent: usize, text: &str) -> (String, Value) {
        let (key, rest) = text.split_once(':').unwrap_or_else(|| panic!("no key: {text}"));
        self.at += 1;
        let deeper = |reader: &Reader| reader.lines.get(reader.at).map(|(i, _)| *i).filter(|i| *i > indent);
        let value = match (rest.trim(), deeper(self)) {
            ("", Some(next)) => self.block(next),
            ("|", _) => {
                while deeper(self).is_some() {
                    self.at += 1;
                }
                Value::Null
            }
            (rest, _) => flow(rest),
        };
        (key.trim_matches('"').to_owned(), value)
    }
}

fn flow(text: &str) -> Value {
    let mut rest = text;
    let value = flow_value(&mut rest, false);
    assert_eq!(rest.trim(), "", "left over of {text}");
    value
}

fn flow_value(rest: &mut &str, inside: bool) -> Value {
    *rest = rest.trim_start();
    let close = match rest.chars().next() {
        Some('{') => '}',
        Some('[') => ']',
        Some('"') => return Value::String(quoted(rest)),
        _ => return plain(rest, inside),
    };
    *rest = &rest[1..];
    let (mut list, mut map) = (Vec::new(), Map::new());
    loop {
        *rest = rest.trim_start_matches([' ', ',']);
        if let Some(after) = rest.strip_prefix(close) {
            *rest = after;
            return if close == ']' { Value::Array(list) } else { Value::Object(map) };
        }
        if close == ']' {
            list.push(flow_value(rest, true));
            continue;
        }
        let key = if rest.starts_with('"') { quoted(rest) } else { String::new() };
        let colon = rest.find(':').unwrap_or_else(|| panic!("no key, or text to be quoted: {rest}"));
        let key = if key.is_empty() { rest[..colon].to_owned() } else { key };
        assert!(!key.contains(' '), "to be quoted: {key}");
        *rest = &rest[colon + 1..];
        map.insert(key, flow_value(rest, true));
    }
}

fn quoted(rest: &mut &str) -> String {
    let end = rest[1..].find('"').unwrap() + 1;
    let text = rest[1..end].to_owned();
    *rest = &rest[end + 1..];
    text
}

fn plain(rest: &mut &str, inside: bool) -> Value {
    let end = if inside { rest.find([',', '}', ']']).unwrap() } else { rest.len() };
    let word = rest[..end].trim();
    *rest = &rest[end..];
    serde_json::from_str(word).unwrap_or_else(|_| Value::String(word.to_owned()))
}

/// Holds answers against the file, and remembers what of it was seen.
pub struct Contract {
    pub file: Value,
    /// Per object, by where it stands in the file: how often it came, and how often each of its fields did.
    seen: BTreeMap<String, (usize, BTreeMap<String, usize>)>,
    /// Fields that had a value, not only null.
    had: BTreeSet<String>,
    pub problems: BTreeSet<String>,
}

impl Contract {
    pub fn new() -> Contract {
        Contract { file: openapi(), seen: BTreeMap::new(), had: BTreeSet::new(), problems: BTreeSet::new() }
    }

    /// The schema of an answer of a route, and where it stands.
    pub fn answer(&self, method: &str, path: &str, status: u16) -> (String, Value) {
        let response = &self.file["paths"][path][method]["responses"];
        let response = match &response[status.to_string()] {
            Value::Null => &response["default"],
            found => found,
        };
        let response = self.resolved("", response).1;
        (format!("{method} {path}"), response["content"]["application/json"]["schema"].clone())
    }

    fn resolved(&self, place: &str, schema: &Value) -> (String, Value) {
        let Some(to) = schema["$ref"].as_str() else { return (place.to_owned(), schema.clone()) };
        let parts = to.trim_start_matches("#/").split('/');
        let found = parts.fold(&self.file, |at, part| &at[part]);
        assert!(found.is_object(), "{to} is not there");
        (to.rsplit('/').next().unwrap().to_owned(), found.clone())
    }

    pub fn hold(&mut self, place: &str, schema: &Value, found: &Value) {
        let (place, schema) = self.resolved(place, schema);
        let types: Vec<&str> = match &schema["type"] {
            Value::String(one) => vec![one],
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let is = |name: &&str| match *name {
            "null" => found.is_null(),
            "string" => found.is_string(),
            "integer" => found.is_u64() || found.is_i64(),
            "number" => found.is_number(),
            "boolean" => found.is_boolean(),
            "array" => found.is_array(),
            "object" => found.is_object(),
            other => panic!("{place}: no type {other}"),
        };
        let words = schema["enum"].as_array();
        if words.is_none() && types.is_empty() || words.is_some_and(|words| !words.contains(found)) {
            self.problems.insert(format!("{place}: {found} is none of {}", schema["enum"]));
        }
        if !types.is_empty() && !types.iter().any(is) {
            self.problems.insert(format!("{place}: {found} is no {}", types.join(" or ")));
        }
        for item in found.as_array().into_iter().flatten() {
            self.hold(&format!("{place}[]"), &schema["items"], item);
        }
        let Some(fields) = found.as_object() else { return };
        self.seen.entry(place.clone()).or_default().0 += 1;
        for (name, value) in fields {
            let inside = format!("{place}.{name}");
            let of = &schema["properties"][name];
            let of = if of.is_null() { &schema["additionalProperties"] } else { of };
            if of.is_null() {
                self.problems.insert(format!("{inside} is not in the file"));
                continue;
            }
            *self.seen.entry(place.clone()).or_default().1.entry(name.clone()).or_default() += 1;
            if !value.is_null() {
                self.had.insert(inside.clone());
            }
            self.hold(&inside, of, value);
        }
    }

    /// What the file says and no answer had; and what is always there and not `required`, or the reverse.
    pub fn finish(&mut self) {
        let mut all: Vec<(String, Value)> = Vec::new();
        for (name, schema) in self.file["components"]["schemas"].as_object().unwrap() {
            all.push((name.clone(), schema.clone()));
        }
        for (path, methods) in self.file["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                for status in [200, 201] {
                    let (place, schema) = self.answer(method, path, status);
                    all.push((place, schema));
                }
            }
        }
        while let Some((place, schema)) = all.pop() {
            if schema["items"].is_object() {
                all.push((format!("{place}[]"), schema["items"].clone()));
            }
            let Some(properties) = schema["properties"].as_object() else { continue };
            let (times, fields) = self.seen.get(&place).cloned().unwrap_or_default();
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            for (name, of) in properties {
                let inside = format!("{place}.{name}");
                let is_always = fields.get(name).copied().unwrap_or(0) == times;
                if !self.had.contains(&inside) {
                    self.problems.insert(format!("{inside} is in the file, and no answer had it"));
                } else if is_always != required.iter().any(|one| one == name) {
                    let is = if is_always { "always" } else { "not always" };
                    self.problems.insert(format!("{inside} is {is} there; `required` says otherwise"));
                }
                all.push((inside, of.clone()));
            }
        }
    }
}
