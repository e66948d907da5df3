import { expect, test } from "vitest";
import { alone, decades, described, newestValue, niceTop, tabulated, type Model } from "../src/charts/model";
import { backoff } from "../src/backoff";
import { count } from "../src/format";

const model: Model = { kind: "lines", times: [0, 10_000], step: 10_000, from: 0, to: 20_000, show: count, lines: [{ name: "avg", colour: "--chart-1", values: [3, 1] }, { name: "max", colour: "--chart-2", values: [null, null] }] };

test("a chart in words", () => {
  expect(described("Latency", model)).toBe("Latency. avg: now 1, lowest 1, highest 3; max: no values.");
  expect(described("Alerts", { ...model, kind: "bars" })).toBe("Alerts. avg: 4 in all; max: no values.");
});

test.each<[string, number | undefined, (number | null)[], number | null]>([
  ["nobody says which are whole", undefined, [3, 1], 1],
  ["the last is whole", 10_000, [3, 1], 1],
  ["the last is still filling", 0, [3, 1], 3],
  ["the whole one has no value", 10_000, [3, null], 3],
  ["none is whole", -1, [3, 1], null],
])("the newest value: %s", (_, whole, values, wanted) => {
  expect(newestValue({ ...model, whole }, values)).toBe(wanted);
  const said = described("Requests", { ...model, whole, lines: [{ name: "all", colour: "", values }] });
  expect(said).toContain(`all: now ${wanted ?? "–"},`);
});

test("a chart as rows, newest first", () => {
  expect(tabulated(model, true)).toEqual({ head: ["Time", "avg", "max"], rows: [["00:00:10", "1", "–"], ["00:00:00", "3", "–"]], more: 0 });
  expect(tabulated(model, true, 1).more).toBe(1);
});

test.each<[string, number, 1000 | 1024, number]>([
  ["nothing", 0, 1000, 2],
  ["a share", 0.053, 1000, 0.06],
  ["a count", 3, 1000, 4],
  ["on the spot", 400, 1000, 400],
  ["above", 401, 1000, 600],
  ["bytes", 5000, 1024, 6144],
  ["a little under a KiB", 1023, 1024, 1024],
])("top of the axis: %s", (_, highest, base, wanted) => expect(niceTop(highest, base)).toBeCloseTo(wanted, 9));

test.each<[string, (number | null)[], [number, number]]>([
  ["nothing", [], [1, 100]],
  ["no value above nothing", [0, null], [1, 100]],
  ["ms and a minute", [22, 60_000], [10, 100_000]],
  ["close together", [21, 88], [10, 1000]],
  ["powers themselves", [1, 100], [1, 100]],
  ["less than one", [0.04, 3], [0.01, 10]],
])("powers of ten around %s", (_, values, [least, most]) => {
  const found = decades([{ name: "a", colour: "", values }]);
  expect(found.least).toBeCloseTo(least, 9);
  expect(found.most).toBeCloseTo(most, 6);
});

test("waits double, within bounds", () => {
  expect([0, 1, 2, 3, 4, 100].map((attempt) => backoff(attempt, 0.5))).toEqual([1000, 2000, 4000, 8000, 15_000, 15_000]);
  expect(backoff(0, 0)).toBe(750);
});

test.each<[string, (number | null)[], boolean[]]>([
  ["nothing", [], []],
  ["one value", [1], [true]],
  ["two", [1, 2], [false, false]],
  ["one among gaps, one at the end", [1, 2, null, 3, null, 0], [false, false, false, true, false, true]],
])("values that stand alone: %s", (_, values, wanted) => expect(alone(values)).toEqual(wanted));
