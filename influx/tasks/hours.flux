// Sums by hour in the long-term bucket: http_stats from its minutes there, methods, errors and findings from the bucket
// Tidewatch writes to.
//
// Sums are summed, ratios and averages computed from the sums, maxima are maxima. A run computes whole hours of the last
// day again and rewrites their points, so that late corrections arrive, and running it twice changes nothing.
// `tidewatch setup influx` puts in the names of the buckets; to fill in older time by hand, change `back` and run it once.
import "date"
import "influxdata/influxdb"

option task = {name: "tidewatch hours", every: 1h, offset: 15m}

raw = "tidewatch"
long = "tidewatch_long"
back = 26h
stop = date.truncate(t: now(), unit: 1h)
start = date.sub(d: back, from: stop)

points = (bucket, measurement) =>
    from(bucket: bucket)
        |> range(start: start, stop: stop)
        |> filter(fn: (r) => r._measurement == measurement)
by_hour = (tables=<-, fn) =>
    tables
        |> aggregateWindow(every: 1h, fn: fn, createEmpty: false, timeSrc: "_start")
wide = (tables=<-) =>
    tables
        |> group(columns: ["_measurement", "host"])
        |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
minutes = points(bucket: long, measurement: "http_stats_1m")

minutes
    |> filter(fn: (r) => r._field == "bytes" or r._field == "requests" or r._field =~ /^status_[2345]xx$/)
    |> by_hour(fn: sum)
    |> wide()
    |> map(
        fn: (r) =>
            ({r with
                _measurement: "http_stats_1h",
                error_ratio: float(v: r.status_5xx) / float(v: r.requests),
                rps: float(v: r.requests) / 3600.0,
                throughput: float(v: r.bytes) / 3600.0,
            }),
    )
    |> influxdb.wideTo(bucket: long)
    |> yield(name: "counts")

minutes
    |> filter(fn: (r) => r._field == "latency_requests" or r._field == "latency_sum")
    |> toFloat()
    |> by_hour(fn: sum)
    |> wide()
    |> map(
        fn: (r) =>
            ({r with
                _measurement: "http_stats_1h",
                latency_avg: r.latency_sum / r.latency_requests,
                latency_requests: int(v: r.latency_requests),
            }),
    )
    |> influxdb.wideTo(bucket: long)
    |> yield(name: "averages")

minutes
    |> filter(fn: (r) => r._field =~ /^latency_(max|p95_max|p99_max)$/)
    |> by_hour(fn: max)
    |> set(key: "_measurement", value: "http_stats_1h")
    |> to(bucket: long)
    |> yield(name: "latencies")
minutes
    |> filter(fn: (r) => r._field == "clients_max")
    |> by_hour(fn: max)
    |> set(key: "_measurement", value: "http_stats_1h")
    |> to(bucket: long)
    |> yield(name: "clients")

points(bucket: raw, measurement: "http_methods")
    |> filter(fn: (r) => r._field == "requests")
    |> by_hour(fn: sum)
    |> set(key: "_measurement", value: "http_methods_1h")
    |> to(bucket: long)
    |> yield(name: "methods")

errors = points(bucket: raw, measurement: "error_events")

errors
    |> filter(fn: (r) => r._field == "count")
    |> by_hour(fn: sum)
    |> set(key: "_measurement", value: "error_events_1h")
    |> to(bucket: long)
    |> yield(name: "errors")
errors
    |> filter(fn: (r) => r._field == "example")
    |> by_hour(fn: last)
    |> set(key: "_measurement", value: "error_events_1h")
    |> to(bucket: long)
    |> yield(name: "examples")

// Findings by rule and host. One that was withdrawn or is of a rule in shadow mode counts as none, also where it was the
// hour's only one: then the hour's point is rewritten with zeros. `-` is the id of none: an empty text is null to `unique`.
findings =
    points(bucket: raw, measurement: "anomaly")
        |> filter(fn: (r) => r._field == "id" or r._field == "score" or r._field == "state")
        |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
        |> group(columns: ["_measurement", "host", "rule"])
        |> map(
            fn: (r) =>
                ({r with
                    one: if r.state == "firing" then 1 else 0,
                    alert: if r.state == "firing" then r.id else "-",
                    strength: if r.state == "firing" then r.score else 0.0,
                }),
        )
        |> window(every: 1h)

findings
    |> sum(column: "one")
    |> rename(columns: {one: "_value"})
    |> set(key: "_field", value: "findings")
    |> set(key: "_measurement", value: "anomaly_1h")
    |> duplicate(column: "_start", as: "_time")
    |> to(bucket: long)
    |> yield(name: "findings")
findings
    |> unique(column: "alert")
    |> map(fn: (r) => ({r with _value: if r.alert == "-" then 0 else 1}))
    |> sum()
    |> set(key: "_field", value: "alerts")
    |> set(key: "_measurement", value: "anomaly_1h")
    |> duplicate(column: "_start", as: "_time")
    |> to(bucket: long)
    |> yield(name: "alerts")
findings
    |> max(column: "strength")
    |> map(fn: (r) => ({_start: r._start, host: r.host, rule: r.rule, _measurement: "anomaly_1h", _field: "score_max", _value: r.strength}))
    |> group(columns: ["_start", "_measurement", "_field", "host", "rule"])
    |> duplicate(column: "_start", as: "_time")
    |> to(bucket: long)
    |> yield(name: "scores")
