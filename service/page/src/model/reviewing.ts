/** Reviewing labels, fixing identities, and frames worth a look: the work after training. */

import { signal } from "@preact/signals";

import type {
  Change,
  Comment,
  ConsistencyIssue,
  Figures,
  LabelKey,
  LabelSelection,
  Suggestion,
  SuggestionMessage,
  SuspectedSwap,
} from "../api/messages";
import { call, Code, errorMessage, isAbort, isTransient, retry, RpcError } from "../api/rpc";
import { count } from "../lib/format";
import { assignedFrames } from "./assigning";
import type { SessionContext } from "./context";
import { keyMessage, type ReviewAction, type Row, rowKey, Source } from "./labels";
import { announcement, notify } from "./toasts";

/** What a review is about: every label of the frame, or labels of the selected object. */
export type Scope = "frame" | "span" | "object" | "label";

const ACTIONS: Record<ReviewAction, string> = {
  accept: "REVIEW_ACTION_ACCEPT",
  reject: "REVIEW_ACTION_REJECT",
  reset: "REVIEW_ACTION_RESET",
  lock: "REVIEW_ACTION_LOCK",
  unlock: "REVIEW_ACTION_UNLOCK",
};
const DONE_TEXT: Record<ReviewAction, (what: string) => string> = {
  accept: (what) => `${what} accepted`,
  reject: (what) => `${what} rejected`,
  reset: (what) => `review of ${what} cleared`,
  lock: (what) => `${what} locked`,
  unlock: (what) => `${what} unlocked`,
};
const NO_SUGGESTION = {
  loading: "Suggestions are still being computed. Try again in a moment.",
  ready: "No more frames to check.",
  none: "No suggestions yet. Train a micro-model first (T).",
};
/** The page reloads suggestions and cuts when labels have not changed for so long. */
const RELOAD_DELAY_MS = 900;
/** Limit of the API on label keys in one request. */
const MAX_KEYS = 10_000;

export class Reviewing {
  /** Frames worth a look, best first. */
  readonly suggestions = signal<Suggestion[]>([]);
  /** Whether `suggestions` is up to date; "none" if there is no micro-model to suggest frames. */
  readonly suggestionState = signal<"loading" | "ready" | "none">("loading");
  /** First frames of scenes. */
  readonly cuts = signal<number[]>([]);
  readonly swaps = signal<SuspectedSwap[]>([]);
  /** Inconsistent labels, worst first; null before the first check. */
  readonly issues = signal<ConsistencyIssue[] | null>(null);
  readonly checking = signal<"idle" | "busy">("idle");
  readonly comments = signal<Comment[]>([]);
  readonly changes = signal<Change[]>([]);
  /** Whether a micro-model has labeled the video. */
  readonly hasModel = signal(false);
  /** Whether labels changed and the suggestions are not up to date yet. */
  readonly isReloading = signal(false);
  private readonly controller = new AbortController();
  private timer = 0;
  private reloading = false;
  private reloadAgain = false;

  constructor(private readonly session: SessionContext) {}

  private get parent(): string {
    return this.session.video.name;
  }

  close(): void {
    this.controller.abort();
    clearTimeout(this.timer);
  }

  async start(): Promise<void> {
    this.hasModel.value = [...this.session.labels.rows.values()].some((row) => row.source.includes(Source.MODEL));
    if (!this.hasModel.value) this.suggestionState.value = "none";
    await Promise.all([this.loadChanges(), this.loadComments()]);
    if (this.hasModel.value) this.labelsChanged(true);
  }

  /** Labels changed: reload what depends on them after a short pause. */
  labelsChanged(hasModel: boolean): void {
    if (hasModel) this.hasModel.value = true;
    if (this.hasModel.value) this.suggestionState.value = "loading";
    clearTimeout(this.timer);
    this.isReloading.value = true;
    this.timer = window.setTimeout(() => void this.reload(), RELOAD_DELAY_MS);
  }

  private async reload(): Promise<void> {
    this.timer = 0;
    if (this.reloading) {
      this.reloadAgain = true;
      return;
    }
    this.reloading = true;
    const requests = [this.loadChanges()];
    if (this.hasModel.value) requests.push(this.loadSuggestions(), this.loadCuts(), this.loadSwaps());
    for (const result of await Promise.allSettled(requests)) {
      if (result.status === "fulfilled" || isTransient(result.reason) || isAbort(result.reason)) continue;
      // The page works without them and asks again after the next change.
      const { code } = result.reason as RpcError;
      if (code !== Code.UNIMPLEMENTED && code !== Code.FAILED_PRECONDITION) notify(errorMessage(result.reason), "error");
    }
    this.reloading = false;
    if (this.reloadAgain) {
      this.reloadAgain = false;
      this.labelsChanged(false);
    } else if (!this.timer) this.isReloading.value = false;
  }

