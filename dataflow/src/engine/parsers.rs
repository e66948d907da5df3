//! Parsers for partitions: the format and options of their source; `auto` is recognised once per partition.

use super::ingest::Parsers;
use crate::config::{Config, Source, SourceKind};
use crate::exit::Failure;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tidewatch_connectors::feed::PartitionInfo;
use tidewatch_connectors::log_limit::LogLimit;
use tidewatch_events::batch::PartitionId;
use tidewatch_events::formats::{self, Format, Parser, SourceOptions};
use tidewatch_events::hosts::HostList;

/// The format of a source.
struct SourceParser {
    /// `None`: recognised, partition by partition.
    format: Option<Format>,
    options: SourceOptions,
    hosts: Option<Arc<HostList>>,
    /// What is said of partitions: whoever connects makes one.
    recognitions: LogLimit,
    misses: LogLimit,
}

/// The formats of the configured sources.
pub struct SourceParsers {
    sources: Vec<SourceParser>,
    recognised: Mutex<HashMap<PartitionId, Format>>,
    /// What a partition is read as whose first lines look like nothing known.
    fallback: Format,
    /// Whether nothing is said of what was recognised.
    is_quiet: bool,
}

impl SourceParsers {
    /// Compiles the formats of all sources.
    ///
    /// # Errors
    /// 2, where a format is none; `tidewatch check` says where in the file.
    pub fn new(config: &Config) -> Result<SourceParsers, Failure> {
        let sources = config.sources.iter().map(compile).collect::<Result<_, _>>()?;
        let fallback = Format::compile("auto", &BTreeMap::new()).map_err(|e| Failure::usage(e.to_string()))?;
        Ok(SourceParsers { sources, recognised: Mutex::default(), fallback, is_quiet: false })
    }

    /// The same, saying nothing of what was recognised.
    pub fn quiet(self) -> SourceParsers {
        SourceParsers { is_quiet: true, ..self }
    }

    /// A parser for a line that was read before: by its source, by what its partition was recognised as, or as it looks.
    pub fn parser_again(&self, source: Option<usize>, id: PartitionId, line: &[u8]) -> Parser {
        let source = source.and_then(|source| self.sources.get(source.min(self.sources.len().saturating_sub(1))));
        let known = || self.recognised.lock().get(&id).cloned();
        let format = source.and_then(|source| source.format.clone()).or_else(known).or_else(|| formats::detect(line));
        let options = source.map_or_else(SourceOptions::default, |source| source.options.clone());
        Parser::new(format.unwrap_or_else(|| self.fallback.clone()), options)
    }
}

fn compile(source: &Source) -> Result<SourceParser, Failure> {
    let lines = &source.lines;
    let format = match lines.format.as_str() {
        // Many programs speak over one socket: each message is recognised by itself.
        "auto" if !matches!(source.kind, SourceKind::Syslog { .. }) => None,
        text => {
            let mapping: BTreeMap<String, String> = lines.fields.iter().cloned().collect();
            let format = Format::compile(text, &mapping)
                .map_err(|e| Failure::usage(format!("source {}: format: {e}", source.name)))?;
            Some(format)
        }
    };
    let options = SourceOptions {
        zone: lines.zone.clone(),
        trusted_proxies: lines.proxies.trusted.clone(),
        client_header: lines.proxies.header,
        live: matches!(source.kind, SourceKind::Tcp { .. } | SourceKind::Syslog { .. } | SourceKind::Stdin),
        ..SourceOptions::default()
    };
    let hosts = lines.own_hosts().map(Arc::new);
    Ok(SourceParser { format, options, hosts, recognitions: LogLimit::new(), misses: LogLimit::new() })
}

impl Parsers for SourceParsers {
    fn parser(&self, info: &PartitionInfo, head: Option<&[u8]>) -> Option<Parser> {
        let source = &self.sources[info.source.min(self.sources.len() - 1)];
        let options = SourceOptions { reference_time: info.reference_time, ..source.options.clone() };
        if let Some(format) = &source.format {
            return Some(Parser::new(format.clone(), options));
        }
        let mut recognised = self.recognised.lock();
        let format = match (recognised.get(&info.id), head) {
            (Some(format), _) => format.clone(),
            (None, Some(head)) => {
                let format = match formats::detect(head) {
                    found if self.is_quiet => found.unwrap_or_else(|| self.fallback.clone()),
                    Some(format) => {
                        if let Some(held_back) = source.recognitions.may_say() {
                            let format = format.recognised_as();
                            tracing::info!(partition = %info.name, format, held_back, "format recognised");
                        }
                        format
                    }
                    None => {
                        if let Some(held_back) = source.misses.may_say() {
                            tracing::warn!(
                                partition = %info.name, held_back,
                                "no format recognised in the first lines; each line is recognised by itself, what fits no format \
                                 is rejected; better set `format` for this source"
                            );
                        }
                        self.fallback.clone()
                    }
                };
                recognised.insert(info.id, format.clone());
                format
            }
            (None, None) => return None,
        };
        Some(Parser::new(format, options))
    }

    fn own_hosts(&self) -> Vec<Option<Arc<HostList>>> {
        self.sources.iter().map(|source| source.hosts.clone()).collect()
    }

    fn retain(&self, is_open: &dyn Fn(PartitionId) -> bool) {
        self.recognised.lock().retain(|id, _| is_open(*id));
    }
}
