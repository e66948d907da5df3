// What error logs and applications say, by pattern of message.

import { useMemo } from "preact/hooks";
import { useWatched } from "../cell";
import { Chart } from "../charts/chart";
import type { Model } from "../charts/model";
import * as format from "../format";
import { Card, LogText, NotKept, Trouble, waiting, When } from "../parts/basic";
import { Table } from "../parts/table";
import { column, niceStep } from "../series";
import { go, rangeKey, route, setFilter, shown, useAnswer } from "../state";
import type { ErrorRow, Errors } from "../types";

const LEVELS = ["emerg", "alert", "crit", "error", "warn", "notice", "info", "debug", "trace", "none"] as const;
const TONE: Record<string, string> = { emerg: "critical", alert: "critical", crit: "critical", error: "high", warn: "medium", notice: "low" };
const COLOUR: Record<(typeof LEVELS)[number], string> = {
  emerg: "--severity-critical", alert: "--severity-critical", crit: "--severity-critical", error: "--severity-high", warn: "--severity-medium",
  notice: "--severity-low", info: "--severity-info", debug: "--chart-3", trace: "--chart-3", none: "--chart-4",
};
const rank = (level: string) => LEVELS.length - (LEVELS as readonly string[]).indexOf(level);

export function ErrorsPage() {
  const here = useWatched(route);
  const { severity = "", text = "", pattern: open = "" } = here.filters;
  const { data, error, again } = useAnswer<Errors>(`errors?${rangeKey(here)}|${severity}`, () => ({ ...shown(), host: here.host, severity, limit: 300 }), 10_000);
  const model = useMemo(() => (data ? draw(data) : null), [data]);
  const rows = useMemo(() => {
    const needle = text.toLowerCase();
    return (data?.rows ?? []).filter((row) => !needle || `${row.pattern} ${row.example} ${row.host}`.toLowerCase().includes(needle));
  }, [data, text]);
  if (error?.isNotKept) return <NotKept what="Messages of error logs" />;
  return (
    <>
      {(!data || model?.lines.length !== 0) && <Chart title="Messages over time" model={model} legend="sum" tall empty="No message in this range" error={error} />}
      <Card title="Messages" note={data ? `${format.plural(rows.length, "pattern")}${data.truncated ? ", the most severe of more" : ""}` : undefined}>
        <form class="filters" role="search" aria-label="Messages" onSubmit={(event) => event.preventDefault()}>
          <label>
            <span>Severity</span>
            <select value={severity} onChange={(event) => setFilter("severity", event.currentTarget.value)}>
              <option value="">any</option>
              {LEVELS.map((level) => (
                <option key={level}>{level}</option>
              ))}
            </select>
          </label>
          <label class="grows">
            <span>Text</span>
            <input type="search" value={text} placeholder="in pattern, example or host" onInput={(event) => setFilter("text", event.currentTarget.value)} />
          </label>
          {(severity || text) && (
            <button type="button" onClick={() => go({ filters: {} })}>
              Clear
            </button>
          )}
        </form>
        {error && <Trouble error={error} again={again} />}
        <Table
          cards label="Messages"
          rows={rows}
          rowKey={key}
          sorted={{ name: "Count", down: true }}
          empty={data ? (data.rows.length ? "No message holds this text." : severity ? "No message of this severity in this range." : "No error message in this range. Access logs alone bring none: add the server's error log, or an application's log, as a source.") : waiting(error)}
          open={open || null}
          onOpen={(next) => setFilter("pattern", next ?? "")}
          openLabel={(row) => `Example of ${format.shorten(format.visible(row.pattern), 60)}`}
          detail={(row) => (
            <div class="alert-detail">
              <h3>Pattern</h3>
              <p class="log wrap">{format.visible(row.pattern)}</p>
              <h3>Example</h3>
              <p class="log wrap">{format.shorten(format.visible(row.example), 4000)}</p>
            </div>
          )}
          columns={[
            { name: "Severity", cell: (row) => <span class={`badge severity-${TONE[row.severity] ?? "info"}`}>{format.visible(row.severity)}</span>, by: (row) => rank(row.severity), class: "tight" },
            { name: "Count", cell: (row) => <span title={format.exact(row.count)}>{format.count(row.count)}</span>, by: (row) => row.count, number: true },
            { name: "Pattern", cell: (row) => <LogText text={row.pattern} limit={240} />, by: (row) => row.pattern, wide: true },
            { name: "Host", cell: (row) => <LogText text={row.host} limit={40} />, by: (row) => row.host, class: "tight" },
            { name: "Last", cell: (row) => <When ms={row.last} />, by: (row) => row.last, class: "tight" },
          ]}
        />
      </Card>
    </>
  );
}

const key = (row: ErrorRow) => `${row.host} ${row.severity} ${row.pattern}`;

function draw(data: Errors): Model {
  const { from, to } = shown();
  const times = column(data.series, "time").map((time) => time ?? 0);
  const gaps = times.slice(1).map((time, at) => time - (times[at] ?? 0));
  const step = data.series.step ?? (gaps.length ? Math.min(...gaps) : niceStep((to - from) / 60));
  return {
    kind: "bars",
    stacked: true,
    times,
    step: Math.max(1, step),
    from,
    to,
    show: format.count,
    atLeast: 4,
    lines: LEVELS.map((name) => ({ name, colour: COLOUR[name], values: column(data.series, name) }))
      .filter((line) => line.values.some((value) => (value ?? 0) > 0))
      .reverse(),
  };
}
