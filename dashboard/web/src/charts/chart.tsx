// A chart as the page uses it: title, legend with the newest whole values, the drawing, a text alternative and a table of its values.
//
// Drawn again only while it is on screen, only when its model changed, and while time merely moves on only as often as the
// picture moves by two pixels and as all charts together may cost (pace.ts): an open page is to cost next to nothing.

import { useEffect, useRef, useState } from "preact/hooks";
import { useWatched } from "../cell";
import { Icon, waiting } from "../parts/basic";
import { summary } from "../series";
import { dark, go, utc } from "../state";
import type { Drawing } from "./draw";
import { described, newestValue, tabulated, type Model } from "./model";
import { BEAT_MS, Pace } from "./pace";

/** After so long what could not be loaded is tried again. */
const LOAD_AGAIN_MS = 10_000;

let library: Promise<typeof import("./draw")> | null = null;
/** Loads the drawing code; called early so that it is there when the first numbers are. */
export function loadCharts(): Promise<typeof import("./draw")> {
  return (library ??= import("./draw").catch((problem: unknown) => {
    // The next chart that needs it tries again.
    library = null;
    throw problem;
  }));
}

export interface ChartProps {
  title: string;
  model: Model | null;
  /** Shown in place of the drawing, where there is nothing to draw. */
  empty?: string;
  /** Why there is no model, where that is no matter of time. */
  error?: unknown;
  /** Said beside the title: unit, or how exact. */
  note?: string;
  /** What the legend says of each line: its newest value, or its sum. */
  legend?: "last" | "sum" | "none";
  tall?: boolean;
  selects?: boolean;
  /** Which answer the model is of: another one is drawn at once. Without it every model is. */
  stamp?: number;
}

const pace = new Pace();

export function Chart({ title, model, empty = "No data in this range", error, note, legend = "last", tall, selects = true, stamp }: ChartProps) {
  const box = useRef<HTMLDivElement>(null);
  const drawing = useRef<Drawing | null>(null);
  const latest = useRef<{ model: Model | null; utc: boolean; stamp?: number }>({ model, utc: false });
  const last = useRef<{ at: number; stamp?: number; timer?: number }>({ at: 0 });
  const onScreen = useRef(false);
  const [asTable, setAsTable] = useState(false);
  const [failed, setFailed] = useState(false);
  const inUtc = useWatched(utc);
  const isDark = useWatched(dark);
  const has = model !== null && model.lines.some((line) => line.values.some((value) => value !== null));
  latest.current = { model: has ? model : null, utc: inUtc, stamp };

  const update = () => {
    const { model: now, utc: zone, stamp: of } = latest.current;
    window.clearTimeout(last.current.timer);
    if (!now || !onScreen.current || !drawing.current) return;
    const at = performance.now();
    drawing.current.set(now, zone);
    pace.drew(last, performance.now() - at);
    last.current = { at, stamp: of };
  };
  const updateInTime = () => {
    const { model: now, stamp: of } = latest.current;
    if (!now || of === undefined || of !== last.current.stamp) return update();
    const pixel = (now.to - now.from) / (box.current?.clientWidth || 400);
    const wait = last.current.at + pace.interval(2 * pixel) - performance.now();
    if (wait < BEAT_MS / 2) return update();
    // The next beat draws it, in one frame with all else that changes; only where none comes, a timer.
    window.clearTimeout(last.current.timer);
    last.current.timer = window.setTimeout(update, wait + 2 * BEAT_MS);
  };

  const drawn = has && !asTable && !failed;
  useEffect(() => {
    const element = box.current;
    if (!element || !drawn) return;
    let gone = false;
    let frame = 0;
    const seen = new IntersectionObserver((entries) => {
      onScreen.current = entries.some((entry) => entry.isIntersecting);
      if (onScreen.current) update();
      else pace.gone(last);
    });
    const sized = new ResizeObserver(() => {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(() => drawing.current?.resize());
    });
    loadCharts().then(
      ({ mount }) => {
        if (gone) return;
        drawing.current = mount(element, selects ? (from, to) => go({ range: { from, to } }) : null);
        seen.observe(element);
        sized.observe(element);
      },
      () => gone || setFailed(true),
    );
    return () => {
      gone = true;
      window.clearTimeout(last.current.timer);
      pace.gone(last);
      cancelAnimationFrame(frame);
      seen.disconnect();
      sized.disconnect();
      drawing.current?.dispose();
      drawing.current = null;
    };
  }, [drawn, selects]);

  useEffect(() => {
    if (!failed) return;
    const timer = window.setTimeout(() => setFailed(false), LOAD_AGAIN_MS);
    return () => window.clearTimeout(timer);
  }, [failed]);
  useEffect(updateInTime, [model]);
  useEffect(update, [inUtc]);
  useEffect(() => drawing.current?.recolour(), [isDark]);

  return (
    <figure class={`card chart${tall ? " chart-tall" : ""}`}>
      <figcaption>
        <h2>{title}</h2>
        {note && <span class="note">{note}</span>}
        {legend !== "none" && has && (
          <ul class="legend">
            {model.lines.map((line) => (
              <li key={line.name}>
                <i class={`swatch ${line.colour.slice(2)}`} />
                {line.name} <b>{model.show(legend === "sum" ? summary(line.values).sum : newestValue(model, line.values))}</b>
              </li>
            ))}
          </ul>
        )}
        <button type="button" class="quiet as-table" aria-pressed={asTable} onClick={() => setAsTable(!asTable)} title={asTable ? "Show the chart" : "Show the values as a table"}>
          <span class="visually-hidden">
            {title} as {asTable ? "chart" : "table"}
          </span>
          <Icon path={asTable ? "M3 16V4M3 16h14M6 12l3-4 3 2 4-5" : "M3 5h14v11H3zM3 9h14M3 12.500h14M8 5v11"} />
        </button>
      </figcaption>
      {!has ? (
        <p class="empty chart-room">{model === null ? waiting(error) : empty}</p>
      ) : asTable ? (
        <ValuesTable title={title} model={model} utc={inUtc} />
      ) : failed ? (
        <p class="empty chart-room">Charts could not be loaded. If it stays so, reload the page; the values are there as a table.</p>
      ) : (
        <div class="chart-room">
          <div class="drawing" ref={box} role="img" aria-label={described(title, model)} />
        </div>
      )}
    </figure>
  );
}

function ValuesTable({ title, model, utc: inUtc }: { title: string; model: Model; utc: boolean }) {
  const { head, rows, more } = tabulated(model, inUtc);
  return (
    <div class="chart-room scroll" tabIndex={0} role="region" aria-label={`${title}, values`}>
      <table class="dense">
        <thead>
          <tr>
            {head.map((name, at) => (
              <th key={name} scope="col" class={at ? "number" : ""}>
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((cells, row) => (
            <tr key={row}>
              {cells.map((cell, at) => (at ? <td key={at} class="number">{cell}</td> : <th key={at} scope="row">{cell}</th>))}
            </tr>
          ))}
        </tbody>
      </table>
      {more > 0 && <p class="note">{more} older values are not shown</p>}
    </div>
  );
}
