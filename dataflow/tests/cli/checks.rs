//! What `check` says of a configuration that is right.

use crate::support::{folder, tidewatch};
use std::process::Command;

#[test]
fn check_says_what_run_would_miss() {
    let dir = folder();
    let ran = tidewatch(dir.path(), "check -c empty.toml");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("warning: there is no [[source]]"), "{}", ran.err);
    assert!(Command::new("mkfifo").arg(dir.path().join("pipe")).status().unwrap().success());
    std::fs::write(dir.path().join("pipe.toml"), "[[source]]\nkind = \"file\"\npaths = [\"pipe\"]\n").unwrap();
    let ran = tidewatch(dir.path(), "check -c pipe.toml");
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    assert!(ran.err.contains("pipe: it is a named pipe, not a file"), "{}", ran.err);
    let source = "[[source]]\nkind = \"tcp\"\nlisten = \"0.0.0.0:2101\"\nformat = \"combined\"\n";
    std::fs::write(dir.path().join("tcp.toml"), source).unwrap();
    let ran = tidewatch(dir.path(), "run -c tcp.toml -n 2 -p 0");
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    assert!(ran.err.contains("would listen on 0.0.0.0:2101, where the cluster listens: localhost:2101"), "{}", ran.err);
}

#[test]
fn check_opens_the_file_of_countries_as_run_does() {
    let dir = folder();
    std::fs::write(dir.path().join("no.mmdb"), "no database").unwrap();
    for (file, said) in
        [("gone.mmdb", "gone.mmdb cannot be read: No such file"), ("no.mmdb", "no.mmdb is no MaxMind DB")]
    {
        std::fs::write(dir.path().join("geo.toml"), format!("[page]\ngeoip = \"{file}\"\n")).unwrap();
        let ran = tidewatch(dir.path(), "check -c geo.toml");
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!(ran.err.contains("warning: [page] geoip: ") && ran.err.contains(said), "{}", ran.err);
        assert!(ran.err.contains("; the page shows no countries\n"), "{}", ran.err);
        let ran = tidewatch(dir.path(), "check -c geo.toml --elsewhere");
        assert!(!ran.err.contains("geoip"), "{}", ran.err);
    }
}

#[test]
fn a_directory_as_a_source_has_one_hint() {
    let dir = folder();
    std::fs::create_dir(dir.path().join("logs")).unwrap();
    std::fs::write(dir.path().join("dir.toml"), "[[source]]\nkind = \"file\"\npaths = [\"logs\"]\n").unwrap();
    let want = "error: source `file`: logs is a directory, not a file\n hint: name files in it, as logs/*\n";
    for command in ["check -c dir.toml", "run --no-page -c dir.toml"] {
        let ran = tidewatch(dir.path(), command);
        assert_eq!((ran.code, &*ran.err), (Some(2), want), "{command}");
    }
}

#[test]
fn a_file_that_two_sources_read_is_named() {
    let dir = folder();
    std::os::unix::fs::symlink("access.log", dir.path().join("link.log")).unwrap();
    std::fs::write(dir.path().join("other.log"), "").unwrap();
    let source = |name: &str, paths: &str| format!("[[source]]\nname = {name:?}\nkind = \"file\"\npaths = [{paths}]\n");
    let rows: &[(&str, String, &[&str])] = &[
        ("one source", source("a", "\"access.log\", \"*.log\""), &[]),
        ("two files", source("a", "\"access.log\"") + &source("b", "\"other.log\""), &[]),
        (
            "by name and by pattern",
            source("a", "\"access.log\"") + &source("b", "\"acc*.log\""),
            &[
                "warning: source `b`: access.log is read by source `a` too: its lines count twice\n hint: name it in one",
            ],
        ),
        (
            "by a link",
            source("a", "\"access.log\"") + &source("b", "\"link.log\""),
            &["source `b`: link.log is read by source `a` too (as access.log)"],
        ),
    ];
    for (name, text, want) in rows {
        std::fs::write(dir.path().join("two.toml"), text).unwrap();
        let ran = tidewatch(dir.path(), "check -c two.toml");
        assert_eq!(ran.code, Some(0), "{name}: {}", ran.err);
        assert_eq!(ran.err.matches("too").count(), want.len(), "{name}: {}", ran.err);
        assert!(want.iter().all(|words| ran.err.contains(words)), "{name}: {}", ran.err);
    }
}

