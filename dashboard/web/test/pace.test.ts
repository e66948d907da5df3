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
  ["nothing was drawn yet", pace(), 300, 300],
  ["the picture moves seldom: what drawing costs does not matter", pace([3]), 4500, 4500],
  ["six charts of 3 ms, a young log", pace([3], [3], [3], [3], [3], [3]), 300, 3600],
  ["one chart", pace([3]), 300, 600],
  ["the least counts: the machine was busy", pace([3, 40, 90]), 300, 600],
  ["what was quick once is forgotten", pace([1, 3, 3, 3, 3, 3, 3]), 300, 600],
  ["a slow machine", pace([900]), 300, 5000],
  ["a long range", pace([1]), 60_000, 5000],
  ["a clock that went back", pace([-5]), 300, 300],
])("how long a drawing waits: %s", (_, made, moves, wanted) => expect(made.interval(moves)).toBeCloseTo(wanted, 6));

test("what left the screen takes no share", () => {
  const made = new Pace();
  const [one, other] = [{}, {}];
  made.drew(one, 6);
  made.drew(other, 3);
  made.gone(one);
  expect(made.interval(0)).toBeCloseTo(600, 6);
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
