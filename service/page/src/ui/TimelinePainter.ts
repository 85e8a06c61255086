/** Paints the timeline: only the frames in view, with several frames in one pixel where the view is long. */

import { effect } from "@preact/signals";

import { confidenceColor } from "../lib/color";
import { assignedFrames } from "../model/assigning";
import { Review, type Row, Source, State } from "../model/labels";
import type { Session } from "../model/session";
import { theme } from "../model/settings";

export const ROW_PX = 26;
export const RULER_PX = 24;
const STRIP_TOP = 6;
const STRIP_PX = 14;
const MIN_SPAN_FRAMES = 12;

interface Colors {
  ink: string;
  muted: string;
  line: string;
  track: string;
  accent: string;
  flash: string;
}

export class TimelinePainter {
  private width = 0;
  private start = 0;
  private stop: number;
  private colors: Colors;
  private rows: Row[] = [];
  private animating = false;
  private readonly stops: (() => void)[];
  private readonly media = matchMedia("(prefers-color-scheme: dark)");

  constructor(
    private readonly session: Session,
    private readonly strips: HTMLCanvasElement,
    private readonly overlay: HTMLCanvasElement,
  ) {
    this.stop = session.frameCount;
    session.player.cache.onReady = () => this.paintOverlaySoon();
    this.colors = this.readColors();
    const recolor = (): void => {
      this.colors = this.readColors();
      this.paint();
    };
    this.media.addEventListener("change", recolor);
    this.stops = [
      effect(() => {
        theme.value;
        requestAnimationFrame(recolor);
      }),
      effect(() => {
        session.labels.version.value;
        session.project.value;
        session.selected.value;
        session.reviewing.suggestions.value;
        session.reviewing.cuts.value;
        this.paint();
      }),
      effect(() => this.follow(session.player.frame.value)),
      () => (session.player.cache.onReady = () => undefined),
      () => this.media.removeEventListener("change", recolor),
    ];
  }

  destroy(): void {
    for (const stop of this.stops) stop();
  }

  resize(width: number): void {
    this.width = width;
    this.paint();
  }

  frameAt(x: number): number {
    const frame = Math.floor(this.start + (x / this.width) * (this.stop - this.start));
    return Math.min(Math.max(frame, 0), this.session.frameCount - 1);
  }

  rowAt(y: number): Row | undefined {
    return this.rows[Math.floor((y - RULER_PX) / ROW_PX)];
  }

  showAll(): void {
    this.view(0, this.session.frameCount);
  }

  zoom(factor: number, around = this.session.player.frame.peek() + 0.5): void {
    const span = Math.min(Math.max((this.stop - this.start) * factor, MIN_SPAN_FRAMES), this.session.frameCount);
    const share = (around - this.start) / (this.stop - this.start);
    this.view(around - share * span, around + (1 - share) * span);
  }

