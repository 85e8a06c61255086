/** Painting masks with a round brush; a closed stroke fills the area inside, up to its center line. */

import type Konva from "konva/lib/Core";
import { Circle } from "konva/lib/shapes/Circle";
import { Image as KonvaImage } from "konva/lib/shapes/Image";

import { fillDisc, fillPolygon, isClosed, makeMask, type Point, toPixels, tracedArea } from "../lib/shapes";
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
  /** The mask before the stroke, and the pixels of the stroke alone. */
  private before: Uint8Array = new Uint8Array();
  private stroke: Uint8Array = new Uint8Array();
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

  /** Show the stroke only on its own frame. */
  showOn(frame: number): void {
    this.image.visible(this.pixels !== null && frame === this.frame);
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
    this.before = toPixels(shape, session.size);
    this.pixels = this.before.slice();
    this.stroke = new Uint8Array(this.pixels.length);
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
    const { session, pixels, row, frame } = this;
    if (!pixels || !row) return;
    const painted = isClosed(this.path, Math.max(brushSize.peek(), 1)) ? this.closed(pixels) : pixels;
    this.cancel();
    const shape = makeMask(painted, session.size);
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

  /** The mask after a closed stroke. */
  private closed(pixels: Uint8Array): Uint8Array {
    const { size } = this.session;
    const inside = this.value ? tracedArea(this.path, this.stroke, size) : null;
    if (inside) return inside.map((pixel, at) => pixel | this.before[at]); // an outline: half of the stroke lies outside
    fillPolygon(pixels, size, this.path, this.value, "nonzero");
    return pixels;
  }

  private stamp({ x, y }: Point): void {
    const radius = Math.max(brushSize.peek(), 0.5);
    fillDisc(this.pixels!, this.session.size, x, y, radius, this.value);
    fillDisc(this.stroke, this.session.size, x, y, radius, 1);
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
