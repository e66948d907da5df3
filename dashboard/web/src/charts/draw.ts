// ECharts, and only the parts of it that are used. In a file of its own that is loaded after the page is there.
//
// Text of logs never reaches ECharts as HTML: names of lines are the page's own, tooltips are elements made here.

import { BarChart, LineChart } from "echarts/charts";
import { GridComponent, TooltipComponent } from "echarts/components";
import { init, use, type ECharts } from "echarts/core";
import { CanvasRenderer } from "echarts/renderers";
import * as format from "../format";
import { alone, decades, niceTop, type Model } from "./model";

use([LineChart, BarChart, GridComponent, TooltipComponent, CanvasRenderer]);

export interface Drawing {
  set(model: Model, utc: boolean): void;
  resize(): void;
  /** Colours changed. */
  recolour(): void;
  dispose(): void;
}

interface Colours {
  text: string;
  /** Canvas does not inherit it. */
  font: string;
  grid: string;
  axis: string;
  of(token: string): string;
}

function colours(element: Element): Colours {
  const style = getComputedStyle(element);
  const of = (token: string) => style.getPropertyValue(token).trim() || "#888";
  return { text: of("--text-muted"), font: style.fontFamily, grid: of("--line-soft"), axis: of("--line"), of };
}

function tooltip(model: Model, utc: boolean, colour: Colours, at: number): HTMLElement {
  const box = document.createElement("div");
  const head = box.appendChild(document.createElement("div"));
  head.className = "tip-head";
  const time = model.times[at];
  head.textContent = model.categories?.[at] ?? format.moment(time, model.to, utc) + ((time ?? 0) > (model.whole ?? Infinity) ? " (may be incomplete)" : "");
  for (const line of [...model.lines].reverse()) {
    const row = box.appendChild(document.createElement("div"));
    row.className = "tip-row";
    const swatch = row.appendChild(document.createElement("i"));
    swatch.style.backgroundColor = colour.of(line.colour);
    row.appendChild(document.createElement("span")).textContent = line.name;
    row.appendChild(document.createElement("b")).textContent = model.show(line.values[at] ?? null);
  }
  return box;
}

function highest(model: Model): number {
  let most = 0;
  const points = (model.categories ?? model.times).length;
  for (let at = 0; at < points; at += 1) {
    let here = 0;
    for (const line of model.lines) {
      const value = line.values[at] ?? 0;
      here = model.stacked ? here + value : Math.max(here, value);
    }
    most = Math.max(most, here);
  }
  return most;
}

const DAY = 86_400_000;

