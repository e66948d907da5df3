// Servers, browser and looks for the tests of the page.
//
// The server is the stand-in of dashboard/web/dev/mock.mjs, which needs `vite build` to have run; tests against the binary
// start it themselves. The browser is Debian's Chromium, or TIDEWATCH_TEST_CHROMIUM. Everything started here is stopped here.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { createServer } from "node:net";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

export const here = dirname(fileURLToPath(import.meta.url));
const mock = join(here, "../../dashboard/web/dev/mock.mjs");
export const VIEWS = ["overview", "traffic", "security", "errors", "requests", "time", "dataflow", "graph"];
export const WIDE = { width: 1440, height: 900 };
export const PHONE = { width: 390, height: 844 };

export function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.on("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** Starts a program and waits for a line of its output that has an address in it. */
export function started(command, args, { limit = 120_000, pattern = /(https?:\/\/\S+)/, ...rest } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], ...rest });
    let output = "";
    const fail = (why) => (child.kill("SIGKILL"), reject(new Error(`${command} ${args.join(" ")}: ${why}\n${output.slice(-4000)}`)));
    const timer = setTimeout(() => fail(`no address within ${limit} ms`), limit);
    const read = (chunk) => {
      output += chunk;
      const found = pattern.exec(output);
      if (!found) return;
      clearTimeout(timer);
      resolve({
        url: found[1],
        child,
        output: () => output,
        stop: () =>
          new Promise((done) => {
            if (child.exitCode !== null || child.signalCode !== null) return done();
            child.once("exit", () => done());
            child.kill("SIGTERM");
            setTimeout(() => child.kill("SIGKILL"), 5000).unref();
          }),
      });
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    child.once("exit", (code) => (clearTimeout(timer), reject(new Error(`${command} ended with ${code}\n${output.slice(-4000)}`))));
    child.once("error", (error) => (clearTimeout(timer), reject(error)));
  });
}

/** The stand-in; its port stays free for a restart. */
export async function standIn(...args) {
  const port = await freePort();
  return { ...(await started(process.execPath, [mock, "--port", String(port), ...args])), port };
}

let browser = null;

export async function launched() {
  if (browser) return browser;
  const executablePath = process.env.TIDEWATCH_TEST_CHROMIUM ?? "/usr/bin/chromium";
  assert.ok(existsSync(executablePath), `${executablePath} is missing: run scripts/setup test`);
  const args = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync";
  browser = await chromium.launch({ executablePath, args: args.split(" "), timeout: 120_000 });
  return browser;
}

export async function closed() {
  await browser?.close();
  browser = null;
}

/**
 * A page of its own, watched: `complaints` fills with console errors, broken scripts, dialogs and requests that leave for
 * another host. `allow` are patterns of complaints that the test provokes.
 */
export async function opened(url, { viewport = WIDE, colorScheme = "light", allow = [], ...rest } = {}) {
  const context = await (await launched()).newContext({ viewport, colorScheme, reducedMotion: "reduce", timezoneId: "UTC", ...rest });
  const page = await context.newPage();
  page.setDefaultTimeout(120_000);
  const complaints = [];
  const add = (text) => allow.some((pattern) => pattern.test(text)) || complaints.push(text);
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && add(`console: ${message.text()}`));
  page.on("pageerror", (error) => add(`script: ${error.message}`));
  page.on("dialog", (dialog) => (add(`dialog: ${dialog.message()}`), dialog.dismiss()));
  page.on("request", (request) => {
    const to = new URL(request.url());
    if (to.host !== new URL(url).host && !["data:", "blob:"].includes(to.protocol)) add(`request: ${request.url()}`);
  });
  // Says so where the content security policy had to step in.
  await page.addInitScript(() => document.addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`)));
  await page.goto(url);
  return { page, complaints, close: () => context.close(), calm: () => assert.deepEqual(complaints, []) };
}

/** Goes to a view by its address and waits for its numbers. */
export async function show(page, hash) {
  await page.evaluate((to) => (location.hash = to), hash);
  await page.locator("h1").waitFor();
  await settled(page);
}

/** Nothing says "Loading…" any more. */
export async function settled(page) {
  await page.waitForFunction(() => document.querySelector("main") && !document.querySelector("main [aria-busy]") && !/Loading…/.test(document.querySelector("main").textContent), null, { timeout: 120_000 });
}

/** Waits until something is drawn on a canvas. */
export async function drawn(locator) {
  const page = locator.page();
  await page.waitForFunction((canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value !== 0), await locator.elementHandle());
}
