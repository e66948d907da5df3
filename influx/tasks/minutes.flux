// Sums of http_stats by minute, from the bucket Tidewatch writes to into the long-term bucket.
//
// Sums are summed, ratios and averages computed from the sums, maxima are maxima. A run computes whole minutes of the
// last hours again and rewrites their points, so that late corrections arrive, and running it twice changes nothing.
// `tidewatch setup influx` puts in the names of the buckets; to fill in older time by hand, change `back` and run it once.
import "date"
import "influxdata/influxdb"

option task = {name: "tidewatch minutes", every: 10m, offset: 3m}

raw = "tidewatch"
long = "tidewatch_long"
back = 3h
stop = date.truncate(t: now(), unit: 1m)
start = date.sub(d: back, from: stop)

points =
    from(bucket: raw)
        |> range(start: start, stop: stop)
        |> filter(fn: (r) => r._measurement == "http_stats")
by_minute = (tables=<-, fn) =>
    tables
        |> aggregateWindow(every: 1m, fn: fn, createEmpty: false, timeSrc: "_start")
wide = (tables=<-) =>
    tables
        |> group(columns: ["_measurement", "host"])
        |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")

points
    |> filter(fn: (r) => r._field == "bytes" or r._field == "requests" or r._field =~ /^status_[2345]xx$/)
    |> by_minute(fn: sum)
    |> wide()
    |> map(
        fn: (r) =>
            ({r with
                _measurement: "http_stats_1m",
                error_ratio: float(v: r.status_5xx) / float(v: r.requests),
                rps: float(v: r.requests) / 60.0,
                throughput: float(v: r.bytes) / 60.0,
            }),
    )
    |> influxdb.wideTo(bucket: long)
    |> yield(name: "counts")

// The average is weighted by the requests of its windows, which is exact where every request carries a duration.
points
    |> filter(fn: (r) => r._field == "latency_avg" or r._field == "requests")
    |> toFloat()
    |> wide()
    |> filter(fn: (r) => exists r.latency_avg)
    |> map(fn: (r) => ({r with latency_sum: r.latency_avg * r.requests}))
    |> window(every: 1m)
    |> reduce(
        identity: {latency_requests: 0.0, latency_sum: 0.0},
        fn: (r, accumulator) =>
            ({
                latency_requests: accumulator.latency_requests + r.requests,
                latency_sum: accumulator.latency_sum + r.latency_sum,
            }),
    )
    |> duplicate(column: "_start", as: "_time")
    |> group(columns: ["_measurement", "host"])
    |> drop(columns: ["_start", "_stop"])
    |> map(
        fn: (r) =>
            ({r with
                _measurement: "http_stats_1m",
                latency_avg: r.latency_sum / r.latency_requests,
                latency_requests: int(v: r.latency_requests),
            }),
    )
    |> influxdb.wideTo(bucket: long)
    |> yield(name: "averages")

// Quantiles and distinct clients of several windows cannot be put together: their largest value is kept, and named so.
points
    |> filter(fn: (r) => r._field == "latency_max" or r._field == "latency_p95" or r._field == "latency_p99")
    |> by_minute(fn: max)
    |> map(
        fn: (r) =>
            ({r with
                _measurement: "http_stats_1m",
                _field: if r._field == "latency_max" then r._field else r._field + "_max",
            }),
    )
    |> to(bucket: long)
    |> yield(name: "latencies")
points
    |> filter(fn: (r) => r._field == "clients")
    |> by_minute(fn: max)
    |> map(fn: (r) => ({r with _measurement: "http_stats_1m", _field: "clients_max"}))
    |> to(bucket: long)
    |> yield(name: "clients")