#[test]
fn a_pasted_format_is_shown_once_and_shortened() {
    let dir = folder();
    let format = format!("%h %l %u %t \\\"%r\\\" %>s %b{}", " \\\"%{X-A-long-header}i\\\"".repeat(9));
    let text = format!("[[source]]\nkind = \"file\"\npaths = [\"access.log\"]\nformat = \"{format}\"\n");
    std::fs::write(dir.path().join("pasted.toml"), text).unwrap();
    let ran = tidewatch(dir.path(), "check -c pasted.toml");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.contains("source file: files, format %h %l %u %t \"%r\" %>s %b"), "{}", ran.out);
    assert!(ran.out.contains("  access.log: 0 of the first 1 lines can be read\n"), "{}", ran.out);
    assert_eq!(ran.out.matches("%h %l").count() + ran.err.matches("%h %l").count(), 2, "{} {}", ran.out, ran.err);
    assert!(!ran.out.contains(&format[..99]) && !ran.err.contains(&format[..99]), "{} {}", ran.out, ran.err);
}

#[test]
fn a_test_of_a_blocklist_lists_nobody_and_says_so() {
    let dir = folder();
    let text = "[[route]]\nkind = \"blocklist\"\npath = \"blocked.txt\"\n";
    std::fs::write(dir.path().join("block.toml"), text).unwrap();
    let ran = tidewatch(dir.path(), "check -c block.toml --send-test");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let want =
        "route blocklist: no test was sent, as a made-up address in the list would block somebody; blocked.txt was";
    assert!(ran.out.contains(want), "{}", ran.out);
    assert!(std::fs::read_to_string(dir.path().join("blocked.txt")).unwrap().contains(": 0 addresses"));
}

#[test]
fn check_shows_what_of_a_pattern_is_not_followed() {
    let dir = folder();
    let line = std::fs::read(dir.path().join("access.log")).unwrap();
    for name in ["access.log.1", "access.log.2.gz", "other.log.1"] {
        std::fs::write(dir.path().join(name), &line).unwrap();
    }
    std::fs::write(dir.path().join("all.toml"), "[[source]]\nkind = \"file\"\npaths = \"*.log*\"\n").unwrap();
    let ran = tidewatch(dir.path(), "check -c all.toml");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let want = [
        "  access.log: recognised as common, ",
        "  access.log.1: not followed: it is an older generation of a file that is followed\n",
        "  access.log.2.gz: not followed: it is compressed\n",
        // Nothing that is followed has it as a generation.
        "  other.log.1: recognised as common, ",
    ];
    assert!(want.iter().all(|words| ran.out.contains(words)), "{}", ran.out);
}

#[test]
fn check_says_what_lines_are_taken_for() {
    let dir = folder();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let line = "10.0.0.1 - - [05/Mar/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 200 5 \"-\" \"curl\" \"203.0.113.9\"\n";
    write("proxied.log", &line.repeat(10));
    let line = "{\"time\":\"2026-03-05T10:00:00Z\",\"level\":\"info\",\"ClientHost\":\"203.0.113.9\",\"DownstreamStatus\":200}\n";
    write("traefik.log", &line.repeat(100));
    write("none.log", "root:x:0:0:root:/root:/bin/bash\n");
    let rows = [
        ("proxied.log", "the clients are private addresses such as 10.0.0.1, and other addresses end the lines\n"),
        ("traefik.log", "the first 100 lines are no requests, and no messages that count, read as nginx-json\n"),
        ("none.log", "none.log: its format is not recognised\n"),
    ];
    for (file, want) in rows {
        write("one.toml", &format!("[[source]]\nkind = \"file\"\npaths = \"{file}\"\n"));
        let ran = tidewatch(dir.path(), "check -c one.toml");
        assert_eq!(ran.code, Some(0), "{file}: {}", ran.err);
        assert!(ran.err.contains(want) && !ran.err.contains("none ("), "{file}: {}", ran.err);
    }
    let ran = tidewatch(dir.path(), "replay --from traefik.log --out out");
    assert!(ran.err.contains("look like lines of an access log"), "{}", ran.err);
}

