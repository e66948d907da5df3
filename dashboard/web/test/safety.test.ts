// Rules that a reader of one file cannot see broken in another.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

const root = join(import.meta.dirname, "../src");
const files = readdirSync(root, { recursive: true, encoding: "utf8" }).filter((name) => /\.tsx?$/.test(name));
const source = (name: string) => readFileSync(join(root, name), "utf8");

test("text never becomes markup or code", () => {
  const forbidden = /innerHTML|outerHTML|insertAdjacentHTML|document\.write|dangerouslySetInnerHTML|\beval\(|new Function|srcdoc|DOMParser|createContextualFragment/;
  expect(files.length).toBeGreaterThan(10);
  for (const name of files) expect(source(name).match(forbidden)?.[0], name).toBeUndefined();
});

test("no request leaves for another host, and every address is relative", () => {
  for (const name of files) expect(source(name).match(/["'`](https?:)?\/\/[^"'`]|fetch\(["'`]\/|["'`]\/api\//)?.[0], name).toBeUndefined();
});

test("markup has no style or script of its own", () => {
  const page = readFileSync(join(root, "../index.html"), "utf8");
  expect(page.match(/<style|style=|<script(?![^>]*\bsrc=)|\son[a-z]+=/)?.[0]).toBeUndefined();
  for (const name of files) expect(source(name).match(/style="|setAttribute\("style"/)?.[0], name).toBeUndefined();
});
