// Small pieces every view uses.

import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import type { ApiError } from "../api";
import { useWatched } from "../cell";
import * as format from "../format";
import { go, newest, route, utc } from "../state";
import type { Alert, Severity } from "../types";
import { showRoute, type Route } from "../url";

export function Icon({ path, label }: { path: string; label?: string }) {
  return (
    <svg class="icon" viewBox="0 0 20 20" aria-hidden={label ? undefined : "true"} role={label ? "img" : undefined} aria-label={label}>
      <path d={path} fill="none" stroke="currentColor" stroke-width="1.6" stroke-linecap="round" stroke-linejoin="round" />
    </svg>
  );
}

export function Card(props: { title: string; note?: ComponentChildren; actions?: ComponentChildren; class?: string; children: ComponentChildren }) {
  return (
    <section class={`card ${props.class ?? ""}`} aria-label={props.title}>
      <header class="card-head">
        <h2>{props.title}</h2>
        {props.note !== undefined && <span class="note">{props.note}</span>}
        {props.actions && <div class="actions">{props.actions}</div>}
      </header>
      {props.children}
    </section>
  );
}

/** `span`: of what time the value is. */
export function Tile(props: { name: string; value: string; span?: string; note?: string; tone?: "bad" | "warn" | "good"; title?: string }) {
  return (
    <div class={`tile ${props.tone ?? ""}`} title={props.title}>
      <dt>{props.name}</dt>
      <dd>
        <span class="tile-value">{props.value}</span>
        {props.span && <span class="tile-note">{props.span}</span>}
        <span class="tile-note">{props.note ?? "\u00a0"}</span>
      </dd>
    </div>
  );
}

export function SeverityBadge({ severity }: { severity: Severity }) {
  return <span class={`badge severity-${severity}`}>{severity}</span>;
}

export function StateBadge({ alert }: { alert: Alert }) {
  return (
    <span class="states">
      <span class={`badge state-${alert.state}`}>{alert.state}</span>
      {alert.acknowledged && <span class="badge plain">acknowledged</span>}
      {alert.silenced && <span class="badge plain">silenced</span>}
      {alert.mode === "shadow" && <span class="badge plain">shadow</span>}
    </span>
  );
}

/** Text of a log: made visible, cut where it is long, whole in its title. */
export function LogText({ text, limit = 300, class: className = "" }: { text: string | null | undefined; limit?: number; class?: string }) {
  if (!text) return <span class="none">{format.NONE}</span>;
  const shown = format.visible(text);
  return (
    <bdi class={`log ${className}`} dir="ltr" title={shown.length > 24 ? format.shorten(shown, 2000) : undefined}>
      {format.shorten(shown, limit)}
    </bdi>
  );
}

/** A link to another view of this page; with a modifier the browser opens it where it is told to. */
export function ViewLink({ to, title, class: className, current, children }: { to: Route; title?: string; class?: string; current?: boolean; children: ComponentChildren }) {
  return (
    <a
      class={className}
      href={showRoute(to)}
      title={title}
      aria-current={current ? "page" : undefined}
      onClick={(event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
        event.preventDefault();
        go(to);
      }}
    >
      {children}
    </a>
  );
}

/** A client's address as a link to all it did. */
export function ClientLink({ ip }: { ip: string }) {
  const to = { ...useWatched(route), view: "client" as const, argument: ip, filters: {} };
  return (
    <ViewLink class="log client" to={to} title={`Everything ${format.visible(ip)} did`}>
      {format.visible(ip)}
    </ViewLink>
  );
}

export function Subject({ subject }: { subject: Record<string, string> }) {
  const entries = Object.entries(subject);
  if (!entries.length) return <span class="none">everything</span>;
  return (
    <span class="subject">
      {entries.map(([field, value]) => (
        <span key={field}>
          <span class="field">{field}</span>
          {field === "client_ip" ? <ClientLink ip={value} /> : <LogText text={value} limit={80} />}
        </span>
      ))}
    </span>
  );
}

