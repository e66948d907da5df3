// Which alerts come first, and how many critical ones fire. Rules in shadow mode are tried out: their alerts push nobody aside.

import type { Alert, Rule, Severity } from "./types";

export const SEVERITIES: readonly Severity[] = ["critical", "high", "medium", "low", "info"];
export const RANK: Record<Severity, number> = { critical: 4, high: 3, medium: 2, low: 1, info: 0 };

/** At most `limit` of these, each once: those that fire first, by severity; then the newest. */
export function firingFirst(alerts: readonly Alert[], limit: number): Alert[] {
  const place = ({ state, mode, severity }: Alert) => (state === "firing" && mode !== "shadow" ? 1 + RANK[severity] : 0);
  const byId = new Map(alerts.map((alert) => [alert.id, alert]));
  return [...byId.values()].sort((a, b) => place(b) - place(a) || b.fired - a.fired || (a.id < b.id ? 1 : -1)).slice(0, limit);
}

/** How many critical alerts fire, those that an earlier run left firing among them. */
export function criticalFiring(rules: readonly Pick<Rule, "severity" | "mode" | "firing">[]): number {
  return rules.reduce((sum, { severity, mode, firing }) => (severity === "critical" && mode !== "shadow" ? sum + firing : sum), 0);
}
