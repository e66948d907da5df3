// What of a live tail is shown: all of it while it is few, else as many as are read, and those every third beat. Every row that
// moves is laid out and painted, whatever becomes of it.

import { thinned } from "./match";

/** Beats in a row without new ones, while more come than are read. */
const HELD = 2;

export class Tail<Row> {
  /** Newest first. */
  rows: readonly Row[] = [];
  /** Whether more came than is shown. */
  thin = false;
  private waiting: Row[] = [];
  /** For how many beats rows waited. */
  private held = 0;

  /** `fresh`: shown of those that come at once. `most`: kept. */
  constructor(
    private fresh: number,
    private most: number,
  ) {}

  /** What came since the last beat, newest first. */
  take(news: readonly Row[]): void {
    this.waiting = [...news, ...this.waiting];
    const many = this.waiting.length > this.fresh;
    if (many && this.thin && this.held < HELD) {
      this.held += 1;
      return;
    }
    [this.thin, this.held] = [many, 0];
    if (!this.waiting.length) return;
    this.rows = [...thinned(this.waiting, this.fresh), ...this.rows].slice(0, this.most);
    this.waiting = [];
  }
}
