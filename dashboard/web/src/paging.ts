// Going on from an answer about requests: what older answers gave, and where the next one begins.

import type { RequestRow, Requests } from "./types";

export interface Pages {
  /** The question, and where its first answer ended: where that is the same, so is what follows. */
  of: string;
  rows: readonly RequestRow[];
  /** What to ask for as `before` to go on; null: all was searched. */
  next: string | null;
}

function nextOf(answer: Requests | null): string | null {
  return (answer?.truncated && answer.next) || null;
}

/** Nothing older than the answer itself. */
export function begin(question: string, answer: Requests | null): Pages {
  const next = nextOf(answer);
  return { of: `${question} ${next}`, rows: [], next };
}

/** With the answer to `before`. One that was asked for twice counts once. */
export function goOn(pages: Pages, before: string, answer: Requests): Pages {
  if (pages.next !== before) return pages;
  return { ...pages, rows: [...pages.rows, ...answer.rows], next: nextOf(answer) };
}

/** Back to which time was searched, ms. */
export function searchedTo({ next }: Pages): number | null {
  const time = Number(next?.split(".")[0]);
  return next !== null && Number.isFinite(time) ? time : null;
}
