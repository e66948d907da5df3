"""The boards *Pipeline* (Tidewatch's own health) and *Long term* (the bucket of sums by hour)."""
from model import (
    HOST, LONG, LOG_SEVERITY, STATUS, Board, Query, Row, alert_marks, colours, flux, graph, largest, limits, override, steps, table, tag_values, tile,
)

TOPIC = tag_values(
    "topic", "Source", 'SHOW TAG VALUES FROM "tidewatch" WITH KEY = "topic"', "Topics, and names of sources that have none."
)
READ = '"topic" =~ /^${topic:regex}$/'
DELAY_STEPS = steps("green", (30_000, "yellow"), (300_000, "red"))
LAG_STEPS = steps("green", (10_000, "yellow"), (100_000, "red"))
SHARE_STEPS = steps("green", (0.001, "yellow"), (0.01, "red"))


def per_second(field, name, group=""):
    """A counter since the start as a rate; where it starts anew, nothing."""
    inner = (
        f'SELECT non_negative_derivative(last("{field}"), 1s) AS "{name}" FROM "tidewatch" WHERE {READ} AND $timeFilter '
        'GROUP BY time($__interval), "worker", "topic", "partition" fill(none)'
    )
    tags = [group] if group else []
    by = f', "{group}"' if group else ""
    text = f'SELECT sum("{name}") AS "{name}" FROM ({inner}) WHERE $timeFilter GROUP BY time($__interval){by} fill(none)'
    return Query(text, [name], tags=tags, alias=f"$tag_{group}" if group else "$col")


def newest(fn, field, name, group=""):
    """The newest state of each partition in an interval, taken together."""
    inner = f'SELECT last("{field}") AS "{name}" FROM "tidewatch" WHERE {READ} AND $timeFilter GROUP BY time($__interval), "worker", "topic", "partition" fill(none)'
    by = "".join(f', "{tag}"' for tag in group.split()) if group else ""
    alias = " ".join(f"$tag_{tag}" for tag in group.split()) or "$col"
    text = f'SELECT {fn}("{name}") AS "{name}" FROM ({inner}) WHERE $timeFilter GROUP BY time($__interval){by} fill(none)'
    return Query(text, [name], tags=group.split(), alias=alias)


PARTITIONS = flux(
    """
from(bucket: v.defaultBucket)
    |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
    |> filter(fn: (r) => r._measurement == "tidewatch" and r.topic =~ /^${topic:regex}$/)
    |> last()
    |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
    |> group()
    |> map(
        fn: (r) =>
            ({
                topic: r.topic,
                partition: r.partition,
                worker: r.worker,
                lag_ms: r.lag_ms,
                lag: if exists r.lag_messages then r.lag_messages else 0,
                watermark: time(v: r.watermark * 1000000),
                events: r.events,
                late: r.late,
                rejected: r.rejected,
            }),
    )
"""
    + largest(200, "lag_ms"),
    ["topic", "partition", "worker", "lag_ms", "lag", "watermark", "events", "late", "rejected"],
)
# `result` is a name that answers in CSV keep for themselves.
INEXACT = flux(
    """
from(bucket: v.defaultBucket)
    |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
    |> filter(fn: (r) => r._measurement == "tidewatch_inexact")
    |> last()
    |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
    |> group()
    |> map(fn: (r) => ({inexact: r.result, missed_events: r.missed_events, missed_values: r.missed_values}))
    |> sort(columns: ["missed_events"], desc: true)
""",
    ["inexact", "missed_events", "missed_values"],
)
LIMITED = flux(
    """
from(bucket: v.defaultBucket)
    |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
    |> filter(fn: (r) => r._measurement == "tidewatch_limited")
    |> last()
    |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
    |> group()
    |> keep(columns: ["rule", "findings", "windows", "unopened"])
    |> sort(columns: ["findings"], desc: true)
""",
    ["rule", "findings", "windows", "unopened"],
)
ALLOWED = flux(
    """
from(bucket: v.defaultBucket)
    |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
    |> filter(fn: (r) => r._measurement == "tidewatch_allow")
    |> last()
    |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
    |> group()
    |> keep(columns: ["entry", "events", "reason"])
    |> sort(columns: ["events"], desc: true)
""",
    ["entry", "events", "reason"],
)
PREVENTED = flux(
    """
from(bucket: v.defaultBucket)
    |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
    |> filter(fn: (r) => r._measurement == "tidewatch_rules" and r._field == "prevented")
    |> last()
    |> group()
    |> keep(columns: ["rule", "_value"])
    |> rename(columns: {_value: "prevented"})
    |> sort(columns: ["prevented"], desc: true)
""",
    ["rule", "prevented"],
)


