#!/usr/bin/env python3
"""Runs every query of the boards, their variables and annotations, and of the alert rules, on a real InfluxDB, as Grafana would
send it, and compares series and columns with what the panels expect. Also the tasks of the long-term bucket.

    TIDEWATCH_TEST_INFLUX, _ORG, _TOKEN   a server and its operator's token (scripts/influx-up env prints them)
    TIDEWATCH_BIN                         the binary

No Grafana is started: its substitution of variables and macros is done here (macros.py). Takes about a minute.
"""
import json
import os
import pathlib
import re
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT / "source")]

sys.dont_write_bytecode = True
import build
import macros
from demo import BROKEN, LONG_WINDOW, ODD_HOST, RESTARTED, SHADOW, WITHDRAWN, Demo
from influxdb import Refused, Server

failed = passed = 0


def say(name, faults):
    global failed, passed
    failed, passed = failed + bool(faults), passed + (not faults)
    print(f"{'FAILED' if faults else 'ok'}  {name}", flush=True)
    for fault in faults[:10]:
        print(f"        {fault}")


class Grafana:
    """What Grafana does between a board and the server."""

    def __init__(self, demo, reader, now):
        self.demo, self.reader, self.now = demo, reader, now
        self.everything = {}

    def bucket(self, source):
        return self.demo.long if "long" in source else self.demo.bucket

    def ask(self, target, chosen, start, stop, step, points=None):
        """Series of InfluxQL or tables of Flux, and the text that was sent."""
        source = target["datasource"]["uid"]
        text = macros.with_variables(target["query"], chosen, self.everything)
        bucket = self.bucket(source)
        if source.endswith("flux"):
            text = macros.flux(text, start, stop, step, bucket, self.reader.org)
            return self.reader.flux(text), text
        text = macros.influxql(text, start, stop, step)
        return self.reader.influxql(bucket, text), text


def span(board):
    return macros.seconds(re.fullmatch(r"now-(\w+)", board["time"]["from"]).group(1))


def step_of(panel, length):
    return macros.interval(length, panel["gridPos"]["w"] * 60, macros.seconds(panel["interval"]))


def shape_faults(query, answer):
    """What an answer lacks, or has too much, against what the panel expects."""
    if query.is_flux:
        if not any(rows for _, _, rows in answer):
            return ["no rows"]
        out = []
        for grouped, columns, rows in answer:
            # As Grafana reads it: what is grouped by becomes labels, `_start` and `_stop` among them are left out.
            labels = sorted(set(grouped) - {"_start", "_stop"})
            fields = sorted(set(columns) - set(grouped))
            if labels != sorted(query.tags) or fields != sorted(query.columns):
                out.append(f"columns {fields}, labels {labels} where {sorted(query.columns)}, {sorted(query.tags)} are expected")
        for column in query.columns:
            if not any(row.get(column) not in (None, "") for _, _, rows in answer for row in rows):
                out.append(f"nothing in column {column}")
        return out
    if not answer:
        return ["no series"]
    out = []
    for tags, columns, rows in answer:
        if columns != ["time", *query.columns]:
            out.append(f"columns {columns} where {['time', *query.columns]} are expected")
        if set(tags) != set(query.tags):
            out.append(f"tags {sorted(tags)} where {sorted(query.tags)} are expected")
    for number, column in enumerate(query.columns, 1):
        if not any(row[number] is not None for _, _, rows in answer for row in rows):
            out.append(f"nothing in column {column}")
    return out


def run(name, ask, query):
    try:
        answer, text = ask()
    except Refused as error:
        say(name, [f"InfluxDB refuses it: {error}"])
        return None
    say(name, [*shape_faults(query, answer), *([f"asked: {text}"] if shape_faults(query, answer) else [])])
    return answer


