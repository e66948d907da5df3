//! Commands that are planned and not in this version: who asks for one is told so. No help names them.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// They stand alone, and after `rules`.
const PLANNED: [&str; 4] = ["capture", "compare", "train", "evaluate"];
const PLANNED_OF_RULES: [&str; 1] = ["test"];

/// What to say instead of the parser's own words where a planned command was asked for.
pub fn answer(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let Some(ContextValue::String(asked)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let of_rules = error.get(ContextKind::Usage).is_some_and(|usage| usage.to_string().contains(" rules "));
    let (planned, command) = match of_rules {
        true => (PLANNED_OF_RULES.as_slice(), format!("rules {asked}")),
        false => (PLANNED.as_slice(), asked.clone()),
    };
    let version = env!("CARGO_PKG_VERSION");
    let answer = || format!("`{command}` is planned; this version ({version}) does not have it yet");
    planned.contains(&asked.as_str()).then(answer)
}

#[cfg(test)]
mod tests {
    use super::super::Arguments;
    use super::*;
    use clap::{CommandFactory as _, Parser as _};
    use std::path::{Path, PathBuf};

    #[test]
    fn who_asks_for_a_planned_command_is_told_so() {
        let rows: &[(&[&str], Option<&str>)] = &[
            (&["compare", "-c", "a.toml"], Some("`compare` is planned; this version")),
            (&["capture", "verify"], Some("`capture` is planned")),
            (&["train"], Some("`train` is planned")),
            (&["evaluate"], Some("`evaluate` is planned")),
            (&["rules", "test"], Some("`rules test` is planned")),
            (&["rules", "train"], None),
            (&["test"], None),
            (&["comparee"], None),
            (&["run", "--compare"], None),
        ];
        for (arguments, want) in rows {
            let all = std::iter::once(&"tidewatch").chain(*arguments);
            let error = Arguments::try_parse_from(all).unwrap_err();
            let said = answer(&error);
            assert_eq!(said.is_some(), want.is_some(), "{arguments:?}: {said:?}");
            assert!(said.unwrap_or_default().starts_with(want.unwrap_or_default()), "{arguments:?}");
        }
        let known = Arguments::command();
        assert!(!known.get_subcommands().any(|command| PLANNED.contains(&command.get_name())), "help names none");
    }

    /// Every `.md` file below a directory.
    fn documents(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                documents(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }

    /// The words after `tidewatch` where a document quotes a command, in backticks or at the beginning of a line of code.
    fn quoted(text: &str) -> Vec<&str> {
        let mut found = Vec::new();
        for (at, part) in text.split('`').enumerate() {
            // Between three backticks lies an odd part too.
            let commands = part.lines().map(|line| line.strip_prefix("$ ").unwrap_or(line)).filter(|_| at % 2 == 1);
            let words = commands.filter_map(|line| line.strip_prefix("tidewatch ")?.split_whitespace().next());
            // `tidewatch demo: …` is what it says.
            found.extend(words.filter(|word| !word.ends_with(':')));
        }
        found
    }

    #[test]
    fn documents_name_only_commands_there_are() {
        assert_eq!(quoted("`tidewatch a b` tidewatch c ```sh\n$ tidewatch d\n``` `x` `the tidewatch e`"), ["a", "d"]);
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut files = vec![root.join("README.md"), root.join("CHANGELOG.md")];
        documents(&root.join("docs"), &mut files);
        let command = Arguments::command();
        let is_known = |word: &str| command.get_subcommands().any(|known| known.get_name() == word);
        for file in files {
            for word in quoted(&std::fs::read_to_string(&file).unwrap()) {
                let is_command = word.starts_with(|c: char| c.is_ascii_lowercase());
                assert!(!is_command || is_known(word), "{}: there is no `tidewatch {word}`", file.display());
            }
        }
    }
}
