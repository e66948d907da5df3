//! What is wrong with a configuration, where, and what to write instead.
//!
//! A diagnostic prints as
//! ```text
//! config/prod.toml:14:20: error: "5 parsecs" is not a length of time
//!  14 | allowed_lateness = "5 parsecs"
//!     |                    ^^^^^^^^^^^
//!  hint: write a number and a unit: "500ms", "30s", "5m"
//! ```
//! Problems are collected, never thrown one at a time; they print in the order of their places. What is quoted from a
//! file is made printable and cut, so that a broken file cannot break a terminal.

use std::fmt;
use std::ops::Range;
use tidewatch_events::text;

/// Whether the configuration can be used in spite of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It cannot.
    Error,
    /// It can, but something will not be as written.
    Warning,
}

/// The longest piece of a source line that is shown, in characters.
const MAX_SHOWN: usize = 110;

/// A text with a name that spans point into.
#[derive(Clone, Debug)]
pub struct SourceText {
    /// What the text is called in messages: the file's path as the user gave it.
    pub name: String,
    /// All of it.
    pub text: String,
    /// What is never shown: the bytes of secrets. Set once they are known.
    pub hidden: Vec<Range<usize>>,
}

impl SourceText {
    /// A text with a name.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> SourceText {
        SourceText { name: name.into(), text: text.into(), hidden: Vec::new() }
    }

    /// Where a range of bytes is. A range over several lines is cut at the end of its first.
    pub fn place(&self, span: Range<usize>) -> Place {
        let mut start = span.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let before = &self.text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = self.text[line_start..].split('\n').next().unwrap_or_default();
        let line = line.strip_suffix('\r').unwrap_or(line);
        let column = before[line_start..].chars().count();
        let width = self.text[start..]
            .char_indices()
            .take_while(|(at, c)| start + at < span.end && *c != '\n' && *c != '\r')
            .count();
        Place {
            file: self.name.clone(),
            line: before.matches('\n').count() + 1,
            column: column + 1,
            width: width.max(1),
            text: self.show(line_start, line),
        }
    }

    /// A line with its secrets as stars, one for each character, so that columns stay true.
    fn show(&self, start: usize, line: &str) -> String {
        let mut is_hidden = vec![false; line.len()];
        for range in &self.hidden {
            (range.start.max(start)..range.end.min(start + line.len())).for_each(|at| is_hidden[at - start] = true);
        }
        line.char_indices().map(|(at, c)| if is_hidden[at] { '*' } else { c }).collect()
    }
}

/// A place in a text, ready to show.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The text's name.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// How many characters are meant, at least 1.
    pub width: usize,
    /// The whole line.
    pub text: String,
}

