import { expect, test } from "vitest";
import { parseLength, parseRoute, showLength, showRoute, type Route } from "../src/url";

const plain: Route = { view: "overview", argument: "", host: "", range: { last: 900_000 }, live: true, until: null, filters: {} };

test.each<[string, string, Partial<Route>]>([
  ["nothing", "", {}],
  ["a hash alone", "#", {}],
  ["no such view", "#/nothing", {}],
  ["a view", "#/security", { view: "security" }],
  ["host and range", "#/traffic?host=web1&range=1h", { view: "traffic", host: "web1", range: { last: 3_600_000 } }],
  ["held still", "#/overview?paused=1", { live: false }],
  ["held still at a time", "#/overview?paused=1772704800000", { live: false, until: 1_772_704_800_000 }],
  ["held still at no time", "#/overview?paused=-5", { live: false }],
  ["a stretch does not move", "#/overview?from=1000&to=2000&paused=1772704800000", { range: { from: 1000, to: 2000 }, live: false }],
  ["a stretch", "#/overview?from=1000&to=2000", { range: { from: 1000, to: 2000 }, live: false }],
  ["a stretch the wrong way", "#/overview?from=2000&to=1000", {}],
  ["a stretch of words", "#/overview?from=a&to=b", {}],
  ["no length of time", "#/overview?range=5parsecs", {}],
  ["too long", "#/overview?range=9999d", {}],
  ["filters", "#/requests?status=4xx&text=%3Cscript%3E", { view: "requests", filters: { status: "4xx", text: "<script>" } }],
  ["a client", "#/client/2001%3Adb8%3A%3A1", { view: "client", argument: "2001:db8::1" }],
  ["a client with a slash", "#/client/a%2Fb", { view: "client", argument: "a/b" }],
  ["no client", "#/client/", {}],
  ["an escape that is none", "#/client/%zz", { view: "client", argument: "%zz" }],
])("parse: %s", (_, hash, wanted) => expect(parseRoute(hash)).toEqual({ ...plain, ...wanted }));

test.each<[string, Route, string]>([
  ["defaults are left out", plain, "#/overview"],
  ["all", { ...plain, view: "security", host: "<b>", range: { last: 21_600_000 }, live: false, filters: { severity: "high", rule: "a&b" } }, "#/security?host=%3Cb%3E&range=6h&paused=1&rule=a%26b&severity=high"],
  ["a client", { ...plain, view: "client", argument: "a/b?c#d" }, "#/client/a%2Fb%3Fc%23d"],
  ["where it holds still", { ...plain, live: false, until: 1_772_704_800_000 }, "#/overview?paused=1772704800000"],
  ["a stretch", { ...plain, range: { from: 1, to: 2 }, live: false }, "#/overview?from=1&to=2"],
])("show: %s, and back", (_, route, wanted) => {
  expect(showRoute(route)).toBe(wanted);
  expect(parseRoute(showRoute(route))).toEqual(route);
});

test("what follows the newest data holds still nowhere", () => {
  expect(showRoute({ ...plain, until: 5000 })).toBe("#/overview");
});

test("a filter cannot pass for a part of the route", () => {
  expect(showRoute({ ...plain, filters: { host: "x", range: "1h", paused: "1", text: "y" } })).toBe("#/overview?text=y");
});

test("lengths of time", () => {
  for (const text of ["30s", "5m", "15m", "1h", "24h", "7d", "30d", "1004401s", "34559999s"]) expect(showLength(parseLength(text) ?? 0)).toBe(text);
  for (const text of ["", "0m", "m", "1", "-1m", "1.5h", "1w"]) expect(parseLength(text), text).toBeNull();
});
