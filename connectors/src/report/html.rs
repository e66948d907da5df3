//! A report as one HTML document: no scripts, nothing fetched, everything from logs escaped.
//!
//! Invariants
//! - Text enters the document through [`escape`] only; a policy in the document forbids scripts and requests all the same.

use super::document::{Document, Section};
use super::figures::grouped;
use std::fmt::Write as _;

const HEAD: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
"#;

const STYLE: &str = "\
:root{color-scheme:light dark;--fg:#1b2733;--dim:#5a6b7b;--bg:#fff;--line:#d9e0e7;--bar:#2f7fb8}
@media(prefers-color-scheme:dark){:root{--fg:#e3eaf1;--dim:#9aabbb;--bg:#10181f;--line:#2b3844;--bar:#5aa9dd}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:62rem;margin:0 auto;padding:1rem}
h1{font-size:1.35rem;margin:.5rem 0}h2{font-size:1.05rem;margin:1.6rem 0 .4rem}
p{margin:.3rem 0}.dim{color:var(--dim)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{font-weight:600;color:var(--dim);white-space:nowrap}
td{overflow-wrap:anywhere;min-width:4rem}
.n{text-align:right;white-space:nowrap}
svg{width:100%;height:5rem;display:block}rect{fill:var(--bar)}
.s{border-radius:.3rem;padding:0 .4rem;color:#fff}
.critical{background:#8f1d4f}.high{background:#b3261e}.medium{background:#8a5a00}.low{background:#2f6690}.info{background:#566573}
";

/// Text as text in HTML, in an element or an attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

pub(super) fn render(document: &Document) -> String {
    let title = escape(&document.title);
    let mut out =
        format!("{HEAD}<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n");
    for line in &document.lead {
        let _ = writeln!(out, "<p class=\"dim\">{}</p>", escape(line));
    }
    push_chart(&mut out, &document.chart.0, &document.chart.1);
    document.sections.iter().for_each(|section| push_section(&mut out, section));
    let _ = write!(out, "<p class=\"dim\">{}</p>\n</main>\n</body>\n</html>\n", escape(&document.foot));
    out
}

/// Bars, ten units wide each and a hundred high.
fn push_chart(out: &mut String, title: &str, counts: &[u64]) {
    let Some(most) = counts.iter().copied().max().filter(|most| *most > 0) else { return };
    let label = escape(&format!("{title}, at most {}", grouped(most)));
    let _ = write!(
        out,
        "<h2>{label}</h2>\n<svg viewBox=\"0 0 {} 100\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{label}\">\n",
        counts.len() * 10
    );
    for (at, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let height = (u128::from(*count) * 100).div_ceil(u128::from(most));
        let _ = writeln!(out, "<rect x=\"{}\" y=\"{}\" width=\"9\" height=\"{height}\"/>", at * 10, 100 - height);
    }
    out.push_str("</svg>\n");
}

fn push_section(out: &mut String, section: &Section) {
    let _ = writeln!(out, "<h2>{}</h2>", escape(section.title));
    if section.rows.is_empty() {
        let _ = writeln!(out, "<p>{}</p>", escape(section.empty));
    } else {
        out.push_str("<div class=\"scroll\"><table>\n<thead><tr>");
        let class = |is_number: bool| if is_number { " class=\"n\"" } else { "" };
        for column in &section.columns {
            let _ = write!(out, "<th scope=\"col\"{}>{}</th>", class(column.is_number), escape(column.title));
        }
        out.push_str("</tr></thead>\n<tbody>\n");
        for row in &section.rows {
            out.push_str("<tr>");
            for (at, (cell, column)) in row.cells.iter().zip(&section.columns).enumerate() {
                let text = escape(cell);
                let text = match row.severity.filter(|_| at == 0) {
                    Some(severity) => format!("<span class=\"s {}\">{text}</span>", severity.as_str()),
                    None => text,
                };
                let _ = write!(out, "<td{}>{text}</td>", class(column.is_number));
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody></table></div>\n");
    }
    for note in &section.notes {
        let _ = writeln!(out, "<p class=\"dim\">{}</p>", escape(note));
    }
}
