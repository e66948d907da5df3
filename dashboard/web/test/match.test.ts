import { expect, test } from "vitest";
import { alertMatches, isClientFilter, isStatusFilter, requestMatcher, thinned, upsertAlerts, type AlertFilter, type RequestFilter } from "../src/match";
import type { Alert, RequestRow } from "../src/types";

const request: RequestRow = { time: 1, host: "web1", client: "192.0.2.1", method: "GET", path: "/Login", query: "a=<script>", status: 404, bytes: 1, agent: "curl/8 Äpfel", referrer: null };

test.each<[string, RequestFilter, boolean]>([
  ["no filter", {}, true],
  ["empty ones", { host: "", status: "", text: "" }, true],
  ["the host", { host: "web1" }, true],
  ["a part of the host", { host: "web" }, false],
  ["the status", { status: "404" }, true],
  ["its class", { status: "4xx" }, true],
  ["another class", { status: "5xx" }, false],
  ["a part of the path", { path: "Log" }, true],
  ["a part of the path, in any case", { path: "lOGIN" }, true],
  ["no part of the path", { path: "logout" }, false],
  ["letters beyond A to Z as they are", { text: "äpfel" }, false],
  ["the client", { client: "192.0.2.1" }, true],
  ["the client's network", { client: "192.0.2.0/24" }, true],
  ["another network", { client: "192.0.3.0/24" }, false],
  ["the method is no text", { text: "GET" }, false],
  ["text in the query, in any case", { text: "<SCRIPT" }, true],
  ["text in the agent", { text: "curl" }, true],
  ["text in nothing", { text: "wget" }, false],
  ["all of them", { host: "web1", status: "404", text: "wget" }, false],
])("request: %s", (_, filter, wanted) => expect(requestMatcher(filter)(request)).toBe(wanted));

test.each<[string, string, string, boolean]>([
  ["the same", "2001:db8::1", "2001:db8::1", true],
  ["in capitals, uncompressed", "2001:db8::1", "2001:0DB8:0:0:0:0:0:1", true],
  ["another", "2001:db8::1", "2001:db8::2", false],
  ["its network", "2001:db8::1", "2001:db8::/64", true],
  ["bits beyond the prefix", "2001:db8::1", "2001:db8::ffff/64", true],
  ["a network beside it", "2001:db8::1", "2001:db8:0:1::/64", false],
  ["bits within a group", "2001:db8:8000::1", "2001:db8:8000::/33", true],
  ["bits within a group, beside it", "2001:db8:7fff::1", "2001:db8:8000::/33", false],
  ["everything of IPv6", "2001:db8::1", "::/0", true],
  ["everything of IPv6 is not IPv4", "192.0.2.1", "::/0", false],
  ["everything of IPv4", "192.0.2.1", "0.0.0.0/0", true],
  ["IPv4 within IPv6", "192.0.2.1", "::ffff:192.0.2.1", true],
  ["IPv4 within IPv6, in groups", "192.0.2.1", "::FFFF:c000:201", true],
  ["the first of IPv4's network", "203.0.113.0", "203.0.113.0/24", true],
  ["the last of it", "203.0.113.255", "203.0.113.9/24", true],
  ["one after it", "203.0.114.0", "203.0.113.0/24", false],
  ["one alone", "203.0.113.7", "203.0.113.7/32", true],
  ["a name", "crawler.example.org", "crawler.example.org", true],
  ["a name is in no network", "crawler.example.org", "0.0.0.0/0", false],
  ["too many bits", "203.0.113.7", "203.0.113.7/33", false],
  ["half written", "2001:db8::1", "2001:db8:", false],
  ["two gaps", "2001:db8::1", "2001::db8::1", false],
  ["too many groups", "2001:db8::1", "2001:db8:0:0:0:0:0:0:1", false],
  ["a gap of nothing", "1:2:3:4:5:6:7:8", "1:2:3:4::5:6:7:8", false],
])("client: %s", (_, client, wanted, matches) => expect(requestMatcher({ client: wanted })({ ...request, client })).toBe(matches));

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
