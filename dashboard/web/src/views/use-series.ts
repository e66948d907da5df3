// The series of the shown host and stretch: asked once whole, its end again every few seconds, open windows from the stream.

import { useEffect, useMemo, useState } from "preact/hooks";
import { ApiError, get } from "../api";
import { useWatched } from "../cell";
import { fromFirst, niceStep, splice, tailFrom, withLive, type Known } from "../series";
import { beat, connection, epoch, hasHistory, rangeKey, route, shown, status, WINDOW_MS, windows } from "../state";
import { answers } from "../stream";
import type { Series } from "../types";

const TAIL_EVERY_MS = 10_000;
/** Corrected windows are within the allowed lateness, by default 2 min, of the newest. */
const TAIL_MS = 180_000;
const HOUR = 3_600_000;
/** More points than that nobody can tell apart. */
const POINTS = 360;

const COLUMNS = "time requests rps bytes throughput latency_avg latency_p50 latency_p95 latency_p99 latency_max status_2xx status_3xx status_4xx status_5xx error_ratio clients anomalies".split(" ");

/** `of`: the question that it answers: what comes later is of this one, or is not laid over it. */
interface Base extends Series {
  of: string;
}

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
  const [base, setBase] = useState<Base | null>(null);
  const [failed, setFailed] = useState<{ of: string; error: ApiError } | null>(null);
  const [attempt, setAttempt] = useState(0);
  const [stamp, setStamp] = useState(0);
  const key = rangeKey(here);
  const error = failed?.of === key ? failed.error : null;
  const isAnswer = base?.of === key;

  useEffect(() => {
    if (round === 0) return;
    const { from, to } = shown();
    // Without a store there are still the windows of the stream.
    const without = () => setBase({ of: key, from, to, step: windows.size() ?? WINDOW_MS, columns: COLUMNS, rows: [], begins: null });
    if (!hasHistory()) return without();
    const controller = new AbortController();
    let timer: number | undefined;
    const later = () => {
      timer = window.setTimeout(() => (document.hidden || !answers(connection.get()) ? later() : setAttempt((old) => old + 1)), TAIL_EVERY_MS);
    };
    const step = to - from > HOUR ? niceStep((to - from) / POINTS) : null;
    get<Series>("series", { host: here.host, from, to, step }, controller.signal).then(
      (series) => {
        setBase({ ...series, of: key, from, to });
        setStamp((old) => old + 1);
        setFailed(null);
      },
      (problem: unknown) => {
        if (controller.signal.aborted || !(problem instanceof ApiError)) return;
        setFailed({ of: key, error: problem });
        if (here.live) later();
      },
    );
    return () => {
      window.clearTimeout(timer);
      controller.abort();
    };
  }, [key, round, attempt]);

  useEffect(() => {
    if (!here.live || !isAnswer || !hasHistory()) return;
    const controller = new AbortController();
    const timer = setTimeout(
      () => {
        if (document.hidden || !answers(connection.get())) return;
        const { from, to } = shown();
        const start = tailFrom(base, to, from, TAIL_MS);
        get<Series>("series", { host: here.host, from: start, to, step: base.step }, controller.signal).then(
          (tail) => setBase({ ...splice(base, { ...tail, from: start, to }, from - base.step), of: key }),
          () => controller.signal.aborted || setBase({ ...base }),
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
    // While it is asked, what was shown stays; once it failed, that would pass for the answer.
    if (!base || (!isAnswer && error)) return null;
    const held = { ...base, known: base.to };
    if (!here.live) return held;
    if (!isAnswer) return fromFirst(held);
    const { from, to } = shown();
    return fromFirst(withLive(base, windows, here.host, status.get()?.hosts ?? [], from, to));
  }, [base, here.live ? pulse : 0, here.live, isAnswer, error !== null]);
  return { series, error, again: () => setAttempt(attempt + 1), stamp };
}
