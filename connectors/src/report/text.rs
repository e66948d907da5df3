//! A report as plain text: columns of fixed width, for a terminal or a mail.
//!
//! Invariants
//! - Nothing but printable characters, spaces and line ends.

use super::document::{Document, Section};
use std::fmt::Write as _;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// The widest a column gets; longer cells lose their middle.
const WIDEST: usize = 60;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

pub(super) fn render(document: &Document) -> String {
    let mut out = format!("{}\n{}\n", document.title, "=".repeat(document.title.width()));
    document.lead.iter().for_each(|line| push_line(&mut out, line));
    let (title, counts) = &document.chart;
    if let Some(most) = counts.iter().max().filter(|most| **most > 0) {
        let _ = write!(out, "\n{title}, at most {}\n{}\n", super::figures::grouped(*most), bars(counts, *most));
    }
    document.sections.iter().for_each(|section| push_section(&mut out, section));
    let _ = write!(out, "\n{}\n", document.foot);
    out
}

fn push_line(out: &mut String, line: &str) {
    out.push_str(line.trim_end());
    out.push('\n');
}

/// A bar for each count; none for none.
fn bars(counts: &[u64], most: u64) -> String {
    let line: String = counts
        .iter()
        .map(|count| match count {
            0 => ' ',
            count => BARS[(u128::from(*count) * 8).div_ceil(u128::from(most)).clamp(1, 8) as usize - 1],
        })
        .collect();
    line.trim_end().to_owned()
}

fn push_section(out: &mut String, section: &Section) {
    let _ = write!(out, "\n{}\n{}\n", section.title, "-".repeat(section.title.width()));
    if section.rows.is_empty() {
        push_line(out, section.empty);
    } else {
        let head: Vec<String> = section.columns.iter().map(|column| column.title.to_owned()).collect();
        let rows = section.rows.iter().map(|row| row.cells.iter().map(|cell| cut(cell, WIDEST)).collect());
        let lines: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
        let width =
            |at: usize| lines.iter().filter_map(|line| line.get(at)).map(|cell| cell.width()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..section.columns.len()).map(width).collect();
        for line in &lines {
            let mut text = String::new();
            for ((cell, width), column) in line.iter().zip(&widths).zip(&section.columns) {
                let room = " ".repeat(width - cell.width());
                if !text.is_empty() {
                    text.push_str("  ");
                }
                let (before, after) = if column.is_number { (room.as_str(), "") } else { ("", room.as_str()) };
                let _ = write!(text, "{before}{cell}{after}");
            }
            push_line(out, &text);
        }
    }
    section.notes.iter().for_each(|note| push_line(out, note));
}

/// At most `widest` columns; a longer cell keeps its beginning and its end.
fn cut(cell: &str, widest: usize) -> String {
    if cell.width() <= widest {
        return cell.to_owned();
    }
    let (head, tail) = (widest * 2 / 3, widest - widest * 2 / 3 - 1);
    let take = |chars: &mut dyn Iterator<Item = char>, room: usize| -> Vec<char> {
        let mut used = 0;
        chars
            .take_while(|c| {
                used += c.width().unwrap_or(0);
                used <= room
            })
            .collect()
    };
    let mut out: String = take(&mut cell.chars(), head).into_iter().collect();
    out.push('…');
    out.extend(take(&mut cell.chars().rev(), tail).into_iter().rev());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_cut_by_what_they_take_on_the_screen() {
        let rows = [
            ("short", "short"),
            ("exactly-ten", "exactl…ten"),
            ("文文文文文", "文文文文文"),
            ("文文文文文文", "文文文…文"),
        ];
        for (cell, want) in rows {
            let got = cut(cell, 10);
            assert_eq!(got, want);
            assert!(got.width() <= 10, "{got}");
        }
    }

    #[test]
    fn bars_grow_with_counts() {
        assert_eq!(bars(&[0, 1, 4, 8, 0], 8), " ▁▄█");
        assert_eq!(bars(&[u64::MAX, 1], u64::MAX), "█▁");
    }
}
