// What the whole page shares: the route, what the stream says, and settings kept in this browser.

import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, get, isStored, NO_STORE, onUnauthorised, send, type Params } from "./api";
import { useWatched, Watched } from "./cell";
import { AlertFeed } from "./feed";
import { LiveWindows } from "./series";
import { answers, Stream, type Connection } from "./stream";
import type { Alert, RequestRow, Rows, Rule, Status } from "./types";
import { parseRoute, showRoute, type Route } from "./url";

const MOST_TAIL = 500;
/** The default size of windows. */
export const WINDOW_MS = 10_000;

export const route = new Watched<Route>(parseRoute(location.hash));
export const status = new Watched<Status | null>(null);
export const connection = new Watched<Connection>({ state: "connecting" });
export const alerts = new Watched<readonly Alert[]>([]);
export const tail = new Watched<readonly RequestRow[]>([]);
/** Goes up when everything must be asked again: a new connection, a reset. */
export const epoch = new Watched(0);
/** Goes up at most once a second, when live windows changed. */
export const beat = new Watched(0);
/** Goes up when somebody, on this page or another, said something of alerts. */
export const marks = new Watched(0);
export const needsToken = new Watched(false);
/** The newest alert that began to fire while the page is open. */
export const announced = new Watched<Alert | null>(null);
/** What rules measure, by name. */
export const measures = new Watched<ReadonlyMap<string, string>>(new Map());
export const windows = new LiveWindows();

// ---- settings ----

function kept(key: string): string | null {
  try {
    return localStorage.getItem(`tidewatch.${key}`);
  } catch {
    return null;
  }
}

function keep(key: string, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(`tidewatch.${key}`);
    else localStorage.setItem(`tidewatch.${key}`, value);
  } catch {
    // A browser that keeps nothing forgets the setting: no harm.
  }
}

export type Theme = "auto" | "light" | "dark";
const themeKept = kept("theme");
export const theme = new Watched<Theme>(themeKept === "light" || themeKept === "dark" ? themeKept : "auto");
export const utc = new Watched(kept("utc") === "1");
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
/** Whether dark colours are shown now. */
export const dark = new Watched(false);

function applyTheme(): void {
  const chosen = theme.get();
  const isDark = chosen === "auto" ? prefersDark.matches : chosen === "dark";
  document.documentElement.dataset["theme"] = isDark ? "dark" : "light";
  dark.set(isDark);
}

export function setTheme(next: Theme): void {
  keep("theme", next === "auto" ? null : next);
  theme.set(next);
  applyTheme();
}

export function setUtc(next: boolean): void {
  keep("utc", next ? "1" : null);
  utc.set(next);
}

// ---- the address ----

/** Changes the address. Another view is a step that "back" undoes; a filter is not. */
export function go(change: Partial<Route>): void {
  const old = route.get();
  const next = { ...old, ...change };
  const hash = showRoute(next);
  if (hash === showRoute(old)) return;
  const step = next.view !== old.view || next.argument !== old.argument;
  history[step ? "pushState" : "replaceState"](null, "", hash);
  enter(parseRoute(hash));
}

/** Takes a route. One that is paused, nobody knows where, is so here from now on: every view, and every link, has the same end. */
function enter(next: Route): void {
  const until = newest();
  const undecided = !next.live && next.until === null && "last" in next.range;
  if (undecided && until !== null) {
    next = { ...next, until };
    history.replaceState(null, "", showRoute(next));
  }
  route.set(next);
}

export function setFilter(name: string, value: string): void {
  const filters = { ...route.get().filters };
  if (value) filters[name] = value;
  else delete filters[name];
  go({ filters });
}

/** Event time of the newest data; none where nothing was ever read. */
export function newest(): number | null {
  const now = status.get();
  return now?.newest ?? now?.last_event ?? null;
}

/** The stretch of time shown now. Ends with the newest data, not with the clock on the wall. */
export function shown(): { from: number; to: number } {
  const { range, until } = route.get();
  if ("from" in range) return range;
  const to = (until ?? newest() ?? status.get()?.now ?? Date.now()) + 1;
  return { from: to - range.last, to };
}

export function setLive(live: boolean): void {
  const { range } = route.get();
  go({ live, until: null, range: live && "from" in range ? { last: Math.max(60_000, range.to - range.from) } : range });
  if (live) epoch.set(epoch.get() + 1);
}

// ---- the stream ----

const feed = new AlertFeed();

/** The server answers, as it did not before: all is asked of it, and what was heard earlier may be out of date. */
function answered(next: Status): void {
  windows.restart(next.last_event);
  feed.hello(next);
  alerts.set(feed.alerts);
  status.set(next);
  needsToken.set(false);
  enter(route.get());
  epoch.set(epoch.get() + 1);
  // Without them values stand without units.
  get<Rows<Rule>>("rules").then(({ rows }) => measures.set(new Map(rows.map(({ name, measure }) => [name, measure]))), () => {});
}

