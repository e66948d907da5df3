// How it goes: numbers of now, six charts over the shown stretch, alerts that fire and the newest.

import { memo } from "preact/compat";
import { useMemo } from "preact/hooks";
import { useWatched } from "../cell";
import { Chart } from "../charts/chart";
import type { Line, Model } from "../charts/model";
import * as format from "../format";
import { Card, Tile, Trouble, ViewLink } from "../parts/basic";
import { column, isWhole, newestWhole, quietFor, sinceWhole, summary, untilWhole, withGaps, type Known } from "../series";
import { criticalFiring } from "../severity";
import { newest, rangeKey, route, shown, status, useAnswer } from "../state";
import type { Alert, Cell, Errors, Rows, Rule, Series } from "../types";
import { NewestAlerts } from "./alerts";
import { useSeries } from "./use-series";

const NAMES = ["rps", "latency_avg", "latency_p95", "latency_p99", "latency_max", "throughput", "status_2xx", "status_3xx", "status_4xx", "status_5xx", "error_ratio", "clients"] as const;
type Name = (typeof NAMES)[number];

/** Of what the first tiles are. */
const NEWEST = "Of the newest whole window of this range";

/** Of how many alerts of one host that fire the severity is looked at. */
const FIRING = 500;

/** Not drawn again each second with the rest. */
const Alerts = memo(NewestAlerts);

