// The frame around every view: where one is, what is shown, whether it is live, and what is wrong.

import { useEffect, useRef, useState } from "preact/hooks";
import { useWatched } from "./cell";
import * as format from "./format";
import { Dialog, Icon, Tile, ViewLink } from "./parts/basic";
import { Login } from "./parts/login";
import { Toast } from "./parts/toast";
import { quietFor } from "./series";
import { connection, go, needsToken, route, setLive, setTheme, setUtc, shown, status, stream, theme, utc, WINDOW_MS, windows } from "./state";
import { RANGES, type Route, type View } from "./url";
import { ClientPage } from "./views/client";
import { DataflowPage } from "./views/dataflow";
import { ErrorsPage } from "./views/errors";
import { GraphPage } from "./views/graph";
import { OverviewPage } from "./views/overview";
import { RequestsPage } from "./views/requests";
import { SecurityPage } from "./views/security";
import { TimePage } from "./views/time";
import { TrafficPage } from "./views/traffic";

interface Place {
  view: View;
  name: string;
  icon: string;
  page: () => preact.JSX.Element;
}

/** In the order of the navigation. */
const PLACES: Place[] = [
  { view: "overview", name: "Overview", icon: "M3 10h3l2-5 4 10 2-5h3", page: OverviewPage },
  { view: "traffic", name: "Traffic", icon: "M4 16V9M8 16V4M12 16v-5M16 16V7", page: TrafficPage },
  { view: "security", name: "Security", icon: "M10 2.5l6 2.2v4.6c0 3.8-2.5 6.6-6 8.2-3.5-1.6-6-4.4-6-8.200V4.700z", page: SecurityPage },
  { view: "errors", name: "Errors", icon: "M10 3l7.5 13.500h-15zM10 8v4M10 14.300v.1", page: ErrorsPage },
  { view: "requests", name: "Requests", icon: "M3 5h14M3 10h14M3 15h9", page: RequestsPage },
  { view: "time", name: "Time", icon: "M10 3a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM10 6v4l3 2", page: TimePage },
  { view: "dataflow", name: "Dataflow", icon: "M3 5h4v4H3zM13 5h4v4h-4zM8 13h4v4H8zM7 7h6M5 9v2l4 2M15 9v2l-4 2", page: DataflowPage },
  { view: "graph", name: "Graph", icon: "M5 5.500a1.5 1.5 0 1 0 0 .1M15 4.500a1.5 1.5 0 1 0 0 .1M10 15.500a1.5 1.5 0 1 0 0 .1M6.500 6l2.5 8M6.800 5.400l5.200-.6M13.200 6l-3 8", page: GraphPage },
];

export function App() {
  const here = useWatched(route);
  const locked = useWatched(needsToken);
  const now = useWatched(status);
  const place = PLACES.find((candidate) => candidate.view === here.view);
  const title = place?.name ?? `Client ${format.visible(here.argument)}`;
  const firing = now?.alerts.firing ?? 0;
  useEffect(() => {
    document.title = `${firing ? `(${firing}) ` : ""}${title} · Tidewatch`;
  }, [title, firing]);

  // Another view: the keyboard starts at its top, and its name is read out.
  const heading = useRef<HTMLHeadingElement>(null);
  const first = useRef(true);
  useEffect(() => {
    if (first.current) first.current = false;
    else {
      heading.current?.focus({ preventScroll: true });
      scrollTo(0, 0);
    }
  }, [here.view, here.argument]);

  const Page = place?.page ?? ClientPage;
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), document.getElementById("main")?.focus())}>
        Skip to content
      </a>
      <div class="frame">
        <Side here={here} firing={firing} />
        <main id="main" tabIndex={-1}>
          <div class="top">
            <h1 ref={heading} tabIndex={-1} data-long={here.view === "client" ? "" : undefined}>
              {title}
            </h1>
            <Controls here={here} />
          </div>
          <div class="content">
            <Warnings />
            {now === null && !locked ? <Waiting /> : now !== null ? <Page key={`${here.view} ${here.argument}`} /> : null}
          </div>
        </main>
      </div>
      <Toast />
      {locked && <Login />}
    </>
  );
}

