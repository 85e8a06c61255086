/** What an edit changed on other frames. */

import type { LabelDifference } from "../api/messages";
import { count } from "../lib/format";

export class UpdateCount {
  private readonly labels = new Map<string, { frame: number; before: boolean; after: boolean }>();

  /** Count differences; a label may come again, and its last difference counts. */
  add(differences: readonly LabelDifference[]): void {
    for (const { key, before, after } of differences) {
      const id = JSON.stringify([key?.frameIndex, key?.track, key?.frameClass]);
      const known = this.labels.get(id);
      const frame = Number(key?.frameIndex ?? 0);
      this.labels.set(id, { frame, before: known?.before ?? before !== undefined, after: after !== undefined });
    }
  }

  /** Whether existing labels were updated and nothing else happened. */
  get onlyUpdates(): boolean {
    return this.frames(false, true) === 0 && this.frames(true, false) === 0;
  }

  /** The message for the person; empty if nothing changed. */
  text(seconds: number): string {
    const [updated, added, removed] = [this.frames(true, true), this.frames(false, true), this.frames(true, false)];
    const parts = [
      updated ? `${count(updated, "frame")} updated` : "",
      added ? `new labels on ${count(added, "frame")}` : "",
      removed ? `labels removed from ${count(removed, "frame")}` : "",
    ].filter(Boolean);
    if (!parts.length) return "";
    return `${parts.join(", ")} in ${seconds.toFixed(1)} s.${added ? " Check the new labels." : ""}`;
  }

  private frames(before: boolean, after: boolean): number {
    const matching = [...this.labels.values()].filter((label) => label.before === before && label.after === after);
    return new Set(matching.map(({ frame }) => frame)).size;
  }
}
