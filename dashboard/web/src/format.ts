// Numbers and times as people read them: one form per unit, the same everywhere on the page.

const NO_BREAK = "\u00a0";
/** What stands where there is no value. */
export const NONE = "–";

type Maybe = number | null | undefined;

function absent(value: Maybe): value is null | undefined {
  return value === null || value === undefined || !Number.isFinite(value);
}

/** Three significant digits below a thousand, none lost above; whole numbers as they are. Zeros at the end stay, so that numbers below each other align. */
function digits(value: number): string {
  const size = Math.abs(value);
  if (size >= 99.95 || Math.abs(value - Math.round(value)) < 1e-9) return grouped(value);
  return value.toFixed(size >= 9.995 ? 1 : 2);
}

function trim(text: string): string {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

function grouped(value: number): string {
  return Math.round(value)
    .toString()
    .replace(/\B(?=(\d{3})+$)/g, ",");
}

/** A count: exact with groups below 100,000, else three digits and k, M, G, T. */
export function count(value: Maybe): string {
  if (absent(value)) return NONE;
  if (Math.abs(value) < 1000) return digits(value);
  return Math.abs(value) < 99_999.5 ? grouped(value) : scaled(value, 1000, ["", "k", "M", "G", "T"]);
}

/** A count with every digit. */
export function exact(value: Maybe): string {
  if (absent(value)) return NONE;
  return Number.isInteger(value) ? grouped(value) : digits(value);
}

function scaled(value: number, base: number, units: string[]): string {
  let rest = value;
  let unit = 0;
  while (Math.abs(rest) >= base - 0.5 && unit < units.length - 1) {
    rest /= base;
    unit += 1;
  }
  return units[unit] ? `${digits(rest)}${NO_BREAK}${units[unit]}` : digits(rest);
}

/** Requests per second. */
export function rate(value: Maybe): string {
  if (absent(value)) return NONE;
  const text = Math.abs(value) < 99_999.5 && Math.abs(value) >= 1000 ? grouped(value) : count(value);
  return `${text}${NO_BREAK}req/s`;
}

/** Bytes, in powers of 1024. */
export function bytes(value: Maybe): string {
  return absent(value) ? NONE : scaled(Math.round(value), 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]);
}

/** Bytes per second. */
export function throughput(value: Maybe): string {
  return absent(value) ? NONE : `${bytes(value)}/s`;
}

/** A latency: ms, from ten seconds on s. */
export function latency(value: Maybe): string {
  if (absent(value)) return NONE;
  return value >= 10_000 ? `${digits(value / 1000)}${NO_BREAK}s` : `${digits(value)}${NO_BREAK}ms`;
}

/** A latency on an axis of powers of ten: the unit that keeps it short. */
export function latencyAxis(value: Maybe): string {
  return !absent(value) && value >= 1000 ? `${digits(value / 1000)}${NO_BREAK}s` : latency(value);
}

/** A share of one, as a percentage. A tiny share is not shown as none. */
export function percent(ratio: Maybe): string {
  if (absent(ratio)) return NONE;
  const value = ratio * 100;
  if (value > 0 && value < 0.01) return `<${NO_BREAK}0.01${NO_BREAK}%`;
  return `${digits(value)}${NO_BREAK}%`;
}