def process(field, name):
    """What each process said in an interval."""
    text = f'SELECT max("{field}") AS "{name}" FROM "tidewatch_process" WHERE $timeFilter GROUP BY time($__interval), "process" fill(none)'
    return Query(text, [name], tags=["process"], alias="process $tag_process")


def share(field, of):
    """What counts as `field` in each interval, of all that the expression `of` counts."""
    rates = ", ".join(f'non_negative_derivative(last("{name}"), 1s) AS "{name}"' for name in sorted({field, "events"}))
    inner = f'SELECT {rates} FROM "tidewatch" WHERE {READ} AND $timeFilter GROUP BY time($__interval), "worker", "topic", "partition" fill(none)'
    text = f'SELECT sum("{field}") / ({of}) AS "{field}" FROM ({inner}) WHERE $timeFilter GROUP BY time($__interval) fill(none)'
    return Query(text, [field], alias="$col")


PIPELINE = Board(
    "tidewatch-pipeline",
    "Tidewatch: pipeline",
    "Whether Tidewatch itself keeps up: lag, watermarks, late events, dead letters, what it cannot count, what its processes take.",
    [TOPIC],
    [
        tile("Throughput", "Events parsed per second, over all workers.", per_second("events", "events"), steps("text"), unit="eps"),
        tile("Watermark delay", "Wall clock minus watermark of the partition that is furthest behind: no window closes before it passes. Idle partitions keep nobody waiting.", newest("max", "lag_ms", "delay"), DELAY_STEPS, unit="ms"),
        tile("Consumer lag", "Kafka: records between positions and the ends of the logs, over all partitions. Files and connections have none.", newest("sum", "lag_messages", "lag"), LAG_STEPS, defaults={"noValue": "no Kafka"}),
        tile("Late", "Share of events that were too late for their windows, newest interval.", share("late", 'sum("events")'), SHARE_STEPS, unit="percentunit", defaults={"decimals": 2}),
        tile("Dead letters", "Share of all lines that could not be parsed, newest interval.", share("rejected", 'sum("events") + sum("rejected")'), SHARE_STEPS, unit="percentunit", defaults={"decimals": 2}),
        tile(
            "Last report", "When Tidewatch last reported its health: every ten seconds while it runs.",
            flux(
                """
from(bucket: v.defaultBucket)
    |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
    |> filter(fn: (r) => r._measurement == "tidewatch" and r._field == "events")
    |> last()
    |> group()
    |> max(column: "_time")
    |> map(fn: (r) => ({reported: int(v: r._time) / 1000000}))
""",
                ["reported"],
            ),
            steps("text"), unit="dateTimeFromNow", sparkline=False, defaults={"noValue": "never"},
        ),
        graph("Throughput by worker", "Events parsed per second by each worker, of whatever partition.", [per_second("events", "events", "worker")], unit="eps", stacked=True),
        graph("Watermark delay by partition", "Wall clock minus watermark of each partition. The highest line holds the windows.", [newest("max", "lag_ms", "delay", "topic partition")], unit="ms", **limits(DELAY_STEPS)),
        graph("Consumer lag by partition", "Kafka: records between the position and the end of each partition. It includes what waits for the allowed lateness. Thresholds: 10,000 and 100,000 over all partitions.", [newest("sum", "lag_messages", "lag", "topic partition")], stacked=True, **limits(LAG_STEPS)),
        graph(
            "Late events and dead letters", "Events too late for their windows, and lines that could not be parsed, per second.",
            [per_second("late", "late"), per_second("rejected", "rejected")], unit="eps", overrides=colours({"late": "orange", "rejected": "red"}),
        ),
        graph("Memory by process", "Resident memory of each process. Compare it with `memory` of the configuration: that bounds what the pipeline keeps; page, store and Kafka's client come on top.", [process("memory_bytes", "memory")], unit="bytes"),
        graph("Busiest worker by process", "Share of time that the busiest worker of each process spends in operators. Near 100 %, it cannot read faster. Nothing with --no-page.", [process("busy_max", "busy")], unit="percentunit", defaults={"min": 0, "max": 1}),
        table(
            "Partitions", "The newest state of each partition, most delayed first, with a row for each worker that read some of it. Counts are since the start of the process; only Kafka has records behind, in one of the rows.", PARTITIONS,
            ["topic", "partition", "worker", "lag_ms", "lag", "watermark", "events", "late", "rejected"],
            names={"topic": "Source", "partition": "Partition", "worker": "Worker", "lag_ms": "Watermark delay", "lag": "Records behind", "watermark": "Watermark", "events": "Events", "late": "Late", "rejected": "Dead letters"},
            overrides=[
                override("Watermark delay", unit="ms", thresholds=DELAY_STEPS, custom__cellOptions={"type": "color-text"}), override("Watermark", unit="dateTimeAsIso"),
                override("Partition", custom__width=420),
            ],
        ),
        Row("Bounds and allow lists"),
        table("Inexact results", "What could not be counted for lack of room, since the start. Empty is good: everything is exact.", INEXACT, ["inexact", "missed_events", "missed_values"], names={"inexact": "Result", "missed_events": "Missed events", "missed_values": "Missed values"}, width=12, defaults={"noValue": "everything is exact"}),
        table("Limited rules", "Findings that no alert tells of, since the start: beyond the strongest `max_findings` of a window, and those that began no alert as `max_open` of the rule were open. Empty is good: every finding counts.", LIMITED, ["rule", "findings", "windows", "unopened"], names={"rule": "Rule", "findings": "Findings beyond", "windows": "Windows with such", "unopened": "Began no alert"}, width=12, defaults={"noValue": "every finding counts"}),
        table("Allow lists", "Events that each allow list matched, since the start.", ALLOWED, ["entry", "reason", "events"], names={"entry": "Entry", "reason": "Reason", "events": "Events"}, width=12, overrides=[override("Entry", custom__width=70)]),
        table("Prevented findings", "Findings that allow lists kept back, by rule, since the start.", PREVENTED, ["rule", "prevented"], names={"rule": "Rule", "prevented": "Findings"}, width=12),
    ],
)

