// The page in use: numbers that move, addresses that are kept, filters and alerts.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { address, on } from "./stand_in.mjs";
import { opened, settled, show } from "./support.mjs";

describe("live", () => {
  test("numbers move by themselves, hold still when paused, and catch up", () =>
    on("#/overview", async (page) => {
      const events = () => page.locator(".tile", { hasText: "Events processed" }).locator(".tile-value").getAttribute("title").catch(() => null).then(() => page.locator(".tile", { hasText: "Events processed" }).getAttribute("title"));
      const first = await events();
      await page.waitForFunction((old) => [...document.querySelectorAll(".tile")].some((tile) => tile.textContent.includes("Events processed") && tile.title !== old), first);
      await page.getByRole("button", { name: "Pause" }).click();
      assert.match(page.url(), /paused=\d{13}/);
      const chart = () => page.getByRole("img", { name: /^Requests per second/ }).getAttribute("aria-label");
      // What was known when it was paused is asked once more. Live, it is another each second.
      let held = null;
      for (let now = await chart(); now !== held; now = await chart()) {
        held = now;
        await page.waitForTimeout(3000);
      }
      await page.getByRole("button", { name: "Go live" }).click();
      await page.waitForFunction((old) => document.querySelector('[aria-label^="Requests per second"]')?.ariaLabel !== old, held);
    }));

  test("one end for all views while paused, also where a link does not say which; none once it follows again", () =>
    on("#/overview", async (page) => {
      const end = (request) => Number(new URL(request.url()).searchParams.get("to"));
      const asked = (what) => page.waitForRequest((request) => request.url().includes(`/${what}?`), { timeout: 60_000 });
      const traffic = page.getByRole("link", { name: "Traffic" });
      await traffic.click();
      await settled(page);
      await page.getByRole("button", { name: "Pause" }).click();
      const held = Number(new URLSearchParams(page.url().split("?")[1]).get("paused"));
      assert.ok(held > 1e12, page.url());
      // Live, it ends where the stream last said that the newest data is; on a busy machine that comes late.
      for (let tries = 0; ; tries++) {
        await page.waitForTimeout(1500);
        const [onward] = await Promise.all([asked("series"), page.goBack()]);
        if (end(onward) > held + 1000) break;
        assert.ok(tries < 10, "the view before was live, and is");
        await page.goForward();
      }
      await page.evaluate(() => (location.hash = "#/overview?paused=1"));
      await page.waitForURL(/paused=\d{13}/);
      await page.waitForTimeout(1500);
      const [tops] = await Promise.all([asked("tops"), traffic.click()]);
      assert.equal(end(tops), Number(new URLSearchParams(page.url().split("?")[1]).get("paused")) + 1);
      // From a stretch that stands back to what comes, though it was paused before.
      await page.evaluate(() => (location.hash = "#/traffic?from=1000&to=2000"));
      await page.locator("option", { hasText: "1970" }).waitFor({ state: "attached" });
      await Promise.all([page.waitForRequest((request) => /tops/.test(request.url()) && end(request) > end(tops) + 1000), page.getByLabel("Time range").selectOption({ label: "Last 5 minutes" })]);
      await page.locator(".connection", { hasText: "Live" }).waitFor();
    }));

  test("each number says of what time it is, and of which host", () =>
    on("#/overview", async (page) => {
      await page.locator("canvas").first().waitFor();
      const plain = (texts) => texts.map((text) => text.replaceAll("\u00a0", " ").trim());
      const notes = async (name) => plain(await page.locator(".tile", { hasText: name }).locator(".tile-note").allInnerTexts());
      assert.deepEqual(await notes("Distinct clients"), ["last 10 s", "busiest host"]);
      assert.deepEqual(await notes("Latency p95"), ["last 10 s", "slowest host"]);
      assert.deepEqual((await notes("Error share"))[0], "in range");
      assert.deepEqual((await notes("Anomaly rate"))[0], "since start");
      const spans = plain(await page.locator(".tile-value + .tile-note").allInnerTexts());
      assert.ok(spans.length === 8 && spans.every((span) => span), spans.join());
      await page.getByRole("img", { name: /^Latency/ }).waitFor();
      assert.match(await page.locator(".card", { has: page.getByRole("img", { name: /^Latency/ }) }).innerText(), /max[\s\S]*p99[\s\S]*p95[\s\S]*avg/);
    }).then(() =>
      on("#/overview?host=web1", async (page) => {
        await page.locator("canvas").first().waitFor();
        assert.equal(await page.locator(".tile", { hasText: "busiest host" }).count(), 0, "one host is no several");
        for (const name of ["Events processed", "Anomaly rate"]) await page.locator(".tile", { hasText: name }).getByText("since start, all hosts").waitFor();
        const critical = page.locator(".tile", { hasText: "Critical alerts" });
        await critical.getByText("of this host").waitFor();
        const { rows } = await page.evaluate(() => fetch("api/v1/alerts?state=firing&host=web1").then((answer) => answer.json()));
        const live = rows.filter(({ mode }) => mode !== "shadow");
        await critical.getByText(`of ${live.length} firing now`).waitFor();
      })));

  test("requests arrive at the top", () =>
    on("#/requests", async (page) => {
      const newest = () => page.locator("tbody tr").first().locator("time").innerText();
      const first = await newest();
      await page.waitForFunction((old) => document.querySelector("tbody tr time").textContent !== old, first);
    }));

  test("a row keeps the focus while others arrive above it", () =>
    on("#/requests", async (page) => {
      const held = await page.locator("tbody tr.opens button").first().elementHandle();
      await held.focus();
      const first = await page.locator("tbody tr").first().elementHandle();
      await page.waitForFunction((row) => row !== document.querySelector("tbody tr"), first);
      await page.waitForTimeout(1500);
      assert.ok(await held.evaluate((button) => document.activeElement === button), "the focus was lost");
    }));

  test("an alert that fires is listed and said without asking again", () =>
    on("#/overview", async (page) => {
      // What is more severe and still fires stays above it.
      const newest = (old) => {
        const times = [...document.querySelectorAll('[aria-label="Newest alerts"] tbody time')].map((time) => time.dateTime).sort();
        return old === undefined ? times.at(-1) : times.at(-1) > old;
      };
      await page.waitForFunction(newest, await page.evaluate(newest));
    }));

  test("a critical alert that fires is counted and listed first, whenever it fired", () =>
    on("#/overview", async (page) => {
      await page.route(/api\/v1\/rules$/, async (route) => {
        const { rows } = await (await route.fetch()).json();
        await route.fulfill({ json: { rows: rows.map((rule) => ({ ...rule, firing: rule.severity === "critical" ? 1 : rule.firing })) } });
      });
      await page.route(/api\/v1\/alerts\?.*severity=critical/, async (route) => {
        const alert = { id: "earlier", key: "k", rule: "earlier-run", severity: "critical", host: "*", subject: { client_ip: "192.0.2.77" }, first: 1000, last: 2000, fired: 2000, value: 2, threshold: 1, score: 0.7, findings: 1, state: "firing", evidence: [], mode: "live", replaces: null };
        await route.fulfill({ json: { rows: [alert], truncated: false, next: null } });
      });
      await page.reload();
      await settled(page);
      const tile = page.locator(".tile", { hasText: "Critical alerts" });
      await tile.locator(".tile-value", { hasText: /^1$/ }).waitFor();
      const notes = (await tile.locator(".tile-note").allInnerTexts()).map((text) => text.replaceAll("\u00a0", " "));
      assert.match(notes[0], /^of \d+ firing now$/);
      assert.equal(notes[1], "38 since start");
      const rows = page.getByRole("table", { name: "Newest alerts" }).locator("tbody tr");
      await rows.filter({ hasText: "earlier-run" }).waitFor();
      // Newer ones that are critical and fire may stand above it.
      const texts = await rows.allInnerTexts();
      const above = texts.slice(0, texts.findIndex((text) => text.includes("earlier-run")));
      assert.ok(above.every((text) => /critical/i.test(text)), above.join("; "));
      const times = (await rows.locator("time").evaluateAll((all) => all.map((time) => time.dateTime))).slice(1);
      assert.ok(times.length > 3, `${times.length} others`);
    }));

  test("legends say what the tiles do, through the whole of a window", () =>
    on("#/overview", async (page) => {
      await page.locator("canvas").first().waitFor();
      const said = () => page.evaluate(() => {
        const tile = (name) => [...document.querySelectorAll(".tile")].find((tile) => tile.querySelector("dt").textContent === name).querySelector(".tile-value").textContent;
        const legend = (name) => [...document.querySelectorAll("figure")].find((figure) => figure.querySelector("h2").textContent === name).querySelector(".legend b").textContent;
        return [["Requests", "Requests per second"], ["Distinct clients", "Distinct clients"]].map(([a, b]) => [tile(a), legend(b)]);
      });
      const seen = new Set();
      for (let second = 0; second < 14; second += 1) {
        const pairs = await said();
        for (const [tile, legend] of pairs) assert.equal(legend, tile);
        seen.add(pairs[0][0]);
        await page.waitForTimeout(1000);
      }
      // A window takes ten seconds.
      assert.ok(seen.size <= 3, [...seen].join());
    }));

  test("a hidden page lets go of the stream and comes back", () =>
    on("#/overview", async (page) => {
      const hide = (hidden) => page.evaluate((value) => (Object.defineProperty(document, "hidden", { value, configurable: true }), document.dispatchEvent(new Event("visibilitychange"))), hidden);
      await hide(true);
      await page.locator(".connection", { hasText: "Resting" }).waitFor();
      await hide(false);
      await page.locator(".connection", { hasText: "Live" }).waitFor();
    }));
});

