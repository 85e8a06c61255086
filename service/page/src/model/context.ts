/** What the parts of a session share: they know this, and not the session that is made of them. */

import type { ReadonlySignal, Signal } from "@preact/signals";

import type { Assignment, Video } from "../api/messages";
import type { Permission } from "./caller";
import type { Entry, Labels, Row } from "./labels";
import type { Outbox } from "./outbox";
import type { Player } from "./player";

/** One label before and after an edit. */
export interface Change {
  row: Row;
  frame: number;
  before: Entry | null;
  after: Entry | null;
}

/** One entry of the undo list. */
export interface Step {
  /** What was done, as "draw square 1". */
  text: string;
  /** Id of the draft; empty for what was never one. */
  id: string;
  /** The revision that the server made of it; 0 while it has not. */
  revision: number;
  frame: number;
  changes: Change[];
}

export interface SessionContext {
  readonly video: Video;
  readonly frameCount: number;
  /** The assignment that is open; null where the video itself is. */
  readonly assignment: Assignment | null;
  /** Frames of the assignment; null for all frames. */
  readonly assigned: ReadonlySet<number> | null;
  readonly labels: Labels;
  readonly player: Player;
  readonly outbox: Outbox;
  /** Key of the selected row. */
  readonly selected: Signal<string | null>;
  readonly selectedRow: ReadonlySignal<Row | null>;
  readonly undo: { push(step: Step): void };
  readonly reviewing: { labelsChanged(hasModel: boolean): void };
  rows(): Row[];
  nameOf(row: Row): string;
  newTrack(className: string): string;
  /** Whether the person may do this here; if not, a message says why. */
  allows(permission: Permission): boolean;
  /** Run a task; the session is not idle until it ends. */
  during<T>(task: () => Promise<T>): Promise<T>;
  /** Read labels from the server again, all or those of some tracks. */
  refresh(tracks?: string[]): Promise<void>;
  /** Show changes and send them to the server. */
  send(changes: readonly Change[], id: string): void;
}