# ---- long term ----

PLACE = '"host" =~ /^${host:regex}$/'
LONG_HOST = HOST | {"datasource": LONG, "query": 'SHOW TAG VALUES FROM "http_stats_1h" WITH KEY = "host"'}


def long(measurement, parts, by="", where=PLACE, alias=""):
    fields = ", ".join(f'{text} AS "{name}"' for name, text in parts.items())
    group = f', "{by}"' if by else ""
    text = f'SELECT {fields} FROM "{measurement}" WHERE {where} AND $timeFilter GROUP BY time($__interval){group} fill(null)'
    return Query(text, list(parts), tags=[by] if by else [], source=LONG, alias=alias or (f"$tag_{by}" if by else "$col"))


# An hour's rps times 3600 are its requests: the mean over an interval's hours that have traffic, summed over hosts hour by hour.
LONG_RATE = Query(
    f'SELECT mean("2xx") AS "2xx", mean("3xx") AS "3xx", mean("4xx") AS "4xx", mean("5xx") AS "5xx" FROM (SELECT '
    + ", ".join(f'sum("status_{name}") / 3600 AS "{name}"' for name in STATUS)
    + f' FROM "http_stats_1h" WHERE {PLACE} AND $timeFilter GROUP BY time(1h) fill(none)) WHERE $timeFilter GROUP BY time($__interval) fill(null)',
    list(STATUS), source=LONG, alias="$col",
)
LONG_AVERAGE = long("http_stats_1h", {"average": 'sum("latency_sum") / sum("latency_requests")', "p95, worst minute window": 'max("latency_p95_max")'})

