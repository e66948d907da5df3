import { describe, expect, test } from "vitest";
import { classLines, column, combine, fromFirst, histogram, isWhole, LiveWindows, newestWhole, niceStep, quietFor, sinceWhole, splice, tailFrom, untilWhole, withGaps, withLive } from "../src/series";
import type { Cell, LiveWindow, Series } from "../src/types";

const COLUMNS = ["time", "requests", "rps", "latency_avg", "latency_max", "error_ratio", "clients", "anomalies"];

function window(time: number, host: string, requests: number, more: Partial<LiveWindow> = {}): LiveWindow {
  return { time, host, requests, rps: requests / 10, bytes: 0, throughput: 0, clients: requests / 2, error_ratio: 0, status_2xx: requests, status_3xx: 0, status_4xx: 0, status_5xx: 0, ...more };
}

function series(from: number, to: number, rows: Cell[][], step = 10_000): Series {
  return { from, to, step, columns: COLUMNS, rows };
}

const row = (time: number, requests: number): Cell[] => [time, requests, requests / 10, null, null, 0, null, null];

describe("classes of status", () => {
  const columns = ["time", "status_1xx", "status_2xx", "status_3xx", "status_4xx", "status_5xx"];
  const sums = (rows: Cell[][]) => classLines({ columns, rows }).map((line) => [line.name, line.values.reduce<number>((sum, value) => sum + (value ?? 0), 0)]);
  test("each has a line", () => expect(sums([[0, 0, 1, 2, 3, 4], [1, 0, 1, 0, 0, 0]])).toEqual([["2xx", 2], ["3xx", 2], ["4xx", 3], ["5xx", 4]]));
  test("requests of none of them count too", () => expect(sums([[0, 450, 0, 0, 0, 1]])).toEqual([["1xx or none", 450], ["2xx", 0], ["3xx", 0], ["4xx", 0], ["5xx", 1]]));
});

describe("several hosts in one row", () => {
  test("sums, averages by requests, shares of sums, the highest of the rest", () => {
    const windows = [
      window(0, "a", 100, { latency_avg: 10, latency_max: 50, status_5xx: 10, error_ratio: 0.1 }),
      window(0, "b", 300, { latency_avg: 20, latency_max: 40 }),
    ];
    expect(combine(0, windows, COLUMNS)).toEqual([0, 400, 40, 17.5, 50, 0.025, 150, null]);
  });
  test("a host without durations counts in no latency", () => {
    const windows = [window(0, "a", 100, { latency_avg: 10, latency_max: 50 }), window(0, "b", 900, { latency_avg: null })];
    expect(combine(0, windows, COLUMNS).slice(3, 5)).toEqual([10, 50]);
  });
  test("no requests: no share", () => expect(combine(0, [window(0, "a", 0)], COLUMNS)[5]).toBeNull());
  test("what is no number is nothing", () => {
    expect(combine(0, [window(0, "a", 1, { latency_avg: "9" as unknown as number })], COLUMNS)[3]).toBeNull();
  });
});

