//! One line being parsed: where its bytes are, and how values found in it become an event.
//!
//! Formats that name their fields (JSON, pasted patterns) fill [`Slots`] with ranges of the line, and [`assemble`] turns
//! them into an event: one meaning for a value, whatever format carried it.
//!
//! Invariants
//! - `-`, the empty string and JSON's `null` are absent values.
//! - Values are spans of the line; only what had to be unescaped goes to the side buffer.

use super::request;
use super::scan::{self, Escape};
use super::time::Clock;
use crate::batch::Span;
use crate::client::{self, ClientHeader, Proxies};
use crate::dead_letter::Reason;
use crate::event::{Client, Event, Kind, LogLevel, Method};
use crate::networks::Networks;
use crate::swar;
use crate::time::EventTime;

/// A line and all that parsing it needs.
pub(super) struct Context<'a> {
    /// The line, without its end.
    pub line: &'a [u8],
    /// Its position in the batch's buffer.
    pub base: usize,
    /// The whole buffer.
    pub buffer: &'a [u8],
    /// The batch's side buffer.
    pub extra: &'a mut Vec<u8>,
    pub clock: &'a mut Clock,
    pub proxies: &'a Proxies,
}

impl Context<'_> {
    /// The span of a range of the line.
    #[inline]
    pub fn span(&self, start: usize, end: usize) -> Span {
        Span::new(self.base + start, self.base + end)
    }

    /// The bytes of a span made here.
    #[inline]
    pub fn bytes(&self, span: Span) -> &[u8] {
        span.bytes(self.buffer, self.extra)
    }

    /// The value of a piece, unescaped; [`Span::NONE`] where it is absent.
    #[inline]
    pub fn value(&mut self, piece: Piece, escape: Escape) -> Span {
        let (start, end) = piece.range();
        match piece.state() {
            State::Absent => return Span::NONE,
            State::Escaped => return self.unescaped(start, end, escape),
            State::Plain => {}
        }
        match &self.line[start..end] {
            [] | [b'-'] => Span::NONE,
            _ => self.span(start, end),
        }
    }

    #[cold]
    fn unescaped(&mut self, start: usize, end: usize, escape: Escape) -> Span {
        let from = self.extra.len();
        scan::unescape(&self.line[start..end], escape, self.extra);
        Span::in_extra(from, self.extra.len())
    }

    /// A span of bytes that are in no line.
    pub fn literal(&mut self, bytes: &[u8]) -> Span {
        let from = self.extra.len();
        self.extra.extend_from_slice(bytes);
        Span::in_extra(from, self.extra.len())
    }

    /// The client: the peer, or whom a trusted peer's header names.
    #[inline]
    pub fn client(&mut self, peer: Piece, headers: &Headers, escape: Escape) -> Client {
        if peer.is_absent() {
            return self.client_without_peer(headers, escape);
        }
        let (start, end) = peer.range();
        match client::parse_ip(&self.line[start..end]) {
            Some(ip) if self.proxies.trusted.is_empty() => Client::Ip(ip),
            Some(ip) => Client::Ip(self.behind(ip, headers, escape)),
            None => self.named_client(peer, headers, escape),
        }
    }

    /// The address of a peer that is believed because no proxy is, and is IPv4: most lines have one. With what follows the
    /// address at hand, no byte of it is looked at alone.
    #[inline]
    pub fn plain_ipv4(&self, peer: Piece) -> Option<std::net::Ipv4Addr> {
        let (start, end) = peer.range();
        let (ip, used) = client::ipv4_prefix(self.buffer.get(self.base + start..)?)?;
        (used == end - start && self.proxies.trusted.is_empty()).then_some(ip)
    }

    fn behind(&mut self, peer: std::net::IpAddr, headers: &Headers, escape: Escape) -> std::net::IpAddr {
        let Some(header) = self.proxies.header else { return peer };
        if !self.proxies.trusts(peer) {
            return peer;
        }
        let span = self.value(headers.of(header), escape);
        self.proxies.resolve(peer, self.bytes(span))
    }

    #[cold]
    fn named_client(&mut self, peer: Piece, headers: &Headers, escape: Escape) -> Client {
        let span = self.value(peer, escape);
        let text = self.bytes(span);
        // A peer on a Unix socket is a proxy on this machine: as trusted as the loopback address.
        if text.starts_with(b"unix:") {
            let loopback = std::net::Ipv4Addr::LOCALHOST.into();
            let client = self.behind(loopback, headers, escape);
            if client != loopback {
                return Client::Ip(client);
            }
            return Client::Name(span);
        }
        // A network (`10.0.0.0/8`) is no client: it would be blocked for what one of its addresses did.
        let is_network = memchr::memrchr(b'/', text).is_some_and(|at| client::parse_ip(&text[..at]).is_some());
        if span.is_none() || is_network {
            return Client::None;
        }
        match client::parse_endpoint(text) {
            Some(ip) => Client::Ip(self.behind(ip, headers, escape)),
            None => Client::Name(span.slice(0, without_port(text))),
        }
    }

    /// A format that names no peer but a header leaves nothing else to believe: whoever chose it trusts what the last
    /// proxy wrote.
    #[cold]
    fn client_without_peer(&mut self, headers: &Headers, escape: Escape) -> Client {
        let wanted = self.proxies.header;
        let all = [ClientHeader::XForwardedFor, ClientHeader::XRealIp, ClientHeader::Forwarded];
        for header in wanted.into_iter().chain(all.into_iter().filter(|_| wanted.is_none())) {
            let span = self.value(headers.of(header), escape);
            let proxies = Proxies { trusted: Networks::default(), header: Some(header) };
            let proxies = if wanted.is_some() { self.proxies } else { &proxies };
            if let Some(ip) = proxies.rightmost(self.bytes(span)) {
                return Client::Ip(ip);
            }
        }
        Client::None
    }

    /// The host of a value that may carry a port.
    #[inline]
    pub fn host(&mut self, piece: Piece, escape: Escape) -> Span {
        let span = self.value(piece, escape);
        let bytes = self.bytes(span);
        let Some(first) = swar::find(bytes, b':') else { return span };
        let last = memchr::memrchr(b':', bytes).unwrap_or(first);
        let is_port = bytes[last + 1..].iter().all(u8::is_ascii_digit);
        // Of an IPv6 address only brackets tell the port.
        let alone = first == last || bytes[last - 1] == b']';
        if last > 0 && is_port && alone { span.slice(0, last) } else { span }
    }

    /// A number of one to eight digits; `None` where it is none or must be read another way.
    #[inline]
    pub fn decimal(&self, piece: Piece) -> Option<u64> {
        if piece.state() != State::Plain {
            return None;
        }
        let (start, end) = piece.range();
        swar::decimal(self.buffer, self.base + start, self.base + end)
    }

    /// Seconds as servers write them, with three decimals, in milliseconds; `None` where they must be read another way.
    #[inline]
    pub fn millis(&self, piece: Piece) -> Option<u64> {
        if piece.state() != State::Plain {
            return None;
        }
        let (start, end) = piece.range();
        swar::thousandths(self.buffer, self.base + start, self.base + end)
    }

    /// Runs `read` on the bytes of a number or time. These carry no escapes, but for slashes that JSON may escape.
    #[inline]
    fn plain<T>(&mut self, piece: Piece, escape: Escape, read: impl FnOnce(&mut Clock, &[u8]) -> T) -> T {
        let text = &self.line[piece.range().0..piece.range().1];
        if piece.state() == State::Escaped {
            let from = self.extra.len();
            scan::unescape(text, escape, self.extra);
            let result = read(self.clock, &self.extra[from..]);
            self.extra.truncate(from);
            return result;
        }
        read(self.clock, text)
    }
}

