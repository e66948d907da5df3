"""The boards *HTTP statistics* and *Top URLs and clients*."""
from model import (
    HOST, SHARE, SHARE_CELL, STATUS, Board, Query, Row, alert_marks, colours, flux, flux_series, graph, largest, limits, link, override, steps, table, tile,
)

HERE = '"host" =~ /^${host:regex}$/'
CLASSES = ["2xx", "3xx", "4xx", "5xx"]


def now_per_second(field, name):
    """A per-second figure of all chosen hosts together, window by window: its newest value is that of a whole window.

    Windows are told apart by their start (`time(100ms)`, the shortest there are) and summed over hosts; an interval shows the mean of its windows. That
    is dear over days: for tiles that look at the newest minutes.
    """
    text = (
        f'SELECT mean("{name}") AS "{name}" FROM (SELECT sum("{field}") AS "{name}" FROM "http_stats" WHERE {HERE} AND $timeFilter GROUP BY time(100ms) fill(none)) '
        "WHERE $timeFilter GROUP BY time($__interval) fill(null)"
    )
    return Query(text, [name], alias="$col")


def per_second(parts):
    """Sums of fields over windows and hosts, by the seconds of an interval: for bars, whose last one may be unfinished.

    Right where the interval is a multiple of the window's size: 30 s and Grafana's intervals above are multiples of 10 s.
    """
    fields = ", ".join(f'sum("{field}") * 1000 / $__interval_ms AS "{name}"' for name, field in parts.items())
    return Query(f'SELECT {fields} FROM "http_stats" WHERE {HERE} AND $timeFilter GROUP BY time($__interval) fill(null)', list(parts), alias="$col")


def over_time(parts, by_host=False):
    """Figures of an interval's windows and hosts taken together, or host by host."""
    fields = ", ".join(f'{text} AS "{name}"' for name, text in parts.items())
    group = ', "host"' if by_host else ""
    text = f'SELECT {fields} FROM "http_stats" WHERE {HERE} AND $timeFilter GROUP BY time($__interval){group} fill(null)'
    return Query(text, list(parts), tags=["host"] if by_host else [], alias="$tag_host" if by_host else "$col")


ERROR_STEPS = steps("green", (0.01, "yellow"), (0.05, "red"))
CLIENT_ERROR_STEPS = steps("green", (0.1, "yellow"), (0.3, "orange"))
LATENCY_STEPS = steps("green", (500, "yellow"), (1000, "red"))

AVERAGE = (
    'SELECT sum("weighted") / sum("requests") AS "average" FROM (SELECT "latency_avg" * "requests" AS "weighted", "requests" FROM "http_stats" '
    f'WHERE {HERE} AND "latency_avg" >= 0 AND $timeFilter) WHERE $timeFilter GROUP BY time($__interval) fill(null)'
)

# Means over the time shown: a host without traffic has no points, so means over its points would be too high.
HOSTS = Query(
    'SELECT sum("requests") * 1000 / ($__to - $__from) AS "rps", sum("requests") AS "requests", sum("status_5xx") / sum("requests") AS "share_5xx", '
    'sum("status_4xx") / sum("requests") AS "share_4xx", max("latency_p95") AS "p95", sum("bytes") * 1000 / ($__to - $__from) AS "throughput", '
    f'max("clients") AS "clients" FROM "http_stats" WHERE {HERE} AND $timeFilter GROUP BY "host"',
    ["rps", "requests", "share_5xx", "share_4xx", "p95", "throughput", "clients"], tags=["host"], table=True,
)