describe("live windows", () => {
  test("replace, and never add", () => {
    const live = new LiveWindows();
    live.restart(5000);
    live.push(window(10_000, "a", 5));
    live.push(window(10_000, "a", 8));
    live.push(window(10_000, "b", 2));
    expect(live.rows("", ["a", "b"], COLUMNS).get(10_000)?.[1]).toBe(10);
    expect(live.rows("a", ["a", "b"], COLUMNS).get(10_000)?.[1]).toBe(8);
  });
  test("a window begun before the stream counts only when all hosts were heard", () => {
    const live = new LiveWindows();
    live.restart(12_000);
    live.push(window(10_000, "a", 5));
    expect(live.rows("", ["a", "b"], COLUMNS).size).toBe(0);
    expect(live.rows("a", ["a", "b"], COLUMNS).size).toBe(1);
    live.push(window(10_000, "b", 1));
    expect(live.rows("", ["a", "b"], COLUMNS).size).toBe(1);
    live.push(window(20_000, "a", 3));
    expect(live.rows("", ["a", "b"], COLUMNS).get(20_000)?.[1]).toBe(3);
  });
  test("are forgotten when the stream starts again", () => {
    const live = new LiveWindows();
    live.restart(null);
    live.push(window(0, "a", 1));
    live.restart(50_000);
    expect(live.rows("a", ["a"], COLUMNS).size).toBe(0);
  });
  test("are not taken while history is read, nor at once when it ends", () => {
    const live = new LiveWindows();
    live.restart(null);
    const behind = { catching_up: { for_ms: 1, share: 0.5, partitions: 1, records_left: 1, bytes_left: 0 }, last_event: 15_000 };
    const at = (last_event: number) => ({ catching_up: null, last_event });
    // Of two hosts only one is told of.
    live.take([window(10_000, "a", 5)], behind);
    live.take([window(20_000, "b", 5)], { ...behind, last_event: 25_000 });
    live.take([window(30_000, "a", 5)], at(35_000));
    expect(live.rows("", ["a", "b"], COLUMNS).size).toBe(0);
    live.take([window(30_000, "a", 6), window(40_000, "a", 7)], at(41_000));
    expect([...live.rows("", ["a", "b"], COLUMNS).keys()]).toEqual([40_000]);
    expect([...live.rows("a", ["a", "b"], COLUMNS).keys()]).toEqual([30_000, 40_000]);
  });
  test("are bounded", () => {
    const live = new LiveWindows();
    live.restart(null);
    for (let at = 0; at < 1000; at += 1) live.push(window(at * 10_000, "a", 1));
    expect(live.rows("a", ["a"], COLUMNS).size).toBe(60);
  });
  test("say how long they are", () => {
    const live = new LiveWindows();
    live.restart(null);
    live.push(window(0, "b", 0));
    expect(live.size()).toBeNull();
    live.push(window(0, "a", 7));
    expect(live.size()).toBe(10_000);
  });
  test("in milliseconds", () => {
    for (const [size, requests] of [[1500, 9], [1500, 7], [500, 3], [100, 1]] as const) {
      const live = new LiveWindows();
      live.restart(null);
      live.push(window(0, "a", requests, { rps: requests / (size / 1000) }));
      expect(live.size()).toBe(size);
    }
  });
});

describe("series with live windows", () => {
  const live = new LiveWindows();
  live.restart(null);
  live.push(window(20_000, "a", 7));
  test("a known row is corrected, a new one added, in order", () => {
    const shown = withLive(series(0, 20_000, [row(20_000, 1), row(10_000, 4)]), live, "", ["a"], 0, 25_000);
    expect(shown.rows.map((cells) => cells.slice(0, 2))).toEqual([[10_000, 4], [20_000, 7]]);
    expect([shown.to, shown.known]).toEqual([25_000, 24_000]);
  });
  test("what the stream does not say stays", () => {
    const base = series(0, 20_000, [[20_000, 1, 0.1, null, null, 0, null, 3]]);
    expect(withLive(base, live, "", ["a"], 0, 25_000).rows[0]?.[7]).toBe(3);
  });
  test("rows of another length are left alone", () => {
    const shown = withLive(series(0, 60_000, [row(0, 9)], 60_000), live, "", ["a"], 0, 60_000);
    expect(shown.rows).toEqual([row(0, 9)]);
  });
  test("rows outside are dropped", () => {
    expect(withLive(series(0, 20_000, [row(0, 9), row(10_000, 4)]), live, "", ["a"], 15_000, 30_000).rows.map((cells) => cells[0])).toEqual([10_000, 20_000]);
  });
});

describe("the end of a series read again", () => {
  const base = series(0, 40_000, [row(0, 1), row(10_000, 2), row(20_000, 3), row(30_000, 4)]);
  test("replaces what it covers, also rows that are gone", () => {
    const tail = series(20_000, 50_000, [row(30_000, 9), row(40_000, 5)]);
    const shown = splice(base, tail, 5000);
    expect(shown.rows.map((cells) => cells.slice(0, 2))).toEqual([[10_000, 2], [30_000, 9], [40_000, 5]]);
    expect(shown.to).toBe(50_000);
  });
  test("of another step replaces all", () => {
    const tail = series(0, 60_000, [row(0, 1)], 60_000);
    expect(splice(base, tail, 0)).toBe(tail);
  });
});

