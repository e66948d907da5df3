//! Lines as they may leave: evidence and dead letters, without secrets and without who the client is.
//!
//! Addresses are known wherever they stand; a client's host name is known by reading the line again as its source is read.
//! That is done for lines that leave only, and only where `[privacy]` masks clients.

use super::parsers::SourceParsers;
use std::borrow::Cow;
use std::sync::Arc;
use tidewatch_events::batch::{Batch, Framing, PartitionId, RawBatch, WallTime};
use tidewatch_events::privacy::Privacy;

/// What is done to lines. See the module.
#[derive(Clone)]
pub struct Redaction {
    privacy: Privacy,
    parsers: Arc<SourceParsers>,
}

impl Redaction {
    /// By these rules, of lines of these sources.
    pub fn new(privacy: Privacy, parsers: Arc<SourceParsers>) -> Redaction {
        Redaction { privacy, parsers }
    }

    /// The rules.
    pub fn privacy(&self) -> &Privacy {
        &self.privacy
    }

    /// A line that was read as an event, of a source by its index, as it may leave. Where it cannot be read again (its end was
    /// cut off), as one that was not.
    pub fn event<'a>(&self, source: impl FnOnce() -> Option<usize>, id: PartitionId, line: &'a [u8]) -> Cow<'a, [u8]> {
        if !self.privacy.masks_clients() {
            return self.privacy.redact_line(line);
        }
        let raw = RawBatch {
            partition: id,
            seq: 0,
            bytes: line.to_vec(),
            framing: Framing::Lines { offset: 0 },
            read_at: WallTime(0),
        };
        let mut batch = Batch::new(raw, Arc::from(&b""[..]));
        self.parsers.parser_again(source(), id, line).parse(&mut batch);
        match batch.events.first() {
            Some(event) => self.privacy.redact_line_of(line, event.client.name(&batch)),
            None => self.privacy.redact_unread(line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Overrides, diagnostic::SourceText};
    use tidewatch_events::privacy::ClientPrivacy;

    #[test]
    fn the_client_is_known_by_the_format_of_its_source() {
        let text = r#"
            [privacy]
            client = "truncate"
            [[source]]
            name = "shop"
            kind = "file"
            paths = ["shop.log"]
            format = "$status $remote_addr \"$request\" [$time_local]"
            [[source]]
            name = "auto"
            kind = "file"
            paths = ["other.log"]
        "#;
        let source = SourceText::new("c.toml", text);
        let config = config::parse(source, &Overrides::default(), &|_| None).unwrap();
        let redaction = Redaction::new(config.privacy.clone(), Arc::new(SourceParsers::new(&config).unwrap()));
        let shown = |source, line: &str| {
            let line = redaction.event(|| source, PartitionId(7), line.as_bytes()).into_owned();
            String::from_utf8(line).unwrap()
        };
        let own = "200 p5.dip0.example.de \"GET /a.b HTTP/1.1\" [10/Oct/2000:13:55:36 +0000]";
        let combined = "p5.dip0.example.de - - [10/Oct/2000:13:55:36 +0000] \"GET /p5.dip0.example.de?a=1.2.3.4 HTTP/1.1\" 200 1 \
            \"-\" \"x\"";
        let masked = combined.replace("p5.dip0.example.de", "*.example.de").replace("1.2.3.4", "1.2.3.0");
        assert_eq!(shown(Some(0), own), own.replace("p5.dip0", "*"));
        assert_eq!(shown(Some(1), combined), masked);
        assert_eq!(shown(None, combined), masked, "of a partition that nobody knows");
        assert_eq!(shown(Some(0), "p5.dip0.example.de - - [10/"), "*.example.de - - [10/", "cut");
        let error = "[Tue Mar 05 10:00:00.000000 2024] [core:error] [pid 1] [client p5.dip0.example.de:9] AH1: x";
        assert_eq!(shown(Some(1), error), error.replace("p5.dip0", "*"));
        assert_eq!(redaction.privacy().client, ClientPrivacy::Truncate);
    }
}
