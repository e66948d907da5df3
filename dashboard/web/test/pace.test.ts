import { expect, test } from "vitest";
import { Pace } from "../src/charts/pace";
import { Tail } from "../src/tail";

/** Each has drawn so often, in so many ms. */
function pace(...costs: number[][]): Pace {
  const made = new Pace();
  for (const of of costs) {
    const who = {};
    for (const ms of of) made.drew(who, ms);
  }
  return made;
}

test.each<[string, Pace, number, number]>([
  ["nothing was drawn yet", pace(), 300, 1000],
  ["the picture moves seldom: what drawing costs does not matter", pace([3]), 4500, 5000],
  ["a picture that moves with each second beat", pace([3]), 1500, 2000],
  ["exactly with a beat", pace([3]), 2000, 2000],
  ["six charts of 3 ms, a young log", pace([3], [3], [3], [3], [3], [3]), 300, 4000],
  ["three charts", pace([3], [3], [3]), 300, 2000],
  ["one chart", pace([3]), 300, 1000],
  ["the first takes long", pace([40, 6, 6]), 300, 2000],
  ["one had to wait", pace([6, 6, 90, 6]), 300, 2000],
  ["the machine is busy now", pace([6, 6, 6, 12, 12, 12, 12]), 300, 3000],
  ["a slow machine", pace([900]), 300, 5000],
  ["a long range", pace([1]), 60_000, 5000],
  ["a clock that went back", pace([-5]), 300, 1000],
])("how long a drawing waits: %s", (_, made, moves, wanted) => expect(made.interval(moves)).toBe(wanted));

test("what left the screen takes no share", () => {
  const made = new Pace();
  const [one, other] = [{}, {}];
  made.drew(one, 12);
  made.drew(other, 3);
  expect(made.interval(0)).toBe(3000);
  made.gone(one);
  expect(made.interval(0)).toBe(1000);
});

/** What is shown after each beat. */
function shown(beats: number[], most = 3): string[] {
  const tail = new Tail<number>(most, 6);
  let next = 0;
  return beats.map((count) => {
    tail.take(Array.from({ length: count }, () => (next += 1)).reverse());
    return `${tail.thin ? "thin " : ""}${tail.rows.join()}`;
  });
}

test.each<[string, number[], string[]]>([
  ["few: at once", [1, 2, 0], ["1", "3,2,1", "3,2,1"]],
  ["as many as are read", [3, 3], ["3,2,1", "6,5,4,3,2,1"]],
  ["more: the first at once, then every third beat, spread over all three", [6, 6, 6, 6], ["thin 6,4,2", "thin 6,4,2", "thin 6,4,2", "thin 24,18,12,6,4,2"]],
  ["fewer again: what waited comes with them", [6, 2, 1, 1], ["thin 6,4,2", "8,7,6,4,2", "9,8,7,6,4,2", "10,9,8,7,6,4"]],
  ["quiet again: what waited is not forgotten", [6, 4, 0, 0, 0], ["thin 6,4,2", "thin 6,4,2", "thin 6,4,2", "thin 10,9,8,6,4,2", "10,9,8,6,4,2"]],
])("a live tail: %s", (_, beats, wanted) => expect(shown(beats)).toEqual(wanted));
