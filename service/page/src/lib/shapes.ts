/** Shapes and operations on them. Coordinates are pixels of the frame; boxes are x1, y1, x2, y2, half-open. */

import { decodeMask, encodeMask } from "./rle";

export type Box = { kind: "box"; box: [number, number, number, number] };
export type Polygon = { kind: "polygon"; points: number[] };
export type Mask = { kind: "mask"; counts: string };
export type Shape = Box | Polygon | Mask;
export interface Point {
  x: number;
  y: number;
}
export interface Size {
  width: number;
  height: number;
}

const clamp = (value: number, low: number, high: number): number => Math.min(Math.max(value, low), high);
const round = (value: number): number => Math.round(value * 100) / 100;

/** The box of two corners, clipped to the frame; null if less than a pixel wide or high. */
export function makeBox(x1: number, y1: number, x2: number, y2: number, size: Size): Box | null {
  const box: Box["box"] = [
    round(clamp(Math.min(x1, x2), 0, size.width)),
    round(clamp(Math.min(y1, y2), 0, size.height)),
    round(clamp(Math.max(x1, x2), 0, size.width)),
    round(clamp(Math.max(y1, y2), 0, size.height)),
  ];
  return box[2] - box[0] < 1 || box[3] - box[1] < 1 ? null : { kind: "box", box };
}

/** The polygon, clipped to the frame; null for fewer than three vertices. */
export function makePolygon(points: readonly number[], size: Size): Polygon | null {
  if (points.length < 6) return null;
  return {
    kind: "polygon",
    points: points.map((value, index) => round(clamp(value, 0, index % 2 ? size.height : size.width))),
  };
}

/** Whether two sides of a closed outline cross. */
export function crosses(points: readonly number[]): boolean {
  const count = points.length / 2;
  const at = (index: number): [number, number] => [points[2 * (index % count)], points[2 * (index % count) + 1]];
  const side = ([ax, ay]: [number, number], [bx, by]: [number, number], [cx, cy]: [number, number]): number =>
    Math.sign((bx - ax) * (cy - ay) - (by - ay) * (cx - ax));
  for (let i = 0; i < count; i++) {
    const [a, b] = [at(i), at(i + 1)];
    for (let j = i + 2; j < count; j++) {
      if (i === 0 && j === count - 1) continue; // neighbors around the start
      const [c, d] = [at(j), at(j + 1)];
      if (side(a, b, c) * side(a, b, d) < 0 && side(c, d, a) * side(c, d, b) < 0) return true;
    }
  }
  return false;
}

/** The mask of pixels; null if it is empty. */
export function makeMask(pixels: Uint8Array, size: Size): Mask | null {
  return pixels.includes(1) ? { kind: "mask", counts: encodeMask(pixels, size.width, size.height) } : null;
}

/** The smallest box around a shape; null for an empty mask. */
export function bounds(shape: Shape, size: Size): Box["box"] | null {
  if (shape.kind === "box") return shape.box;
  if (shape.kind === "polygon") {
    const xs = shape.points.filter((_, index) => index % 2 === 0);
    const ys = shape.points.filter((_, index) => index % 2 === 1);
    return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
  }
  return maskBounds(decodeMask(shape.counts, size.width, size.height), size);
}

export function maskBounds(pixels: Uint8Array, { width, height }: Size): Box["box"] | null {
  let [x1, y1, x2, y2] = [width, height, 0, 0];
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (!pixels[at]) continue;
      if (x < x1) x1 = x;
      if (x >= x2) x2 = x + 1;
      if (y < y1) y1 = y;
      y2 = y + 1;
    }
  }
  return x2 > x1 ? [x1, y1, x2, y2] : null;
}

/** The shape moved by whole pixels, kept within the frame. */
export function moved(shape: Shape, dx: number, dy: number, size: Size): Shape {
  const around = bounds(shape, size);
  if (!around) return shape;
  dx = clamp(dx, -around[0], size.width - around[2]);
  dy = clamp(dy, -around[1], size.height - around[3]);
  if (shape.kind === "box") {
    const [x1, y1, x2, y2] = shape.box;
    return makeBox(x1 + dx, y1 + dy, x2 + dx, y2 + dy, size) ?? shape;
  }
  if (shape.kind === "polygon") {
    return makePolygon(shape.points.map((value, index) => value + (index % 2 ? dy : dx)), size) ?? shape;
  }
  const pixels = decodeMask(shape.counts, size.width, size.height);
  const out = new Uint8Array(pixels.length);
  const [ix, iy] = [Math.round(dx), Math.round(dy)];
  for (let y = Math.max(0, iy); y < Math.min(size.height, size.height + iy); y++) {
    for (let x = Math.max(0, ix); x < Math.min(size.width, size.width + ix); x++) {
      out[y * size.width + x] = pixels[(y - iy) * size.width + (x - ix)];
    }
  }
  return makeMask(out, size) ?? shape;
}

