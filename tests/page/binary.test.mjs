// The page of the real binary (TIDEWATCH_BIN): it shows what goes on in it, and log text written by attackers stays text.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { closed, freePort, launched, opened, PHONE, settled, show, started, VIEWS } from "./support.mjs";

const binary = process.env.TIDEWATCH_BIN;
const skip = binary ? false : "TIDEWATCH_BIN names no binary";
if (skip) console.log(`SKIPPED: ${skip}`);
after(closed);

/** A directory that is gone afterwards. */
async function within(use) {
  const dir = mkdtempSync(join(tmpdir(), "tidewatch-page."));
  try {
    return await use(dir);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

const PATH = "/<script>alert(1)</script>/%3Cimg%20src=x%20onerror=alert(1)%3E";
const AGENT = "<img src=x onerror=alert(1)> \u202egnp";
const REFERRER = "javascript:alert(document.domain)//<svg/onload=alert(1)>";

/** Sends lines of a hostile client ten times a second, more than `ip-spike` lets pass, over a connection that is made again. */
function attack(port) {
  let socket = null;
  const connect = () => {
    socket = createConnection(port, "127.0.0.1");
    socket.on("error", () => {});
    socket.on("close", () => (socket = null));
  };
  const timer = setInterval(() => {
    if (!socket) return connect();
    const time = new Date().toUTCString().replace(/^\w+, (\d+) (\w+) (\d+) ([\d:]+) GMT$/, "$1/$2/$3:$4 +0000");
    const line = `203.0.113.5 - - [${time}] "GET ${PATH} HTTP/1.1" 404 153 "${REFERRER}" "${AGENT}"\n`;
    socket.write(line.repeat(20));
  }, 100);
  return () => (clearInterval(timer), socket?.destroy());
}

/** A running pipeline with a TCP source; `start` starts it again. */
async function pipeline(dir, page = "") {
  const [source, port] = [await freePort(), await freePort()];
  const config = join(dir, "tidewatch.toml");
  writeFileSync(config, `data_dir = ${JSON.stringify(join(dir, "data"))}\n[[source]]\nkind = "tcp"\nlisten = "127.0.0.1:${source}"\nformat = "combined"\nhost = "web"\n[page]\nlisten = "127.0.0.1:${port}"\n${page}`);
  const start = () => started(binary, ["run", "-c", config], { cwd: dir, pattern: /the page is open.*?url="?(https?:\/\/[^"\s]+)/ });
  return { source, start };
}