export function mount(element: HTMLElement, onSelect: ((from: number, to: number) => void) | null): Drawing {
  const chart: ECharts = init(element, null, { renderer: "canvas", useDirtyRect: false });
  // Nothing is animated: no frames are asked for after one that changed nothing.
  chart.getZr().setSleepAfterStill(1);
  let colour = colours(element);
  let model: Model | null = null;
  let utc = false;
  const forget = onSelect ? selecting(chart, element, () => (model && !model.categories ? model : null), onSelect) : () => {};

  const option = (shown: Model, { ends, data, top, powers, widest, bar, places, symbols }: Frame) => {
    // Drawn again without a new option, they are asked about the model of then.
    const now = () => model ?? shown;
    const clock = (time: number) => {
      const { from, to } = now();
      if (to - from > 2 * DAY) return format.dateTime(time, utc).slice(5, 10);
      const text = format.clock(time, utc);
      return to - from > 10 * 60_000 ? text.slice(0, 5) : text;
    };
    const label = { color: colour.text, fontSize: 11, fontFamily: colour.font, hideOverlap: true };
    const common = { axisLine: { lineStyle: { color: colour.axis } }, axisTick: { show: false }, splitLine: { show: false }, axisLabel: label };
    return {
      animation: false,
      useUTC: utc,
      grid: { left: 12 + widest * 6.8, right: 22, top: 8, bottom: 22, outerBoundsMode: "none" },
      xAxis: shown.categories
        ? { type: "category", ...common, ...ends }
        : { type: "time", ...common, ...ends, splitNumber: places, axisLabel: { ...label, formatter: clock, showMinLabel: false, showMaxLabel: false } },
      yAxis: {
        ...(powers
          ? { type: "log", logBase: 10, min: powers.least, max: powers.most, interval: Math.ceil(Math.log10(powers.most / powers.least) / 4) }
          : { type: "value", min: 0, max: top, interval: top / 2 }),
        axisLine: { show: false },
        axisTick: { show: false },
        axisLabel: { ...label, formatter: (value: number) => (shown.axis ?? shown.show)(value) },
        splitLine: { lineStyle: { color: colour.grid } },
      },
      tooltip: {
        trigger: "axis",
        confine: true,
        transitionDuration: 0,
        className: "tip",
        backgroundColor: colour.of("--surface-raised"),
        borderColor: colour.axis,
        textStyle: { color: colour.of("--text"), fontSize: 12, fontFamily: colour.font },
        axisPointer: { type: shown.kind === "bars" ? "shadow" : "line", animation: false, lineStyle: { color: colour.text, type: "solid", opacity: 0.5 }, shadowStyle: { color: colour.grid, opacity: 0.6 }, label: { show: false } },
        formatter: (params: unknown) => {
          const first = (Array.isArray(params) ? params[0] : params) as { dataIndex?: number } | undefined;
          return first?.dataIndex === undefined ? "" : tooltip(now(), utc, colour, first.dataIndex);
        },
      },
      series: shown.lines.map((line, at) => ({
        name: line.name,
        type: shown.kind === "bars" ? "bar" : "line",
        data: data[at],
        color: colour.of(line.colour),
        ...(shown.stacked ? { stack: "all" } : {}),
        ...(shown.kind === "bars"
          ? { barCategoryGap: shown.categories ? "12%" : "15%", ...(shown.categories ? {} : { barWidth: bar }) }
          : {
              showSymbol: symbols,
              showAllSymbol: true,
              symbol: "none",
              symbolSize: 4,
              lineStyle: { width: shown.stacked ? 1 : 1.6 },
              ...(shown.kind === "area" ? { areaStyle: { opacity: shown.stacked ? 0.55 : 0.14 } } : {}),
              emphasis: { disabled: true },
              sampling: "max",
            }),
      })),
    };
  };

  /** What the last whole option was made of; while it holds, only values and ends of the axis are set. */
  let frame = "";
  const draw = (whole: boolean) => {
    if (!model) return;
    const shown = model;
    const base = shown.show(2048).includes("KiB") ? 1024 : 1000;
    const top = Math.min(shown.most ?? Infinity, niceTop(Math.max(highest(shown) * 1.02, shown.atLeast ?? 0), base));
    // Measured here: letting the library fit labels costs a quarter of every drawing.
    const powers = shown.log ? decades(shown.lines) : null;
    const labels = powers ? Array.from({ length: Math.round(Math.log10(powers.most / powers.least)) + 1 }, (_, at) => powers.least * 10 ** at) : [0, top / 2, top];
    const widest = Math.max(...labels.map((value) => (shown.axis ?? shown.show)(value).length));
    const bar = shown.kind === "bars" && !shown.categories ? barWidth(shown, element) : 0;
    const places = Math.max(2, Math.floor(element.clientWidth / 110));
    let symbols = false;
    const data = shown.lines.map((line) => {
      if (shown.categories) return line.values;
      const values = powers ? line.values.map((value) => (value === 0 ? null : value)) : line.values;
      // In a stack, nothing of one line stands where the line below it does.
      const marked = shown.kind === "bars" ? [] : alone(values).map((is, at) => is && !(shown.stacked && values[at] === 0));
      symbols ||= marked.includes(true);
      const half = shown.kind === "bars" ? shown.step / 2 : 0;
      return values.map((value, at) => {
        const point = [(shown.times[at] ?? 0) + half, value];
        return marked[at] ? { value: point, symbol: "circle" } : point;
      });
    });
    const next = [utc, top, powers?.least, powers?.most, widest, bar, places, symbols].join();
    const same = !whole && next === frame;
    frame = next;
    const ends = shown.categories ? { data: shown.categories } : { min: shown.from, max: shown.to };
    chart.setOption(
      same ? { xAxis: ends, series: data.map((values) => ({ data: values })) } : option(shown, { ends, data, top, powers, widest, bar, places, symbols }),
      { notMerge: whole, lazyUpdate: false, silent: true },
    );
    // It is drawn: the library would look for two more frames whether something moved.
    chart.getZr().animation.stop();
  };

  let lines = "";
  return {
    set(next, nextUtc) {
      const shape = `${next.kind} ${next.stacked} ${next.lines.map((line) => line.name).join()}`;
      const whole = shape !== lines;
      lines = shape;
      [model, utc] = [next, nextUtc];
      draw(whole);
    },
    resize: () => chart.resize({ animation: { duration: 0 } }),
    recolour() {
      colour = colours(element);
      draw(true);
    },
    dispose() {
      forget();
      chart.dispose();
    },
  };
}

