//! Text patterns of filters: equality, parts, wildcards and regular expressions over bytes of a log line.
//!
//! Patterns that ignore case hold their text in lower case; only ASCII letters have case here.

use aho_corasick::AhoCorasick;
use memchr::memmem;
use regex::bytes::Regex;
use std::fmt::Write as _;
use std::net::IpAddr;

/// From this many alternatives on, substrings are searched in one pass.
const ONE_PASS_FROM: usize = 4;

/// A list of patterns of which one, or all, must match.
#[derive(Clone, Default)]
pub(super) struct Texts {
    all: bool,
    /// Whole values without wildcards that ignore case: sorted.
    whole: Vec<Box<[u8]>>,
    /// Many substrings at once, case ignored.
    parts: Option<AhoCorasick>,
    patterns: Vec<Pattern>,
}

/// One pattern.
#[derive(Clone)]
pub(super) enum Pattern {
    /// The pieces between `*`: the first and last are anchored where `head` and `tail` say so.
    Glob(Glob),
    /// Searched anywhere.
    Regex(Regex),
}

/// A pattern of literal bytes, `*` and `?`.
#[derive(Clone)]
pub(super) struct Glob {
    tokens: Vec<Token>,
    cased: bool,
    shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token {
    Byte(u8),
    One,
    Run,
}

/// Shapes with a faster search than the general one; each holds the literal.
#[derive(Clone)]
enum Shape {
    Whole(Box<[u8]>),
    Start(Box<[u8]>),
    End(Box<[u8]>),
    Part(Box<[u8]>),
    PartCased(Box<memmem::Finder<'static>>),
    Anything,
    General,
}

/// Where a value stands in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Whole,
    Start,
    End,
    Part,
}

impl Glob {
    /// Reads a value with wildcards. A backslash takes `*`, `?` and `\` literally and stands for itself before
    /// anything else, as in Sigma.
    pub(super) fn new(value: &[u8], place: Place, cased: bool) -> Glob {
        let mut tokens = Vec::with_capacity(value.len() + 2);
        if matches!(place, Place::End | Place::Part) {
            tokens.push(Token::Run);
        }
        let mut bytes = value.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            let token = match byte {
                b'*' => Token::Run,
                b'?' => Token::One,
                b'\\' => Token::Byte(bytes.next_if(|next| b"*?\\".contains(next)).unwrap_or(byte)),
                _ => Token::Byte(byte),
            };
            let token = match token {
                Token::Byte(byte) if !cased => Token::Byte(byte.to_ascii_lowercase()),
                token => token,
            };
            if token != Token::Run || tokens.last() != Some(&Token::Run) {
                tokens.push(token);
            }
        }
        if matches!(place, Place::Start | Place::Part) && tokens.last() != Some(&Token::Run) {
            tokens.push(Token::Run);
        }
        let shape = Shape::of(&tokens, cased);
        Glob { tokens, cased, shape }
    }

    /// The literal, where the pattern is a whole value without wildcards.
    fn whole(&self) -> Option<&[u8]> {
        if let Shape::Whole(literal) = &self.shape { Some(literal) } else { None }
    }

    fn matches(&self, text: &[u8]) -> bool {
        let same = |a: &[u8], b: &[u8]| if self.cased { a == b } else { a.eq_ignore_ascii_case(b) };
        match &self.shape {
            Shape::Whole(literal) => same(text, literal),
            Shape::Start(literal) => text.get(..literal.len()).is_some_and(|head| same(head, literal)),
            Shape::End(literal) => text.len() >= literal.len() && same(&text[text.len() - literal.len()..], literal),
            Shape::Part(literal) => contains_ignoring_case(text, literal),
            Shape::PartCased(finder) => finder.find(text).is_some(),
            Shape::Anything => true,
            Shape::General => self.matches_generally(text),
        }
    }

    /// Greedy matching with one point to come back to: O(text × pattern) at worst, no recursion.
    fn matches_generally(&self, text: &[u8]) -> bool {
        let (mut t, mut p) = (0, 0);
        let mut back: Option<(usize, usize)> = None;
        loop {
            match self.tokens.get(p) {
                Some(Token::Run) => {
                    back = Some((t, p + 1));
                    p += 1;
                    continue;
                }
                Some(Token::One) if t < text.len() => {
                    t += character(&text[t..]);
                    p += 1;
                    continue;
                }
                Some(Token::Byte(want)) if t < text.len() => {
                    let found = if self.cased { text[t] } else { text[t].to_ascii_lowercase() };
                    if found == *want {
                        t += 1;
                        p += 1;
                        continue;
                    }
                }
                None if t == text.len() => return true,
                _ => {}
            }
            match back {
                Some((from, resume)) if from < text.len() => {
                    back = Some((from + 1, resume));
                    (t, p) = (from + 1, resume);
                }
                _ => return false,
            }
        }
    }
}