/// Where a value stands in the line: 31 bits for its start, as many for its end, two for its state. One word, so that
/// what is stored is loaded whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Absent,
    Plain,
    /// Holds a backslash.
    Escaped,
}

impl Piece {
    pub const ABSENT: Piece = Piece(0);

    /// A range of the line. Lines are shorter than 2 GiB, as batches are.
    #[inline]
    pub fn new(start: usize, end: usize, escaped: bool) -> Piece {
        let state = if escaped { 2 } else { 1 };
        Piece(start as u64 | (end as u64) << 31 | state << 62)
    }

    /// Where it begins and ends.
    #[inline]
    pub fn range(self) -> (usize, usize) {
        const PLACE: u64 = (1 << 31) - 1;
        ((self.0 & PLACE) as usize, (self.0 >> 31 & PLACE) as usize)
    }

    #[inline]
    pub fn state(self) -> State {
        match self.0 >> 62 {
            0 => State::Absent,
            1 => State::Plain,
            _ => State::Escaped,
        }
    }

    #[inline]
    pub fn is_absent(self) -> bool {
        self.0 >> 62 == 0
    }
}

/// What a field of a line means. The order of [`Slot::NAMES`] is the order here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)]
pub(super) enum Slot {
    Time,
    Client,
    XForwardedFor,
    Forwarded,
    XRealIp,
    Host,
    Port,
    Request,
    Method,
    /// A target as the client sent it, perhaps with query.
    Target,
    /// A path the server made of it; used where neither a target nor a request line with one is logged.
    Path,
    Query,
    Status,
    Bytes,
    LatencyS,
    LatencyMs,
    LatencyUs,
    Agent,
    Referrer,
    User,
    Severity,
    Message,
    Logger,
    /// No field of ours; read over.
    Ignored,
}