  private call<T>(method: string, body: object): Promise<T> {
    return retry(() => call<T>(method, body, this.controller.signal), this.controller.signal);
  }

  // --- suggestions --------------------------------------------------------------------------------------------------

  private async loadSuggestions(): Promise<void> {
    const body = { parent: this.parent, count: 12 };
    const answer = await this.call<{ suggestions?: SuggestionMessage[] }>("CorrectionService/SuggestFrames", body).catch((error) => {
      this.suggestionState.value = "none";
      throw error;
    });
    if (!this.timer && !this.reloadAgain) this.suggestionState.value = "ready"; // else labels changed since: a reload follows
    this.suggestions.value = (answer.suggestions ?? []).map((one) => ({
      frame: Number(one.frameIndex ?? 0),
      row: this.rowOf(one.tracks?.[0]),
      reason: one.explanation ?? "",
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

  /** Check the labels for inconsistencies. */
  async check(): Promise<void> {
    if (this.checking.value === "busy") return;
    this.checking.value = "busy";
    try {
      const body = { name: this.parent, consistencyChecks: true };
      const answer = await this.call<Figures>("DiagnosticsService/GetDiagnostics", body);
      this.issues.value = answer.issues ?? [];
    } catch (error) {
      if (!isAbort(error)) notify(errorMessage(error), "error");
    } finally {
      this.checking.value = "idle";
    }
  }

  next(direction: number): void {
    const { session } = this;
    const all = session.assigned ? assignedFrames(session) : this.suggestions.value;
    if (!all.length) return notify(NO_SUGGESTION[this.suggestionState.value]);
    const at = all.findIndex((one) => one.frame === session.player.frame.value);
    const next = all[at < 0 ? 0 : (at + direction + all.length) % all.length];
    session.player.pause();
    session.player.go(next.frame);
    if (next.row) session.selected.value = next.row;
    announcement.value = `Suggestion: frame ${next.frame}, ${next.reason}`;
  }

  // --- reviews ------------------------------------------------------------------------------------------------------

  /** The frames of an object from the last anchor before a frame to the next anchor; half-open. */
  span(row: Row, frame: number): [number, number] {
    const anchors = row.anchors();
    const before = anchors.findLast((anchor) => anchor <= frame) ?? 0;
    const after = anchors.find((anchor) => anchor > frame) ?? this.session.frameCount;
    return [before, after];
  }

  /** Review all labels of the frame, or the selected object's label here, its span, or the whole object. */
  async review(action: ReviewAction, scope: Scope, comment = ""): Promise<void> {
    const { session } = this;
    if (!session.allows("review")) return;
    const frame = session.player.shown.value;
    const row = session.selectedRow.value;
    if (scope !== "frame" && !row) return notify("Select an object first.");
    const rows = scope === "frame" ? session.rows() : [row!];
    let [start, stop] = [frame, frame + 1];
    if (scope === "object") [start, stop] = [0, session.frameCount];
    if (scope === "span") [start, stop] = this.span(row!, frame);
    const keys: LabelKey[] = [];
    for (const one of rows) for (let at = start; at < stop; at++) if (one.state[at]) keys.push(keyMessage(one, at));
    if (!keys.length) return notify("No labels here to review.");
    const what = scope === "frame" ? `frame ${frame}` : keys.length === 1 ? session.nameOf(row!) : count(keys.length, "label");
    const selection = { startFrame: String(start), stopFrame: String(stop), tracks: row ? [row.name] : [] };
    const which = keys.length <= MAX_KEYS ? { keys } : { selection };
    await this.change(DONE_TEXT[action](what), "ReviewService/ReviewLabels", { action: ACTIONS[action], comment, ...which }, () => {
      for (const one of rows) for (let at = start; at < stop; at++) one.setReview(at, action);
      session.labels.touch();
    });
  }

  /** What accepting all labels from a confidence on would do. */
  preview(minConfidence: number, selection: LabelSelection): Promise<{ acceptedCount?: string; expectedWrongShare?: number }> {
    return this.call("ReviewService/AcceptLabels", { parent: this.parent, selection, minConfidence, validateOnly: true });
  }

  async acceptAbove(minConfidence: number, selection: LabelSelection): Promise<void> {
    const percent = Math.round(minConfidence * 100);
    await this.change(`all labels with confidence ${percent} % or more accepted`, "ReviewService/AcceptLabels", { minConfidence, selection });
    await this.session.refresh();
  }

  /** Change labels by a call of the API: refused if the page has not seen the newest labels; undone like an edit. */
  private change(text: string, method: string, body: object, show?: () => void): Promise<boolean> {
    return this.session.during(() => this.changeNow(text, method, body, show));
  }

  private async changeNow(text: string, method: string, body: object, show?: () => void): Promise<boolean> {
    const { session } = this;
    try {
      await session.outbox.settled();
      const requestId = crypto.randomUUID();
      const whole = { parent: this.parent, baseRevision: String(session.labels.revision), requestId, ...body };
      const answer = await this.call<{ labelRevision?: string }>(method, whole);
      const revision = Number(answer.labelRevision ?? 0);
      session.labels.revision = Math.max(session.labels.revision, revision);
      show?.();
      session.undo.push({ text, id: "", revision, frame: session.player.frame.value, changes: [] });
      notify(text, "good");
      this.labelsChanged(false);
      return true;
    } catch (error) {
      if (isAbort(error)) return false;
      if (error instanceof RpcError && error.reason === "REVISION_CONFLICT") {
        await session.refresh();
        notify("Another person changed these labels. The new labels are shown: check them and try again.", "error");
      } else notify(errorMessage(error), "error");
      return false;
    }
  }

  // --- identities ---------------------------------------------------------------------------------------------------

  async swap(a: string, b: string, frame: number): Promise<void> {
    const body = { trackA: a, trackB: b, startFrame: String(frame) };
    if (await this.change(`${a} and ${b} swapped from frame ${frame} on`, "TrackService/SwapTracks", body))
      await this.session.refresh([a, b]);
  }

  async split(row: Row, frame: number): Promise<void> {
    const { session } = this;
    const newTrack = session.newTrack(row.className);
    const body = { track: row.name, startFrame: String(frame), newTrack };
    if (!(await this.change(`${session.nameOf(row)} split at frame ${frame}`, "TrackService/SplitTrack", body))) return;
    await session.refresh([row.name, newTrack]);
    session.selected.value = rowKey(newTrack, false);
  }

  async merge(row: Row, other: Row): Promise<void> {
    const { session } = this;
    const body = { track: row.name, otherTrack: other.name };
    const text = `${session.nameOf(other)} merged into ${session.nameOf(row)}`;
    if (!(await this.change(text, "TrackService/MergeTracks", body))) return;
    await session.refresh([row.name, other.name]);
    this.removeIfEmpty(other);
  }

  async deleteFrom(row: Row, frame: number): Promise<void> {
    const { session } = this;
    const body = { track: row.name, startFrame: String(frame) };
    if (!(await this.change(`${session.nameOf(row)} deleted from frame ${frame} on`, "TrackService/DeleteTrack", body))) return;
    await session.refresh([row.name]);
    this.removeIfEmpty(row);
  }

  /** Remove the row of an object that has no label any more. */
  private removeIfEmpty(row: Row): void {
    if (!row.isEmpty()) return;
    this.session.labels.rows.delete(row.key);
    if (this.session.selected.value === row.key) this.session.selected.value = null;
    this.session.labels.touch();
  }

  // --- history and comments -----------------------------------------------------------------------------------------

  async loadChanges(): Promise<void> {
    const body = { parent: this.parent, pageSize: 1000 };
    const answer = await this.call<{ changes?: Change[] }>("HistoryService/ListChanges", body);
    this.changes.value = answer.changes ?? [];
    this.markCorrections();
  }

  /** Mark labels by hand that replaced a micro-model's label. */
  private markCorrections(): void {
    const corrections = this.changes.value.filter((one) => one.kind === "CHANGE_KIND_CORRECT" && one.microModelVersion);
    const made = new Set(corrections.map((one) => Number(one.revision)));
    for (const row of this.session.labels.rows.values())
      for (const [frame, revision] of row.revisions) if (made.has(revision)) row.correction[frame] = 1;
    this.session.labels.touch();
  }

  /** Undo a change of the history. */
  async undoChange(change: Change): Promise<void> {
    const { session } = this;
    try {
      await session.outbox.settled();
      const body = { parent: this.parent, revision: change.revision, requestId: crypto.randomUUID() };
      const answer = await this.call<{ labelRevision?: string }>("HistoryService/UndoChange", body);
      session.labels.revision = Math.max(session.labels.revision, Number(answer.labelRevision ?? 0));
      await session.refresh();
      this.labelsChanged(false);
      notify("Undone.", "good");
    } catch (error) {
      notify(errorMessage(error), "error");
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
      notify(errorMessage(error), "error");
      return false;
    }
  }

  async deleteComment(comment: Comment): Promise<void> {
    try {
      await this.call("ReviewService/DeleteComment", { name: comment.name });
      await this.loadComments();
    } catch (error) {
      notify(errorMessage(error), "error");
    }
  }
}