test.each<[string, Cell[][], number, Cell | undefined]>([
  ["the last is filling", [row(0, 1), row(10_000, 2)], 15_000, 0],
  ["the last is over", [row(0, 1), row(10_000, 2)], 20_000, 10_000],
  ["the one before is missing", [row(0, 1), row(50_000, 2)], 55_000, 0],
  ["there is but one", [row(10_000, 2)], 12_000, 10_000],
  ["none", [], 12_000, undefined],
])("the newest whole window: %s", (_, rows, known, time) => {
  expect(newestWhole({ ...series(0, 60_000, rows), known })?.[0]).toBe(time);
});

test.each<[string, number | null | undefined, Cell[][], number, number, boolean, number[]]>([
  ["in part", 0, [row(0, 3), row(10_000, 9), row(20_000, 9)], 30_000, 20_000, true, [10_000, 20_000]],
  ["in part, and the next fills", 0, [row(0, 3), row(10_000, 9)], 15_000, 0, false, [0]],
  ["in part, and there is no other", 0, [row(0, 3)], 15_000, 0, false, [0]],
  ["within a row of several windows", 5000, [row(0, 3), row(10_000, 9)], 20_000, 10_000, true, [10_000]],
  ["in part, and nothing follows at once", 0, [row(0, 3), row(50_000, 9)], 60_000, 50_000, true, [0, 50_000]],
  ["before what is shown", -10_000, [row(0, 3), row(10_000, 9)], 20_000, 10_000, true, [0, 10_000]],
  ["nobody knows when", undefined, [row(0, 3), row(10_000, 9)], 20_000, 10_000, true, [0, 10_000]],
])("the window in which the data begins: %s", (_, begins, rows, known, newest, whole, drawn) => {
  const shown = { ...series(0, 60_000, rows), known, begins };
  const found = newestWhole(shown);
  expect([found?.[0], found && isWhole(shown, found)]).toEqual([newest, whole]);
  expect(column(sinceWhole(untilWhole(shown)), "time")).toEqual(drawn);
});

test("the window in which the data begins is drawn where no other is whole", () => {
  const rows = [row(0, 3), row(10_000, 9)];
  expect(column(sinceWhole({ ...series(0, 60_000, rows), known: 15_000, begins: 0 }), "time")).toEqual([0, 10_000]);
  expect(column(sinceWhole({ ...series(0, 60_000, rows), known: 20_000, begins: 0 }), "time")).toEqual([10_000]);
});

test("where nothing was stored the data begins with the stream", () => {
  const live = new LiveWindows();
  live.restart(null);
  live.push(window(20_000, "a", 3));
  live.push(window(30_000, "a", 9));
  expect(withLive({ ...series(0, 60_000, []), begins: null }, live, "", ["a"], 0, 60_000).begins).toBe(20_000);
  expect(withLive({ ...series(0, 60_000, []), begins: 10_000 }, live, "", ["a"], 0, 60_000).begins).toBe(10_000);
  expect(withLive(series(0, 60_000, []), live, "", ["a"], 0, 60_000).begins).toBeUndefined();
  const base = { ...series(0, 40_000, []), begins: null };
  expect(splice(base, { ...series(20_000, 50_000, []), begins: 20_000 }, 0).begins).toBe(20_000);
});

test.each<[string, object, number, number | null]>([
  ["just now", {}, 10_000, null],
  ["a minute", { now: 1_060_000 }, 10_000, null],
  ["more than a minute", { now: 1_060_001 }, 10_000, 60_001],
  ["of long windows", { now: 1_180_000 }, 60_000, null],
  ["more than three of them", { now: 1_180_001 }, 60_000, 180_001],
  ["history is read", { now: 9_000_000, catching_up: { share: 0.5 } }, 10_000, null],
  ["nothing runs", { now: 9_000_000, mode: "store" }, 10_000, null],
  ["nothing was ever read", { now: 9_000_000, newest: null, last_event: null }, 10_000, null],
])("nothing comes: %s", (_, now, window, age) => {
  expect(quietFor({ mode: "run", now: 1_001_000, newest: 1_000_000, last_event: 1_000_000, catching_up: null, ...now }, window)).toBe(age);
});

