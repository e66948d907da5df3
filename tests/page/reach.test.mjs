// The page in a real browser, against the stand-in of its server: that what there is can be reached. Times, links, logs with
// little in them, and what is kept before anything was read.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { closed, opened, settled, show, standIn } from "./support.mjs";

let server;
before(async () => (server = await standIn()));
after(async () => {
  await closed();
  await server?.stop();
});

/** Runs `check` on a fresh page and finds nothing to complain about. */
async function on(hash, check, url = server.url) {
  const watched = await opened(`${url}${hash}`);
  try {
    await settled(watched.page);
    await check(watched.page, watched);
    watched.calm();
  } finally {
    await watched.close();
  }
}

test("a stretch of time is chosen by its ends, without a mouse", () =>
  on("#/traffic", async (page) => {
    const range = page.getByRole("combobox", { name: "Time range" });
    await range.selectOption("From … to …");
    const dialog = page.getByRole("dialog", { name: "Time range" });
    assert.equal(await range.inputValue(), "900000", "still what is shown");
    const [from, to] = [dialog.getByLabel("From"), dialog.getByLabel("To")];
    const newest = Date.parse(`${await to.inputValue()}Z`);
    assert.equal(newest - Date.parse(`${await from.inputValue()}Z`), 900_000);
    const field = (ms) => new Date(ms).toISOString().slice(0, 19);
    await from.fill(field(newest + 60_000));
    await page.keyboard.press("Enter");
    await dialog.getByText("It ends before it begins.").waitFor();
    await from.fill(field(newest - 7_200_000));
    await to.fill(field(newest - 3_600_000));
    await page.keyboard.press("Enter");
    await dialog.waitFor({ state: "detached" });
    const params = new URLSearchParams(new URL(page.url()).hash.split("?")[1]);
    assert.deepEqual([params.get("from"), params.get("to")].map(Number), [newest - 7_200_000, newest - 3_600_000]);
    assert.equal(await range.inputValue(), "fixed");
    await page.getByRole("button", { name: "Go live" }).waitFor();
    await settled(page);
    await page.getByText("/index.html").first().waitFor();
  }));

test("an agent and a referrer lead to their requests, and a link opens where the browser is told to", () =>
  on("#/traffic", async (page) => {
    const requests = page.getByRole("table", { name: "Requests, newest first" });
    for (const [table, name] of [["User agents", "curl/8.5.0"], ["Referrers", "https://news.example.com/item?id=41"]]) {
      await show(page, "#/traffic");
      const link = page.getByRole("table", { name: table }).getByRole("link", { name });
      const [other] = await Promise.all([page.context().waitForEvent("page"), link.click({ modifiers: ["Control"] })]);
      await other.waitForURL(/#\/requests\?.*text=/);
      await other.close();
      assert.match(page.url(), /#\/traffic/, "this page stays");
      await link.click();
      await page.getByRole("heading", { level: 1, name: "Requests" }).waitFor();
      await settled(page);
      assert.equal(await page.getByRole("searchbox", { name: "Text" }).inputValue(), name);
      await requests.getByRole("button", { name: /^Details of/ }).first().click();
      await requests.getByText(name, { exact: true }).first().waitFor();
    }
  }));

test("windows that stand alone are drawn", async () => {
  const own = await standIn("--sparse");
  /** Axes and labels are grey; what is drawn of values is not. */
  const all = () => {
    const coloured = (canvas) => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      for (let at = 0; at < data.length; at += 4) {
        if (data[at + 3] > 200 && Math.max(data[at], data[at + 1], data[at + 2]) - Math.min(data[at], data[at + 1], data[at + 2]) > 60) return true;
      }
      return false;
    };
    return [...document.querySelectorAll(".drawing canvas")].filter(coloured).length === 6;
  };
  try {
    await on("#/overview?range=24h", (page) => page.waitForFunction(all), own.url);
  } finally {
    await own.stop();
  }
});

test("started over old data, and nothing read since", async () => {
  const own = await standIn("--age", "7000000000", "--resting");
  try {
    await on(
      "#/overview",
      async (page) => {
        await page.locator("canvas").nth(5).waitFor();
        assert.match(await page.locator("main").innerText(), /\d\sreq\/s[\s\S]*Events processed\s0\s/);
        await show(page, "#/requests");
        await page.getByRole("button", { name: /^Details of/ }).first().waitFor();
      },
      own.url,
    );
  } finally {
    await own.stop();
  }
});