export function OverviewPage() {
  const now = useWatched(status);
  const here = useWatched(route);
  const { series, error, again, stamp } = useSeries();
  // Which rules fire; another critical alert is seen at once.
  const rules = useAnswer<Rows<Rule>>(now && `rules?${now.alerts.critical}`, () => ({}), 10_000).data?.rows;
  // The status and the rules count those of all hosts.
  const ofHost = useAnswer<Rows<Alert>>(now && here.host ? `alerts?firing|${here.host}|${now.alerts.fired}|${now.alerts.firing}` : null, () => ({ host: here.host, state: "firing", limit: FIRING }), 10_000).data;
  const quiet = now && series ? quietFor(now, series.step) : null;
  // A window that nothing more comes for is over. An old log may be read just now.
  const fills = here.live && (quiet === null || (now?.rate ?? 0) > 0);
  const models = useMemo(() => (series ? draw(series, fills) : null), [series, fills]);
  const totals = useMemo(() => (series ? total(series) : null), [series]);
  // Without requests there may be messages all the same.
  const isSilent = series !== null && !series.rows.length;
  const messages = useAnswer<Errors>(isSilent && newest() !== null ? `errors?any|${rangeKey(here)}` : null, () => ({ ...shown(), host: here.host, limit: 1 }), 10_000).data?.rows.length;
  if (!now) return <></>;
  const nothing = newest() === null;
  const { fired, firing, critical } = now.alerts;
  // The status comes each second, the rules more seldom.
  const criticalNow = rules ? Math.min(criticalFiring(rules), firing) : null;
  const hostFiring = ofHost?.rows.filter(({ mode }) => mode !== "shadow");
  const more = ofHost?.truncated ? "+" : "";
  const sinceStart = here.host ? "since start, all hosts" : "since start";
  const findings = now.history !== false;
  const several = !here.host && now.hosts.length > 1;
  const newestWindow = series ? spanOf(series, totals, here.live && quiet !== null && now.rate === 0 ? now.now : series.to) : "\u00a0";
  return (
    <>
      {error && <Trouble error={error} again={again} />}
      <dl class="tiles">
        <Tile name="Requests" value={format.rate(totals?.rps ?? (here.live && !here.host && !(isSilent && messages) ? now.rate : null))} span={newestWindow} note={totals ? `${format.count(totals.requests)} in range` : undefined} title={totals ? NEWEST : undefined} />
        <Tile name="Latency p95" value={format.latency(totals?.p95)} span={newestWindow} note={several ? "slowest host" : totals ? `max ${format.latency(totals.max)} in range` : undefined} title={totals ? `${NEWEST}${several ? ", of the slowest host" : ""}; average ${format.latency(totals.avg)}. Of the whole range: max ${format.latency(totals.max)}` : undefined} />
        <Tile name="Error share" value={format.percent(totals?.errors)} span="in range" note={totals ? `${format.count(totals.failed)} of 5xx` : undefined} title="5xx of all requests in this range" tone={(totals?.errors ?? 0) >= 0.05 ? "bad" : (totals?.errors ?? 0) >= 0.01 ? "warn" : undefined} />
        <Tile name="Distinct clients" value={format.count(totals?.clients)} span={newestWindow} note={several ? "busiest host" : undefined} title={`${NEWEST}${several ? ", of the host with most: clients of several hosts are not added up" : ""}`} />
        <Tile name="Events processed" value={format.count(now.events)} span={sinceStart} note={now.rejected ? `${format.count(now.rejected)} rejected` : "none rejected"} title={`${format.exact(now.events)} ${sinceStart}`} />
        <Tile name="Anomalies" value={format.count(findings ? totals?.anomalies : fired)} span={findings ? "in range" : sinceStart} note={findings ? "findings of rules" : "alerts fired"} title={findings ? "Windows of this range in which a rule found something; an alert has one or more of them" : undefined} />
        <Tile name="Anomaly rate" value={format.percent(now.anomaly_rate)} span={sinceStart} note={format.plural(fired, "alert")} title={`Alerts that fired since the start, of all severities${here.host ? " and hosts" : ""}, as a share of events`} />
        {here.host ? (
          <Tile name="Critical alerts" value={hostFiring ? format.count(hostFiring.filter(({ severity }) => severity === "critical").length) + more : format.NONE} span={hostFiring ? `of ${format.count(hostFiring.length)}${more} firing now` : "firing now"} note="of this host" title="Critical alerts of this host that fire now, of all of it that fire. Alerts of rules that do not tell hosts apart are of none" tone={hostFiring?.some(({ severity }) => severity === "critical") ? "bad" : hostFiring?.length ? "warn" : undefined} />
        ) : (
          <Tile name="Critical alerts" value={format.count(criticalNow)} span={`of ${format.count(firing)} firing now`} note={`${format.count(critical)} since start`} title={`Critical alerts that fire now, of all that fire. Since the start ${format.plural(critical, "critical alert")} fired, of ${format.count(fired)} in all; those that fire since an earlier run are not among them`} tone={criticalNow ? "bad" : firing ? "warn" : undefined} />
        )}
      </dl>
      {nothing ? (
        <Card title="Nothing yet">
          <p class="empty">
            No request has been read yet. As soon as a line arrives it is shown here. See the view “Time” for what is being read.
          </p>
        </Card>
      ) : isSilent && messages ? (
        <Card title="No requests">
          <p class="empty">
            There is no request in this range, but there are messages: these may be error logs alone. See{" "}
            <ViewLink to={{ ...here, view: "errors", argument: "", filters: {} }}>Errors</ViewLink>.
          </p>
        </Card>
      ) : (
        <div class="charts">
          <Chart stamp={stamp} error={error} title="Requests per second" model={models?.requests ?? null} />
          <Chart stamp={stamp} error={error} title="Status classes" note={series ? `per ${format.duration(series.step)}` : undefined} model={models?.statuses ?? null} />
          <Chart stamp={stamp} error={error} title="Error share" note="5xx of all" model={models?.errors ?? null} />
          <Chart stamp={stamp} error={error} title="Latency" note={several ? approximate(series, "latency_p95", "p95, p99: slowest host") : undefined} model={models?.latency ?? null} empty={totals?.requests ? "These logs carry no durations" : undefined} />
          <Chart stamp={stamp} error={error} title="Bandwidth" model={models?.bandwidth ?? null} />
          <Chart stamp={stamp} error={error} title="Distinct clients" note={several ? approximate(series, "clients", "busiest host") : undefined} model={models?.clients ?? null} />
        </div>
      )}
      <Alerts />
    </>
  );
}

