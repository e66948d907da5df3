// What the page shows, as the address says it: `#/view[/argument]?host=…&range=…&filter=…`. A link shared is a view shared.

export const VIEWS = ["overview", "traffic", "security", "errors", "requests", "time", "dataflow", "graph", "client"] as const;
export type View = (typeof VIEWS)[number];

/** The newest `ms` of data, or a fixed stretch. */
export type Range = { last: number } | { from: number; to: number };

export interface Route {
  view: View;
  /** The client of the view `client`. */
  argument: string;
  host: string;
  range: Range;
  /** Follows the newest data. */
  live: boolean;
  /** Where the newest data stood when it was paused, ms; none while it follows, of a fixed stretch, and where that is not known yet. */
  until: number | null;
  filters: Record<string, string>;
}

const MINUTE = 60_000;
/** What the range selector offers. */
export const RANGES: readonly (readonly [string, number, string])[] = [
  ["5m", 5 * MINUTE, "5 minutes"],
  ["15m", 15 * MINUTE, "15 minutes"],
  ["1h", 60 * MINUTE, "1 hour"],
  ["6h", 360 * MINUTE, "6 hours"],
  ["24h", 1440 * MINUTE, "24 hours"],
  ["7d", 7 * 1440 * MINUTE, "7 days"],
  ["30d", 30 * 1440 * MINUTE, "30 days"],
];
export const DEFAULT_RANGE: Range = { last: 15 * MINUTE };

const UNITS: Record<string, number> = { s: 1000, m: MINUTE, h: 60 * MINUTE, d: 1440 * MINUTE };
const MONTHS = 400 * 1440 * MINUTE;

/** `15m` → ms; nothing where it is no length of time, or longer than a year and a bit. */
export function parseLength(text: string): number | null {
  const found = /^(\d{1,8})([smhd])$/.exec(text);
  if (!found) return null;
  const ms = Number(found[1]) * (UNITS[found[2] ?? ""] ?? 0);
  return ms > 0 && ms <= MONTHS ? ms : null;
}

/** The shortest text that `parseLength` reads back. */
export function showLength(ms: number): string {
  for (const unit of ["d", "h", "m"] as const) {
    const size = UNITS[unit] ?? 1;
    // 24h stays 24h: people say it so.
    if (ms % size === 0 && (unit !== "d" || ms / size > 1)) return `${ms / size}${unit}`;
  }
  return `${Math.max(1, Math.round(ms / 1000))}s`;
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

const RESERVED = new Set(["host", "range", "from", "to", "paused"]);

/** Anything a person may type gives a route. */
export function parseRoute(hash: string): Route {
  const [place = "", search = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [name = "", ...rest] = place.split("/");
  const params = new URLSearchParams(search);
  const known = (VIEWS as readonly string[]).includes(name) ? (name as View) : "overview";
  const argument = decode(rest.join("/"));
  const view = known === "client" && argument === "" ? "overview" : known;
  const [from, to] = [params.get("from"), params.get("to")].map((text) => (text !== null && /^\d{1,15}$/.test(text) ? Number(text) : null));
  const last = parseLength(params.get("range") ?? "");
  const fixed = from !== null && from !== undefined && to !== null && to !== undefined && from < to;
  const paused = params.get("paused");
  const filters: Record<string, string> = {};
  for (const [key, value] of params) if (!RESERVED.has(key) && value !== "") filters[key] = value;
  return {
    view,
    argument: view === "client" ? argument : "",
    host: params.get("host") ?? "",
    range: fixed ? { from, to } : last ? { last } : DEFAULT_RANGE,
    live: !fixed && paused === null,
    // `1` is no time: where it is, whoever opens the link finds out.
    until: !fixed && paused !== null && /^\d{2,15}$/.test(paused) ? Number(paused) : null,
    filters,
  };
}

/** The address of a route; defaults are left out. */
export function showRoute(route: Route): string {
  const params = new URLSearchParams();
  if (route.host) params.set("host", route.host);
  if ("last" in route.range) {
    if (!sameRange(route.range, DEFAULT_RANGE)) params.set("range", showLength(route.range.last));
    if (!route.live) params.set("paused", String(route.until ?? 1));
  } else {
    params.set("from", String(route.range.from));
    params.set("to", String(route.range.to));
  }
  for (const key of Object.keys(route.filters).sort()) {
    const value = route.filters[key];
    if (value && !RESERVED.has(key)) params.set(key, value);
  }
  const search = params.toString();
  const argument = route.argument ? `/${encodeURIComponent(route.argument)}` : "";
  return `#/${route.view}${argument}${search ? `?${search}` : ""}`;
}

export function sameRange(a: Range, b: Range): boolean {
  return "last" in a ? "last" in b && a.last === b.last : "from" in b && a.from === b.from && a.to === b.to;
}
