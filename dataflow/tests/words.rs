//! What the binary says of what is right and not meant, of addresses that are taken, and of alerts in words.

#![allow(clippy::unwrap_used)] // a failed unwrap is the message

#[path = "support/command.rs"]
mod command;

use command::tidewatch;
use std::net::TcpListener;
use std::path::Path;

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
}

#[test]
fn the_last_line_counts_warnings() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "access.log", "1.2.3.4 - - [05/Mar/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 200 5\n");
    let source = "[[source]]\nkind = \"file\"\npaths = [\"access.log\"]\n";
    let misspelt = "[[rule]]\nname = \"path-scn\"\nwindow = \"10s\"\nthreshold = 5\n";
    let impossible = "where = { status = 700, path = \"admin\" }\n";
    let rows = [
        (source.to_owned(), 0, "the configuration is right\n", "7 rules are right: 7 built in"),
        (
            format!("{source}{misspelt}"),
            1,
            "the configuration is right, with 1 warning\n",
            "8 rules are right, with 1 warning: 7 built in, 1 of your own",
        ),
        (
            format!("{source}{misspelt}{impossible}"),
            3,
            "the configuration is right, with 3 warnings\n",
            "8 rules are right, with 3 warnings: ",
        ),
    ];
    for (text, warnings, checked, linted) in rows {
        write(dir.path(), "c.toml", &text);
        for (arguments, want) in [("check -c c.toml", checked), ("rules lint -c c.toml", linted)] {
            let ran = tidewatch(dir.path(), arguments);
            assert_eq!(ran.code, Some(0), "{arguments}: {}", ran.err);
            assert!(ran.out.contains(want), "{arguments}: {want:?} is not in\n{}", ran.out);
            assert_eq!(ran.err.matches("warning: ").count(), warnings, "{arguments}: {}", ran.err);
        }
    }
}

#[test]
fn a_taken_address_is_a_refused_service_wherever_it_is_listened_on() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    for kind in ["tcp", "syslog"] {
        let text = format!("[[source]]\nkind = \"{kind}\"\nlisten = \"{address}\"\nformat = \"combined\"\n");
        write(dir.path(), &format!("{kind}.toml"), &text);
    }
    write(dir.path(), "page.toml", &format!("[page]\nlisten = \"{address}\"\n"));
    write(dir.path(), "hosts", &format!("{address}\n127.0.0.1:1\n"));
    write(dir.path(), "empty", "");
    write(
        dir.path(),
        "ship.toml",
        &format!(
            "data_dir = \"ship\"\n[metrics]\nlisten = \"{address}\"\n[[input]]\npaths = [\"empty\"]\n[output]\nkind = \"kafka\"\nbrokers = \"127.0.0.1:1\"\ntopic = \"t\"\n"
        ),
    );
    let another = format!("cannot listen on {address}: another program does; end it (`ss -tulpn` names it)");
    let rows: &[(&str, String)] = &[
        ("run -c tcp.toml --no-page", format!("error: source `tcp`: {another}")),
        ("run -c syslog.toml --no-page", format!("error: source `syslog`: {another}")),
        (
            "run -c page.toml --input empty",
            format!("error: [page] {address} is taken by another program\n hint: end it"),
        ),
        (
            &format!("run --input empty --port {port}"),
            format!("error: --port {port}: {address} is taken by another program\n hint: end it, give another --port"),
        ),
        (&format!("demo --port {port}"), format!("error: --port {port}: {address} is taken")),
        ("run --input empty --no-page -n 2 -h hosts", format!("error: process 0: {another}")),
        (&format!("generate --to tcp-listen://{address} --count 1"), format!("error: {another}")),
        ("ship -c ship.toml", format!("error: metrics: {another}")),
    ];
    for (arguments, want) in rows {
        let ran = tidewatch(dir.path(), arguments);
        assert_eq!(ran.code, Some(3), "{arguments}: {}", ran.err);
        assert!(ran.err.contains(want), "{arguments}: {want:?} is not in\n{}", ran.err);
    }
}