function Side({ here, firing }: { here: Route; firing: number }) {
  const now = useWatched(status);
  const strip = useRef<HTMLUListElement>(null);
  useEffect(() => {
    strip.current?.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  }, [here.view]);
  return (
    <header class="side">
      <div class="brand">
        <svg viewBox="0 0 32 32" aria-hidden="true">
          <rect width="32" height="32" rx="7" />
          <path d="M4 13c4 0 4-4 8-4s4 4 8 4 4-4 8-4M4 22c4 0 4-4 8-4s4 4 8 4 4-4 8-4" />
        </svg>
        <span>Tidewatch</span>
      </div>
      <nav aria-label="Views">
        <ul ref={strip}>
          {PLACES.map(({ view, name, icon }) => {
            const to = { ...here, view, argument: "", filters: {} };
            const current = here.view === view || (here.view === "client" && view === "security");
            return (
              <li key={view}>
                <ViewLink to={to} current={current}>
                  <Icon path={icon} />
                  <span>{name}</span>
                  {view === "security" && firing > 0 && (
                    <span class="dot">
                      {format.count(firing)}
                      <span class="visually-hidden"> firing</span>
                    </span>
                  )}
                </ViewLink>
              </li>
            );
          })}
        </ul>
      </nav>
      <div class="foot">
        <ConnectionState />
        <Settings />
        {now && (
          <p class="about">
            {now.mode === "demo" ? "demo, " : now.mode === "store" ? "store only, " : ""}
            {format.plural(now.workers, "worker")}
            {now.processes > 1 && `, ${format.plural(now.processes, "process", "processes")}`}
            <br />
            {format.bytes(now.memory_bytes)} memory, {format.visible(now.version)}
          </p>
        )}
      </div>
    </header>
  );
}

/** Counts down to the next attempt. */
function useSecondsTo(time: number | null): number {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    if (time === null) return;
    setNow(Date.now());
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, [time]);
  return time === null ? 0 : Math.max(0, Math.ceil((time - now) / 1000));
}

function ConnectionState() {
  const now = useWatched(connection);
  const live = useWatched(route).live;
  // Before the first login there was no connection to lose.
  const isNew = useWatched(needsToken) && useWatched(status) === null;
  const text = isNew ? "Not logged in" :
    now.state === "lost" ? "Connection lost" : now.state === "refused" ? "Not live" : now.state === "connecting" ? "Connecting…" : now.state === "hidden" ? "Resting" : live ? "Live" : "Paused";
  return (
    <p class={`connection ${isNew ? "connecting" : now.state === "live" && !live ? "held" : now.state}`} role="status">
      <i />
      {text}
    </p>
  );
}

function Settings() {
  const chosen = useWatched(theme);
  const inUtc = useWatched(utc);
  const next = chosen === "auto" ? "light" : chosen === "light" ? "dark" : "auto";
  const icons = {
    auto: "M10 3a7 7 0 1 0 0 14zM10 3a7 7 0 0 1 0 14",
    light: "M10 6.500a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7zM10 1.500v2M10 16.500v2M1.5 10h2M16.5 10h2M4 4l1.4 1.400M14.6 14.600L16 16M4 16l1.4-1.400M14.6 5.400L16 4",
    dark: "M16 12.500A7 7 0 0 1 7.5 4a6.5 6.5 0 1 0 8.5 8.500z",
  };
  return (
    <div class="settings">
      <button type="button" class="quiet" onClick={() => setTheme(next)} title={`Colours: ${chosen}. Press for ${next}.`}>
        <Icon path={icons[chosen]} />
        <span class="visually-hidden">Colours: </span>
        {chosen}
      </button>
      <button type="button" class="quiet" onClick={() => setUtc(!inUtc)} title={inUtc ? "Times are in UTC. Press for local time." : "Times are local. Press for UTC."}>
        <span class="visually-hidden">Times: </span>
        {inUtc ? "UTC" : "local time"}
      </button>
    </div>
  );
}

/** Views that look at the moment, not at a stretch of it. */
const MOMENTARY = new Set<View>(["time", "dataflow", "graph"]);

