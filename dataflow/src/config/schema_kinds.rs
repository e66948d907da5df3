//! What the schema is written in: tables, keys, kinds of values and what holds where a key is not given.

/// A table of the configuration.
#[derive(Debug)]
pub struct Section {
    /// Its dotted name; empty for the top level.
    pub path: &'static str,
    /// Whether it is a list of tables, `[[path]]`.
    pub many: bool,
    /// What it is for.
    pub doc: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// A key of a table.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// What holds where it is not given.
    pub default: Absent,
    /// What it means.
    pub doc: &'static str,
    /// The `kind`s of the table to which it belongs; empty for all.
    pub only: &'static [&'static str],
}

/// What holds where a key is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// The value written like this.
    Is(&'static str),
    /// Nothing, or what the words say.
    Nothing(&'static str),
    /// The key must be given.
    Required,
}

/// A kind of value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A name: letters, digits, `-`, `_`, `.`.
    Name,
    /// A list of texts; one text is a list of one.
    Texts,
    /// A path.
    Path,
    /// A list of paths with wildcards.
    Paths,
    /// A length of time.
    Length,
    /// A number of bytes.
    Size,
    /// A whole number from … to ….
    Whole(u64, u64),
    /// A number, at least ….
    Number(f64),
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `HOST:PORT`.
    Address,
    /// `HOST:PORT` to listen on; port 0 takes a free one.
    Listen,
    /// `HOST:PORT,HOST:PORT…`.
    Brokers,
    /// `http://` or `https://`.
    Url,
    /// A secret: text, `${VARIABLE}` or `file:PATH`.
    Secret,
    /// A time zone's name or offset.
    Zone,
    /// A list of networks or addresses.
    Networks,
    /// A day or an instant.
    Date,
    /// A log format.
    Format,
    /// A filter.
    Filter,
    /// A measure.
    Measure,
    /// A list of event fields.
    Fields,
    /// A table of texts.
    Map,
    /// A table described under its own heading.
    Table,
    /// A process: `"each"` or its index.
    Process,
}

impl Kind {
    /// The kind in words, for documentation.
    pub fn describe(self) -> String {
        match self {
            Kind::Text => "text".into(),
            Kind::Name => "name (letters, digits, `-`, `_`, `.`)".into(),
            Kind::Texts => "list of texts".into(),
            Kind::Path => "path".into(),
            Kind::Paths => "list of paths, `*` allowed".into(),
            Kind::Length => "length of time".into(),
            Kind::Size => "size".into(),
            Kind::Whole(min, u64::MAX) => format!("whole number from {min}"),
            Kind::Whole(min, max) => format!("whole number, {min} to {max}"),
            Kind::Number(min) => format!("number from {min}"),
            Kind::Flag => "`true` or `false`".into(),
            Kind::Choice(words) => words.iter().map(|w| format!("`\"{w}\"`")).collect::<Vec<_>>().join(", "),
            Kind::Address | Kind::Listen => "`HOST:PORT`".into(),
            Kind::Brokers => "`HOST:PORT,…`".into(),
            Kind::Url => "URL".into(),
            Kind::Secret => "secret".into(),
            Kind::Zone => "time zone".into(),
            Kind::Networks => "list of networks".into(),
            Kind::Date => "date or RFC 3339 time".into(),
            Kind::Format => "format".into(),
            Kind::Filter => "filter".into(),
            Kind::Measure => "measure".into(),
            Kind::Fields => "list of fields".into(),
            Kind::Map => "table of texts".into(),
            Kind::Table => "table".into(),
            Kind::Process => "`\"each\"` or a process index".into(),
        }
    }

    /// A value as it could be written, for hints.
    pub fn example(self) -> String {
        let text = match self {
            Kind::Whole(least, _) => return least.to_string(),
            Kind::Number(_) => return "100".into(),
            Kind::Flag => return "true".into(),
            Kind::Filter => return "{ status = 404 }".into(),
            Kind::Map | Kind::Table => return "{ }".into(),
            Kind::Texts => return "[\"…\"]".into(),
            Kind::Paths => return "[\"/var/log/nginx/access.log\"]".into(),
            Kind::Networks => return "[\"10.0.0.0/8\"]".into(),
            Kind::Fields => return "[\"client_ip\"]".into(),
            Kind::Choice(words) => words.first().copied().unwrap_or_default(),
            Kind::Text | Kind::Name => "…",
            Kind::Path => "/path/to/file",
            Kind::Length => "10s",
            Kind::Size => "1GiB",
            Kind::Address => "mail.example.org:587",
            Kind::Listen => "127.0.0.1:5514",
            Kind::Brokers => "127.0.0.1:9092",
            Kind::Url => "https://example.org/",
            Kind::Secret => "${NAME}",
            Kind::Zone => "Europe/Berlin",
            Kind::Date => "2026-12-31",
            Kind::Format => "combined",
            Kind::Measure => "count",
            Kind::Process => "each",
        };
        format!("\"{text}\"")
    }
}

impl Section {
    /// The key of a name.
    ///
    /// # Panics
    /// If the section has none: a mistake in this crate.
    pub fn key(&self, name: &str) -> &'static Key {
        match self.keys.iter().find(|key| key.name == name) {
            Some(key) => key,
            None => panic!("the schema of [{}] has no key {name}", self.path),
        }
    }
}

impl Key {
    pub(super) const fn only(mut self, kinds: &'static [&'static str]) -> Key {
        self.only = kinds;
        self
    }
}

pub(super) const fn key(name: &'static str, kind: Kind, default: Absent, doc: &'static str) -> Key {
    Key { name, kind, default, doc, only: &[] }
}

pub(super) const fn section(path: &'static str, doc: &'static str, keys: &'static [Key]) -> Section {
    Section { path, many: false, doc, keys }
}
