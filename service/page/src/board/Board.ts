/** The frame with its labels, and drawing on it. Coordinates on all layers are pixels of the frame. */

import Konva from "konva/lib/Core";
import { Circle } from "konva/lib/shapes/Circle";
import { Image as KonvaImage } from "konva/lib/shapes/Image";
import { Line } from "konva/lib/shapes/Line";
import { Rect } from "konva/lib/shapes/Rect";
import { Transformer } from "konva/lib/shapes/Transformer";

import { bounds, crosses, grown, makeBox, makePolygon, moved, type Point, type Shape, smoothed } from "../lib/shapes";
import { type Entry, type Row, Source, State } from "../model/labels";
import { may } from "../model/caller";
import { human, type Session } from "../model/session";
import { opacity, outlineOnly } from "../model/settings";
import { notify } from "../model/toasts";
import { Brush } from "./Brush";
import { MaskPictures } from "./MaskPictures";

const MARGIN_PX = 16;
const HANDLE_PX = 5;
const MAX_HANDLES = 240;
const CLOSE_PX = 7;

export class Board {
  private readonly stage: Konva.Stage;
  private readonly frameLayer = new Konva.Layer({ listening: false, imageSmoothingEnabled: true });
  private readonly labelLayer = new Konva.Layer({ imageSmoothingEnabled: false });
  private readonly toolLayer = new Konva.Layer({ imageSmoothingEnabled: false });
  private readonly picture = new KonvaImage({ image: undefined, x: 0, y: 0 });
  private readonly masks: MaskPictures;
  private readonly brush: Brush;
  private readonly cursor: Line;
  private readonly preview: Line;
  private fitted = true;
  private held = false;
  private stale = false;
  private panning: { pointer: Point; stage: Point } | null = null;
  /** Fingers on the screen, by pointer id; two of them zoom and move the frame. */
  private readonly touches = new Map<number, Point>();
  private points: number[] = [];
  private corner: Point | null = null;
  /** Position of the pen that keys move; null until a key moves it. */
  private pen: Point | null = null;

  constructor(
    container: HTMLDivElement,
    private readonly session: Session,
    private readonly onZoom: (scale: number) => void,
  ) {
    const { width, height } = session.size;
    this.stage = new Konva.Stage({ container, width: container.clientWidth, height: container.clientHeight });
    this.masks = new MaskPictures(session.size);
    this.picture.size({ width, height });
    this.frameLayer.add(this.picture);
    const line = { stroke: "#fff", strokeWidth: 1.5, strokeScaleEnabled: false, listening: false, visible: false };
    this.preview = new Line({ ...line, points: [], dash: [5, 4] });
    this.cursor = new Line({ ...line, points: [], shadowColor: "#000", shadowBlur: 2, shadowOpacity: 0.9 });
    this.toolLayer.add(this.preview, this.cursor);
    this.brush = new Brush(session, this.toolLayer);
    this.stage.add(this.frameLayer, this.labelLayer, this.toolLayer);
    this.stage.on("pointerdown", (event) => this.down(event.evt, event.target));
    this.stage.on("pointermove", (event) => this.move(event.evt));
    this.stage.on("pointerup pointerleave pointercancel", (event) => this.up(event.evt));
    this.stage.on("dblclick", (event) => event.evt.detail > 1 && this.doubleClick());
    this.stage.on("wheel", (event) => this.wheel(event.evt));
    this.stage.on("contextmenu", (event) => event.evt.preventDefault());
    this.fit();
  }

  destroy(): void {
    this.stage.destroy();
  }

  resize(width: number, height: number): void {
    this.stage.size({ width, height });
    if (this.fitted) this.fit();
  }

  showFrame(bitmap: ImageBitmap | undefined): void {
    if (bitmap) this.picture.image(bitmap);
    this.frameLayer.draw();
    this.showDrawing();
  }

  // --- view ---------------------------------------------------------------------------------------------------------