/** A time as the page shows it everywhere, exact in its title. */
export function When({ ms, precise = false }: { ms: number | null | undefined; precise?: boolean }) {
  const zone = useWatched(utc);
  const near = newest() ?? Date.now();
  if (ms === null || ms === undefined) return <span class="none">{format.NONE}</span>;
  const text = precise && format.moment(ms, near, zone).length <= 8 ? format.clock(ms, zone, true) : format.moment(ms, near, zone);
  return (
    <time class="when" dateTime={Math.abs(ms) <= 8.64e15 ? new Date(ms).toISOString() : undefined} title={`${format.dateTime(ms, true)} UTC`}>
      {text}
    </time>
  );
}

/** What went wrong with a question, and a way to ask again. */
export function Trouble({ error, again }: { error: ApiError; again: () => void }) {
  const off = error.isNotKept;
  return (
    <div class={`trouble ${off ? "mild" : ""}`} role="status">
      <span>
        <b>{off ? "Not here." : error.status === 0 ? "No answer." : "That did not work."}</b> {format.visible(error.message)}
      </span>
      {!off && (
        <button type="button" onClick={again}>
          Ask again
        </button>
      )}
    </div>
  );
}

/** What stands where an answer is to come: nothing where it failed, which is said elsewhere. */
export function waiting(error: unknown): string {
  return error ? format.NONE : "Loading…";
}

/** In place of a view that has nothing without a store. */
export function NotKept({ what }: { what: string }) {
  return (
    <Card title="Not kept">
      <p class="empty">{what} are read from the store, and this run keeps none.</p>
    </Card>
  );
}

/** A bar of shares, drawn behind numbers; says nothing that the numbers do not. */
export function Meter({ share, class: className = "" }: { share: number; class?: string }) {
  const width = `${Math.max(0, Math.min(1, Number.isFinite(share) ? share : 0)) * 100}%`;
  return (
    <span class={`meter ${className}`} aria-hidden="true">
      <span style={{ width }} />
    </span>
  );
}

/** How requests split over classes of status. */
export function Split({ parts }: { parts: { name: string; value: number; class: string }[] }) {
  const whole = parts.reduce((sum, part) => sum + Math.max(0, part.value), 0);
  const text = parts.map((part) => `${part.name} ${format.exact(part.value)}`).join(", ");
  return (
    <span class="split" role="img" aria-label={text} title={text}>
      {whole > 0 &&
        parts.map((part) => part.value > 0 && <span key={part.name} class={part.class} style={{ flexGrow: part.value / whole }} />)}
    </span>
  );
}

/**
 * A window over the page. Focus goes in, stays in, and comes back: to what had it, or, where that is gone, to the content.
 *
 * Both in the same step as the window comes and goes (a layout effect): a key pressed in between must not meet a page without
 * focus. It is closed before focus is given back: while it is open, all else takes none.
 */
export function Dialog(props: { title: string; onClose: () => void; closable?: boolean; children: ComponentChildren }) {
  const box = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    const dialog = box.current;
    dialog?.showModal();
    return () => {
      dialog?.close();
      (before?.isConnected ? before : document.getElementById("main"))?.focus();
    };
  }, []);
  const closable = props.closable ?? true;
  return (
    <dialog
      ref={box}
      aria-label={props.title}
      onCancel={(event) => {
        event.preventDefault();
        if (closable) props.onClose();
      }}
      onClose={() => {
        // The browser closed it, as it does at a second Escape, whatever is said to that. Not so where it is gone already.
        if (!box.current) return;
        if (closable) props.onClose();
        else box.current.showModal();
      }}
      onClick={(event) => {
        if (closable && event.target === box.current) props.onClose();
      }}
    >
      <div class="dialog-body">
        <h2>{props.title}</h2>
        {props.children}
      </div>
    </dialog>
  );
}
