/**
 * All labels of one video, row by row: the data that the timeline and the canvas draw.
 *
 * State, confidence and source of a row are typed arrays with one entry a frame, so that 20,000 frames of several rows
 * take a few hundred kilobytes. Shapes are in maps; masks stay compressed.
 */

import { signal } from "@preact/signals";

import type { Label, LabelKey, ReviewMessage } from "../api/messages";
import { type Shape, type Size } from "../lib/shapes";

export const State = { NONE: 0, VISIBLE: 1, OCCLUDED: 2, ABSENT: 3, UNCERTAIN: 4 } as const;
export type StateNumber = (typeof State)[keyof typeof State];
export const STATE_NAMES = ["no label", "visible", "occluded", "absent", "uncertain"] as const;
export const Source = { NONE: 0, HUMAN: 1, MODEL: 2, INTERPOLATED: 3 } as const;

/** Bits: a label can be both accepted and locked. */
export const Review = { NONE: 0, ACCEPTED: 1, REJECTED: 2, LOCKED: 4 } as const;

const STATES = [
  "OBJECT_STATE_UNSPECIFIED",
  "OBJECT_STATE_VISIBLE",
  "OBJECT_STATE_OCCLUDED",
  "OBJECT_STATE_ABSENT",
  "OBJECT_STATE_UNCERTAIN",
];
const SOURCES = [
  "PROVENANCE_KIND_UNSPECIFIED",
  "PROVENANCE_KIND_HUMAN",
  "PROVENANCE_KIND_MODEL",
  "PROVENANCE_KIND_INTERPOLATED",
];
const FLASH_MS = 2600;

/** One label in the page. */
export interface Entry {
  frame: number;
  state: StateNumber;
  shape: Shape | null;
  confidence: number;
  source: number;
  /** The micro-model version that made it. */
  version: string;
  /** `Review` bits. */
  review: number;
  /** The label revision that wrote it; 0 until the server has it. */
  revision: number;
}

/** One object through time, or one frame class. */
export class Row {
  readonly state: Uint8Array;
  readonly confidence: Float32Array;
  readonly source: Uint8Array;
  /** `Review` bits. */
  readonly review: Uint8Array;
  /** 1 where a person changed a micro-model's label. */
  readonly correction: Uint8Array;
  readonly shapes = new Map<number, Shape>();
  readonly versions = new Map<number, string>();
  /** Revisions of labels made by hand. */
  readonly revisions = new Map<number, number>();
  /** Frames that changed a moment ago, and when; the timeline highlights them. */
  readonly changed = new Map<number, number>();

  constructor(
    readonly name: string,
    public className: string,
    readonly isFrameClass: boolean,
    frameCount: number,
  ) {
    this.state = new Uint8Array(frameCount);
    this.confidence = new Float32Array(frameCount).fill(NaN);
    this.source = new Uint8Array(frameCount);
    this.review = new Uint8Array(frameCount);
    this.correction = new Uint8Array(frameCount);
  }

  get key(): string {
    return rowKey(this.name, this.isFrameClass);
  }

  get(frame: number): Entry | null {
    if (!this.state[frame]) return null;
    return {
      frame,
      state: this.state[frame] as StateNumber,
      shape: this.shapes.get(frame) ?? null,
      confidence: this.confidence[frame],
      source: this.source[frame],
      version: this.versions.get(frame) ?? "",
      review: this.review[frame],
      revision: this.revisions.get(frame) ?? 0,
    };
  }

  put(frame: number, entry: Entry | null): void {
    if (entry?.source !== Source.HUMAN) this.correction[frame] = 0;
    else if (this.source[frame] === Source.MODEL) this.correction[frame] = 1;
    // A new version of a label keeps the lock but not the review.
    this.review[frame] = entry ? entry.review | (this.review[frame] & Review.LOCKED) : Review.NONE;
    this.state[frame] = entry?.state ?? State.NONE;
    this.confidence[frame] = entry?.confidence ?? NaN;
    this.source[frame] = entry?.source ?? Source.NONE;
    if (entry?.shape) this.shapes.set(frame, entry.shape);
    else this.shapes.delete(frame);
    if (entry?.source === Source.HUMAN) this.revisions.set(frame, entry.revision);
    else this.revisions.delete(frame);
    if (entry?.version) this.versions.set(frame, intern(entry.version));
    else this.versions.delete(frame);
  }