impl Shape {
    fn of(tokens: &[Token], cased: bool) -> Shape {
        let inner_start = usize::from(tokens.first() == Some(&Token::Run));
        let inner_end = tokens.len() - usize::from(tokens.len() > inner_start && tokens.last() == Some(&Token::Run));
        let mut literal = Vec::new();
        for token in &tokens[inner_start..inner_end] {
            match token {
                Token::Byte(byte) => literal.push(*byte),
                _ => return Shape::General,
            }
        }
        if literal.is_empty() && !tokens.is_empty() {
            return Shape::Anything;
        }
        match (inner_start > 0, inner_end < tokens.len()) {
            (false, false) => Shape::Whole(literal.into()),
            (false, true) => Shape::Start(literal.into()),
            (true, false) => Shape::End(literal.into()),
            (true, true) if cased => Shape::PartCased(Box::new(memmem::Finder::new(&literal).into_owned())),
            (true, true) => Shape::Part(literal.into()),
        }
    }
}

/// Length in bytes of the character at the start of `text`; 1 for bytes that are no UTF-8.
fn character(text: &[u8]) -> usize {
    if text[0] < 0xc0 {
        return 1;
    }
    1 + text[1..].iter().take(3).take_while(|b| (0x80..0xc0).contains(*b)).count()
}

/// Whether `text` holds `lower` (in lower case, not empty), letters in either case.
fn contains_ignoring_case(text: &[u8], lower: &[u8]) -> bool {
    let Some(last) = text.len().checked_sub(lower.len()) else { return false };
    let (first, other) = (lower[0], lower[0].to_ascii_uppercase());
    let starts = &text[..=last];
    let mut found = |at: usize| text[at..at + lower.len()].eq_ignore_ascii_case(lower);
    if first == other {
        memchr::memchr_iter(first, starts).any(&mut found)
    } else {
        memchr::memchr2_iter(first, other, starts).any(&mut found)
    }
}

impl Texts {
    pub(super) fn new(patterns: Vec<Pattern>, all: bool) -> Texts {
        if all {
            return Texts { all, patterns, ..Texts::default() };
        }
        let mut texts = Texts::default();
        let mut parts: Vec<Box<[u8]>> = Vec::new();
        for pattern in patterns {
            match &pattern {
                Pattern::Glob(glob) if !glob.cased && glob.whole().is_some() => {
                    texts.whole.extend(glob.whole().map(Box::from));
                }
                Pattern::Glob(Glob { shape: Shape::Part(literal), .. }) => {
                    parts.push(literal.clone());
                    texts.patterns.push(pattern);
                }
                _ => texts.patterns.push(pattern),
            }
        }
        texts.whole.sort_unstable();
        if parts.len() >= ONE_PASS_FROM
            // A list too large for one automaton is searched value by value.
            && let Ok(search) = AhoCorasick::builder().ascii_case_insensitive(true).build(&parts)
        {
            texts.patterns.retain(|p| !matches!(p, Pattern::Glob(Glob { shape: Shape::Part(_), .. })));
            texts.parts = Some(search);
        }
        texts
    }

    /// Whether there is no pattern, so that no text matches.
    pub(super) fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.parts.is_none() && self.patterns.is_empty()
    }

    /// Rough cost of a test: cheap tests go first.
    pub(super) fn cost(&self) -> u32 {
        let patterns = self.patterns.iter().map(|p| match p {
            Pattern::Glob(Glob { shape: Shape::Part(_) | Shape::PartCased(_), .. }) => 20,
            Pattern::Glob(Glob { shape: Shape::General, .. }) => 40,
            Pattern::Glob(_) => 6,
            Pattern::Regex(_) => 100,
        });
        patterns.sum::<u32>() + 10 + if self.parts.is_some() { 60 } else { 0 }
    }

    pub(super) fn hold(&self, text: &[u8]) -> bool {
        if self.all {
            return self.patterns.iter().all(|p| p.matches(text));
        }
        let whole = match self.whole.as_slice() {
            [] => false,
            [one] => one.eq_ignore_ascii_case(text),
            many => many.binary_search_by(|w| w.iter().copied().cmp(text.iter().map(u8::to_ascii_lowercase))).is_ok(),
        };
        whole
            || self.patterns.iter().any(|p| p.matches(text))
            || self.parts.as_ref().is_some_and(|search| search.is_match(text))
    }
}

impl Pattern {
    fn matches(&self, text: &[u8]) -> bool {
        match self {
            Pattern::Glob(glob) => glob.matches(text),
            Pattern::Regex(regex) => regex.is_match(text),
        }
    }
}

/// A number or an address as text, without the heap.
pub(super) struct Rendered {
    bytes: [u8; 48],
    len: usize,
}

impl Rendered {
    pub(super) fn number(n: u64) -> Rendered {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(n).as_bytes();
        let mut out = Rendered { bytes: [0; 48], len: digits.len() };
        out.bytes[..digits.len()].copy_from_slice(digits);
        out
    }

    pub(super) fn address(ip: IpAddr) -> Rendered {
        let mut out = Rendered { bytes: [0; 48], len: 0 };
        // The longest address takes 39 bytes.
        let _ = write!(out, "{ip}");
        out
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl std::fmt::Write for Rendered {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        let end = self.len + s.len();
        self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?.copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}
