// What the stream says of alerts: laid over the API's answers until the API is asked again. Of the page's state, without the page.

import { upsertAlerts } from "./match";
import type { Alert, Status } from "./types";

/** Alerts kept from the stream, to show before the API is asked again. */
const MOST_ALERTS = 500;
/** Alerts that are remembered as seen, so that none is announced twice. */
const MOST_SEEN = 5000;

export interface Told {
  /** Whether what is shown changed at once. */
  changed: boolean;
  /** Whether somebody said something of it. */
  marked: boolean;
  /** Whether it began to fire while the page is open. */
  began: boolean;
}

export class AlertFeed {
  alerts: readonly Alert[] = [];
  /** Alerts that were known and changed, within this second. */
  private goingOn: Alert[] = [];
  private seen = new Set<string>();
  /** What fired until then fired before the page was opened, ms. */
  private since: number | null | undefined;

  /** A connection stands. What was heard over an earlier one may be out of date, and where there is a history it knows better. */
  hello({ last_event, history }: Pick<Status, "last_event" | "history">): void {
    // A run over older logs is no reason to keep quiet.
    this.since = this.since === undefined || (this.since !== null && (last_event ?? -Infinity) < this.since) ? last_event : this.since;
    if (history !== false) this.reset();
  }

  /** Everything is asked again. */
  reset(): void {
    this.alerts = [];
    this.goingOn = [];
  }

  take(alert: Alert): Told {
    const known = this.alerts.some((old) => old.id === alert.id);
    const marked = alert.acknowledged !== undefined;
    const began = !marked && !this.wasSeen(alert.id) && alert.fired > (this.since ?? -Infinity) && alert.state === "firing" && alert.mode === "live" && !alert.silenced;
    // A new one at once; of one that goes on, with the rest of the second.
    if (known && !marked) this.goingOn.push(alert);
    else this.alerts = upsertAlerts(this.alerts, [alert], MOST_ALERTS);
    return { changed: !known || marked, marked, began };
  }

  /** A second is over. Whether anything changed. */
  flush(): boolean {
    if (!this.goingOn.length) return false;
    this.alerts = upsertAlerts(this.alerts, this.goingOn.splice(0), MOST_ALERTS);
    return true;
  }

  /** Which alerts silences cover is not known any more. */
  unsilence(): void {
    this.alerts = this.alerts.map(({ silenced: _, ...alert }) => alert);
  }

  private wasSeen(id: string): boolean {
    if (this.seen.has(id)) return true;
    this.seen.add(id);
    if (this.seen.size > MOST_SEEN) for (const oldest of this.seen) return this.seen.delete(oldest), false;
    return false;
  }
}
