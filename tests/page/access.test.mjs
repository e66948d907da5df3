// The page by keyboard, for a screen reader, and in either set of colours.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { describe, test } from "node:test";
import { on } from "./stand_in.mjs";
import { PHONE, settled, show, VIEWS } from "./support.mjs";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

describe("keyboard and screen reader", () => {
  test("the first stop skips to the content; views, alerts and dialogs work without a mouse", () =>
    on("#/overview", async (page) => {
      const focused = () => page.evaluate(() => (document.activeElement?.textContent || document.activeElement?.id || "").trim().slice(0, 40));
      await page.keyboard.press("Tab");
      assert.equal(await focused(), "Skip to content");
      await page.keyboard.press("Enter");
      assert.equal(await page.evaluate(() => document.activeElement.id), "main");
      await page.getByRole("link", { name: /^Security/ }).focus();
      await page.keyboard.press("Enter");
      await page.waitForFunction(() => document.activeElement?.tagName === "H1" && document.activeElement.textContent === "Security");
      await settled(page);
      // This one: another may come above it meanwhile.
      const opener = await page.getByRole("button", { name: /^Evidence of/ }).first().elementHandle();
      await opener.focus();
      await page.keyboard.press("Enter");
      await page.waitForFunction((button) => button.ariaExpanded === "true", opener);
      const silence = page.getByRole("button", { name: "Silence…" });
      await silence.focus();
      await page.keyboard.press("Enter");
      await page.getByRole("dialog").waitFor();
      for (let press = 0; press < 12; press += 1) {
        await page.keyboard.press("Tab");
        assert.ok(await page.evaluate(() => document.activeElement === document.body || document.querySelector("dialog").contains(document.activeElement)), "focus left the dialog");
      }
      await page.keyboard.press("Escape");
      await page.getByRole("dialog").waitFor({ state: "detached" });
      assert.equal(await focused(), "Silence…");
    }));

  test("a closed dialog gives the focus back at once, though alerts arrived meanwhile", () =>
    on("#/security", async (page) => {
      await page.addInitScript(() => {
        globalThis.EventSource = class extends EventSource {
          constructor(...rest) {
            super(...rest);
            globalThis.source = this;
          }
        };
      });
      await page.reload();
      await settled(page);
      await page.getByRole("button", { name: /^Evidence of/ }).first().press("Enter");
      const silence = await page.getByRole("button", { name: "Silence…" }).elementHandle();
      await silence.press("Enter");
      await page.getByRole("dialog").waitFor();
      await page.evaluate(async () => {
        const [alert] = (await (await fetch("api/v1/alerts?limit=1")).json()).rows;
        source.dispatchEvent(new MessageEvent("alert", { data: JSON.stringify({ ...alert, id: "afresh", rule: "newest", fired: alert.fired + 1 }) }));
        // Before the browser paints, so before anybody can press a key.
        globalThis.focused = new Promise((tell) => new MutationObserver(() => document.querySelector("dialog") ?? tell(document.activeElement)).observe(document.body, { childList: true, subtree: true }));
      });
      await page.getByRole("table", { name: "Alerts", exact: true }).locator("tbody tr").first().getByText("newest").waitFor();
      await page.keyboard.press("Escape");
      assert.ok(await silence.evaluate(async (button) => (await globalThis.focused) === button), "the focus is elsewhere");
      await silence.press("Enter");
      await page.getByRole("dialog").waitFor();
      await silence.evaluate((button) => button.remove());
      await page.keyboard.press("Escape");
      await page.getByRole("dialog").waitFor({ state: "detached" });
      assert.equal(await page.evaluate(() => document.activeElement.id), "main", "what had the focus is gone");
    }));

  test("charts say what they show, and show it as a table", () =>
    on("#/overview", async (page) => {
      assert.match(await page.getByRole("img", { name: /^Latency/ }).getAttribute("aria-label"), /p95: now [\d.,]+.ms, lowest .+, highest/);
      await page.getByRole("button", { name: "Latency as table" }).click();
      const rows = page.getByRole("region", { name: "Latency, values" }).getByRole("row");
      assert.ok((await rows.count()) > 80);
      assert.match(await rows.nth(1).innerText(), /\d\d:\d\d:\d\d\s+[\d.,]+.ms/);
    }));

  for (const [name, options] of [["light", {}], ["dark", { colorScheme: "dark" }], ["phone", { viewport: PHONE }]]) {
    test(`axe finds nothing, ${name}`, () =>
      on("#/overview", async (page) => {
        await page.evaluate(axe);
        for (const view of [...VIEWS, "client/203.0.113.5"]) {
          await show(page, `#/${view}`);
          await page.waitForTimeout(300);
          if (view === "security") await page.getByRole("button", { name: /^Evidence of/ }).first().click();
          const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
          assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(" | ")}`), [], view);
        }
      }, options));
  }

  test("colours follow the system, or the choice", () =>
    on("#/overview", async (page) => {
      const shown = () => page.evaluate(() => document.documentElement.dataset.theme);
      assert.equal(await shown(), "dark");
      await page.getByRole("button", { name: /^Colours/ }).click();
      assert.equal(await shown(), "light");
      await page.reload();
      assert.equal(await shown(), "light");
    }, { colorScheme: "dark" }));
});
