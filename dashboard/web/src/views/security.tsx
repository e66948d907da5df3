// Alerts as they fire, how they spread over time and score, what is silenced, and how the rules stand.

import { useMemo, useState } from "preact/hooks";
import { send, type ApiError } from "../api";
import { useWatched } from "../cell";
import { Chart } from "../charts/chart";
import type { Model } from "../charts/model";
import * as format from "../format";
import { Card, LogText, SeverityBadge, Subject, Trouble, waiting, When } from "../parts/basic";
import { Table } from "../parts/table";
import { alerts as feed, go, marks, newest, route, setFilter, shown, status, useAnswer } from "../state";
import { histogram } from "../series";
import type { Alert, Allow, Rows, Rule, Silence } from "../types";
import { SEVERITIES } from "../severity";
import { AlertTable, useAlerts } from "./alerts";

const LIMIT = 500;

export function SecurityPage() {
  const here = useWatched(route);
  const { rule = "", severity = "", state = "", subject = "", alert: open = "" } = here.filters;
  const { rows, error, again, truncated } = useAlerts({ rule, severity, state, subject }, LIMIT, here.host);
  const rules = useAnswer<Rows<Rule>>("rules", () => ({}), 10_000);
  const allowed = useAnswer<Rows<Allow>>("allowed", () => ({}), 10_000);
  const silences = useAnswer<Rows<Silence>>(`silences?${useWatched(marks)}`, () => ({}), 30_000);
  const changed = () => (again(), silences.again());
  const models = useMemo(() => (rows ? draw(rows) : null), [rows]);
  const isListed = !open || rows === null || rows.some((row) => row.id === open);
  return (
    <>
      <div class="charts two">
        <Chart title="Alerts over time" model={models?.timeline ?? null} legend="sum" note={models?.earlier ? `without ${format.count(models.earlier)} that fired earlier` : undefined} empty="No alert fired in this range" error={error} />
        <Chart title="Scores" note="0.5 is at the threshold" model={models?.scores ?? null} legend="none" empty="No alert in this range" error={error} selects={false} />
      </div>
      <Card title="Alerts" note={rows ? `${format.count(rows.length)}${truncated ? " newest of more" : ""}${models?.earlier ? `, with ${format.count(models.earlier)} that fired earlier and went on in this range` : ""}` : undefined}>
        <form class="filters" role="search" aria-label="Alerts" onSubmit={(event) => event.preventDefault()}>
          <label>
            <span>Severity</span>
            <select value={severity} onChange={(event) => setFilter("severity", event.currentTarget.value)}>
              <option value="">any</option>
              {SEVERITIES.map((name) => (
                <option key={name}>{name}</option>
              ))}
            </select>
          </label>
          <label>
            <span>Rule</span>
            <select value={rule} onChange={(event) => setFilter("rule", event.currentTarget.value)}>
              <option value="">any</option>
              {rule && !rules.data?.rows.some(({ name }) => name === rule) && <option value={rule}>{format.visible(rule)}</option>}
              {rules.data?.rows.map(({ name }) => (
                <option key={name} value={name}>
                  {format.visible(name)}
                </option>
              ))}
            </select>
          </label>
          <label>
            <span>State</span>
            <select value={state} onChange={(event) => setFilter("state", event.currentTarget.value)}>
              <option value="">any</option>
              <option>firing</option>
              <option>resolved</option>
              <option>withdrawn</option>
            </select>
          </label>
          <label class="grows">
            <span>Subject</span>
            <input type="search" value={subject} placeholder="address, path, host, user" onInput={(event) => setFilter("subject", event.currentTarget.value)} />
          </label>
          {(severity || rule || state || subject) && (
            <button type="button" onClick={() => go({ filters: {} })}>
              Clear
            </button>
          )}
        </form>
        {error && <Trouble error={error} again={again} />}
        {!isListed && <Linked id={open} onChanged={changed} />}
        <AlertTable
          label="Alerts"
          rows={rows ?? []}
          open={open || null}
          onOpen={(id) => setFilter("alert", id ?? "")}
          onChanged={changed}
          empty={rows ? (severity || rule || state || subject ? "No alert passes these filters." : "No alert in this range.") : waiting(error)}
        />
      </Card>
      <Rules rules={rules.data?.rows ?? []} error={rules.error} again={rules.again} loaded={rules.data !== null} />
      <Allowed rows={allowed.data?.rows ?? []} rules={rules.data?.rows ?? []} error={allowed.error} again={allowed.again} />
      <Silences rows={silences.data?.rows ?? []} error={silences.error?.isNotKept ? null : silences.error} onChanged={changed} />
    </>
  );
}

