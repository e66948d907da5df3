import { expect, test } from "vitest";
import { alertMatches, isClientFilter, isStatusFilter, requestMatches, thinned, upsertAlerts, type AlertFilter, type RequestFilter } from "../src/match";
import type { Alert, RequestRow } from "../src/types";

const request: RequestRow = { time: 1, host: "web1", client: "192.0.2.1", method: "GET", path: "/Login", query: "a=<script>", status: 404, bytes: 1, agent: "curl/8", referrer: null };

test.each<[string, RequestFilter, boolean]>([
  ["no filter", {}, true],
  ["empty ones", { host: "", status: "", text: "" }, true],
  ["the host", { host: "web1" }, true],
  ["a part of the host", { host: "web" }, false],
  ["the status", { status: "404" }, true],
  ["its class", { status: "4xx" }, true],
  ["another class", { status: "5xx" }, false],
  ["a part of the path", { path: "Log" }, true],
  ["text in the query, in any case", { text: "<SCRIPT" }, true],
  ["text in the agent", { text: "curl" }, true],
  ["text in nothing", { text: "wget" }, false],
  ["all of them", { host: "web1", status: "404", text: "wget" }, false],
])("request: %s", (_, filter, wanted) => expect(requestMatches(request, filter)).toBe(wanted));

test.each<[string, number, number, number[]]>([
  ["none", 0, 3, []],
  ["as many as may be", 3, 3, [0, 1, 2]],
  ["one more", 4, 3, [0, 1, 2]],
  ["many", 9, 3, [0, 3, 6]],
])("rows thinned out: %s", (_, count, most, wanted) => expect(thinned(Array.from({ length: count }, (_, at) => at), most)).toEqual(wanted));

test("what a status filter may say", () => {
  for (const text of ["404", "4xx", "5XX", "100"]) expect(isStatusFilter(text), text).toBe(true);
  for (const text of ["", "4", "40", "4x", "604", "xx", "4xxx", " 404"]) expect(isStatusFilter(text), text).toBe(false);
});

test("what a client filter may say", () => {
  for (const text of ["203.0.113.5", "203.0.113.0/24", "2001:db8::1", "2001:DB8:0:0::/64", "::ffff:10.0.0.1", "crawler.example.org"]) expect(isClientFilter(text), text).toBe(true);
  for (const text of ["", "203.0", "203.0.113.256", "203.0.113.0/33", "2001:db8::/129", "2001:db8::1::2", "10.0.0.0/8/8", "banana", "<b>.x", "1.2.3"]) expect(isClientFilter(text), text).toBe(false);
});

function alert(id: string, fired: number, more: Partial<Alert> = {}): Alert {
  return { id, key: "k", rule: "ip-spike", severity: "high", subject: { client_ip: "192.0.2.1" }, first: 0, last: fired, fired, value: 1, threshold: 1, score: 0.5, findings: 1, state: "firing", evidence: [], mode: "live", ...more };
}

test.each<[string, AlertFilter, boolean]>([
  ["no filter", {}, true],
  ["severity", { severity: "high" }, true],
  ["another rule", { rule: "path-scan" }, false],
  ["a part of the subject", { subject: "192.0" }, true],
  ["another subject", { subject: "198." }, false],
  ["a host it is not about", { host: "web1" }, false],
])("alert: %s", (_, filter, wanted) => expect(alertMatches(alert("a", 1), filter)).toBe(wanted));

test("news replace what was known by id, and stay in order and bounded", () => {
  const said = { at: 1, by: "me", note: "" };
  const old = [alert("b", 2, { acknowledged: said }), alert("a", 1)];
  const shown = upsertAlerts(old, [alert("c", 3, { replaces: "a" }), alert("b", 2, { state: "resolved" })], 10);
  expect(shown.map(({ id, state }) => `${id} ${state}`)).toEqual(["c firing", "b resolved"]);
  expect(shown[1]?.acknowledged).toEqual(said);
  expect(upsertAlerts(shown, [alert("d", 4)], 2).map(({ id }) => id)).toEqual(["d", "c"]);
});

test("what people said of an alert is kept where an event says nothing of it, and follows where one does", () => {
  const said = { at: 1, by: "x", note: "" };
  const old = [alert("a", 1, { acknowledged: said, silenced: true })];
  const after = (news: Partial<Alert>) => upsertAlerts(old, [alert("a", 1, news)], 10)[0];
  expect(after({ state: "resolved" })?.acknowledged).toEqual(said);
  expect(after({ acknowledged: null })?.acknowledged).toBeNull();
  expect(after({})?.silenced).toBe(true);
  expect(after({ silenced: false })?.silenced).toBe(false);
});
