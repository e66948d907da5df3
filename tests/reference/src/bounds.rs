//! Which findings count and which begin alerts (docs/RULES.md, "When there are too many").

use crate::rules::Finding;
use crate::settings::Settings;
use std::collections::BTreeMap;
use tidewatch_events::rule::Rule;

/// What did not count of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limited {
    /// Findings beyond the strongest of their windows.
    pub findings: u64,
    /// Windows that had such.
    pub windows: u64,
    /// Findings that began no alert.
    pub unopened: u64,
}

/// Of a rule's findings those that count, in the order they came.
pub(crate) fn strongest(all: &[Finding], most: usize, limited: &mut Limited) -> Vec<Finding> {
    let mut windows: BTreeMap<u64, Vec<&Finding>> = BTreeMap::new();
    for finding in all {
        windows.entry(finding.start).or_default().push(finding);
    }
    let mut weak: Vec<&Finding> = Vec::new();
    for mut own in windows.into_values() {
        own.sort_by(|a, b| b.score().total_cmp(&a.score()).then_with(|| a.key.cmp(&b.key)));
        if own.len() > most {
            limited.windows += 1;
            limited.findings += (own.len() - most) as u64;
            weak.extend(&own[most..]);
        }
    }
    all.iter().filter(|finding| !weak.iter().any(|weak| std::ptr::eq(*weak, *finding))).cloned().collect()
}

/// A rule's episodes: findings of one key whose gaps are at most `resolve_after`. A finding that goes on with none begins one
/// where fewer than `max_open` may still be gone on with by a window that ends with its own.
pub(crate) fn episodes<'a>(
    rule: &Rule,
    findings: &'a [Finding],
    settings: &Settings,
    limited: &mut Limited,
) -> Vec<Vec<&'a Finding>> {
    let mut in_order: Vec<&Finding> = findings.iter().collect();
    in_order.sort_by(|a, b| {
        a.end.cmp(&b.end).then_with(|| b.score().total_cmp(&a.score())).then_with(|| a.key.cmp(&b.key))
    });
    let may_go_on = |episode: &Vec<&Finding>, start: u64| {
        episode.last().is_some_and(|last| start <= last.end + rule.resolve_after.0)
    };
    let mut episodes: Vec<Vec<&Finding>> = Vec::new();
    for finding in in_order {
        let own = |episode: &&mut Vec<&Finding>| episode[0].key == finding.key && may_go_on(episode, finding.start);
        if let Some(episode) = episodes.iter_mut().find(own) {
            episode.push(finding);
        } else if episodes.iter().filter(|episode| may_go_on(episode, finding.start)).count() < settings.max_open {
            episodes.push(vec![finding]);
        } else {
            limited.unopened += 1;
        }
    }
    // As the findings come: by key, then start.
    episodes.sort_by(|a, b| (&a[0].key, a[0].start).cmp(&(&b[0].key, b[0].start)));
    episodes
}
