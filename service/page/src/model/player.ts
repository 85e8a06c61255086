/** The current frame and playback. The frame on the screen is always the exact one, by its index. */

import { signal } from "@preact/signals";

import { FrameCache } from "./frames";
import { speed } from "./settings";

export class Player {
  /** The frame to show. */
  readonly frame = signal(0);
  /** The frame that is on the screen; labels are drawn for this one. */
  readonly shown = signal(-1);
  readonly playing = signal(false);
  private direction = 1;
  private closed = false;

  constructor(
    readonly cache: FrameCache,
    readonly frameCount: number,
    /** Presentation time of a frame in seconds. */
    readonly time: (frame: number) => number,
  ) {}

  go(frame: number): void {
    const target = Math.min(Math.max(Math.round(frame), 0), this.frameCount - 1);
    const from = this.frame.peek();
    if (target !== from) this.direction = target > from ? 1 : -1;
    this.frame.value = target;
    this.cache.focus(target, this.direction, this.playing.peek() ? Math.max(1, Math.round(speed.peek() / 2)) : 1);
    if (this.cache.peek(target)) {
      this.shown.value = target;
      return;
    }
    void this.cache.get(target).then(() => {
      // While scrubbing, a frame that arrives late must not replace a newer one.
      if (!this.closed && this.frame.peek() === target) this.shown.value = target;
    });
  }

  step(by: number): void {
    this.pause();
    this.go(this.frame.peek() + by);
  }

  toggle(): void {
    if (this.playing.peek()) this.pause();
    else this.play();
  }

  pause(): void {
    this.playing.value = false;
  }

  close(): void {
    this.closed = true;
    this.pause();
    this.cache.close();
  }

  private play(): void {
    if (this.frame.peek() >= this.frameCount - 1) this.go(0);
    this.playing.value = true;
    let began = performance.now();
    let origin = this.frame.peek();
    let rate = speed.peek();
    const tick = (now: number): void => {
      if (!this.playing.peek() || this.closed) return;
      const current = this.frame.peek();
      if (rate !== speed.peek() || this.shown.peek() !== current) {
        // The speed changed or a frame is not loaded yet: the clock waits.
        [began, origin, rate] = [now, current, speed.peek()];
      }
      const due = this.time(origin) + ((now - began) / 1000) * rate;
      let next = current;
      while (next + 1 < this.frameCount && this.time(next + 1) <= due) next++;
      if (next !== current) this.go(next);
      if (next >= this.frameCount - 1) return this.pause();
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }
}