/** The shape grown by pixels on every side; shrunk if the number is negative. */
export function grown(shape: Shape, by: number, size: Size): Shape {
  if (shape.kind === "box") {
    const [x1, y1, x2, y2] = shape.box;
    if (x2 - x1 + 2 * by < 2 || y2 - y1 + 2 * by < 2) return shape;
    return makeBox(x1 - by, y1 - by, x2 + by, y2 + by, size) ?? shape;
  }
  if (shape.kind === "polygon") {
    const [x1, y1, x2, y2] = bounds(shape, size)!;
    const [cx, cy] = [(x1 + x2) / 2, (y1 + y2) / 2];
    const scale = 1 + (2 * by) / Math.max(x2 - x1, y2 - y1, 2);
    if (scale <= 0.05) return shape;
    const points = shape.points.map((value, index) => (index % 2 ? cy + (value - cy) * scale : cx + (value - cx) * scale));
    return makePolygon(points, size) ?? shape;
  }
  let pixels = decodeMask(shape.counts, size.width, size.height);
  for (let step = 0; step < Math.abs(by); step++) pixels = dilated(pixels, size, by > 0);
  return makeMask(pixels, size) ?? shape;
}

function dilated(pixels: Uint8Array, { width, height }: Size, grow: boolean): Uint8Array {
  const out = pixels.slice();
  const wanted = grow ? 1 : 0;
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (pixels[at] === wanted) continue;
      if (
        (x > 0 && pixels[at - 1] === wanted) ||
        (x + 1 < width && pixels[at + 1] === wanted) ||
        (y > 0 && pixels[at - width] === wanted) ||
        (y + 1 < height && pixels[at + width] === wanted)
      )
        out[at] = wanted;
    }
  }
  return out;
}

/** The shape smoothed: polygons by corner cutting, masks by a majority of neighbors; boxes stay the same. */
export function smoothed(shape: Shape, size: Size): Shape {
  if (shape.kind === "box") return shape;
  if (shape.kind === "polygon") {
    const { points } = shape;
    const count = points.length / 2;
    const at = (index: number, axis: number): number => points[((index + count) % count) * 2 + axis];
    const out: number[] = [];
    for (let index = 0; index < count; index++)
      for (const axis of [0, 1]) out.push((at(index - 1, axis) + 2 * at(index, axis) + at(index + 1, axis)) / 4);
    return makePolygon(out, size) ?? shape;
  }
  const { width, height } = size;
  const pixels = decodeMask(shape.counts, width, height);
  const radius = 3;
  const sums = new Int32Array((width + 1) * (height + 1));
  for (let y = 0; y < height; y++)
    for (let x = 0, row = 0; x < width; x++) {
      row += pixels[y * width + x];
      sums[(y + 1) * (width + 1) + x + 1] = sums[y * (width + 1) + x + 1] + row;
    }
  const out = new Uint8Array(pixels.length);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const [x1, x2] = [Math.max(0, x - radius), Math.min(width, x + radius + 1)];
      const [y1, y2] = [Math.max(0, y - radius), Math.min(height, y + radius + 1)];
      const w = width + 1;
      const sum = sums[y2 * w + x2] - sums[y1 * w + x2] - sums[y2 * w + x1] + sums[y1 * w + x1];
      out[y * width + x] = 2 * sum > (x2 - x1) * (y2 - y1) ? 1 : 0;
    }
  return makeMask(out, size) ?? shape;
}

/** The shape as a mask, one byte a pixel: 0 or 1. */
export function toPixels(shape: Shape | null, size: Size): Uint8Array {
  if (!shape) return new Uint8Array(size.width * size.height);
  if (shape.kind === "mask") return decodeMask(shape.counts, size.width, size.height);
  const points = shape.kind === "polygon" ? shape.points : corners(shape.box);
  const pixels = new Uint8Array(size.width * size.height);
  fillPolygon(pixels, size, points, 1);
  return pixels;
}

