//! What a generated line says, before it has a format; numbers and times as text.

use std::io::Write as _;
use std::net::IpAddr;
use tidewatch_events::time::civil_from_days;

/// One request, in buffers that are reused from line to line.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who asked.
    pub client: IpAddr,
    /// The method's token.
    pub method: &'static str,
    /// Path and query as sent.
    pub target: Vec<u8>,
    /// Where the path ends in `target`.
    pub path_end: usize,
    /// `HTTP/1.1`.
    pub protocol: &'static str,
    /// Response status.
    pub status: u16,
    /// Bytes of the response's body.
    pub bytes: u64,
    /// Duration in µs.
    pub latency_us: u32,
    /// `User-Agent`; empty where none was sent.
    pub agent: &'static str,
    /// `Referer`; empty where none was sent.
    pub referrer: Vec<u8>,
    /// The user's name; empty where there is none.
    pub user: Vec<u8>,
    /// The server's port.
    pub port: u16,
    /// Whether a value may hold bytes that the format must escape.
    pub hostile: bool,
}

impl Request {
    /// A request with nothing in it.
    pub fn empty() -> Request {
        Request {
            client: IpAddr::from([0, 0, 0, 0]),
            method: "GET",
            target: Vec::with_capacity(512),
            path_end: 0,
            protocol: "HTTP/1.1",
            status: 200,
            bytes: 0,
            latency_us: 0,
            agent: "",
            referrer: Vec::with_capacity(256),
            user: Vec::with_capacity(64),
            port: 443,
            hostile: false,
        }
    }

    /// Empties what the next request may not set.
    pub fn clear(&mut self) {
        self.target.clear();
        self.referrer.clear();
        self.user.clear();
        self.path_end = 0;
        self.method = "GET";
        self.protocol = "HTTP/1.1";
        self.agent = "";
        self.port = 443;
        self.hostile = false;
    }

    /// Sets path and query.
    pub fn set_target(&mut self, path: &[u8], query: &[u8]) {
        self.target.clear();
        self.target.extend_from_slice(path);
        self.path_end = path.len();
        if !query.is_empty() {
            self.target.push(b'?');
            self.target.extend_from_slice(query);
        }
    }

    /// The path without query.
    pub fn path(&self) -> &[u8] {
        &self.target[..self.path_end]
    }

    /// The query without `?`.
    pub fn query(&self) -> &[u8] {
        self.target.get(self.path_end + 1..).unwrap_or_default()
    }
}

/// One line of an error or application log.
#[derive(Clone, Debug)]
pub struct Message {
    /// The level's word.
    pub level: &'static str,
    /// Module or service.
    pub logger: &'static str,
    /// The text.
    pub text: Vec<u8>,
    /// Whom it speaks of, where it speaks of anyone.
    pub client: Option<IpAddr>,
    /// The user's name; empty where there is none.
    pub user: Vec<u8>,
    /// The request it belongs to (`GET /x HTTP/1.1`); empty where there is none.
    pub request: Vec<u8>,
    /// Duration in ms, where there is one.
    pub latency_ms: Option<u32>,
}

impl Message {
    /// A message with nothing in it.
    pub fn empty() -> Message {
        Message {
            level: "info",
            logger: "core",
            text: Vec::with_capacity(256),
            client: None,
            user: Vec::with_capacity(64),
            request: Vec::with_capacity(256),
            latency_ms: None,
        }
    }

    /// Empties what the next message may not set.
    pub fn clear(&mut self) {
        self.text.clear();
        self.user.clear();
        self.request.clear();
        self.client = None;
        self.latency_ms = None;
    }
}

const PAIRS: &[u8; 200] =
    b"0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849\
5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";

