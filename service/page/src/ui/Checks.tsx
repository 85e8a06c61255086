import { TriangleAlert } from "lucide";

import type { Session } from "../model/session";
import { Icon } from "./Icon";

const KINDS: Record<string, string> = {
  area_jump: "Size jumps",
  position_jump: "Position jumps",
  gap: "Gap",
  blip: "Very short",
  overlap: "Overlap",
  too_many: "Too many",
  excluded: "Never together",
};
const MAX_SHOWN = 12;

/** Labels that look inconsistent; a click goes to the frame. */
export function Checks({ session, onGo }: { session: Session; onGo: (frame: number, track?: string) => void }) {
  const { reviewing } = session;
  if (!reviewing.hasModel.value) return null;
  const issues = reviewing.issues.value;
  const state = reviewing.checking.value;
  return (
    <section class="checks">
      <div class="section-head">
        <h2>
          <Icon of={TriangleAlert} size={14} /> Possible errors
        </h2>
        <button class="link" disabled={state === "busy"} onClick={() => void reviewing.check()}>
          {state === "busy" ? "Checking…" : issues ? "Check again" : "Check"}
        </button>
      </div>
      {!issues ? (
        <p class="muted">Finds jumps in size or position, gaps and overlaps.</p>
      ) : issues.length === 0 ? (
        <p class="muted">No jumps, gaps or overlaps found.</p>
      ) : (
        <ol class="suggestions">
          {issues.slice(0, MAX_SHOWN).map((one) => {
            const frame = Number(one.frameIndex ?? 0);
            return (
              <li key={`${one.kind}${frame}${one.tracks?.join()}`}>
                <button
                  class={`suggestion ${frame === session.player.frame.value ? "on" : ""}`}
                  onClick={() => onGo(frame, one.tracks?.[0])}
                >
                  <strong>{frame.toLocaleString("en")}</strong>
                  <span>
                    {KINDS[one.kind ?? ""] ?? one.kind}: {one.explanation}
                  </span>
                </button>
              </li>
            );
          })}
        </ol>
      )}
      {issues && issues.length > MAX_SHOWN && <p class="muted small-text">and {(issues.length - MAX_SHOWN).toLocaleString("en")} more</p>}
    </section>
  );
}