test.each<[string, Cell[][], number, Cell[]]>([
  ["only just begun", [row(0, 100), row(10_000, 3)], 10_001, [100]],
  ["nearly over", [row(0, 100), row(10_000, 99)], 19_999, [100]],
  ["over", [row(0, 100), row(10_000, 99)], 20_000, [100, 99]],
  ["the first of all", [row(10_000, 3)], 12_000, [3]],
  ["two that are open", [row(0, 100), row(10_000, 60), row(20_000, 3)], 15_000, [100]],
  ["none", [], 12_000, []],
])("the window still filling is left out as it is: %s", (_, rows, known, requests) => {
  expect(column(untilWhole({ ...series(0, 20_000, rows), known }), "requests")).toEqual(requests);
});

test.each<[string, number, number]>([
  ["as old as the range", 10_000, 0],
  ["half as old", 450_000, 450_000],
  ["only just begun", 890_000, 840_000],
])("the chart begins with the data: %s", (_, first, from) => {
  expect(fromFirst({ ...series(0, 900_000, [row(first, 1)]), known: 900_000 }).from).toBe(from);
});

test("findings before the first request are no zeros before the data", () => {
  const rows = [row(400_000, 0), row(410_000, 0), row(450_000, 5), row(460_000, 0), row(470_000, 2)];
  const shown = fromFirst({ ...series(0, 900_000, rows), known: 900_000 });
  expect(shown.from).toBe(450_000);
  expect(shown.rows.map((cells) => cells[1])).toEqual([5, 0, 2]);
});

test("a gap breaks the line, once", () => {
  const shown = withGaps([0, 10, 50, 60], 10, [[1, 2, 3, 4]]);
  expect(shown.times).toEqual([0, 10, 20, 50, 60]);
  expect(shown.columns[0]).toEqual([1, 2, null, 3, 4]);
});

test("a histogram counts each item once, and none outside", () => {
  const items = [0, 999, 1000, 9999, 10_000, -1].map((time) => ({ time, kind: "high" }));
  const { times, step, counts } = histogram(items, ["low", "high"], 0, 10_000, 10);
  expect([times.length, step]).toEqual([10, 1000]);
  expect(counts[1]).toEqual([2, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
  expect(counts[0]?.every((value) => value === 0)).toBe(true);
});

test("steps people count in", () => {
  expect([1, 1001, 7000, 16_000, 3_600_001, 86_400_001].map(niceStep)).toEqual([1000, 2000, 10_000, 30_000, 7_200_000, 172_800_000]);
});

const MINUTE = 60_000;
test.each<[string, number, number, number, number]>([
  // name, end of what is known, end now, step, asked from
  ["nothing new: what may have been corrected", 60 * MINUTE, 60 * MINUTE, 10_000, 57 * MINUTE],
  ["a little: since what is known could be corrected", 60 * MINUTE, 60 * MINUTE + 10_000, 10_000, 57 * MINUTE],
  ["old records are read: nothing in between is left out", 60 * MINUTE, 70 * MINUTE, 10_000, 57 * MINUTE],
  ["more than is shown", 60 * MINUTE, 600 * MINUTE, 10_000, 585 * MINUTE],
  ["long steps", 60 * MINUTE, 61 * MINUTE, 5 * MINUTE, 46 * MINUTE],
  ["time went back: all", 60 * MINUTE, 50 * MINUTE, 10_000, 35 * MINUTE],
])("a series is asked again: %s", (_, known, to, step, wanted) => {
  expect(tailFrom(series(known - 15 * MINUTE, known, [], step), to, to - 15 * MINUTE, 3 * MINUTE)).toBe(wanted);
});
