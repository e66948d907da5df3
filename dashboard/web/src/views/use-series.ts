// The series of the shown host and stretch: asked once whole, its end again every few seconds, open windows from the stream.

import { useEffect, useMemo, useState } from "preact/hooks";
import { ApiError, get } from "../api";
import { useWatched } from "../cell";
import { fromFirst, niceStep, splice, tailFrom, withLive, type Known } from "../series";
import { beat, connection, epoch, hasHistory, rangeKey, route, shown, status, windows } from "../state";
import type { Series } from "../types";

const TAIL_EVERY_MS = 10_000;
/** Corrected windows are within the allowed lateness, by default 2 min, of the newest. */
const TAIL_MS = 180_000;
const HOUR = 3_600_000;
/** More points than that nobody can tell apart. */
const POINTS = 360;

/** The default size of windows. */
const WINDOW_MS = 10_000;
const COLUMNS = "time requests rps bytes throughput latency_avg latency_p50 latency_p95 latency_p99 latency_max status_2xx status_3xx status_4xx status_5xx error_ratio clients anomalies".split(" ");

export interface Shown {
  series: Known | null;
  error: ApiError | null;
  again: () => void;
  /** Goes up when the whole series was asked again. */
  stamp: number;
}

export function useSeries(): Shown {
  const here = useWatched(route);
  const round = useWatched(epoch);
  const pulse = useWatched(beat);
  const [base, setBase] = useState<Series | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const [attempt, setAttempt] = useState(0);
  const [stamp, setStamp] = useState(0);
  const key = rangeKey(here);

  useEffect(() => {
    if (round === 0) return;
    const { from, to } = shown();
    // Without a store there are still the windows of the stream.
    const without = () => setBase({ from, to, step: windows.size() ?? WINDOW_MS, columns: COLUMNS, rows: [] });
    if (!hasHistory()) return without();
    const controller = new AbortController();
    const step = to - from > HOUR ? niceStep((to - from) / POINTS) : null;
    get<Series>("series", { host: here.host, from, to, step }, controller.signal).then(
      (series) => {
        setBase({ ...series, from, to });
        setStamp((old) => old + 1);
        setError(null);
      },
      (problem: unknown) => {
        if (problem instanceof ApiError) setError(problem);
      },
    );
    return () => controller.abort();
  }, [key, round, attempt]);

  useEffect(() => {
    if (!here.live || !base || !hasHistory()) return;
    const controller = new AbortController();
    const timer = setTimeout(
      () => {
        if (document.hidden || connection.get().state !== "live") return;
        const { from, to } = shown();
        const start = tailFrom(base, to, from, TAIL_MS);
        get<Series>("series", { host: here.host, from: start, to, step: base.step }, controller.signal).then(
          (tail) => setBase(splice(base, { ...tail, from: start, to }, from - base.step)),
          () => setBase({ ...base }),
        );
      },
      Math.max(TAIL_EVERY_MS, base.step / 4),
    );
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [base, here.live, key, document.hidden]);

  const series = useMemo(() => {
    if (!base) return null;
    if (!here.live) return { ...base, known: base.to };
    const { from, to } = shown();
    return fromFirst(withLive(base, windows, here.host, status.get()?.hosts ?? [], from, to));
  }, [base, here.live ? pulse : 0, here.live]);
  return { series, error, again: () => setAttempt(attempt + 1), stamp };
}