/// Appends a number.
#[inline]
pub fn number(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    while n >= 100 {
        at -= 2;
        let pair = (n % 100) as usize * 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
        n /= 100;
    }
    if n >= 10 {
        at -= 2;
        let pair = n as usize * 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
    } else {
        at -= 1;
        digits[at] = b'0' + n as u8;
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a number below 100 with two digits.
#[inline]
pub fn two(out: &mut Vec<u8>, n: u64) {
    let pair = (n % 100) as usize * 2;
    out.extend_from_slice(&PAIRS[pair..pair + 2]);
}

/// Appends the last `width` (at most 9) digits of a number, with leading zeros.
#[inline]
pub fn padded(out: &mut Vec<u8>, mut n: u64, width: usize) {
    let mut digits = [b'0'; 9];
    let width = width.min(9);
    for digit in digits[..width].iter_mut().rev() {
        *digit = b'0' + (n % 10) as u8;
        n /= 10;
    }
    out.extend_from_slice(&digits[..width]);
}

/// Appends a number as lower-case hexadecimal, `width` (at most 16) digits.
pub fn hex(out: &mut Vec<u8>, n: u64, width: usize) {
    for i in (0..width.min(16)).rev() {
        out.push(b"0123456789abcdef"[(n >> (i * 4) & 15) as usize]);
    }
}

/// Appends an address.
#[inline]
pub fn address(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            for (octet, end) in [(a, true), (b, true), (c, true), (d, false)] {
                number(out, octet.into());
                if end {
                    out.push(b'.');
                }
            }
        }
        IpAddr::V6(ip) => drop(write!(out, "{ip}")),
    }
}

/// A time taken apart once a second.
#[derive(Clone, Debug)]
pub struct Clock {
    second: u64,
    /// Year, month (1–12), day, hour, minute, second; UTC.
    pub civil: [u64; 6],
    /// `05/Mar/2026:10:00:00 +0000`
    pub local: Vec<u8>,
    /// `2026-03-05T10:00:00+00:00`
    pub iso: Vec<u8>,
    /// Days since the epoch.
    pub day_number: u64,
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

impl Clock {
    /// At the epoch.
    pub fn new() -> Clock {
        let (local, iso) = (Vec::with_capacity(32), Vec::with_capacity(32));
        let mut clock = Clock { second: u64::MAX, civil: [0; 6], local, iso, day_number: 0 };
        clock.set(0);
        clock
    }

    /// Moves to a time in ms.
    #[inline]
    pub fn set(&mut self, time_ms: u64) {
        if time_ms / 1000 != self.second {
            self.set_second(time_ms / 1000);
        }
    }

    #[cold]
    fn set_second(&mut self, second: u64) {
        self.second = second;
        self.day_number = second / 86_400;
        let (year, month, day) = civil_from_days(self.day_number);
        self.civil = [year, month.into(), day.into(), second / 3600 % 24, second / 60 % 60, second % 60];
        let (month_name, [y, mo, d, h, mi, s]) = (self.month_name(), self.civil);
        self.local.clear();
        self.iso.clear();
        let _ = write!(self.local, "{d:02}/{month_name}/{y:04}:{h:02}:{mi:02}:{s:02} +0000");
        let _ = write!(self.iso, "{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}+00:00");
    }

    /// `Mar`
    pub fn month_name(&self) -> &'static str {
        MONTHS[(self.civil[1] as usize).clamp(1, 12) - 1]
    }

    /// `Thu`
    pub fn weekday_name(&self) -> &'static str {
        ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(self.day_number % 7) as usize]
    }

    /// `2026-03-05`, `2026/03/05`
    pub fn date(&self, out: &mut Vec<u8>, between: u8) {
        number(out, self.civil[0]);
        for part in &self.civil[1..3] {
            out.push(between);
            two(out, *part);
        }
    }

    /// `10:00:00`
    pub fn time_of_day(&self, out: &mut Vec<u8>) {
        two(out, self.civil[3]);
        for part in &self.civil[4..] {
            out.push(b':');
            two(out, *part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_and_addresses_as_text() {
        for n in [0, 9, 10, 99, 100, 101, 12_345, u64::MAX] {
            assert_eq!(text(|out| number(out, n)), n.to_string());
        }
        assert_eq!(text(|out| padded(out, 7, 3)), "007");
        assert_eq!(text(|out| hex(out, 0xbeef, 6)), "00beef");
        for ip in ["1.2.3.4", "255.10.0.99", "2a02:810d::1"] {
            assert_eq!(text(|out| address(out, ip.parse().unwrap())), ip);
        }
    }

    #[test]
    fn clocks_show_utc() {
        let mut clock = Clock::new();
        clock.set(1_772_704_800_123);
        assert_eq!(clock.local, b"05/Mar/2026:10:00:00 +0000");
        assert_eq!(clock.iso, b"2026-03-05T10:00:00+00:00");
        assert_eq!(clock.weekday_name(), "Thu");
        assert_eq!(text(|out| clock.date(out, b'/')), "2026/03/05");
        assert_eq!(text(|out| clock.time_of_day(out)), "10:00:00");
    }
}
