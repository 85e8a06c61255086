import { describe, expect, it } from "vitest";

import { crc32 } from "../src/lib/crc32";
import { bounds, crosses, fillDisc, fillPolygon, grown, makeBox, makeMask, makePolygon, moved, smoothed, toPixels } from "../src/lib/shapes";

const size = { width: 40, height: 30 };

describe("shapes", () => {
  it("a box is within the frame, its corners in order, and nothing where it is too small", () => {
    expect(makeBox(50, 20, -5, 10, size)?.box).toEqual([0, 10, 40, 20]);
    expect(makeBox(5, 5, 5.5, 9, size)).toBeNull();
  });

  it("moving stops at the edge of the frame and keeps the size", () => {
    const box = makeBox(30, 20, 38, 28, size)!;
    expect(moved(box, 10, 10, size)).toEqual({ kind: "box", box: [32, 22, 40, 30] });
    const pixels = new Uint8Array(1200);
    fillDisc(pixels, size, 10, 10, 4, 1);
    const mask = makeMask(pixels, size)!;
    const [x1, y1, x2, y2] = bounds(mask, size)!;
    expect(bounds(moved(mask, -100, 3, size), size)).toEqual([0, y1 + 3, x2 - x1, y2 + 3]);
    expect(moved(moved(mask, 3, 2, size), -3, -2, size)).toEqual(mask);
  });

  it("growing a mask and shrinking it again gives a mask that covers what was there", () => {
    const mask = makeMask(toPixels(makeBox(10, 10, 20, 20, size), size), size)!;
    const back = toPixels(grown(grown(mask, 2, size), -2, size), size);
    toPixels(mask, size).forEach((pixel, at) => pixel && expect(back[at]).toBe(1));
  });

  it("a filled polygon has the pixels whose centers it holds", () => {
    const pixels = new Uint8Array(1200);
    fillPolygon(pixels, size, [2, 3, 12, 3, 12, 8, 2, 8], 1);
    expect(pixels.reduce((sum, pixel) => sum + pixel, 0)).toBe(50);
    expect(pixels[3 * 40 + 2]).toBe(1);
    expect(pixels[8 * 40 + 2]).toBe(0);
  });

  it("smoothing a mask takes a spike off and leaves the body", () => {
    const pixels = toPixels(makeBox(8, 8, 28, 24, size), size);
    pixels[4 * 40 + 18] = 1;
    const out = toPixels(smoothed(makeMask(pixels, size)!, size), size);
    expect(out[4 * 40 + 18]).toBe(0);
    expect(out[16 * 40 + 18]).toBe(1);
  });

  it("knows a bow tie", () => {
    expect(crosses([0, 0, 10, 10, 10, 0, 0, 10])).toBe(true);
    expect(crosses([0, 0, 10, 0, 10, 10, 0, 10])).toBe(false);
  });

  it("a polygon needs three vertices and lies within the frame", () => {
    expect(makePolygon([1, 1, 5, 5], size)).toBeNull();
    expect(makePolygon([-1, 1, 50, 5, 7, 99], size)?.points).toEqual([0, 1, 40, 5, 7, 30]);
  });
});

describe("crc32", () => {
  it("is the one of zlib", () => {
    expect(crc32(new TextEncoder().encode("123456789"))).toBe(0xcbf43926);
  });
});
