// Measures the page of a binary in a browser: what is transferred, when it is painted, how long from the request that makes
// an alert to its row on the page while lines pour in, and what the open page costs in the browser.
//
//   TIDEWATCH_BIN=…/tidewatch node figures.mjs [--rate 50000] [--alerts 100] [--seconds 20]
//
// NICE=-19 (needs root) keeps other programs of a busy machine from taking the cores in between; one line a figure.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { closed, freePort, launched, opened, settled, started } from "./support.mjs";

const { values: options } = parseArgs({
  options: { rate: { type: "string", default: "50000" }, alerts: { type: "string", default: "100" }, seconds: { type: "string", default: "20" } },
});
const binary = process.env.TIDEWATCH_BIN;
if (!binary) {
  console.error("figures: TIDEWATCH_BIN names no binary");
  process.exit(2);
}
const nice = ["nice", ["-n", process.env.NICE ?? "0", binary]];
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const share = (values, of) => [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * of))];

const dir = mkdtempSync(join(tmpdir(), "tidewatch-figures."));
const [source, port] = [await freePort(), await freePort()];
const config = join(dir, "figures.toml");
writeFileSync(config, `data_dir = ${JSON.stringify(join(dir, "data"))}\n[[source]]\nkind = "tcp"\nlisten = "127.0.0.1:${source}"\nformat = "auto"\n[page]\nlisten = "127.0.0.1:${port}"\n`);
const run = await started(nice[0], [...nice[1], "run", "-c", config], { cwd: dir, pattern: /the page is open.*?url="?(https?:\/\/[^"\s]+)/ });
let load = null;
try {
  load = spawn(nice[0], [...nice[1], "generate", "--format", "nginx-json", "--to", `tcp://127.0.0.1:${source}`, "--rate", options.rate, "--clients", "1000000:uniform", "--hosts", "20"], { stdio: "ignore" });
  await sleep(8000);
  const watched = await opened(`${run.url}#/overview`);
  const { page } = watched;
  await settled(page);
  await page.locator("canvas").first().waitFor();
  const { size, paint } = await page.evaluate(() => ({
    size: [...performance.getEntriesByType("resource"), ...performance.getEntriesByType("navigation")].filter((entry) => !entry.name.includes("/api/")).reduce((sum, entry) => sum + entry.transferSize, 0),
    paint: performance.getEntriesByName("first-contentful-paint")[0]?.startTime,
  }));
  console.log(`page: ${(size / 1000).toFixed(0)} kB transferred, first contentful paint after ${paint.toFixed(0)} ms`);

  // When a client's address first stands in the table of alerts, by the wall clock of this machine.
  await page.evaluate(() => {
    globalThis.seen = {};
    const look = () => {
      for (const link of document.querySelectorAll('[aria-label="Newest alerts"] a.client')) globalThis.seen[link.textContent] ??= Date.now();
    };
    new MutationObserver(look).observe(document.querySelector("main"), { childList: true, subtree: true, characterData: true });
  });
  const socket = createConnection(source, "127.0.0.1").setNoDelay(true);
  const took = [];
  let missed = 0;
  for (let at = 0; at < Number(options.alerts); at += 1) {
    const client = at < 250 ? `192.0.2.${at + 1}` : `198.51.100.${at - 249}`;
    const time = new Date().toUTCString().replace(/^\w+, (\d+) (\w+) (\d+) ([\d:]+) GMT$/, "$1/$2/$3:$4 +0000");
    const line = `${client} - - [${time}] "GET /a HTTP/1.1" 200 5 "-" "figures"\n`;
    socket.write(line.repeat(99));
    await sleep(400);
    const begun = Date.now();
    socket.write(line);
    const shown = await page.waitForFunction((of) => globalThis.seen[of], client, { timeout: 5000, polling: 50 }).then((handle) => handle.jsonValue(), () => null);
    if (shown === null) missed += 1;
    else took.push(Math.max(0, shown - begun));
  }
  socket.destroy();
  const status = await page.evaluate(() => fetch("api/v1/status").then((answer) => answer.json()));
  console.log(`load: ${status.rate.toFixed(0)} events/s of ${options.rate}, ${status.late} late; load average ${loadavg()[0].toFixed(1)}`);
  if (took.length) console.log(`crossing event -> row on the page: p50 ${share(took, 0.5)} ms, p90 ${share(took, 0.9)} ms, p99 ${share(took, 0.99)} ms, most ${Math.max(...took)} ms, of ${took.length}; ${missed} not within 5 s`);

  const session = await (await launched()).newBrowserCDPSession();
  const busy = async () => (await session.send("SystemInfo.getProcessInfo")).processInfo.reduce((sum, { type, cpuTime }) => sum + (type === "renderer" ? cpuTime : 0), 0);
  for (const [name, hash] of [["overview, 15 minutes", "#/overview"], ["overview, 5 minutes", "#/overview?range=5m"], ["security", "#/security"], ["requests", "#/requests"]]) {
    await page.evaluate((to) => (location.hash = to), hash);
    await sleep(4000);
    const [from, start] = [Date.now(), await busy()];
    await sleep(Number(options.seconds) * 1000);
    console.log(`open page, ${name}: ${(((await busy()) - start) / ((Date.now() - from) / 1000) * 100).toFixed(2)} % of a core in the browser`);
  }
  await watched.close();
} finally {
  load?.kill("SIGTERM");
  await closed();
  await run.stop();
  rmSync(dir, { recursive: true, force: true });
}
