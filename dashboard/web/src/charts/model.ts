// What a chart shows, free of any library: the option for ECharts, the summary read aloud and the table are made from it.

import type { Cell } from "../types";
import * as format from "../format";
import { summary } from "../series";

export interface Line {
  name: string;
  /** A token of the colours in styles/tokens.css, such as `--chart-1`. */
  colour: string;
  values: Cell[];
}

export interface Model {
  kind: "lines" | "area" | "bars";
  /** Lines and bars that share an axis of time; `categories` in place of times makes plain bars. */
  times: number[];
  categories?: string[];
  step: number;
  from: number;
  to: number;
  lines: Line[];
  stacked?: boolean;
  show: (value: Cell) => string;
  /** The same for the axis, where the title says the unit. */
  axis?: (value: Cell) => string;
  /** The least top of the axis, so that a quiet chart does not look like a storm. */
  atLeast?: number;
  most?: number;
  /** The axis goes in powers of ten: values of a few ms and of a minute are both seen. What is 0 has no place on it. */
  log?: boolean;
  /** The newest whole window: later ones may be incomplete, and are the newest value of nothing. */
  whole?: number | null;
}

/** The newest value of a line, of whole windows where the model says which are. */
export function newestValue({ times, whole }: Pick<Model, "times" | "whole">, values: readonly Cell[]): Cell {
  for (let at = values.length - 1; at >= 0; at -= 1) {
    const value = values[at] ?? null;
    if (value !== null && (times[at] ?? 0) <= (whole ?? Infinity)) return value;
  }
  return null;
}

/** One sentence a line: what somebody who does not see the chart wants to know. */
export function described(title: string, model: Model): string {
  const parts = model.lines.map((line) => {
    const { max, min, last, sum } = summary(line.values);
    if (last === null) return `${line.name}: no values`;
    if (model.kind === "bars") return `${line.name}: ${model.show(sum)} in all`;
    return `${line.name}: now ${model.show(newestValue(model, line.values))}, lowest ${model.show(min)}, highest ${model.show(max)}`;
  });
  return `${title}. ${parts.join("; ")}.`;
}

/** The chart as rows, newest first. */
export function tabulated(model: Model, utc: boolean, limit = 200): { head: string[]; rows: string[][]; more: number } {
  const head = [model.categories ? "Value" : "Time", ...model.lines.map((line) => line.name)];
  const order = (model.categories ?? model.times).map((_, at) => at);
  if (!model.categories) order.reverse();
  const near = model.times[model.times.length - 1];
  const rows = order.slice(0, limit).map((at) => [
    model.categories?.[at] ?? format.moment(model.times[at], near, utc),
    ...model.lines.map((line) => model.show(line.values[at] ?? null)),
  ]);
  return { head, rows, more: Math.max(0, order.length - limit) };
}

/** Which values have none beside them: no line leads to them, and without a mark nobody sees them. */
export function alone(values: readonly Cell[]): boolean[] {
  const has = (at: number) => (values[at] ?? null) !== null;
  return values.map((_, at) => has(at) && !has(at - 1) && !has(at + 1));
}

/** The powers of ten around all values above 0, at least two of them apart so that a quiet chart looks quiet. */
export function decades(lines: readonly Line[]): { least: number; most: number } {
  let [least, most] = [Infinity, 0];
  for (const { values } of lines) {
    for (const value of values) {
      if (value === null || !(value > 0)) continue;
      least = Math.min(least, value);
      most = Math.max(most, value);
    }
  }
  if (!(most > 0)) return { least: 1, most: 100 };
  // A hair of rounding must not add a power.
  const low = Math.floor(Math.log10(least) + 1e-9);
  const high = Math.max(Math.ceil(Math.log10(most) - 1e-9), low + 2);
  return { least: 10 ** low, most: 10 ** high };
}

/** A top of the axis that stays put while values jitter, and whose half is a plain number too. */
export function niceTop(highest: number, base: 1000 | 1024): number {
  if (!(highest > 0)) return 2;
  let unit = 1;
  if (base === 1024) while (highest >= unit * 1024) unit *= 1024;
  const scaled = highest / unit;
  const power = 10 ** Math.floor(Math.log10(scaled));
  const factor = (power > 1 ? [1, 2, 4, 6, 8, 10] : [2, 4, 6, 8, 10]).find((step) => scaled <= step * power * 1.0001) ?? 10;
  const top = factor * power;
  return base === 1024 && top > 1000 ? 1024 * unit : top * unit;
}
