//! Compiles pasted `log_format` (Nginx) and `LogFormat` (Apache) strings, with or without the directive around them.
//!
//! Invariants
//! - Errors give the byte in the text as it was pasted.
//! - Of several values with one meaning (`$body_bytes_sent` and `$bytes_sent`) the first counts; but of addresses, that of
//!   the peer as the server sees it.

use super::FormatError;
use super::json_format::{self, Template};
use super::line::Slot;
use super::pattern::{Class, Part, Pattern, Token};

/// The longest pattern, in parts; far more than any server's line has values.
const MAX_TOKENS: usize = 256;

/// What a pasted string is.
#[derive(Debug)]
pub(super) enum Compiled {
    /// Literals and values.
    Pattern(Pattern),
    /// A JSON object whose values are variables.
    Json(Template),
}

/// One part as written, before parts are checked against each other.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Literal(u8),
    Value { slot: Slot, class: Class, name: String, at: usize },
    Time(Part, usize),
}

/// A character of the format and the byte at which it was pasted.
type Source = Vec<(u8, usize)>;

/// Directives whose strings are formats.
const DIRECTIVES: [&str; 4] = ["log_format", "LogFormat", "CustomLog", "GlobalLog"];

/// The characters of the format in a pasted text, without the directive and the quotes around it, and the directive.
fn taken_apart(text: &str) -> Result<(Source, Option<&'static str>), FormatError> {
    let directive = DIRECTIVES
        .into_iter()
        .find(|name| text.strip_prefix(name).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_whitespace())));
    let quoted = text.starts_with('\'') || (text.starts_with('"') && text.contains("\\\"") && !text.contains('$'));
    let source = match directive {
        None if !quoted => plain(text),
        _ => {
            let after = directive.map_or(0, str::len);
            // These two name a file or a program before the format.
            let from =
                if matches!(directive, Some("CustomLog" | "GlobalLog")) { after_word(text, after) } else { after };
            strings(text, from, directive == Some("log_format") || text.starts_with('\''))?
        }
    };
    Ok((source, directive))
}

/// The format in a pasted text, without the directive and the quotes around it; and whether the directive is Apache's.
///
/// # Errors
/// A quote is not closed.
pub fn format_of(text: &str) -> Result<(String, Option<bool>), FormatError> {
    let (source, directive) = taken_apart(text.trim())?;
    let bytes: Vec<u8> = source.into_iter().map(|(b, _)| b).collect();
    let is_apache = directive.map(|directive| directive != "log_format");
    Ok((String::from_utf8_lossy(&bytes).into_owned(), is_apache))
}

/// Compiles a pasted string; `None` where it holds no variable, so that it must be a name.
pub(super) fn compile(text: &str) -> Option<Result<Compiled, FormatError>> {
    let (source, directive) = match taken_apart(text) {
        Ok(found) => found,
        Err(error) => return Some(Err(error)),
    };
    let nginx = source.windows(2).any(|w| w[0].0 == b'$' && (w[1].0 == b'{' || w[1].0.is_ascii_lowercase()));
    let apache = source.iter().any(|(b, _)| *b == b'%');
    if !nginx && !apache {
        return directive.map(|_| Err(FormatError::NoTime));
    }
    let items = if nginx { nginx_items(&source) } else { apache_items(&source) };
    Some(items.and_then(|mut items| {
        prefer_the_peer(&mut items);
        if items
            .iter()
            .find(|item| !matches!(item, Item::Literal(b' ')))
            .is_some_and(|i| matches!(i, Item::Literal(b'{')))
        {
            json_format::compile(&items).map(Compiled::Json)
        } else {
            pattern(items).map(Compiled::Pattern)
        }
    }))
}

/// Addresses that count where no better one is logged, the best first: of a peer that another address stands for.
const SECOND_ADDRESSES: [&str; 4] = ["$proxy_protocol_addr", "$realip_remote_addr", "%{c}a", "%{c}h"];

/// Leaves one client.
fn prefer_the_peer(items: &mut [Item]) {
    let rank = |item: &Item| match item {
        Item::Value { slot: Slot::Client, name, .. } => {
            Some(SECOND_ADDRESSES.iter().position(|second| second == name).map_or(0, |n| n + 1))
        }
        _ => None,
    };
    let Some(best) = items.iter().filter_map(rank).min() else { return };
    for item in items {
        if rank(item).is_some_and(|rank| rank > best)
            && let Item::Value { slot, .. } = item
        {
            *slot = Slot::Ignored;
        }
    }
}

