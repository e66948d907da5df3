//! Whether a user agent is a robot, by what it says of itself.

/// Whether a user agent names itself a robot, or leaves an address as crawlers do.
pub(super) fn is_bot(agent: &[u8]) -> bool {
    (0..agent.len()).any(|at| {
        let rest = &agent[at..];
        let begins = |word: &[u8]| rest.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
        match rest[0] | 0x20 {
            b'b' => begins(b"bot"),
            b'c' => begins(b"crawl"),
            b's' => begins(b"spider") || begins(b"slurp"),
            b'h' => begins(b"http://") || begins(b"https://"),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn robots_are_told_by_their_words_in_either_case() {
        let rows: &[(&str, bool)] = &[
            ("", false),
            ("bo", false),
            ("bot", true),
            ("Mozilla/5.0 (compatible; GoogleBOT/2.1)", true),
            ("a CRAWLer", true),
            ("Spider", true),
            ("Yahoo! Slurp", true),
            ("see HTTP://a.example", true),
            ("(+https://a.example)", true),
            ("http:/ b ot", false),
            ("Mozilla/5.0 (X11; Linux x86_64)", false),
        ];
        for (agent, want) in rows {
            assert_eq!(is_bot(agent.as_bytes()), *want, "{agent:?}");
        }
    }
}
