// What the API answers (docs/openapi.yaml). Times are ms since the epoch. All text in here may be written by attackers.

export interface Status {
  version: string;
  mode: "run" | "demo" | "store";
  started: number;
  now: number;
  first_event: number | null;
  last_event: number | null;
  /** The same, or where the store's data ends as long as this run read nothing. */
  newest?: number | null;
  durable: number | null;
  hosts: string[];
  events: number;
  rejected: number;
  duplicates: number;
  missing: number;
  lost_bytes: number;
  late: number;
  future: number;
  rate: number;
  /** `shadow_…`: of rules in shadow mode, among none of the others. */
  alerts: { fired: number; firing: number; critical: number; shadow_fired?: number; shadow_firing?: number };
  anomaly_rate: number;
  workers: number;
  processes: number;
  memory_bytes: number;
  /** Sources that read topics of Kafka. */
  sources?: TopicSource[];
  sinks: Sink[];
  routes?: Route[];
  /** Whether what was before can be asked: there is a store. */
  history?: boolean;
  /** `without`: processes whose requests do not come in at this moment. */
  requests: { enabled: boolean; kept: number; from: number | null; sampled: boolean; partial?: boolean; without?: number[] };
  /** Whether a GeoIP file says where clients are. */
  countries?: boolean;
  /** While what was in the logs at the start is read: until then only closed windows are shown. */
  catching_up?: CatchingUp | null;
}

export interface CatchingUp {
  for_ms: number;
  /** How much is read, 0 to 1. */
  share: number;
  partitions: number;
  records_left: number;
  bytes_left: number;
}

export interface TopicSource {
  name: string;
  partitions: number;
  /** Of how many of them no broker answers. */
  away: number;
}

export interface Sink {
  name: string;
  state: "ok" | "away" | "full";
  waiting_bytes: number;
  dropped_bytes: number;
  refused: number;
}

/** Who is told of alerts. */
export interface Route {
  name: string;
  works: boolean;
  error: string;
  pending: number;
}

export type Cell = number | null;

export interface Series {
  from: number;
  to: number;
  step: number;
  columns: string[];
  rows: Cell[][];
  /** Start of the oldest window that is kept; null: none is. */
  begins?: number | null;
  approximate?: string[];
  truncated?: boolean;
}

/** One open or corrected window of one host: the fields of `http_stats`. */
export interface LiveWindow {
  time: number;
  host: string;
  requests: number;
  rps: number;
  bytes: number;
  throughput: number;
  clients: number;
  error_ratio: number;
  status_2xx: number;
  status_3xx: number;
  status_4xx: number;
  status_5xx: number;
  latency_avg?: number | null;
  latency_p50?: number | null;
  latency_p95?: number | null;
  latency_p99?: number | null;
  latency_max?: number | null;
  anomalies?: number | null;
}

export type TopKind =
  | "paths"
  | "slow_paths"
  | "clients"
  | "agents"
  | "referrers"
  | "methods"
  | "hosts"
  | "countries";

export interface TopRow {
  name: string;
  requests: number;
  /** Missing in lists of one client's names. */
  share?: number | null;
  bytes?: number | null;
  status_4xx?: number | null;
  status_5xx?: number | null;
  latency_p95?: number | null;
  bot?: boolean | null;
}

export interface Tops {
  kind: TopKind;
  rows: TopRow[];
  truncated: boolean;
  /** Of agents: the share of all requests that bots made, whether they rank or not. */
  bot_share?: number;
  /** Merged from the rankings of many windows: what was in none of them is not counted. */
  approximate?: boolean;
}

export interface ErrorRow {
  host: string;
  severity: string;
  pattern: string;
  count: number;
  example: string;
  last: number;
}

export interface Errors {
  rows: ErrorRow[];
  series: { columns: string[]; rows: Cell[][]; step?: number };
  truncated?: boolean;
}

export type Severity = "info" | "low" | "medium" | "high" | "critical";

export interface Alert {
  id: string;
  key: string;
  rule: string;
  severity: Severity;
  host?: string | null;
  subject: Record<string, string>;
  first: number;
  last: number;
  fired: number;
  value: number;
  threshold: number;
  score: number;
  findings: number;
  state: "firing" | "resolved" | "withdrawn";
  evidence: string[];
  mode: "live" | "shadow";
  replaces?: string | null;
  /** Left out where an alert comes over the stream as it changes: then what was known of it holds. */
  acknowledged?: { at: number; by: string; note: string } | null;
  silenced?: boolean;
}

export interface Silence {
  /** None of one that the configuration makes: it ends only there. */
  id: number | null;
  rule?: string | null;
  subject?: Record<string, string> | null;
  from?: number | null;
  until: number;
  reason: string;
  created: number | null;
  configured: boolean;
}

export interface Rule {
  name: string;
  enabled: boolean;
  mode: "live" | "shadow";
  severity: Severity;
  measure: string;
  where?: unknown;
  group_by: string[];
  window_ms: number;
  hop_ms: number;
  threshold: number;
  at_least?: number | null;
  baseline_factor?: number | null;
  ceiling?: number | null;
  resolve_after_ms: number;
  firing: number;
  fired: number;
  limited?: number;
  unopened?: number;
  prevented?: number;
}

export interface Allow {
  where: string;
  rules: string[];
  until: number | null;
  reason: string;
  events: number;
}

export interface RequestRow {
  time: number;
  host: string;
  client: string;
  method: string;
  path: string;
  query?: string | null;
  status: number;
  bytes: number;
  latency_ms?: number | null;
  agent?: string | null;
  referrer?: string | null;
}

export interface Requests {
  rows: RequestRow[];
  sampled: boolean;
  from: number | null;
  truncated: boolean;
  /** What to ask for as `before` to go on, also where the search ran out of time before it found anything. */
  next: string | null;
}

export interface ClientView {
  alerts: Alert[];
  /** Whether older ones may not have been looked at. */
  alerts_truncated?: boolean;
  series: { columns: string[]; rows: Cell[][]; step?: number };
  paths: TopRow[];
  agents: TopRow[];
  first: number | null;
  last: number | null;
  requests: RequestRow[];
  /** How many are kept and were looked at; of a sample, all counts are more: estimates. */
  kept: number;
  sampled: boolean;
  /** One in so many is kept, where most were left out. */
  one_in: number;
  /** Whether more requests were made than were looked at. */
  truncated?: boolean;
}

export type HeldWhy = "slow" | "following" | "behind" | "idle" | "future" | "back-pressured" | "aligned" | "disconnected" | "starting";

export interface Partition {
  process: number;
  source: string;
  partition: string;
  watermark: number | null;
  last_event: number | null;
  watermark_delay_ms: number | null;
  lag_messages?: number | null;
  state: string;
  since?: number | null;
  events: number;
  rejected: number;
  late: number;
  future: number;
}

export interface Time {
  frontier: number | null;
  held_by: { process: number; source: string; partition: string; since: number; why: HeldWhy } | null;
  partitions: Partition[];
  truncated?: boolean;
}

export interface Operator {
  process: number;
  worker: number;
  id: number;
  address: number[] | string;
  name: string;
  busy_ms: number;
  share: number;
  activations: number;
  records_in?: number | null;
  records_out?: number | null;
}

export interface Dataflow {
  workers: { process: number; index: number; busy: number; parked: number; memory_bytes?: number | null }[];
  operators: Operator[];
  frontiers: { name: string; time: number | null }[];
  truncated?: boolean;
}

export interface Rows<T> {
  rows: T[];
  truncated?: boolean;
}