fn plain(text: &str) -> Source {
    // Apache's files escape the quotes of a format; a paste may keep that.
    let bytes = text.as_bytes();
    let mut source = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let (b, used) = unescaped(&bytes[at..]);
        source.push((b, at));
        at += used;
    }
    source
}

fn unescaped(text: &[u8]) -> (u8, usize) {
    match text {
        [b'\\', b @ (b'"' | b'\'' | b'\\'), ..] => (*b, 2),
        [b'\\', b't', ..] => (b'\t', 2),
        // A line that goes on in the next.
        [b'\\', b'\n', rest @ ..] if !rest.is_empty() => {
            let (b, used) = unescaped(rest);
            (b, used + 2)
        }
        [b, ..] => (*b, 1),
        [] => (0, 0),
    }
}

/// Where the first argument of a directive ends, quoted or not.
fn after_word(text: &str, from: usize) -> usize {
    let bytes = text.as_bytes();
    let blank = |b: &u8| b.is_ascii_whitespace() || *b == b'\\';
    let start = from + bytes[from..].iter().take_while(|b| blank(b)).count();
    let (mut at, quote) = match bytes.get(start) {
        Some(quote @ (b'"' | b'\'')) => (start + 1, Some(quote)),
        _ => (start, None),
    };
    while let Some(b) = bytes.get(at) {
        match quote {
            Some(_) if *b == b'\\' => at += 1,
            Some(quote) if b == quote => return at + 1,
            None if b.is_ascii_whitespace() => return at,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// The quoted strings of a directive, joined (Nginx) or the first one (Apache).
fn strings(text: &str, from: usize, all: bool) -> Result<Source, FormatError> {
    let bytes = text.as_bytes();
    let mut source = Vec::new();
    let mut at = from;
    while let Some(open) = bytes[at..].iter().position(|b| matches!(b, b'\'' | b'"')).map(|n| at + n) {
        if all && bytes[at..open].contains(&b';') {
            break;
        }
        at = open + 1;
        loop {
            match bytes.get(at) {
                None => return Err(FormatError::Unclosed { what: "quote", at: open }),
                Some(b) if *b == bytes[open] => break,
                Some(_) => {
                    let (b, used) = unescaped(&bytes[at..]);
                    source.push((b, at));
                    at += used;
                }
            }
        }
        at += 1;
        if !all {
            break;
        }
    }
    Ok(source)
}

fn nginx_items(source: &Source) -> Result<Vec<Item>, FormatError> {
    let mut items = Vec::new();
    let mut i = 0;
    while i < source.len() {
        let (b, at) = source[i];
        if b != b'$' {
            items.push(Item::Literal(b));
            i += 1;
            continue;
        }
        let braced = source.get(i + 1).is_some_and(|(b, _)| *b == b'{');
        let start = i + 1 + usize::from(braced);
        let name: String = source[start..]
            .iter()
            .map(|(b, _)| *b as char)
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect();
        i = start + name.len();
        if name.is_empty() {
            return Err(FormatError::Variable { found: "$".to_owned(), at, expected: "a variable's name after $" });
        }
        if braced {
            if source.get(i).is_none_or(|(b, _)| *b != b'}') {
                return Err(FormatError::Unclosed { what: "${", at });
            }
            i += 1;
        }
        let (slot, class) = nginx_variable(&name);
        items.push(Item::Value { slot, class, name: format!("${name}"), at });
    }
    Ok(items)
}

fn nginx_variable(name: &str) -> (Slot, Class) {
    match name {
        "time_local" => (Slot::Time, Class::LocalTime),
        "time_iso8601" => (Slot::Time, Class::IsoTime),
        "msec" => (Slot::Time, Class::Number),
        "remote_addr" | "proxy_protocol_addr" | "realip_remote_addr" => (Slot::Client, Class::Word),
        "remote_user" => (Slot::User, Class::Text),
        "http_x_forwarded_for" | "proxy_add_x_forwarded_for" => (Slot::XForwardedFor, Class::List),
        "http_forwarded" => (Slot::Forwarded, Class::List),
        "http_x_real_ip" => (Slot::XRealIp, Class::Word),
        "host" | "http_host" | "server_name" => (Slot::Host, Class::Word),
        "server_port" => (Slot::Port, Class::Number),
        "request" => (Slot::Request, Class::Text),
        "request_method" => (Slot::Method, Class::Word),
        "request_uri" => (Slot::Target, Class::Text),
        "uri" | "document_uri" => (Slot::Path, Class::Text),
        "args" | "query_string" => (Slot::Query, Class::Text),
        "status" => (Slot::Status, Class::Status),
        "body_bytes_sent" | "bytes_sent" => (Slot::Bytes, Class::Number),
        "request_time" => (Slot::LatencyS, Class::Number),
        "http_user_agent" => (Slot::Agent, Class::Text),
        "http_referer" => (Slot::Referrer, Class::Text),
        "connection" | "connection_requests" | "request_length" | "pid" => (Slot::Ignored, Class::Number),
        _ => (Slot::Ignored, Class::Text),
    }
}

fn apache_items(source: &Source) -> Result<Vec<Item>, FormatError> {
    let mut items = Vec::new();
    let mut i = 0;
    while i < source.len() {
        let (b, at) = source[i];
        i += 1;
        if b != b'%' {
            items.push(Item::Literal(b));
            continue;
        }
        let mut parameter = String::new();
        let letter = loop {
            let Some((b, open)) = source.get(i).copied() else {
                return Err(FormatError::Variable {
                    found: "%".to_owned(),
                    at,
                    expected: "a directive's letter after %",
                });
            };
            i += 1;
            match b {
                b'{' => {
                    let close = source[i..].iter().position(|(b, _)| *b == b'}');
                    let close = close.ok_or(FormatError::Unclosed { what: "%{", at: open })?;
                    parameter = source[i..i + close].iter().map(|(b, _)| *b as char).collect();
                    i += close + 1;
                }
                b'>' | b'<' | b'!' | b',' | b'0'..=b'9' => {}
                letter => break letter,
            }
        };
        if letter == b'^' {
            // Trailers (^ti, ^to) and the time to the first byte (^FB) have two letters more.
            let is_number = source.get(i).is_some_and(|(b, _)| *b == b'F');
            let class = if is_number { Class::Number } else { Class::Text };
            i = (i + 2).min(source.len());
            items.push(Item::Value { slot: Slot::Ignored, class, name: "%^".to_owned(), at });
            continue;
        }
        if letter == b't' {
            time_items(&parameter, at, &mut items)?;
            continue;
        }
        if letter == b'%' {
            items.push(Item::Literal(b'%'));
            continue;
        }
        let name = match (letter, &parameter[..]) {
            (b'a' | b'h', "c") => format!("%{{c}}{}", letter as char),
            _ => format!("%{}", letter as char),
        };
        let (slot, class) = apache_directive(letter, &parameter).ok_or(FormatError::Variable {
            found: name.clone(),
            at,
            expected: APACHE_LETTERS,
        })?;
        items.push(Item::Value { slot, class, name, at });
    }
    Ok(items)
}

const APACHE_LETTERS: &str = "one of %a %A %b %B %c %C %D %e %f %h %H %i %I %k %l %L %m %n %o %O %p %P %q %r %R %s %S %t %T %u %U %v %V %x %X %%";

fn apache_directive(letter: u8, parameter: &str) -> Option<(Slot, Class)> {
    let header = |name: &str| parameter.eq_ignore_ascii_case(name);
    Some(match letter {
        b'h' | b'a' => (Slot::Client, Class::Word),
        b'u' => (Slot::User, Class::Text),
        b'v' | b'V' => (Slot::Host, Class::Word),
        b'p' if parameter == "remote" => (Slot::Ignored, Class::Number),
        b'p' => (Slot::Port, Class::Number),
        b'r' => (Slot::Request, Class::Text),
        b'm' => (Slot::Method, Class::Word),
        b'U' => (Slot::Path, Class::Text),
        b'q' => (Slot::Query, Class::Text),
        b's' => (Slot::Status, Class::Status),
        b'b' | b'B' | b'O' => (Slot::Bytes, Class::Number),
        b'D' => (Slot::LatencyUs, Class::Number),
        b'T' => match parameter {
            "ms" => (Slot::LatencyMs, Class::Number),
            "us" => (Slot::LatencyUs, Class::Number),
            _ => (Slot::LatencyS, Class::Number),
        },
        b'i' if header("User-Agent") => (Slot::Agent, Class::Text),
        b'i' if header("Referer") || header("Referrer") => (Slot::Referrer, Class::Text),
        b'i' if header("X-Forwarded-For") => (Slot::XForwardedFor, Class::List),
        b'i' if header("Forwarded") => (Slot::Forwarded, Class::List),
        b'i' if header("X-Real-IP") => (Slot::XRealIp, Class::Word),
        b'i' if header("Host") => (Slot::Host, Class::Word),
        b'l' => (Slot::Ignored, Class::Word),
        b'I' | b'S' | b'k' | b'P' => (Slot::Ignored, Class::Text),
        b'A' | b'C' | b'e' | b'f' | b'H' | b'i' | b'L' | b'n' | b'o' | b'R' | b'X' => (Slot::Ignored, Class::Text),
        // mod_ssl: a variable, and what its older releases had for that; Apache 1.3: how the connection ended.
        b'x' | b'c' => (Slot::Ignored, Class::Text),
        _ => return None,
    })
}

/// The parts of `%t` or `%{…}t`.
fn time_items(parameter: &str, at: usize, items: &mut Vec<Item>) -> Result<(), FormatError> {
    let parameter = parameter.strip_prefix("begin:").or(parameter.strip_prefix("end:")).unwrap_or(parameter);
    let part = match parameter {
        "" | "begin" | "end" => {
            items.push(Item::Literal(b'['));
            items.push(Item::Value { slot: Slot::Time, class: Class::LocalTime, name: "%t".to_owned(), at });
            items.push(Item::Literal(b']'));
            return Ok(());
        }
        "sec" => Some(Part::EpochSeconds),
        "msec" => Some(Part::EpochMillis),
        "usec" => Some(Part::EpochMicros),
        "msec_frac" => Some(Part::Millis),
        "usec_frac" => Some(Part::Micros),
        _ => None,
    };
    if let Some(part) = part {
        items.push(Item::Time(part, at));
        return Ok(());
    }
    let mut letters = parameter.bytes();
    while let Some(b) = letters.next() {
        if b != b'%' {
            items.push(Item::Literal(b));
            continue;
        }
        let letter = letters.next().unwrap_or(b' ');
        let part = match letter {
            b'Y' => Part::Year,
            b'y' => Part::Year2,
            b'm' => Part::Month,
            b'b' | b'h' => Part::MonthName,
            b'd' | b'e' => Part::Day,
            b'H' | b'k' => Part::Hour,
            b'M' => Part::Minute,
            b'S' => Part::Second,
            b'z' => Part::Zone,
            b'a' | b'A' | b'Z' => Part::Name,
            b's' => Part::EpochSeconds,
            b'%' | b't' => {
                items.push(Item::Literal(if letter == b't' { b'\t' } else { b'%' }));
                continue;
            }
            b'F' | b'T' | b'R' | b'D' => {
                let long = match letter {
                    b'F' => "%Y-%m-%d",
                    b'T' => "%H:%M:%S",
                    b'R' => "%H:%M",
                    _ => "%m/%d/%y",
                };
                time_items(long, at, items)?;
                continue;
            }
            _ => {
                let expected = "a time of %Y %y %m %b %d %e %H %M %S %z %Z %a %s %F %T %R %D, or one of sec, msec, usec, \
                                msec_frac and usec_frac";
                return Err(FormatError::Variable { found: format!("%{{{parameter}}}t"), at, expected });
            }
        };
        items.push(Item::Time(part, at));
    }
    Ok(())
}

/// Checks parts against each other and joins literals.
fn pattern(items: Vec<Item>) -> Result<Pattern, FormatError> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut taken = [false; Slot::COUNT + 1];
    let mut literal = Vec::new();
    let mut open: Option<String> = None;
    for item in items {
        let (slot, class, name, at) = match item {
            Item::Literal(b) => {
                literal.push(b);
                continue;
            }
            Item::Time(part, at) => {
                if literal.is_empty()
                    && let Some(first) = open.take()
                {
                    return Err(FormatError::Adjacent { first, second: "%t".to_owned(), at });
                }
                close(&mut literal, &mut tokens);
                tokens.push(Token::Time(part));
                open = None;
                continue;
            }
            Item::Value { slot, class, name, at } => (slot, class, name, at),
        };
        // A query right after the path is one value with it: the question mark is part of the line.
        if literal.is_empty()
            && open.is_some()
            && (slot == Slot::Query || name == "$is_args")
            && let Some(Token::Value { slot: path @ (Slot::Path | Slot::Target | Slot::Ignored), .. }) =
                tokens.last_mut()
        {
            if *path == Slot::Path {
                *path = Slot::Target;
                taken[Slot::Target as usize] = true;
            }
            continue;
        }
        if literal.is_empty()
            && let Some(first) = open.take()
        {
            let slash = matches!(slot, Slot::Path | Slot::Target);
            match tokens.last_mut() {
                Some(token @ Token::Value { .. }) if slash => {
                    if let Token::Value { slot, .. } = *token {
                        *token = Token::ValueToSlash { slot };
                    }
                }
                _ => return Err(FormatError::Adjacent { first, second: name, at }),
            }
        }
        close(&mut literal, &mut tokens);
        let slot = if std::mem::replace(&mut taken[slot as usize], true) { Slot::Ignored } else { slot };
        tokens.push(Token::Value { slot, class });
        open = Some(name);
        if tokens.len() > MAX_TOKENS {
            return Err(FormatError::TooLong { parts: MAX_TOKENS });
        }
    }
    while literal.last().is_some_and(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n')) {
        literal.pop();
    }
    close(&mut literal, &mut tokens);
    if !is_timed(&tokens) {
        return Err(FormatError::NoTime);
    }
    let is_read = |token: &Token| match token {
        Token::Value { slot, .. } | Token::ValueToSlash { slot } => says_something(*slot),
        Token::Literal(_) | Token::Time(_) => false,
    };
    if tokens.iter().any(is_read) { Ok(Pattern { tokens }) } else { Err(FormatError::OnlyTime) }
}

/// Whether a value says anything of an event but when it was.
pub(super) fn says_something(slot: Slot) -> bool {
    !matches!(slot, Slot::Time | Slot::Ignored)
}

/// Whether the parts make a time: a whole one, or at least a day, its month and an hour.
fn is_timed(tokens: &[Token]) -> bool {
    let has = |parts: &[Part]| tokens.iter().any(|token| matches!(token, Token::Time(part) if parts.contains(part)));
    tokens.iter().any(|token| matches!(token, Token::Value { slot: Slot::Time, .. }))
        || has(&[Part::EpochSeconds, Part::EpochMillis, Part::EpochMicros])
        || (has(&[Part::Month, Part::MonthName]) && has(&[Part::Day]) && has(&[Part::Hour]))
}

fn close(literal: &mut Vec<u8>, tokens: &mut Vec<Token>) {
    if !literal.is_empty() {
        tokens.push(Token::Literal(std::mem::take(literal).into()));
    }
}

/// The combined or common format pasted as a pattern, by the parser made for it: `Some(true)` for combined.
pub(super) fn well_known(pattern: &Pattern) -> Option<bool> {
    const COMMON: [&str; 2] = [
        r#"%h %l %u %t "%r" %>s %b"#,
        r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent"#,
    ];
    const AGENTS: [&str; 2] = [r#" "%{Referer}i" "%{User-Agent}i""#, r#" "$http_referer" "$http_user_agent""#];
    let tokens = |text: &str| match compile(text) {
        Some(Ok(Compiled::Pattern(pattern))) => pattern.tokens,
        _ => Vec::new(),
    };
    COMMON.iter().zip(AGENTS).find_map(|(common, agents)| {
        if tokens(common) == pattern.tokens {
            return Some(false);
        }
        let known = tokens(&format!("{common}{agents}"));
        let (quote, known) = known.split_last()?;
        if pattern.tokens.get(..known.len())? != known {
            return None;
        }
        let rest = &pattern.tokens[known.len()..];
        (rest == [quote.clone()] || appended_is_known(rest)).then_some(true)
    })
}

/// Whether what follows the agent is what the combined parser finds by itself: `"$http_x_forwarded_for"` in quotes and
/// `$request_time`, bare or after `rt=`.
fn appended_is_known(rest: &[Token]) -> bool {
    let mut quoted = true;
    let mut tokens = rest.iter();
    loop {
        let text = match tokens.next() {
            None => return !quoted,
            Some(Token::Literal(text)) if !quoted => &text[..],
            Some(Token::Literal(text)) => match text.strip_prefix(b"\"") {
                Some(text) => text,
                None => return false,
            },
            Some(_) => return false,
        };
        match (text, tokens.next()) {
            (b"", None) => return true,
            (b" \"", Some(Token::Value { slot: Slot::XForwardedFor, .. })) => quoted = true,
            (b" " | b" rt=" | b" request_time=", Some(Token::Value { slot: Slot::LatencyS, .. })) => quoted = false,
            _ => return false,
        }
    }
}
