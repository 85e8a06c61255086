/** Judging labels, repairing tracks, and where to look next: what follows training. */

import { signal } from "@preact/signals";

import type { Change, Comment, ConsistencyIssue, Figures, LabelKey, LabelSelection, SuggestionMessage, SuspectedSwap } from "../api/messages";
import { call, Code, inWords, isAbort, isPassing, patiently, RpcError } from "../api/rpc";
import { count } from "../lib/format";
import { keyMessage, type ReviewAct, type Row, rowKey, Source } from "./labels";
import type { Session } from "./session";
import { assignedFrames } from "./assigning";
import { say, spoken } from "./toasts";

export interface Suggestion {
  frame: number;
  row: string | null;
  reason: string;
  gain: number;
}

export type Reach = "frame" | "span" | "object" | "label";

const ACTIONS: Record<ReviewAct, string> = {
  accept: "REVIEW_ACTION_ACCEPT",
  reject: "REVIEW_ACTION_REJECT",
  reset: "REVIEW_ACTION_RESET",
  lock: "REVIEW_ACTION_LOCK",
  unlock: "REVIEW_ACTION_UNLOCK",
};
const DONE: Record<ReviewAct, string> = {
  accept: "accepted",
  reject: "rejected",
  reset: "no longer judged",
  lock: "locked",
  unlock: "unlocked",
};
const SETTLE_MS = 900;
const MAX_KEYS = 10_000;

export class Reviewing {
  /** Frames worth a look, best first. */
  readonly suggestions = signal<Suggestion[]>([]);
  /** First frames of new scenes. */
  readonly cuts = signal<number[]>([]);
  readonly swaps = signal<SuspectedSwap[]>([]);
  /** What looks wrong, the worst first; null until it was asked for. */
  readonly issues = signal<ConsistencyIssue[] | null>(null);
  readonly checking = signal<"idle" | "busy">("idle");
  readonly comments = signal<Comment[]>([]);
  readonly changes = signal<Change[]>([]);
  /** Whether there is a micro-model to ask. */
  readonly hasModel = signal(false);
  /** Whether labels changed and what follows from that has not been asked for yet. */
  readonly isUnsettled = signal(false);
  private readonly controller = new AbortController();
  private timer = 0;
  private asking = false;
  private again = false;

  constructor(private readonly session: Session) {}

  private get parent(): string {
    return this.session.video.name;
  }

  close(): void {
    this.controller.abort();
    clearTimeout(this.timer);
  }

  async start(): Promise<void> {
    const made = [...this.session.labels.rows.values()].some((row) => row.source.includes(Source.MODEL));
    this.hasModel.value = made;
    await Promise.all([this.loadChanges(), this.loadComments()]);
    if (made) this.changed(true);
  }

  /** Labels changed: what follows from them is asked for again, when it is quiet. */
  changed(hasModel: boolean): void {
    if (hasModel) this.hasModel.value = true;
    clearTimeout(this.timer);
    this.isUnsettled.value = true;
    this.timer = window.setTimeout(() => void this.ask(), SETTLE_MS);
  }

  private async ask(): Promise<void> {
    this.timer = 0;
    if (this.asking) {
      this.again = true;
      return;
    }
    this.asking = true;
    const asked = [this.loadChanges()];
    if (this.hasModel.value) asked.push(this.loadSuggestions(), this.loadCuts(), this.loadSwaps());
    for (const result of await Promise.allSettled(asked)) {
      if (result.status === "fulfilled" || isPassing(result.reason) || isAbort(result.reason)) continue;
      // The page does without, and asks again after the next change.
      const { code } = result.reason as RpcError;
      if (code !== Code.UNIMPLEMENTED && code !== Code.FAILED_PRECONDITION) say(inWords(result.reason), "error");
    }
    this.asking = false;
    if (this.again) {
      this.again = false;
      this.changed(false);
    } else if (!this.timer) this.isUnsettled.value = false;
  }

  private call<T>(method: string, body: object): Promise<T> {
    return patiently(() => call<T>(method, body, this.controller.signal), this.controller.signal);
  }

  // --- where to look ---------------------------------------------------------------------------------------------

  private async loadSuggestions(): Promise<void> {
    const body = { parent: this.parent, count: 12 };
    const answer = await this.call<{ suggestions?: SuggestionMessage[] }>("CorrectionService/SuggestFrames", body);
    this.suggestions.value = (answer.suggestions ?? []).map((one) => ({
      frame: Number(one.frameIndex ?? 0),
      row: this.rowOf(one.tracks?.[0]),
      reason: one.explanation ?? "",
      gain: one.expectedGain ?? 0,
    }));
  }

  private rowOf(name: string | undefined): string | null {
    if (!name) return null;
    return [rowKey(name, false), rowKey(name, true)].find((key) => this.session.labels.rows.has(key)) ?? null;
  }

