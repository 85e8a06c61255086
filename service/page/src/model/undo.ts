/** Taking back what one did in this visit, and doing it again; the server keeps everything (see History for older acts). */

import { type Signal, signal } from "@preact/signals";

import { call, inWords, patiently } from "../api/rpc";
import type { Entry, Row } from "./labels";
import type { Session } from "./session";
import { say } from "./toasts";

/** One label before and after an edit. */
export interface Change {
  row: Row;
  frame: number;
  before: Entry | null;
  after: Entry | null;
}

export interface Step {
  words: string;
  /** Id of the draft; empty for what was never one. */
  id: string;
  /** The change that the server made of it; 0 while it has not. */
  revision: number;
  frame: number;
  changes: Change[];
}

const MOST = 200;

export class Undo {
  readonly undoable = signal<Step[]>([]);
  readonly redoable = signal<Step[]>([]);
  private readonly waiting = new Map<string, (revision: number) => void>();
  private turn: Promise<void> = Promise.resolve();

  constructor(private readonly session: Session) {}

  /** Something was done. */
  did(step: Step): void {
    this.undoable.value = [...this.undoable.value.slice(1 - MOST), step];
    this.redoable.value = [];
  }

  /** The server has a draft, as this revision. */
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
    return this.next(() => this.move(this.redoable, this.undoable, "Done again"));
  }

  /** One after the other: pressing twice takes two steps back. */
  private next(act: () => Promise<void>): Promise<void> {
    return (this.turn = this.session.during(() => this.turn.then(act)));
  }

  private async move(from: Signal<Step[]>, to: Signal<Step[]>, words: string): Promise<void> {
    const step = from.value.at(-1);
    if (!step) return say(from === this.undoable ? "Nothing to undo" : "Nothing to do again");
    from.value = from.value.slice(0, -1);
    try {
      const kept = await this.takeBack(step);
      if (kept) to.value = [...to.value, kept];
      say(`${words}: ${step.words}`);
      if (step.frame !== this.session.player.frame.value) this.session.player.go(step.frame);
    } catch (error) {
      say(inWords(error), "error");
      await this.session.refresh().catch(() => undefined);
    }
  }

  /** Take a step back; gives what would take that back again. */
  private async takeBack(step: Step): Promise<Step | null> {
    const { session } = this;
    for (const { row, frame, before } of step.changes) {
      row.put(frame, before);
      row.flash(frame);
    }
    session.labels.touch();
    if (!step.revision && (await session.outbox.withdraw(step.id))) return null; // nobody else has seen it
    const back = step.changes.map((change) => ({ ...change, before: change.after, after: change.before }));
    if (session.assignment) {
      session.send(back, crypto.randomUUID()); // the server keeps no history of these
      return { ...step, id: "", changes: back };
    }
    const revision = step.revision || (await new Promise<number>((resolve) => this.waiting.set(step.id, resolve)));
    const requestId = crypto.randomUUID();
    const answer = await patiently(() =>
      call<{ labelRevision?: string }>("HistoryService/UndoChange", {
        parent: session.video.name,
        revision: String(revision),
        requestId,
      }),
    );
    const made = Number(answer.labelRevision ?? 0);
    session.labels.revision = Math.max(session.labels.revision, made);
    await session.refresh([...new Set(step.changes.map(({ row }) => row.name))]);
    session.reviewing.changed(false);
    return { ...step, id: "", revision: made, changes: back };
  }
}
