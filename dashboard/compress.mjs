// Compresses the built page and lists it for build.rs: one line a file, with its type and a tag of its content.
//
//   node compress.mjs DIST OUT
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { extname, join, relative, sep } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const [dist, out] = process.argv.slice(2);
const kinds = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".ico": "image/x-icon",
  ".json": "application/json",
  ".webmanifest": "application/manifest+json",
  ".woff2": "font/woff2",
  ".txt": "text/plain; charset=utf-8",
};

const files = readdirSync(dist, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile())
  .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
  .sort();
mkdirSync(out, { recursive: true });
const index = files.map((file, number) => {
  const path = relative(dist, file).split(sep).join("/");
  const plain = readFileSync(file);
  const kind = kinds[extname(file)] ?? "application/octet-stream";
  const tag = createHash("sha256").update(plain).digest("hex").slice(0, 16);
  // Vite puts the hash of the content in the names of what it puts there.
  const hashed = path.startsWith("assets/");
  const forms = [
    ["", plain],
    ["gz", gzipSync(plain, { level: 9 })],
    ["br", brotliCompressSync(plain, { params: { [constants.BROTLI_PARAM_SIZE_HINT]: plain.length } })],
  ].map(([form, bytes]) => {
    if (form && bytes.length > plain.length * 0.95) return "";
    const name = `${number}${form && "."}${form}`;
    writeFileSync(join(out, name), bytes);
    return name;
  });
  return [path, kind, tag, hashed, ...forms].join("\t");
});
writeFileSync(join(out, "index.tsv"), index.map((line) => line + "\n").join(""));
