// How often what moves is drawn, so that an open page costs next to nothing whatever draws it: one share of the time is for
// all drawings on screen together, and each waits until it has its part of that.
//
// - What a drawing costs is the median of its last few: the first one, and one that had to wait, say little.
// - All wait for whole beats of the stream, so that they are drawn in one frame, not each in its own.
// - Nobody waits longer than `SELDOM_MS`, however slow the machine is.

/** Of the time of one core, for all drawings together. Painting what was drawn costs about as much again. */
const SHARE = 0.005;
const SELDOM_MS = 5000;
/** How often there is anything new to draw. */
export const BEAT_MS = 1000;
const REMEMBERED = 6;

/** The drawings that are on screen, by what each costs. */
export class Pace {
  private costs = new Map<object, number[]>();

  /** It was drawn, in so many ms. */
  drew(who: object, ms: number): void {
    const known = this.costs.get(who) ?? [];
    this.costs.set(who, [...known, Math.max(0, ms)].slice(-REMEMBERED));
  }

  /** It is not on screen any more. */
  gone(who: object): void {
    this.costs.delete(who);
  }

  /** How long each drawing waits after its last, ms. `moves`: how long until the picture looks different at all. */
  interval(moves: number): number {
    let round = 0;
    for (const costs of this.costs.values()) round += median(costs);
    const beats = Math.ceil(Math.max(moves, round / SHARE, 1) / BEAT_MS);
    return Math.min(SELDOM_MS, beats * BEAT_MS);
  }
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor((values.length - 1) / 2)] ?? 0;
}
