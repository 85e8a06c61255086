import { RotateCcw } from "lucide";
import { useEffect, useState } from "preact/hooks";

import type { Change, LabelVersion } from "../api/messages";
import { call, isAbort } from "../api/rpc";
import { count, versionName, when } from "../lib/format";
import { keyMessage, STATE_WORDS } from "../model/labels";
import { may } from "../model/caller";
import type { Session } from "../model/session";
import { Icon } from "./Icon";

const KINDS: Record<string, string> = {
  CHANGE_KIND_WRITE: "drawn",
  CHANGE_KIND_CORRECT: "drawn",
  CHANGE_KIND_RECOMPUTE: "mended by the model",
  CHANGE_KIND_PROPAGATE: "by the model",
  CHANGE_KIND_SWAP: "tracks swapped",
  CHANGE_KIND_SPLIT: "track split",
  CHANGE_KIND_MERGE: "tracks merged",
  CHANGE_KIND_DELETE_TRACK: "track deleted",
  CHANGE_KIND_REVIEW: "judged",
  CHANGE_KIND_ADJUDICATE: "adjudicated",
  CHANGE_KIND_UNDO: "taken back",
};
const BY_MODEL = new Set(["CHANGE_KIND_RECOMPUTE", "CHANGE_KIND_PROPAGATE"]);
const SHOWN = 100;

/** Who did what, newest first; and the past of the label that is selected. */
export function HistoryPanel({ session }: { session: Session }) {
  const changes = session.reviewing.changes.value;
  return (
    <>
      <LabelPast session={session} />
      <section>
        <h2>Changes of this video</h2>
        {changes.length ? (
          <ol class="changes">
            {changes.slice(0, SHOWN).map((change) => (
              <ChangeRow key={String(change.revision)} session={session} change={change} />
            ))}
          </ol>
        ) : (
          <p class="muted">Nothing yet. Every edit stays here, and can be taken back.</p>
        )}
        {changes.length > SHOWN && <p class="muted">and {(changes.length - SHOWN).toLocaleString("en")} before</p>}
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
          {undone ? ", taken back" : ""}
        </span>
        <span class="muted small-text">
          {byModel ? `micro-model ${versionName(change.microModelVersion)}` : change.author} · {when(change.changeTime)} · revision {String(change.revision)}
          {change.comment ? ` · “${change.comment}”` : ""}
        </span>
      </span>
      {!byModel && !undone && may("work", session.project.value.name) && (
        <button
          class="quiet square small"
          aria-label={`Take back revision ${change.revision}`}
          title="Take back, with all that followed from it"
          onClick={() => void session.reviewing.undoChange(change)}
        >
          <Icon of={RotateCcw} size={13} />
        </button>
      )}
    </li>
  );
}

function LabelPast({ session }: { session: Session }) {
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
              <span>{what(version)}</span>
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

/** Who is behind a version: the micro-model where it predicted, and in whose name. */
function madeBy({ label, author }: LabelVersion): string {
  const byModel = label?.provenance?.kind === "PROVENANCE_KIND_MODEL";
  return byModel ? `micro-model ${versionName(label.provenance?.version)}, for ${author}` : (author ?? "");
}

function what({ label, kind }: LabelVersion): string {
  if (!label) return "deleted";
  const byHand = label.provenance?.kind === "PROVENANCE_KIND_HUMAN";
  const state = label.object
    ? STATE_WORDS[["VISIBLE", "OCCLUDED", "ABSENT", "UNCERTAIN"].findIndex((one) => label.object!.state?.endsWith(one)) + 1]
    : label.frameClass?.present
      ? "present"
      : "absent";
  const shape = label.object?.box ? ", box" : label.object?.polygon ? ", polygon" : label.object?.mask ? ", mask" : "";
  const source = byHand ? "by hand" : (KINDS[kind ?? ""] ?? "by the model");
  return `${state}${shape}, ${source}`;
}
