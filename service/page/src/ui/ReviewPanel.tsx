import { ArrowLeftRight, Check, Lock, LockOpen, MessageSquare, ShieldCheck, Sparkles, Trash2, X } from "lucide";
import { useEffect, useState } from "preact/hooks";

import type { LabelSelection } from "../api/messages";
import { errorMessage, isAbort } from "../api/rpc";
import { count, percent, when } from "../lib/format";
import { Review, rowKey } from "../model/labels";
import { may } from "../model/caller";
import type { Session } from "../model/session";
import { Assignments } from "./Assignments";
import { Checks } from "./Checks";
import { Icon } from "./Icon";
import { Needs } from "./parts";

/** Suggestions, reviews, possible errors, assignments and comments. */
export function ReviewPanel({ session, onIdentity }: { session: Session; onIdentity: () => void }) {
  session.labels.version.value;
  return (
    <>
      <Suggestions session={session} />
      <Needs to="review" project={session.project.value.name}>
        <ReviewFrame session={session} />
        <AcceptAbove session={session} />
      </Needs>
      <Swaps session={session} onIdentity={onIdentity} />
      <Checks
        session={session}
        onGo={(frame, track) => {
          if (track) session.selected.value = rowKey(track, false);
          session.player.pause();
          session.player.go(frame);
        }}
      />
      <Assignments session={session} />
      <Comments session={session} />
    </>
  );
}

function Suggestions({ session }: { session: Session }) {
  const suggestions = session.reviewing.suggestions.value;
  const frame = session.player.frame.value;
  if (!suggestions.length) return null;
  return (
    <section>
      <div class="section-head">
        <h2>
          <Icon of={Sparkles} size={14} /> Suggestions
        </h2>
        <kbd>N</kbd>
      </div>
      <ol class="suggestions">
        {suggestions.slice(0, 5).map((one) => (
          <li key={one.frame}>
            <button
              class={`suggestion ${one.frame === frame ? "on" : ""}`}
              onClick={() => {
                session.player.pause();
                session.player.go(one.frame);
                if (one.row) session.selected.value = one.row;
              }}
            >
              <strong>{one.frame.toLocaleString("en")}</strong>
              <span>{one.reason}</span>
            </button>
          </li>
        ))}
      </ol>
    </section>
  );
}

function ReviewFrame({ session }: { session: Session }) {
  session.labels.version.value;
  const { reviewing } = session;
  const frame = session.player.shown.value;
  const row = session.selectedRow.value;
  const bits = row && frame >= 0 ? row.review[frame] : 0;
  const span = row && frame >= 0 ? reviewing.span(row, frame) : null;
  return (
    <section>
      <h2>Frame {frame < 0 ? "" : frame.toLocaleString("en")}</h2>
      <button class="primary wide" onClick={() => void reviewing.review("accept", "frame")}>
        <Icon of={Check} size={15} /> Accept frame <kbd>A</kbd>
      </button>
      {row && (
        <>
          <div class="section-head">
            <h2>
              <span
                class={row.isFrameClass ? "swatch ring" : "swatch"}
                style={{ "--swatch": session.classColor(row.className, row.isFrameClass) }}
              />
              {session.nameOf(row)}
            </h2>
            <span class="muted small-text">{reviewText(bits)}</span>
          </div>
          <div class="button-row">
            <button onClick={() => void reviewing.review("accept", "span")} title={`Frames ${span?.[0]} to ${span![1] - 1}, between labels drawn by hand (Shift A)`}>
              Accept range
            </button>
            <button onClick={() => void reviewing.review("accept", "object")} title="Accept this object on every frame (Ctrl Shift A)">
              Accept everywhere
            </button>
            <button onClick={() => void reviewing.review("reject", "label")} title="This label is wrong: mark it to be drawn by hand (R)">
              <Icon of={X} size={14} /> Reject
            </button>
            <button
              onClick={() => void reviewing.review(bits & Review.LOCKED ? "unlock" : "lock", "label")}
              title="No micro-model may change a locked label (L)"
            >
              <Icon of={bits & Review.LOCKED ? LockOpen : Lock} size={14} /> {bits & Review.LOCKED ? "Unlock" : "Lock"}
            </button>
          </div>
        </>
      )}
    </section>
  );
}

function reviewText(bits: number): string {
  const parts = [];
  if (bits & Review.ACCEPTED) parts.push("accepted");
  if (bits & Review.REJECTED) parts.push("rejected");
  if (bits & Review.LOCKED) parts.push("locked");
  return parts.join(", ") || "not reviewed";
}