export const stream = new Stream({
  onConnection: (next) => connection.set(next),
  onHello: answered,
  onAnswer: (next) => {
    if (connection.get().state !== "refused") return answered(next);
    status.set(next);
    enter(route.get());
  },
  onAlert: (alert) => {
    const { changed, marked, began } = feed.take(alert);
    if (changed) alerts.set(feed.alerts);
    if (marked) marks.set(marks.get() + 1);
    if (began) announced.set(alert);
  },
  onBatch: (batch) => {
    if (batch.status) {
      status.set(batch.status);
      enter(route.get());
    }
    if (feed.flush()) alerts.set(feed.alerts);
    windows.take(batch.windows, status.get());
    if (batch.requests.length) tail.set([...batch.requests.reverse(), ...tail.get()].slice(0, MOST_TAIL));
    beat.set(beat.get() + 1);
  },
  onSilences: () => {
    // Which alerts they cover is the server's to say: it is asked again, and what was known before holds no more.
    feed.unsilence();
    alerts.set(feed.alerts);
    marks.set(marks.get() + 1);
  },
  onReset: () => {
    feed.reset();
    windows.restart(status.get()?.last_event ?? null);
    alerts.set(feed.alerts);
    tail.set([]);
    epoch.set(epoch.get() + 1);
  },
});

/** Exchanges a token for a cookie; throws what the server says. */
export async function login(token: string): Promise<void> {
  await send("POST", "login", { token });
  needsToken.set(false);
  stream.now();
  epoch.set(epoch.get() + 1);
}

export function start(): void {
  applyTheme();
  prefersDark.addEventListener("change", applyTheme);
  onUnauthorised(() => needsToken.set(true));
  addEventListener("hashchange", () => enter(parseRoute(location.hash)));
  addEventListener("popstate", () => enter(parseRoute(location.hash)));
  stream.start();
}

// ---- questions to the API ----

export interface Answer<T> {
  data: T | null;
  error: ApiError | null;
  loading: boolean;
  again: () => void;
}

/**
 * Asks when the question changes, when everything must be asked again, and each `every` ms while live and seen. Keeps the
 * last answer while the next is under way, so that nothing jumps. `question` null asks nothing.
 */
export function useAnswer<T>(question: string | null, params: () => Params, every = 0): Answer<T> {
  const [answer, setAnswer] = useState<{ question: string | null; data: T | null; error: ApiError | null; loading: boolean }>({
    question,
    data: null,
    error: null,
    loading: true,
  });
  const live = useWatched(route).live;
  const round = useWatched(epoch);
  const ask = useRef<() => void>(() => {});

  useEffect(() => {
    if (question === null || round === 0) return;
    if (!hasHistory() && isStored(question)) return setAnswer({ question, data: null, error: NO_STORE, loading: false });
    let stopped = false;
    let controller: AbortController | null = null;
    let timer: number | undefined;
    const next = () => {
      window.clearTimeout(timer);
      if (!stopped && every > 0 && live) timer = window.setTimeout(() => (document.hidden || !answers(connection.get()) ? next() : run()), every);
    };
    const run = () => {
      controller?.abort();
      const mine = (controller = new AbortController());
      const path = question.split("?", 1)[0] ?? "";
      get<T>(path, params(), mine.signal).then(
        (data) => {
          if (stopped || mine.signal.aborted) return;
          setAnswer({ question, data, error: null, loading: false });
          next();
        },
        (error: unknown) => {
          if (stopped || mine.signal.aborted || !(error instanceof ApiError)) return;
          setAnswer((old) => ({ question, data: old.question === question ? old.data : null, error, loading: false }));
          next();
        },
      );
    };
    ask.current = run;
    setAnswer((old) => ({ ...old, loading: true }));
    run();
    return () => {
      stopped = true;
      window.clearTimeout(timer);
      controller?.abort();
    };
  }, [question, every, live, round]);

  const same = answer.question?.split("?", 1)[0] === question?.split("?", 1)[0];
  return { data: same ? answer.data : null, error: answer.error, loading: answer.loading, again: () => ask.current() };
}

/** Whether this run keeps what was: else only what arrives can be shown, and nothing is asked of the store. */
export function hasHistory(): boolean {
  return status.get()?.history !== false;
}

/** The part of a question that the route says: changes of it ask again. */
export function rangeKey(current: Route): string {
  const { host, range, until } = current;
  return `${host}|${"last" in range ? `${range.last} ${until ?? ""}` : `${range.from}-${range.to}`}`;
}
