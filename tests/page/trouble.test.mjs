// The page when things go wrong: a lost server, no token, nothing read, no store, a base path. Each test has a server of its own.

import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { closed, opened, settled, show, standIn, VIEWS } from "./support.mjs";

after(closed);

describe("when things go wrong", () => {
  test("a lost server is said, and found again after a restart", async () => {
    let own = await standIn();
    const watched = await opened(`${own.url}#/overview`, { allow: [/Failed to load resource|ERR_CONNECTION_REFUSED|ERR_INCOMPLETE|net::/] });
    try {
      await settled(watched.page);
      await watched.page.locator(".connection", { hasText: "Live" }).waitFor();
      await own.stop();
      await watched.page.getByRole("alert").getByText("Connection lost.").waitFor();
      assert.ok((await watched.page.locator("canvas").count()) === 6, "what was known stays");
      await watched.page.waitForTimeout(2500);
      own = await standIn("--port", String(own.port));
      await watched.page.locator(".connection", { hasText: "Live" }).waitFor();
      assert.equal(await watched.page.getByText("Connection lost.").count(), 0);
      watched.calm();
    } finally {
      await watched.close();
      await own.stop();
    }
  });

  test("a host whose question failed is not shown with the figures of another", async () => {
    const own = await standIn();
    const watched = await opened(`${own.url}#/overview`, { allow: [/503/] });
    try {
      const { page } = watched;
      await settled(page);
      const chart = page.locator('[aria-label^="Requests per second. "]');
      // Waits for it, should it not be there.
      const highest = async () => Number(/highest ([\d.,]+)/.exec(await chart.getAttribute("aria-label"))[1].replace(",", ""));
      assert.ok((await highest()) > 400, "all hosts");
      let failed = 0;
      const busy = { status: 503, contentType: "application/json", body: '{"error":{"code":"unavailable","message":"it takes too long"}}' };
      await page.route(/\/series\?.*host=api/, (route) => (failed++ ? route.continue() : route.fulfill(busy)));
      const next = page.waitForResponse((response) => /\/series\?.*host=api/.test(response.url()) && response.ok());
      await page.getByLabel("Host").selectOption("api");
      await page.getByText("it takes too long").waitFor();
      assert.equal(await chart.count(), 0, "of another host");
      await next;
      await page.locator(".trouble").waitFor({ state: "detached" });
      assert.ok((await highest()) < 200, `${await highest()} requests per second of one host`);
      watched.calm();
    } finally {
      await watched.close();
      await own.stop();
    }
  });

  test("a token is asked for where one is needed", async () => {
    const own = await standIn("--token", "s3cret");
    const watched = await opened(`${own.url}#/traffic`, { allow: [/401/] });
    try {
      const { page } = watched;
      const dialog = page.getByRole("dialog", { name: "This page needs a token" });
      await dialog.waitFor();
      assert.doesNotMatch(await page.locator("body").innerText(), /index\.html/);
      // There was no connection that could be lost.
      await page.waitForResponse(/\/stream/);
      await page.waitForTimeout(500);
      assert.equal(await page.getByText("Connection lost").count(), 0);
      await page.locator(".connection", { hasText: "Not logged in" }).waitFor();
      // A browser closes it at the second one, whatever the page says to that.
      for (let press = 0; press < 4; press += 1) await page.keyboard.press("Escape");
      await dialog.waitFor();
      await page.getByRole("textbox", { name: "Token" }).fill("wrong");
      await page.getByRole("button", { name: "Log in" }).click();
      await page.getByText("this is not the token of this page").waitFor();
      await page.getByRole("textbox", { name: "Token" }).fill("s3cret");
      await page.getByRole("button", { name: "Log in" }).click();
      await page.getByText("/index.html").first().waitFor();
      await dialog.waitFor({ state: "detached" });
      await page.reload();
      await page.getByText("/index.html").first().waitFor();
      assert.equal(await page.evaluate(() => document.cookie), "", "scripts cannot read the cookie");
      watched.calm();
    } finally {
      await watched.close();
      await own.stop();
    }
  });

  test("another token after a restart is asked for, however long the server was away", async () => {
    let own = await standIn("--token", "s3cret");
    const watched = await opened(`${own.url}#/overview`, { allow: [/40[13]|Failed to load resource|ERR_/] });
    try {
      const { page } = watched;
      const dialog = page.getByRole("dialog", { name: "This page needs a token" });
      const enter = async (token) => {
        await page.getByRole("textbox", { name: "Token" }).fill(token);
        await page.getByRole("button", { name: "Log in" }).click();
        await dialog.waitFor({ state: "detached" });
      };
      await enter("s3cret");
      await page.locator(".connection", { hasText: "Live" }).waitFor();
      let attempts = 0;
      page.on("request", (request) => (attempts += request.url().endsWith("/stream") ? 1 : 0));
      await own.stop();
      while (attempts < 2) await page.waitForRequest(/stream/);
      own = await standIn("--token", "another", "--port", String(own.port));
      await dialog.waitFor();
      await enter("another");
      await page.locator(".connection", { hasText: "Live" }).waitFor();
      watched.calm();
    } finally {
      await watched.close();
      await own.stop();
    }
  });

  test("one page too many for the stream shows what the API answers, says why, and comes live when there is room", async () => {
    const own = await standIn("--streams", "1");
    const first = await opened(`${own.url}#/overview`);
    await first.page.locator(".connection", { hasText: "Live" }).waitFor();
    const watched = await opened(`${own.url}#/overview`, { allow: [/503/] });
    try {
      const { page } = watched;
      await page.getByText("Nothing comes live: 1 pages are open already").waitFor();
      await settled(page);
      await page.locator("canvas").nth(5).waitFor();
      assert.equal(await page.getByText("Connection lost").count(), 0);
      // Asked anew: of a later time.
      await page.waitForRequest(/\/series\?/);
      await show(page, "#/requests");
      const newest = () => page.locator("tbody tr").first().locator("time").innerText();
      const before = await newest();
      await page.waitForFunction((old) => document.querySelector("tbody tr time").textContent !== old, before);
      await first.close();
      await page.locator(".connection", { hasText: "Live" }).waitFor();
      watched.calm();
    } finally {
      await watched.close();
      await own.stop();
    }
  });

  test("what failed is said, and nothing seems to be on its way for ever", async () => {
    const own = await standIn();
    const watched = await opened(`${own.url}#/graph`, { allow: [/503/] });
    try {
      const { page } = watched;
      const busy = { status: 503, contentType: "application/json", body: '{"error":{"code":"unavailable","message":"it takes too long"}}' };
      await page.route(/\/api\/v1\/(series|tops|errors|alerts|rules|allowed|client|requests|time|dataflow)(\?|$)/, (route) => route.fulfill(busy));
      for (const view of [...VIEWS.filter((view) => view !== "graph"), "client/203.0.113.5"]) {
        await page.evaluate((to) => (location.hash = `#/${to}`), view);
        await page.locator(".trouble", { hasText: "it takes too long" }).first().waitFor();
        await settled(page);
      }
      watched.calm();
    } finally {
      await watched.close();
      await own.stop();
    }
  });

  for (const [name, args, hash, wanted] of [
    ["nothing read yet", ["--empty"], "#/overview", /No request has been read yet/],
    ["no store", ["--no-store"], "#/overview", /No store in this run\.[\s\S]*req\/s/],
    ["no requests kept", ["--no-requests"], "#/requests", /Single requests are not kept/],
    ["a client whose requests are not kept", ["--no-requests"], "#/client/203.0.113.5", /≥\s[\d.,]+[\s\S]*Single requests are not kept/],
    ["error logs alone", ["--messages"], "#/overview", /There is no request in this range, but there are messages[\s\S]*See Errors/],
    ["a sample of requests", ["--trouble"], "#/requests", /a sample: at this rate not every request is kept/],
    ["a client's requests of a sample", ["--trouble"], "#/client/203.0.113.5", /about [\d.,]+\s+\d+ kept, a sample[\s\S]*from a sample of at least one in 64/],
    ["a process whose requests are missing", ["--trouble"], "#/requests", /without process\s1: no answer/],
    ["old records", ["--trouble"], "#/overview", /Catching up: 43\s% read, 1\.20\sM\srecords left/],
    ["a sink away", ["--trouble"], "#/overview", /influx is away; 48\sMiB wait for it/],
    ["nothing comes any more", ["--age", "150000"], "#/overview", /The newest event is 2\sm\s\d+\ss old/],
    ["an old log is no empty page", ["--age", "7000000000"], "#/overview", /The newest event is 81\sd old[\s\S]*\d\sreq\/s/],
  ]) {
    test(name, async () => {
      const own = await standIn(...args);
      const watched = await opened(`${own.url}${hash}`);
      try {
        await settled(watched.page);
        assert.match(await watched.page.locator("main").innerText(), wanted);
        if (args.includes("--age")) {
          await watched.page.locator("canvas").nth(5).waitFor();
          assert.ok((await watched.page.getByRole("table", { name: "Newest alerts" }).getByRole("row").count()) > 3);
        }
        if (args.includes("--no-store")) await watched.page.locator("canvas").nth(5).waitFor();
        for (const view of VIEWS) {
          await show(watched.page, `#/${view}`);
          assert.equal(await watched.page.locator(".trouble").count(), 0, view);
        }
        watched.calm();
      } finally {
        await watched.close();
        await own.stop();
      }
    });
  }

  test("under a base path", async () => {
    const own = await standIn("--base", "/ops/tidewatch");
    const watched = await opened(own.url.replace(/\/$/, ""));
    try {
      await settled(watched.page);
      await watched.page.locator("canvas").first().waitFor();
      assert.match(watched.page.url(), /\/ops\/tidewatch\/$/);
      watched.calm();
    } finally {
      await watched.close();
      await own.stop();
    }
  });
});
