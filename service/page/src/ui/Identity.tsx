import { ArrowLeftRight, Merge, Scissors, Trash2 } from "lucide";

import type { Session } from "../model/session";
import { Icon } from "./Icon";
import { Dialog } from "./parts";

/** Fixes identities of objects from the current frame on. */
export function Identity({ session, onClose }: { session: Session; onClose: () => void }) {
  const row = session.selectedRow.value;
  const frame = session.player.shown.value;
  if (!row || row.isFrameClass)
    return (
      <Dialog title="Fix identities" onClose={onClose}>
        <p>Select an object first: click it on the frame or in the timeline, or press its number.</p>
      </Dialog>
    );
  const others = session.rows().filter((one) => one !== row && !one.isFrameClass && !one.isEmpty());
  const same = others.filter((one) => one.className === row.className);
  const run = (change: Promise<unknown>): void => {
    onClose();
    void change;
  };
  const { reviewing } = session;
  return (
    <Dialog title={`Fix identities: ${session.nameOf(row)}, from frame ${frame} on`} onClose={onClose}>
      <ul class="choices">
        {others.map((other) => (
          <li key={`swap ${other.key}`}>
            <button class="choice" onClick={() => run(reviewing.swap(row.name, other.name, frame))}>
              <Icon of={ArrowLeftRight} size={18} />
              <span>
                <strong>Swap with {session.nameOf(other)}</strong>
                <span class="muted">The two were mixed up: swap them from this frame on</span>
              </span>
            </button>
          </li>
        ))}
        <li>
          <button class="choice" disabled={frame < 1} onClick={() => run(reviewing.split(row, frame))}>
            <Icon of={Scissors} size={18} />
            <span>
              <strong>Split</strong>
              <span class="muted">From this frame on it becomes a new object, {session.newTrack(row.className)}</span>
            </span>
          </button>
        </li>
        {same.map((other) => (
          <li key={`merge ${other.key}`}>
            <button class="choice" onClick={() => run(reviewing.merge(row, other))}>
              <Icon of={Merge} size={18} />
              <span>
                <strong>Merge {session.nameOf(other)} into it</strong>
                <span class="muted">Both are the same object: join them in the whole video</span>
              </span>
            </button>
          </li>
        ))}
        <li>
          <button class="choice" onClick={() => run(reviewing.deleteFrom(row, frame))}>
            <Icon of={Trash2} size={18} />
            <span>
              <strong>Delete from this frame on</strong>
              <span class="muted">Includes labels drawn by hand. You can undo this.</span>
            </span>
          </button>
        </li>
      </ul>
    </Dialog>
  );
}
