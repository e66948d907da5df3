// The stand-in of the page's server for the tests of one file, started before them and stopped after them.

import { after, before } from "node:test";
import { closed, opened, settled, standIn } from "./support.mjs";

let server;
before(async () => (server = await standIn()));
after(async () => {
  await closed();
  await server?.stop();
});

/** Where it listens. */
export const address = () => server.url;

/** Runs `check` on a fresh page and finds nothing to complain about. */
export async function on(hash, check, options = {}) {
  const watched = await opened(`${address()}${hash}`, options);
  try {
    await settled(watched.page);
    await check(watched.page, watched);
    watched.calm();
  } finally {
    await watched.close();
  }
}