/** What of a model was worked out for its drawing. */
interface Frame {
  ends: object;
  data: unknown[][];
  top: number;
  powers: { least: number; most: number } | null;
  /** Letters of the longest label. */
  widest: number;
  bar: number;
  /** Labels there is room for below. */
  places: number;
  /** Whether any value stands alone. */
  symbols: boolean;
}

function barWidth(model: Model, element: HTMLElement): number {
  const room = Math.max(60, element.clientWidth - 60);
  return Math.max(1, Math.floor((room * model.step) / Math.max(1, model.to - model.from)) - 1);
}

/** Dragging over the plot with a mouse or pen chooses a stretch of time. */
function selecting(chart: ECharts, element: HTMLElement, model: () => Model | null, onSelect: (from: number, to: number) => void): () => void {
  const band = document.createElement("div");
  band.className = "chart-band";
  band.hidden = true;
  element.appendChild(band);
  let start: number | null = null;
  const place = (event: PointerEvent) => {
    const box = element.getBoundingClientRect();
    return Math.min(Math.max(event.clientX - box.left, 0), box.width);
  };
  const down = (event: PointerEvent) => {
    if (event.button !== 0 || event.pointerType === "touch" || !model()) return;
    start = place(event);
    element.setPointerCapture(event.pointerId);
  };
  const move = (event: PointerEvent) => {
    if (start === null) return;
    const here = place(event);
    band.hidden = Math.abs(here - start) < 6;
    band.style.left = `${Math.min(start, here)}px`;
    band.style.width = `${Math.abs(here - start)}px`;
  };
  const up = (event: PointerEvent) => {
    if (start === null) return;
    const [a, b] = [Math.min(start, place(event)), Math.max(start, place(event))];
    start = null;
    band.hidden = true;
    const shown = model();
    if (b - a < 6 || !shown) return;
    const [from, to] = [a, b].map((x) => chart.convertFromPixel({ xAxisIndex: 0 }, x) as unknown as number);
    if (from === undefined || to === undefined || !Number.isFinite(from) || !Number.isFinite(to)) return;
    const within = (time: number) => Math.round(Math.min(Math.max(time, shown.from), shown.to));
    if (within(to) - within(from) >= 1000) onSelect(within(from), within(to));
  };
  const cancel = () => {
    start = null;
    band.hidden = true;
  };
  element.addEventListener("pointerdown", down);
  element.addEventListener("pointermove", move);
  element.addEventListener("pointerup", up);
  element.addEventListener("pointercancel", cancel);
  return () => {
    element.removeEventListener("pointerdown", down);
    element.removeEventListener("pointermove", move);
    element.removeEventListener("pointerup", up);
    element.removeEventListener("pointercancel", cancel);
    band.remove();
  };
}
