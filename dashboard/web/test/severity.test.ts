import { expect, test } from "vitest";
import { criticalFiring, firingFirst, RANK, SEVERITIES } from "../src/severity";
import type { Alert, Rule, Severity } from "../src/types";

function alert(id: string, fired: number, severity: Severity, more: Partial<Alert> = {}): Alert {
  return { id, key: "k", rule: "r", severity, subject: {}, first: 0, last: fired, fired, value: 1, threshold: 1, score: 0.5, findings: 1, state: "firing", evidence: [], mode: "live", ...more };
}

test.each<[string, Alert[], string]>([
  ["none", [], ""],
  ["newer ones of lower severity hide none", [1, 2, 3, 4].map((at) => alert(`low${at}`, 10 + at, "low")).concat(alert("critical", 1, "critical")), "critical low4 low3"],
  ["of one severity, the newest", [alert("a", 1, "high"), alert("b", 2, "high")], "b a"],
  ["what is over comes after what fires", [alert("over", 9, "critical", { state: "resolved" }), alert("on", 1, "info")], "on over"],
  ["of what is over, the newest", [alert("a", 1, "critical", { state: "resolved" }), alert("b", 2, "low", { state: "withdrawn" })], "b a"],
  ["what a rule in shadow mode found is no reason to hurry", [alert("tried", 1, "critical", { mode: "shadow" }), alert("on", 1, "low")], "on tried"],
  ["in two answers, once", [alert("a", 1, "low"), alert("b", 2, "low"), alert("a", 1, "low")], "b a"],
])("alerts of the overview: %s", (_, alerts, wanted) => {
  expect(firingFirst(alerts, 3).map(({ id }) => id).join(" ")).toBe(wanted);
});

test("critical alerts that fire, also since an earlier run", () => {
  const rule = (severity: Severity, mode: Rule["mode"], firing: number) => ({ severity, mode, firing });
  expect(criticalFiring([])).toBe(0);
  expect(criticalFiring([rule("critical", "live", 1), rule("high", "live", 8), rule("critical", "shadow", 4), rule("critical", "live", 2)])).toBe(3);
});

test("every severity has its rank, highest first", () => {
  expect(SEVERITIES.map((name) => RANK[name])).toEqual([4, 3, 2, 1, 0]);
});
