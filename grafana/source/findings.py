"""The boards *Errors* and *Anomalies*."""
from model import (
    HOST, LOG_SEVERITY, RULE, SEVERITY, Board, Panel, Query, Row, alert_marks, choices, colours, coloured, flux, graph, largest, link, override, steps, table,
    tag_values, tile,
)

SEVERE = "emerg|alert|crit|error"
CHOSEN = '"host" =~ /^${host:regex}$/ AND "severity" =~ /^${severity:regex}$/'
SEVERITY_OF_LOG = tag_values(
    "severity", "Severity", 'SHOW TAG VALUES FROM "error_events" WITH KEY = "severity"', "Severity as the log gives it; `none` where it gives none."
)


def messages(where, extra_group="", alias="$col", tags=()):
    return Query(
        f'SELECT sum("count") AS "messages" FROM "error_events" WHERE "host" =~ /^${{host:regex}}$/ AND {where} AND $timeFilter '
        f"GROUP BY time($__interval){extra_group} fill(null)",
        ["messages"], alias=alias, tags=list(tags),
    )


def in_range(where, expression='sum("count")'):
    return Query(f'SELECT {expression} AS "messages" FROM "error_events" WHERE "host" =~ /^${{host:regex}}$/ AND {where} AND $timeFilter', ["messages"])


PATTERNS = flux(
    """
from(bucket: v.defaultBucket)
    |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
    |> filter(fn: (r) => r._measurement == "error_events" and r.host =~ /^${host:regex}$/ and r.severity =~ /^${severity:regex}$/)
    |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
    |> group(columns: ["host", "severity", "pattern"])
    |> reduce(
        identity: {count: 0, first: 2200-01-01T00:00:00Z, last: 1970-01-01T00:00:00Z, example: ""},
        fn: (r, accumulator) =>
            ({
                count: accumulator.count + r.count,
                first: if r._time < accumulator.first then r._time else accumulator.first,
                last: if r._time > accumulator.last then r._time else accumulator.last,
                example: r.example,
            }),
    )
    |> group()
"""
    + largest(200, "count"),
    ["host", "severity", "pattern", "count", "first", "last", "example"],
)

ERRORS = Board(
    "tidewatch-errors",
    "Tidewatch: errors",
    "Messages of error and application logs by host, severity and pattern, and the requests that failed.",
    [HOST, SEVERITY_OF_LOG],
    [
        tile("Critical messages", "Messages of crit, alert or emerg in the time shown.", in_range('"severity" =~ /^(emerg|alert|crit)$/'), steps("green", (1, "red")), sparkline=False, defaults={"noValue": "0"}),
        tile("Error messages", "Messages of error in the time shown.", in_range("\"severity\" = 'error'"), steps("green", (1, "orange"), (100, "red")), sparkline=False, defaults={"noValue": "0"}),
        tile("Warnings", "Messages of warn in the time shown.", in_range("\"severity\" = 'warn'"), steps("text"), sparkline=False, defaults={"noValue": "0"}),
        tile(
            "Patterns", "Different messages of error or worse, with their numbers and names taken out.",
            flux(
                f"""
from(bucket: v.defaultBucket)
    |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
    |> filter(fn: (r) => r._measurement == "error_events" and r._field == "count" and r.host =~ /^${{host:regex}}$/ and r.severity =~ /^({SEVERE})$/)
    |> group(columns: ["pattern"])
    |> first()
    |> group()
    |> count()
    |> rename(columns: {{_value: "patterns"}})
""",
                ["patterns"],
            ),
            steps("text"), sparkline=False, defaults={"noValue": "0"},
        ),
        tile(
            "Hosts with errors", "Hosts that wrote a message of error or worse in the time shown.",
            flux(
                f"""
from(bucket: v.defaultBucket)
    |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
    |> filter(fn: (r) => r._measurement == "error_events" and r._field == "count" and r.host =~ /^${{host:regex}}$/ and r.severity =~ /^({SEVERE})$/)
    |> group(columns: ["host"])
    |> first()
    |> group()
    |> count()
    |> rename(columns: {{_value: "hosts"}})
""",
                ["hosts"],
            ),
            steps("text"), sparkline=False, defaults={"noValue": "0"},
        ),
        tile(
            "5xx answers", "Requests answered with 5xx in the time shown.",
            Query('SELECT sum("status_5xx") AS "5xx" FROM "http_stats" WHERE "host" =~ /^${host:regex}$/ AND $timeFilter', ["5xx"]),
            steps("green", (1, "orange"), (1000, "red")), sparkline=False, defaults={"noValue": "0"},
            links=[{"title": "HTTP statistics", "url": "/d/tidewatch-http?${__url_time_range}&${host:queryparam}"}],
        ),
        graph(
            "Messages by severity", "Messages of the chosen hosts and severities, counted per interval of the graph.",
            [Query(
                f'SELECT sum("count") AS "messages" FROM "error_events" WHERE {CHOSEN} AND $timeFilter GROUP BY time($__interval), "severity" fill(null)',
                ["messages"], tags=["severity"], alias="$tag_severity",
            )],
            stacked=True, bars=True, interval="30s", overrides=colours(LOG_SEVERITY), calculations=["sum"],
        ),
        graph(
            "Errors by host", "Messages of error or worse, host by host, counted per interval of the graph.",
            [messages(f'"severity" =~ /^({SEVERE})$/', ', "host"', "$tag_host", ["host"])], stacked=True, bars=True, interval="30s", calculations=["sum"],
        ),
        table(
            "Message patterns", "Messages with their numbers and names taken out, most frequent first. First and last are windows in the time shown: a pattern whose first is recent is new. The example is one line as it was.",
            PATTERNS, ["severity", "pattern", "host", "count", "first", "last", "example"],
            names={"severity": "Severity", "pattern": "Pattern", "host": "Host", "count": "Messages", "first": "First", "last": "Last", "example": "Example"}, height=12,
            overrides=[
                override("Severity", custom__width=90, **coloured(LOG_SEVERITY)), override("Pattern", custom__width=420, custom__inspect=True), override("Host", custom__width=110),
                override("Messages", custom__width=100), override("First", unit="dateTimeAsIso", custom__width=160), override("Last", unit="dateTimeAsIso", custom__width=160),
                override("Example", custom__inspect=True),
            ],
        ),
        graph(
            "5xx by host", "Requests answered with 5xx, counted per interval of the graph: do messages and failed requests go together?",
            [Query('SELECT sum("status_5xx") AS "5xx" FROM "http_stats" WHERE "host" =~ /^${host:regex}$/ AND $timeFilter GROUP BY time($__interval), "host" fill(null)', ["5xx"], tags=["host"], alias="$tag_host")],
            width=24, stacked=True, bars=True, interval="30s", calculations=["sum"],
        ),
    ],
    marks=[alert_marks(rules='(r.rule =~ /^error-/)')],
)