impl Slot {
    /// How many there are, without `Ignored`.
    pub const COUNT: usize = Slot::Ignored as usize;

    /// The names a field mapping uses.
    pub const NAMES: [(&'static str, Slot); Slot::COUNT + 2] = [
        ("time", Slot::Time),
        ("client_ip", Slot::Client),
        ("x_forwarded_for", Slot::XForwardedFor),
        ("forwarded", Slot::Forwarded),
        ("x_real_ip", Slot::XRealIp),
        ("host", Slot::Host),
        ("port", Slot::Port),
        ("request", Slot::Request),
        ("method", Slot::Method),
        ("uri", Slot::Target),
        ("path", Slot::Path),
        ("query", Slot::Query),
        ("status", Slot::Status),
        ("bytes", Slot::Bytes),
        ("latency_s", Slot::LatencyS),
        ("latency", Slot::LatencyS),
        ("latency_ms", Slot::LatencyMs),
        ("latency_us", Slot::LatencyUs),
        ("user_agent", Slot::Agent),
        ("referrer", Slot::Referrer),
        ("referer", Slot::Referrer),
        ("user", Slot::User),
        ("severity", Slot::Severity),
        ("message", Slot::Message),
        ("logger", Slot::Logger),
    ];
}

/// The pieces of a line by meaning. The last one takes what is ignored.
pub(super) type Slots = [Piece; Slot::COUNT + 1];

/// Nothing found yet.
pub(super) const NO_SLOTS: Slots = [Piece::ABSENT; Slot::COUNT + 1];

/// Whether nothing but a time was found.
pub(super) fn is_only_time(slots: &Slots) -> bool {
    slots[Slot::Client as usize..Slot::COUNT].iter().all(|piece| piece.is_absent())
}

/// The headers that may name the client.
pub(super) struct Headers {
    pub x_forwarded_for: Piece,
    pub forwarded: Piece,
    pub x_real_ip: Piece,
}

impl Headers {
    /// A line that carries none.
    pub const NONE: Headers =
        Headers { x_forwarded_for: Piece::ABSENT, forwarded: Piece::ABSENT, x_real_ip: Piece::ABSENT };

