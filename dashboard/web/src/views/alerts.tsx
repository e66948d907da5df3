// Alerts in tables: those that fire and the newest on the overview, all on the view Security, those of a client on its view.

import { useMemo, useState } from "preact/hooks";
import { send, type ApiError } from "../api";
import { useWatched } from "../cell";
import * as format from "../format";
import { alertMatches, upsertAlerts, type AlertFilter } from "../match";
import { Card, Dialog, LogText, SeverityBadge, StateBadge, Subject, Trouble, ViewLink, waiting, When } from "../parts/basic";
import { Table, type Column } from "../parts/table";
import { firingFirst, RANK } from "../severity";
import { alerts as feed, go, hasHistory, marks, measures, rangeKey, route, shown, status, useAnswer } from "../state";
import type { Alert, Rows } from "../types";
import type { Route } from "../url";

/** How many the overview lists, and among how many that fire it looks for the most severe. */
const LISTED = 8;
const FIRING = 100;

/** The value of an alert against its threshold, or a part of that, in the unit of its rule. */
function Value({ alert, of }: { alert: Alert; of?: "value" | "threshold" }) {
  const measure = useWatched(measures).get(alert.rule);
  if (of) return <>{format.inUnit(alert[of], measure)}</>;
  return (
    <>
      {format.inUnit(alert.value, measure)} <span class="note">≥ {format.inUnit(alert.threshold, measure)}</span>
    </>
  );
}

export const ALERT_COLUMNS: Column<Alert>[] = [
  { name: "Fired", cell: (alert) => <When ms={alert.fired} />, by: (alert) => alert.fired, class: "tight" },
  { name: "Severity", cell: (alert) => <SeverityBadge severity={alert.severity} />, by: (alert) => RANK[alert.severity], class: "tight" },
  { name: "Rule", cell: (alert) => <LogText text={alert.rule} limit={60} class="rule" />, by: (alert) => alert.rule, class: "tight" },
  { name: "Subject", cell: (alert) => <Subject subject={alert.subject} />, wide: true },
  { name: "Value", cell: (alert) => <Value alert={alert} />, by: (alert) => alert.value, number: true },
  { name: "Score", cell: (alert) => alert.score.toFixed(2), by: (alert) => alert.score, number: true, minor: true },
  { name: "State", cell: (alert) => <StateBadge alert={alert} />, by: (alert) => alert.state, class: "tight" },
];

/** Without sorting, for the overview. */
const NEWEST_COLUMNS = ALERT_COLUMNS.map(({ by: _, ...column }) => column);

/** Alerts of the shown stretch that pass the filter: the API's, with what the stream brought since. */
export function useAlerts(filter: AlertFilter, limit: number, host: string) {
  const here = useWatched(route);
  const news = useWatched(feed);
  const said = useWatched(marks);
  const key = `${rangeKey(here)}|${host}|${JSON.stringify(filter)}|${limit}|${said}`;
  const answer = useAnswer<Rows<Alert>>(`alerts?${key}`, () => ({ ...shown(), host, ...filter, limit }), 60_000);
  const rows = useMemo(() => {
    if (!answer.data && hasHistory()) return null;
    const { from, to } = shown();
    const known = answer.data?.rows ?? [];
    const ids = new Set(known.map((row) => row.id));
    const fits = (alert: Alert) => alertMatches(alert, { ...filter, ...(host ? { host } : {}) });
    const fresh = news.filter((alert) => ids.has(alert.id) || (fits(alert) && alert.last >= from && (here.live || alert.fired < to)));
    return upsertAlerts(known, fresh, limit).filter(fits);
  }, [answer.data, news, key]);
  return { ...answer, error: hasHistory() ? answer.error : null, rows, truncated: answer.data?.truncated ?? false };
}

/** A few alerts, for the overview: what fires first, however many less severe ones are newer. */
export function NewestAlerts() {
  const here = useWatched(route);
  const { rows: newest, error, again } = useAlerts({}, LISTED, here.host);
  const firing = useAlerts({ state: "firing" }, FIRING, here.host).rows;
  // However many of others fire.
  const critical = useAlerts({ state: "firing", severity: "critical" }, LISTED, here.host).rows;
  const rows = useMemo(() => newest && firingFirst([...newest, ...(firing ?? []), ...(critical ?? [])], LISTED), [newest, firing, critical]);
  const all: typeof here = { ...here, view: "security", argument: "", filters: {} };
  return (
    <Card
      title="Newest alerts"
      note="firing ones first, by severity"
      actions={
        <ViewLink class="button" to={all}>
          All alerts
        </ViewLink>
      }
    >
      {error && <Trouble error={error} again={again} />}
      <Table
        cards label="Newest alerts"
        rows={rows ?? []}
        columns={NEWEST_COLUMNS}
        rowKey={(alert) => alert.id}
        empty={rows ? "No alert in this range." : waiting(error)}
        rowClass={(alert) => `severity-edge-${alert.severity}`}
        detail={() => null}
        open={null}
        onOpen={(id) => id && go({ ...all, filters: { alert: id } })}
        openLabel={(alert) => `Show alert ${alert.rule}`}
      />
    </Card>
  );
}

