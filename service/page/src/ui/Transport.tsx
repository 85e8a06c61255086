import { ChevronLeft, ChevronRight, Diamond, Pause, Play, SkipBack, SkipForward, Sparkles } from "lucide";
import { useLayoutEffect, useRef } from "preact/hooks";

import { clock, count } from "../lib/format";
import type { Session } from "../model/session";
import { speed } from "../model/settings";
import { Icon } from "./Icon";
import { BINDINGS } from "./keys";

const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4, 8];

export function Transport({ session }: { session: Session }) {
  const { player } = session;
  const frame = player.frame.value;
  const numbering = `${count(session.frameCount, "frame")}, numbered from 0 as in exported files`;
  const press = (key: string): void => {
    // The same actions as of the keys.
    BINDINGS.find((binding) => binding.keys.includes(key))!.run({
      session,
      board: () => null,
      help: () => undefined,
      focusFrame: () => undefined,
      tab: () => undefined,
      comment: () => undefined,
      identity: () => undefined,
      diagnostics: () => undefined,
    });
  };
  return (
    <section class="transport" aria-label="Playback">
      <div class="group">
        <button class="quiet square" aria-label="Previous label drawn by hand" title="Previous label drawn by hand (J)" onClick={() => press("j")}>
          <Icon of={SkipBack} />
        </button>
        <button class="quiet square" aria-label="One frame back" title="One frame back (←)" onClick={() => player.step(-1)}>
          <Icon of={ChevronLeft} size={18} />
        </button>
        <button
          class="play"
          aria-label={player.playing.value ? "Pause" : "Play"}
          title="Play or pause (Space)"
          onClick={() => player.toggle()}
        >
          <Icon of={player.playing.value ? Pause : Play} size={17} />
        </button>
        <button class="quiet square" aria-label="One frame forward" title="One frame forward (→)" onClick={() => player.step(1)}>
          <Icon of={ChevronRight} size={18} />
        </button>
        <button class="quiet square" aria-label="Next label drawn by hand" title="Next label drawn by hand (K)" onClick={() => press("k")}>
          <Icon of={SkipForward} />
        </button>
      </div>
      <div class="group frame-number">
        <label for="frame-number" class="muted">
          Frame
        </label>
        <FrameNumber session={session} />
        <span class="muted" title={numbering}>
          of 0–{(session.frameCount - 1).toLocaleString("en")}
        </span>
        <span class="muted clock">{clock(session.seconds(frame))}</span>
      </div>
      <label class="speed">
        <span class="muted">Speed</span>
        <select value={speed.value} onChange={(event) => (speed.value = Number(event.currentTarget.value))}>
          {SPEEDS.map((one) => (
            <option key={one} value={one}>
              {one} ×
            </option>
          ))}
        </select>
      </label>
      <span class="spacer" />
      <Legend />
      <button onClick={() => session.reviewing.next(1)} title="Next suggestion (N)">
        <Icon of={Sparkles} /> Next suggestion
      </button>
    </section>
  );
}

function FrameNumber({ session }: { session: Session }) {
  const frame = session.player.frame.value;
  const input = useRef<HTMLInputElement>(null);
  const show = (): void => {
    input.current!.value = String(session.player.frame.peek());
  };
  useLayoutEffect(show, [frame]); // a layout effect, so that the number always matches the frame on the screen
  return (
    <input
      id="frame-number"
      ref={input}
      inputMode="numeric"
      autocomplete="off"
      aria-label={`Frame number, 0 to ${session.frameCount - 1}`}
      title="Go to a frame number (G)"
      onFocus={(event) => event.currentTarget.select()}
      onBlur={(event) => {
        const text = event.currentTarget.value.trim();
        session.player.pause();
        if (text && Number.isFinite(Number(text))) session.player.go(Number(text));
        show();
      }}
      onKeyDown={(event) => {
        if (event.key === "Escape") show();
        if (event.key === "Enter" || event.key === "Escape") event.currentTarget.blur();
      }}
    />
  );
}

/** Legend of the timeline. */
function Legend() {
  return (
    <span class="legend" aria-hidden="true">
      <Icon of={Diamond} size={11} /> by hand
      <i class="ramp" /> low to high confidence
      <i class="thin" /> absent
    </span>
  );
}