describe("the address", () => {
  test("says so where nothing came from the host it names", () =>
    on("#/overview?host=web-eins", async (page) => {
      const notice = page.locator(".warning", { hasText: "Nothing came from a host web-eins" });
      await notice.waitFor();
      assert.equal(await page.getByText("These logs carry no durations").count(), 0);
      await notice.getByRole("button", { name: "All hosts" }).click();
      await notice.waitFor({ state: "detached" });
      assert.doesNotMatch(await page.evaluate(() => location.hash), /host=/);
    }));

  test("holds view, host, range and filters, and gives them back", () =>
    // A day: within an hour the stand-in may have no such alert.
    on("#/security?host=web1&range=24h&severity=high", async (page) => {
      assert.equal(await page.getByLabel("Host").inputValue(), "web1");
      assert.equal(await page.getByLabel("Severity").inputValue(), "high");
      const severities = await page.locator('[aria-label="Alerts"] tbody .badge[class*="severity-"]').allInnerTexts();
      assert.ok(severities.length > 0 && severities.every((text) => text === "high"), severities.join());
      await page.getByLabel("Severity").selectOption("critical");
      await page.getByLabel("Time range").selectOption({ label: "Last 6 hours" });
      await page.getByLabel("Host").selectOption("");
      assert.equal(new URL(page.url()).hash, "#/security?range=6h&severity=critical");
      await page.reload();
      await settled(page);
      assert.equal(await page.getByLabel("Severity").inputValue(), "critical");
      assert.equal(await page.getByLabel("Time range").locator("option:checked").innerText(), "Last 6 hours");
    }));

  test("back goes to the view before", () =>
    on("#/overview", async (page) => {
      await page.getByRole("link", { name: "Traffic" }).click();
      await page.getByRole("link", { name: "203.0.113.5" }).first().click();
      const heading = (name) => page.getByRole("heading", { level: 1, name }).waitFor();
      await heading(/Client 203/);
      await page.goBack();
      await heading("Traffic");
      await page.goBack();
      await heading("Overview");
    }));

  test("dragging over a chart chooses a stretch of time", () =>
    on("#/overview", async (page) => {
      await page.locator("canvas").first().waitFor();
      // Before it is drawn there is no time to choose from.
      const canvas = await page.locator(".drawing canvas").first().elementHandle();
      await page.waitForFunction((of) => of.getContext("2d").getImageData(0, 0, of.width, of.height).data.some((value) => value !== 0), canvas);
      const box = await page.locator(".drawing").first().boundingBox();
      await page.mouse.move(box.x + box.width * 0.4, box.y + 60);
      await page.mouse.down();
      await page.mouse.move(box.x + box.width * 0.6, box.y + 60, { steps: 5 });
      await page.mouse.up();
      await page.waitForURL(/from=/);
      const params = new URLSearchParams(new URL(page.url()).hash.split("?")[1]);
      const length = Number(params.get("to")) - Number(params.get("from"));
      assert.ok(length > 120_000 && length < 240_000, `${length} ms of 15 minutes`);
      await page.getByRole("button", { name: "Go live" }).waitFor();
    }));
});