http_marks = alert_marks()
HTTP = Board(
    "tidewatch-http",
    "Tidewatch: HTTP statistics",
    "Requests, errors, latency and bandwidth of the hosts that log.",
    [HOST],
    [
        tile("Requests", "Requests per second of all chosen hosts, newest window; the course of the last five minutes.", now_per_second("rps", "requests"), steps("text"), unit="reqps", newest="5m"),
        tile("5xx", "Share of requests answered with 5xx, newest interval.", over_time({"5xx": 'sum("status_5xx") / sum("requests")'}), ERROR_STEPS, unit="percentunit", defaults={"decimals": 2}),
        tile("4xx", "Share of requests answered with 4xx, newest interval.", over_time({"4xx": 'sum("status_4xx") / sum("requests")'}), CLIENT_ERROR_STEPS, unit="percentunit", defaults={"decimals": 1}),
        tile("Latency p95", "95 % of requests were at most this slow, on the slowest of the chosen hosts, newest interval.", over_time({"p95": 'max("latency_p95")'}), LATENCY_STEPS, unit="ms", defaults={"decimals": 0}),
        tile("Bandwidth", "Bytes per second sent to clients, newest window; the course of the last five minutes.", now_per_second("throughput", "bandwidth"), steps("text"), unit="Bps", newest="5m"),
        tile(
            "Anomalies", "Clients, hosts and other subjects that a rule found something about, in the time shown.",
            Query(
                'SELECT count(distinct("subject")) AS "subjects" FROM "anomaly" WHERE "state" = \'firing\' AND "host" =~ /^(\\*|${host:regex})$/ AND $timeFilter',
                ["subjects"],
            ),
            steps("green", (1, "orange"), (10, "red")), sparkline=False, defaults={"noValue": "0"},
            links=[{"title": "Anomalies", "url": "/d/tidewatch-anomalies?${__url_time_range}&${host:queryparam}"}],
        ),
        graph(
            "Requests by status class", "Requests per second by class of the answer's status. The newest bar is not finished.",
            [per_second({name: f"status_{name}" for name in CLASSES})], unit="reqps", stacked=True, bars=True, interval="30s", overrides=colours(STATUS), height=9, calculations=["mean", "max"],
        ),
        graph(
            "Error share", "Share of requests answered with 4xx and 5xx. Thresholds: 1 % and 5 % of 5xx.",
            [over_time({name: f'sum("status_{name}") / sum("requests")' for name in ["4xx", "5xx"]})], unit="percentunit", height=9,
            overrides=colours({name: STATUS[name] for name in ["4xx", "5xx"]}), **limits(ERROR_STEPS, min=0),
        ),
        graph(
            "Latency",
            "Over the requests that carry a duration. Average: over all of them. Quantiles: of the slowest of the chosen hosts in its slowest window, as quantiles cannot be added up; each at most 1.6 % too high. Thresholds: 500 ms and 1 s of p95.",
            [Query(AVERAGE, ["average"], alias="average"), over_time({"p50": 'max("latency_p50")', "p95": 'max("latency_p95")', "p99": 'max("latency_p99")'})],
            unit="ms", overrides=colours({"average": "text", "p50": "green", "p95": "orange", "p99": "red"}), **limits(LATENCY_STEPS),
        ),
        graph("Bandwidth", "Bytes per second sent to clients. The newest bar is not finished.", [per_second({"bandwidth": "bytes"})], unit="Bps", bars=True, interval="30s", calculations=["mean", "max"], overrides=colours({"bandwidth": "blue"})),
        Row("By host"),
        table(
            "Hosts", "Figures of the time shown, host by host. p95 is that of the slowest window; clients are the most in one window.", HOSTS,
            ["host", "rps", "requests", "share_5xx", "share_4xx", "p95", "throughput", "clients"],
            names={"host": "Host", "rps": "Requests/s", "requests": "Requests", "share_5xx": "5xx", "share_4xx": "4xx", "p95": "p95, worst", "throughput": "Bandwidth", "clients": "Clients, most"},
            overrides=[
                override("Host", links=[link("This host on Tidewatch's page", "${page}/#/overview?host=${__value.raw:percentencode}")]),
                override("Requests/s", unit="reqps", decimals=1), override("5xx", **SHARE_CELL), override("4xx", **SHARE),
                override("p95, worst", unit="ms", decimals=0, thresholds=LATENCY_STEPS, custom__cellOptions={"type": "color-text"}),
                override("Bandwidth", unit="Bps"),
            ],
            sort="-rps", height=8,
        ),
        graph("Requests by host", "Requests per second of each host: the mean of its windows with traffic.", [over_time({"requests": 'mean("rps")'}, by_host=True)], unit="reqps", width=8),
        graph("5xx share by host", "Share of each host's requests answered with 5xx.", [over_time({"5xx": 'sum("status_5xx") / sum("requests")'}, by_host=True)], unit="percentunit", width=8, **limits(ERROR_STEPS, min=0)),
        graph("Latency p95 by host", "p95 of each host, of the slowest window in an interval.", [over_time({"p95": 'max("latency_p95")'}, by_host=True)], unit="ms", width=8, **limits(LATENCY_STEPS)),
        Row("Clients and methods"),
        graph("Clients by host", "Different client addresses in a window, of each host. Hosts cannot be added up: they share clients.", [over_time({"clients": 'max("clients")'}, by_host=True)]),
        graph(
            "Requests by method", "Requests of the chosen hosts by method, counted per interval of the graph. Unusual methods are worth a look.",
            [Query(
                f'SELECT sum("requests") AS "requests" FROM "http_methods" WHERE {HERE} AND $timeFilter GROUP BY time($__interval), "method" fill(null)',
                ["requests"], tags=["method"], alias="$tag_method",
            )],
            stacked=True, bars=True, interval="30s", calculations=["sum"],
        ),
    ],
    marks=[http_marks],
)