export function corners([x1, y1, x2, y2]: Box["box"]): number[] {
  return [x1, y1, x2, y1, x2, y2, x1, y2];
}

/**
 * Set the pixels whose centers lie in a polygon. Where the outline overlaps itself, "evenodd" leaves a hole, as COCO
 * does, and "nonzero" does not.
 */
export function fillPolygon(
  pixels: Uint8Array,
  { width, height }: Size,
  points: readonly number[],
  value: number,
  rule: "evenodd" | "nonzero" = "evenodd",
): void {
  const count = points.length / 2;
  for (let y = 0; y < height; y++) {
    const crossings: { x: number; direction: number }[] = [];
    const level = y + 0.5;
    for (let index = 0; index < count; index++) {
      const [ax, ay] = [points[2 * index], points[2 * index + 1]];
      const next = (index + 1) % count;
      const [bx, by] = [points[2 * next], points[2 * next + 1]];
      if (ay <= level !== by <= level) crossings.push({ x: ax + ((level - ay) / (by - ay)) * (bx - ax), direction: by > ay ? 1 : -1 });
    }
    crossings.sort((a, b) => a.x - b.x);
    let winding = 0;
    for (let at = 0; at + 1 < crossings.length; at++) {
      winding += rule === "evenodd" ? 1 : crossings[at].direction;
      if (rule === "evenodd" ? winding % 2 === 0 : winding === 0) continue;
      const start = clamp(Math.ceil(crossings[at].x - 0.5), 0, width);
      const stop = clamp(Math.ceil(crossings[at + 1].x - 0.5), 0, width);
      pixels.fill(value, y * width + start, y * width + stop);
    }
  }
}

/** Whether a stroke of a round brush returns to where it started. */
export function isClosed(path: readonly number[], radius: number): boolean {
  const length = pathLength(path);
  const gap = Math.hypot(path[0] - path.at(-2)!, path[1] - path.at(-1)!);
  return length > 8 * radius && gap < Math.max(1.5 * radius, 0.12 * length);
}

/** A closed stroke is an outline if it leaves this share of the area inside unpainted. */
const MIN_UNPAINTED = 0.3;
/** It is one, too, if it is this compact: area over length squared, 1 for a circle. Strokes that paint an area are not. */
const MIN_COMPACTNESS = 0.2;

/**
 * The area inside a closed stroke that traces an outline, up to the center line of the stroke; null for a stroke that
 * paints an area back and forth.
 *
 * @param path Center line of the stroke, x and y in turn.
 * @param stroke Pixels that the brush painted, 0 or 1.
 */
export function tracedArea(path: readonly number[], stroke: Uint8Array, size: Size): Uint8Array | null {
  const inside = new Uint8Array(stroke.length);
  fillPolygon(inside, size, path, 1, "nonzero");
  let [area, painted] = [0, 0];
  for (let at = 0; at < inside.length; at++) {
    area += inside[at];
    painted += inside[at] & stroke[at];
  }
  if (!area) return null;
  const compactness = (4 * Math.PI * area) / pathLength(path) ** 2;
  return 1 - painted / area >= MIN_UNPAINTED || compactness >= MIN_COMPACTNESS ? inside : null;
}

function pathLength(path: readonly number[]): number {
  let length = 0;
  for (let at = 2; at < path.length; at += 2) length += Math.hypot(path[at] - path[at - 2], path[at + 1] - path[at - 1]);
  return length;
}

/** Set the pixels of a disc. */
export function fillDisc(pixels: Uint8Array, { width, height }: Size, cx: number, cy: number, radius: number, value: number): void {
  for (let y = Math.max(0, Math.floor(cy - radius)); y < Math.min(height, Math.ceil(cy + radius)); y++) {
    const half = radius * radius - (y + 0.5 - cy) ** 2;
    if (half < 0) continue;
    const halfWidth = Math.sqrt(half);
    const start = clamp(Math.ceil(cx - halfWidth - 0.5), 0, width);
    const stop = clamp(Math.floor(cx + halfWidth - 0.5) + 1, 0, width);
    if (stop > start) pixels.fill(value, y * width + start, y * width + stop);
  }
}
