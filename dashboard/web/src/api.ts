// Calls to the API under the page. Addresses are relative to the document, so any base path works.

export class ApiError extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly status: number,
  ) {
    super(message);
  }

  /** Not an accident: this run does not keep what was asked for. */
  get isNotKept(): boolean {
    return this.code === "not_kept";
  }
}

/** What a run without a store would answer. */
export const NO_STORE = new ApiError("not_kept", "this run keeps no store", 503);
const STORED = new Set(["series", "tops", "errors", "alerts", "silences", "client", "requests"]);
/** Whether a question is one for the store. */
export function isStored(path: string): boolean {
  return STORED.has(path.split(/[/?]/, 1)[0] ?? "");
}

export type Params = Record<string, string | number | null | undefined>;

/** The address of an API path with its parameters; empty ones are left out. */
export function address(path: string, params: Params = {}): string {
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(params)) {
    if (value === null || value === undefined || value === "") continue;
    search.set(key, typeof value === "number" ? String(Math.round(value)) : value);
  }
  const text = search.toString();
  return `api/v1/${path}${text ? `?${text}` : ""}`;
}

/** Told whenever the server wants a token. */
let unauthorised: () => void = () => {};
export function onUnauthorised(tell: () => void): void {
  unauthorised = tell;
}

async function call<T>(url: string, init: RequestInit, read = (response: Response): Promise<T> => response.json()): Promise<T> {
  let response: Response;
  try {
    response = await fetch(url, { credentials: "same-origin", cache: "no-store", ...init });
    // One that breaks off is no answer.
    if (response.ok) return (response.status === 204 ? null : await read(response)) as T;
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError("unreachable", "the server cannot be reached", 0);
  }
  const body = (await response.json().catch(() => null)) as { error?: { code?: unknown; message?: unknown } } | null;
  if (response.status === 401 && !url.endsWith("/login")) unauthorised();
  throw new ApiError(
    String(body?.error?.code ?? `http_${response.status}`),
    String(body?.error?.message ?? `the server answered ${response.status}`),
    response.status,
  );
}

export function get<T>(path: string, params: Params = {}, signal?: AbortSignal): Promise<T> {
  return call<T>(address(path, params), signal ? { signal } : {});
}

/** Why something that does not end, as the stream, is refused; nothing where it begins. */
export function refusal(path: string, signal: AbortSignal): Promise<ApiError | null> {
  const close = async (response: Response) => (await response.body?.cancel(), null);
  return call<null>(address(path), { signal }, close).catch((error: unknown) => {
    if (error instanceof ApiError && error.status !== 0) return error;
    throw error;
  });
}

/** Calls that change something carry a header that other sites cannot send. */
export function send<T = unknown>(method: "POST" | "DELETE", path: string, body?: unknown): Promise<T> {
  return call<T>(address(path), {
    method,
    headers: { "X-Tidewatch": "1", ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
}
