import { ArrowLeftRight, Merge, Scissors, Trash2 } from "lucide";

import type { Session } from "../model/session";
import { Icon } from "./Icon";
import { Dialog } from "./parts";

/** Repairs of who is who, from the frame that is shown on. */
export function Identity({ session, onClose }: { session: Session; onClose: () => void }) {
  const row = session.selectedRow.value;
  const frame = session.player.shown.value;
  if (!row || row.isFrameClass)
    return (
      <Dialog title="Who is who" onClose={onClose}>
        <p>Select an object first: by its number, in the timeline or in the picture.</p>
      </Dialog>
    );
  const others = session.rows().filter((one) => one !== row && !one.isFrameClass && !one.isEmpty());
  const same = others.filter((one) => one.className === row.className);
  const act = (what: Promise<unknown>): void => {
    onClose();
    void what;
  };
  const { reviewing } = session;
  return (
    <Dialog title={`${session.nameOf(row)}, from frame ${frame} on`} onClose={onClose}>
      <ul class="choices">
        {others.map((other) => (
          <li key={`swap ${other.key}`}>
            <button class="choice" onClick={() => act(reviewing.swap(row.name, other.name, frame))}>
              <Icon of={ArrowLeftRight} size={18} />
              <span>
                <strong>Swap with {session.nameOf(other)}</strong>
                <span class="muted">They were mixed up here: exchange them from this frame on</span>
              </span>
            </button>
          </li>
        ))}
        <li>
          <button class="choice" disabled={frame < 1} onClick={() => act(reviewing.split(row, frame))}>
            <Icon of={Scissors} size={18} />
            <span>
              <strong>Split</strong>
              <span class="muted">From this frame on it is another object, {session.newTrack(row.className)}</span>
            </span>
          </button>
        </li>
        {same.map((other) => (
          <li key={`merge ${other.key}`}>
            <button class="choice" onClick={() => act(reviewing.merge(row, other))}>
              <Icon of={Merge} size={18} />
              <span>
                <strong>Merge {session.nameOf(other)} into it</strong>
                <span class="muted">They are one object, in the whole video</span>
              </span>
            </button>
          </li>
        ))}
        <li>
          <button class="choice" onClick={() => act(reviewing.deleteFrom(row, frame))}>
            <Icon of={Trash2} size={18} />
            <span>
              <strong>Delete from here on</strong>
              <span class="muted">Labels drawn by hand too; it can be taken back</span>
            </span>
          </button>
        </li>
      </ul>
    </Dialog>
  );
}
