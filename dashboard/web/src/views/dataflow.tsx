// What Timely's workers do: how busy they are, in which operators, and how far each part has come.

import { useMemo } from "preact/hooks";
import { useWatched } from "../cell";
import * as format from "../format";
import { Card, LogText, Meter, Tile, Trouble, waiting, When } from "../parts/basic";
import { Table } from "../parts/table";
import { route, setFilter, status, useAnswer } from "../state";
import type { Dataflow, Operator } from "../types";

interface Group {
  key: string;
  name: string;
  address: string;
  busy: number;
  share: number;
  activations: number;
  recordsIn: number | null;
  recordsOut: number | null;
  workers: Operator[];
  /** The busiest worker's time over the mean: 1 is even. */
  skew: number | null;
}

export function DataflowPage() {
  const now = useWatched(status);
  const { text = "", operator: open = "" } = useWatched(route).filters;
  const { data, error, again } = useAnswer<Dataflow & { over_ms?: number }>("dataflow", () => ({}), 2000);
  const groups = useMemo(() => (data ? grouped(data.operators) : []), [data]);
  const rows = groups.filter((group) => !text || group.name.toLowerCase().includes(text.toLowerCase()));
  const workers = data?.workers ?? [];
  const busy = workers.length ? workers.reduce((sum, worker) => sum + worker.busy, 0) / workers.length : null;
  const top = Math.max(0.0001, ...groups.map((group) => group.share));
  const over = data?.over_ms ? `over the last ${format.duration(data.over_ms)}` : "over the last seconds";
  return (
    <>
      {error && <Trouble error={error} again={again} />}
      <dl class="tiles four">
        <Tile name="Workers" value={format.count(workers.length || null)} note={now ? format.plural(now.processes, "process", "processes") : undefined} />
        <Tile name="Busy" value={format.percent(busy)} note={over} tone={(busy ?? 0) > 0.9 ? "warn" : undefined} />
        <Tile name="Events" value={now ? format.rate(now.rate).replace("req/s", "per s") : format.NONE} note={now ? `${format.count(now.events)} since start` : undefined} />
        <Tile name="Memory" value={format.bytes(now?.memory_bytes)} note="all processes" />
      </dl>
      <Card title="Workers" note={over}>
        <ul class="workers">
          {workers.map((worker) => (
            <li key={`${worker.process} ${worker.index}`}>
              <span class="worker-name">
                Worker {worker.index}
                {(now?.processes ?? 1) > 1 && <span class="note"> process {worker.process}</span>}
              </span>
              <span class="worker-bar" aria-hidden="true">
                <span class="busy" style={{ width: `${clamp(worker.busy) * 100}%` }} />
                <span class="parked" style={{ width: `${clamp(worker.parked) * 100}%` }} />
              </span>
              <span class="worker-numbers">
                <b>{format.percent(worker.busy)}</b> busy, {format.percent(worker.parked)} parked
              </span>
            </li>
          ))}
          {!workers.length && <li class="empty">{data ? "No worker reports." : waiting(error)}</li>}
        </ul>
      </Card>
      <Card title="Operators" note={data ? `${format.count(rows.length)}${data.truncated ? ", the busiest of more" : ""}, ${over}` : undefined}>
        <form class="filters" role="search" aria-label="Operators" onSubmit={(event) => event.preventDefault()}>
          <label class="grows">
            <span>Name</span>
            <input type="search" value={text} placeholder="part of it" onInput={(event) => setFilter("text", event.currentTarget.value)} />
          </label>
        </form>
        <Table
          cards label="Operators"
          rows={rows}
          rowKey={(group) => group.key}
          sorted={{ name: "Busy", down: true }}
          empty={data ? "No operator has this name." : waiting(error)}
          open={open || null}
          onOpen={(key) => setFilter("operator", key ?? "")}
          openLabel={(group) => `Workers of ${format.visible(group.name)}`}
          detail={(group) => <ByWorker group={group} />}
          columns={[
            { name: "Operator", cell: (group) => <LogText text={group.name} limit={100} />, by: (group) => group.name, wide: true },
            { name: "Address", cell: (group) => <span class="log note">{group.address}</span>, by: (group) => group.address, minor: true, class: "tight" },
            { name: "Busy", cell: (group) => format.latency(group.busy), by: (group) => group.busy, number: true },
            {
              name: "Share",
              cell: (group) => (
                <span class="metered">
                  {format.percent(group.share)}
                  <Meter share={group.share / top} />
                </span>
              ),
              by: (group) => group.share,
              number: true,
            },
            { name: "Runs", cell: (group) => format.count(group.activations), by: (group) => group.activations, number: true, minor: true },
            { name: "Records in", cell: (group) => format.count(group.recordsIn), by: (group) => group.recordsIn, number: true },
            { name: "Records out", cell: (group) => format.count(group.recordsOut), by: (group) => group.recordsOut, number: true },
            { name: "Skew", cell: (group) => (group.skew === null ? format.NONE : `${group.skew.toFixed(1)}×`), by: (group) => group.skew, number: true, minor: true },
          ]}
        />
      </Card>
      <Card title="Frontiers" note="how far event time has come">
        <Table
          label="Frontiers"
          rows={data?.frontiers ?? []}
          rowKey={(row) => row.name}
          empty={data ? "None reported." : waiting(error)}
          columns={[
            { name: "Where", cell: (row) => <LogText text={row.name} limit={100} />, by: (row) => row.name, wide: true },
            { name: "Time", cell: (row) => (row.time === null ? <span class="note">none</span> : <When ms={row.time} precise />), by: (row) => row.time, class: "tight" },
            { name: "Behind", title: "Behind the newest event", cell: (row) => (row.time === null || !now?.last_event ? format.NONE : format.duration(Math.max(0, now.last_event - row.time))), number: true },
          ]}
        />
      </Card>
    </>
  );
}

