/** Painting masks with a round brush; a stroke that returns to its start fills the area it encloses. */

import type Konva from "konva/lib/Core";
import { Circle } from "konva/lib/shapes/Circle";
import { Image as KonvaImage } from "konva/lib/shapes/Image";

import { fillDisc, fillPolygon, makeMask, type Point, toPixels } from "../lib/shapes";
import { type Row, State } from "../model/labels";
import { human, type Session } from "../model/session";
import { brush as brushSize, opacity } from "../model/settings";
import { notify } from "../model/toasts";
import { paintMask } from "./MaskPictures";

export class Brush {
  private readonly ring: Circle;
  private readonly image: KonvaImage;
  private readonly canvas = document.createElement("canvas");
  private pixels: Uint8Array | null = null;
  private row: Row | null = null;
  private frame = -1;
  private path: number[] = [];
  private value = 1;
  private scheduled = false;

  constructor(
    private readonly session: Session,
    private readonly layer: Konva.Layer,
  ) {
    this.canvas.width = session.size.width;
    this.canvas.height = session.size.height;
    this.image = new KonvaImage({ image: this.canvas, x: 0, y: 0, visible: false, listening: false });
    this.ring = new Circle({
      stroke: "#fff",
      strokeWidth: 1.5,
      strokeScaleEnabled: false,
      visible: false,
      listening: false,
      shadowColor: "#000",
      shadowBlur: 3,
      shadowOpacity: 0.8,
    });
    layer.add(this.image as never, this.ring as never);
  }

  get painting(): boolean {
    return this.pixels !== null;
  }

  /** Whether the current stroke replaces the label of a row on a frame. */
  replaces(row: Row, frame: number): boolean {
    return this.pixels !== null && row === this.row && frame === this.frame;
  }

  /** Show the brush at a point; null hides it. */
  hover(point: Point | null): void {
    this.ring.visible(point !== null);
    if (point) this.ring.setAttrs({ x: point.x, y: point.y, radius: Math.max(brushSize.peek(), 0.5) });
  }

  down(point: Point, erase: boolean): void {
    const { session } = this;
    const row = session.targetRow();
    this.frame = session.player.shown.peek();
    if (!row || this.frame < 0) return;
    const shape = row.shapes.get(this.frame) ?? null;
    if (erase && !shape) return notify("Nothing to erase on this frame.");
    this.row = row;
    this.pixels = toPixels(shape, session.size);
    this.value = erase ? 0 : 1;
    this.path = [point.x, point.y];
    this.stamp(point);
    this.image.visible(true);
    this.paint();
    session.labels.touch(); // the stored label is hidden during the stroke
  }

  to(point: Point): void {
    if (!this.pixels) return;
    const [x, y] = this.path.slice(-2);
    const distance = Math.hypot(point.x - x, point.y - y);
    if (distance < 0.3) return;
    const spacing = Math.max(brushSize.peek() / 3, 0.5);
    for (let along = spacing; along < distance; along += spacing)
      this.stamp({ x: x + ((point.x - x) * along) / distance, y: y + ((point.y - y) * along) / distance });
    this.stamp(point);
    this.path.push(point.x, point.y);
    this.paint();
  }

  /** End the stroke: the painted mask becomes the label. */
  lift(): void {
    const { session, pixels, row, frame, path } = this;
    if (!pixels || !row) return;
    if (this.isClosed()) fillPolygon(pixels, session.size, path, this.value);
    this.cancel();
    const shape = makeMask(pixels, session.size);
    if (shape) session.draw(shape, frame, row);
    else if (row.state[frame])
      session.edit(`erase ${session.nameOf(row)}`, [
        [row, human(frame, State.NONE, null)],
      ]);
  }

  cancel(): void {
    this.pixels = null;
    this.row = null;
    this.image.visible(false);
    this.session.labels.touch();
    this.layer.batchDraw();
  }

  private isClosed(): boolean {
    const { path } = this;
    const radius = Math.max(brushSize.peek(), 1);
    let length = 0;
    for (let at = 2; at < path.length; at += 2) length += Math.hypot(path[at] - path[at - 2], path[at + 1] - path[at - 1]);
    const gap = Math.hypot(path[0] - path.at(-2)!, path[1] - path.at(-1)!);
    return length > 8 * radius && gap < Math.max(1.5 * radius, 0.12 * length);
  }

  private stamp({ x, y }: Point): void {
    fillDisc(this.pixels!, this.session.size, x, y, Math.max(brushSize.peek(), 0.5), this.value);
  }

  private paint(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      if (!this.pixels || !this.row) return;
      const color = this.session.classColor(this.row.className);
      paintMask(this.canvas, this.pixels, this.session.size, color, false, Math.max(opacity.peek(), 0.3));
      this.layer.batchDraw();
    });
  }
}
