import { Eye, EyeOff, Maximize2, ZoomIn, ZoomOut } from "lucide";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

import { type Row, State, STATE_NAMES } from "../model/labels";
import type { Session } from "../model/session";
import { Icon } from "./Icon";
import { useScrollIntoView } from "./parts";
import { RULER_PX, ROW_PX, TimelinePainter } from "./TimelinePainter";

/** All objects and frame classes over time. Click or drag to go to a frame; Ctrl and the wheel zoom. */
export function Timeline({ session }: { session: Session }) {
  const holder = useRef<HTMLDivElement>(null);
  const strips = useRef<HTMLCanvasElement>(null);
  const overlay = useRef<HTMLCanvasElement>(null);
  const [painter, setPainter] = useState<TimelinePainter | null>(null);
  useLayoutEffect(() => {
    const made = new TimelinePainter(session, strips.current!, overlay.current!);
    setPainter(made);
    const observer = new ResizeObserver(() => made.resize(holder.current!.clientWidth));
    observer.observe(holder.current!);
    return () => {
      observer.disconnect();
      made.destroy();
    };
  }, [session]);
  session.labels.version.value;
  session.project.value;
  const rows = session.rows();
  const frame = session.player.frame.value;
  const drag = (event: PointerEvent): void => {
    const rect = strips.current!.getBoundingClientRect();
    const row = painter?.rowAt(event.clientY - rect.top);
    if (event.type === "pointerdown" && row) session.selected.value = row.key;
    session.player.pause();
    session.player.go(painter!.frameAt(event.clientX - rect.left));
  };
  return (
    <section class="timeline" aria-label="Timeline">
      <div class="timeline-scroll">
        <div class="timeline-names">
          <div class="timeline-corner" style={{ height: `${RULER_PX}px` }}>
            <button class="quiet square small" title="Zoom out" aria-label="Zoom the timeline out" onClick={() => painter?.zoom(2)}>
              <Icon of={ZoomOut} size={13} />
            </button>
            <button class="quiet square small" title="Zoom in" aria-label="Zoom the timeline in" onClick={() => painter?.zoom(0.5)}>
              <Icon of={ZoomIn} size={13} />
            </button>
            <button class="quiet square small" title="Show the whole video" aria-label="Show the whole video on the timeline" onClick={() => painter?.showAll()}>
              <Icon of={Maximize2} size={12} />
            </button>
          </div>
          {rows.map((row) => (
            <RowName key={row.key} session={session} row={row} />
          ))}
        </div>
        <div
          class="timeline-strips"
          ref={holder}
          role="slider"
          tabIndex={0}
          aria-label="Frame"
          aria-valuemin={0}
          aria-valuemax={session.frameCount - 1}
          aria-valuenow={frame}
          aria-valuetext={`Frame ${frame}: ${describe(session, frame)}`}
          onPointerDown={(event) => {
            if (event.button !== 0) return;
            event.currentTarget.setPointerCapture(event.pointerId);
            drag(event);
          }}
          onPointerMove={(event) => event.currentTarget.hasPointerCapture(event.pointerId) && drag(event)}
          onWheel={(event) => painter?.wheel(event)}
        >
          <canvas ref={strips} />
          <canvas ref={overlay} class="overlay" />
        </div>
      </div>
      {rows.length === 0 && <p class="timeline-empty">No objects yet. Draw one to see it here.</p>}
    </section>
  );
}

function RowName({ session, row }: { session: Session; row: Row }) {
  const hidden = session.hidden.value.has(row.key);
  const isSelected = session.selected.value === row.key;
  const element = useScrollIntoView<HTMLDivElement>(isSelected);
  const toggle = (): void => {
    const next = new Set(session.hidden.value);
    if (!next.delete(row.key)) next.add(row.key);
    session.hidden.value = next;
  };
  return (
    <div ref={element} class={`timeline-name ${isSelected ? "selected" : ""}`} style={{ height: `${ROW_PX}px` }}>
      <button class="name" onClick={() => (session.selected.value = row.key)} title={session.nameOf(row)}>
        <span
          class={row.isFrameClass ? "swatch ring" : "swatch"}
          style={{ "--swatch": session.classColor(row.className, row.isFrameClass) }}
        />
        <span class="ellipsis">{session.nameOf(row)}</span>
      </button>
      {!row.isFrameClass && (
        <button class="quiet square small eye" aria-label={`${hidden ? "Show" : "Hide"} ${session.nameOf(row)}`} aria-pressed={hidden} onClick={toggle}>
          <Icon of={hidden ? EyeOff : Eye} size={13} />
        </button>
      )}
    </div>
  );
}

/** The labels of a frame, as text. */
export function describe(session: Session, frame: number): string {
  const parts = session.rows().flatMap((row) => {
    const entry = row.get(frame);
    if (!entry) return [];
    const source = Number.isNaN(entry.confidence) ? "drawn by hand" : `confidence ${Math.round(entry.confidence * 100)} %`;
    const state = row.isFrameClass ? (entry.state === State.VISIBLE ? "yes" : "no") : STATE_NAMES[entry.state];
    return [`${session.nameOf(row)} ${state}, ${source}`];
  });
  return parts.join("; ") || "no labels";
}