def check_variables(grafana, document):
    values = {}
    for variable in document["templating"]["list"]:
        if variable["type"] == "constant":
            grafana.everything[variable["name"]] = variable["query"]
            continue
        grafana.everything[variable["name"]] = variable["allValue"]
        if variable["type"] == "custom":
            values[variable["name"]] = variable["query"].split(",")
            continue
        try:
            series, _ = grafana.ask({"datasource": variable["datasource"], "query": variable["query"]}, {}, 0, grafana.now, 10)
            values[variable["name"]] = [row[1] for _, _, rows in series for row in rows]
            faults = [] if len(values[variable["name"]]) >= 1 else ["no values"]
        except Refused as error:
            faults = [str(error)]
        say(f"{document['uid']}: variable {variable['name']}", faults)
    return values


def check_board(grafana, uid, answers):
    """Every query with everything chosen, one value, two values; what they must return with everything chosen."""
    document = json.loads((ROOT / f"dashboards/{uid}.json").read_text(encoding="utf-8"))
    board = build.BOARDS[uid]
    values = check_variables(grafana, document)
    stop = grafana.now
    panels = {panel["id"]: panel for panel in document["panels"]}
    every = {name: None for name in values}
    picks = [{name: found[:1] for name, found in values.items()}, {name: found[:2] for name, found in values.items()}]
    for number, panel in board.panels():
        shown = panels[number]
        length = macros.seconds(shown["timeFrom"]) if "timeFrom" in shown else span(document)
        start = stop - length
        for query, target in zip(panel.queries, shown["targets"]):
            name = f"{uid}: {panel.title} {target['refId']}"
            answer = run(name, lambda: grafana.ask(target, every, start, stop, step_of(shown, length)), query)
            answers[(uid, panel.title, target["refId"])] = answer
            for picked in picks:
                try:
                    answer, _ = grafana.ask(target, picked, start, stop, step_of(shown, length))
                    others = hosts_of(query, answer) - {*picked.get("host", hosts_of(query, answer)), "*"}
                    faults = [f"hosts that were not chosen: {sorted(others)}"] if others else []
                except Refused as error:
                    faults = [f"{picked}: {error}"]
                if faults:
                    say(f"{name} with {picked}", faults)
    for number, (mark, query) in enumerate(zip(document["annotations"]["list"], [query for _, query in board.marks])):
        target = {"datasource": mark["datasource"], **mark["target"]}
        answers[(uid, "annotation", str(number))] = run(f"{uid}: annotation {mark['name']}", lambda: grafana.ask(target, every, stop - span(document), stop, 10), query)


def hosts_of(query, answer):
    if query.is_flux:
        return {row["host"] for _, _, rows in answer for row in rows if "host" in row}
    return {tags["host"] for tags, _, _ in answer if "host" in tags}


def check_odd_host(grafana):
    """A host whose name is full of regular expression characters is chosen, and no other."""
    document = json.loads((ROOT / "dashboards/tidewatch-http.json").read_text(encoding="utf-8"))
    table = next(panel for panel in document["panels"] if panel["title"] == "Hosts")
    for picked in ([ODD_HOST], [ODD_HOST, "web1"]):
        answer, text = grafana.ask(table["targets"][0], {"host": picked}, grafana.now - 3600, grafana.now, 10)
        got = sorted(tags["host"] for tags, _, _ in answer)
        say(f"only the chosen hosts {picked}", [] if got == sorted(picked) else [f"{got}: {text}"])


# Whether each rule fires on this data set; a text: for this one among others, a list: for these only.
VERDICTS = {
    "ip_spike": True, "error_surge": False, "path_scan": True, "other_finding": LONG_WINDOW, "high_latency": False,
    "consumer_lag": True, "watermark_delay": False, "dead_letters": [RESTARTED, BROKEN], "no_data": False,
}
REDUCE = {"last": lambda values: values[-1], "max": max}
COMPARE = {"gt": lambda value, limit: value > limit, "lt": lambda value, limit: value < limit}


