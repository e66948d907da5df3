// How long to wait before the next attempt to connect: doubling, bounded, spread so that many pages do not come at once.

const FIRST_MS = 1000;
const MOST_MS = 15_000;

/** Wait before attempt `attempt` (0 is the first after a loss); `random` is in [0, 1). */
export function backoff(attempt: number, random: number): number {
  const full = Math.min(MOST_MS, FIRST_MS * 2 ** Math.min(attempt, 10));
  return Math.round(full * (0.75 + random * 0.5));
}
