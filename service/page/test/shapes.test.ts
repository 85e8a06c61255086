import { describe, expect, it } from "vitest";

import { crc32 } from "../src/lib/crc32";
import { bounds, crosses, fillDisc, fillPolygon, grown, isClosed, makeBox, makeMask, makePolygon, moved, smoothed, toPixels, tracedArea } from "../src/lib/shapes";

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

  it("an outline that overlaps itself has no hole where the rule is nonzero", () => {
    const twice = [2, 2, 12, 2, 12, 12, 2, 12, 2, 2, 12, 2, 12, 12, 2, 12];
    const [evenodd, nonzero] = [new Uint8Array(1200), new Uint8Array(1200)];
    fillPolygon(evenodd, size, twice, 1);
    fillPolygon(nonzero, size, twice, 1, "nonzero");
    expect(evenodd.includes(1)).toBe(false);
    expect(nonzero.reduce((sum, pixel) => sum + pixel, 0)).toBe(100);
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

describe("a closed stroke", () => {
  const large = { width: 120, height: 120 };

  function paint(path: number[], radius: number): Uint8Array {
    const stroke = new Uint8Array(large.width * large.height);
    for (let at = 0; at < path.length; at += 2) fillDisc(stroke, large, path[at], path[at + 1], radius, 1);
    return stroke;
  }

  function iou(a: Uint8Array, b: Uint8Array): number {
    let [both, either] = [0, 0];
    a.forEach((pixel, at) => ((both += pixel & b[at]), (either += pixel | b[at])));
    return both / either;
  }

  it("around an object gives the object, also with a brush that is thick beside it", () => {
    const circle = Array.from({ length: 200 }, (_, step) => (step / 196) * 2 * Math.PI); // a little past the start
    const path = circle.flatMap((angle) => [60 + 30 * Math.cos(angle), 60 + 30 * Math.sin(angle)]);
    const object = new Uint8Array(large.width * large.height);
    fillDisc(object, large, 60, 60, 30, 1);
    for (const radius of [2, 8, 18]) {
      expect(isClosed(path, radius)).toBe(true);
      expect(iou(tracedArea(path, paint(path, radius), large)!, object)).toBeGreaterThan(0.97);
    }
    const grownBy18 = paint(path, 18);
    fillPolygon(grownBy18, large, path, 1);
    expect(iou(grownBy18, object)).toBeLessThan(0.4); // what the whole stroke would make of it
  });

  it("that paints an area back and forth is no outline", () => {
    const path: number[] = [];
    for (let row = 0; row < 12; row++) for (let step = 0; step <= 40; step++) path.push(row % 2 ? 80 - step : 40 + step, 40 + 4 * row);
    for (let step = 0; step <= 44; step++) path.push(40, 84 - step);
    expect(isClosed(path, 5)).toBe(true);
    expect(tracedArea(path, paint(path, 5), large)).toBeNull();
  });
});
