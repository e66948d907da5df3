// Series of the API and open windows of the stream, merged into what charts draw.
//
// - A window's newest event says everything about it: merging is replacing, never adding to what was there.
// - All hosts together can be summed only for windows whose hosts were all heard: those that began after the stream did.
//   Older rows are the API's, read again every few seconds.

import type { Cell, LiveWindow, Series, Status } from "./types";

/** Windows kept from the stream: more than the allowed lateness corrects, and bounded. */
const KEEP_WINDOWS = 60;

/** Open and corrected windows by start, then host. */
export class LiveWindows {
  private windows = new Map<number, Map<string, LiveWindow>>();
  /** Windows that start later have all their hosts. */
  private completeAfter = Infinity;
  private behind = false;

  /** A stream (re)started, when the newest event was of `newest`: of windows begun by then, hosts may be missing. */
  restart(newest: number | null): void {
    this.windows.clear();
    this.completeAfter = newest ?? -Infinity;
  }

  /**
   * What came at once, while the pipeline stands so. While it reads history, the windows of many hosts run past faster than
   * they can be told: each host has others, so none of them are taken.
   */
  take(heard: readonly LiveWindow[], now: Pick<Status, "catching_up" | "last_event"> | null): void {
    const behind = Boolean(now?.catching_up);
    if (behind || this.behind) this.restart(now?.last_event ?? null);
    else for (const window of heard) this.push(window);
    this.behind = behind;
  }

  push(window: LiveWindow): void {
    if (!Number.isFinite(window.time)) return;
    let hosts = this.windows.get(window.time);
    if (!hosts) {
      hosts = new Map();
      this.windows.set(window.time, hosts);
      if (this.windows.size > KEEP_WINDOWS) this.windows.delete(Math.min(...this.windows.keys()));
    }
    hosts.set(window.host, window);
  }

  /** Rows by start for one host, or for all of `hosts` together where they are complete. */
  rows(host: string, hosts: readonly string[], columns: readonly string[]): Map<number, Cell[]> {
    const rows = new Map<number, Cell[]>();
    for (const [time, heard] of this.windows) {
      if (host) {
        const window = heard.get(host);
        if (window) rows.set(time, combine(time, [window], columns));
      } else if (time > this.completeAfter || hosts.every((name) => heard.has(name))) {
        rows.set(time, combine(time, [...heard.values()], columns));
      }
    }
    return rows;
  }

  /** Length of the windows, from requests and requests per second; nothing where no window had requests. */
  size(): number | null {
    for (const hosts of this.windows.values()) {
      for (const window of hosts.values()) {
        if (window.requests > 0 && window.rps > 0) return Math.round((window.requests / window.rps) * 1000);
      }
    }
    return null;
  }
}

const SUMS = new Set([
  "requests",
  "rps",
  "bytes",
  "throughput",
  "status_2xx",
  "status_3xx",
  "status_4xx",
  "status_5xx",
  "anomalies",
]);

/** One row out of the windows of several hosts: sums; ratios of sums; averages by requests; of all else the highest. */
export function combine(time: number, windows: readonly LiveWindow[], columns: readonly string[]): Cell[] {
  const field = (window: LiveWindow, name: string): Cell => {
    const value = (window as unknown as Record<string, unknown>)[name];
    return typeof value === "number" && Number.isFinite(value) ? value : null;
  };
  const sum = (name: string): Cell => {
    const values = windows.map((window) => field(window, name)).filter((value) => value !== null);
    return values.length ? values.reduce((a, b) => a + b, 0) : null;
  };
  return columns.map((name) => {
    if (name === "time") return time;
    if (SUMS.has(name)) return sum(name);
    if (name === "error_ratio") {
      const requests = sum("requests");
      return requests ? (sum("status_5xx") ?? 0) / requests : null;
    }
    const present = windows.filter((window) => field(window, name) !== null);
    if (!present.length) return null;
    if (name === "latency_avg") {
      const weight = present.reduce((total, window) => total + window.requests, 0);
      return weight ? present.reduce((total, window) => total + (field(window, name) ?? 0) * window.requests, 0) / weight : null;
    }
    return Math.max(...present.map((window) => field(window, name) ?? 0));
  });
}

