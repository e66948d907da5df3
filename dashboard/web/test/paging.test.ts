import { expect, test } from "vitest";
import { begin, goOn, searchedTo } from "../src/paging";
import type { RequestRow, Requests } from "../src/types";

const row = (time: number, path = "/"): RequestRow => ({ time, host: "web1", client: "192.0.2.1", method: "GET", path, status: 200, bytes: 1 });

/** What the store answers: rows before a time and a number, newest first; `looksAt` so many of them in the time it has. */
function answer(all: readonly RequestRow[], before: string | null, limit: number, path: string, looksAt = Infinity): Requests {
  const [time = Infinity, id = 0] = before === null ? [] : before.split(".").map(Number);
  const at = (of: number) => all[of]?.time ?? 0;
  const rest = all.map((_, of) => of).filter((of) => at(of) < time || (at(of) === time && of < id)).reverse();
  const rows: RequestRow[] = [];
  let last: number | null = null;
  for (const [looked, of] of rest.entries()) {
    if (looked === looksAt) return { rows, sampled: false, from: 0, truncated: true, next: `${at(of) + 1}.0` };
    if (all[of]?.path !== path) continue;
    if (rows.length === limit) return { rows, sampled: false, from: 0, truncated: true, next: `${at(last ?? 0)}.${last}` };
    rows.push(all[of] as RequestRow);
    last = of;
  }
  return { rows, sampled: false, from: 0, truncated: false, next: null };
}

function all(rows: readonly RequestRow[], limit: number, path: string, looksAt?: number): { found: RequestRow[]; asked: (string | null)[] } {
  const first = answer(rows, null, limit, path, looksAt);
  let pages = begin("q", first);
  const asked: (string | null)[] = [null];
  for (let before = pages.next; before !== null && asked.length < 100; before = pages.next) {
    asked.push(before);
    const next = answer(rows, before, limit, path, looksAt);
    pages = goOn(pages, before, next);
    expect(goOn(pages, before, next), "an answer that comes twice").toBe(pages);
  }
  return { found: [...first.rows, ...pages.rows], asked };
}

test("300 requests of one millisecond come in pages of 200, each once", () => {
  const rows = Array.from({ length: 300 }, () => row(1000));
  const { found, asked } = all(rows, 200, "/");
  expect(asked).toEqual([null, "1000.100"]);
  expect(new Set(found).size).toBe(300);
  expect(found.length).toBe(300);
});

test("a search that ran out of time before its first hit goes on to it", () => {
  const rows = [row(5, "/wanted"), ...Array.from({ length: 25 }, (_, at) => row(10 + at))];
  const first = begin("q", answer(rows, null, 200, "/wanted", 10));
  expect(first).toMatchObject({ rows: [], next: "25.0" });
  expect(searchedTo(first)).toBe(25);
  const { found, asked } = all(rows, 200, "/wanted", 10);
  expect(found).toEqual([rows[0]]);
  expect(asked).toEqual([null, "25.0", "15.0"]);
});

test.each<[string, Requests | null]>([
  ["nothing was asked yet", null],
  ["all was searched", { rows: [row(1)], sampled: false, from: 0, truncated: false, next: null }],
])("nothing more: %s", (_, first) => {
  const pages = begin("q", first);
  expect(pages.next).toBeNull();
  expect(searchedTo(pages)).toBeNull();
});

test("an answer that ends at the same place has the same pages behind it", () => {
  const of = (question: string, next: string) => begin(question, { rows: [], sampled: false, from: 0, truncated: true, next }).of;
  expect(of("q", "7.1")).toBe(of("q", "7.1"));
  expect(of("q", "7.1")).not.toBe(of("q", "7.2"));
  expect(of("q", "7.1")).not.toBe(of("other", "7.1"));
});
