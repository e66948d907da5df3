"""Alert rules, contact points and notification policies, as Grafana's provisioning files have them.

A rule on findings has an instance for each rule, host, subject and severity, so that an alert says whom it is about.
"""
from model import Query, flux_series

FOLDER = "Tidewatch"
EXPRESSION = {"type": "__expr__", "uid": "__expr__"}


# How far back a finding's window may have begun, and how long after its end it still counts: it may come late, after a restart
# or while InfluxDB was away.
REACH, FRESH = 3 * 3600, "15m"


def growth(*names):
    """What counters of `tidewatch` grew by, of each worker and partition, also over a restart, which begins them again."""
    counted = ", ".join(f'non_negative_difference(last("{name}")) AS "{name}"' for name in names)
    return f'(SELECT {counted} FROM "tidewatch" WHERE $timeFilter GROUP BY time(30s), "worker", "topic", "partition" fill(none))'


def finding(which, severe=False):
    """The strongest score of each subject whose window ended in the last minutes or goes on. A point's time is its window's
    start, which for a long window was long ago. Withdrawn findings are none."""
    state = 'r.state == "firing"' + (' and (r.severity == "high" or r.severity == "critical")' if severe else "")
    text = f"""
import "date"

from(bucket: v.defaultBucket)
    |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
    |> filter(fn: (r) => r._measurement == "anomaly" and {which})
    |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
    |> filter(fn: (r) => {state})
    |> map(fn: (r) => ({{r with _time: time(v: int(v: r._time) + r.window_ms * 1000000)}}))
    |> filter(fn: (r) => r._time >= date.sub(d: {FRESH}, from: v.timeRangeStop))
    |> group(columns: ["rule", "host", "subject", "severity"])
    |> keep(columns: ["_time", "score", "rule", "host", "subject", "severity"])
    |> rename(columns: {{score: "_value"}})
    |> sort(columns: ["_time"])
"""
    return flux_series(text, ["rule", "host", "subject", "severity"])


def rule(name, title, query, within, reducer, operator, limit, pending, summary, description, board, panel, no_data="OK", severity="", unit=""):
    """A rule: query A over the last seconds, reduced to B for each series, compared in C."""

    def step(ref, model):
        common = {"refId": ref, "datasource": EXPRESSION, "intervalMs": 1000, "maxDataPoints": 43200, "hide": False}
        return {"refId": ref, "relativeTimeRange": {"from": 0, "to": 0}, "datasourceUid": "__expr__", "model": common | model}

    ask = query.json("A") | {"intervalMs": 10_000, "maxDataPoints": 43200, "hide": False}
    asked = {"refId": "A", "relativeTimeRange": {"from": within, "to": 0}, "datasourceUid": query.source["uid"], "model": ask}
    reduce = step("B", {"type": "reduce", "expression": "A", "reducer": reducer, "settings": {"mode": "dropNN"}})
    compare = step("C", {"type": "threshold", "expression": "B", "conditions": [{"evaluator": {"type": operator, "params": [limit]}}]})
    labels = {"app": "tidewatch"} | ({"severity": severity} if severity else {})
    made = {
        "uid": f"tidewatch-{name.replace('_', '-')}", "title": name, "condition": "C", "data": [asked, reduce, compare],
        "noDataState": no_data, "execErrState": "Error", "for": pending,
        "dashboardUid": board.uid, "panelId": board.number(panel),
        "annotations": {"summary": summary, "description": f"{title}. {description}"},
        "labels": labels, "isPaused": False,
    }
    return made, query


KNOWN = ["ip-spike", "error-surge", "path-scan"]
SUBJECT = "{{ $labels.rule }}: {{ $labels.subject }} (score {{ printf \"%.2f\" $values.B.Value }})"