/** Accept all labels from a confidence on, after showing the share that is expected to be wrong. */
function AcceptAbove({ session }: { session: Session }) {
  const { reviewing } = session;
  const [confidence, setConfidence] = useState(0.9);
  const [preview, setPreview] = useState<{ accepted: number; wrong: number | undefined } | null>(null);
  const [error, setError] = useState("");
  const row = session.selectedRow.value;
  const [only, setOnly] = useState(false);
  const selection: LabelSelection = only && row ? { tracks: [row.name] } : {};
  const revision = session.labels.version.value;
  const active = reviewing.hasModel.value;
  useEffect(() => {
    if (!active) return;
    const timer = setTimeout(() => {
      reviewing
        .preview(confidence, selection)
        .then((answer) => {
          setPreview({ accepted: Number(answer.acceptedCount ?? 0), wrong: answer.expectedWrongShare });
          setError("");
        })
        .catch((caught) => !isAbort(caught) && setError(errorMessage(caught)));
    }, 250);
    return () => clearTimeout(timer);
  }, [confidence, only, row?.name, revision, active]);
  if (!active) return null;
  return (
    <section>
      <h2>
        <Icon of={ShieldCheck} size={14} /> Accept by confidence
      </h2>
      <label class="stacked">
        <span class="inline">
          Confidence at least <strong>{percent(confidence)}</strong>
        </span>
        <input
          type="range"
          min="0.5"
          max="1"
          step="0.01"
          value={confidence}
          onInput={(event) => setConfidence(Number(event.currentTarget.value))}
        />
      </label>
      {row && (
        <label class="check">
          <input type="checkbox" checked={only} onChange={(event) => setOnly(event.currentTarget.checked)} /> Only{" "}
          {session.nameOf(row)}
        </label>
      )}
      <p class="muted" role="status">
        {error ||
          (preview
            ? preview.accepted
              ? `${count(preview.accepted, "label")}. About ${percent(preview.wrong ?? 0)} are expected to be wrong.`
              : "No unreviewed label has this confidence."
            : "…")}
      </p>
      <button disabled={!preview?.accepted} onClick={() => void reviewing.acceptAbove(confidence, selection)}>
        <Icon of={Check} size={14} /> Accept {preview?.accepted ? count(preview.accepted, "label") : ""}
      </button>
    </section>
  );
}

function Swaps({ session, onIdentity }: { session: Session; onIdentity: () => void }) {
  const swaps = session.reviewing.swaps.value;
  const row = session.selectedRow.value;
  if (!swaps.length && !row) return null;
  return (
    <section>
      <div class="section-head">
        <h2>
          <Icon of={ArrowLeftRight} size={14} /> Identities
        </h2>
        <button class="link" disabled={!row || row.isFrameClass || !may("work", session.project.value.name)} onClick={onIdentity}>
          Fix identities <kbd>W</kbd>
        </button>
      </div>
      {swaps.length > 0 && (
        <ol class="suggestions">
          {swaps.slice(0, 4).map((swap) => (
            <li key={`${swap.frameIndex}${swap.trackA}${swap.trackB}`} class="swap">
              <button class="suggestion" onClick={() => session.player.go(Number(swap.frameIndex ?? 0))}>
                <strong>{Number(swap.frameIndex ?? 0).toLocaleString("en")}</strong>
                <span>{swap.explanation}</span>
              </button>
              <button
                disabled={!may("work", session.project.value.name)}
                title="Swap the two objects from that frame on"
                onClick={() => void session.reviewing.swap(swap.trackA ?? "", swap.trackB ?? "", Number(swap.frameIndex ?? 0))}
              >
                Swap
              </button>
            </li>
          ))}
        </ol>
      )}
    </section>
  );
}

function Comments({ session }: { session: Session }) {
  const { reviewing } = session;
  const [text, setText] = useState("");
  const send = async (event: Event): Promise<void> => {
    event.preventDefault();
    if (text.trim() && (await reviewing.comment(text.trim()))) setText("");
  };
  return (
    <section>
      <h2>
        <Icon of={MessageSquare} size={14} /> Comments
      </h2>
      <Needs to="work" project={session.project.value.name}>
      <form class="comment-form" onSubmit={(event) => void send(event)}>
        <input
          id="comment-text"
          aria-label="Comment on this frame"
          placeholder="Comment on this frame"
          value={text}
          maxLength={4000}
          onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={(event) => event.key === "Escape" && event.currentTarget.blur()}
        />
        <button type="submit" disabled={!text.trim()}>
          Add
        </button>
      </form>
      </Needs>
      <ul class="comments">
        {reviewing.comments.value.toReversed().map((comment) => (
          <li key={comment.name}>
            <button class="comment" onClick={() => session.player.go(Number(comment.startFrame ?? 0))}>
              <span>{comment.text}</span>
              <span class="muted small-text">
                frame {Number(comment.startFrame ?? 0).toLocaleString("en")}
                {comment.track ? `, ${comment.track}` : ""} · {comment.author} · {when(comment.createTime)}
              </span>
            </button>
            <button class="quiet square small" aria-label="Delete comment" disabled={!may("work", session.project.value.name)} onClick={() => void reviewing.deleteComment(comment)}>
              <Icon of={Trash2} size={13} />
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}