    fn of(&self, header: ClientHeader) -> Piece {
        match header {
            ClientHeader::XForwardedFor => self.x_forwarded_for,
            ClientHeader::Forwarded => self.forwarded,
            ClientHeader::XRealIp => self.x_real_ip,
        }
    }
}

/// A status: 100–999; absent where `-`, empty or `000` (Nginx, connection closed before any answer).
#[inline]
pub(super) fn status(text: &[u8]) -> Result<u16, Reason> {
    match text {
        [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
            Ok(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
        }
        [] | b"-" | b"0" | b"000" => Ok(0),
        _ => Err(Reason::BadStatus),
    }
}

/// A size; 0 where absent.
#[inline]
pub(super) fn size(text: &[u8]) -> Result<u64, Reason> {
    match text {
        [] | b"-" => Ok(0),
        _ => scan::unsigned(text).or_else(|| scan::whole(text)).ok_or(Reason::BadNumber),
    }
}

/// The length of a host's name without the port that may stand behind it: `[client host.example:4711]`.
fn without_port(name: &[u8]) -> usize {
    match memchr::memchr(b':', name) {
        Some(at) if at > 0 && at + 1 < name.len() && name[at + 1..].iter().all(u8::is_ascii_digit) => at,
        _ => name.len(),
    }
}

/// A status that may be written as any number: `2e2`, `200.0`.
#[cold]
fn odd_status(text: &[u8]) -> Result<u16, Reason> {
    match scan::whole(text) {
        Some(found @ (0 | 100..=999)) => Ok(found as u16),
        _ => Err(Reason::BadStatus),
    }
}

/// A duration in units of so many microseconds: [`Event::NO_LATENCY`] where absent. A negative one is no duration (a
/// clock was set back, or a server's word for "none").
#[inline]
pub(super) fn duration(text: &[u8], micros_per_unit: u64) -> Result<u32, Reason> {
    match text {
        [] | b"-" => Ok(Event::NO_LATENCY),
        [b'-', number @ ..] => match scan::scaled(number, micros_per_unit).ok_or(Reason::BadNumber)? {
            0 => Ok(0),
            _ => Ok(Event::NO_LATENCY),
        },
        _ => {
            let micros = scan::scaled(text, micros_per_unit).ok_or(Reason::BadNumber)?;
            Ok(latency(micros))
        }
    }
}

#[inline]
pub(super) fn latency(micros: u64) -> u32 {
    u32::try_from(micros).unwrap_or(u32::MAX).min(Event::NO_LATENCY - 1)
}

/// Makes an event of the pieces of a line. `time` is given where the format has read it already.
pub(super) fn assemble(
    cx: &mut Context<'_>,
    slots: &Slots,
    escape: Escape,
    time: Option<EventTime>,
) -> Result<Event, Reason> {
    let mut event = Event::new(Kind::Access, EventTime(0));
    assemble_into(cx, slots, escape, time, &mut event)?;
    Ok(event)
}

/// The same into an event that is still empty, where it stands.
#[inline]
pub(super) fn assemble_into(
    cx: &mut Context<'_>,
    slots: &Slots,
    escape: Escape,
    time: Option<EventTime>,
    event: &mut Event,
) -> Result<(), Reason> {
    let at = |slot: Slot| slots[slot as usize];
    event.time = match time {
        Some(time) => time,
        None => {
            let piece = at(Slot::Time);
            match &cx.line[piece.range().0..piece.range().1] {
                [] | [b'-'] => cx.clock.carried()?,
                _ => cx.plain(piece, escape, |clock, text| clock.any(text))?,
            }
        }
    };
    event.status = cx.plain(at(Slot::Status), escape, |_, text| status(text).or_else(|_| odd_status(text)))?;
    event.bytes = match cx.decimal(at(Slot::Bytes)) {
        Some(bytes) => bytes,
        None => cx.plain(at(Slot::Bytes), escape, |_, text| size(text))?,
    };
    for (slot, scale) in [(Slot::LatencyS, 1_000_000), (Slot::LatencyMs, 1000), (Slot::LatencyUs, 1)] {
        if !at(slot).is_absent() {
            let found = match cx.millis(at(slot)) {
                Some(millis) if slot == Slot::LatencyS => latency(millis * 1000),
                _ => cx.plain(at(slot), escape, |_, text| duration(text, scale))?,
            };
            if found != Event::NO_LATENCY {
                event.latency_us = found;
            }
        }
    }
    if !at(Slot::Port).is_absent() {
        let port = match cx.decimal(at(Slot::Port)) {
            Some(port) => port,
            None => cx.plain(at(Slot::Port), escape, |_, text| size(text))?,
        };
        event.port = match port {
            port @ 0..=65535 => port as u16,
            _ => return Err(Reason::BadNumber),
        };
    }
    if let Some(ip) = cx.plain_ipv4(at(Slot::Client)) {
        event.client = Client::Ip(ip.into());
    } else {
        let headers = Headers {
            x_forwarded_for: at(Slot::XForwardedFor),
            forwarded: at(Slot::Forwarded),
            x_real_ip: at(Slot::XRealIp),
        };
        event.client = cx.client(at(Slot::Client), &headers, escape);
    }
    if !at(Slot::Host).is_absent() {
        event.host = cx.host(at(Slot::Host), escape);
    }
    read_request(cx, slots, escape, event);
    event.agent = cx.value(at(Slot::Agent), escape);
    event.referrer = cx.value(at(Slot::Referrer), escape);
    event.user = cx.value(at(Slot::User), escape);
    if !at(Slot::Message).is_absent() || !at(Slot::Severity).is_absent() {
        event.message = cx.value(at(Slot::Message), escape);
        event.logger = cx.value(at(Slot::Logger), escape);
        let level = cx.value(at(Slot::Severity), escape);
        let level = cx.bytes(level);
        event.level = LogLevel::from_word(level).or_else(|| LogLevel::from_number(level)).unwrap_or(LogLevel::None);
        // Applications log the path that they were at work for, too; a request has an answer, or a method beside its path.
        if event.status == 0 && (event.path.is_none() || event.method == Method::Other) {
            event.kind = Kind::App;
        }
    }
    Ok(())
}

/// Reads method, path and query from the values that hold them. What the client sent counts before what the server made of
/// it: a path that was rewritten is that of another file, as is one whose error has a page of its own.
#[inline]
pub(super) fn read_request(cx: &mut Context<'_>, slots: &Slots, escape: Escape, event: &mut Event) {
    let at = |slot: Slot| slots[slot as usize];
    let method = cx.value(at(Slot::Method), escape);
    let mut target = cx.value(at(Slot::Target), escape);
    let mut has_target = !target.is_none();
    if !has_target || method.is_none() {
        let request = cx.value(at(Slot::Request), escape);
        has_target |= !request.is_none() && request::read(cx, request, event);
    }
    if !has_target {
        target = cx.value(at(Slot::Path), escape);
    }
    if !target.is_none() {
        request::read_target(cx, target, event);
    }
    if !method.is_none() {
        event.method = Method::from_token(cx.bytes(method));
    }
    if event.query.is_none() && !event.path.is_none() {
        let query = cx.value(at(Slot::Query), escape);
        // Apache's %q brings its question mark along.
        event.query = if cx.bytes(query).first() == Some(&b'?') { query.slice(1, query.len()) } else { query };
    }
}