  flash(frame: number): void {
    this.changed.set(frame, performance.now());
  }

  /** How fresh a change still is: 1 at first, 0 when the highlight ends. */
  freshness(frame: number, now: number): number {
    const then = this.changed.get(frame);
    if (then === undefined) return 0;
    const left = 1 - (now - then) / FLASH_MS;
    if (left <= 0) this.changed.delete(frame);
    return Math.max(left, 0);
  }

  isAnchor(frame: number): boolean {
    return this.source[frame] === Source.HUMAN;
  }

  anchors(): number[] {
    const frames: number[] = [];
    for (let frame = 0; frame < this.source.length; frame++) if (this.source[frame] === Source.HUMAN) frames.push(frame);
    return frames;
  }

  setReview(frame: number, action: ReviewAction): void {
    const bits = this.review[frame];
    if (!this.state[frame]) return;
    if (action === "accept") this.review[frame] = (bits & Review.LOCKED) | Review.ACCEPTED;
    else if (action === "reject") this.review[frame] = (bits & Review.LOCKED) | Review.REJECTED;
    else if (action === "reset") this.review[frame] = bits & Review.LOCKED;
    else if (action === "lock") this.review[frame] = bits | Review.LOCKED;
    else this.review[frame] = bits & ~Review.LOCKED;
  }

  isEmpty(): boolean {
    return !this.state.some(Boolean);
  }
}

export type ReviewAction = "accept" | "reject" | "reset" | "lock" | "unlock";

const interned = new Map<string, string>();

/** One string for all labels of a micro-model version. */
function intern(text: string): string {
  let known = interned.get(text);
  if (known === undefined) interned.set(text, (known = text));
  return known;
}

export function rowKey(name: string, isFrameClass: boolean): string {
  return (isFrameClass ? "f:" : "o:") + name;
}

interface MergeOptions {
  /** Highlight what changed. */
  flash?: boolean;
  /** Whether an edit of this label, `row key@frame`, is still on its way to the server. */
  pending?: (key: string) => boolean;
  /** Collects `row key@frame` of every label. */
  seen?: Set<string>;
}

export class Labels {
  readonly rows = new Map<string, Row>();
  /** Grows with every change, at most once a frame of the screen. */
  readonly version = signal(0);
  /** The newest label revision of the video that the page has seen. */
  revision = 0;
  private scheduled = false;

  constructor(
    readonly frameCount: number,
    readonly size: Size,
  ) {}

  /** Objects by class and name, then frame classes. */
  ordered(): Row[] {
    return [...this.rows.values()].sort(
      (a, b) =>
        Number(a.isFrameClass) - Number(b.isFrameClass) ||
        a.className.localeCompare(b.className) ||
        a.name.localeCompare(b.name, "en", { numeric: true }),
    );
  }

  row(name: string, className: string, isFrameClass: boolean): Row {
    const key = rowKey(name, isFrameClass);
    let row = this.rows.get(key);
    if (!row) {
      row = new Row(name, className, isFrameClass, this.frameCount);
      this.rows.set(key, row);
    }
    return row;
  }

  /**
   * Merge labels as the API sends them; labels with a pending edit keep that edit.
   */
  merge(messages: readonly Label[], options: MergeOptions = {}): void {
    for (const message of messages) {
      const frame = Number(message.frameIndex ?? 0);
      const { name, className, isFrameClass, entry } = fromMessage(message, frame);
      const row = this.row(name, className, isFrameClass);
      this.revision = Math.max(this.revision, Number(message.revision ?? 0));
      options.seen?.add(`${row.key}@${frame}`);
      if (options.pending?.(`${row.key}@${frame}`)) continue;
      if (options.flash && differs(row.get(frame), entry)) row.flash(frame);
      if (!isFrameClass) row.className = className;
      row.put(frame, entry);
    }
    if (messages.length) this.touch();
  }