type Act = { kind: "acknowledge" | "silence"; alert: Alert };

/** Rows of alerts with evidence below, and what people may say about them. */
export function AlertTable(props: { label: string; rows: readonly Alert[]; open: string | null; onOpen: (id: string | null) => void; onChanged: () => void; empty: string }) {
  const [act, setAct] = useState<Act | null>(null);
  return (
    <>
      <Table
        cards label={props.label}
        rows={props.rows}
        columns={ALERT_COLUMNS}
        rowKey={(alert) => alert.id}
        empty={props.empty}
        rowClass={(alert) => `severity-edge-${alert.severity}`}
        detail={(alert) => <Detail alert={alert} onAct={(kind) => setAct({ kind, alert })} onChanged={props.onChanged} />}
        open={props.open}
        onOpen={props.onOpen}
        openLabel={(alert) => `Evidence of ${alert.rule}, ${Object.values(alert.subject).map(format.visible).join(", ")}`}
      />
      {act?.kind === "acknowledge" && <Acknowledge alert={act.alert} onClose={() => setAct(null)} onChanged={props.onChanged} />}
      {act?.kind === "silence" && <SilenceForm alert={act.alert} onClose={() => setAct(null)} onChanged={props.onChanged} />}
    </>
  );
}

function Detail({ alert, onAct, onChanged }: { alert: Alert; onAct: (kind: Act["kind"]) => void; onChanged: () => void }) {
  const [problem, setProblem] = useState<ApiError | null>(null);
  const takeBack = () => send("DELETE", `alerts/${encodeURIComponent(alert.id)}/acknowledge`).then(() => (setProblem(null), onChanged()), setProblem);
  const client = alert.subject["client_ip"];
  return (
    <div class="alert-detail">
      <dl class="facts">
        <div>
          <dt>Seen</dt>
          <dd title="Start of the first and end of the last window with a finding: single requests lie between">
            <When ms={alert.first} /> – <When ms={alert.last} /> <span class="note">({format.duration(alert.last - alert.first)})</span>
          </dd>
        </div>
        <div>
          <dt>Peak</dt>
          <dd>
            <Value alert={alert} of="value" /> <span class="note">threshold <Value alert={alert} of="threshold" /></span>
          </dd>
        </div>
        <div>
          <dt>Findings</dt>
          <dd>{format.plural(alert.findings, "window")}</dd>
        </div>
        <div>
          <dt>Score</dt>
          <dd>{alert.score.toFixed(3)}</dd>
        </div>
        <div>
          <dt>Identifier</dt>
          <dd class="log">{format.visible(alert.id)}</dd>
        </div>
      </dl>
      {alert.acknowledged && (
        <p class="said">
          Acknowledged by {format.visible(alert.acknowledged.by)} at <When ms={alert.acknowledged.at} />
          {alert.acknowledged.note && <>: “{format.visible(alert.acknowledged.note)}”</>}
        </p>
      )}
      <h3>Evidence</h3>
      {alert.evidence.length ? (
        <ol class="evidence">
          {alert.evidence.map((line, at) => (
            <li key={at}>
              <bdi class="log" dir="ltr">{format.shorten(format.visible(line), 4000)}</bdi>
            </li>
          ))}
        </ol>
      ) : (
        <p class="note">No lines are kept for this alert yet.</p>
      )}
      <div class="buttons">
        {!hasHistory() ? null : alert.acknowledged ? (
          <button type="button" onClick={takeBack}>
            Take back acknowledgement
          </button>
        ) : (
          <button type="button" class="primary" onClick={() => onAct("acknowledge")}>
            Acknowledge…
          </button>
        )}
        {hasHistory() && (
          <button type="button" onClick={() => onAct("silence")}>
            Silence…
          </button>
        )}
        {client && (
          <button type="button" onClick={() => go({ view: "client", argument: client, filters: {} })}>
            All this client did
          </button>
        )}
        {status.get()?.requests.enabled && (
          <button type="button" onClick={() => go(requestsOf(alert))}>
            Its requests
          </button>
        )}
        <button type="button" onClick={() => go({ range: { from: Math.max(0, alert.first - 60_000), to: alert.last + 60_000 } })}>
          Only this time
        </button>
      </div>
      {problem && <p class="problem" role="alert">{format.visible(problem.message)}</p>}
    </div>
  );
}