def check_rules(grafana):
    """Queries A as they are sent, then reduce and threshold as Grafana does them."""
    by_uid = {rule["uid"]: query for rule, query in build.RULES}
    for rule, _ in build.RULES:
        asked, reduce, compare = rule["data"]
        query = by_uid[rule["uid"]]
        # The surge ended minutes ago: ask as of then to see that the query finds it.
        wide = rule["title"] == "error_surge"
        within, stop = asked["relativeTimeRange"]["from"], grafana.now - (360 if wide else 0)
        answer = run(f"rule {rule['title']}", lambda: grafana.ask(asked["model"], {}, stop - within, stop, 10), query)
        if not answer:
            continue
        if SHADOW in json.dumps(answer):
            say(f"rule {rule['title']} tells of no rule in shadow mode", [f"{answer}"])
        fires = []
        if query.is_flux:
            series = [((grouped and rows[0]["subject"]), [row["_value"] for row in rows]) for grouped, _, rows in answer]
        else:
            series = [(",".join(tags.values()), [row[1] for row in rows if row[1] is not None]) for tags, _, rows in answer]
        evaluator = compare["model"]["conditions"][0]["evaluator"]
        for label, values in series:
            if values and COMPARE[evaluator["type"]](REDUCE[reduce["model"]["reducer"]](values), evaluator["params"][0]):
                fires.append(label)
        want = VERDICTS[rule["title"]] or wide
        right = want in fires if isinstance(want, str) else sorted(fires) == sorted(want) if isinstance(want, list) else bool(fires) == want
        say(f"rule {rule['title']} {'fires' if want else 'is silent'}", [] if right else [f"it fires for {fires}; {series}"])
        if not wide:
            continue
        # A quarter of an hour later it is silent again.
        later, _ = grafana.ask(asked["model"], {}, grafana.now + 900 - within, grafana.now + 900, 10)
        say(f"rule {rule['title']} is silent later", [] if not any(rows for _, _, rows in later) else [f"{later}"])


def findings_where(grafana, demo, which):
    series = grafana.reader.influxql(demo.bucket, f'SELECT count("score") FROM "anomaly" WHERE {which}')
    return sum(row[1] for _, _, rows in series for row in rows)


