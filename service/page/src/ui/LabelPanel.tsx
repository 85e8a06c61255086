import { Copy, Minus, Palette, Plus, Sparkles, Spline, Trash2, Zap } from "lucide";

import { percent } from "../lib/format";
import { type Entry, type Row, Source, State, STATE_NAMES } from "../model/labels";
import { may, whyNot } from "../model/caller";
import type { Session } from "../model/session";
import { Icon } from "./Icon";
import { Needs, useScrollIntoView } from "./parts";

/** Objects and frame classes of the current frame, and the buttons that change them. */
export function LabelPanel(props: { session: Session; onClasses: () => void; onTrain: () => void }) {
  const { session } = props;
  session.labels.version.value;
  const project = session.project.value.name;
  const frame = session.player.shown.value;
  const objects = session.rows().filter((row) => !row.isFrameClass);
  const classes = session.rows().filter((row) => row.isFrameClass);
  return (
    <>
      <section>
        <div class="section-head">
          <h2>New object</h2>
          <button class="link" disabled={!may("manage", project)} title={whyNot("manage", project)} onClick={props.onClasses}>
            <Icon of={Palette} size={13} /> Classes
          </button>
        </div>
        <Needs to="work" project={session.project.value.name}>
        <div class="chips" role="radiogroup" aria-label="Class of the new object">
          {(session.project.value.objectClasses ?? []).map((one) => {
            const on = session.selected.value === null && session.activeClass.value === one.name;
            return (
              <button
                key={one.name}
                role="radio"
                aria-checked={on}
                class={`chip ${on ? "on" : ""}`}
                onClick={() => {
                  session.selected.value = null;
                  session.activeClass.value = one.name;
                }}
              >
                <span class="swatch" style={{ background: session.classColor(one.name) }} />
                {one.name}
              </button>
            );
          })}
        </div>
        </Needs>
      </section>
      {objects.length > 0 && (
        <section>
          <h2>Objects on frame {frame < 0 ? "" : frame.toLocaleString("en")}</h2>
          <ul class="objects">
            {objects.map((row) => (
              <ObjectRow key={row.key} session={session} row={row} entry={frame < 0 ? null : row.get(frame)} />
            ))}
          </ul>
        </section>
      )}
      <Selected session={session} />
      {classes.length > 0 && (
        <section>
          <h2>Frame classes</h2>
          <ul class="objects">
            {classes.map((row) => (
              <FrameClassRow key={row.key} session={session} row={row} frame={frame} />
            ))}
          </ul>
        </section>
      )}
      {!session.assignment && <Next session={session} onTrain={props.onTrain} />}
    </>
  );
}

function ObjectRow({ session, row, entry }: { session: Session; row: Row; entry: Entry | null }) {
  const on = session.selected.value === row.key;
  const button = useScrollIntoView<HTMLButtonElement>(on);
  return (
    <li>
      <button ref={button} class={`object ${on ? "on" : ""}`} aria-pressed={on} onClick={() => (session.selected.value = row.key)}>
        <span class="swatch" style={{ background: session.classColor(row.className) }} />
        <span class="ellipsis">{session.nameOf(row)}</span>
        <StateTag entry={entry} />
      </button>
    </li>
  );
}

function StateTag({ entry }: { entry: Entry | null }) {
  if (!entry) return <span class="muted small-text">no label</span>;
  const confidence = Number.isNaN(entry.confidence) ? "" : percent(entry.confidence);
  return (
    <span class="state-tag">
      <span class={`dot ${STATE_NAMES[entry.state]}`} />
      {STATE_NAMES[entry.state]}
      <span class="by" title={entry.source === Source.HUMAN ? "" : "Confidence"}>
        {entry.source === Source.HUMAN ? "by hand" : confidence}
      </span>
    </span>
  );
}

const STATES = [
  { state: State.VISIBLE, name: "Visible", help: "Visible on this frame (I)" },
  { state: State.OCCLUDED, name: "Occluded", help: "On this frame, but behind something (H)" },
  { state: State.ABSENT, name: "Absent", help: "Not on this frame (X)" },
  { state: State.UNCERTAIN, name: "Uncertain", help: "Cannot be decided on this frame (U)" },
] as const;