/** The rows of `tail` in place of those of `base` from its first on; rows before `from` are dropped. */
export function splice(base: Series, tail: Series, from: number): Series {
  if (tail.step !== base.step || tail.columns.join() !== base.columns.join()) return tail;
  const start = tail.from;
  const kept = base.rows.filter((row) => (row[0] ?? 0) >= from && (row[0] ?? 0) < start);
  return { ...base, begins: tail.begins ?? base.begins, from, to: Math.max(base.to, tail.to), rows: [...kept, ...tail.rows.filter((row) => (row[0] ?? 0) >= from)] };
}

/** From when a series that reaches up to `to` is asked again: what may have been corrected, and all that came since it was asked. */
export function tailFrom(base: Series, to: number, from: number, corrected: number): number {
  // Time went back: another log.
  if (to < base.to - corrected) return from;
  const start = Math.min(base.to, to) - Math.max(corrected, 3 * base.step);
  return Math.max(from, Math.floor(start / base.step) * base.step);
}

/** `known`: the event time of the newest event that counts in the last row. */
export interface Known extends Series {
  known: number;
}

/** What is counted is told within a second, while the newest event's time is known at once. */
export const BEHIND_MS = 1000;

/** A series with the live windows in place; only where a row is one window. */
export function withLive(series: Series, live: LiveWindows, host: string, hosts: readonly string[], from: number, to: number): Known {
  let known = series.to - BEHIND_MS;
  const rows = new Map<number, Cell[]>();
  for (const row of series.rows) if (row[0] !== null && row[0] !== undefined) rows.set(row[0], row);
  if (live.size() === series.step) {
    for (const [time, row] of live.rows(host, hosts, series.columns)) {
      const before = rows.get(time);
      // The stream says nothing of anomalies where a window carries none.
      rows.set(time, before ? row.map((cell, at) => cell ?? before[at] ?? null) : row);
      known = to - BEHIND_MS;
    }
  }
  const sorted = [...rows.values()].filter((row) => (row[0] ?? 0) > from - series.step && (row[0] ?? 0) < to);
  sorted.sort((a, b) => (a[0] ?? 0) - (b[0] ?? 0));
  // Nothing was stored yet when it was asked: the data begins with the stream.
  const begins = series.begins === null ? sorted[0]?.[0] : series.begins;
  return { ...series, from, to, rows: sorted, known, begins };
}

/** One column of a series; where the series has no such column, nothing throughout. */
export function column(series: { columns: string[]; rows: Cell[][] }, name: string): Cell[] {
  const at = series.columns.indexOf(name);
  return series.rows.map((row) => (at < 0 ? null : (row[at] ?? null)));
}

/** A line for each class of status; for 1xx, which requests without a status are counted under, where there are some. */
export function classLines(series: { columns: string[]; rows: Cell[][] }): { name: string; colour: string; values: Cell[] }[] {
  const lines = ["2xx", "3xx", "4xx", "5xx"].map((name) => ({ name, colour: `--status-${name}`, values: column(series, `status_${name}`) }));
  const other = { name: "1xx or none", colour: "--chart-3", values: column(series, "status_1xx") };
  return other.values.some((value) => value) ? [other, ...lines] : lines;
}

/** Times and values with nothing where rows are missing, so that a line breaks instead of inventing a slope. */
export function withGaps(times: number[], step: number, columns: Cell[][]): { times: number[]; columns: Cell[][] } {
  const out = { times: [] as number[], columns: columns.map(() => [] as Cell[]) };
  times.forEach((time, at) => {
    const before = times[at - 1];
    if (before !== undefined && time - before > step * 1.5) {
      out.times.push(before + step);
      for (const values of out.columns) values.push(null);
    }
    out.times.push(time);
    columns.forEach((values, index) => out.columns[index]?.push(values[at] ?? null));
  });
  return out;
}