def check_facts(demo, grafana, answers):
    """Figures that must agree with each other and with what was injected."""
    document = json.loads((ROOT / "dashboards/tidewatch-http.json").read_text(encoding="utf-8"))

    def windows(title, step):
        target = next(panel for panel in document["panels"] if panel["title"] == title)["targets"][0]
        series, _ = grafana.ask(target, {"host": None}, grafana.now - 3600, grafana.now, step)
        return {row[0]: row[1:] for _, _, rows in series for row in rows if None not in row}

    in_all = grafana.reader.influxql(demo.bucket, f'SELECT sum("requests") FROM "http_stats" WHERE time <= {int(grafana.now * 1000)}ms')[0][2][0][1]
    for step in (30, 60, 300):
        counted = sum(sum(row) for row in windows("Requests by status class", step).values()) * step
        say(f"status classes by {step} s add up to all requests", [] if abs(counted - in_all) < 1e-6 * in_all else [f"{counted}, {in_all} in all"])
    total = {at: row[0] for at, row in windows("Requests", 10).items()}
    both = sorted(total)
    steady = sorted(total[at] for at in both)[len(both) // 2]
    say("requests per second are what was generated", [] if 36 <= steady <= 48 else [f"median {steady}, 40 generated"])

    table = answers[("tidewatch-http", "Hosts", "A")]
    summed = sum(rows[0][columns.index("requests")] for _, columns, rows in table)
    say("the hosts' requests are all requests", [] if summed == in_all else [f"{summed}, {in_all} in all"])

    attackers = {row["client"] for _, _, rows in answers[("tidewatch-anomalies", "Top attackers", "A")] for row in rows}
    injected = {label["subject"]["client_ip"] for label in demo.labels() if label["rule"] in ("ip-spike", "path-scan")}
    allowed = "203.0.113.1"
    say("the attackers are those that were injected", [f"{x} is missing" for x in injected - attackers - {allowed}] + (["the allowed one is there"] if allowed in attackers else []))

    prevented = {row["rule"]: row["prevented"] for _, _, rows in answers[("tidewatch-pipeline", "Prevented findings", "A")] for row in rows}
    say("findings of the allowed one were prevented", [] if prevented.get("ip-spike", 0) > 0 else [f"{prevented}"])

    for name, word in (("a withdrawn finding", WITHDRAWN), ("a rule in shadow mode", SHADOW)):
        seen = [key for key, answer in answers.items() if word in json.dumps(answer)]
        say(f"{name} is nowhere", [f"{key}" for key in seen])
    shadow = findings_where(grafana, demo, f"\"rule\" = '{SHADOW}' AND \"state\" = 'shadow'")
    say("a rule in shadow mode is recorded", [] if shadow > 0 else ["it has no points"])

    patterns = {(row["severity"], row["pattern"]) for _, _, rows in answers[("tidewatch-errors", "Message patterns", "A")] for row in rows}
    say("the patterns are those that were injected", [f"nothing with {word}" for word in ("no space left", "timed out", "slow answer") if not any(word in pattern for _, pattern in patterns)])

    late = [row for _, _, rows in answers[("tidewatch-pipeline", "Partitions", "A")] for row in rows if row["topic"] == "access"]
    facts = {"late events": sum(row["late"] for row in late) > 0, "dead letters": sum(row["rejected"] for row in late) >= 20}
    say("late events and dead letters are counted", [name for name, holds in facts.items() if not holds])


# ---- the long-term bucket ----

HOUR = 1_772_704_800_000  # 2026-03-05T10:00:00Z


def at_time(flux, at):
    """A task's text to be run once, as if it were that time."""
    head, rest = flux.split("\noption task", 1)
    return f"{head}\noption now = () => {macros.rfc3339(at)}\noption task{rest}"


def stats(host, at, requests, status_5xx, size, latency=None):
    timed = ""
    if latency:
        average, largest, p95 = latency
        timed = f"latency_avg={average},latency_max={largest},latency_p50=1,latency_p95={p95},latency_p99={largest},"
    return (
        f"http_stats,host={host} bytes={size}i,clients={requests}i,error_ratio={status_5xx / requests},{timed}requests={requests}i,rps={requests / 10},"
        f"status_2xx={requests - status_5xx}i,status_3xx=0i,status_4xx=0i,status_5xx={status_5xx}i,throughput={size / 10} {at}"
    )


def finding(at, slot, state, identity, score):
    return f'anomaly,host=*,rule=r,slot={slot} id="{identity}",message="m",score={score},severity="high",state="{state}",subject="s",threshold=1,value=2,window_ms=10000i {at}'


def contents(server, bucket):
    """Every point of a bucket: (measurement, tags, time) → fields."""
    out = {}
    text = f'from(bucket: "{bucket}") |> range(start: 0, stop: 2100-01-01T00:00:00Z)'
    for _, _, rows in server.flux(text):
        for row in rows:
            tags = {k: v for k, v in row.items() if not k.startswith("_")}
            key = (row["_measurement"], tuple(sorted(tags.items())), row["_time"])
            out.setdefault(key, {})[row["_field"]] = row["_value"]
    return out


def check_long_term(demo, server):
    """Sums, ratios and maxima of a few points computed by hand; twice; and after a correction."""
    raw, long = f"{demo.bucket}-facts", f"{demo.bucket}-facts_long"
    config = demo.room / "facts.toml"
    config.write_text(demo.config.read_text().replace(f'bucket = "{demo.bucket}"', f'bucket = "{raw}"').replace("/token", "/facts-token"))
    demo.tidewatch("setup", "influx", "-c", config, "--token-file", demo.room / "facts-token")
    server.write(raw, [
        stats("a", HOUR, 10, 1, 1000, (100, 900, 300)), stats("a", HOUR + 10_000, 30, 0, 3000, (20, 50, 40)), stats("a", HOUR + 50_000, 60, 5, 500),
        stats("a", HOUR + 60_000, 4, 4, 10, (7, 7, 7)), stats("b", HOUR + 59_000, 1, 0, 1),
        f"http_methods,host=a,method=GET requests=7i {HOUR}", f"http_methods,host=a,method=GET requests=5i {HOUR + 3_590_000}",
        f'error_events,host=a,pattern=p,severity=error count=2i,example="x" {HOUR}', f'error_events,host=a,pattern=p,severity=error count=3i,example="y" {HOUR + 10_000}',
        finding(HOUR, 0, "firing", "one", 0.6), finding(HOUR + 1000, 0, "firing", "one", 0.9), finding(HOUR + 2000, 1, "firing", "two", 0.7),
        finding(HOUR + 3000, 1, "retracted", "three", 0), finding(HOUR - 3_600_000, 0, "retracted", "four", 0),
        finding(HOUR + 4000, 2, "shadow", "five", 0.95),
    ])
    tasks = {}
    for name in ("minutes", "hours"):
        tasks[name] = server.get("/api/v2/tasks", name=f"tidewatch {name} of {raw}")["tasks"][0]["flux"]

    def sum_up():
        for name in ("minutes", "hours"):
            server.flux(at_time(tasks[name], (HOUR + 2 * 3_600_000 + 300_000) / 1000))
        return contents(server, long)

    got = sum_up()
    ten, minute = "2026-03-05T10:00:00Z", "2026-03-05T10:01:00Z"
    host_a = (("host", "a"),)
    timed = {"latency_avg": 40.0, "latency_max": 900.0, "latency_p95_max": 300.0, "latency_p99_max": 900.0, "latency_requests": 40, "latency_sum": 1600.0}
    counts = {"bytes": 4500, "clients_max": 60, "error_ratio": 0.06, "requests": 100, "rps": 100 / 60, "status_2xx": 94, "status_3xx": 0, "status_4xx": 0, "status_5xx": 6, "throughput": 75.0}
    want = {
        "minutes with and without latency": (("http_stats_1m", host_a, ten), counts | timed),
        "the minute after": (("http_stats_1m", host_a, minute), {
            "bytes": 10, "clients_max": 4, "error_ratio": 1.0, "requests": 4, "rps": 4 / 60, "status_2xx": 0, "status_3xx": 0, "status_4xx": 0, "status_5xx": 4, "throughput": 10 / 60,
            "latency_avg": 7.0, "latency_max": 7.0, "latency_p95_max": 7.0, "latency_p99_max": 7.0, "latency_requests": 4, "latency_sum": 28.0,
        }),
        "no latency at all": (("http_stats_1m", (("host", "b"),), ten), {
            "bytes": 1, "clients_max": 1, "error_ratio": 0.0, "requests": 1, "rps": 1 / 60, "status_2xx": 1, "status_3xx": 0, "status_4xx": 0, "status_5xx": 0, "throughput": 1 / 60,
        }),
        "the hour": (("http_stats_1h", host_a, ten), {
            "bytes": 4510, "clients_max": 60, "error_ratio": 10 / 104, "requests": 104, "rps": 104 / 3600, "status_2xx": 94, "status_3xx": 0, "status_4xx": 0, "status_5xx": 10,
            "throughput": 4510 / 3600, "latency_avg": 1628 / 44, "latency_max": 900.0, "latency_p95_max": 300.0, "latency_p99_max": 900.0, "latency_requests": 44, "latency_sum": 1628.0,
        }),
        "methods": (("http_methods_1h", (("host", "a"), ("method", "GET")), ten), {"requests": 12}),
        "errors": (("error_events_1h", (("host", "a"), ("pattern", "p"), ("severity", "error")), ten), {"count": 5, "example": "y"}),
        "findings": (("anomaly_1h", (("host", "*"), ("rule", "r")), ten), {"alerts": 2, "findings": 3, "score_max": 0.9}),
        "an hour of which all was withdrawn": (("anomaly_1h", (("host", "*"), ("rule", "r")), "2026-03-05T09:00:00Z"), {"alerts": 0, "findings": 0, "score_max": 0.0}),
    }
    for name, (key, fields) in want.items():
        have = got.get(key, {})
        near = {f: have.get(f) for f in fields if isinstance(have.get(f), float) and isinstance(fields[f], float) and abs(have[f] - fields[f]) < 1e-9 * max(1, abs(fields[f]))}
        say(f"long term: {name}", [] if {**have, **{f: fields[f] for f in near}} == fields else [f"{have}", f"expected {fields}"])
    say("long term: nothing else", [str(key) for key in got if key not in [key for key, _ in want.values()] and key != ("http_stats_1h", (("host", "b"),), ten)])
    say("long term: a second run changes nothing", [] if sum_up() == got else ["it does"])
    server.write(raw, [stats("a", HOUR + 10_000, 31, 1, 3000, (20, 50, 40)), finding(HOUR + 2000, 1, "retracted", "two", 0)])
    after = sum_up()
    say("long term: corrections arrive", [] if after[("http_stats_1h", host_a, ten)]["requests"] == 105 and after[("anomaly_1h", (("host", "*"), ("rule", "r")), ten)]["alerts"] == 1 else [f"{after}"])


def run_tasks(demo, server):
    """By the server itself, with a task's own rights; and once more up to the present, for the board."""
    for name in ("minutes", "hours"):
        task = demo.task(name)
        asked = json.loads(server.send("POST", f"/api/v2/tasks/{task['id']}/runs", {}))
        state, deadline = "", time.time() + 60
        while time.time() < deadline and state not in ("success", "failed", "canceled"):
            time.sleep(0.5)
            try:
                state = server.get(f"/api/v2/tasks/{task['id']}/runs/{asked['id']}").get("status", "")
            except Refused as refused:
                # A run that has just ended is for a moment in neither of the server's lists.
                state = str(refused)
                if not state.startswith("404:"):
                    raise
        logs = [] if state == "success" else server.get(f"/api/v2/tasks/{task['id']}/logs").get("events", [])
        say(f"the server runs the task {name}", [] if state == "success" else [f"{state}: {logs}"])
        server.flux(at_time(task["flux"], time.time() + 3600))


def main():
    names = ["TIDEWATCH_TEST_INFLUX", "TIDEWATCH_TEST_INFLUX_ORG", "TIDEWATCH_TEST_INFLUX_TOKEN", "TIDEWATCH_BIN"]
    if missing := [name for name in names if not os.environ.get(name)]:
        print(f"SKIPPED: the boards' queries need {', '.join(missing)}")
        return 0
    url, org, token, binary = (os.environ[name] for name in names)
    server = Server(url, org, token)
    begun = time.time()
    with tempfile.TemporaryDirectory(prefix="tidewatch-grafana.") as room:
        demo = Demo(binary, server, room)
        demo.set_up()
        changed = [step for step in demo.again if step.startswith(("made", "mapped")) or " now " in step]
        say("setup may be repeated", changed)
        demo.fill()
        demo.add_by_hand()
        print(f"    the data set took {time.time() - begun:.0f} s", flush=True)
        run_tasks(demo, server)
        reader = Server(url, org, demo.read_token)
        grafana = Grafana(demo, reader, time.time())
        answers = {}
        for uid in build.BOARDS:
            check_board(grafana, uid, answers)
        check_odd_host(grafana)
        check_rules(grafana)
        if None in answers.values():
            say("figures agree", ["some queries failed; not compared"])
        else:
            check_facts(demo, grafana, answers)
        check_long_term(demo, server)
    print(f"{passed} passed, {failed} failed in {time.time() - begun:.0f} s")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
