// Who asks for what, and how that goes: rankings over the shown stretch.

import type { ComponentChildren } from "preact";
import { memo } from "preact/compat";
import { agentName } from "../agent";
import { useWatched } from "../cell";
import * as format from "../format";
import { Card, ClientLink, LogText, Meter, NotKept, Split, Trouble, ViewLink, waiting } from "../parts/basic";
import { Table, type Column } from "../parts/table";
import { go, rangeKey, route, shown, status, useAnswer } from "../state";
import type { TopKind, TopRow, Tops } from "../types";

const EVERY_MS = 10_000;
const LIMIT = 12;

function useTops(kind: TopKind, limit = LIMIT) {
  const here = useWatched(route);
  return useAnswer<Tops>(`tops?${kind}|${limit}|${rangeKey(here)}`, () => ({ kind, ...shown(), host: here.host, limit }), EVERY_MS);
}

const requests: Column<TopRow> = { name: "Requests", cell: (row) => <span title={format.exact(row.requests)}>{format.count(row.requests)}</span>, by: (row) => row.requests, number: true };
const share: Column<TopRow> = {
  name: "Share",
  cell: (row) => (
    <span class="metered">
      {format.percent(row.share)}
      <Meter share={row.share ?? 0} />
    </span>
  ),
  by: (row) => row.share,
  number: true,
};
const bytes: Column<TopRow> = { name: "Sent", cell: (row) => format.bytes(row.bytes), by: (row) => row.bytes, number: true, minor: true };
const statuses: Column<TopRow> = {
  name: "Status",
  cell: (row) => {
    const [c4, c5] = [row.status_4xx ?? 0, row.status_5xx ?? 0];
    return (
      <Split
        parts={[
          { name: "2xx and 3xx", value: Math.max(0, row.requests - c4 - c5), class: "fill-2xx" },
          { name: "4xx", value: c4, class: "fill-4xx" },
          { name: "5xx", value: c5, class: "fill-5xx" },
        ]}
      />
    );
  },
  by: (row) => (row.requests ? ((row.status_4xx ?? 0) + (row.status_5xx ?? 0)) / row.requests : 0),
};

/** What the colours in the column Status mean. */
function StatusKey() {
  return (
    <ul class="legend" aria-hidden="true">
      {[["fill-2xx", "2xx, 3xx"], ["fill-4xx", "4xx"], ["fill-5xx", "5xx"]].map(([colour, name]) => (
        <li key={name}>
          <i class={`swatch ${colour}`} />
          {name}
        </li>
      ))}
    </ul>
  );
}

function named(name: string, cell?: (row: TopRow) => ComponentChildren): Column<TopRow> {
  return { name, cell: cell ?? ((row) => <LogText text={row.name} limit={200} />), by: (row) => row.name, wide: true };
}

interface TopCardProps {
  title: string;
  kind: TopKind;
  columns: Column<TopRow>[];
  note?: (tops: Tops) => string | undefined;
  empty?: string;
  limit?: number;
  class?: string;
}

function TopCard({ title, kind, columns, note, empty = "None in this range.", limit, class: className }: TopCardProps) {
  const { data, error, again } = useTops(kind, limit);
  return (
    <Card title={title} note={data ? [note?.(data), data.approximate && data.rows.length ? "lower bounds" : ""].filter(Boolean).join("; ") : undefined} class={`top-card ${className ?? ""}`} actions={columns.includes(statuses) && data?.rows.length ? <StatusKey /> : undefined}>
      {error && <Trouble error={error} again={again} />}
      <Table label={title} rows={data?.rows ?? []} columns={columns} rowKey={(row) => row.name} empty={data ? empty : waiting(error)} />
    </Card>
  );
}

export function TrafficPage() {
  const now = useWatched(status);
  return <Rankings history={now?.history !== false} countries={now?.countries ?? false} />;
}

/** Not rendered again with every status. */
const Rankings = memo(function Rankings({ history, countries }: { history: boolean; countries: boolean }) {
  const here = useWatched(route);
  if (!history) return <NotKept what="Rankings of paths, clients, agents and referrers" />;
  /** A name that leads to its requests. */
  const asking = (filter: string, limit: number, before?: (row: TopRow) => ComponentChildren) => (row: TopRow) => {
    const name = (
      <>
        {before?.(row)}
        <LogText text={row.name} limit={limit} />
      </>
    );
    return row.name ? (
      <ViewLink class="plain-link" to={{ ...here, view: "requests", argument: "", filters: { [filter]: row.name } }}>
        {name}
      </ViewLink>
    ) : (
      name
    );
  };
  const path = asking("path", 200);
  const agent = asking("text", 160, (row) => {
    const short = agentName(row.name);
    return short && <span class="agent-name">{short}</span>;
  });
  return (
    <>
      <div class="grid">
        <TopCard title="Top paths" kind="paths" class="span-5" columns={[named("Path", path), requests, share, statuses, bytes]} />
        <TopCard title="Top clients" kind="clients" class="span-5" columns={[named("Client", (row) => <ClientLink ip={row.name} />), requests, share, statuses, bytes]} />
        <TopCard title="Slowest paths" kind="slow_paths" class="span-4" columns={[named("Path", path), { name: "Worst p95", title: "p95 of the path's slowest window in this range: quantiles of windows cannot be combined", cell: (row) => format.latency(row.latency_p95), by: (row) => row.latency_p95, number: true }, requests]} empty="No path with enough timed requests: these logs may carry no durations." />
        <TopCard
          title="User agents"
          kind="agents"
          class="span-6"
          note={({ bot_share: bots }) => (bots == null ? undefined : `bots: ${format.percent(bots)} of all requests`)}
          columns={[
            named("Agent", (row) => (
              <span class="agent">
                {row.bot && <span class="badge plain">bot</span>}
                {agent(row)}
              </span>
            )),
            requests,
            share,
          ]}
        />
        <TopCard title="Methods" kind="methods" class="span-2" columns={[named("Method"), requests, { name: "Share", cell: (row) => format.percent(row.share), by: (row) => row.share, number: true }]} />
        <TopCard title="Referrers" kind="referrers" class="span-4" columns={[named("Referrer", asking("text", 200)), requests, share]} empty="No request came with a referrer." />
        <TopCard
          title="Hosts"
          kind="hosts"
          class="span-4"
          columns={[
            named("Host", (row) => (
              <button type="button" class="link" onClick={() => go({ host: row.name })} title="Only this host">
                <LogText text={row.name} limit={80} />
              </button>
            )),
            requests,
            share,
            statuses,
            bytes,
          ]}
        />
        {countries && (
          <TopCard
            title="Countries"
            kind="countries"
            note={() => "of the top clients"}
            columns={[named("Country", (row) => (row.name ? <span>{format.visible(row.name)}</span> : <span class="none">not known</span>)), requests, share, statuses, bytes]}
          />
        )}
      </div>
      <p class="note">
        Of each window only the top names are kept. A list of several windows adds these up: its counts are lower bounds, and names may be missing that were never among the tops. <code>[windows] top</code> in the configuration raises how many are kept.
      </p>
    </>
  );
});
