// How far event time has come, partition by partition, and who holds it back.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { useWatched } from "../cell";
import { Chart } from "../charts/chart";
import type { Model } from "../charts/model";
import * as format from "../format";
import { Card, LogText, Tile, Trouble, waiting, When } from "../parts/basic";
import { Table } from "../parts/table";
import { status, useAnswer, utc } from "../state";
import type { HeldWhy, Partition, Time } from "../types";

const EVERY_MS = 2000;
/** Five minutes of what was seen while this view is open. */
const KEPT = 150;

const WHY: Record<HeldWhy, string> = {
  slow: "it has more to read and is the least far",
  following: "it is read up to its end, and time goes as far as its newest event: nothing is held back",
  behind: "its lines keep coming, and their time stands still or is far behind that of the others: the clock of the host that writes them is wrong, and windows of all stay open until it is set or that sender ends",
  idle: "it has nothing to read; after idle_after it stops holding time back",
  future: "what it brings is dated in the future, which moves no time",
  "back-pressured": "there is no room for what it would read: results wait for a sink, or memory is at its limit",
  aligned: "it is ahead and waits for others that are further back",
  disconnected: "its broker does not answer, so there may be more to read",
  starting: "it has brought no event yet",
};

export function TimePage() {
  const now = useWatched(status);
  const inUtc = useWatched(utc);
  const { data, error, again } = useAnswer<Time>("time", () => ({}), EVERY_MS);
  const history = useHistory(data, now?.now ?? 0);
  const held = data?.held_by ?? null;
  const holds = (row: Partition) => held !== null && held.process === row.process && held.source === row.source && held.partition === row.partition;
  const newest = now?.last_event ?? null;
  const behind = data?.frontier != null && newest !== null ? Math.max(0, newest - data.frontier) : null;
  const lag = (data?.partitions ?? []).reduce<number | null>((sum, row) => (row.lag_messages == null ? sum : (sum ?? 0) + row.lag_messages), null);
  return (
    <>
      {error && <Trouble error={error} again={again} />}
      <dl class="tiles five">
        <Tile name="Frontier" value={format.clock(data?.frontier, inUtc)} note={data?.frontier != null ? format.dateTime(data.frontier, inUtc).slice(0, 10) : undefined} title="Event time before which everything is known" />
        <Tile name="Behind the newest event" value={format.duration(behind)} tone={(behind ?? 0) > 60_000 ? "warn" : undefined} note={newest !== null ? `newest ${format.clock(newest, inUtc)}` : undefined} />
        <Tile name="Consumer lag" value={format.count(lag)} note={lag === null ? "Kafka only" : "records"} title="Records of Kafka that are not read yet; known while its brokers answer" tone={(lag ?? 0) > 100_000 ? "warn" : undefined} />
        <Tile name="Late" value={format.count(now?.late)} note={`${format.count(now?.future)} dated in the future`} />
        <Tile name="Durable until" value={format.clock(now?.durable, inUtc)} note={now?.durable != null ? format.dateTime(now.durable, inUtc).slice(0, 10) : "nothing yet"} />
      </dl>
      <section class="card holder" aria-label="Who holds the frontier">
        {held ? (
          <p>
            <b>
              <LogText text={held.partition} limit={120} />
            </b>{" "}
            of <LogText text={held.source} limit={60} /> has held the frontier since <When ms={held.since} />, because {WHY[held.why] ?? format.visible(held.why)}.
          </p>
        ) : (
          <p class="note">{data ? "Nothing holds the frontier back." : waiting(error)}</p>
        )}
      </section>
      <Chart title="Watermark delay" note="behind the wall clock, while this view is open" model={history} error={error} empty="Nothing to show yet" selects={false} />
      <Card title="Partitions" note={data ? `${format.count(data.partitions.length)}${data.truncated ? ", the least far of more" : ""}` : undefined}>
        <Table
          cards label="Partitions"
          rows={data?.partitions ?? []}
          rowKey={named}
          empty={data ? "No partition is open." : waiting(error)}
          rowClass={(row) => (holds(row) && held?.why !== "following" ? "marked" : "")}
          columns={[
            { name: "Partition", cell: (row) => <LogText text={row.partition} limit={120} />, by: (row) => row.partition, wide: true },
            { name: "Source", cell: (row) => <LogText text={row.source} limit={40} />, by: (row) => row.source, class: "tight", minor: true },
            { name: "State", cell: (row) => <PartitionState row={row} holds={holds(row)} why={held?.why} />, by: (row) => row.state, class: "tight" },
            { name: "Watermark", cell: (row) => <When ms={row.watermark} />, by: (row) => row.watermark, class: "tight" },
            { name: "Delay", cell: (row) => format.duration(row.watermark_delay_ms), by: (row) => row.watermark_delay_ms, number: true },
            { name: "Lag", cell: (row) => format.count(row.lag_messages), by: (row) => row.lag_messages, number: true },
            { name: "Newest event", cell: (row) => <When ms={row.last_event} />, by: (row) => row.last_event, class: "tight", minor: true },
            { name: "Events", cell: (row) => format.count(row.events), by: (row) => row.events, number: true },
            { name: "Rejected", cell: (row) => format.count(row.rejected), by: (row) => row.rejected, number: true, minor: true },
            { name: "Late", cell: (row) => format.count(row.late), by: (row) => row.late, number: true, minor: true },
            { name: "Process", cell: (row) => row.process, by: (row) => row.process, number: true, minor: true },
          ]}
        />
      </Card>
    </>
  );
}