describe("filters", () => {
  test("of requests: status, class, path, client, text", () =>
    on("#/requests", async (page) => {
      const rows = () => page.locator("tbody tr:not(.detail)");
      const filtered = async (label, value, check) => {
        await page.getByLabel(label, { exact: true }).fill(value);
        // The rows of the question before stand there until those of this one have come.
        const all = ({ source, flags }) => {
          const texts = [...document.querySelectorAll("tbody tr:not(.detail)")].map((row) => row.innerText);
          return texts.length > 0 && texts.slice(0, 40).every((text) => new RegExp(source, flags).test(text));
        };
        await page.waitForFunction(all, { source: check.source, flags: check.flags });
        await settled(page);
        assert.ok((await rows().count()) > 0, `${label} ${value}`);
        for (const text of (await rows().allInnerTexts()).slice(0, 40)) assert.match(text, check, label);
        await page.getByRole("button", { name: "Clear" }).click();
      };
      await filtered("Status", "404", /\b404\b/);
      await filtered("Status", "5xx", /\b5\d\d\b/);
      await filtered("Path", "login", /login/);
      await filtered("Client", "203.0.113.5", /203\.0\.113\.5/);
      await page.getByLabel("Text", { exact: true }).fill("googlebot");
      await page.waitForTimeout(600);
      await settled(page);
      await rows().first().click();
      assert.match(await page.locator("tr.detail").innerText(), /Googlebot/);
      await page.getByLabel("Status", { exact: true }).fill("9xx");
      assert.equal(await page.getByLabel("Status", { exact: true }).getAttribute("aria-invalid"), "true");
      await page.getByText("A status is a number such as 404, or a class such as 5xx.").waitFor();
    }, { allow: [/status of 400/] }));

  test("a search of requests that ran out of time goes on, and older ones follow", () =>
    on("#/requests", async (page) => {
      const rows = page.locator("tbody tr:not(.detail)");
      // Live, only the newest are there; the others are a click away.
      await page.waitForFunction(() => document.querySelectorAll("tbody tr").length === 50);
      await page.getByRole("button", { name: "Older requests" }).click();
      await page.waitForFunction(() => document.querySelectorAll("tbody tr").length >= 200);
      await page.getByRole("button", { name: "Pause" }).click();
      await page.waitForFunction(() => document.querySelectorAll("tbody tr").length === 200);
      await page.getByRole("button", { name: "Older requests" }).click();
      await page.waitForFunction(() => document.querySelectorAll("tbody tr").length === 400);
      const asked = [];
      await page.route(/api\/v1\/requests\?.*path=rare/, async (route) => {
        const before = new URL(route.request().url()).searchParams.get("before");
        asked.push(before);
        const row = { time: 1_000_000, host: "web1", client: "192.0.2.1", method: "GET", path: "/rare", query: null, status: 200, bytes: 1, latency_ms: null, agent: "", referrer: "" };
        await route.fulfill({ json: { sampled: false, from: 0, ...(before ? { rows: [row], truncated: false, next: null } : { rows: [], truncated: true, next: "2000000.0" }) } });
      });
      await page.getByLabel("Path", { exact: true }).fill("rare");
      await page.getByText("Nothing found so far, back to").waitFor();
      await page.getByRole("button", { name: "Search on" }).click();
      await rows.first().getByText("/rare").waitFor();
      assert.equal(await page.getByRole("button", { name: /Older requests|Search on/ }).count(), 0, "all was searched");
      assert.equal(await rows.count(), 1);
      assert.equal(asked.at(-1), "2000000.0");
    }));

  test("of errors and operators", () =>
    on("#/errors", async (page) => {
      await page.getByLabel("Severity").selectOption("crit");
      await settled(page);
      await page.waitForFunction(() => [...document.querySelectorAll("tbody .badge")].every((badge) => badge.textContent === "crit"));
      await show(page, "#/dataflow");
      await page.getByLabel("Name").fill("rules");
      assert.equal(await page.getByRole("table", { name: "Operators" }).locator("tbody tr").count(), 2);
    }));

  test("tables sort by their heads", () =>
    on("#/traffic", async (page) => {
      const table = page.getByRole("table", { name: "Top paths" });
      await table.getByRole("button", { name: "Path" }).click();
      assert.equal(await table.getByRole("columnheader", { name: "Path" }).getAttribute("aria-sort"), "ascending");
      const names = await table.locator("tbody tr td:first-child").allInnerTexts();
      assert.deepEqual(names, [...names].sort());
    }));
});

