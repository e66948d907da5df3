"""A data set for the boards, made by the real binary: twenty minutes of traffic with attacks and error logs read from
files, then some seconds live, into fresh buckets that `tidewatch setup influx` makes. What a run over files cannot have
(Kafka's lag, results beyond their bounds, withdrawn findings, an odd host) is added by hand.
"""
import datetime
import json
import os
import pathlib
import signal
import subprocess
import time

PAST = 20 * 60
LIVE = 24
ODD_HOST = "a.b/c(d)|e"
WITHDRAWN = "withdrawn-finding"
# Whose window is long: its point's time is half an hour ago, though it was found just now.
LONG_WINDOW = "service=checkout"
# A topic of which no line can be parsed any more, for longer than any alert rule looks back.
BROKEN = "broken-format"
# One of which none can be parsed since a restart some minutes ago; before it, all could.
RESTARTED = "broken-by-restart"

CONFIG = """
data_dir = "{room}/data"

[[source]]
name = "access"
kind = "file"
paths = ["{room}/access.log", "{room}/live.log"]
format = "nginx-json"

[[source]]
name = "errors"
kind = "file"
paths = ["{room}/error.log"]
format = "nginx-error"
host = "web1"

[[allow]]
networks = ["203.0.113.1/32"]
reason = "our own load test"

{rules}
[sink.influx]
url = "{url}"
org = "{org}"
bucket = "{bucket}"
token = "file:{room}/token"
"""

# A rule of each severity that no built-in rule has here, and one in shadow mode that finds what the critical one does.
RULE = """
[[rule]]
name = "{name}"
where = {{ status = {status} }}
group_by = ["host"]
measure = "count"
window = "1m"
hop = "1m"
threshold = 1
severity = "{severity}"
mode = "{mode}"
"""
SHADOW = "demo-shadow"
RULES = {"critical": 404, "medium": 301, "low": 304, "info": 200}


