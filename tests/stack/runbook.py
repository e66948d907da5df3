#!/usr/bin/env python3
"""Everything that the runbook and its neighbours tell people to type or to watch exists: metrics of a running Tidewatch, the
binary's commands and flags, and Kafka's classes. Prints every finding; exit 1 if there is one.

    tests/stack/runbook.py BINARY METRICS...

METRICS are answers of /metrics, of processes that together have every kind of source and sink the texts speak of.
"""
import os
import pathlib
import re
import subprocess
import sys
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXTS = ["docs/OPERATING.md", "docs/DEPLOYMENT.md", "docs/KAFKA.md", "docs/SHIPPERS.md", "scripts/smoke"]
# Names of measurements, buckets, files and variables that look like metrics.
NOT_METRICS = {"tidewatch_inexact", "tidewatch_limited", "tidewatch_long"}

binary, metrics = sys.argv[1], "\n".join(pathlib.Path(path).read_text() for path in sys.argv[2:])
exist = set(re.findall(r"^(tidewatch_[a-z0-9_]+)", metrics, re.M))
helps = {}
jars = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "tidewatch"
classes = {entry for jar in jars.glob("kafka-jars-*/kafka*.jar") for entry in zipfile.ZipFile(jar).namelist()}


def help_of(words):
    """The help of a command, empty where there is none."""
    if words not in helps:
        said = subprocess.run([binary, *words, "--help"], capture_output=True, text=True, timeout=20)
        helps[words] = said.stdout if said.returncode == 0 else ""
    return helps[words]


findings = []
for name in TEXTS:
    text = (ROOT / name).read_text()
    for metric in sorted(set(re.findall(r"\btidewatch_[a-z_]+[a-z]\b", text)) - NOT_METRICS - exist):
        findings.append(f"{name}: there is no metric {metric}")
    for tool in sorted(set(re.findall(r"\b(?:org\.apache\.)?kafka\.(?:[a-z]+\.)+[A-Z]\w+", text))):
        if tool.replace(".", "/") + ".class" not in classes:
            findings.append(f"{name}: Kafka has no class {tool}")
    # `tidewatch COMMAND …` in code: up to the end of the code, of the line, or of the command.
    for line in re.findall(r"(?:^|[`\s/])tidewatch ([a-z][^`\n|;]*)", "\n".join(re.findall(r"`[^`\n]+`|^(?: {4}|[a-zA-Z$]).*tidewatch [a-z].*$", text, re.M)), re.M):
        words = line.split()
        command = (words[0],)
        if not re.fullmatch(r"[a-z]+", words[0]) or not help_of(()).count(f"\n  {words[0]} "):
            if words[0] in ("is", "and", "unless", "run", "takes"):
                continue
            findings.append(f"{name}: there is no command `tidewatch {words[0]}` ({line.strip()})")
            continue
        if len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]) and re.search(rf"^  {words[1]} ", help_of(command), re.M):
            command = (words[0], words[1])
        for flag in re.findall(r"(?:^|\s)(--?[a-z][a-z-]*)", line):
            if not re.search(rf"(?:^|[\s,]){re.escape(flag)}\b", help_of(command)) and flag != "-h":
                findings.append(f"{name}: `tidewatch {' '.join(command)}` has no {flag} ({line.strip()})")

print("\n".join(findings) or f"runbook: {len(exist)} metrics and {len(helps)} helps read, {len(classes)} classes known, everything named exists")
sys.exit(bool(findings))
