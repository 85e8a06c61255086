import { Users } from "lucide";
import { useEffect, useState } from "preact/hooks";

import type { Assignment } from "../api/messages";
import { call, inWords } from "../api/rpc";
import { count } from "../lib/format";
import { assignedFrames, Assigning, isDone, isMine, parseFrames, submit } from "../model/assigning";
import { caller, may, whyNot } from "../model/caller";
import type { Session } from "../model/session";
import { say } from "../model/toasts";
import { Icon } from "./Icon";
import { Dialog } from "./parts";
import { goTo, href } from "./route";

const SHOWN = 5;
const USUAL_FRAMES = 8;

/** Frames that two people label blindly: what there is to do, to compare, to decide. */
export function Assignments({ session }: { session: Session }) {
  const [assigning] = useState(() => new Assigning(session.video.name));
  const [making, setMaking] = useState(false);
  useEffect(() => void assigning.load(), [assigning]);
  const project = session.project.value.name;
  const all = assigning.all.value;
  if (!all.length && !may("review", project)) return null;
  return (
    <section class="assignments">
      <div class="section-head">
        <h2>
          <Icon of={Users} size={14} /> Two people
        </h2>
        <button class="link" disabled={!may("review", project)} title={whyNot("review", project)} onClick={() => setMaking(true)}>
          Assign frames
        </button>
      </div>
      {all.length === 0 && <p class="muted">The same frames, labeled by two people who do not see each other's labels.</p>}
      <ul class="plain">
        {all.slice(0, SHOWN).map((one) => (
          <li key={one.name} class="assignment">
            <span>
              {count(one.frameIndices?.length ?? 0, "frame")} for {one.annotators?.join(" and ")}
              <span class="muted small-text"> {state(one)}</span>
            </span>
            {isMine(one) && !isDone(one, caller.value?.user ?? "") ? (
              <a class="button" href={href(one.name)}>
                Label yours
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
      {making && <Assign session={session} assigning={assigning} onClose={() => setMaking(false)} />}
    </section>
  );
}

function state(one: Assignment): string {
  if (one.adjudicator) return `decided by ${one.adjudicator}`;
  const done = one.submittedAnnotators ?? [];
  return done.length === 2 ? "both are done" : done.length === 1 ? `${done[0]} is done` : "nobody is done yet";
}

function Assign({ session, assigning, onClose }: { session: Session; assigning: Assigning; onClose: () => void }) {
  const [names, setNames] = useState(["", ""]);
  const [frames, setFrames] = useState(() => {
    const number = Math.min(USUAL_FRAMES, session.frameCount);
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
        .catch(() => undefined); // names can be typed
  }, [project]);
  const parsed = parseFrames(frames, session.frameCount);
  const send = async (event: Event): Promise<void> => {
    event.preventDefault();
    try {
      await assigning.create(parsed!, names.map((name) => name.trim()), requestId);
      say(`${count(parsed!.length, "frame")} assigned to ${names.join(" and ")}`, "good");
      onClose();
    } catch (caught) {
      setError(inWords(caught));
    }
  };
  return (
    <Dialog title="Assign frames to two people" onClose={onClose}>
      <form class="stack" onSubmit={(event) => void send(event)}>
        <p class="muted">Each labels them alone and sees nothing of the other until both are done. Then you compare, and decide.</p>
        {["First person", "Second person"].map((words, at) => (
          <label key={words}>
            {words}
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
            {parsed ? count(parsed.length, "frame") : `As 0, 12, 20-24; the last one is ${session.frameCount - 1}`}
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

/** While one labels blindly: which frames, how many are done, and that one is done. */
export function Assigned({ session }: { session: Session }) {
  session.labels.version.value;
  const [asking, setAsking] = useState(false);
  const frames = assignedFrames(session);
  const left = frames.filter((one) => one.reason !== "labeled").length;
  const send = async (): Promise<void> => {
    try {
      await submit(session);
      say("Handed in. Thank you", "good");
      goTo(session.video.name);
    } catch (error) {
      setAsking(false);
      say(inWords(error), "error");
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
      <p class="muted">You see your own labels only. Somebody else labels the same frames; what you draw is compared when both are done.</p>
      <ol class="suggestions assigned">
        {frames.map((one) => (
          <li key={one.frame}>
            <button
              class={`suggestion ${one.frame === session.player.frame.value ? "on" : ""}`}
              onClick={() => session.player.go(one.frame)}
            >
              <strong>{one.frame.toLocaleString("en")}</strong>
              <span class={one.reason === "labeled" ? "muted" : ""}>{one.reason}</span>
            </button>
          </li>
        ))}
      </ol>
      <button class={left ? "wide" : "primary wide"} onClick={() => setAsking(true)}>
        Hand in
      </button>
      {asking && (
        <Dialog title="Hand in?" onClose={() => setAsking(false)}>
          <p>
            {left ? `${count(left, "frame")} without a label: it is taken as empty. ` : ""}Nothing can be changed after it.
          </p>
          <div class="actions">
            <button onClick={() => setAsking(false)} autofocus>
              Go on labeling
            </button>
            <button class="primary" onClick={() => void send()}>
              Hand in
            </button>
          </div>
        </Dialog>
      )}
    </section>
  );
}