  wheel(event: WheelEvent): void {
    const span = this.stop - this.start;
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      const x = event.clientX - this.strips.getBoundingClientRect().left;
      this.zoom(Math.exp(event.deltaY * 0.004), this.start + (x / this.width) * span);
    } else if (Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey) {
      event.preventDefault();
      const by = ((event.deltaX || event.deltaY) / this.width) * span;
      this.view(this.start + by, this.stop + by);
    }
  }

  private view(start: number, stop: number): void {
    const span = Math.min(stop - start, this.session.frameCount);
    this.start = Math.min(Math.max(start, 0), this.session.frameCount - span);
    this.stop = this.start + span;
    this.paint();
  }

  /** Keep the playhead in view. */
  private follow(frame: number): void {
    const span = this.stop - this.start;
    if (frame < this.start || frame + 1 > this.stop) this.view(frame - span / 4, frame + (span * 3) / 4);
    else this.paintOverlay();
  }

  private x(frame: number): number {
    return ((frame - this.start) / (this.stop - this.start)) * this.width;
  }

  private readColors(): Colors {
    const style = getComputedStyle(this.strips);
    const read = (name: string): string => {
      // Only a property that takes a color resolves light-dark().
      this.strips.style.color = `var(--${name})`;
      const value = style.color;
      this.strips.style.color = "";
      return value;
    };
    return {
      ink: read("ink"),
      muted: read("muted"),
      line: read("line"),
      track: read("strip"),
      accent: read("accent"),
      flash: read("flash"),
    };
  }

  private prepare(canvas: HTMLCanvasElement, height: number): CanvasRenderingContext2D {
    const ratio = devicePixelRatio;
    const [width, tall] = [Math.round(this.width * ratio), Math.round(height * ratio)];
    if (canvas.width !== width || canvas.height !== tall) {
      canvas.width = width;
      canvas.height = tall;
      canvas.style.width = `${this.width}px`;
      canvas.style.height = `${height}px`;
    }
    const context = canvas.getContext("2d")!;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.width, height);
    return context;
  }

  private paint(): void {
    this.rows = this.session.rows();
    if (!this.width) return;
    const height = RULER_PX + this.rows.length * ROW_PX;
    const context = this.prepare(this.strips, height);
    this.paintRuler(context, height);
    this.rows.forEach((row, index) => this.paintRow(context, row, RULER_PX + index * ROW_PX));
    this.paintOverlay();
  }

  private paintRuler(context: CanvasRenderingContext2D, height: number): void {
    const { ink, muted, line, accent } = this.colors;
    const step = niceStep(((this.stop - this.start) / this.width) * 80);
    context.font = "500 10.5px Inter, system-ui, sans-serif";
    context.textBaseline = "middle";
    for (let frame = Math.ceil(this.start / step) * step; frame < this.stop; frame += step) {
      const x = Math.round(this.x(frame)) + 0.5;
      context.fillStyle = line;
      context.fillRect(x - 0.5, RULER_PX - 5, 1, height);
      context.fillStyle = muted;
      if (x < this.width - 24) context.fillText(frame.toLocaleString("en"), x + 4, 9);
    }
    context.fillStyle = ink;
    for (const frame of this.session.reviewing.cuts.peek()) {
      const x = Math.round(this.x(frame));
      context.fillRect(x, RULER_PX - 8, 1.5, height);
    }
    context.fillStyle = accent;
    const marked = this.session.assigned ? assignedFrames(this.session) : this.session.reviewing.suggestions.peek();
    for (const suggestion of marked) {
      const x = this.x(suggestion.frame + 0.5);
      if (x < 0 || x > this.width) continue;
      context.beginPath();
      context.moveTo(x - 4, RULER_PX - 8);
      context.lineTo(x + 4, RULER_PX - 8);
      context.lineTo(x, RULER_PX - 1);
      context.fill();
    }
  }

  private paintRow(context: CanvasRenderingContext2D, row: Row, top: number): void {
    const { track, line, accent, muted } = this.colors;
    if (row.key === this.session.selected.peek()) {
      context.globalAlpha = 0.1;
      context.fillStyle = accent;
      context.fillRect(0, top, this.width, ROW_PX);
      context.globalAlpha = 1;
    }
    context.fillStyle = line;
    context.fillRect(0, top + ROW_PX - 1, this.width, 1);
    context.fillStyle = track;
    context.fillRect(0, top + STRIP_TOP, this.width, STRIP_PX);
    const color = this.session.classColor(row.className, row.isFrameClass);
    const perPixel = (this.stop - this.start) / this.width;
    if (perPixel > 1) this.paintBins(context, row, top, color, perPixel);
    else this.paintFrames(context, row, top, color);
    this.paintAnchors(context, row, top, color, muted);
  }

  /** More frames than pixels: each pixel shows its frame with the lowest confidence. */
  private paintBins(context: CanvasRenderingContext2D, row: Row, top: number, color: string, perPixel: number): void {
    for (let x = 0; x < this.width; x++) {
      const first = Math.floor(this.start + x * perPixel);
      const last = Math.min(Math.floor(this.start + (x + 1) * perPixel), this.session.frameCount);
      let worst = -1;
      let lowest = Infinity;
      let reviewed = 0;
      for (let frame = first; frame < Math.max(last, first + 1); frame++) {
        if (row.review[frame]) reviewed = row.review[frame];
        if (!row.state[frame]) continue;
        const value = row.source[frame] === Source.HUMAN ? 2 : row.confidence[frame] + (row.state[frame] === State.ABSENT ? 1 : 0);
        if (worst < 0 || value < lowest) [worst, lowest] = [frame, value];
      }
      if (worst >= 0) this.paintCell(context, row, worst, x, 1, top, color, reviewed);
    }
  }

  private paintFrames(context: CanvasRenderingContext2D, row: Row, top: number, color: string): void {
    const width = this.width / (this.stop - this.start);
    const gap = width > 14 ? 1 : 0;
    for (let frame = Math.floor(this.start); frame < Math.min(Math.ceil(this.stop), this.session.frameCount); frame++)
      if (row.state[frame]) this.paintCell(context, row, frame, this.x(frame), width - gap, top, color, row.review[frame]);
  }

  private paintCell(
    context: CanvasRenderingContext2D,
    row: Row,
    frame: number,
    x: number,
    width: number,
    top: number,
    color: string,
    review: number,
  ): void {
    const state = row.state[frame];
    const confidence = row.confidence[frame];
    const byHand = row.source[frame] === Source.HUMAN;
    context.fillStyle = byHand || Number.isNaN(confidence) ? color : confidenceColor(confidence);
    const middle = top + STRIP_TOP + STRIP_PX / 2;
    // Height shows the state, so that it can be read without colors.
    const tall = { [State.VISIBLE]: STRIP_PX, [State.OCCLUDED]: 6, [State.ABSENT]: 2, [State.UNCERTAIN]: 10 }[state as 1] ?? 0;
    context.fillRect(x, middle - tall / 2, width, tall);
    if (!review) return;
    const { accent, muted } = this.colors;
    context.fillStyle = review & Review.REJECTED ? confidenceColor(0) : review & Review.ACCEPTED ? accent : muted;
    context.fillRect(x, top + STRIP_TOP + STRIP_PX + 1, width, 2.5);
  }

  private paintAnchors(context: CanvasRenderingContext2D, row: Row, top: number, color: string, edge: string): void {
    const middle = top + STRIP_TOP + STRIP_PX / 2;
    const width = this.width / (this.stop - this.start);
    context.lineWidth = 1.25;
    let last = -Infinity;
    for (let frame = Math.max(Math.floor(this.start), 0); frame < Math.min(Math.ceil(this.stop), this.session.frameCount); frame++) {
      if (row.source[frame] !== Source.HUMAN) continue;
      const x = this.x(frame) + width / 2;
      if (x - last < 3) continue;
      last = x;
      const size = row.correction[frame] ? 4.5 : 5.5;
      context.beginPath();
      if (row.correction[frame]) context.arc(x, middle, size, 0, 2 * Math.PI);
      else {
        context.moveTo(x, middle - size - 1);
        context.lineTo(x + size, middle);
        context.lineTo(x, middle + size + 1);
        context.lineTo(x - size, middle);
        context.closePath();
      }
      context.fillStyle = row.state[frame] === State.ABSENT ? this.colors.track : color;
      context.fill();
      context.strokeStyle = row.state[frame] === State.ABSENT ? edge : this.colors.ink;
      context.stroke();
    }
  }

  /** The playhead and the labels that just changed. */
  private paintOverlay(): void {
    if (!this.width) return;
    const height = RULER_PX + this.rows.length * ROW_PX;
    const context = this.prepare(this.overlay, height);
    const now = performance.now();
    const width = Math.max(this.width / (this.stop - this.start), 1.5);
    let fresh = false;
    this.rows.forEach((row, index) => {
      for (const frame of [...row.changed.keys()]) {
        const share = row.freshness(frame, now);
        if (!share) continue;
        fresh = true;
        context.globalAlpha = share * 0.85;
        context.fillStyle = this.colors.flash;
        context.fillRect(this.x(frame), RULER_PX + index * ROW_PX + STRIP_TOP - 2, width, STRIP_PX + 4);
      }
    });
    context.globalAlpha = 1;
    const frame = this.session.player.frame.peek();
    const x = this.x(frame + 0.5);
    // As in video players: the frames ahead that are loaded.
    const ahead = this.session.player.cache.readyUpTo(frame);
    this.overlay.dataset.ahead = String(ahead);
    context.globalAlpha = 0.55;
    context.fillStyle = this.colors.accent;
    context.fillRect(x, 0, Math.max(this.x(ahead) - x, 0), 2);
    context.globalAlpha = 1;
    context.fillStyle = this.colors.ink;
    context.fillRect(x - 0.75, 4, 1.5, height);
    context.beginPath();
    context.roundRect(x - 5, 1, 10, 8, 3);
    context.fill();
    if (fresh) this.paintOverlaySoon();
  }

  private paintOverlaySoon(): void {
    if (this.animating) return;
    this.animating = true;
    requestAnimationFrame(() => {
      this.animating = false;
      this.paintOverlay();
    });
  }
}

/** The smallest step of 1, 2 or 5 times a power of ten that is not below a minimum. */
function niceStep(min: number): number {
  for (let power = 1; ; power *= 10) for (const digit of [1, 2, 5]) if (digit * power >= min) return digit * power;
}