def rules(boards):
    anomalies, http, pipeline = boards["tidewatch-anomalies"], boards["tidewatch-http"], boards["tidewatch-pipeline"]
    found = dict(within=REACH, reducer="max", operator="gt", limit=0, pending="0s", board=anomalies, panel="Active now")
    by_host = 'FROM "http_stats" WHERE $timeFilter GROUP BY "host"'
    return [
        rule("ip_spike", "One client sends far more requests than others", finding('r.rule == "ip-spike"'), summary=SUBJECT, description="Threshold and window are those of Tidewatch's rule ip-spike. Look at the client on Tidewatch's page before blocking it.", **found),
        rule("error_surge", "A host answers an unusual share of requests with 5xx", finding('r.rule == "error-surge"'), summary=SUBJECT, description="Against the host's own baseline and a floor, as Tidewatch's rule error-surge says.", **(found | {"panel": "Score by rule"})),
        rule("path_scan", "One client asks for many paths that do not exist", finding('r.rule == "path-scan"'), summary=SUBJECT, description="As Tidewatch's rule path-scan says.", **found),
        rule(
            "other_finding", "Another rule of severity high or critical found something",
            finding(f"r.rule !~ /^({'|'.join(KNOWN)})$/", severe=True),
            summary=SUBJECT, description="Rules of your own and the built-in ones that have no alert rule of their own here. Windows of up to three hours.", **found,
        ),
        rule(
            "high_latency", "Requests of a host are slow", Query(f'SELECT mean("latency_p95") AS "p95" {by_host}', ["p95"], tags=["host"]), within=300, reducer="last", operator="gt", limit=1000, pending="5m",
            summary="p95 on {{ $labels.host }} is {{ printf \"%.0f\" $values.B.Value }} ms", description="Mean of the windows' p95 over five minutes, for five minutes above 1,000 ms. Change the limit to what your users bear.",
            board=http, panel="Latency p95 by host", severity="medium",
        ),
        rule(
            "consumer_lag", "Tidewatch does not keep up with a topic",
            Query('SELECT sum("lag") AS "lag" FROM (SELECT last("lag_messages") AS "lag" FROM "tidewatch" WHERE $timeFilter GROUP BY "worker", "topic", "partition") WHERE $timeFilter GROUP BY "topic"', ["lag"], tags=["topic"]),
            within=120, reducer="last", operator="gt", limit=100_000, pending="5m", summary="{{ $labels.topic }}: {{ printf \"%.0f\" $values.B.Value }} records behind",
            description="Records between positions and the ends of the topic's partitions, for five minutes above 100,000. Two minutes of traffic are normal: offsets are committed behind closed windows.",
            board=pipeline, panel="Consumer lag by partition", severity="high",
        ),
        rule(
            "watermark_delay", "Event time stands or is far behind", Query('SELECT max("delay") AS "delay" FROM (SELECT last("lag_ms") AS "delay" FROM "tidewatch" WHERE $timeFilter GROUP BY "worker", "topic", "partition") WHERE $timeFilter GROUP BY "topic", "partition"', ["delay"], tags=["topic", "partition"]),
            within=120, reducer="last", operator="gt", limit=300_000, pending="5m", summary="{{ $labels.topic }} {{ $labels.partition }}: {{ printf \"%.0f\" $values.B.Value }} ms behind the clock",
            description="Windows close only when every partition that is not idle passed their end. Tidewatch's page says in Time who holds it, and why.",
            board=pipeline, panel="Watermark delay by partition", severity="medium",
        ),
        rule(
            "dead_letters", "Many lines cannot be parsed",
            Query(
                f'SELECT sum("rejected") / (sum("events") + sum("rejected")) AS "share" FROM {growth("events", "rejected")} WHERE $timeFilter GROUP BY "topic"',
                ["share"], tags=["topic"],
            ),
            within=600, reducer="last", operator="gt", limit=0.01, pending="10m", summary="{{ $labels.topic }}: {{ humanizePercentage $values.B.Value }} of lines cannot be parsed",
            description="More than 1 % of all lines over ten minutes: a changed log format, most often. The lines are among the dead letters with their reasons.",
            board=pipeline, panel="Late events and dead letters", severity="medium",
        ),
        rule(
            # Events, not windows: those may be longer than it looks back.
            "no_data", "No results from Tidewatch", Query(f'SELECT sum("events") AS "events" FROM {growth("events")} WHERE $timeFilter', ["events"]), within=600, reducer="last", operator="lt", limit=1, pending="2m",
            summary="No event was read in the last ten minutes", description="Tidewatch, its sources or InfluxDB stand still: the board Pipeline says when it last reported.",
            board=pipeline, panel="Last report", no_data="Alerting", severity="critical",
        ),
    ]