  private async loadCuts(): Promise<void> {
    const body = { parent: this.parent, pageSize: 10000 };
    const answer = await this.call<{ frameIndices?: string[] }>("CorrectionService/ListSceneCuts", body);
    this.cuts.value = (answer.frameIndices ?? []).map(Number);
  }

  private async loadSwaps(): Promise<void> {
    const body = { parent: this.parent, pageSize: 20 };
    const answer = await this.call<{ swaps?: SuspectedSwap[] }>("CorrectionService/ListSuspectedSwaps", body);
    this.swaps.value = answer.swaps ?? [];
  }

  /** Look for what cannot be, or hardly. */
  async check(): Promise<void> {
    if (this.checking.value === "busy") return;
    this.checking.value = "busy";
    try {
      const body = { name: this.parent, consistencyChecks: true };
      const answer = await this.call<Figures>("DiagnosticsService/GetDiagnostics", body);
      this.issues.value = answer.issues ?? [];
    } catch (error) {
      if (!isAbort(error)) say(inWords(error), "error");
    } finally {
      this.checking.value = "idle";
    }
  }

  next(direction: number): void {
    const { session } = this;
    const all = session.assigned ? assignedFrames(session) : this.suggestions.value;
    if (!all.length) return say(this.hasModel.value ? "Nothing stands out any more" : "No suggestions yet: train first");
    const at = all.findIndex((one) => one.frame === session.player.frame.value);
    const next = all[at < 0 ? 0 : (at + direction + all.length) % all.length];
    session.player.pause();
    session.player.go(next.frame);
    if (next.row) session.selected.value = next.row;
    spoken.value = `Suggestion: frame ${next.frame}, ${next.reason}`;
  }

  // --- judging ---------------------------------------------------------------------------------------------------

  /** The frames from the anchor before to the anchor after, of an object; half-open. */
  span(row: Row, frame: number): [number, number] {
    const anchors = row.anchors();
    const before = anchors.findLast((anchor) => anchor <= frame) ?? 0;
    const after = anchors.find((anchor) => anchor > frame) ?? this.session.frameCount;
    return [before, after];
  }

  /** Judge what is on the frame, the selected object on it, its span, or the whole object. */
  async review(action: ReviewAct, reach: Reach, comment = ""): Promise<void> {
    const { session } = this;
    if (!session.allows("review")) return;
    const frame = session.player.shown.value;
    const row = session.selectedRow.value;
    if (reach !== "frame" && !row) return say("Select an object first");
    const rows = reach === "frame" ? session.rows() : [row!];
    let [start, stop] = [frame, frame + 1];
    if (reach === "object") [start, stop] = [0, session.frameCount];
    if (reach === "span") [start, stop] = this.span(row!, frame);
    const keys: LabelKey[] = [];
    for (const one of rows) for (let at = start; at < stop; at++) if (one.state[at]) keys.push(keyMessage(one, at));
    if (!keys.length) return say("There is nothing to judge here");
    const what = reach === "frame" ? `frame ${frame}` : keys.length === 1 ? session.nameOf(row!) : count(keys.length, "label");
    const selection = { startFrame: String(start), stopFrame: String(stop), tracks: row ? [row.name] : [] };
    const which = keys.length <= MAX_KEYS ? { keys } : { selection };
    await this.act(`${what} ${DONE[action]}`, "ReviewService/ReviewLabels", { action: ACTIONS[action], comment, ...which }, () => {
      for (const one of rows) for (let at = start; at < stop; at++) one.judge(at, action);
      session.labels.touch();
    });
  }

  /** Say what accepting everything above a confidence would do. */
  preview(minConfidence: number, selection: LabelSelection): Promise<{ acceptedCount?: string; expectedWrongShare?: number }> {
    return this.call("ReviewService/AcceptLabels", { parent: this.parent, selection, minConfidence, validateOnly: true });
  }

  async acceptAbove(minConfidence: number, selection: LabelSelection): Promise<void> {
    const percent = Math.round(minConfidence * 100);
    await this.act(`all above ${percent} % accepted`, "ReviewService/AcceptLabels", { minConfidence, selection });
    await this.session.refresh();
  }

  /** An act that is a change of the labels: checked against what one has seen, and undone like an edit. */
  private act(words: string, method: string, body: object, show?: () => void): Promise<boolean> {
    return this.session.during(() => this.actNow(words, method, body, show));
  }