function Controls({ here }: { here: Route }) {
  const now = useWatched(status);
  const inUtc = useWatched(utc);
  const [choosing, setChoosing] = useState(false);
  const momentary = MOMENTARY.has(here.view);
  const fixed = "from" in here.range ? here.range : null;
  const hosts = now?.hosts ?? [];
  const chosen = fixed ? "fixed" : String("last" in here.range ? here.range.last : 0);
  const known = fixed || RANGES.some(([, ms]) => String(ms) === chosen);
  return (
    <div class="controls" role="group" aria-label="What is shown">
      {!momentary && (
        <>
          <label>
            <span class="visually-hidden">Host</span>
            {hosts.length < MOST_HOSTS ? (
              <select value={here.host} onChange={(event) => go({ host: event.currentTarget.value })}>
                <option value="">All hosts</option>
                {here.host && !hosts.includes(here.host) && <option value={here.host}>{format.visible(here.host)}</option>}
                {hosts.map((host) => (
                  <option key={host} value={host}>
                    {format.shorten(format.visible(host), 60)}
                  </option>
                ))}
              </select>
            ) : (
              <>
                <input type="search" list="hosts" value={here.host} placeholder="All hosts, or a name" onChange={(event) => go({ host: event.currentTarget.value.trim() })} />
                <datalist id="hosts">
                  {hosts.filter((host) => format.visible(host) === host).map((host) => (
                    <option key={host} value={host} />
                  ))}
                </datalist>
              </>
            )}
          </label>
          <label>
            <span class="visually-hidden">Time range</span>
            <select
              value={chosen}
              onChange={(event) => {
                const value = event.currentTarget.value;
                if (value === "fixed") return;
                if (value === "choose") {
                  // It shows what is shown until a time is chosen.
                  event.currentTarget.value = chosen;
                  return setChoosing(true);
                }
                go({ range: { last: Number(value) }, live: here.live || fixed !== null });
              }}
            >
              {fixed && (
                <option value="fixed">
                  {format.dateTime(fixed.from, inUtc)} – {format.moment(fixed.to, fixed.from, inUtc)}
                </option>
              )}
              {!known && <option value={chosen}>Last {format.duration(Number(chosen))}</option>}
              {RANGES.map(([short, ms, name]) => (
                <option key={short} value={String(ms)}>
                  Last {name}
                </option>
              ))}
              <option value="choose">From … to …</option>
            </select>
          </label>
          {choosing && <ChooseTime onClose={() => setChoosing(false)} />}
        </>
      )}
      {here.view !== "graph" && (
        <button
          type="button"
          class={`live ${here.live ? "on" : ""}`}
          aria-pressed={here.live}
          onClick={() => setLive(!here.live)}
          title={here.live ? "Follows the newest data. Press to hold still." : "Holds still. Press to follow the newest data."}
        >
          <Icon path={here.live ? "M7 5v10M13 5v10" : "M6 4.500l9 5.5-9 5.500z"} />
          <span class="live-word">{here.live ? "Pause" : "Go live"}</span>
        </button>
      )}
    </div>
  );
}

/** A stretch of time by its ends: for who has no mouse to drag over a chart with, or knows when it was. */
function ChooseTime({ onClose }: { onClose: () => void }) {
  const inUtc = useWatched(utc);
  const [fields, setFields] = useState(() => {
    const { from, to } = shown();
    return { from: format.dateTimeField(from, inUtc), to: format.dateTimeField(to, inUtc) };
  });
  const [problem, setProblem] = useState("");
  const field = (name: "from" | "to", label: string) => (
    <label class="field-row">
      <span>{label}</span>
      <input type="datetime-local" step="1" required value={fields[name]} onInput={(event) => setFields({ ...fields, [name]: event.currentTarget.value })} />
    </label>
  );
  return (
    <Dialog title="Time range" onClose={onClose}>
      <form
        noValidate
        onSubmit={(event) => {
          event.preventDefault();
          const [from, to] = [format.fromDateTimeField(fields.from, inUtc), format.fromDateTimeField(fields.to, inUtc)];
          if (from === null || to === null) return setProblem("Both times are needed.");
          if (to <= from) return setProblem("It ends before it begins.");
          onClose();
          go({ range: { from, to } });
        }}
      >
        <p>Times are {inUtc ? "in UTC" : "local"}.</p>
        {field("from", "From")}
        {field("to", "To")}
        <p class="problem" role="alert">{problem}</p>
        <div class="buttons">
          <button type="submit" class="primary">
            Show
          </button>
          <button type="button" onClick={onClose}>
            Cancel
          </button>
        </div>
      </form>
    </Dialog>
  );
}

/** The server names no more. */
const MOST_HOSTS = 1000;