/** Sum, highest and last of a column; nothing of nothing. */
export function summary(values: Cell[]): { sum: number; max: Cell; min: Cell; last: Cell } {
  let sum = 0;
  let max: Cell = null;
  let min: Cell = null;
  let last: Cell = null;
  for (const value of values) {
    if (value === null) continue;
    sum += value;
    max = max === null ? value : Math.max(max, value);
    min = min === null ? value : Math.min(min, value);
    last = value;
  }
  return { sum, max, min, last };
}

/** Counts of `times` per step and class, for charts made on the page. */
export function histogram(items: readonly { time: number; kind: string }[], kinds: readonly string[], from: number, to: number, bins: number) {
  const step = niceStep((to - from) / Math.max(1, bins));
  const start = Math.floor(from / step) * step;
  const times: number[] = [];
  for (let time = start; time < to; time += step) times.push(time);
  const counts = kinds.map(() => times.map(() => 0));
  for (const { time, kind } of items) {
    const row = counts[kinds.indexOf(kind)];
    const at = Math.floor((time - start) / step);
    if (row && row[at] !== undefined) row[at] = (row[at] ?? 0) + 1;
  }
  return { times, step, counts };
}

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400];

/** The least step people count in that is no shorter. */
export function niceStep(ms: number): number {
  const seconds = ms / 1000;
  return (STEPS.find((step) => step >= seconds) ?? Math.ceil(seconds / 86_400) * 86_400) * 1000;
}

/** Data younger than the range fills the chart from its own beginning: a minute of it is no sliver at the edge. */
export function fromFirst(whole: Known, least = 60_000): Known {
  // Findings of long windows begin before the first request did: no zeros before there was anything.
  const requests = column(whole, "requests");
  const begin = requests.findIndex((value) => value !== 0);
  const series = begin > 0 ? { ...whole, rows: whole.rows.slice(begin) } : whole;
  const first = series.rows[0]?.[0];
  if (first === null || first === undefined || first <= series.from + series.step) return series;
  return { ...series, from: Math.max(series.from, Math.min(first, series.to - least)) };
}

/** How old the newest event is, where that is longer than it takes to see one: nothing has come since, or only what is dated earlier. */
export function quietFor(now: Pick<Status, "mode" | "now" | "newest" | "last_event" | "catching_up">, window: number): number | null {
  const newest = now.newest ?? now.last_event;
  if (newest === null || now.mode === "store" || now.catching_up) return null;
  const age = now.now - newest;
  return age > Math.max(60_000, 3 * window) ? age : null;
}

/** Whether the data begins within a row: reading may have begun in its middle. */
function beginsIn({ begins, step }: Series, row: Cell[] | undefined): boolean {
  const time = row?.[0];
  return begins != null && time != null && time <= begins && begins < time + step;
}

/** Whether all of a row's time is known: it is over, and the data begins before it. */
export function isWhole(series: Known, row: Cell[]): boolean {
  return (row[0] ?? Infinity) + series.step <= series.known && !beginsIn(series, row);
}

/** The newest whole row, or the newest that is over, or the newest at all: how far the series is known decides. */
export function newestWhole(series: Known): Cell[] | null {
  const { rows, known, step } = series;
  const newest = (fits: (row: Cell[]) => boolean) => rows.filter(fits).at(-1);
  return newest((row) => isWhole(series, row)) ?? newest(([time]) => (time ?? Infinity) + step <= known) ?? rows[rows.length - 1] ?? null;
}

/** Its rows up to the newest whole one: half a window would look like an outage, and scaled up like what it may not become. */
export function untilWhole(series: Known): Known {
  const whole = newestWhole(series)?.[0] ?? Infinity;
  return { ...series, rows: series.rows.filter((row) => (row[0] ?? 0) <= whole) };
}

/** Its rows without the one in which the data begins, where others follow at once: less traffic would rise to what it was all along. */
export function sinceWhole(series: Known): Known {
  const [first, second] = series.rows;
  const isFollowed = (second?.[0] ?? Infinity) - (first?.[0] ?? 0) <= series.step;
  return isFollowed && beginsIn(series, first) && newestWhole(series) !== first ? { ...series, rows: series.rows.slice(1) } : series;
}