  private async actNow(words: string, method: string, body: object, show?: () => void): Promise<boolean> {
    const { session } = this;
    try {
      await session.outbox.settled();
      const requestId = crypto.randomUUID();
      const whole = { parent: this.parent, baseRevision: String(session.labels.revision), requestId, ...body };
      const answer = await this.call<{ labelRevision?: string }>(method, whole);
      const revision = Number(answer.labelRevision ?? 0);
      session.labels.revision = Math.max(session.labels.revision, revision);
      show?.();
      session.undo.did({ words, id: "", revision, frame: session.player.frame.value, changes: [] });
      say(words.charAt(0).toUpperCase() + words.slice(1), "good");
      this.changed(false);
      return true;
    } catch (error) {
      if (isAbort(error)) return false;
      if (error instanceof RpcError && error.reason === "REVISION_CONFLICT") {
        await session.refresh();
        say("Labels changed meanwhile; they are shown now. Look, and try again", "error");
      } else say(inWords(error), "error");
      return false;
    }
  }

  // --- tracks ----------------------------------------------------------------------------------------------------

  async swap(a: string, b: string, frame: number): Promise<void> {
    const body = { trackA: a, trackB: b, startFrame: String(frame) };
    if (await this.act(`${a} and ${b} swapped from frame ${frame}`, "TrackService/SwapTracks", body))
      await this.session.refresh([a, b]);
  }

  async split(row: Row, frame: number): Promise<void> {
    const { session } = this;
    const newTrack = session.newTrack(row.className);
    const body = { track: row.name, startFrame: String(frame), newTrack };
    if (!(await this.act(`${session.nameOf(row)} split at frame ${frame}`, "TrackService/SplitTrack", body))) return;
    await session.refresh([row.name, newTrack]);
    session.selected.value = rowKey(newTrack, false);
  }

  async merge(row: Row, other: Row): Promise<void> {
    const { session } = this;
    const body = { track: row.name, otherTrack: other.name };
    const words = `${session.nameOf(other)} merged into ${session.nameOf(row)}`;
    if (!(await this.act(words, "TrackService/MergeTracks", body))) return;
    await session.refresh([row.name, other.name]);
    this.tidy(other);
  }

  async deleteFrom(row: Row, frame: number): Promise<void> {
    const { session } = this;
    const body = { track: row.name, startFrame: String(frame) };
    if (!(await this.act(`${session.nameOf(row)} deleted from frame ${frame}`, "TrackService/DeleteTrack", body))) return;
    await session.refresh([row.name]);
    this.tidy(row);
  }

  /** A track without a label has no row. */
  private tidy(row: Row): void {
    if (!row.isEmpty()) return;
    this.session.labels.rows.delete(row.key);
    if (this.session.selected.value === row.key) this.session.selected.value = null;
    this.session.labels.touch();
  }

  // --- the past, and what was said -------------------------------------------------------------------------------

  async loadChanges(): Promise<void> {
    const body = { parent: this.parent, pageSize: 1000 };
    const answer = await this.call<{ changes?: Change[] }>("HistoryService/ListChanges", body);
    this.changes.value = answer.changes ?? [];
    this.markCorrections();
  }

  /** Human labels that were drawn where a micro-model had been are corrections; the others were there before. */
  private markCorrections(): void {
    const corrections = this.changes.value.filter((one) => one.kind === "CHANGE_KIND_CORRECT" && one.microModelVersion);
    const made = new Set(corrections.map((one) => Number(one.revision)));
    for (const row of this.session.labels.rows.values())
      for (const [frame, revision] of row.revisions) if (made.has(revision)) row.correction[frame] = 1;
    this.session.labels.touch();
  }

  /** Take back a change of the list. */
  async undoChange(change: Change): Promise<void> {
    const { session } = this;
    try {
      await session.outbox.settled();
      const body = { parent: this.parent, revision: change.revision, requestId: crypto.randomUUID() };
      const answer = await this.call<{ labelRevision?: string }>("HistoryService/UndoChange", body);
      session.labels.revision = Math.max(session.labels.revision, Number(answer.labelRevision ?? 0));
      await session.refresh();
      this.changed(false);
      say("Taken back", "good");
    } catch (error) {
      say(inWords(error), "error");
    }
  }

  private async loadComments(): Promise<void> {
    const body = { parent: this.parent, pageSize: 1000 };
    const answer = await this.call<{ comments?: Comment[] }>("ReviewService/ListComments", body);
    this.comments.value = answer.comments ?? [];
  }

  async comment(text: string): Promise<boolean> {
    const { session } = this;
    const frame = session.player.shown.value;
    const comment: Comment = { startFrame: String(frame), track: session.selectedRow.value?.name ?? "", text };
    try {
      const body = { parent: this.parent, comment, requestId: crypto.randomUUID() };
      await this.call("ReviewService/CreateComment", body);
      await this.loadComments();
      return true;
    } catch (error) {
      say(inWords(error), "error");
      return false;
    }
  }

  async deleteComment(comment: Comment): Promise<void> {
    try {
      await this.call("ReviewService/DeleteComment", { name: comment.name });
      await this.loadComments();
    } catch (error) {
      say(inWords(error), "error");
    }
  }
}
