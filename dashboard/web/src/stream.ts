// The live feed: one EventSource, opened again with growing waits when it is lost, closed while the page is hidden.
//
// - What arrives is handed on at once for alerts and once a second for all else, so that drawing has a known rate.
// - After every (re)connect `onHello` tells the page to ask for everything again: the feed has no memory.
// - After every attempt that failed the server is asked what is wrong: it may be away, want a token, or have no stream to give.

import { get, refusal } from "./api";
import { backoff } from "./backoff";
import type { Alert, LiveWindow, RequestRow, Status } from "./types";

export type Connection =
  | { state: "connecting" }
  | { state: "live" }
  | { state: "hidden" }
  | { state: "lost"; since: number; retryAt: number }
  /** The server answers, but gives this page no stream. */
  | { state: "refused"; why: string; retryAt: number };

/** Whether questions are answered. */
export function answers({ state }: Connection): boolean {
  return state === "live" || state === "refused";
}

export interface Handlers {
  onConnection(connection: Connection): void;
  onHello(status: Status): void;
  /** There is no stream, but the server answers: after each attempt that failed. */
  onAnswer(status: Status): void;
  onAlert(alert: Alert): void;
  /** Once a second, if anything came. */
  onBatch(batch: { status: Status | null; windows: LiveWindow[]; requests: RequestRow[] }): void;
  /** Somebody silenced something, or ended a silence. */
  onSilences(): void;
  onReset(): void;
}

const FLUSH_MS = 1000;
/** The server sends at least a heartbeat each 10 s; EventSource does not show those, but `status` comes each second. */
const SILENT_MS = 25_000;
/** A glance at another tab is no reason to reconnect. */
const HIDE_AFTER_MS = 10_000;
const MOST_TAIL = 500;

export class Stream {
  private source: EventSource | null = null;
  private attempt = 0;
  private lostAt = 0;
  private refused: string | null = null;
  private probing: AbortController | null = null;
  private heardAt = 0;
  private retry: number | undefined;
  private hiding: number | undefined;
  private flushing: number | undefined;
  private wantsRequests = false;
  private batch: { status: Status | null; windows: Map<string, LiveWindow>; requests: RequestRow[] } = this.fresh();

  constructor(private handlers: Handlers) {
    document.addEventListener("visibilitychange", () => this.visibility());
    window.addEventListener("online", () => this.now());
    window.setInterval(() => {
      if (this.source && this.heardAt && Date.now() - this.heardAt > SILENT_MS) this.lost();
    }, 5000);
  }

  start(): void {
    this.open();
  }

  /** Whether the tail of requests is wanted too. */
  requests(wanted: boolean): void {
    if (wanted === this.wantsRequests) return;
    this.wantsRequests = wanted;
    if (this.source) this.open();
  }

  /** Connect at once, whatever the wait was. */
  now(): void {
    if (this.source?.readyState === EventSource.OPEN || document.hidden) return;
    this.open();
  }

  stop(): void {
    this.close();
    this.probing?.abort();
    window.clearTimeout(this.retry);
  }

  private fresh() {
    return { status: null, windows: new Map<string, LiveWindow>(), requests: [] as RequestRow[] };
  }

  private open(): void {
    this.close();
    window.clearTimeout(this.retry);
    if (!this.lostAt) this.handlers.onConnection({ state: "connecting" });
    const source = new EventSource(`api/v1/stream${this.wantsRequests ? "?requests=1" : ""}`);
    this.source = source;
    this.heardAt = Date.now();
    const on = (name: string, act: (data: never) => void) =>
      source.addEventListener(name, (event) => {
        this.heardAt = Date.now();
        let data: unknown;
        try {
          data = JSON.parse((event as MessageEvent<string>).data || "null");
        } catch {
          return;
        }
        act(data as never);
      });
    on("hello", (hello: { status?: Status } & Status) => {
      this.attempt = 0;
      this.lostAt = 0;
      this.refused = null;
      this.probing?.abort();
      this.batch = this.fresh();
      this.handlers.onConnection({ state: "live" });
      this.handlers.onHello(hello.status ?? hello);
    });
    on("status", (status: { status?: Status } & Status) => this.later(() => (this.batch.status = status.status ?? status)));
    on("window", (window: LiveWindow) => this.later(() => this.batch.windows.set(`${window.time} ${window.host}`, window)));
    on("requests", (rows: RequestRow[]) =>
      this.later(() => {
        this.batch.requests.push(...rows);
        if (this.batch.requests.length > MOST_TAIL) this.batch.requests = this.batch.requests.slice(-MOST_TAIL);
      }),
    );
    on("alert", (alert: { alert?: Alert } & Alert) => this.handlers.onAlert(alert.alert ?? alert));
    on("silences", () => this.handlers.onSilences());
    on("reset", () => this.handlers.onReset());
    source.onerror = () => {
      if (this.source === source) this.lost();
    };
  }

  private later(add: () => void): void {
    add();
    this.flushing ??= window.setTimeout(() => {
      this.flushing = undefined;
      const { status, windows, requests } = this.batch;
      this.batch = this.fresh();
      this.handlers.onBatch({ status, windows: [...windows.values()], requests });
    }, FLUSH_MS);
  }

  private lost(): void {
    this.close();
    if (document.hidden) return;
    this.lostAt ||= Date.now();
    const wait = backoff(this.attempt, Math.random());
    this.attempt += 1;
    const retryAt = Date.now() + wait;
    this.tell(retryAt);
    void this.probe(retryAt);
    window.clearTimeout(this.retry);
    this.retry = window.setTimeout(() => this.open(), wait);
  }

  private tell(retryAt: number): void {
    const why = this.refused;
    this.handlers.onConnection(why === null ? { state: "lost", since: this.lostAt, retryAt } : { state: "refused", why, retryAt });
  }

  /** EventSource does not tell a refusal from a server that is away; plain calls do. They also say where a token is needed. */
  private async probe(retryAt: number): Promise<void> {
    this.probing?.abort();
    const { signal } = (this.probing = new AbortController());
    try {
      const status = await get<Status>("status", {}, signal);
      const error = await refusal("stream", signal);
      if (signal.aborted) return;
      // Where it begins now, the next attempt takes it.
      this.refused = error?.message ?? this.refused;
      if (this.refused !== null) this.handlers.onAnswer(status);
    } catch {
      if (signal.aborted) return;
      this.refused = null;
    }
    this.tell(retryAt);
  }

  private close(): void {
    this.source?.close();
    this.source = null;
    window.clearTimeout(this.flushing);
    this.flushing = undefined;
  }

  private visibility(): void {
    window.clearTimeout(this.hiding);
    if (document.hidden) {
      this.hiding = window.setTimeout(() => {
        this.stop();
        this.handlers.onConnection({ state: "hidden" });
      }, HIDE_AFTER_MS);
    } else if (!this.source) {
      this.open();
    }
  }
}