/** What a rule measures, in its unit; `measure` as rules are written. */
export function inUnit(value: Maybe, measure: string | undefined): string {
  if (measure?.startsWith("ratio(")) return percent(value);
  const field = /^(?:sum|avg|quantile)\((\w+)/.exec(measure ?? "")?.[1];
  return field === "latency_ms" ? latency(value) : field === "bytes" ? bytes(value) : measured(value);
}

/** A length of time in its two largest units. */
export function duration(ms: Maybe): string {
  if (absent(ms)) return NONE;
  const sign = ms < 0 ? "−" : "";
  const size = Math.abs(ms);
  if (size < 1000) return `${sign}${Math.round(size)}${NO_BREAK}ms`;
  if (size < 10_000) return `${sign}${trim((size / 1000).toFixed(1))}${NO_BREAK}s`;
  const seconds = Math.round(size / 1000);
  const parts: [number, string][] = [
    [Math.floor(seconds / 86_400), "d"],
    [Math.floor(seconds / 3600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "m"],
    [seconds % 60, "s"],
  ];
  const start = parts.findIndex(([amount]) => amount > 0);
  const shown = parts.slice(start, start + 2).filter(([amount]) => amount > 0);
  return sign + shown.map(([amount, unit]) => `${amount}${NO_BREAK}${unit}`).join(" ");
}

/** A length of time in its largest unit. */
export function roughly(ms: Maybe): string {
  return duration(ms).split(" ", 1)[0] ?? NONE;
}

const pad = (value: number, width = 2): string => String(value).padStart(width, "0");

interface Civil {
  date: string;
  clock: string;
  ms: string;
}

function civil(ms: number, utc: boolean): Civil {
  const at = new Date(ms);
  return utc
    ? {
        date: `${at.getUTCFullYear()}-${pad(at.getUTCMonth() + 1)}-${pad(at.getUTCDate())}`,
        clock: `${pad(at.getUTCHours())}:${pad(at.getUTCMinutes())}:${pad(at.getUTCSeconds())}`,
        ms: pad(at.getUTCMilliseconds(), 3),
      }
    : {
        date: `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}`,
        clock: `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`,
        ms: pad(at.getMilliseconds(), 3),
      };
}

const inRange = (ms: number): boolean => Math.abs(ms) <= 8.64e15;

/** Time of day; `precise` with ms. */
export function clock(ms: Maybe, utc: boolean, precise = false): string {
  if (absent(ms) || !inRange(ms)) return NONE;
  const parts = civil(ms, utc);
  return precise ? `${parts.clock}.${parts.ms}` : parts.clock;
}

/** Date and time of day. */
export function dateTime(ms: Maybe, utc: boolean): string {
  if (absent(ms) || !inRange(ms)) return NONE;
  const parts = civil(ms, utc);
  return `${parts.date} ${parts.clock}`;
}

/** What a field for date and time holds. */
export function dateTimeField(ms: number, utc: boolean): string {
  const parts = civil(ms, utc);
  return `${parts.date}T${parts.clock}`;
}

/** What somebody chose there; nothing where that is no time. */
export function fromDateTimeField(text: string, utc: boolean): number | null {
  if (!/^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?$/.test(text)) return null;
  const ms = Date.parse(utc ? `${text}Z` : text);
  return Number.isFinite(ms) && ms >= 0 ? Math.floor(ms) : null;
}

/** Time of day, with the date where it is another day than `near`. */
export function moment(ms: Maybe, near: Maybe, utc: boolean): string {
  if (absent(ms) || !inRange(ms)) return NONE;
  const same = !absent(near) && inRange(near) && civil(ms, utc).date === civil(near, utc).date;
  return same ? clock(ms, utc) : dateTime(ms, utc);
}

/** A value of a rule's measure next to its threshold: counts stay whole, shares stay readable. */
export function measured(value: Maybe): string {
  if (absent(value)) return NONE;
  return Number.isInteger(value) ? grouped(value) : trim(value.toPrecision(3));
}

/** Control characters and marks that turn the direction of text are made visible; the rest stays as it is. */
export function visible(text: string): string {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g, (mark) => {
    const code = mark.charCodeAt(0);
    return code < 0x20 ? String.fromCharCode(0x2400 + code) : code === 0x7f ? "␡" : `\\u${code.toString(16).padStart(4, "0")}`;
  });
}

/** At most `limit` characters, never half of a pair. */
export function shorten(text: string, limit: number): string {
  if (text.length <= limit) return text;
  const end = text.charCodeAt(limit - 2) >= 0xd800 && text.charCodeAt(limit - 2) < 0xdc00 ? limit - 2 : limit - 1;
  return `${text.slice(0, end)}…`;
}

/** How many were found, and whether there may be more. */
export function found(rows: number, truncated = false): string {
  return `${count(rows)}${truncated ? ", there may be more" : ""}`;
}

/** What a client's requests are counted from. */
export function kept(of: { sampled: boolean; kept: number; truncated?: boolean }): string {
  const what = of.sampled ? `${count(of.kept)} kept, a sample` : "kept, in range";
  return of.truncated ? `${what}; the newest of more` : what;
}

/** How dense a sample is: each request in it stands for at most `one_in`. */
export function sample(of: { sampled: boolean; one_in: number }): string | undefined {
  return of.sampled ? `about, from a sample of at least one in ${count(of.one_in)}` : undefined;
}

/** "1 alert", "2 alerts". */
export function plural(amount: number, one: string, many = `${one}s`): string {
  return `${count(amount)}${NO_BREAK}${amount === 1 ? one : many}`;
}

/** "process 1", "processes 1 and 3", "processes 1, 2 and 3"; of many the first few. */
export function processes(which: readonly number[]): string {
  const most = 8;
  const named = which.slice(0, most).map(String);
  const left = which.length - named.length;
  if (left > 0) named.push(`${count(left)} more`);
  const last = named.pop() ?? "";
  const all = named.length ? `${named.join(", ")} and ${last}` : last;
  return `${which.length === 1 ? "process" : "processes"}${NO_BREAK}${all}`;
}

/** How far what was in the logs at the start is read: never all of it while some is left. */
export function catchingUp(behind: { share: number; records_left: number; bytes_left: number }): string {
  const left = [];
  if (behind.records_left > 0) left.push(plural(behind.records_left, "record"));
  if (behind.bytes_left > 0) left.push(bytes(behind.bytes_left));
  const read = `${Math.floor(Math.max(0, Math.min(1, behind.share)) * 100)}${NO_BREAK}% read`;
  return left.length ? `${read}, ${left.join(" and ")} left` : read;
}