const clamp = (share: number) => Math.max(0, Math.min(1, share || 0));

function ByWorker({ group }: { group: Group }) {
  return (
    <Table
      label={`${group.name} by worker`}
      rows={group.workers}
      rowKey={(row) => `${row.process} ${row.worker} ${row.id}`}
      empty=""
      columns={[
        { name: "Worker", cell: (row) => `${row.worker}` },
        { name: "Process", cell: (row) => row.process, number: true },
        { name: "Busy", cell: (row) => format.latency(row.busy_ms), number: true },
        { name: "Share", cell: (row) => format.percent(row.share), number: true },
        { name: "Runs", cell: (row) => format.count(row.activations), number: true },
        { name: "Records in", cell: (row) => format.count(row.records_in), number: true },
        { name: "Records out", cell: (row) => format.count(row.records_out), number: true },
      ]}
    />
  );
}

/** One row an operator of the dataflow, its workers together. */
export function grouped(operators: readonly Operator[]): Group[] {
  const groups = new Map<string, Operator[]>();
  for (const operator of operators) {
    const address = Array.isArray(operator.address) ? operator.address.join(".") : String(operator.address);
    const key = `${address} ${operator.name}`;
    const members = groups.get(key);
    if (members) members.push(operator);
    else groups.set(key, [operator]);
  }
  const add = (members: Operator[], of: (row: Operator) => number | null | undefined): number | null =>
    members.reduce<number | null>((sum, row) => (of(row) == null ? sum : (sum ?? 0) + (of(row) ?? 0)), null);
  return [...groups].map(([key, members]) => {
    const busy = add(members, (row) => row.busy_ms) ?? 0;
    const most = Math.max(...members.map((row) => row.busy_ms));
    return {
      key,
      name: members[0]?.name ?? "",
      address: key.slice(0, key.indexOf(" ")),
      busy,
      share: (add(members, (row) => row.share) ?? 0) / members.length,
      activations: add(members, (row) => row.activations) ?? 0,
      recordsIn: add(members, (row) => row.records_in),
      recordsOut: add(members, (row) => row.records_out),
      workers: members,
      skew: members.length > 1 && busy >= 1 ? most / (busy / members.length) : null,
    };
  });
}