# ---- anomalies ----

SEVERITY_OF_RULE = choices("severity", "Severity", list(SEVERITY), "Severity of the rule that found it.")
# Findings of rules that do not group by host have the host `*`; they belong to every choice of hosts. What was withdrawn is no finding.
FINDING = '"state" = \'firing\' AND "rule" =~ /^${rule:regex}$/ AND "host" =~ /^(\\*|${host:regex})$/ AND "severity" =~ /^${severity:regex}$/'
FINDINGS = """
from(bucket: v.defaultBucket)
    |> range(start: {start}, stop: v.timeRangeStop)
    |> filter(fn: (r) => r._measurement == "anomaly" and r.rule =~ /^${{rule:regex}}$/ and (r.host == "*" or r.host =~ /^${{host:regex}}$/))
    |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
    |> filter(fn: (r) => r.state == "firing" and r.severity =~ /^${{severity:regex}}$/)
    |> map(fn: (r) => ({{r with end: time(v: int(v: r._time) + r.window_ms * 1000000)}}))"""
# Rule and subject, not `id`: findings have ids of their own until their windows are closed.
PER_SUBJECT = """
    |> group(columns: ["rule", "host", "severity", "subject"])
    |> reduce(
        identity: {
            id: "", first: 2200-01-01T00:00:00Z, last: 1970-01-01T00:00:00Z, findings: 0, score: 0.0, value: 0.0, threshold: 0.0, message: "",
        },
        fn: (r, accumulator) =>
            ({
                id: if r.score > accumulator.score then r.id else accumulator.id,
                first: if r._time < accumulator.first then r._time else accumulator.first,
                last: if r.end > accumulator.last then r.end else accumulator.last,
                findings: accumulator.findings + 1,
                score: if r.score > accumulator.score then r.score else accumulator.score,
                value: if r.score > accumulator.score then r.value else accumulator.value,
                threshold: if r.score > accumulator.score then r.threshold else accumulator.threshold,
                message: if r.score > accumulator.score then r.message else accumulator.message,
            }),
    )
    |> group()
    |> map(
        fn: (r) =>
            ({r with
                client:
                    if r.subject =~ /(^|,)client_ip=/ then
                        strings.trimPrefix(v: regexp.findString(r: /client_ip=[^,]+/, v: r.subject), prefix: "client_ip=")
                    else
                        "",
            }),
    )"""
