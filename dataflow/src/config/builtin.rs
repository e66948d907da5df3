//! The built-in rules, as data: what a user could have written, in the language users write.
//!
//! Read by the same reader as the configuration; docs/RULES.md says what each part means.

/// The built-in rules as a configuration.
pub const RULES: &str = r#"
# Requests of one client.
[[rule]]
name = "ip-spike"
where = { kind = "access" }
group_by = ["client_ip"]
measure = "count"
window = "10s"
hop = "1s"
threshold = 100
resolve_after = "1m"
severity = "high"

# The share of 5xx of a host, against its own past, a floor and a ceiling.
[[rule]]
name = "error-surge"
where = { kind = "access" }
group_by = ["host"]
measure = "ratio({status|gte=500})"
window = "1m"
hop = "10s"
threshold = 0.05
baseline_factor = 3
ceiling = 0.15
at_least = 50
resolve_after = "2m"
severity = "high"

# Paths that are not there, asked for by one client.
[[rule]]
name = "path-scan"
where = { status = [404, 410] }
group_by = ["client_ip"]
measure = "distinct(path)"
window = "1m"
hop = "10s"
threshold = 20
resolve_after = "5m"
severity = "high"

# Ports one client asked for, where the log carries the port.
[[rule]]
name = "port-scan"
group_by = ["client_ip"]
measure = "distinct(port)"
window = "1m"
hop = "10s"
threshold = 10
resolve_after = "5m"
severity = "high"

# The first message of its kind that is critical or worse.
[[rule]]
name = "error-log"
where = { severity = ["crit", "alert", "emerg"] }
group_by = ["host", "pattern"]
measure = "count"
window = "1m"
hop = "10s"
threshold = 1
resolve_after = "1h"
severity = "high"

# Many errors of one host.
[[rule]]
name = "error-log-burst"
where = { severity = "error" }
group_by = ["host"]
measure = "count"
window = "1m"
hop = "10s"
threshold = 100
resolve_after = "5m"
severity = "medium"

# Paths this site never served, that several clients ask for without having followed a link. What browsers and
# well-behaved crawlers ask for by themselves does not count.
[[rule]]
name = "dark-paths"
where = { "status|gte" = 400, "status|lt" = 500, "referrer|exists" = false, not = { path = ["/favicon.ico", "/robots.txt", "/apple-touch-icon*", "/sitemap.xml", "/ads.txt", "/.well-known/*"] } }
group_by = ["client_ip"]
measure = "dark_paths(2)"
window = "1h"
hop = "10m"
threshold = 2
resolve_after = "1h"
severity = "low"
"#;
