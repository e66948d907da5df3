// The API's filters, applied on the page to what the stream brings. Says the same as docs/openapi.yaml.

import { clientMatcher } from "./address";
import type { Alert, RequestRow } from "./types";

export interface RequestFilter {
  host?: string;
  client?: string;
  path?: string;
  status?: string;
  text?: string;
}

/** `404` or `4xx`. */
export function statusMatches(status: number, wanted: string): boolean {
  if (/^\dxx$/i.test(wanted)) return Math.floor(status / 100) === Number(wanted[0]);
  return String(status) === wanted;
}

/** Is this what a status filter may say? */
export function isStatusFilter(text: string): boolean {
  return /^[1-5](xx|\d\d)$/i.test(text);
}

/** Is this what a client filter may say: an address, a network, or the name that some servers write? */
export function isClientFilter(text: string): boolean {
  const [address = "", bits, ...rest] = text.split("/");
  if (rest.length || (bits !== undefined && !/^\d{1,3}$/.test(bits))) return false;
  if (/^\d{1,3}(\.\d{1,3}){3}$/.test(address)) return address.split(".").every((part) => Number(part) <= 255) && Number(bits ?? 0) <= 32;
  if (address.includes(":")) return URL.canParse(`ip://[${address}]`) && Number(bits ?? 0) <= 128;
  return bits === undefined && /^[\w-]+(\.[\w-]+)*\.[\w-]*[a-z][\w-]*$/i.test(address);
}

/** In lower case as far as the store compares so: A to Z. */
const lower = (text: string) => text.replace(/[A-Z]+/g, (capitals) => capitals.toLowerCase());

/** Which requests pass a filter. */
export function requestMatcher(filter: RequestFilter): (row: RequestRow) => boolean {
  const isClient = filter.client ? clientMatcher(filter.client) : null;
  const [path, text] = [lower(filter.path ?? ""), lower(filter.text ?? "")];
  return (row) => {
    if (filter.host && row.host !== filter.host) return false;
    if (filter.status && !statusMatches(row.status, filter.status)) return false;
    if (isClient && !isClient(row.client)) return false;
    if (path && !lower(row.path).includes(path)) return false;
    return !text || [row.path, row.query, row.agent, row.referrer, row.client, row.host].some((field) => field && lower(field).includes(text));
  };
}

/** At most `most` of the rows, spread evenly over all of them. */
export function thinned<T>(rows: readonly T[], most: number): T[] {
  if (rows.length <= most) return [...rows];
  return Array.from({ length: most }, (_, at) => rows[Math.floor((at * rows.length) / most)] as T);
}

export interface AlertFilter {
  rule?: string;
  severity?: string;
  state?: string;
  host?: string;
  subject?: string;
}

export function alertMatches(alert: Alert, filter: AlertFilter): boolean {
  if (filter.rule && alert.rule !== filter.rule) return false;
  if (filter.severity && alert.severity !== filter.severity) return false;
  if (filter.state && alert.state !== filter.state) return false;
  if (filter.host && alertHost(alert) !== filter.host) return false;
  if (filter.subject && !Object.values(alert.subject).some((value) => value.includes(filter.subject ?? ""))) return false;
  return true;
}

export function alertHost(alert: Alert): string {
  return alert.host ?? alert.subject["host"] ?? "*";
}

/** What an alert's event made of what was known of it: made again, the same object, so that its row is not rendered again. */
const merged = new WeakMap<Alert, { known: Alert; now: Alert }>();

function merge(known: Alert, news: Alert): Alert {
  if (known === news) return known;
  const before = merged.get(news);
  if (before?.known === known) return before.now;
  // What people said about it is not in every event; where it is, also that they took it back.
  const now = { ...known, ...news, acknowledged: (news.acknowledged === undefined ? known.acknowledged : news.acknowledged) ?? null };
  merged.set(news, { known, now });
  return now;
}

/** `old` with `news` in place, by id, newest first, at most `limit`. */
export function upsertAlerts(old: readonly Alert[], news: readonly Alert[], limit: number): Alert[] {
  const byId = new Map(old.map((alert) => [alert.id, alert]));
  for (const alert of news) {
    const known = byId.get(alert.id);
    byId.set(alert.id, known ? merge(known, alert) : alert);
    if (alert.replaces) byId.delete(alert.replaces);
  }
  return [...byId.values()].sort((a, b) => b.fired - a.fired || (a.id < b.id ? 1 : -1)).slice(0, limit);
}
