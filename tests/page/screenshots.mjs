// Takes the pictures in docs/images: the page of a real `tidewatch demo` with attacks going on, and `top` beside it.
//
//   TIDEWATCH_BIN=…/tidewatch node screenshots.mjs [--out DIR] [--seconds 80] [--url URL] [--png] [--only NAME,…]
//
// --seconds: how long the demo runs before the first picture. --url: pictures of a page that is open already; no demo is
// started. --png: in place of WebP, for programs that cannot show it. Needs Chromium (scripts/setup test) and `npm ci` here.

import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { closed, here, opened, PHONE, settled, show, started } from "./support.mjs";
import { drawnAsSvg, Screen } from "./terminal.mjs";

const { values: options } = parseArgs({
  options: {
    out: { type: "string", default: join(here, "../../docs/images") },
    seconds: { type: "string", default: "80" },
    url: { type: "string" },
    png: { type: "boolean" },
    only: { type: "string" },
  },
});

/** The largest picture that is let into the repository. */
const MOST_BYTES = 250_000;
const DESK = { width: 1440, height: 900 };
const WIDE = { width: 1920, height: 1080 };

const SHOTS = [
  { name: "overview", hash: "#/overview?range=5m" },
  { name: "overview-dark", hash: "#/overview?range=5m", colorScheme: "dark" },
  { name: "overview-wide", hash: "#/overview?range=5m", viewport: WIDE, kept: false },
  { name: "security", hash: "#/security?range=5m", open: true },
  { name: "security-dark", hash: "#/security?range=5m", colorScheme: "dark", kept: false },
  { name: "traffic", hash: "#/traffic?range=5m" },
  { name: "client", client: true },
  { name: "requests", hash: "#/requests?range=5m", kept: false },
  { name: "time", hash: "#/time", kept: false, wait: 12_000 },
  { name: "dataflow", hash: "#/dataflow", kept: false, wait: 6000 },
  { name: "errors", hash: "#/errors?range=5m", kept: false },
  { name: "graph", hash: "#/graph", kept: false },
  { name: "phone", hash: "#/overview?range=5m", phone: true },
  { name: "phone-security", hash: "#/security?range=5m", phone: true, kept: false },
  { name: "phone-traffic", hash: "#/traffic?range=5m", phone: true, kept: false },
  { name: "phone-requests", hash: "#/requests?range=5m", phone: true, kept: false },
];

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function picture(url, shot) {
  const { name, hash = "#/security?range=5m", viewport = DESK, colorScheme = "light", open, client, phone, wait = 0 } = shot;
  const screen = phone ? { viewport: PHONE, deviceScaleFactor: 2, isMobile: true, hasTouch: true } : { viewport };
  const watched = await opened(`${url}${hash}`, { ...screen, colorScheme });
  const { page } = watched;
  try {
    await settled(page);
    const openers = page.getByRole("button", { name: /^Evidence of/ });
    if (client) {
      await page.locator('[aria-label="Alerts"] a.client').first().click();
      await settled(page);
    }
    if (open && (await openers.count())) {
      await openers.first().click();
      await page.locator("tr.detail").waitFor();
    }
    if (hash.startsWith("#/overview") || client) await page.locator("canvas").first().waitFor({ timeout: 5000 }).catch(() => {});
    await page.mouse.move(0, 0);
    await sleep(1500 + wait);
    await show(page, new URL(page.url()).hash);
    const toast = page.getByRole("button", { name: "Dismiss" });
    // It may go by itself meanwhile.
    if (await toast.isVisible()) await toast.click({ timeout: 2000 }).catch(() => {});
    await page.evaluate(() => (document.activeElement?.blur?.(), scrollTo(0, 0)));
    const format = options.png ? "png" : "webp";
    const session = await page.context().newCDPSession(page);
    const { data } = await session.send("Page.captureScreenshot", { format, ...(options.png ? {} : { quality: 82 }) });
    const file = join(options.out, `${name}.${format}`);
    writeFileSync(file, Buffer.from(data, "base64"));
    const { size } = statSync(file);
    const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    console.log(`${file}: ${(size / 1000).toFixed(0)} kB${over > 0 ? `, ${over} pixels wider than the screen` : ""}`);
    if (!options.png && size > MOST_BYTES) throw new Error(`${file} has ${size} bytes, more than ${MOST_BYTES}`);
    watched.calm();
  } finally {
    await watched.close();
  }
}

/** `top` over the API, in a terminal of `script`, as a drawing and as text. */
async function terminal(binary, url) {
  const [columns, rows] = [120, 34];
  const run = spawn("script", ["-qec", `stty cols ${columns} rows ${rows}; exec ${binary} top --since 5m --url ${url}`, "/dev/null"], { env: { ...process.env, TERM: "xterm-256color" } });
  const screen = new Screen(columns, rows);
  run.stdout.on("data", (chunk) => screen.feed(chunk));
  const over = new Promise((done) => run.once("exit", done));
  await sleep(6000);
  const [svg, text] = [drawnAsSvg(screen, "tidewatch top"), screen.text()];
  run.stdin.write("q");
  await Promise.race([over, sleep(3000)]);
  run.kill("SIGKILL");
  writeFileSync(join(options.out, "top.svg"), svg);
  console.log(text);
}

const binary = process.env.TIDEWATCH_BIN;
if (!binary && !options.url) {
  console.error("screenshots: TIDEWATCH_BIN names no binary (cargo build --release makes it); or give --url");
  process.exit(2);
}
const wanted = (name) => (options.only ? options.only.split(",").includes(name) : true);
const scratch = mkdtempSync(join(tmpdir(), "tidewatch-shots."));
mkdirSync(options.out, { recursive: true });
let demo = null;
try {
  let { url } = options;
  if (!url) {
    demo = await started(binary, ["demo", "--port", "0", "--duration", "600s"], { cwd: scratch, pattern: /the page is at (http\S+)/ });
    url = demo.url;
    console.log(`demo at ${url}; pictures in ${options.seconds} s`);
    await sleep(Number(options.seconds) * 1000);
  }
  // Those that are only looked at are taken as PNG and by name.
  for (const shot of SHOTS) if (options.only ? wanted(shot.name) : shot.kept !== false || options.png) await picture(url, shot);
  if (binary && wanted("top")) await terminal(binary, url);
} finally {
  await closed();
  await demo?.stop();
  rmSync(scratch, { recursive: true, force: true });
}