def rule_file(made):
    return {"apiVersion": 1, "groups": [{"orgId": 1, "name": "tidewatch", "folder": FOLDER, "interval": "30s", "rules": [rule for rule, _ in made]}]}


CONTACT_POINTS = {
    "apiVersion": 1,
    "contactPoints": [
        {
            "orgId": 1, "name": "tidewatch-on-call",
            "receivers": [
                {"uid": "tidewatch-email", "type": "email", "disableResolveMessage": False, "settings": {"addresses": "$TIDEWATCH_ALERT_EMAIL", "singleEmail": False}},
                {"uid": "tidewatch-webhook", "type": "webhook", "disableResolveMessage": False, "settings": {"url": "$TIDEWATCH_ALERT_WEBHOOK", "httpMethod": "POST", "maxAlerts": "100"}},
            ],
        },
        {
            "orgId": 1, "name": "tidewatch-later",
            "receivers": [{"uid": "tidewatch-later-email", "type": "email", "disableResolveMessage": True, "settings": {"addresses": "$TIDEWATCH_ALERT_EMAIL", "singleEmail": True}}],
        },
    ],
}

ROUTES = {
    "apiVersion": 1,
    "policies": [
        {
            "orgId": 1, "receiver": "tidewatch-later", "group_by": ["grafana_folder", "alertname"],
            "routes": [
                {
                    "receiver": "tidewatch-later", "object_matchers": [["app", "=", "tidewatch"]], "group_by": ["alertname", "rule", "host"],
                    "group_wait": "30s", "group_interval": "5m", "repeat_interval": "24h",
                    "routes": [
                        {
                            "receiver": "tidewatch-on-call", "object_matchers": [["severity", "=~", "critical|high"]], "group_by": ["alertname", "rule"],
                            "group_wait": "10s", "group_interval": "1m", "repeat_interval": "4h",
                        }
                    ],
                }
            ],
        }
    ],
}

TOKEN = {"httpHeaderValue1": "Token $INFLUX_READ_TOKEN"}


def sources():
    """InfluxQL and Flux, each for the bucket Tidewatch writes to and for the long-term one."""

    def influxql(name, uid, bucket, interval, default=False):
        return {
            "name": name, "uid": uid, "type": "influxdb", "access": "proxy", "url": "$INFLUX_URL", "isDefault": default, "editable": False,
            "jsonData": {"version": "InfluxQL", "dbName": bucket, "httpMode": "POST", "httpHeaderName1": "Authorization", "timeInterval": interval},
            "secureJsonData": dict(TOKEN),
        }

    def flux_source(name, uid, bucket, interval):
        return {
            "name": name, "uid": uid, "type": "influxdb", "access": "proxy", "url": "$INFLUX_URL", "isDefault": False, "editable": False,
            "jsonData": {"version": "Flux", "organization": "$INFLUX_ORG", "defaultBucket": bucket, "timeInterval": interval},
            "secureJsonData": {"token": "$INFLUX_READ_TOKEN"},
        }

    return {
        "apiVersion": 1,
        "datasources": [
            influxql("Tidewatch", "tidewatch-influxql", "$INFLUX_BUCKET", "10s"),
            flux_source("Tidewatch (Flux)", "tidewatch-flux", "$INFLUX_BUCKET", "10s"),
            influxql("Tidewatch long term", "tidewatch-long-influxql", "$INFLUX_LONG_BUCKET", "1h"),
        ],
    }


PROVIDER = {
    "apiVersion": 1,
    "providers": [
        {
            "name": "tidewatch", "orgId": 1, "folder": FOLDER, "type": "file", "disableDeletion": False, "updateIntervalSeconds": 30, "allowUiUpdates": False,
            "options": {"path": "$TIDEWATCH_DASHBOARDS", "foldersFromFilesStructure": False},
        }
    ],
}