TRENDS = Board(
    "tidewatch-trends",
    "Tidewatch: long term",
    "Weeks and months, from the bucket of sums by hour. Its hours are complete about an hour after they end.",
    [LONG_HOST],
    [
        graph("Requests by status class", "Requests per second by class of the answer's status; mean of an interval's hours.", [LONG_RATE], unit="reqps", stacked=True, overrides=colours(STATUS), interval="1h", height=9),
        graph("5xx share by host", "Share of each host's requests answered with 5xx.", [long("http_stats_1h", {"5xx": 'sum("status_5xx") / sum("requests")'}, by="host")], unit="percentunit", interval="1h", height=9, defaults={"min": 0}),
        graph(
            "Latency", "Average over all requests that carry a duration, and the p95 of the slowest window of the slowest chosen host.", [LONG_AVERAGE], unit="ms", interval="1h",
            overrides=colours({"average": "text", "p95, worst minute window": "orange"}),
        ),
        graph("Bytes by host", "Bytes sent to clients per interval of the graph.", [long("http_stats_1h", {"bytes": 'sum("bytes")'}, by="host")], unit="bytes", stacked=True, bars=True, interval="1h", calculations=["sum"]),
        graph("Alerts by rule", "Alerts per interval of the graph; one that lasts over several hours counts in each.", [long("anomaly_1h", {"alerts": 'sum("alerts")'}, by="rule", where='"alerts" > 0 AND "host" =~ /^(\\*|${host:regex})$/')], stacked=True, bars=True, interval="1h", calculations=["sum"]),
        graph("Messages by severity", "Messages of error and application logs per interval of the graph.", [long("error_events_1h", {"messages": 'sum("count")'}, by="severity")], stacked=True, bars=True, interval="1h", overrides=colours(LOG_SEVERITY), calculations=["sum"]),
        table(
            "Hosts", "Figures of the time shown, host by host, from the sums by hour.",
            Query(
                'SELECT sum("requests") AS "requests", sum("status_5xx") / sum("requests") AS "share_5xx", sum("latency_sum") / sum("latency_requests") AS "latency", sum("bytes") AS "bytes", '
                f'max("clients_max") AS "clients" FROM "http_stats_1h" WHERE {PLACE} AND $timeFilter GROUP BY "host"',
                ["requests", "share_5xx", "latency", "bytes", "clients"], tags=["host"], source=LONG, table=True,
            ),
            ["host", "requests", "share_5xx", "latency", "bytes", "clients"],
            names={"host": "Host", "requests": "Requests", "share_5xx": "5xx", "latency": "Latency, average", "bytes": "Bytes", "clients": "Clients, most in a window"},
            overrides=[override("5xx", unit="percentunit", decimals=2), override("Latency, average", unit="ms", decimals=1), override("Bytes", unit="bytes")], sort="-requests", width=12, interval="1h",
        ),
        graph("Requests by method", "Requests by method per interval of the graph.", [long("http_methods_1h", {"requests": 'sum("requests")'}, by="method")], stacked=True, bars=True, interval="1h", calculations=["sum"], height=9),
    ],
    time="now-30d",
    refresh="15m",
)
