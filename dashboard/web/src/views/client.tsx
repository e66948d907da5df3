// Everything one client did: its alerts, requests by status, paths, agents.

import { useMemo, useState } from "preact/hooks";
import { useWatched } from "../cell";
import { Chart } from "../charts/chart";
import type { Model } from "../charts/model";
import * as format from "../format";
import { Card, LogText, Meter, NotKept, Tile, Trouble, ViewLink, waiting } from "../parts/basic";
import { Table } from "../parts/table";
import { classLines, column, niceStep } from "../series";
import { go, rangeKey, route, shown, status, useAnswer, utc } from "../state";
import type { ClientView, TopRow, Tops } from "../types";
import type { Route } from "../url";
import { AlertTable } from "./alerts";
import { CLIENT_COLUMNS, keyed, RequestDetail } from "./requests";

export function ClientPage() {
  const here = useWatched(route);
  const inUtc = useWatched(utc);
  const { data, error, again } = useAnswer<ClientView>(`client?${here.argument}|${rangeKey(here)}`, () => ({ ip: here.argument, ...shown() }), 5000);
  const isKept = useWatched(status)?.requests.enabled !== false;
  // Where single requests are not kept, the rankings may know how many there were.
  const tops = useAnswer<Tops>(isKept ? null : `tops?clients|${rangeKey(here)}`, () => ({ kind: "clients", ...shown(), host: here.host, limit: 1000 }), 10_000).data;
  const model = useMemo(() => (data ? draw(data) : null), [data]);
  const [openAlert, setOpenAlert] = useState<string | null>(null);
  const [openRequest, setOpenRequest] = useState<string | null>(null);
  const rows = useMemo(() => keyed(data?.requests ?? []), [data]);
  const sums = model ? model.lines.map((line) => [line.name, line.values.reduce<number>((sum, value) => sum + (value ?? 0), 0)] as const) : [];
  const requests = sums.reduce((sum, [, value]) => sum + value, 0);
  // Of all requests: more paths and agents may be kept than are listed.
  const share = (row: TopRow) => row.requests / Math.max(requests, row.requests, 1);
  const failed = sums.filter(([name]) => name === "4xx" || name === "5xx").reduce((sum, [, value]) => sum + value, 0);
  const about = data?.sampled ? "about " : "";
  const estimated = data?.sampled ? "estimated" : undefined;
  if (error?.isNotKept) return <NotKept what="All requests of a client" />;
  return (
    <>
      {error && <Trouble error={error} again={again} />}
      {!isKept ? (
        <Ranked tops={tops} ip={here.argument} />
      ) : (
        <dl class="tiles four">
          <Tile name="Requests" value={about + format.count(data ? requests : null)} note={data ? format.kept(data) : undefined} />
          <Tile name="4xx and 5xx" value={format.percent(requests ? failed / requests : null)} note={data ? about + format.plural(failed, "request") : undefined} tone={requests && failed / requests > 0.5 ? "bad" : undefined} />
          <Tile name="First seen" value={format.clock(data?.first, inUtc)} note={format.dateTime(data?.first, inUtc).slice(0, 10)} />
          <Tile name="Last seen" value={format.clock(data?.last, inUtc)} note={format.dateTime(data?.last, inUtc).slice(0, 10)} />
        </dl>
      )}
      {isKept && <Chart title="Requests by status" note={data ? format.sample(data) : undefined} model={model} legend="sum" empty="No request of this client is kept in this range" error={error} />}
      <Card title="Alerts" note={data ? format.found(data.alerts.length, data.alerts_truncated) : undefined}>
        <AlertTable label="Alerts of this client" rows={data?.alerts ?? []} open={openAlert} onOpen={setOpenAlert} onChanged={again} empty={!data ? waiting(error) : data.alerts_truncated ? "No alert found about this client: there was no time to look at all of this range." : "No alert about this client in this range."} />
      </Card>
      {isKept && (
        <>
          <div class="grid">
            <Names
              title="Paths"
              note={estimated}
              name="Path"
              rows={data?.paths}
              error={error}
              share={share}
              link={(path) => ({ ...here, view: "requests", argument: "", filters: { client: here.argument, path } })}
            />
            <Names title="User agents" note={estimated} name="Agent" rows={data?.agents} error={error} share={share} />
          </div>
          <Card
            title="Newest requests"
            note={data ? format.count(rows.length) : undefined}
            actions={
              <button type="button" onClick={() => go({ view: "requests", argument: "", filters: { client: here.argument } })}>
                Follow live
              </button>
            }
          >
            <Table
              cards label="Requests of this client, newest first"
              rows={rows}
              columns={CLIENT_COLUMNS}
              rowKey={(entry) => entry.key}
              empty={data ? "No request of this client is kept in this range." : waiting(error)}
              detail={({ row }) => <RequestDetail row={row} />}
              open={openRequest}
              onOpen={setOpenRequest}
              openLabel={({ row }) => `Details of ${row.method} ${format.shorten(format.visible(row.path), 60)}`}
            />
          </Card>
        </>
      )}
    </>
  );
}