/** The requests an alert is about, as far as its subject can be asked for: of its client, path or host, in its time. */
function requestsOf({ subject, first, last }: Alert): Partial<Route> {
  const filters = Object.fromEntries(
    [["client", subject["client_ip"]], ["path", subject["path"]]].filter((pair): pair is [string, string] => Boolean(pair[1])),
  );
  return { view: "requests", argument: "", filters, ...(subject["host"] ? { host: subject["host"] } : {}), range: { from: Math.max(0, first - 1000), to: last + 1000 } };
}

/** A form's fate: sends, closes on success, else says what the server said. */
function useSending(onDone: () => void) {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");
  const run = (what: () => Promise<unknown>) => {
    setBusy(true);
    setProblem("");
    what().then(onDone, (error: unknown) => {
      setProblem(error instanceof Error ? error.message : String(error));
      setBusy(false);
    });
  };
  return { busy, problem, run };
}

function Acknowledge({ alert, onClose, onChanged }: { alert: Alert; onClose: () => void; onChanged: () => void }) {
  const [note, setNote] = useState("");
  const { busy, problem, run } = useSending(() => (onChanged(), onClose()));
  return (
    <Dialog title="Acknowledge alert" onClose={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          run(() => send("POST", `alerts/${encodeURIComponent(alert.id)}/acknowledge`, { note }));
        }}
      >
        <p>
          <b>{format.visible(alert.rule)}</b> <Subject subject={alert.subject} />
        </p>
        <label class="field-row">
          <span>Note</span>
          <textarea rows={3} maxLength={500} value={note} onInput={(event) => setNote(event.currentTarget.value)} placeholder="What is known, who looks into it" />
        </label>
        <p class="problem" role="alert">{format.visible(problem)}</p>
        <div class="buttons">
          <button type="submit" class="primary" disabled={busy}>
            Acknowledge
          </button>
          <button type="button" onClick={onClose}>
            Cancel
          </button>
        </div>
      </form>
    </Dialog>
  );
}

const HOUR = 3_600_000;
const LENGTHS: [string, number][] = [
  ["1 hour", HOUR],
  ["8 hours", 8 * HOUR],
  ["1 day", 24 * HOUR],
  ["7 days", 7 * 24 * HOUR],
  ["30 days", 30 * 24 * HOUR],
];

function SilenceForm({ alert, onClose, onChanged }: { alert: Alert; onClose: () => void; onChanged: () => void }) {
  const [scope, setScope] = useState<"both" | "rule" | "subject">("both");
  const [length, setLength] = useState(8 * HOUR);
  const [reason, setReason] = useState("");
  const { busy, problem, run } = useSending(() => (onChanged(), onClose()));
  const hasSubject = Object.keys(alert.subject).length > 0;
  const subject = Object.entries(alert.subject).map(([field, value]) => `${field}=${format.visible(value)}`).join(", ");
  return (
    <Dialog title="Silence" onClose={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          const until = (status.get()?.now ?? Date.now()) + length;
          run(() =>
            send("POST", "silences", {
              ...(scope !== "subject" ? { rule: alert.rule } : {}),
              ...(scope !== "rule" && hasSubject ? { subject: alert.subject } : {}),
              until,
              reason,
            }),
          );
        }}
      >
        <p>Silenced alerts are still recorded and shown; nobody is told.</p>
        <fieldset>
          <legend>What is silenced</legend>
          <label class="choice">
            <input type="radio" name="scope" checked={scope === "both"} onChange={() => setScope("both")} />
            <span>
              Rule <b>{format.visible(alert.rule)}</b> {hasSubject ? <>for <span class="log">{subject}</span></> : null}
            </span>
          </label>
          {hasSubject && (
            <>
              <label class="choice">
                <input type="radio" name="scope" checked={scope === "subject"} onChange={() => setScope("subject")} />
                <span>
                  Every rule for <span class="log">{subject}</span>
                </span>
              </label>
              <label class="choice">
                <input type="radio" name="scope" checked={scope === "rule"} onChange={() => setScope("rule")} />
                <span>
                  Rule <b>{format.visible(alert.rule)}</b> for everybody
                </span>
              </label>
            </>
          )}
        </fieldset>
        <label class="field-row">
          <span>For</span>
          <select value={String(length)} onChange={(event) => setLength(Number(event.currentTarget.value))}>
            {LENGTHS.map(([name, ms]) => (
              <option key={name} value={String(ms)}>
                {name}
              </option>
            ))}
          </select>
        </label>
        <label class="field-row">
          <span>Reason</span>
          <input type="text" required maxLength={500} value={reason} onInput={(event) => setReason(event.currentTarget.value)} />
        </label>
        <p class="problem" role="alert">{format.visible(problem)}</p>
        <div class="buttons">
          <button type="submit" class="primary" disabled={busy}>
            Silence
          </button>
          <button type="button" onClick={onClose}>
            Cancel
          </button>
        </div>
      </form>
    </Dialog>
  );
}
