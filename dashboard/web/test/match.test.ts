import { expect, test } from "vitest";
import { alertMatches, isSilenced, isStatusFilter, requestMatches, thinned, upsertAlerts, type AlertFilter, type RequestFilter } from "../src/match";
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

test.each<[string, Parameters<typeof isSilenced>[1], boolean]>([
  ["no silence", [], false],
  ["its rule", [{ rule: "ip-spike", until: 10 }], true],
  ["another rule", [{ rule: "path-scan", until: 10 }], false],
  ["its subject", [{ subject: { client_ip: "192.0.2.1" }, until: 10 }], true],
  ["more than its subject", [{ subject: { client_ip: "192.0.2.1", host: "web1" }, until: 10 }], false],
  ["both", [{ rule: "ip-spike", subject: { client_ip: "192.0.2.1" }, until: 10 }], true],
  ["over", [{ rule: "ip-spike", until: 9 }], false],
  ["one of several", [{ rule: "path-scan", until: 10 }, { rule: "ip-spike", until: 10 }], true],
].map(([name, silences, wanted]) => [name, (silences as object[]).map((one) => ({ id: "1", reason: "", created: 0, until: 0, ...one })), wanted] as [string, Parameters<typeof isSilenced>[1], boolean]))("silenced by %s", (_, silences, wanted) =>
  expect(isSilenced(alert("a", 1), silences, 9)).toBe(wanted));