/** What is known of a client where single requests are not kept. */
function Ranked({ tops, ip }: { tops: Tops | null; ip: string }) {
  const row = tops?.rows.find(({ name }) => name === ip);
  const failed = row && (row.status_4xx ?? 0) + (row.status_5xx ?? 0);
  return (
    <>
      <dl class="tiles two">
        <Tile name="Requests" value={row ? `≥ ${format.count(row.requests)}` : format.NONE} note={row ? "in windows whose tops it is among" : tops ? "not among the tops of this range" : undefined} />
        <Tile name="4xx and 5xx" value={format.percent(row?.requests ? (failed ?? 0) / row.requests : null)} note={row ? format.plural(failed ?? 0, "request") : undefined} />
      </dl>
      <Card title="Requests">
        <p class="empty">
          Single requests are not kept: <code>[store] requests</code> is 0 in the configuration. What this client asked for is not known; its alerts are.
        </p>
      </Card>
    </>
  );
}

interface NamesProps {
  title: string;
  note: string | undefined;
  name: string;
  rows: TopRow[] | undefined;
  error: unknown;
  share: (row: TopRow) => number;
  /** Where a name leads. */
  link?: (name: string) => Route;
}

function Names({ title, note, name, rows, error, share, link }: NamesProps) {
  return (
    <Card title={title} note={note}>
      <Table
        label={title}
        rows={rows ?? []}
        rowKey={(row) => row.name}
        limit={30}
        empty={rows ? "None kept." : waiting(error)}
        columns={[
          {
            name,
            cell: (row) => {
              const to = row.name ? link?.(row.name) : undefined;
              const shown = <LogText text={row.name} limit={200} />;
              return to ? (
                <ViewLink class="plain-link" to={to}>
                  {shown}
                </ViewLink>
              ) : (
                shown
              );
            },
            wide: true,
          },
          { name: "Requests", cell: (row) => format.count(row.requests), number: true },
          {
            name: "Share",
            cell: (row) => (
              <span class="metered">
                {format.percent(share(row))}
                <Meter share={share(row)} />
              </span>
            ),
            number: true,
          },
        ]}
      />
    </Card>
  );
}

function draw(data: ClientView): Model {
  const { from, to } = shown();
  const times = column(data.series, "time").map((time) => time ?? 0);
  const gaps = times.slice(1).map((time, at) => time - (times[at] ?? 0));
  const step = data.series.step ?? (gaps.length ? Math.min(...gaps) : niceStep((to - from) / 60));
  // A visit of a minute is no sliver in a chart of an hour.
  const begins = times.length ? Math.max(from, (times[0] ?? from) - step) : from;
  const ends = times.length ? Math.min(to, (times[times.length - 1] ?? to) + 2 * step) : to;
  const centre = (begins + ends) / 2;
  const half = Math.max((ends - begins) / 2, 30_000);
  return {
    kind: "bars",
    stacked: true,
    times,
    step: Math.max(1, step),
    from: Math.max(from, centre - half),
    to: Math.min(to, centre + half),
    show: format.count,
    atLeast: 4,
    lines: classLines(data.series),
  };
}
