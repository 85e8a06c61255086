/** Undo and redo of the edits of this visit; the history panel undoes older changes. */

import { type Signal, signal } from "@preact/signals";

import { call, errorMessage, retry } from "../api/rpc";
import type { SessionContext, Step } from "./context";
import { notify } from "./toasts";

const MAX_STEPS = 200;

export class Undo {
  readonly undoable = signal<Step[]>([]);
  readonly redoable = signal<Step[]>([]);
  private readonly waiting = new Map<string, (revision: number) => void>();
  private turn: Promise<void> = Promise.resolve();

  constructor(private readonly session: SessionContext) {}

  /** Add an edit that was just made; nothing can be redone after it. */
  push(step: Step): void {
    this.undoable.value = [...this.undoable.value.slice(1 - MAX_STEPS), step];
    this.redoable.value = [];
  }

  /** The server has stored a draft, as this revision. */
  acknowledged(id: string, revision: number): void {
    for (const step of [...this.undoable.value, ...this.redoable.value]) if (step.id === id) step.revision = revision;
    this.waiting.get(id)?.(revision);
    this.waiting.delete(id);
  }

  /** The server refused a draft. */
  forget(id: string): void {
    this.undoable.value = this.undoable.value.filter((step) => step.id !== id);
    this.waiting.delete(id);
  }

  undo(): Promise<void> {
    return this.next(() => this.move(this.undoable, this.redoable, "Undone"));
  }

  redo(): Promise<void> {
    return this.next(() => this.move(this.redoable, this.undoable, "Redone"));
  }

  /** Run one after the other: pressing the key twice undoes two edits. */
  private next(task: () => Promise<void>): Promise<void> {
    return (this.turn = this.session.during(() => this.turn.then(task)));
  }

  private async move(from: Signal<Step[]>, to: Signal<Step[]>, verb: string): Promise<void> {
    const step = from.value.at(-1);
    if (!step) return notify(from === this.undoable ? "Nothing to undo." : "Nothing to redo.");
    from.value = from.value.slice(0, -1);
    try {
      const reverse = await this.revert(step);
      if (reverse) to.value = [...to.value, reverse];
      notify(`${verb}: ${step.text}.`);
      if (step.frame !== this.session.player.frame.value) this.session.player.go(step.frame);
    } catch (error) {
      notify(errorMessage(error), "error");
      await this.session.refresh().catch(() => undefined);
    }
  }

  /** Revert a step; gives the step that restores it. */
  private async revert(step: Step): Promise<Step | null> {
    const { session } = this;
    for (const { row, frame, before } of step.changes) {
      row.put(frame, before);
      row.flash(frame);
    }
    session.labels.touch();
    if (!step.revision && (await session.outbox.withdraw(step.id))) return null; // the server never had it
    const reversed = step.changes.map((change) => ({ ...change, before: change.after, after: change.before }));
    if (session.assignment) {
      session.send(reversed, crypto.randomUUID()); // the server keeps no history of these
      return { ...step, id: "", changes: reversed };
    }
    const revision = step.revision || (await new Promise<number>((resolve) => this.waiting.set(step.id, resolve)));
    const requestId = crypto.randomUUID();
    const answer = await retry(() =>
      call<{ labelRevision?: string }>("HistoryService/UndoChange", {
        parent: session.video.name,
        revision: String(revision),
        requestId,
      }),
    );
    const made = Number(answer.labelRevision ?? 0);
    session.labels.revision = Math.max(session.labels.revision, made);
    await session.refresh([...new Set(step.changes.map(({ row }) => row.name))]);
    session.reviewing.labelsChanged(false);
    return { ...step, id: "", revision: made, changes: reversed };
  }
}
