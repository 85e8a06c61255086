/** Masks as images in the color of their class; the most recent ones are cached. */

import { rgb } from "../lib/color";
import { decodeMask } from "../lib/rle";
import type { Size } from "../lib/shapes";

const MAX_PICTURES = 48;

export class MaskPictures {
  private readonly pictures = new Map<string, HTMLCanvasElement>();

  constructor(private readonly size: Size) {}

  get(counts: string, color: string, outlineOnly: boolean, opacity: number): HTMLCanvasElement {
    const key = `${color}|${outlineOnly}|${opacity}|${counts}`;
    const known = this.pictures.get(key);
    if (known) {
      this.pictures.delete(key);
      this.pictures.set(key, known);
      return known;
    }
    const canvas = document.createElement("canvas");
    canvas.width = this.size.width;
    canvas.height = this.size.height;
    let pixels: Uint8Array;
    try {
      pixels = decodeMask(counts, this.size.width, this.size.height);
    } catch {
      pixels = new Uint8Array(this.size.width * this.size.height);
    }
    paintMask(canvas, pixels, this.size, color, outlineOnly, opacity);
    this.pictures.set(key, canvas);
    if (this.pictures.size > MAX_PICTURES) this.pictures.delete(this.pictures.keys().next().value!);
    return canvas;
  }
}

/** Fill the mask with the color at an opacity and draw its edge opaque. */
export function paintMask(
  canvas: HTMLCanvasElement,
  pixels: Uint8Array,
  { width, height }: Size,
  color: string,
  outlineOnly: boolean,
  opacity: number,
): void {
  const context = canvas.getContext("2d")!;
  const image = context.createImageData(width, height);
  const packed = new Uint32Array(image.data.buffer);
  const [r, g, b] = rgb(color);
  const base = (b << 16) | (g << 8) | r;
  const inside = (((outlineOnly ? 0 : Math.round(opacity * 255)) << 24) | base) >>> 0;
  const edge = ((255 << 24) | base) >>> 0;
  for (let y = 0, at = 0; y < height; y++)
    for (let x = 0; x < width; x++, at++) {
      if (!pixels[at]) continue;
      const border =
        x === 0 || y === 0 || x === width - 1 || y === height - 1 ||
        !pixels[at - 1] || !pixels[at + 1] || !pixels[at - width] || !pixels[at + width];
      packed[at] = border ? edge : inside;
    }
  context.putImageData(image, 0, 0);
}
