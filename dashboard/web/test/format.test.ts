import { expect, test } from "vitest";
import * as format from "../src/format";

const plain = (text: string) => text.replaceAll("\u00a0", " ");

test.each<[string, string, string]>([
  ["no count", format.count(null), "–"],
  ["no number", format.count(NaN), "–"],
  ["zero", format.count(0), "0"],
  ["a part", format.count(0.126), "0.13"],
  ["below a thousand", format.count(999), "999"],
  ["grouped", format.count(1000), "1,000"],
  ["the last exact", format.count(99_999), "99,999"],
  ["the first short", format.count(100_000), "100 k"],
  ["rounds into the next unit", format.count(999_600), "1.00 M"],
  ["millions", format.count(1_284_310), "1.28 M"],
  ["every digit", format.exact(1_284_310), "1,284,310"],
  ["a rate", format.rate(512), "512 req/s"],
  ["a slow rate", format.rate(0.25), "0.25 req/s"],
  ["a fast rate", format.rate(12_345), "12,345 req/s"],
  ["no bytes", format.bytes(0), "0 B"],
  ["one below a KiB", format.bytes(1023), "1,023 B"],
  ["one KiB", format.bytes(1024), "1 KiB"],
  ["rounds into the next", format.bytes(1024 * 1024 - 1), "1.00 MiB"],
  ["aligned with those above and below", format.bytes(16.04 * 1024 * 1024), "16.0 MiB"],
  ["a stream", format.throughput(6_280_970), "5.99 MiB/s"],
  ["a latency", format.latency(23.24), "23.2 ms"],
  ["a long one", format.latency(9999), "9,999 ms"],
  ["in seconds", format.latency(12_345), "12.3 s"],
  ["a share", format.percent(0.0077), "0.77 %"],
  ["a share that ends in a zero", format.percent(0.002), "0.20 %"],
  ["a whole one, not quite so in binary", format.percent(0.07), "7 %"],
  ["a tiny share is not none", format.percent(0.00001), "< 0.01 %"],
  ["none", format.percent(0), "0 %"],
  ["all", format.percent(1), "100 %"],
  ["nearly all is not all", format.percent(0.999), "99.9 %"],
  ["ms", format.duration(999), "999 ms"],
  ["seconds", format.duration(6300), "6.3 s"],
  ["minutes", format.duration(252_000), "4 m 12 s"],
  ["hours", format.duration(7_500_000), "2 h 5 m"],
  ["days", format.duration(3 * 86_400_000), "3 d"],
  ["before", format.duration(-1500), "−1.5 s"],
  ["a threshold", format.measured(0.05), "0.05"],
  ["a value", format.measured(0.13944), "0.139"],
  ["a whole value", format.measured(12_000), "12,000"],
  ["a count", format.inUnit(602, "count"), "602"],
  ["a ratio", format.inUnit(0.22903, "ratio({status|gte = [500]})"), "22.9 %"],
  ["a quantile of latencies", format.inUnit(500, "quantile(latency_ms, 0.99)"), "500 ms"],
  ["a sum of bytes", format.inUnit(5 * 1024 * 1024, "sum(bytes)"), "5 MiB"],
  ["distinct paths", format.inUnit(20, "distinct(path)"), "20"],
  ["nothing caught up with", format.catchingUp({ share: 0, records_left: 1200, bytes_left: 0 }), "0 % read, 1,200 records left"],
  ["both kinds", format.catchingUp({ share: 0.437, records_left: 1, bytes_left: 2048 }), "43 % read, 1 record and 2 KiB left"],
  ["not all, while some is left", format.catchingUp({ share: 0.9999, records_left: 0, bytes_left: 1 }), "99 % read, 1 B left"],
  ["a share that is none", format.catchingUp({ share: 7, records_left: 0, bytes_left: 0 }), "100 % read"],
  ["one process", format.processes([1]), "process 1"],
  ["two", format.processes([1, 3]), "processes 1 and 3"],
  ["several", format.processes([0, 2, 11]), "processes 0, 2 and 11"],
  ["many", format.processes([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), "processes 1, 2, 3, 4, 5, 6, 7, 8 and 2 more"],
  ["of an unknown rule", format.inUnit(0.05, undefined), "0.05"],
])("%s", (_, found, wanted) => expect(plain(found)).toBe(wanted));

test("times of day and dates", () => {
  const at = Date.UTC(2026, 2, 5, 9, 4, 5, 6);
  expect(format.clock(at, true)).toBe("09:04:05");
  expect(format.clock(at, true, true)).toBe("09:04:05.006");
  expect(format.moment(at, at + 1000, true)).toBe("09:04:05");
  expect(format.moment(at, at + 86_400_000, true)).toBe("2026-03-05 09:04:05");
  expect(format.clock(1e300, true)).toBe("–");
  expect(format.dateTime(undefined, true)).toBe("–");
});

test.each<[string, string, string]>([
  ["markup stays as it is: it is set as text", "<b>&amp;</b>", "<b>&amp;</b>"],
  ["line breaks and escapes", "a\r\n\u001b[31mb", "a␍␊␛[31mb"],
  ["a mark that turns the direction", "exe.\u202egnp", "exe.\\u202egnp"],
  ["what has no width", "a\u200bb\ufeff", "a\\u200bb\\ufeff"],
  ["delete", "\u007f", "␡"],
  ["letters of all kinds", "Grüße, мир, 世界", "Grüße, мир, 世界"],
])("visible: %s", (_, text, wanted) => expect(format.visible(text)).toBe(wanted));

test("shortening keeps pairs whole", () => {
  expect(format.shorten("abcdef", 6)).toBe("abcdef");
  expect(format.shorten("abcdefg", 6)).toBe("abcde…");
  expect(format.shorten("abcd😀efg", 6)).toBe("abcd…");
});

test("how many were found says where that may not be all", () => {
  expect([format.found(0), format.found(1000, false), format.found(0, true), format.found(1000, true)].map(plain)).toEqual(["0", "1,000", "0, there may be more", "1,000, there may be more"]);
});

test.each<[string, boolean, number, number, boolean, string, string | undefined]>([
  // name, sampled, one in, kept, truncated, said
  ["all", false, 1, 6, false, "kept, in range", undefined],
  ["more than are looked at", false, 1, 50_000, true, "kept, in range; the newest of more", undefined],
  ["a sample", true, 64, 6, false, "6 kept, a sample", "about, from a sample of at least one in 64"],
  ["a sample of more", true, 2048, 50_000, true, "50,000 kept, a sample; the newest of more", "about, from a sample of at least one in 2,048"],
])("what requests are counted from: %s", (_, sampled, one_in, kept, truncated, said, sample) => {
  expect(plain(format.kept({ sampled, kept, truncated }))).toBe(said);
  expect(format.sample({ sampled, one_in })).toBe(sample);
});

test.each<[string, string, boolean, number | null]>([
  ["with seconds", "2026-03-05T10:00:07", true, 1_772_704_807_000],
  ["without", "2026-03-05T10:00", true, 1_772_704_800_000],
  ["nothing chosen", "", true, null],
  ["no such day", "2026-13-40T10:00", true, null],
  ["before there were logs", "1969-12-31T23:59:59", true, null],
  ["something else", "yesterday", false, null],
])("a chosen time: %s", (_, text, utc, wanted) => expect(format.fromDateTimeField(text, utc)).toBe(wanted));

test("a field for a time is read back as that time", () => {
  for (const utc of [true, false]) expect(format.fromDateTimeField(format.dateTimeField(1_772_704_807_000, utc), utc)).toBe(1_772_704_807_000);
});