function Selected({ session }: { session: Session }) {
  session.labels.version.value; // draw again when labels change: the properties stay the same
  const row = session.selectedRow.value;
  if (!row || row.isFrameClass) return null;
  const frame = session.player.shown.value;
  const entry = frame < 0 ? null : row.get(frame);
  const press = (key: string): void => {
    dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  };
  return (
    <section>
      <h2>{session.nameOf(row)}</h2>
      <Needs to="work" project={session.project.value.name}>
      <div class="segmented" role="radiogroup" aria-label="State on this frame">
        {STATES.map((one) => (
          <button
            key={one.name}
            role="radio"
            aria-checked={entry?.state === one.state}
            class={entry?.state === one.state ? "on" : ""}
            title={one.help}
            onClick={() => session.setState(one.state)}
          >
            {one.name}
          </button>
        ))}
      </div>
      <div class="button-row">
        <button title="Copy the label from the previous frame (,)" onClick={() => press(",")}>
          <Icon of={Copy} size={14} /> Copy previous
        </button>
        <button title="Copy the label from the next frame (.)" onClick={() => press(".")}>
          <Icon of={Copy} size={14} /> Copy next
        </button>
        <button class="square" aria-label="Smooth the shape" title="Smooth the shape (S)" onClick={() => press("s")}>
          <Icon of={Spline} size={14} />
        </button>
        <button class="square" aria-label="Grow the shape" title="Grow the shape (+)" onClick={() => press("+")}>
          <Icon of={Plus} size={14} />
        </button>
        <button class="square" aria-label="Shrink the shape" title="Shrink the shape (−)" onClick={() => press("-")}>
          <Icon of={Minus} size={14} />
        </button>
        <button class="square" aria-label="Remove the label from this frame" title="Remove the label from this frame (Delete)" disabled={!entry} onClick={() => session.remove()}>
          <Icon of={Trash2} size={14} />
        </button>
      </div>
      </Needs>
    </section>
  );
}

function FrameClassRow({ session, row, frame }: { session: Session; row: Row; frame: number }) {
  session.labels.version.value;
  const entry = frame < 0 ? null : row.get(frame);
  const confidence = entry && entry.source !== Source.HUMAN && !Number.isNaN(entry.confidence) ? percent(entry.confidence) : "";
  const set = (present: boolean): void => {
    session.selected.value = row.key;
    session.setFrameClass(row.name, present);
  };
  return (
    <li class="frame-class">
      <span class="swatch ring" style={{ "--swatch": session.classColor(row.name, true) }} />
      <span class="ellipsis">{row.name}</span>
      <span class="muted small-text">{entry?.source === Source.HUMAN ? "by hand" : confidence}</span>
      <Needs to="work" project={session.project.value.name}>
      <div class="segmented small" role="radiogroup" aria-label={row.name}>
        <button role="radio" aria-checked={entry?.state === State.VISIBLE} class={entry?.state === State.VISIBLE ? "on" : ""} onClick={() => set(true)}>
          yes
        </button>
        <button role="radio" aria-checked={entry?.state === State.ABSENT} class={entry?.state === State.ABSENT ? "on" : ""} onClick={() => set(false)}>
          no
        </button>
      </div>
      </Needs>
    </li>
  );
}

/** The next step, in one line and one button. */
function Next({ session, onTrain }: { session: Session; onTrain: () => void }) {
  session.labels.version.value;
  const anchors = new Set(session.rows().flatMap((row) => row.anchors()));
  const { training } = session;
  if (training.running || session.loading.value || !may("work", session.project.value.name)) return null;
  const suggestion = session.reviewing.suggestions.value[0];
  if (suggestion)
    return (
      <section class="next">
        <h2>
          <Icon of={Sparkles} size={14} /> Next suggestion
        </h2>
        <p>
          Frame {suggestion.frame.toLocaleString("en")}: {suggestion.reason}
        </p>
        <button class="primary" onClick={() => session.reviewing.next(1)}>
          Go to frame <kbd>N</kbd>
        </button>
      </section>
    );
  return (
    <section class="next">
      <h2>
        <Icon of={Zap} size={14} /> Next
      </h2>
      <p>
        {anchors.size === 0
          ? "Draw every object on one frame. Then do the same on one or two frames far from it."
          : anchors.size === 1
            ? "One frame is drawn. Draw a second one far from it: the labels get much better."
            : `${anchors.size} frames are drawn. Train to label the other frames.`}
      </p>
      {anchors.size > 0 && (
        <button class={anchors.size > 1 ? "primary" : ""} onClick={onTrain}>
          Train <kbd>T</kbd>
        </button>
      )}
    </section>
  );
}
