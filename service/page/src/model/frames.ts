/** Frames as bitmaps: exact, by index, prefetched in the direction of travel, with a limit on memory. */

import { isAbort, loginRequired, online } from "../api/rpc";

const BUDGET_BYTES = 220 << 20;
const MAX_REQUESTS = 4;
/** A busy server may fail to decode in time; a frame is requested so many times before an error is shown. */
const MAX_ATTEMPTS = 4;

export class FrameCache {
  private readonly ready = new Map<number, ImageBitmap>();
  private readonly loading = new Map<number, AbortController>();
  private readonly waiting = new Map<number, ((bitmap: ImageBitmap) => void)[]>();
  private readonly limit: number;
  private wanted: number[] = [];
  private closed = false;
  private readonly failures = new Map<number, number>();
  private readonly stopListening: () => void;
  /** Called when another frame has been loaded. */
  onReady: () => void = () => undefined;
  /** Called when a frame cannot be loaded. */
  onError: (error: unknown) => void = () => undefined;

  constructor(
    private readonly video: string,
    private readonly frameCount: number,
    width: number,
    height: number,
  ) {
    this.limit = Math.min(160, Math.max(12, Math.floor(BUDGET_BYTES / (width * height * 4))));
    this.stopListening = online.subscribe((yes) => {
      if (yes) this.pump();
    });
  }

  /** The first frame, from this one on, that is not loaded. */
  readyUpTo(index: number): number {
    while (this.ready.has(index)) index++;
    return index;
  }

  /** The bitmap of a frame if it is loaded. */
  peek(index: number): ImageBitmap | undefined {
    return this.ready.get(index);
  }

  /** The bitmap of a frame, as soon as it is loaded. */
  get(index: number): Promise<ImageBitmap> {
    const bitmap = this.ready.get(index);
    if (bitmap) return Promise.resolve(bitmap);
    return new Promise((resolve) => {
      this.waiting.set(index, [...(this.waiting.get(index) ?? []), resolve]);
    });
  }

  /** Set the frame in view and the direction of travel (1 or -1). Frames that are neither near nor requested are freed. */
  focus(index: number, direction: number, step = 1): void {
    const ahead = Math.floor(this.limit * 0.45);
    const wanted = [index];
    for (let distance = 1; distance <= ahead; distance++) {
      wanted.push(index + direction * distance * step);
      if (distance <= ahead / 4) wanted.push(index - direction * distance);
    }
    this.wanted = wanted.filter((frame) => frame >= 0 && frame < this.frameCount);
    const keep = new Set(this.wanted.slice(0, Math.max(MAX_REQUESTS, 8)));
    for (const [frame, controller] of this.loading) if (!keep.has(frame) && frame !== index) controller.abort();
    this.evict();
    this.pump();
  }

  close(): void {
    this.closed = true;
    this.stopListening();
    for (const controller of this.loading.values()) controller.abort();
    for (const bitmap of this.ready.values()) bitmap.close();
    this.ready.clear();
    this.waiting.clear();
  }

  private pump(): void {
    if (this.closed || !online.peek()) return;
    for (const frame of this.wanted) {
      if (this.loading.size >= MAX_REQUESTS) return;
      if (!this.ready.has(frame) && !this.loading.has(frame)) void this.load(frame);
    }
  }

  private async load(frame: number): Promise<void> {
    const controller = new AbortController();
    this.loading.set(frame, controller);
    try {
      const response = await fetch(`/frames/${this.video}/${frame}.jpg`, { signal: controller.signal });
      if (!response.ok) {
        const body = (await response.json().catch(() => null)) as { error?: { message?: string } } | null;
        if (response.status === 401) loginRequired.value = true;
        throw new Error(body?.error?.message ?? `Frame ${frame} cannot be shown. Reload the page to try again.`);
      }
      const bitmap = await createImageBitmap(await response.blob());
      if (this.closed) return bitmap.close();
      this.ready.get(frame)?.close();
      this.ready.set(frame, bitmap);
      for (const resolve of this.waiting.get(frame) ?? []) resolve(bitmap);
      this.waiting.delete(frame);
      this.evict();
      this.onReady();
    } catch (error) {
      if (isAbort(error)) return;
      if (error instanceof TypeError) return void (await pause(400)); // no connection; `pump` requests it again
      const failures = (this.failures.get(frame) ?? 0) + 1;
      this.failures.set(frame, failures);
      if (failures < MAX_ATTEMPTS) return void (await pause(500 * failures));
      this.wanted = this.wanted.filter((other) => other !== frame);
      this.onError(error);
    } finally {
      this.loading.delete(frame);
      this.pump();
    }
  }

  private evict(): void {
    if (this.ready.size <= this.limit) return;
    const [here] = this.wanted;
    const rank = new Map(this.wanted.map((frame, place) => [frame, place]));
    const far = (frame: number): number => rank.get(frame) ?? 1e6 + Math.abs(frame - here);
    const order = [...this.ready.keys()].sort((a, b) => far(b) - far(a));
    for (const frame of order.slice(0, this.ready.size - this.limit)) {
      this.ready.get(frame)!.close();
      this.ready.delete(frame);
    }
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