describe("the binary's page", { skip }, () => {
  test("demo: traffic soon, attacks as they are found, every view", { timeout: 600_000 }, () =>
    within(async (dir) => {
      await launched();
      const begun = Date.now();
      const demo = await started(binary, ["demo", "--port", "0", "--duration", "15m"], { cwd: dir, pattern: /the page is at (http\S+)/ });
      const watched = await opened(`${demo.url}#/overview`);
      const { page } = watched;
      try {
        // All of it, not the part of a window that has only begun.
        await page.waitForFunction(() => [...document.querySelectorAll(".tile")].some((tile) => /Requests/.test(tile.textContent) && /[4-7]\d\d(\.\d+)?\sreq\/s/.test(tile.textContent)), null, { timeout: 60_000 });
        const seconds = (Date.now() - begun) / 1000;
        console.log(`page: traffic is shown ${seconds.toFixed(1)} s after the start of demo`);
        // Less than ten on a machine that does nothing else.
        assert.ok(seconds < 30, `${seconds} s`);
        await page.locator('[aria-label="Newest alerts"] a.client').first().waitFor({ timeout: 120_000 });
        await page.locator("canvas").nth(5).waitFor();
        for (const view of VIEWS) {
          await show(page, `#/${view}`);
          assert.equal(await page.locator(".trouble").count(), 0, view);
        }
        // About one request of twenty-five, whose agents are none of the tops.
        await show(page, "#/traffic");
        const bots = await page.getByText(/^bots: [\d.]+\s% of all requests/).innerText();
        assert.ok(Number(/[\d.]+/.exec(bots)[0]) > 0.5, bots);
        await show(page, "#/security");
        assert.ok((await page.getByRole("table", { name: "Rules" }).getByRole("row").count()) > 6);
        await show(page, "#/errors");
        await page.getByRole("table", { name: "Messages" }).getByText("upstream timed out").first().waitFor();
        await show(page, "#/time");
        assert.ok((await page.getByRole("table", { name: "Partitions" }).locator("tbody tr").count()) >= 3);
        await show(page, "#/dataflow");
        await page.getByRole("table", { name: "Operators" }).locator("tbody tr").nth(3).waitFor();
        await page.setViewportSize(PHONE);
        for (const view of VIEWS) {
          await show(page, `#/${view}`);
          assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${view} is too wide for a phone`);
        }
        watched.calm();
      } finally {
        await watched.close();
        await demo.stop();
      }
    }));

  test("run: hostile lines stay text; a restart is survived", { timeout: 600_000 }, () =>
    within(async (dir) => {
      const { source, start } = await pipeline(dir);
      let run = await start();
      const stop = attack(source);
      const watched = await opened(`${run.url}#/security`, { allow: [/net::|Failed to load resource/] });
      const { page } = watched;
      try {
        const clean = async (where) => {
          const found = await page.evaluate(() => [...document.querySelectorAll("main img, main svg[onload], main script, main [onerror], main a[href^='javascript:']")].map((element) => element.outerHTML));
          assert.deepEqual(found, [], where);
        };
        const opener = page.getByRole("button", { name: /^Evidence of ip-spike/ }).first();
        await opener.waitFor();
        await opener.click();
        // Evidence is read again from the source where it can be; of a connection it comes with the alert, if at all.
        const evidence = await page.locator("tr.detail").innerText();
        if (/GET/.test(evidence)) assert.ok(evidence.includes("<script>alert(1)</script>"), evidence);
        await clean("security");
        const { history } = await page.evaluate(() => fetch("api/v1/status").then((answer) => answer.json()));
        for (const view of ["overview", "traffic", "requests", "errors", "time"]) {
          await show(page, `#/${view}`);
          if (history && view === "traffic") {
            await page.getByText("<script>alert(1)</script>").first().waitFor();
            const main = page.locator("main");
            await main.getByText("<img src=x onerror=alert(1)>").first().waitFor();
            await main.getByText("javascript:alert(document.domain)").first().waitFor();
            assert.ok(!(await main.innerText()).includes("\u202e"), "text is not turned round");
          }
          await clean(view);
        }
        await show(page, "#/overview");
        await run.stop();
        await page.getByRole("alert").getByText("Connection lost.").waitFor();
        run = await start();
        await page.locator(".connection", { hasText: "Live" }).waitFor();
        watched.calm();
      } finally {
        stop();
        await watched.close();
        await run.stop();
      }
    }));

  test("a token is needed where one is configured, also under a base path", { timeout: 600_000 }, () =>
    within(async (dir) => {
      const { start } = await pipeline(dir, 'token = "s3cret-and-long"\nbase_path = "/logs/"\n');
      const run = await start();
      const address = new URL("/logs", run.url).href;
      const watched = await opened(address, { allow: [/401/] });
      const { page } = watched;
      try {
        await page.getByRole("textbox", { name: "Token" }).fill("wrong");
        await page.getByRole("button", { name: "Log in" }).click();
        await page.getByText("this is not the token of this page").waitFor();
        await page.getByRole("textbox", { name: "Token" }).fill("s3cret-and-long");
        await page.getByRole("button", { name: "Log in" }).click();
        await page.locator(".connection", { hasText: "Live" }).waitFor();
        await settled(page);
        assert.equal(await page.evaluate(() => document.cookie), "");
        watched.calm();
      } finally {
        await watched.close();
        await run.stop();
      }
    }));
});