# ---- rankings ----


def ranking(measurement, names, fields, computed=""):
    """Sums over the windows in which something was among the first, whatever its rank; the 50 with most requests."""
    by = ", ".join(f'"{name}"' for name in names)
    identity = ", ".join(f"{f}: 0" for f in fields)
    sums = ", ".join(f"{f}: accumulator.{f} + r.{f}" for f in fields)
    return f"""
from(bucket: v.defaultBucket)
    |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
    |> filter(fn: (r) => r._measurement == "{measurement}" and r.host =~ /^${{host:regex}}$/)
    |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
    |> group(columns: [{by}])
    |> reduce(
        identity: {{{identity}, windows: 0}},
        fn: (r, accumulator) => ({{{sums}, windows: accumulator.windows + 1}}),
    )
    |> group(){computed}{largest(50, "requests")}"""


SHARES = """
    |> map(fn: (r) => ({r with share_4xx: float(v: r.status_4xx) / float(v: r.requests), share_5xx: float(v: r.status_5xx) / float(v: r.requests)}))"""
COUNTED = ["requests", "status_4xx", "status_5xx", "bytes"]
STATUS_COLUMNS = [*COUNTED, "windows", "share_4xx", "share_5xx"]
NAMES = {
    "path": "Path", "client_ip": "Client", "requests": "Requests", "share_4xx": "4xx share", "share_5xx": "5xx share",
    "status_4xx": "4xx", "status_5xx": "5xx", "bytes": "Bytes", "windows": "Windows",
}
CELLS = [
    override("Requests", custom__cellOptions={"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}, min=0, color={"mode": "fixed", "fixedColor": "blue"}),
    override("4xx share", **SHARE), override("5xx share", **SHARE_CELL), override("Bytes", unit="bytes"),
]
LEAST = "Sums over the windows in which it was among the first ({}): what it had in other windows is missing, so they are lower bounds."


def busiest(measurement, name):
    """The course of the ten with most requests in the time shown."""
    text = f"""
ranks = from(bucket: v.defaultBucket)
    |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
    |> filter(fn: (r) => r._measurement == "{measurement}" and r.host =~ /^${{host:regex}}$/ and (r._field == "{name}" or r._field == "requests"))
    |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
    |> group(columns: ["{name}"])
first = ranks
    |> sum(column: "requests")
    |> group(){largest(10, "requests").rstrip()}
    |> findColumn(fn: (key) => true, column: "{name}")
ranks
    |> filter(fn: (r) => contains(value: r.{name}, set: first))
    |> keep(columns: ["_time", "requests", "{name}"])
    |> rename(columns: {{requests: "_value"}})
    |> aggregateWindow(every: v.windowPeriod, fn: sum, createEmpty: false)
"""
    return flux_series(text, [name])


TOP = Board(
    "tidewatch-top",
    "Tidewatch: top URLs and clients",
    "Who asks for most, what is asked for most, and how it was answered.",
    [HOST],
    [
        table(
            "URLs", LEAST.format("top_paths"), flux(ranking("top_paths", ["path"], COUNTED, SHARES), ["path", *STATUS_COLUMNS]),
            ["path", "requests", "share_4xx", "share_5xx", "status_4xx", "status_5xx", "bytes", "windows"], names=NAMES, height=11,
            overrides=[override("Path", custom__width=420, links=[link("Requests for it on Tidewatch's page", "${page}/#/requests?path=${__value.raw:percentencode}")]), *CELLS],
        ),
        table(
            "Clients", LEAST.format("top_clients") + " A click on a client shows all it did, on Tidewatch's own page.",
            flux(ranking("top_clients", ["client_ip"], COUNTED, SHARES), ["client_ip", *STATUS_COLUMNS]),
            ["client_ip", "requests", "share_4xx", "share_5xx", "status_4xx", "status_5xx", "bytes", "windows"], names=NAMES, height=11,
            overrides=[override("Client", custom__width=280, links=[link("This client on Tidewatch's page", "${page}/#/client/${__value.raw:percentencode}")]), *CELLS],
        ),
        graph("Busiest URLs", "Requests of the ten URLs with most, counted per interval of the graph, in the windows in which they were among the first.", [busiest("top_paths", "path")], defaults={"displayName": "${__field.labels.path}"}, stacked=True, bars=True, interval="30s", height=10, calculations=["sum"]),
        graph("Busiest clients", "Requests of the ten clients with most, counted per interval of the graph, in the windows in which they were among the first.", [busiest("top_clients", "client_ip")], defaults={"displayName": "${__field.labels.client_ip}"}, stacked=True, bars=True, interval="30s", height=10, calculations=["sum"]),
        Row("Agents, referrers, slow URLs"),
        table(
            "User agents", LEAST.format("top_agents") + " A bot is an agent that says so of itself, such as a crawler.",
            flux(ranking("top_agents", ["name", "bot"], ["requests"]), ["name", "bot", "requests", "windows"]),
            ["name", "bot", "requests", "windows"], names={"name": "Agent", "bot": "Bot", "requests": "Requests", "windows": "Windows"}, width=12,
            overrides=[CELLS[0], override("Agent", custom__width=420), override("Bot", custom__width=70, **{"mappings": [{"type": "value", "options": {"true": {"text": "bot", "color": "orange", "index": 0}, "false": {"text": "–", "index": 1}}}]})],
        ),
        table(
            "Referrers", LEAST.format("top_referrers"), flux(ranking("top_referrers", ["name"], ["requests"]), ["name", "requests", "windows"]),
            ["name", "requests", "windows"], names={"name": "Referrer", "requests": "Requests", "windows": "Windows"}, width=12, overrides=[CELLS[0], override("Referrer", custom__width=420)],
        ),
        table(
            "Slow URLs", "The URLs with the highest p95, of those with at least five timed requests in a window. Worst: in their slowest window.",
            flux(
                """
from(bucket: v.defaultBucket)
    |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
    |> filter(fn: (r) => r._measurement == "slow_paths" and r.host =~ /^${host:regex}$/)
    |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
    |> group(columns: ["host", "name"])
    |> reduce(
        identity: {worst: 0.0, requests: 0, windows: 0, last: 1970-01-01T00:00:00Z},
        fn: (r, accumulator) =>
            ({
                worst: if r.latency_p95 > accumulator.worst then r.latency_p95 else accumulator.worst,
                requests: accumulator.requests + r.requests,
                windows: accumulator.windows + 1,
                last: if r._time > accumulator.last then r._time else accumulator.last,
            }),
    )
    |> group()"""
                + largest(50, "worst"),
                ["host", "name", "worst", "requests", "windows", "last"],
            ),
            ["name", "host", "worst", "requests", "windows", "last"],
            names={"name": "Path", "host": "Host", "worst": "p95, worst", "requests": "Requests", "windows": "Windows", "last": "Last seen"},
            overrides=[
                override("Path", custom__width=420), override("Last seen", unit="dateTimeAsIso"),
                override("p95, worst", unit="ms", decimals=0, thresholds=LATENCY_STEPS, custom__cellOptions={"type": "color-text"}),
            ],
        ),
    ],
    refresh="1m",
)