/** An alert that a link names and the list does not hold. */
function Linked({ id, onChanged }: { id: string; onChanged: () => void }) {
  const known = useWatched(feed).find((alert) => alert.id === id);
  const answer = useAnswer<Alert>(known ? null : `alerts/${encodeURIComponent(id)}`, () => ({}));
  const alert = known ?? answer.data;
  if (!alert) return answer.error ? <p class="note pad">The alert this link names is not kept any more.</p> : null;
  return <AlertTable label="Alert of the link" rows={[alert]} open={id} onOpen={() => setFilter("alert", "")} onChanged={() => (answer.again(), onChanged())} empty="" />;
}

/** `earlier`: how many fired before what is shown, and are no part of the timeline. */
function draw(rows: readonly Alert[]): { timeline: Model; scores: Model; earlier: number } {
  const { from, to: end } = shown();
  // One may have fired since the end of the range was known.
  const to = rows.reduce((to, { fired }) => Math.max(to, fired + 1), end);
  // The first bar may begin before the range does.
  const fired = rows.filter((row) => row.fired >= from);
  const kinds = [...SEVERITIES].reverse();
  const { times, step, counts } = histogram(fired.map((row) => ({ time: row.fired, kind: row.severity })), kinds, from, to, 60);
  const bins = Array.from({ length: 10 }, (_, at) => rows.filter((row) => Math.min(9, Math.floor(row.score * 10)) === at).length);
  return {
    earlier: rows.length - fired.length,
    timeline: {
      kind: "bars",
      stacked: true,
      times,
      step,
      from,
      to,
      show: format.count,
      atLeast: 4,
      lines: kinds
        .map((name, at) => ({ name, colour: `--severity-${name}`, values: counts[at] ?? [] }))
        .filter((line) => line.values.some((value) => value > 0)),
    },
    scores: {
      kind: "bars",
      times: [],
      categories: bins.map((_, at) => `${at ? `.${at}` : "0"}–${at < 9 ? `.${at + 1}` : "1"}`),
      step: 1,
      from: 0,
      to: 10,
      show: format.count,
      atLeast: 4,
      lines: rows.length ? [{ name: "alerts", colour: "--chart-1", values: bins }] : [],
    },
  };
}

function Rules({ rules, error, again, loaded }: { rules: Rule[]; error: ApiError | null; again: () => void; loaded: boolean }) {
  return (
    <Card title="Rules" note={loaded ? `${rules.filter((rule) => rule.enabled).length} on` : undefined}>
      {error && <Trouble error={error} again={again} />}
      <Table
        cards label="Rules"
        rows={rules}
        rowKey={(rule) => rule.name}
        empty={loaded ? "No rules." : waiting(error)}
        rowClass={(rule) => (rule.enabled ? "" : "off")}
        columns={[
          { name: "Rule", cell: (rule) => <button type="button" class="link" onClick={() => setFilter("rule", rule.name)} title="Only alerts of this rule"><LogText text={rule.name} limit={60} class="rule" /></button>, by: (rule) => rule.name, class: "tight" },
          { name: "State", cell: (rule) => <span class={`badge ${!rule.enabled ? "plain" : rule.firing ? "state-firing" : "plain"}`}>{!rule.enabled ? "off" : rule.firing ? `${format.count(rule.firing)} firing` : rule.mode === "shadow" ? "shadow" : "quiet"}</span>, by: (rule) => (rule.enabled ? rule.firing : -1), class: "tight" },
          { name: "Severity", cell: (rule) => <SeverityBadge severity={rule.severity} />, by: (rule) => SEVERITIES.length - SEVERITIES.indexOf(rule.severity), class: "tight" },
          { name: "Fires when", cell: (rule) => <Condition rule={rule} />, wide: true },
          { name: "Window", cell: (rule) => format.duration(rule.window_ms) + (rule.hop_ms && rule.hop_ms !== rule.window_ms ? `, every ${format.duration(rule.hop_ms)}` : ""), by: (rule) => rule.window_ms, minor: true, class: "tight" },
          { name: "Fired", cell: (rule) => format.count(rule.fired), by: (rule) => rule.fired, number: true },
        ]}
      />
    </Card>
  );
}

