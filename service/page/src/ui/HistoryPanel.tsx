import { RotateCcw } from "lucide";
import { useEffect, useState } from "preact/hooks";

import type { Change, LabelVersion } from "../api/messages";
import { call, isAbort } from "../api/rpc";
import { count, versionName, when } from "../lib/format";
import { keyMessage, STATE_NAMES } from "../model/labels";
import { may } from "../model/caller";
import type { Session } from "../model/session";
import { Icon } from "./Icon";

const KINDS: Record<string, string> = {
  CHANGE_KIND_WRITE: "saved",
  CHANGE_KIND_CORRECT: "edited by hand",
  CHANGE_KIND_RECOMPUTE: "updated by the micro-model",
  CHANGE_KIND_PROPAGATE: "made by the micro-model",
  CHANGE_KIND_SWAP: "changed: objects swapped",
  CHANGE_KIND_SPLIT: "changed: object split",
  CHANGE_KIND_MERGE: "changed: objects merged",
  CHANGE_KIND_DELETE_TRACK: "deleted with their object",
  CHANGE_KIND_REVIEW: "reviewed",
  CHANGE_KIND_ADJUDICATE: "saved from an assignment",
  CHANGE_KIND_UNDO: "restored by undo",
};
const BY_MODEL = new Set(["CHANGE_KIND_RECOMPUTE", "CHANGE_KIND_PROPAGATE"]);
const MAX_SHOWN = 100;

/** All changes of the video, newest first, and the history of the selected label. */
export function HistoryPanel({ session }: { session: Session }) {
  const changes = session.reviewing.changes.value;
  return (
    <>
      <LabelHistory session={session} />
      <section>
        <h2>Changes to this video</h2>
        {changes.length ? (
          <ol class="changes">
            {changes.slice(0, MAX_SHOWN).map((change) => (
              <ChangeRow key={String(change.revision)} session={session} change={change} />
            ))}
          </ol>
        ) : (
          <p class="muted">No changes yet. Every edit is listed here and can be undone.</p>
        )}
        {changes.length > MAX_SHOWN && <p class="muted">and {(changes.length - MAX_SHOWN).toLocaleString("en")} older changes</p>}
      </section>
    </>
  );
}

function ChangeRow({ session, change }: { session: Session; change: Change }) {
  const byModel = BY_MODEL.has(change.kind ?? "");
  const undone = Number(change.undoneByRevision ?? 0) > 0;
  return (
    <li class={undone ? "undone" : ""}>
      <span class="change-main">
        <span>
          {count(Number(change.labelCount ?? 0), "label")} {KINDS[change.kind ?? ""] ?? "changed"}
          {undone ? " (undone)" : ""}
        </span>
        <span class="muted small-text">
          {byModel ? modelName(change.microModelVersion) : change.author} · {when(change.changeTime)} · revision {String(change.revision)}
          {change.comment ? ` · “${change.comment}”` : ""}
        </span>
      </span>
      {!byModel && !undone && may("work", session.project.value.name) && (
        <button
          class="quiet square small"
          aria-label={`Undo revision ${change.revision}`}
          title="Undo this change and the updates it caused"
          onClick={() => void session.reviewing.undoChange(change)}
        >
          <Icon of={RotateCcw} size={13} />
        </button>
      )}
    </li>
  );
}

function LabelHistory({ session }: { session: Session }) {
  const row = session.selectedRow.value;
  const frame = session.player.shown.value;
  const [versions, setVersions] = useState<LabelVersion[]>([]);
  const newest = session.reviewing.changes.value[0]?.revision;
  useEffect(() => {
    setVersions([]);
    if (!row || frame < 0) return;
    const controller = new AbortController();
    const timer = setTimeout(() => {
      const body = { parent: session.video.name, key: keyMessage(row, frame), pageSize: 100 };
      call<{ versions?: LabelVersion[] }>("HistoryService/ListLabelHistory", body, controller.signal)
        .then((answer) => setVersions((answer.versions ?? []).toReversed()))
        .catch((error) => isAbort(error) || setVersions([]));
    }, 150);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [row?.key, frame, newest]);
  if (!row || !versions.length) return null;
  return (
    <section>
      <h2>
        {session.nameOf(row)} on frame {frame.toLocaleString("en")}
      </h2>
      <ol class="changes">
        {versions.map((version) => (
          <li key={String(version.revision)}>
            <span class="change-main">
              <span>{describeVersion(version)}</span>
              <span class="muted small-text">
                {madeBy(version)} · {when(version.writeTime)} · revision {String(version.revision)}
                {(version.reviews ?? []).map((review) => ` · ${(review.action ?? "").replace("REVIEW_ACTION_", "").toLowerCase()} by ${review.author}`)}
              </span>
            </span>
          </li>
        ))}
      </ol>
    </section>
  );
}

function modelName(version: string | undefined): string {
  return version ? `micro-model ${versionName(version)}` : "micro-model";
}

/** Who made a version of a label: a person, or a micro-model that a person started. */
function madeBy({ label, author }: LabelVersion): string {
  const byModel = label?.provenance?.kind === "PROVENANCE_KIND_MODEL";
  return byModel ? `${modelName(label.provenance?.version)}, started by ${author}` : (author ?? "");
}

function describeVersion({ label, kind }: LabelVersion): string {
  if (!label) return "deleted";
  const byHand = label.provenance?.kind === "PROVENANCE_KIND_HUMAN";
  const state = label.object
    ? STATE_NAMES[["VISIBLE", "OCCLUDED", "ABSENT", "UNCERTAIN"].findIndex((one) => label.object!.state?.endsWith(one)) + 1]
    : label.frameClass?.present
      ? "yes"
      : "no";
  const shape = label.object?.box ? ", box" : label.object?.polygon ? ", polygon" : label.object?.mask ? ", mask" : "";
  const source = byHand ? "by hand" : (KINDS[kind ?? ""] ?? "made by the micro-model");
  return `${state}${shape}, ${source}`;
}
