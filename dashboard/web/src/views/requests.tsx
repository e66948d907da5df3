// Single requests: the newest as they come, and a search in those that are kept.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { get, ApiError } from "../api";
import { useWatched } from "../cell";
import * as format from "../format";
import { isClientFilter, isStatusFilter, requestMatcher, type RequestFilter } from "../match";
import { begin, goOn, searchedTo, type Pages } from "../paging";
import { Card, ClientLink, LogText, Trouble, waiting, When } from "../parts/basic";
import { Table, type Column } from "../parts/table";
import { connection, go, rangeKey, route, setFilter, shown, status, stream, tail, useAnswer } from "../state";
import { Tail } from "../tail";
import type { RequestRow, Requests } from "../types";

const LIMIT = 200;
const MOST = 2000;
/** What runs past is not read: so many of the newest are enough, and so many new ones at once. */
const LIVE_ROWS = 50;
const LIVE_NEW = 15;

export const REQUEST_COLUMNS: Column<RequestRow>[] = [
  { name: "Time", cell: (row) => <When ms={row.time} precise={row.time % 1000 !== 0} />, class: "tight" },
  { name: "Status", cell: (row) => <StatusCode code={row.status} />, class: "tight" },
  { name: "Client", cell: (row) => <ClientLink ip={row.client} />, class: "tight" },
  { name: "Method", cell: (row) => <LogText text={row.method} limit={12} />, class: "tight" },
  {
    name: "Path",
    cell: (row) => (
      <span class="path">
        <LogText text={row.path} limit={240} />
        {row.query && <LogText text={row.query.startsWith("?") ? row.query : `?${row.query}`} limit={160} class="query" />}
      </span>
    ),
    wide: true,
  },
  { name: "Sent", cell: (row) => format.bytes(row.bytes), number: true, minor: true },
  { name: "Latency", cell: (row) => format.latency(row.latency_ms), number: true },
  { name: "Host", cell: (row) => <LogText text={row.host} limit={30} />, minor: true, class: "tight" },
];

export function StatusCode({ code }: { code: number }) {
  return <span class={`badge status status-${Math.floor(code / 100)}xx`}>{code}</span>;
}

export function RequestDetail({ row }: { row: RequestRow }) {
  const facts: [string, string | null | undefined][] = [
    ["Path", row.path],
    ["Query", row.query],
    ["User agent", row.agent],
    ["Referrer", row.referrer],
    ["Host", row.host],
  ];
  return (
    <div class="alert-detail">
      <dl class="facts wide-facts">
        {facts.map(([name, text]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{text ? <bdi class="log wrap" dir="ltr">{format.shorten(format.visible(text), 4000)}</bdi> : <span class="none">{format.NONE}</span>}</dd>
          </div>
        ))}
      </dl>
    </div>
  );
}

/** Somebody types: a search for each letter would be for nothing. */
const SETTLED_MS = 250;

/** The value once it was left alone for so long; the first at once. */
function useSettled<T>(value: T, ms: number): T {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = window.setTimeout(() => setSettled(value), ms);
    return () => window.clearTimeout(timer);
  }, [value, ms]);
  return settled;
}

interface Entry {
  row: RequestRow;
  key: string;
}

/** Entries by row, so that a row that stays is not rendered again. */
const entries = new WeakMap<RequestRow, Entry>();

/** Rows that are alike in this are taken for the same request. */
const sameness = (row: RequestRow) => `${row.time} ${row.client} ${row.method} ${row.path} ${row.query ?? ""} ${row.status}`;

/** A key that stays with a row while others come; the same request twice counts up. */
export function keyed(rows: readonly RequestRow[]): Entry[] {
  const seen = new Map<string, number>();
  // From the oldest: what comes later must not change the keys of what was there.
  return rows
    .map((_, at) => rows[rows.length - 1 - at] as RequestRow)
    .map((row) => {
      const base = sameness(row);
      const times = (seen.get(base) ?? 0) + 1;
      seen.set(base, times);
      const key = `${base} ${times}`;
      let entry = entries.get(row);
      if (entry?.key !== key) entries.set(row, (entry = { row, key }));
      return entry;
    })
    .reverse();
}

