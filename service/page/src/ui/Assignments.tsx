import { Users } from "lucide";
import { useEffect, useState } from "preact/hooks";

import type { Assignment } from "../api/messages";
import { call, errorMessage } from "../api/rpc";
import { count } from "../lib/format";
import { assignedFrames, Assigning, isDone, isLabeled, isMine, parseFrames, submit } from "../model/assigning";
import { caller, may, whyNot } from "../model/caller";
import type { Session } from "../model/session";
import { notify } from "../model/toasts";
import { Icon } from "./Icon";
import { Dialog } from "./parts";
import { goTo, href } from "./route";

const MAX_SHOWN = 5;
const DEFAULT_FRAMES = 8;

/** Frames that two people label independently: to label, to compare, to decide. */
export function Assignments({ session }: { session: Session }) {
  const [assigning] = useState(() => new Assigning(session.video.name));
  const [creating, setCreating] = useState(false);
  useEffect(() => void assigning.load(), [assigning]);
  const project = session.project.value.name;
  const all = assigning.all.value;
  if (!all.length && !may("review", project)) return null;
  return (
    <section class="assignments">
      <div class="section-head">
        <h2>
          <Icon of={Users} size={14} /> Double labeling
        </h2>
        <button class="link" disabled={!may("review", project)} title={whyNot("review", project)} onClick={() => setCreating(true)}>
          Assign frames
        </button>
      </div>
      {all.length === 0 && <p class="muted">Two people label the same frames without seeing each other's labels.</p>}
      <ul class="plain">
        {all.slice(0, MAX_SHOWN).map((one) => (
          <li key={one.name} class="assignment">
            <span>
              {count(one.frameIndices?.length ?? 0, "frame")} for {one.annotators?.join(" and ")}
              <span class="muted small-text"> {state(one)}</span>
            </span>
            {isMine(one) && !isDone(one, caller.value?.user ?? "") ? (
              <a class="button" href={href(one.name)}>
                Start labeling
              </a>
            ) : (
              one.submittedAnnotators?.length === 2 && (
                <a class="button" href={href(one.name)}>
                  Compare
                </a>
              )
            )}
          </li>
        ))}
      </ul>
      {creating && <Assign session={session} assigning={assigning} onClose={() => setCreating(false)} />}
    </section>
  );
}

function state(one: Assignment): string {
  if (one.adjudicator) return `decided by ${one.adjudicator}`;
  const done = one.submittedAnnotators ?? [];
  return done.length === 2 ? "both submitted" : done.length === 1 ? `${done[0]} submitted` : "none submitted";
}

function Assign({ session, assigning, onClose }: { session: Session; assigning: Assigning; onClose: () => void }) {
  const [names, setNames] = useState(["", ""]);
  const [frames, setFrames] = useState(() => {
    const number = Math.min(DEFAULT_FRAMES, session.frameCount);
    return Array.from({ length: number }, (_, index) => Math.floor(((index + 0.5) * session.frameCount) / number)).join(", ");
  });
  const [requestId] = useState(() => crypto.randomUUID());
  const [members, setMembers] = useState<string[]>([]);
  const [error, setError] = useState("");
  const project = session.project.value.name;
  useEffect(() => {
    if (may("manage", project))
      call<{ members?: { name: string }[] }>("AccessService/ListMembers", { parent: project, pageSize: 1000 })
        .then((page) => setMembers((page.members ?? []).map((one) => one.name.split("/").at(-1)!)))
        .catch(() => undefined); // the list is a convenience: names can be typed
  }, [project]);
  const parsed = parseFrames(frames, session.frameCount);
  const send = async (event: Event): Promise<void> => {
    event.preventDefault();
    try {
      await assigning.create(parsed!, names.map((name) => name.trim()), requestId);
      notify(`${count(parsed!.length, "frame")} assigned to ${names.join(" and ")}.`, "good");
      onClose();
    } catch (caught) {
      setError(errorMessage(caught));
    }
  };
  return (
    <Dialog title="Assign frames to two people" onClose={onClose}>
      <form class="stack" onSubmit={(event) => void send(event)}>
        <p class="muted">Each labels the frames alone and sees no labels of the other. When both have submitted, you compare and decide.</p>
        {["First person", "Second person"].map((text, at) => (
          <label key={text}>
            {text}
            <input
              value={names[at]}
              list="members"
              autocomplete="off"
              autofocus={at === 0}
              onInput={(event) => {
                const { value } = event.currentTarget;
                setNames(names.map((name, index) => (index === at ? value : name)));
              }}
            />
          </label>
        ))}
        <datalist id="members">
          {members.map((name) => (
            <option key={name} value={name} />
          ))}
        </datalist>
        <label>
          Frames
          <input value={frames} aria-invalid={!parsed} onInput={(event) => setFrames(event.currentTarget.value)} />
          <span class={parsed ? "hint" : "error-text"}>
            {parsed ? count(parsed.length, "frame") : `Enter frames as 0, 12, 20-24. The last frame is ${session.frameCount - 1}.`}
          </span>
        </label>
        {error && <p class="error-text">{error}</p>}
        <div class="actions">
          <button class="primary" type="submit" disabled={!parsed || names.some((name) => !name.trim())}>
            Assign
          </button>
        </div>
      </form>
    </Dialog>
  );
}

/** The frames of the open assignment, and the button that submits it. */
export function Assigned({ session }: { session: Session }) {
  session.labels.version.value;
  const [asking, setAsking] = useState(false);
  const frames = assignedFrames(session);
  const left = frames.filter(({ frame }) => !isLabeled(session, frame)).length;
  const send = async (): Promise<void> => {
    try {
      await submit(session);
      notify("Submitted. Thank you.", "good");
      goTo(session.video.name);
    } catch (error) {
      setAsking(false);
      notify(errorMessage(error), "error");
    }
  };
  return (
    <section>
      <div class="section-head">
        <h2>
          <Icon of={Users} size={14} /> Your frames
        </h2>
        <kbd>N</kbd>
      </div>
      <p class="muted">Another person labels the same frames. You see your own labels only. They are compared when both of you have submitted.</p>
      <ol class="suggestions assigned">
        {frames.map((one) => (
          <li key={one.frame}>
            <button
              class={`suggestion ${one.frame === session.player.frame.value ? "on" : ""}`}
              onClick={() => session.player.go(one.frame)}
            >
              <strong>{one.frame.toLocaleString("en")}</strong>
              <span class={isLabeled(session, one.frame) ? "muted" : ""}>{one.reason}</span>
            </button>
          </li>
        ))}
      </ol>
      <button class={left ? "wide" : "primary wide"} onClick={() => setAsking(true)}>
        Submit
      </button>
      {asking && (
        <Dialog title="Submit your labels?" onClose={() => setAsking(false)}>
          <p>
            {left ? `${count(left, "frame")} without labels will count as empty. ` : ""}You cannot change your labels after submitting.
          </p>
          <div class="actions">
            <button onClick={() => setAsking(false)} autofocus>
              Keep labeling
            </button>
            <button class="primary" onClick={() => void send()}>
              Submit
            </button>
          </div>
        </Dialog>
      )}
    </section>
  );
}