describe("alerts", () => {
  test("open to their evidence, are acknowledged, silenced and linked to", () =>
    on("#/security", async (page) => {
      const table = page.getByRole("table", { name: "Alerts", exact: true });
      await table.locator("tbody tr").nth(2).click();
      const detail = page.locator("tr.detail");
      assert.equal(await detail.locator(".evidence li").count(), 3);
      assert.match(page.url(), /alert=a/);
      await detail.getByRole("button", { name: "Acknowledge…" }).click();
      await page.getByLabel("Note").fill("<b>known</b>, on it");
      await page.getByRole("dialog").getByRole("button", { name: "Acknowledge" }).click();
      await detail.getByText("“<b>known</b>, on it”").waitFor();
      await detail.getByRole("button", { name: "Take back" }).click();
      await detail.getByRole("button", { name: "Acknowledge…" }).waitFor();
      await detail.getByRole("button", { name: "Silence…" }).click();
      await page.getByLabel("Reason").fill("a load test");
      await page.getByRole("dialog").getByRole("button", { name: "Silence" }).click();
      const silences = page.getByRole("table", { name: "Silences" });
      await silences.getByText("a load test").waitFor();
      await silences.getByRole("button", { name: /^End/ }).click();
      await silences.getByText("a load test").waitFor({ state: "detached" });
      assert.match(await silences.innerText(), /198\.51\.100\.0\/24[\s\S]*configured/);
      assert.equal(await silences.getByRole("button", { name: /^End/ }).count(), 0, "what the configuration makes ends there");
    }));

  test("what one page says of them is on the others at once", () =>
    on("#/security", async (page) => {
      const other = await opened(`${address()}#/security`);
      try {
        await settled(other.page);
        const rows = (of) => of.getByRole("table", { name: "Alerts", exact: true }).locator("tbody tr:not(.detail)");
        const label = await rows(page).nth(3).getByRole("button", { name: /^Evidence of/ }).getAttribute("aria-label");
        // The same subject may have fired again since: what was said holds for the earlier alert.
        const there = other.page.locator("tr", { has: other.page.getByRole("button", { name: label, exact: true }) });
        await rows(page).nth(3).getByRole("button", { name: /^Evidence of/ }).click();
        await page.getByRole("button", { name: "Acknowledge…" }).click();
        await page.getByRole("dialog").getByRole("button", { name: "Acknowledge" }).click();
        await there.getByText("acknowledged").first().waitFor();
        await page.getByRole("button", { name: "Take back" }).click();
        await there.getByText("acknowledged").first().waitFor({ state: "detached" });
        await page.getByRole("button", { name: "Silence…" }).click();
        await page.getByLabel("Reason").fill("known");
        await page.getByRole("dialog").getByRole("button", { name: "Silence" }).click();
        await there.getByText("silenced").first().waitFor();
        const silences = other.page.getByRole("table", { name: "Silences" });
        await silences.getByText("known").waitFor();
        await silences.getByRole("button", { name: /^End/ }).click();
        await page.getByRole("table", { name: "Silences" }).getByText("known").waitFor({ state: "detached" });
        await there.getByText("silenced").first().waitFor({ state: "detached" });
        other.calm();
      } finally {
        await other.close();
      }
    }));

  test("counts agree: the chart has those that fired in the range, to its very end; the list says what it has beyond", () =>
    on("#/overview", async (page) => {
      await page.route(/api\/v1\/alerts\?(?!.*state=)/, async (route) => {
        const query = new URL(route.request().url()).searchParams;
        const [from, to] = [Number(query.get("from")), Number(query.get("to"))];
        const alert = (id, fired) => ({ id, key: id, rule: "made-up", severity: "high", host: "*", subject: { client_ip: "192.0.2.77" }, first: fired, last: to - 1, fired, value: 2, threshold: 1, score: 0.7, findings: 1, state: "firing", evidence: [], mode: "live", replaces: null });
        await route.fulfill({ json: { rows: [alert("newest", to + 700), alert("middle", to - 60_000), alert("earlier", from - 1)], truncated: false, next: null } });
      });
      await show(page, "#/security?range=5m&rule=made-up");
      const chart = page.locator("figure", { hasText: "Alerts over time" });
      await chart.getByText("without 1 that fired earlier").waitFor();
      await page.getByRole("region", { name: "Alerts", exact: true }).getByText("3, with 1 that fired earlier and went on in this range").waitFor();
      assert.equal(await chart.locator(".legend b").allInnerTexts().then((texts) => texts.join()), "2");
    }));

  test("values stand in the unit of what their rule measures", () =>
    on("#/security?rule=error-surge&range=24h", async (page) => {
      const first = page.getByRole("table", { name: "Alerts", exact: true }).locator("tbody tr").first();
      await first.getByText(/^≥ 5\s%$/).waitFor();
      assert.match(await first.innerText(), /[\d.]+\s% ≥ 5\s%/);
      assert.match(await page.getByRole("table", { name: "Rules" }).innerText(), /slow-pages[\s\S]*≥ 1,500\sms/);
    }));

  test("allow lists say what they let pass, and what that kept back", () =>
    on("#/security", async (page) => {
      const card = page.locator(".card", { has: page.getByRole("table", { name: "Allow lists" }) });
      await card.getByText("findings prevented: 7 of ip-spike").waitFor();
      const rows = card.locator("tbody tr");
      assert.match(await rows.nth(0).innerText(), /192\.0\.2\.0\/24[\s\S]*every rule[\s\S]*our own monitoring[\s\S]*for ever[\s\S]*48,210/);
      assert.match(await rows.nth(1).innerText(), /\/health[\s\S]*ip-spike, path-scan[\s\S]* over/);
    }));

  test("one click leads from a client to all it did", () =>
    on("#/security?rule=ip-spike&range=24h", async (page) => {
      const link = page.getByRole("table", { name: "Alerts", exact: true }).locator("a.client").first();
      const ip = await link.innerText();
      await link.click();
      await page.getByRole("heading", { level: 1, name: `Client ${ip}` }).waitFor();
      await page.getByRole("table", { name: "Paths" }).locator("a").first().click();
      const [view, params] = new URL(page.url()).hash.split("?");
      assert.equal(view, "#/requests");
      assert.equal(new URLSearchParams(params).get("client"), ip);
      assert.ok(new URLSearchParams(params).get("path"), params);
    }));

  test("an alert leads to its requests, in its time", () =>
    on("#/security?rule=ip-spike&range=24h", async (page) => {
      await page.getByRole("button", { name: /^Evidence of/ }).first().click();
      await page.getByRole("button", { name: "Its requests" }).click();
      await page.getByRole("heading", { level: 1, name: "Requests" }).waitFor();
      const params = new URLSearchParams(new URL(page.url()).hash.split("?")[1]);
      assert.ok(params.get("client") && !params.has("rule") && Number(params.get("to")) > Number(params.get("from")), page.url());
    }));
});