#[test]
fn a_configuration_that_is_not_taken_is_named() {
    let dir = folder();
    let rows = ["rules list", "replay --from access.log --out out", "report --since 1h"];
    let warning = "warning: there is a tidewatch.toml here, which is not used; -c tidewatch.toml uses it\n";
    for arguments in rows {
        let ran = tidewatch(dir.path(), arguments);
        assert!(!ran.err.contains(warning), "{arguments}: {}", ran.err);
    }
    std::fs::write(dir.path().join("tidewatch.toml"), "").unwrap();
    for arguments in rows {
        let ran = tidewatch(dir.path(), arguments);
        assert_eq!(ran.err.matches(warning).count(), 1, "{arguments}: {}", ran.err);
        let ran = tidewatch(dir.path(), &format!("{arguments} -c tidewatch.toml"));
        assert!(!ran.err.contains(warning), "{arguments}: {}", ran.err);
    }
}

#[test]
fn a_files_zone_is_noticed() {
    let dir = folder();
    let now = std::time::SystemTime::now();
    let seconds = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let local =
        jiff::Timestamp::from_second(seconds as i64 + 2 * 3600).unwrap().strftime("%Y/%m/%d %H:%M:%S").to_string();
    std::fs::write(dir.path().join("error.log"), format!("{local} [error] 7#7: *1 open() failed\n")).unwrap();
    std::fs::write(
        dir.path().join("zone.toml"),
        "[[source]]\nkind = \"file\"\npaths = \"error.log\"\nformat = \"nginx-error\"\n",
    )
    .unwrap();
    let ran = tidewatch(dir.path(), "check -c zone.toml");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("warning: source `file`: error.log: its times are off the time"), "{}", ran.err);
    assert!(ran.err.contains("hint: write time_zone = \"+02:00\""), "{}", ran.err);
}

#[test]
fn check_warns_of_fields_that_no_line_has() {
    let dir = folder();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("bare.log", "[05/Mar/2026:10:00:00 +0000] - 200\n");
    write("bare.toml", "[[source]]\nkind = \"file\"\npaths = \"bare.log\"\nformat = \"%t %h %s\"\n");
    let ran = tidewatch(dir.path(), "check -c bare.toml");
    assert!(ran.out.contains("\n    time 100 %, client 0 %, path 0 %, status 100 %, "), "{}", ran.out);
    let want = "warning: source `file`: bare.log: none of the first 1 lines has a client or a path, read as %t %h %s\n";
    assert!(ran.err.contains(want), "{}", ran.err);
    let line = r#"{"msec":1772704800,"remote_addr":"10.0.0.1","request":"GET / HTTP/1.1","status":200}"#;
    write("proxied.log", &format!("{line}\n{line}\n"));
    let proxies = "trusted_proxies = \"10.0.0.0/8\"\nclient_header = \"x_real_ip\"\n";
    write("proxied.toml", &format!("[[source]]\nkind = \"file\"\npaths = \"proxied.log\"\n{proxies}"));
    let ran = tidewatch(dir.path(), "check -c proxied.toml");
    assert!(ran.err.contains("every client in the first lines is one of `trusted_proxies`"), "{}", ran.err);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
}