FOUND = ["id", "rule", "host", "severity", "subject", "first", "last", "findings", "score", "value", "threshold", "message", "client"]
# A finding is active if its window ended in the last minutes; one of a long window started long before.
ACTIVE = (
    'import "date"\nimport "regexp"\nimport "strings"\n'
    + FINDINGS.format(start="date.sub(d: 3h, from: v.timeRangeStop)")
    + "\n    |> filter(fn: (r) => r.end >= date.sub(d: 5m, from: v.timeRangeStop))"
    + PER_SUBJECT
)
ALL = 'import "regexp"\nimport "strings"\n' + FINDINGS.format(start="v.timeRangeStart") + PER_SUBJECT
ATTACKERS = (
    ALL
    + """
    |> filter(fn: (r) => r.client != "")
    |> group(columns: ["client"])
    |> sort(columns: ["rule"])
    |> reduce(
        identity: {hit: 0, findings: 0, score: 0.0, rules: "", first: 2200-01-01T00:00:00Z, last: 1970-01-01T00:00:00Z},
        fn: (r, accumulator) =>
            ({
                hit: accumulator.hit + 1,
                findings: accumulator.findings + r.findings,
                score: if r.score > accumulator.score then r.score else accumulator.score,
                rules:
                    if accumulator.rules == "" then
                        r.rule
                    else if strings.hasSuffix(v: accumulator.rules, suffix: r.rule) then
                        accumulator.rules
                    else
                        accumulator.rules + ", " + r.rule,
                first: if r.first < accumulator.first then r.first else accumulator.first,
                last: if r.last > accumulator.last then r.last else accumulator.last,
            }),
    )
    |> group()
"""
    + largest(50, "hit", "score")
)
SCORE = {"min": 0, "max": 1, "decimals": 2, "thresholds": steps("yellow", (0.6, "orange"), (0.8, "red")), "custom__cellOptions": {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}, "color": {"mode": "thresholds"}, "custom__width": 140}
CLIENT_LINK = link("This client on Tidewatch's page", "${page}/#/client/${__data.fields.client:percentencode}")
FOUND_NAMES = {
    "severity": "Severity", "rule": "Rule", "host": "Host", "subject": "Subject", "first": "First", "last": "Last", "findings": "Findings",
    "score": "Score", "value": "Value", "threshold": "Threshold", "message": "Message",
}
FOUND_CELLS = [
    override("Severity", custom__width=90, **coloured(SEVERITY)),
    override("Rule", custom__width=130, links=[link("Alerts of this rule with their evidence, on Tidewatch's page", "${page}/#/security?rule=${__value.raw:percentencode}")]),
    override("Host", custom__width=90),
    override("Subject", custom__width=240, links=[link("This alert with its evidence, on Tidewatch's page", "${page}/#/security?alert=${__data.fields.id:percentencode}"), CLIENT_LINK]),
    override("First", unit="dateTimeAsIso", custom__width=160), override("Last", unit="dateTimeAsIso", custom__width=160),
    override("Findings", custom__width=90), override("Score", **SCORE), override("Value", custom__width=90), override("Threshold", custom__width=90),
    override("Message", custom__inspect=True), override("client", custom__hidden=True), override("id", custom__hidden=True),
]
FOUND_ORDER = ["severity", "rule", "subject", "host", "first", "last", "value", "threshold", "score", "findings", "message", "client", "id"]


def alerts_of(severity):
    return Query(
        f'SELECT count(distinct("subject")) AS "{severity}" FROM "anomaly" WHERE {FINDING} AND "severity" = \'{severity}\' AND $timeFilter GROUP BY time($__interval) fill(none)',
        [severity], alias="$col",
    )


def in_time(expression, name, more=""):
    return Query(f'SELECT {expression} AS "{name}" FROM "anomaly" WHERE {FINDING}{more} AND $timeFilter', [name])


