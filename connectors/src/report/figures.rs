//! Figures as people read them: in a report, and in the terminal view.

use std::fmt::Write as _;
use tidewatch_events::time::EventTime;

/// `2026-03-05 10:00:00`.
pub fn second(time: u64) -> String {
    let text = EventTime(time.min(EventTime::MAX.0)).to_string();
    text[..19].replace('T', " ")
}

/// `12,345`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Two digits of a fraction where the number is small.
pub fn decimals(x: f64) -> String {
    match x {
        x if x >= 1000.0 => grouped(x.round() as u64),
        x if x >= 100.0 => format!("{x:.0}"),
        x => format!("{x:.2}"),
    }
}

/// At most four digits of a fraction.
pub fn short(x: f64) -> String {
    let text = format!("{x:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `1.25 %` of a share, 0 to 1.
pub fn percent(ratio: f64) -> String {
    format!("{:.2} %", ratio * 100.0)
}

/// The change of a share, in points of percent.
pub fn points(now: f64, before: f64) -> String {
    format!("{:+.2} pp", (now - before) * 100.0)
}

/// `+12 %`, `x 10`, `new`.
pub fn change(now: f64, before: f64) -> String {
    match (now, before) {
        (now, before) if now == before => "0 %".into(),
        (_, before) if before <= 0.0 => "new".into(),
        (now, before) if now / before >= 10.0 => format!("x {:.0}", now / before),
        (now, before) => format!("{:+.0} %", (now / before - 1.0) * 100.0),
    }
}

/// Milliseconds, or seconds.
pub fn latency(ms: Option<f64>) -> String {
    match ms {
        None => "-".into(),
        Some(ms) if ms >= 10_000.0 => format!("{:.1} s", ms / 1000.0),
        Some(ms) if ms >= 100.0 => format!("{ms:.0} ms"),
        Some(ms) => format!("{ms:.1} ms"),
    }
}

/// `1d 30m`, `90s`: a length of time, of ms.
pub fn length(ms: u64) -> String {
    if ms < 120_000 {
        return tidewatch_events::time::Millis(ms).to_string();
    }
    let seconds = ms / 1000;
    let parts = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let parts = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}"));
    parts.collect::<Vec<_>>().join(" ")
}

/// `1.5 MiB`.
pub fn bytes(n: u64) -> String {
    let mut out = String::new();
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = if n == 0 { 0 } else { (n.ilog2() / 10) as usize };
    let value = n as f64 / (1u64 << (10 * unit)) as f64;
    let _ = match unit {
        0 => write!(out, "{n} B"),
        _ => write!(out, "{value:.1} {}", units[unit]),
    };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        for (n, want) in [(0, "0"), (999, "999"), (1000, "1,000"), (u64::MAX, "18,446,744,073,709,551,615")] {
            assert_eq!(grouped(n), want);
        }
        for (n, want) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"), (u64::MAX, "16.0 EiB")]
        {
            assert_eq!(bytes(n), want);
        }
        for (now, before, want) in
            [(0.0, 0.0, "0 %"), (1.0, 0.0, "new"), (3.0, 2.0, "+50 %"), (1.0, 2.0, "-50 %"), (20.0, 2.0, "x 10")]
        {
            assert_eq!(change(now, before), want);
        }
        for (ms, want) in
            [(500, "500ms"), (90_000, "90s"), (3_600_000, "1h"), (88_200_000, "1d 30m"), (86_400_000, "1d")]
        {
            assert_eq!(length(ms), want);
        }
        for (x, want) in [(0.108, "0.108"), (101.0, "101"), (0.300_000_000_04, "0.3")] {
            assert_eq!(short(x), want);
        }
    }
}
