import { expect, test } from "vitest";
import { AlertFeed } from "../src/feed";
import { upsertAlerts } from "../src/match";
import type { Alert } from "../src/types";

function alert(id: string, fired: number, more: Partial<Alert> = {}): Alert {
  return { id, key: "k", rule: "ip-spike", severity: "high", subject: { client_ip: "192.0.2.1" }, first: 0, last: fired, fired, value: 1, threshold: 1, score: 0.5, findings: 1, state: "firing", evidence: [], mode: "live", ...more };
}

const ids = (alerts: readonly Alert[]) => alerts.map(({ id, state }) => `${id} ${state}`);

test("what was resolved while the page was away fires no more", () => {
  const feed = new AlertFeed();
  feed.hello({ last_event: 100 });
  feed.take(alert("a", 101));
  feed.take(alert("a", 101, { value: 2 }));
  expect(ids(feed.alerts)).toEqual(["a firing"]);
  feed.hello({ last_event: 900 });
  feed.flush();
  expect(ids(upsertAlerts([alert("a", 101, { state: "resolved" })], feed.alerts, 10))).toEqual(["a resolved"]);
});

test("without a history nothing else knows what was heard", () => {
  const feed = new AlertFeed();
  feed.hello({ last_event: 100, history: false });
  feed.take(alert("a", 101));
  feed.hello({ last_event: 900, history: false });
  expect(ids(feed.alerts)).toEqual(["a firing"]);
});

test.each<[string, Alert, boolean]>([
  ["a new one", alert("a", 101), true],
  ["one that fired before the page was opened", alert("a", 100), false],
  ["one that is over", alert("a", 101, { state: "resolved" }), false],
  ["one of a rule that is tried", alert("a", 101, { mode: "shadow" }), false],
  ["one that is silenced", alert("a", 101, { silenced: true }), false],
  ["what somebody said of one", alert("a", 101, { acknowledged: null }), false],
])("said to have begun: %s", (_, news, wanted) => {
  const feed = new AlertFeed();
  feed.hello({ last_event: 100 });
  expect(feed.take(news).began).toBe(wanted);
});

test("an alert is said to have begun once, whatever is heard of it after a new connection or a reset", () => {
  const feed = new AlertFeed();
  feed.hello({ last_event: 100 });
  expect(feed.take(alert("a", 101)).began).toBe(true);
  feed.hello({ last_event: 900 });
  expect(feed.take(alert("a", 101, { value: 2 }))).toEqual({ changed: true, marked: false, began: false });
  feed.reset();
  expect(feed.take(alert("a", 101, { value: 3 })).began).toBe(false);
  expect(feed.take(alert("gap", 500)).began, "it fired while the page was away").toBe(true);
});

test.each<[string, (number | null)[], number, boolean]>([
  ["nothing was read yet", [null], 1, true],
  ["a run over older logs", [900, 100], 101, true],
  ["a later connection", [100, 900], 101, true],
  ["an earlier one than the page", [100, 900], 99, false],
])("since when: %s", (_, hellos, fired, wanted) => {
  const feed = new AlertFeed();
  for (const last_event of hellos) feed.hello({ last_event });
  expect(feed.take(alert("a", fired)).began).toBe(wanted);
});

test("what is remembered is bounded", () => {
  const feed = new AlertFeed();
  feed.hello({ last_event: 0 });
  for (let at = 1; at <= 5001; at += 1) feed.take(alert(`${at}`, at));
  expect(feed.take(alert("5001", 5001)).began).toBe(false);
  expect(feed.take(alert("2", 2)).began).toBe(false);
  expect(feed.take(alert("1", 1)).began, "the oldest is forgotten").toBe(true);
  expect(feed.alerts.length).toBe(500);
});

test("of one that goes on, with the rest of the second", () => {
  const feed = new AlertFeed();
  feed.hello({ last_event: 0 });
  expect(feed.take(alert("a", 1)).changed).toBe(true);
  expect(feed.take(alert("a", 1, { state: "resolved" })).changed).toBe(false);
  expect(ids(feed.alerts)).toEqual(["a firing"]);
  expect([feed.flush(), feed.flush()]).toEqual([true, false]);
  expect(ids(feed.alerts)).toEqual(["a resolved"]);
  feed.take(alert("a", 1, { silenced: true, acknowledged: { at: 1, by: "x", note: "" } }));
  feed.unsilence();
  expect(feed.alerts[0]).toMatchObject({ acknowledged: { by: "x" } });
  expect(feed.alerts[0]).not.toHaveProperty("silenced");
});
