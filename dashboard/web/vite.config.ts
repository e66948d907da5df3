import { defineConfig } from "vite";

// Every address is relative, so the page works under any base path; nothing is inlined into HTML, so the strictest content
// security policy holds.
export default defineConfig({
  base: "./",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 700,
    reportCompressedSize: false,
  },
});
