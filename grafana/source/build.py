#!/usr/bin/env python3
"""Writes the boards and provisioning files that Grafana reads, from the descriptions beside this file.

    grafana/source/build.py                            write grafana/dashboards and grafana/provisioning
    grafana/source/build.py --check                    say which files differ from that; exit 1 if one does
    grafana/source/build.py --page https://… --to DIR  the same files with links to your Tidewatch page, elsewhere

Needs Python 3.9 or later and nothing else.
"""
import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.dont_write_bytecode = True
import alerts
import findings
import plain
import system
import traffic

ROOT = pathlib.Path(__file__).resolve().parent.parent
BOARDS = {board.uid: board for board in [traffic.HTTP, findings.ERRORS, findings.ANOMALIES, traffic.TOP, system.PIPELINE, system.TRENDS]}
RULES = alerts.rules(BOARDS)
PROVISIONED = {
    "datasources/tidewatch.yaml": (alerts.sources(), "Data sources: InfluxQL and Flux, for both buckets."),
    "dashboards/tidewatch.yaml": (alerts.PROVIDER, "Where the boards are."),
    "alerting/rules.yaml": (alerts.rule_file(RULES), "Alert rules."),
    "alerting/contact-points.yaml": (alerts.CONTACT_POINTS, "Who is told."),
    "alerting/policies.yaml": (
        alerts.ROUTES,
        "Which alert goes to whom. Grafana replaces its WHOLE tree of policies by this one: leave the file out where\n# you have policies, and add the route below `routes` to yours.",
    ),
}
DEFAULT_PAGE = "http://127.0.0.1:8080"


def files(page=DEFAULT_PAGE):
    """Every file by its path below grafana/."""
    out = {}
    for uid, board in BOARDS.items():
        out[f"dashboards/{uid}.json"] = json.dumps(board.json(page), indent=2, ensure_ascii=False) + "\n"
    for path, (content, words) in PROVISIONED.items():
        out[f"provisioning/{path}"] = f"# {words}\n# Made by grafana/source/build.py: change it there. Variables are those of docs/GRAFANA.md.\n" + plain.yaml(content)
    return out


def main():
    parser = argparse.ArgumentParser(description="Writes the boards and provisioning files that Grafana reads.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs")
    parser.add_argument("--page", default=DEFAULT_PAGE, metavar="URL", help="where Tidewatch's own page answers (%(default)s)")
    parser.add_argument("--to", type=pathlib.Path, default=ROOT, metavar="DIR", help="where to write (%(default)s)")
    given = parser.parse_args()
    made = files(given.page.rstrip("/"))
    if given.check:
        there = {str(path.relative_to(given.to)) for kind in ("dashboards", "provisioning") for path in (given.to / kind).rglob("*") if path.is_file()}
        wrong = [f"{path}: nothing here makes it" for path in sorted(there - set(made))]
        for path, text in made.items():
            if path not in there:
                wrong.append(f"{path}: is missing")
            elif (given.to / path).read_text(encoding="utf-8") != text:
                wrong.append(f"{path}: differs; run grafana/source/build.py")
        print("\n".join(wrong) or f"{len(made)} files are as made")
        return bool(wrong)
    for path, text in made.items():
        (given.to / path).parent.mkdir(parents=True, exist_ok=True)
        (given.to / path).write_text(text, encoding="utf-8")
    print(f"wrote {len(made)} files to {given.to}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