/** Files of several machines have the same name. */
const named = (row: Partition) => `${row.process} ${row.source} ${row.partition}`;

function PartitionState({ row, holds, why }: { row: Partition; holds: boolean; why: HeldWhy | undefined }) {
  return (
    <span class="states" title={row.since ? `since ${format.dateTime(row.since, true)} UTC` : undefined}>
      <span class={`badge ${row.state === "back-pressured" || row.state === "disconnected" ? "severity-high" : row.state === "active" ? "state-resolved" : "plain"}`}>{format.visible(row.state)}</span>
      {holds && <span class={`badge ${why === "following" ? "plain" : "severity-medium"}`}>holds time</span>}
    </span>
  );
}

/** Delays seen since the view was opened, of the four partitions furthest back. */
function useHistory(data: Time | null, now: number): Model | null {
  const kept = useRef<{ time: number; delays: Map<string, number> }[]>([]);
  const [version, setVersion] = useState(0);
  useEffect(() => {
    if (!data) return;
    const delays = new Map(data.partitions.map((row) => [named(row), row.watermark_delay_ms ?? NaN]));
    kept.current = [...kept.current, { time: Date.now(), delays }].slice(-KEPT);
    setVersion(version + 1);
  }, [data]);
  return useMemo(() => {
    if (!data || now === 0) return null;
    const worst = [...data.partitions].sort((a, b) => (b.watermark_delay_ms ?? -1) - (a.watermark_delay_ms ?? -1)).slice(0, 4);
    worst.sort((a, b) => (a.partition === b.partition ? a.process - b.process : a.partition < b.partition ? -1 : 1));
    const several = (row: Partition) => worst.filter(({ partition }) => partition === row.partition).length > 1;
    const times = kept.current.map((entry) => entry.time);
    const to = times[times.length - 1] ?? Date.now();
    return {
      kind: "lines",
      times,
      step: EVERY_MS,
      from: Math.min(to - 60_000, times[0] ?? to),
      to,
      show: format.duration,
      atLeast: 1000,
      lines: worst.map((row, at) => ({
        name: `${format.shorten(format.visible(row.partition), 40)}${several(row) ? ` (process ${row.process})` : ""}`,
        colour: `--chart-${at + 1}`,
        values: kept.current.map((entry) => {
          const value = entry.delays.get(named(row));
          return value === undefined || Number.isNaN(value) ? null : value;
        }),
      })),
    };
  }, [version]);
}