  fit(): void {
    const { width, height } = this.session.size;
    const scale = Math.min(
      (this.stage.width() - 2 * MARGIN_PX) / width,
      (this.stage.height() - 2 * MARGIN_PX) / height,
    );
    this.place(Math.max(scale, 0.02), {
      x: (this.stage.width() - width * scale) / 2,
      y: (this.stage.height() - height * scale) / 2,
    });
    this.fitted = true;
  }

  zoom(factor: number, around?: Point): void {
    const before = this.stage.scaleX();
    const scale = Math.min(Math.max(before * factor, 0.05), 40);
    const { x, y } = around ?? { x: this.stage.width() / 2, y: this.stage.height() / 2 };
    const at = this.stage.position();
    this.place(scale, { x: x - ((x - at.x) * scale) / before, y: y - ((y - at.y) * scale) / before });
    this.fitted = false;
  }

  private place(scale: number, at: Point): void {
    this.stage.scale({ x: scale, y: scale });
    this.stage.position(at);
    this.frameLayer.imageSmoothingEnabled(scale < 3);
    this.onZoom(scale);
    this.arrange();
    this.stage.batchDraw();
  }

  private wheel(event: WheelEvent): void {
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY * 0.0016), this.stage.getPointerPosition() ?? undefined);
  }

  // --- labels -------------------------------------------------------------------------------------------------------

  /** Draw the labels of the frame on the screen; they can be clicked when this returns. */
  draw(): void {
    if (this.held) {
      this.stale = true;
      return;
    }
    this.arrange();
    this.labelLayer.draw();
  }

  /** While a shape or a handle is dragged, labels that arrive must not redraw it: the drag would end. */
  private hold(): void {
    this.held = true;
    const release = (): void => {
      this.held = false;
      if (this.stale) this.draw();
      this.stale = false;
    };
    // The same event ends the drag; release after it.
    addEventListener("pointerup", () => setTimeout(release), { once: true });
  }

  private arrange(): void {
    const { session, labelLayer } = this;
    labelLayer.destroyChildren();
    const frame = session.player.shown.peek();
    const selected = session.selected.peek();
    const rows = [...session.labels.rows.values()].filter((row) => !row.isFrameClass);
    rows.sort((a, b) => Number(a.key === selected) - Number(b.key === selected));
    for (const row of rows) {
      const entry = frame < 0 || session.hidden.peek().has(row.key) ? null : row.get(frame);
      if (entry?.shape && !this.brush.replaces(row, frame)) this.add(row, entry, entry.shape, row.key === selected);
    }
  }

  private add(row: Row, entry: Entry, shape: Shape, selected: boolean): void {
    const color = this.session.classColor(row.className);
    const dashed = entry.state !== State.VISIBLE;
    const look = {
      stroke: color,
      strokeWidth: selected ? 2.5 : entry.source === Source.HUMAN ? 2.25 : 1.5,
      strokeScaleEnabled: false,
      dash: dashed ? [7, 5] : undefined,
      fill: outlineOnly.peek() || dashed ? undefined : color + hexByte(opacity.peek() * 0.55),
      hitStrokeWidth: 10,
    };
    let node: Konva.Shape;
    if (shape.kind === "box") {
      const [x1, y1, x2, y2] = shape.box;
      node = new Rect({ ...look, x: x1, y: y1, width: x2 - x1, height: y2 - y1 });
    } else if (shape.kind === "polygon") {
      node = new Line({ ...look, points: shape.points, closed: true });
    } else {
      const image = this.masks.get(shape.counts, color, outlineOnly.peek() || dashed, opacity.peek());
      node = new KonvaImage({ image, x: 0, y: 0 });
    }
    node.listening(this.session.tool.peek() === "select");
    this.labelLayer.add(node as never);
    node.on("pointerdown", () => (this.session.selected.value = row.key));
    if (shape.kind === "mask") this.hitByPixels(node as unknown as KonvaImage);
    if (selected && this.session.tool.peek() === "select" && may("work", this.session.project.peek().name)) this.addHandles(row, shape, node, entry);
  }

  /** A click selects a mask on its pixels, not anywhere in the rectangle of its image. */
  private hitByPixels(node: KonvaImage): void {
    node.hitFunc((context) => {
      const image = node.image() as HTMLCanvasElement | undefined;
      if (!image) return;
      const key = node.colorKey;
      const stamp = document.createElement("canvas");
      [stamp.width, stamp.height] = [image.width, image.height];
      const inner = stamp.getContext("2d")!;
      inner.drawImage(image, 0, 0);
      inner.globalCompositeOperation = "source-in";
      inner.fillStyle = key;
      inner.fillRect(0, 0, stamp.width, stamp.height);
      context.drawImage(stamp, 0, 0);
    });
  }

  private addHandles(row: Row, shape: Shape, node: Konva.Shape, entry: Entry): void {
    const save = (made: Shape | null): void => {
      if (this.touches.size > 1) return this.draw(); // a second finger made a pinch of it
      if (made?.kind === "polygon" && crosses(made.points)) {
        notify("That would make the outline cross itself.", "error");
        return this.draw();
      }
      if (made) this.session.draw(made, entry.frame, row);
    };
    if (shape.kind === "box") this.addTransformer(node as unknown as Rect, save);
    if (shape.kind !== "polygon") return;
    const line = node as unknown as Line;
    line.draggable(true);
    line.on("dragend", () => save(moved(shape, line.x(), line.y(), this.session.size)));
    if (shape.points.length <= 2 * MAX_HANDLES) this.addVertices(shape.points, line, save);
  }

  private addTransformer(rect: Rect, save: (made: Shape | null) => void): void {
    const { size } = this.session;
    rect.draggable(true);
    const transformer = new Transformer({
      nodes: [rect],
      rotateEnabled: false,
      flipEnabled: false,
      keepRatio: false,
      ignoreStroke: true,
      borderEnabled: false,
      anchorSize: 9,
      anchorCornerRadius: 2,
      anchorFill: "#fff",
      anchorStroke: "#10141a",
    });
    this.labelLayer.add(transformer as never);
    rect.on("dragend transformend", () => {
      const { x, y } = rect.position();
      save(makeBox(x, y, x + rect.width() * rect.scaleX(), y + rect.height() * rect.scaleY(), size));
    });
  }

  private addVertices(points: number[], line: Line, save: (made: Shape | null) => void): void {
    const { size } = this.session;
    const radius = HANDLE_PX / this.stage.scaleX();
    const count = points.length / 2;
    let [lastX, lastY] = [Infinity, Infinity];
    for (let index = 0; index < count; index++) {
      const [x, y] = [points[2 * index], points[2 * index + 1]];
      const next = (index + 1) % count;
      // Handles that would overlap appear after zooming in.
      if (Math.hypot(x - lastX, y - lastY) < 2 * radius) continue;
      [lastX, lastY] = [x, y];
      const handle = new Circle({ x, y, radius, fill: "#fff", stroke: "#10141a", strokeWidth: 1, strokeScaleEnabled: false, draggable: true });
      handle.on("dragmove", () => {
        const now = points.slice();
        [now[2 * index], now[2 * index + 1]] = [handle.x(), handle.y()];
        line.points(now);
      });
      handle.on("dragend", () => save(makePolygon(line.points(), size)));
      handle.on("dblclick", (event) => {
        event.cancelBubble = true;
        if (count > 3) save(makePolygon(points.toSpliced(2 * index, 2), size));
      });
      const middle = new Circle({
        x: (x + points[2 * next]) / 2,
        y: (y + points[2 * next + 1]) / 2,
        radius: radius * 0.7,
        fill: "#ffffff88",
        draggable: true,
      });
      middle.on("dragend", () => save(makePolygon(points.toSpliced(2 * index + 2, 0, middle.x(), middle.y()), size)));
      this.labelLayer.add(middle as never, handle as never);
    }
  }

  // --- drawing ------------------------------------------------------------------------------------------------------

  private at(): Point {
    const { x, y } = this.stage.getRelativePointerPosition() ?? { x: 0, y: 0 };
    return { x, y };
  }

  private down(event: PointerEvent, target: Konva.Node): void {
    const tool = this.session.tool.peek();
    this.pen = null;
    if (event.pointerType === "touch") this.touches.set(event.pointerId, this.onStage(event));
    if (this.touches.size > 1) return this.startPinch();
    if (event.button === 1 || (tool === "select" && target === (this.stage as Konva.Node))) {
      const pointer = this.stage.getPointerPosition() ?? { x: 0, y: 0 };
      this.panning = { pointer, stage: this.stage.position() };
      return;
    }
    if (tool === "select" && event.button === 0 && target.draggable()) this.hold();
    if (event.button !== 0 && !(event.button === 2 && tool === "brush")) return;
    this.session.player.pause();
    this.putDown(this.at(), event.button === 2);
  }

  private move(event: PointerEvent): void {
    if (this.touches.size > 1) return this.pinch(event);
    if (this.panning) {
      const { x, y } = this.stage.getPointerPosition() ?? { x: 0, y: 0 };
      const { pointer, stage } = this.panning;
      this.fitted = false;
      this.place(this.stage.scaleX(), { x: stage.x + x - pointer.x, y: stage.y + y - pointer.y });
      return;
    }
    const coalesced = this.brush.painting && this.isOnFrame ? (event.getCoalescedEvents?.() ?? []) : [];
    const [scale, origin] = [this.stage.scaleX(), this.stage.position()];
    for (const part of coalesced) {
      const { x, y } = this.onStage(part);
      this.brush.to({ x: (x - origin.x) / scale, y: (y - origin.y) / scale });
    }
    this.follow(this.at());
  }

  /** Where a pointer is on the stage, in pixels of the screen. */
  private onStage(event: PointerEvent): Point {
    const rect = this.stage.container().getBoundingClientRect();
    return { x: event.clientX - rect.x, y: event.clientY - rect.y };
  }

  /** A second finger came down: what the first one just started is not a drawing. */
  private startPinch(): void {
    this.panning = null;
    if (this.brush.painting || this.corner) this.cancel();
    else this.removeLastPoint();
  }

  /** Zoom and move the frame with two fingers. */
  private pinch(event: PointerEvent): void {
    const [before, span] = this.grip();
    this.touches.set(event.pointerId, this.onStage(event));
    const [after, newSpan] = this.grip();
    const at = this.stage.position();
    this.place(this.stage.scaleX(), { x: at.x + after.x - before.x, y: at.y + after.y - before.y });
    if (span > 0) this.zoom(newSpan / span, after);
  }

  /** Middle and distance of two fingers. */
  private grip(): [Point, number] {
    const [a, b] = [...this.touches.values()];
    return [{ x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 }, Math.hypot(a.x - b.x, a.y - b.y)];
  }

  private up(event: PointerEvent): void {
    const wasPinching = this.touches.size > 1;
    this.touches.delete(event.pointerId);
    if (wasPinching) return;
    if (this.panning) {
      this.panning = null;
      return;
    }
    const tool = this.session.tool.peek();
    if (tool === "box" && this.corner) {
      const { x, y } = this.at();
      const scale = this.stage.scaleX();
      if (Math.hypot(x - this.corner.x, y - this.corner.y) * scale > 4) this.putDown({ x, y });
    } else if (this.brush.painting) this.lift();
  }

  private lift(): void {
    this.brush.lift();
    this.noteDrawing();
  }

  /** Whether the frame on the screen is that of the started shape; also true if there is none. */
  private get isOnFrame(): boolean {
    const frame = this.session.drawing.peek();
    return frame === null || frame === this.session.player.shown.peek();
  }

  /** A started shape stays on its own frame until it is finished or discarded; a message says so on other frames. */
  private isDrawable(): boolean {
    if (this.isOnFrame) return true;
    const { drawing, player } = this.session;
    const frame = drawing.peek()!;
    notify(`You started a shape on frame ${frame}. Go back to finish it, or press Esc to discard it.`, "info", {
      label: `Go to frame ${frame}`,
      run: () => player.go(frame),
    });
    return false;
  }

  /** Show the started shape on its own frame only. */
  private showDrawing(): void {
    const frame = this.session.player.shown.peek();
    this.brush.showOn(frame);
    this.preview.visible(Boolean(this.corner || this.points.length) && this.isOnFrame);
    this.toolLayer.batchDraw();
  }

  /** Put the pen down at a point: a corner, a vertex or the start of a stroke, depending on the tool. */
  private putDown(point: Point, erase = false): void {
    if (!this.isDrawable()) return;
    const tool = this.session.tool.peek();
    if (tool === "box") {
      if (!this.corner) this.corner = point;
      else this.finishBox(point);
    } else if (tool === "polygon") {
      const [x, y] = this.points;
      const near = Math.hypot(point.x - x, point.y - y) * this.stage.scaleX() < CLOSE_PX;
      if (this.points.length >= 6 && near) {
        this.finish();
        return;
      }
      this.points.push(point.x, point.y);
    } else if (tool === "brush" || tool === "eraser") this.brush.down(point, erase || tool === "eraser");
    this.noteDrawing();
    this.follow(point);
  }

  private noteDrawing(): void {
    const started = this.corner || this.points.length || this.brush.painting;
    this.session.drawing.value = started ? (this.session.drawing.peek() ?? this.session.player.shown.peek()) : null;
  }

  /** Preview what a click at this point would draw. */
  private follow(point: Point): void {
    const tool = this.session.tool.peek();
    const color = this.session.classColor(this.session.selectedRow.peek()?.className ?? this.session.activeClass.peek());
    const { x, y } = point;
    this.preview.stroke(color);
    if (this.corner) {
      const { x: ax, y: ay } = this.corner;
      this.preview.points([ax, ay, x, ay, x, y, ax, y, ax, ay]);
    } else if (this.points.length) this.preview.points([...this.points, x, y]);
    this.brush.hover(tool === "brush" || tool === "eraser" ? point : null);
    if (this.brush.painting && this.isOnFrame) this.brush.to(point);
    this.cursor.visible(this.pen !== null);
    const arm = 12 / this.stage.scaleX();
    this.cursor.points([x - arm, y, x + arm, y, x, y, x, y - arm, x, y + arm]);
    this.showDrawing();
  }

  private finishBox(point: Point): void {
    const { x, y } = this.corner!;
    const made = makeBox(x, y, point.x, point.y, this.session.size);
    this.cancel();
    if (!made) return notify("The box is too small. Drag a larger one.");
    this.session.draw(made);
    this.session.tool.value = "select";
  }

  /** A double click closes the polygon; two quick vertices near each other do not. */
  private doubleClick(): void {
    const [ax, ay, bx, by] = this.points.slice(-4);
    if (this.points.length >= 4 && Math.hypot(ax - bx, ay - by) * this.stage.scaleX() < CLOSE_PX) this.finish();
  }

  /** Close the started polygon; false if there is none. */
  finish(): boolean {
    if (this.session.tool.peek() !== "polygon" || this.points.length < 6) return false;
    if (!this.isDrawable()) return true;
    // A double click sets the last vertex twice.
    const unique: number[] = [];
    for (let index = 0; index < this.points.length; index += 2) {
      const [x, y] = [this.points[index], this.points[index + 1]];
      if (!unique.length || Math.hypot(x - unique.at(-2)!, y - unique.at(-1)!) > 0.5) unique.push(x, y);
    }
    const made = makePolygon(unique, this.session.size);
    if (made && crosses(made.points)) {
      notify("The outline crosses itself. Press Backspace to remove the last points.", "error");
      return true;
    }
    this.cancel();
    if (made) {
      this.session.draw(made);
      this.session.tool.value = "select";
    }
    return true;
  }

  /** Discard the started drawing; false if there was none. */
  cancel(): boolean {
    const hadDrawing = Boolean(this.corner || this.points.length || this.brush.painting || this.pen);
    this.corner = null;
    this.points = [];
    this.pen = null;
    this.brush.cancel();
    this.session.drawing.value = null;
    this.preview.visible(false);
    this.cursor.visible(false);
    this.toolLayer.batchDraw();
    return hadDrawing;
  }

  /** Remove the last vertex of the started polygon; false if there was none. */
  removeLastPoint(): boolean {
    if (!this.points.length) return false;
    if (!this.isDrawable()) return true;
    this.points.splice(-2);
    this.noteDrawing();
    this.follow(this.pen ?? this.at());
    return true;
  }

  // --- keyboard -----------------------------------------------------------------------------------------------------

  /** Move the pen, or the selected shape if no drawing tool is active. */
  nudge(dx: number, dy: number): void {
    const { session } = this;
    if (session.tool.peek() === "select") return this.change((shape) => moved(shape, dx, dy, session.size), "move");
    const { width, height } = session.size;
    const from = this.pen ?? { x: Math.round(width / 2), y: Math.round(height / 2) };
    this.pen = { x: Math.min(Math.max(from.x + dx, 0), width), y: Math.min(Math.max(from.y + dy, 0), height) };
    this.follow(this.pen);
  }

  /** Enter: put the pen down, or lift it. */
  press(): void {
    if (!this.pen) return this.nudge(0, 0);
    if (!this.isDrawable()) return;
    if (this.brush.painting) this.lift();
    else {
      const { pen } = this;
      this.putDown(pen);
      if (this.session.tool.peek() !== "select") this.pen = pen;
    }
  }

  /** Whether keys moved the pen away from the last vertex: Enter then adds a vertex instead of closing the polygon. */
  get hasMovedOn(): boolean {
    const [x, y] = this.points.slice(-2);
    return this.pen !== null && this.points.length > 0 && Math.hypot(this.pen.x - x, this.pen.y - y) > 0.5;
  }

  grow(by: number): void {
    this.change((shape) => grown(shape, by, this.session.size), by > 0 ? "grow" : "shrink");
  }

  smooth(): void {
    this.change((shape) => smoothed(shape, this.session.size), "smooth");
  }

  private change(transform: (shape: Shape) => Shape, verb: string): void {
    const { session } = this;
    const row = session.selectedRow.peek();
    const frame = session.player.shown.peek();
    const shape = row?.shapes.get(frame);
    if (!row || !shape) return notify("Select an object that has a shape on this frame.");
    const state = row.state[frame] as Entry["state"];
    session.edit(`${verb} ${session.nameOf(row)}`, [[row, human(frame, state, transform(shape))]]);
  }

  /** Zoom in on the selected object. */
  reveal(): void {
    const row = this.session.selectedRow.peek();
    const shape = row?.shapes.get(this.session.player.shown.peek());
    const around = shape && bounds(shape, this.session.size);
    if (!around) return this.fit();
    const [x1, y1, x2, y2] = around;
    const scale = Math.min(this.stage.width() / (3 * (x2 - x1)), this.stage.height() / (3 * (y2 - y1)), 12);
    this.fitted = false;
    this.place(scale, {
      x: this.stage.width() / 2 - ((x1 + x2) / 2) * scale,
      y: this.stage.height() / 2 - ((y1 + y2) / 2) * scale,
    });
  }
}

function hexByte(share: number): string {
  return Math.round(Math.min(Math.max(share, 0), 1) * 255)
    .toString(16)
    .padStart(2, "0");
}