const unsorted = (columns: Column<RequestRow>[]): Column<Entry>[] => columns.map((column) => ({ ...column, cell: ({ row }) => column.cell(row), by: undefined }));
const COLUMNS = unsorted(REQUEST_COLUMNS);
/** Of one client: the same without it. */
export const CLIENT_COLUMNS = unsorted(REQUEST_COLUMNS.filter(({ name }) => name !== "Client"));

/** What came live, before anything did. */
function unheard(question: string, of: Requests | null) {
  return { question, of, seen: new WeakSet<RequestRow>(), tail: new Tail<RequestRow>(LIVE_NEW, MOST) };
}

export function RequestsPage() {
  const here = useWatched(route);
  const now = useWatched(status);
  const fresh = useWatched(tail);
  const { client = "", path = "", status: code = "", text = "" } = here.filters;
  const usable = code === "" || isStatusFilter(code);
  const isClient = client === "" || isClientFilter(client);
  const typed: Omit<RequestFilter, "host"> = { client: isClient ? client : "", path, status: usable ? code.toLowerCase() : "", text };
  const settled = useSettled(JSON.stringify(typed), SETTLED_MS);
  const filter: RequestFilter = { host: here.host, ...(JSON.parse(settled) as typeof typed) };
  const key = JSON.stringify(filter);
  const enabled = now?.requests.enabled ?? false;
  // Where nothing comes live.
  const every = useWatched(connection).state === "refused" ? 10_000 : 0;
  const answer = useAnswer<Requests>(enabled ? `requests?${rangeKey(here)}|${key}` : null, () => ({ ...shown(), ...filter, limit: LIMIT }), every);
  const question = `${rangeKey(here)}|${key}`;
  const [older, setOlder] = useState<Pages | null>(null);
  const begun = useMemo(() => begin(question, answer.data), [question, answer.data]);
  const pages = older?.of === begun.of ? older : begun;
  const [asking, setAsking] = useState(false);
  /** For which answer more than the newest rows are wanted. */
  const [opened, setOpened] = useState("");
  const [problem, setProblem] = useState<ApiError | null>(null);
  const [open, setOpen] = useState<string | null>(null);

  // The tail is asked of the stream only while it is looked at.
  const following = here.live;
  useEffect(() => {
    if (!following) return;
    tail.set([]);
    stream.requests(true);
    return () => stream.requests(false);
  }, [following]);

  // What came live and is shown. An open row stays where it is: nothing is added meanwhile.
  const live = useRef<{ question: string; of: Requests | null; seen: WeakSet<RequestRow>; tail: Tail<RequestRow> }>(unheard("", null));
  const answered = useMemo(() => new Set((answer.data?.rows ?? []).map(sameness)), [answer.data]);
  const { rows, hidden } = useMemo(() => {
    const kept = answer.data?.rows ?? [];
    const [newest, oldest] = [kept[0]?.time ?? 0, kept[kept.length - 1]?.time ?? 0];
    // What came before an answer is in it.
    if (live.current.question !== question || live.current.of !== answer.data || !following)
      live.current = unheard(question, answer.data);
    const now = live.current;
    if (following && open === null) {
      const passes = requestMatcher(filter);
      // Hosts whose lines come later have older ones that are in no answer yet.
      const isNew = (row: RequestRow) => row.time > newest || (row.time >= oldest && !answered.has(sameness(row)));
      const news = fresh.filter((row) => !now.seen.has(row) && isNew(row) && passes(row));
      news.forEach((row) => now.seen.add(row));
      // Partitions are read beside each other: they come in order of arrival.
      news.sort((a, b) => b.time - a.time);
      now.tail.take(news);
    }
    const all = [...now.tail.rows, ...kept, ...pages.rows];
    const most = opened === pages.of ? MOST : following ? LIVE_ROWS : LIMIT;
    return { rows: keyed(all.slice(0, most)), hidden: all.length > most };
  }, [answer.data, fresh, pages, opened, question, following, open]);

  const more = () => {
    setOpened(pages.of);
    const before = pages.next;
    if (hidden || before === null) return;
    setAsking(true);
    get<Requests>("requests", { from: shown().from, ...filter, limit: LIMIT, before })
      .then(
        (next) => {
          setProblem(null);
          setOlder((old) => goOn(old?.of === pages.of ? old : pages, before, next));
        },
        (error: unknown) => error instanceof ApiError && setProblem(error),
      )
      .finally(() => setAsking(false));
  };

  const sampled = now?.requests.sampled || answer.data?.sampled;
  const from = answer.data?.from ?? now?.requests.from ?? null;
  const missing = now?.requests.without ?? [];
  const hasFilters = Boolean(client || path || code || text);
  const back = searchedTo(pages);
  return (
    <Card
      title={following ? "Live requests" : "Requests"}
      note={
        <>
          {enabled ? <>{format.plural(now?.requests.kept ?? 0, "request")} kept</> : "not kept: only what arrives while this is open"}
          {enabled && from !== null && <> since <When ms={from} /></>}
          {following && live.current.tail.thin && <> – of those that come, {LIVE_NEW} every three seconds are shown; pause for all</>}
          {missing.length > 0 && <b class="sampled"> – without {format.processes(missing)}: no answer</b>}
          {sampled && <b class="sampled"> – a sample: at this rate not every request is kept</b>}
        </>
      }
    >
      <form class="filters" role="search" aria-label="Requests" onSubmit={(event) => event.preventDefault()}>
        <label class="grows">
          <span>Path</span>
          <input type="search" value={path} placeholder="part of it" onInput={(event) => setFilter("path", event.currentTarget.value)} />
        </label>
        <label>
          <span>Client</span>
          <input type="search" class="medium" value={client} placeholder="address" aria-invalid={!isClient} aria-describedby={isClient ? undefined : "wrong-client"} onInput={(event) => setFilter("client", event.currentTarget.value.trim())} />
        </label>
        <label>
          <span>Status</span>
          <input type="search" class="short" value={code} placeholder="404, 5xx" aria-invalid={!usable} aria-describedby={usable ? undefined : "wrong-status"} onInput={(event) => setFilter("status", event.currentTarget.value.trim())} list="statuses" />
          <datalist id="statuses">
            {["2xx", "3xx", "4xx", "5xx", "404", "403", "500", "502", "503"].map((value) => (
              <option key={value} value={value} />
            ))}
          </datalist>
        </label>
        <label class="grows">
          <span>Text</span>
          <input type="search" value={text} placeholder="anywhere: agent, referrer, query…" onInput={(event) => setFilter("text", event.currentTarget.value)} />
        </label>
        {hasFilters && (
          <button type="button" onClick={() => go({ filters: {} })}>
            Clear
          </button>
        )}
      </form>
      {!usable && <p id="wrong-status" class="problem pad" role="status">A status is a number such as 404, or a class such as 5xx. Until it is, requests of any status are shown.</p>}
      {!isClient && <p id="wrong-client" class="problem pad" role="status">A client is an address such as 203.0.113.5, a network such as 203.0.113.0/24, or a name. Until it is, requests of all clients are shown.</p>}
      {(answer.error ?? problem) && <Trouble error={(answer.error ?? problem)!} again={answer.again} />}
      <Table
        cards label="Requests, newest first"
        rows={rows}
        columns={COLUMNS}
        rowKey={(entry) => entry.key}
        empty={!enabled ? <>Single requests are not kept: <code>[store] requests</code> is 0 in the configuration, or there is no store. All other views work without them.</> : answer.error ? waiting(answer.error) : answer.loading ? "Loading…" : back !== null ? <>Nothing found so far, back to <When ms={back} />: there was no time for more.</> : hasFilters ? "No kept request passes these filters." : "No request is kept in this range."}
        detail={({ row }) => <RequestDetail row={row} />}
        open={open}
        onOpen={setOpen}
        openLabel={({ row }) => `Details of ${row.method} ${format.shorten(format.visible(row.path), 60)}`}
      />
      {(hidden || pages.next !== null) && rows.length >= MOST && (
        <p class="note">The newest {format.count(MOST)} are shown. For older ones choose an earlier time, or filter.</p>
      )}
      {(hidden || pages.next !== null) && rows.length < MOST && (
        <div class="buttons centred">
          <button type="button" onClick={more} disabled={asking || answer.loading}>
            {rows.length ? "Older requests" : "Search on"}
          </button>
        </div>
      )}
    </Card>
  );
}
