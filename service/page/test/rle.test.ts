/** Parity with pycocotools: the fixtures were written by it (tests/service/web/test_page_sources.py says how). */

import { readFileSync } from "node:fs";

import { describe, expect, it } from "vitest";

import { decodeMask, encodeMask, formatCounts, parseCounts } from "../src/lib/rle";

interface Fixture {
  name: string;
  width: number;
  height: number;
  counts: string;
  rows: string[];
}

const fixtures = JSON.parse(readFileSync(new URL("./rle_fixtures.json", import.meta.url), "utf8")) as Fixture[];

describe("COCO compressed run-length encoding", () => {
  for (const { name, width, height, counts, rows } of fixtures) {
    const pixels = Uint8Array.from(rows.join(""), Number);

    it(`decodes ${name} as pycocotools does`, () => {
      expect(decodeMask(counts, width, height)).toEqual(pixels);
    });

    it(`encodes ${name} as pycocotools does`, () => {
      expect(encodeMask(pixels, width, height)).toBe(counts);
    });
  }

  it("keeps the lengths of runs, long ones too", () => {
    const runs = [0, 1, 70000, 3, 5, 1_000_000, 31, 32, 33];
    expect(parseCounts(formatCounts(runs))).toEqual(runs);
  });

  it("refuses a mask of another size, and a truncated one", () => {
    expect(() => decodeMask(formatCounts([10, 10]), 3, 3)).toThrow("does not fit");
    expect(() => parseCounts("o")).toThrow("ends in the middle");
  });
});
