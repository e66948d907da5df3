import { afterEach, expect, test, vi } from "vitest";
import { ApiError, get } from "../src/api";

afterEach(() => vi.unstubAllGlobals());

/** A server whose answer's body does this. */
function answers(status: number, body: () => Promise<unknown>) {
  vi.stubGlobal("fetch", async () => ({ ok: status < 400, status, json: body }));
}

const aborted = () => Promise.reject(new DOMException("The user aborted a request.", "AbortError"));
const broken = () => Promise.reject(new SyntaxError("Unexpected end of JSON input"));

test("an answer that breaks off is none", async () => {
  answers(200, broken);
  await expect(get("series")).rejects.toMatchObject({ code: "unreachable", status: 0 });
});

test("what is not wanted any more is no trouble, also in the midst of its answer", async () => {
  answers(200, aborted);
  const found = await get("series").catch((error: unknown) => error);
  expect(found).not.toBeNull();
  expect(found).not.toBeInstanceOf(ApiError);
});

test.each<[string, number, () => Promise<unknown>, object]>([
  ["as the server says it", 503, async () => ({ error: { code: "unavailable", message: "64 pages are open already" } }), { code: "unavailable", message: "64 pages are open already", status: 503 }],
  ["of a proxy that speaks HTML", 502, broken, { code: "http_502", message: "the server answered 502", status: 502 }],
])("an error %s", async (_, status, body, wanted) => {
  answers(status, body);
  await expect(get("series")).rejects.toMatchObject(wanted);
});