impl Place {
    /// The line and its carets, cut around the carets where the line is long.
    fn excerpt(&self) -> (String, String) {
        let chars: Vec<char> = self.text.chars().collect();
        let from = if chars.len() <= MAX_SHOWN { 0 } else { (self.column - 1).saturating_sub(MAX_SHOWN / 3) };
        let to = chars.len().min(from + MAX_SHOWN);
        let (mut shown, mut under) = (String::new(), String::new());
        if from > 0 {
            shown.push('…');
            under.push(' ');
        }
        let meant = self.column - 1..self.column - 1 + self.width;
        for (at, c) in chars.iter().enumerate().take(to).skip(from) {
            let mut utf8 = [0; 4];
            let piece = if *c == '\t' {
                "    ".to_owned()
            } else {
                text::printable(c.encode_utf8(&mut utf8).as_bytes()).into_owned()
            };
            let mark = if meant.contains(&at) { "^" } else { " " };
            under.push_str(&mark.repeat(piece.chars().count()));
            shown.push_str(&piece);
        }
        if to < chars.len() {
            shown.push('…');
        }
        if meant.start >= to {
            under.push('^'); // at the end of the line, where something is missing
        }
        (shown, under.trim_end().to_owned())
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad.
    pub level: Level,
    /// Where; `None` where it is not in a file.
    pub place: Option<Place>,
    /// What was found: lower case, no full stop.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error that is in no file.
    pub fn error(message: impl Into<String>) -> Diagnostic {
        Diagnostic { level: Level::Error, place: None, message: message.into(), hint: None }
    }

    /// An error in no file that says its hint itself, in a line of its own, as what comes from sources does.
    pub fn of_text(text: &str) -> Diagnostic {
        match text.split_once("\n hint: ") {
            Some((message, hint)) => Diagnostic::error(message).hint(hint),
            None => Diagnostic::error(text),
        }
    }

    /// A warning that is in no file.
    pub fn warning(message: impl Into<String>) -> Diagnostic {
        Diagnostic { level: Level::Warning, ..Diagnostic::error(message) }
    }

    /// The same, at a place.
    pub fn at(self, place: Place) -> Diagnostic {
        Diagnostic { place: Some(place), ..self }
    }

    /// The same, with a hint.
    pub fn hint(self, hint: impl Into<String>) -> Diagnostic {
        Diagnostic { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Error => "error",
            Level::Warning => "warning",
        };
        // A quoted key may hold any character.
        let message = text::printable(self.message.as_bytes());
        if let Some(place) = &self.place {
            let file = text::printable(place.file.as_bytes());
            writeln!(f, "{file}:{}:{}: {level}: {message}", place.line, place.column)?;
            let number = place.line.to_string();
            let (shown, under) = place.excerpt();
            writeln!(f, " {number} | {shown}")?;
            writeln!(f, " {} | {under}", " ".repeat(number.len()))?;
        } else {
            writeln!(f, "{level}: {message}")?;
        }
        if let Some(hint) = &self.hint {
            writeln!(f, " hint: {}", text::printable(hint.as_bytes()))?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// Adds a problem.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// Adds all problems of another list.
    pub fn extend(&mut self, others: Diagnostics) {
        self.0.extend(others.0);
    }

    /// Whether there is an error among them.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|d| d.level == Level::Error)
    }

    /// Whether there are none at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All, in the order they print.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter()
    }

    /// Puts them in the order of their places, those without place last; the same problem at the same place once.
    pub fn sort(&mut self) {
        self.0.sort_by(|a, b| a.place.is_none().cmp(&b.place.is_none()).then_with(|| a.place.cmp(&b.place)));
        self.0.dedup();
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Diagnostics {
        Diagnostics(vec![diagnostic])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|d| d.fmt(f))
    }
}

impl std::error::Error for Diagnostics {}

/// The name among `known` that `found` was most likely meant to be: a third of its letters may differ.
pub fn nearest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let found = found.to_lowercase();
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&found, name), name))
        .filter(|(distance, name)| *distance <= (found.len().max(name.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str, span: Range<usize>) -> Place {
        SourceText::new("a.toml", text).place(span)
    }

    #[test]
    fn places_count_characters_from_one() {
        let rows: &[(&str, &str, Range<usize>, (usize, usize, usize))] = &[
            ("first byte", "ab", 0..1, (1, 1, 1)),
            ("after a new line", "a\nbc", 2..4, (2, 1, 2)),
            ("the new line itself", "a\nb", 1..2, (1, 2, 1)),
            ("end of text", "ab", 2..2, (1, 3, 1)),
            ("beyond the end", "ab", 9..12, (1, 3, 1)),
            ("letters of two bytes", "é = é", 5..7, (1, 5, 1)),
            ("over two lines", "ab\ncd", 0..5, (1, 1, 2)),
            ("carriage return", "ab\r\ncd", 1..4, (1, 2, 1)),
            ("empty text", "", 0..0, (1, 1, 1)),
        ];
        for (name, text, span, want) in rows {
            let place = place(text, span.clone());
            assert_eq!((place.line, place.column, place.width), *want, "{name}");
        }
    }

    #[test]
    fn carets_stand_under_what_is_meant() {
        let rows: &[(&str, &str, Range<usize>, &str)] = &[
            ("as in the house style", "x = \"5 parsecs\"", 4..15, " 1 | x = \"5 parsecs\"\n   |     ^^^^^^^^^^^\n"),
            ("tabs are four columns", "\tx = 1", 1..2, " 1 |     x = 1\n   |     ^\n"),
            ("escapes are shown", "x\u{1b}y", 2..3, " 1 | x\\x1By\n   |      ^\n"),
            ("at the end", "x =", 3..3, " 1 | x =\n   |    ^\n"),
        ];
        for (name, text, span, want) in rows {
            let shown = Diagnostic::error("e").at(place(text, span.clone())).to_string();
            assert_eq!(shown.split_once('\n').unwrap().1, *want, "{name}");
        }
    }

    #[test]
    fn long_lines_are_cut_around_the_carets() {
        let text = format!("{}BAD{}", "x".repeat(500), "y".repeat(500));
        let shown = Diagnostic::error("e").at(place(&text, 500..503)).to_string();
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[1].chars().count() < 130, "{shown}");
        let at = lines[2].find('^').unwrap();
        let column = lines[1].char_indices().position(|(byte, _)| lines[1][byte..].starts_with("BAD"));
        assert_eq!(column, Some(at), "{shown}");
    }

    #[test]
    fn the_nearest_name_is_near() {
        let known = ["size", "early_every", "top"];
        for (found, want) in [
            ("sise", Some("size")),
            ("SIZE", Some("size")),
            ("early_evry", Some("early_every")),
            ("tpo", Some("top")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(found, known), want, "{found}");
        }
    }
}