ANOMALIES = Board(
    "tidewatch-anomalies",
    "Tidewatch: anomalies",
    "What the rules found: active now, when, how strong, and by whom.",
    [RULE, SEVERITY_OF_RULE, HOST],
    [
        tile("Active", "Rules and subjects with a finding whose window ended in the last five minutes.", flux(ACTIVE + "\n    |> count(column: \"findings\")\n    |> rename(columns: {findings: \"active\"})\n", ["active"]), steps("green", (1, "red")), sparkline=False, defaults={"noValue": "0"}),
        tile("Subjects", "Different clients, hosts and other subjects of findings in the time shown.", in_time('count(distinct("subject"))', "subjects"), steps("green", (1, "orange")), sparkline=False, defaults={"noValue": "0"}),
        tile("Critical and high", "Different subjects of findings of severity critical or high in the time shown.", in_time('count(distinct("subject"))', "severe", " AND \"severity\" =~ /^(critical|high)$/"), steps("green", (1, "red")), sparkline=False, defaults={"noValue": "0"}),
        tile("Strongest", "Highest score in the time shown: 0.5 at the threshold, towards 1 far above it.", in_time('max("score")', "score"), steps("green", (0.5, "yellow"), (0.6, "orange"), (0.8, "red")), sparkline=False, defaults={"noValue": "–", "decimals": 2}),
        tile("Rules", "Rules that found something in the time shown.", flux(ALL + "\n    |> unique(column: \"rule\")\n    |> count(column: \"rule\")\n    |> rename(columns: {rule: \"rules\"})\n", ["rules"]), steps("text"), sparkline=False, defaults={"noValue": "0"}),
        tile("Findings", "Findings in the time shown; windows of a rule may overlap, so an attack is many findings.", in_time('count("score")', "findings"), steps("text"), sparkline=False, defaults={"noValue": "0"}),
        table(
            "Active now", "Rules and subjects with a finding whose window ended in the last five minutes before the end of the time shown. What was withdrawn is not shown. Evidence, the lines themselves, is on Tidewatch's own page.",
            flux(ACTIVE + largest(100, "score"), FOUND), FOUND_ORDER, names=FOUND_NAMES, overrides=FOUND_CELLS, height=7,
        ),
        graph(
            "Subjects by severity", "Different subjects with a finding in an interval of the graph; one that goes on counts in each of its intervals.",
            [alerts_of(severity) for severity in SEVERITY], stacked=True, bars=True, interval="1m", overrides=colours(SEVERITY), calculations=["max"],
        ),
        graph(
            "Score by rule", "Strongest finding of each rule: 0.5 at the threshold, towards 1 far above it.",
            [Query(f'SELECT max("score") AS "score" FROM "anomaly" WHERE {FINDING} AND $timeFilter GROUP BY time($__interval), "rule" fill(none)', ["score"], tags=["rule"], alias="$tag_rule")],
            defaults={"min": 0, "max": 1, "thresholds": steps("transparent", (0.5, "orange"))}, calculations=["max"],
            custom={"drawStyle": "points", "pointSize": 5, "thresholdsStyle": {"mode": "dashed"}, "showPoints": "always"}, interval="10s",
        ),
        Panel(
            "When each rule found something", "state-timeline", "The strongest score of each rule over time: gaps are quiet times.",
            [Query(f'SELECT max("score") AS "score" FROM "anomaly" WHERE {FINDING} AND $timeFilter GROUP BY time($__interval), "rule" fill(null)', ["score"], tags=["rule"], alias="$tag_rule")],
            width=24, height=7, interval="10s",
            options={
                "showValue": "never", "rowHeight": 0.8, "mergeValues": True, "alignValue": "left",
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []}, "tooltip": {"mode": "single", "sort": "none"},
            },
            custom={"lineWidth": 0, "fillOpacity": 80}, defaults={"color": {"mode": "thresholds"}, "decimals": 2, "thresholds": steps("yellow", (0.6, "orange"), (0.8, "red"))},
        ),
        Row("All of the time shown"),
        table(
            "Top attackers", "Clients that most rules found, then those with the highest score. A click shows all a client did, on Tidewatch's own page.",
            flux(ATTACKERS, ["client", "hit", "findings", "score", "rules", "first", "last"]), ["client", "hit", "rules", "score", "findings", "first", "last"],
            names={"client": "Client", "hit": "Rules hit", "rules": "Rules", "score": "Score", "findings": "Findings", "first": "First", "last": "Last"},
            overrides=[
                override("Client", custom__width=280, links=[link("This client on Tidewatch's page", "${page}/#/client/${__value.raw:percentencode}")]),
                override("Score", **SCORE), override("First", unit="dateTimeAsIso"), override("Last", unit="dateTimeAsIso"), override("Rules hit", custom__width=90),
            ],
        ),
        table(
            "Findings by rule and subject", "All of the time shown, newest first, with the message of the strongest finding. Without what was withdrawn.",
            flux(ALL + largest(500, "last"), FOUND), FOUND_ORDER, names=FOUND_NAMES, overrides=FOUND_CELLS, height=12,
        ),
    ],
    marks=[alert_marks()],
)
