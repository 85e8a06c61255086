import { readFileSync } from "node:fs";

import preact from "@preact/preset-vite";
import { defineConfig, type Plugin } from "vite";

const SHIPPED = ["@preact/signals", "@preact/signals-core", "idb-keyval", "konva", "lucide", "preact"];

/** The licenses of what is in the bundle go with it. */
function licenses(): Plugin {
  return {
    name: "licenses",
    generateBundle() {
      const texts = SHIPPED.map((name) => {
        const read = (file: string): string => readFileSync(`node_modules/${name}/${file}`, "utf8");
        const { version, license } = JSON.parse(read("package.json")) as { version: string; license: string };
        const file = ["LICENSE", "LICENCE", "LICENSE.md"].find((one) => {
          try {
            return read(one);
          } catch {
            return false;
          }
        });
        if (!file) throw new Error(`${name} comes without the text of its license`);
        return `${name} ${version} (${license})\n\n${read(file).trim()}\n`;
      });
      this.emitFile({ type: "asset", fileName: "licenses.txt", source: texts.join(`\n${"-".repeat(78)}\n\n`) });
    },
  };
}

export default defineConfig({
  plugins: [preact(), licenses()],
  base: "/",
  build: {
    outDir: "../web/static",
    emptyOutDir: true,
    // Everything is a file of its own: the page's Content-Security-Policy allows neither inline scripts nor data URLs.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2023",
    chunkSizeWarningLimit: 900,
  },
  server: { proxy: { "^/(api|frames|files|sign-in)": "http://127.0.0.1:8080" } },
});