  /** Remove labels of these frames that the answer of the server did not contain. */
  dropUnseen(seen: ReadonlySet<string>, start: number, stop: number, options: MergeOptions, only?: ReadonlySet<string>): void {
    for (const row of this.rows.values()) {
      if (only && !only.has(row.key)) continue;
      for (let frame = start; frame < stop; frame++) {
        const key = `${row.key}@${frame}`;
        if (!row.state[frame] || seen.has(key) || options.pending?.(key)) continue;
        if (options.flash) row.flash(frame);
        row.put(frame, null);
      }
    }
    this.touch();
  }

  drop(row: Row, frame: number): void {
    row.put(frame, null);
    this.touch();
  }

  touch(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    const go = (): void => {
      this.scheduled = false;
      this.version.value++;
    };
    if (document.hidden) setTimeout(go, 0);
    else requestAnimationFrame(go);
  }
}

function differs(before: Entry | null, after: Entry): boolean {
  return (
    !before ||
    before.state !== after.state ||
    before.source !== after.source ||
    JSON.stringify(before.shape) !== JSON.stringify(after.shape)
  );
}

function reviewBits(review: ReviewMessage | undefined): number {
  const state = { REVIEW_STATE_ACCEPTED: Review.ACCEPTED, REVIEW_STATE_REJECTED: Review.REJECTED }[review?.state as string] ?? 0;
  return state | (review?.locked ? Review.LOCKED : 0);
}

function fromMessage(
  message: Label,
  frame: number,
): { name: string; className: string; isFrameClass: boolean; entry: Entry } {
  const source = Math.max(0, SOURCES.indexOf(message.provenance?.kind ?? ""));
  const entry: Entry = {
    frame,
    state: State.VISIBLE,
    shape: null,
    confidence: message.confidence ?? NaN,
    source,
    version: message.provenance?.version ?? "",
    review: reviewBits(message.review),
    revision: Number(message.revision ?? 0),
  };
  if (message.frameClass) {
    const name = message.frameClass.frameClass;
    entry.state = message.frameClass.present ? State.VISIBLE : State.ABSENT;
    return { name, className: name, isFrameClass: true, entry };
  }
  const object = message.object!;
  entry.state = Math.max(0, STATES.indexOf(object.state ?? "")) as StateNumber;
  if (object.box) {
    const { x1 = 0, y1 = 0, x2 = 0, y2 = 0 } = object.box;
    entry.shape = { kind: "box", box: [x1, y1, x2, y2] };
  } else if (object.polygon) entry.shape = { kind: "polygon", points: object.polygon.coordinates ?? [] };
  else if (object.mask) entry.shape = { kind: "mask", counts: object.mask.counts ?? "" };
  return { name: object.track, className: object.objectClass, isFrameClass: false, entry };
}

/** A label as a message of the API. */
export function toMessage(row: Row, entry: Entry, size: Size): Label {
  const message: Label = { frameIndex: String(entry.frame) };
  if (entry.source !== Source.HUMAN) {
    message.provenance = { kind: SOURCES[entry.source], version: entry.version };
    if (!Number.isNaN(entry.confidence)) message.confidence = entry.confidence;
  }
  if (row.isFrameClass) {
    message.frameClass = { frameClass: row.name, present: entry.state === State.VISIBLE };
    return message;
  }
  message.object = { track: row.name, objectClass: row.className, state: STATES[entry.state] };
  const { shape } = entry;
  if (shape?.kind === "box") {
    const [x1, y1, x2, y2] = shape.box;
    message.object.box = { x1, y1, x2, y2 };
  } else if (shape?.kind === "polygon") message.object.polygon = { coordinates: shape.points };
  else if (shape) message.object.mask = { heightPx: size.height, widthPx: size.width, counts: shape.counts };
  return message;
}

export function keyMessage(row: Row, frame: number): LabelKey {
  return row.isFrameClass ? { frameIndex: String(frame), frameClass: row.name } : { frameIndex: String(frame), track: row.name };
}