function approximate(series: Series | null, name: string, says: string): string | undefined {
  return series?.approximate?.includes(name) ? says : undefined;
}

/** Of which time the newest window is, seen from `now`: where windows are missing, or nothing comes any more, it is not the last. */
function spanOf(series: Known, newest: { end: number | null; inPart: boolean } | null, now: number): string {
  const length = format.duration(series.step);
  const end = newest?.end ?? null;
  if (newest?.inPart) return `${length}, in part`;
  const age = end === null ? 0 : now - end;
  return age > Math.max(60_000, 3 * series.step) ? `${length}, ${format.roughly(age)} ago` : `last ${length}`;
}

/** Numbers of the newest whole window, and sums over the stretch. */
function total(series: Known) {
  const sum = (name: string) => summary(column(series, name)).sum;
  const whole = newestWhole(series);
  const newest = (name: string): Cell => whole?.[series.columns.indexOf(name)] ?? null;
  const time = newest("time");
  const [requests, failed] = [sum("requests"), sum("status_5xx")];
  const anomalies = summary(column(series, "anomalies"));
  return {
    requests,
    failed,
    /** When the newest whole window ended. */
    end: time === null ? null : time + series.step,
    /** It still fills, or the data begins in it, and there is no other. */
    inPart: whole !== null && !isWhole(series, whole),
    rps: newest("rps"),
    p95: newest("latency_p95"),
    avg: newest("latency_avg"),
    max: summary(column(series, "latency_max")).max,
    clients: newest("clients"),
    errors: requests > 0 ? failed / requests : null,
    anomalies: anomalies.last === null ? null : anomalies.sum,
  };
}

/** While the newest window fills, it is not drawn: what is said of it would be another each second. Nor is that in which the data begins. */
function draw(series: Known, fills: boolean) {
  const cut = sinceWhole(fills ? untilWhole(series) : series);
  const whole = newestWhole(series)?.[0];
  const { times, columns } = withGaps(column(cut, "time").map((time) => time ?? 0), cut.step, NAMES.map((name) => column(cut, name)));
  const values = (name: Name): Cell[] => columns[NAMES.indexOf(name)] ?? [];
  const make = (kind: Model["kind"], show: Model["show"], lines: [string, string, Name][], rest: Partial<Model> = {}): Model => ({
    kind,
    times,
    step: cut.step,
    from: cut.from,
    to: cut.to,
    show,
    lines: lines.map(([name, colour, field]): Line => ({ name, colour, values: values(field) })),
    whole,
    ...rest,
  });
  return {
    requests: make("area", format.rate, [["all", "--chart-1", "rps"]], { atLeast: 1, axis: format.count }),
    statuses: make(
      "area",
      format.count,
      [
        ["2xx", "--status-2xx", "status_2xx"],
        ["3xx", "--status-3xx", "status_3xx"],
        ["4xx", "--status-4xx", "status_4xx"],
        ["5xx", "--status-5xx", "status_5xx"],
      ],
      { stacked: true, atLeast: 1 },
    ),
    errors: make("area", format.percent, [["5xx", "--status-5xx", "error_ratio"]], { atLeast: 0.01, most: 1 }),
    latency: make(
      "lines",
      format.latency,
      [
        ["max", "--chart-4", "latency_max"],
        ["p99", "--chart-3", "latency_p99"],
        ["p95", "--chart-2", "latency_p95"],
        ["avg", "--chart-1", "latency_avg"],
      ],
      { log: true, axis: format.latencyAxis },
    ),
    bandwidth: make("area", format.throughput, [["sent", "--chart-1", "throughput"]], { atLeast: 1024 }),
    clients: make("area", format.count, [["clients", "--chart-1", "clients"]], { atLeast: 1 }),
  };
}