function Condition({ rule }: { rule: Rule }) {
  const where = typeof rule.where === "string" ? rule.where : rule.where && typeof rule.where === "object" && Object.keys(rule.where).length ? JSON.stringify(rule.where) : "";
  return (
    <span class="condition">
      <code>{format.visible(rule.measure)}</code> ≥ <b>{format.inUnit(rule.threshold, rule.measure)}</b>
      {rule.baseline_factor ? <> and ≥ {format.measured(rule.baseline_factor)}× baseline{rule.ceiling ? `, or ≥ ${format.measured(rule.ceiling)}` : ""}</> : null}
      {(rule.at_least ?? 1) > 1 ? <>, of at least {format.count(rule.at_least)}</> : null}
      {rule.group_by.length > 0 && <span class="note"> per {rule.group_by.map(format.visible).join(", ")}</span>}
      {where && where !== "{}" && (
        <span class="note">
          {" "}
          where <LogText text={where} limit={120} />
        </span>
      )}
    </span>
  );
}

/** What rules do not see, and what it kept back. */
function Allowed({ rows, rules, error, again }: { rows: Allow[]; rules: Rule[]; error: ApiError | null; again: () => void }) {
  useWatched(status);
  const now = newest() ?? 0;
  if (!rows.length && !error) return null;
  const isOver = ({ until }: Allow) => until !== null && until <= now;
  const prevented = rules.filter((rule) => rule.prevented).map((rule) => `${format.count(rule.prevented)} of ${format.visible(rule.name)}`);
  return (
    <Card title="Allow lists" note={prevented.length ? `findings prevented: ${prevented.join(", ")}` : undefined}>
      {error && <Trouble error={error} again={again} />}
      <Table
        cards label="Allow lists"
        rows={rows}
        rowKey={(row) => String(rows.indexOf(row))}
        empty="Nothing is allowed."
        rowClass={(row) => (isOver(row) ? "off" : "")}
        columns={[
          { name: "Requests", cell: (row) => <code><LogText text={row.where} limit={160} /></code> },
          { name: "Not seen by", cell: (row) => (row.rules.length ? <LogText text={row.rules.join(", ")} limit={120} class="rule" /> : "every rule") },
          { name: "Reason", cell: (row) => <LogText text={row.reason} limit={160} />, by: (row) => row.reason, wide: true },
          { name: "Until", title: "By the time of the requests", cell: (row) => (row.until === null ? "for ever" : <><When ms={row.until} />{isOver(row) && <span class="note"> over</span>}</>), by: (row) => row.until ?? Infinity, class: "tight" },
          { name: "Matched", title: "Since the start. They count everywhere else", cell: (row) => format.count(row.events), by: (row) => row.events, number: true },
        ]}
      />
    </Card>
  );
}

function Silences({ rows, error, onChanged }: { rows: Silence[]; error: ApiError | null; onChanged: () => void }) {
  const [problem, setProblem] = useState<ApiError | null>(null);
  if (!rows.length && !error) return null;
  return (
    <Card title="Silences">
      {(error ?? problem) && <Trouble error={(error ?? problem)!} again={onChanged} />}
      <Table
        cards label="Silences"
        rows={rows}
        rowKey={(silence) => (silence.id === null ? JSON.stringify(silence) : String(silence.id))}
        empty="Nothing is silenced."
        columns={[
          { name: "Rule", cell: (silence) => (silence.rule ? <LogText text={silence.rule} limit={60} class="rule" /> : "every rule"), class: "tight" },
          { name: "Subject", cell: (silence) => <Subject subject={silence.subject ?? {}} /> },
          { name: "Reason", cell: (silence) => <LogText text={silence.reason} limit={160} />, wide: true },
          {
            name: "Until",
            cell: (silence) => (
              <>
                {(silence.from ?? 0) > (status.get()?.now ?? Date.now()) && <>from <When ms={silence.from} /> to </>}
                <When ms={silence.until} />
              </>
            ),
            by: (silence) => silence.until,
            class: "tight",
          },
          {
            name: "End",
            cell: (silence) => silence.configured ? (
              <span class="badge plain" title="A [[silence]] of the configuration: it ends by itself, or there">configured</span>
            ) : (
              <button type="button" onClick={() => send("DELETE", `silences/${encodeURIComponent(String(silence.id))}`).then(() => (setProblem(null), onChanged()), setProblem)}>
                End<span class="visually-hidden"> the silence of {silence.rule ? format.visible(silence.rule) : "every rule"}</span>
              </button>
            ),
            class: "tight",
          },
        ]}
      />
    </Card>
  );
}