/** What somebody must know before believing the numbers. */
function Warnings() {
  const now = useWatched(status);
  const link = useWatched(connection);
  const here = useWatched(route);
  const inUtc = useWatched(utc);
  const locked = useWatched(needsToken);
  const wait = useSecondsTo("retryAt" in link ? link.retryAt : null);
  const sources = (now?.sources ?? []).filter((source) => source.away > 0);
  const sinks = (now?.sinks ?? []).filter((sink) => sink.state !== "ok");
  const routes = (now?.routes ?? []).filter((route) => !route.works);
  const quiet = now && quietFor(now, windows.size() ?? WINDOW_MS);
  const again = (
    <>
      trying again
      <span aria-hidden="true">{wait > 0 ? ` in ${wait} s` : " now…"}</span>
    </>
  );
  const tryNow = (
    <button type="button" onClick={() => stream.now()}>
      Try now
    </button>
  );
  return (
    <div class="warnings">
      {link.state === "lost" && !(locked && now === null) && (
        <div class="warning bad" role="alert">
          <span>
            <b>Connection lost.</b> What is shown is of <time>{format.clock(link.since, inUtc)}</time>; {again}
          </span>
          {tryNow}
        </div>
      )}
      {link.state === "refused" && (
        <div class="warning" role="status">
          <span>
            <b>Nothing comes live:</b> {format.visible(link.why)}. What is shown is asked anew every few seconds; {again}
          </span>
          {tryNow}
        </div>
      )}
      {now?.catching_up && (
        <div class="warning mild" role="status">
          <span>
            <b>Catching up:</b> {format.catchingUp(now.catching_up)}. Until then only closed windows are shown, and alerts on them.
          </span>
        </div>
      )}
      {sources.map((source) => (
        <div key={`source ${source.name}`} class={`warning ${source.away === source.partitions ? "bad" : ""}`} role="status">
          <span>
            <b>{format.visible(source.name)}</b> {source.away === source.partitions ? "is not read: no broker answers." : `is read in part: no broker answers for ${source.away} of its ${source.partitions} partitions.`}
          </span>
        </div>
      ))}
      {sinks.map((sink) => (
        <div key={sink.name} class={`warning ${sink.state === "full" ? "bad" : ""}`} role="status">
          <span>
            <b>{format.visible(sink.name)}</b>{" "}
            {sink.state === "full" ? "is away and no more can wait for it: reading is paused" : "is away"}; {format.bytes(sink.waiting_bytes)} wait for it.
          </span>
        </div>
      ))}
      {routes.map((route) => (
        <div key={`route ${route.name}`} class="warning" role="status">
          <span>
            <b>Alerts are not told by {format.visible(route.name)}:</b> {format.visible(route.error)}; {route.pending} wait.
          </span>
        </div>
      ))}
      {now?.mode === "store" && (
        <div class="warning mild" role="status">
          <span>
            <b>Store only.</b> No pipeline is running here: what was recorded is shown.
          </span>
        </div>
      )}
      {now?.history === false && (
        <div class="warning mild" role="status">
          <span>
            <b>No store in this run.</b> Charts and alerts begin when this page was opened; rankings, messages and single requests are not kept.
          </span>
        </div>
      )}
      {now && here.host && !MOMENTARY.has(here.view) && now.hosts.length < MOST_HOSTS && !now.hosts.includes(here.host) && (
        <div class="warning mild" role="status">
          <span>
            Nothing came from a host <b>{format.shorten(format.visible(here.host), 60)}</b> within the last day of the data.
          </span>
          <button type="button" onClick={() => go({ host: "" })}>
            All hosts
          </button>
        </div>
      )}
      {now && quiet !== null && here.live && "last" in here.range && (
        <div class="warning mild" role="status">
          <span>
            The newest event is {format.duration(quiet)} old ({format.dateTime(now.now - quiet, true)} UTC). Ranges end there, not at the present.
          </span>
        </div>
      )}
    </div>
  );
}

/** The shape of the overview, before anything is known. */
function Waiting() {
  return (
    <div aria-busy="true">
      <p class="visually-hidden">Loading</p>
      <dl class="tiles" aria-hidden="true">
        {["Requests", "Latency p95", "Error share", "Clients", "Events", "Anomalies", "Anomaly rate", "Critical alerts"].map((name) => (
          <Tile key={name} name={name} value={format.NONE} />
        ))}
      </dl>
    </div>
  );
}