class Demo:
    def __init__(self, binary, server, room):
        self.binary, self.server, self.room = binary, server, pathlib.Path(room)
        self.bucket = f"grafana-{time.time_ns()}"
        self.long = f"{self.bucket}_long"
        self.config = self.room / "tidewatch.toml"
        rules = "".join(RULE.format(name=f"demo-{severity}", severity=severity, status=status, mode="live") for severity, status in RULES.items())
        rules += RULE.format(name=SHADOW, severity="critical", status=RULES["critical"], mode="shadow")
        self.config.write_text(CONFIG.format(rules=rules, room=room, url=server.url, org=server.org, bucket=self.bucket))
        self.read_token = ""
        for name in ("access.log", "live.log", "error.log"):
            (self.room / name).touch()

    def tidewatch(self, *arguments, limit=120):
        environment = os.environ | {"INFLUX_OPERATOR_TOKEN": self.server.token}
        done = subprocess.run([self.binary, *arguments], capture_output=True, text=True, timeout=limit, env=environment)
        if done.returncode:
            raise SystemExit(f"tidewatch {' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def set_up(self):
        arguments = ["setup", "influx", "-c", self.config, "--token-file", self.room / "token", "--read-token-file", self.room / "read"]
        self.tidewatch(*arguments)
        self.again = self.tidewatch(*arguments).splitlines()
        self.read_token = (self.room / "read").read_text().strip()

    def generate(self, name, *arguments):
        self.tidewatch("generate", "--to", f"file:{self.room / name}", *arguments)

    def fill(self):
        """Writes the logs, runs the pipeline over them and a while on, and stops it."""
        start = datetime.datetime.fromtimestamp(time.time() - PAST - 5, datetime.timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
        past = ["--start", start, "--duration", f"{PAST}s", "--no-pace", "--seed", "7"]
        self.generate(
            "access.log", "--format", "nginx-json", "--rate", "40", *past, "--labels", self.room / "labels.jsonl",
            # The first attack's client is the one that is allowed.
            "--attack", "ip-spike:1m:20s", "--attack", "ip-spike:6m:20s", "--attack", "path-scan:8m:1m",
            "--attack", "error-surge:13m:1m:host=web2", "--attack", "ip-spike:16m:15s", "--attack", "port-scan:17m:30s",
        )
        self.generate(
            "error.log", "--format", "nginx-error", *past, "--class", "disk-full:crit:3m..6m:no space left on device",
            "--class", "upstream:error:2s..8s:upstream timed out while reading", "--class", "slow:warn:4s..20s:a slow answer",
        )
        with open(self.room / "access.log", "a", encoding="utf-8") as log:
            log.write("this is no line of this format\n" * 20)
        process = subprocess.Popen([self.binary, "run", "-c", self.config, "--no-page"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            self.generate("live.log", "--append", "--rate", "40", "--duration", f"{LIVE}s", "--seed", "8", "--attack", "ip-spike:2s:6s", "--attack", "ip-spike:6s:12s", "--attack", "path-scan:4s:15s")
            with open(self.room / "access.log", encoding="utf-8") as log, open(self.room / "live.log", "a", encoding="utf-8") as live:
                live.writelines(line for line, _ in zip(log, range(30)))  # far too late by now
            deadline = time.time() + 40
            while time.time() < deadline and len(self.health()) < 3:
                time.sleep(1)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                said, _ = process.communicate(timeout=40)
            except subprocess.TimeoutExpired:
                process.kill()
                raise SystemExit("tidewatch run did not end within 40 s of SIGTERM") from None
        if process.returncode:
            raise SystemExit(f"tidewatch run: exit code {process.returncode}\n{said}")

    def health(self):
        """Times at which health was reported."""
        series = self.server.influxql(self.bucket, "SELECT \"events\" FROM \"tidewatch\" WHERE \"topic\" = 'access'")
        return {row[0] for _, _, rows in series for row in rows}

    def add_by_hand(self):
        now = int(time.time() * 1000)
        ten = now // 10_000 * 10_000
        odd = ODD_HOST.replace(",", "\\,")
        lines = []
        for back in range(18):
            at = ten - back * 10_000
            lines.append(f"tidewatch,partition=0,topic=web-logs,worker=1 events={90_000 - back * 500}i,lag_messages=250000i,lag_ms=6000i,late=3i,rejected=0i,watermark={at - 6000}i {at}")
            lines.append(
                f"http_stats,host={odd} bytes=1000i,clients=1i,error_ratio=0,requests=10i,rps=1,status_2xx=10i,status_3xx=0i,status_4xx=0i,status_5xx=0i,throughput=100 {at}"
            )
        for back in range(90):
            at = ten - back * 10_000
            lines.append(f"tidewatch,partition=0,topic={BROKEN},worker=0 events=5000i,lag_ms=6000i,late=0i,rejected={90_000 - back * 500}i,watermark={at - 6000}i {at}")
            since = 36 - back  # points since the restart
            counted = f"events=0i,late=0i,rejected={since * 500}i" if since >= 0 else f"events={90_000_000 - back * 500}i,late=0i,rejected=0i"
            lines.append(f"tidewatch,partition=0,topic={RESTARTED},worker=0 {counted},lag_ms=6000i,watermark={at - 6000}i {at}")
        lines.append(
            f'anomaly,host=*,rule=slow-own,slot=0 id="0123456789abcdef",message="m",score=0.9,severity="critical",state="firing",subject="{LONG_WINDOW}",threshold=1,value=2,window_ms=1800000i {ten - 1_810_000}'
        )
        lines.append(f"tidewatch_inexact,result=top_clients missed_events=12i,missed_values=7i {now}")
        lines.append(f"tidewatch_limited,rule=path-scan findings=812i,unopened=5i,windows=3i {now}")
        lines.append(f"tidewatch_process,process=1 busy_avg=0.4,busy_max=0.7,memory_bytes=200000000i {now}")  # the run has no page, so it looks at no worker
        lines.append(
            f'anomaly,host=*,rule=ip-spike,slot=99 id="{WITHDRAWN}",message="{WITHDRAWN}",score=0,severity="critical",state="retracted",subject="client_ip=192.0.2.99",threshold=1,value=2,window_ms=10000i {ten}'
        )
        self.server.write(self.bucket, lines)

    def labels(self):
        with open(self.room / "labels.jsonl", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def task(self, name):
        found = self.server.get("/api/v2/tasks", name=f"tidewatch {name} of {self.bucket}")["tasks"]
        if len(found) != 1:
            raise SystemExit(f"there are {len(found)} tasks for {name}")
        return found[0]
