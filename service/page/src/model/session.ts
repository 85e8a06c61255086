/** One open video or assignment: its labels, frames, edits, training and selection. */

import { computed, signal } from "@preact/signals";

import type { Assignment, Frame, Label, LabelKey, Operation, Project, Video } from "../api/messages";
import { call, errorMessage, isAbort, retry, RpcError, stream } from "../api/rpc";
import { classColor } from "../lib/color";
import { count, sentence } from "../lib/format";
import { type Shape, type Size } from "../lib/shapes";
import { listAssigned } from "./assigning";
import { Background, listOperations } from "./background";
import { may, type Permission, whyNot } from "./caller";
import type { Change, SessionContext } from "./context";
import { FrameCache } from "./frames";
import { type Entry, keyMessage, Labels, type Row, rowKey, Source, State, STATE_NAMES, type StateNumber, toMessage } from "./labels";
import { type Draft, Outbox } from "./outbox";
import { Player } from "./player";
import { Reviewing } from "./reviewing";
import { announcement, notify } from "./toasts";
import { Training } from "./training";
import { Undo } from "./undo";

export type Tool = "select" | "box" | "polygon" | "brush" | "eraser";

const RELOAD_MS = 700;

export class Session implements SessionContext {
  readonly size: Size;
  readonly frameCount: number;
  readonly labels: Labels;
  readonly player: Player;
  readonly outbox: Outbox;
  readonly training = new Training();
  readonly background: Background;
  readonly undo: Undo;
  readonly reviewing: Reviewing;
  readonly project = signal<Project>({ name: "" });
  readonly tool = signal<Tool>("select");
  readonly selected = signal<string | null>(null);
  readonly activeClass = signal("");
  readonly hidden = signal<ReadonlySet<string>>(new Set());
  readonly loading = signal(true);
  readonly pts = signal<Float64Array | null>(null);
  /** Frame of the shape that is started and not finished; null if there is none. */
  readonly drawing = signal<number | null>(null);
  readonly selectedRow = computed(() => {
    this.labels.version.value;
    return this.selected.value ? (this.labels.rows.get(this.selected.value) ?? null) : null;
  });
  private readonly runningTasks = signal(0);
  readonly assigned: ReadonlySet<number> | null = null;
  /** Whether everything is saved and every result of it has arrived. */
  readonly isIdle = computed(
    () =>
      !this.loading.value &&
      !this.runningTasks.value &&
      !this.outbox.waiting.value &&
      !this.outbox.awaitingResults.value &&
      !this.reviewing.isReloading.value &&
      (this.assignment !== null || this.reviewing.suggestionState.value !== "loading") &&
      this.player.frame.value === this.player.shown.value,
  );
  private readonly controller = new AbortController();
  private fetched = 0;
  private fetching = false;

  constructor(
    readonly video: Video,
    project: Project,
    /** An assignment shows the person's own labels only. */
    readonly assignment: Assignment | null = null,
  ) {
    const table = video.frameTable!;
    this.frameCount = Number(table.frameCount ?? 0);
    this.size = { width: table.widthPx ?? 0, height: table.heightPx ?? 0 };
    this.labels = new Labels(this.frameCount, this.size);
    const cache = new FrameCache(video.name, this.frameCount, this.size.width, this.size.height);
    cache.onError = (error) => notify(errorMessage(error), "error");
    this.player = new Player(cache, this.frameCount, (frame) => this.seconds(frame));
    this.outbox = new Outbox(this.key, assignment !== null);
    this.project.value = project;
    this.activeClass.value = project.objectClasses?.[0]?.name ?? "";
    this.undo = new Undo(this);
    this.background = new Background(video.name, () => void this.onRetrained());
    this.reviewing = new Reviewing(this);
    if (assignment) this.assigned = new Set((assignment.frameIndices ?? []).map(Number));
    this.listen();
    this.training.onFrames = (done) => this.fetchUpTo(done);
    this.training.onEnd = (operation) => void this.onTrained(operation);
  }

  private listen(): void {
    const { labels, outbox } = this;
    const pending = (key: string): boolean => outbox.isPending(key);
    outbox.onAcknowledged = (draft, revision) => {
      labels.revision = Math.max(labels.revision, revision);
      for (const label of draft.labels) this.acknowledge(label, revision);
      this.undo.acknowledged(draft.id, revision);
    };
    outbox.onDifferences = (differences, revision) => {
      labels.revision = Math.max(labels.revision, revision);
      labels.merge(differences.flatMap(({ after }) => (after ? [after] : [])), { flash: true, pending });
      for (const { key, after } of differences) if (!after && key) this.dropKey(key, true);
    };
    outbox.onSummary = (summary, updates) => {
      if (!summary) void this.refresh().catch(() => undefined);
      const text = summary ? updates.text(summary.durationSeconds ?? 0) : "";
      if (text) notify(text, updates.onlyUpdates ? "good" : "info");
      this.reviewing.labelsChanged(Boolean(summary?.microModelVersion));
      if (summary?.microModelVersion) this.background.startPolling();
    };
    outbox.onRefused = (draft, error) => void this.onRefused(draft, error);
  }

  private acknowledge(label: Label, revision: number): void {
    const name = label.object?.track ?? label.frameClass?.frameClass ?? "";
    const row = this.labels.rows.get(rowKey(name, label.frameClass !== undefined));
    const frame = Number(label.frameIndex ?? 0);
    if (row?.isAnchor(frame)) row.revisions.set(frame, revision);
  }

  private dropKey(key: LabelKey, flash: boolean): void {
    const row = this.labels.rows.get(rowKey(key.track ?? key.frameClass ?? "", key.frameClass !== undefined));
    const frame = Number(key.frameIndex ?? 0);
    if (!row || this.outbox.isPending(`${row.key}@${frame}`)) return;
    if (flash && row.state[frame]) row.flash(frame);
    this.labels.drop(row, frame);
  }

  /** Load the labels and resume where an earlier visit stopped. */
  async start(): Promise<void> {
    const { signal } = this.controller;
    this.labels.revision = Number(this.video.labelRevision ?? 0);
    const lastFrame = sessionStorage.getItem(`frame|${this.key}`);
    this.player.go(Number(lastFrame ?? (this.assigned ? Math.min(...this.assigned) : 0)));
    const drafts = await this.outbox.restore();
    for (const draft of drafts) this.show(draft);
    try {
      if (this.labels.revision > 0 || this.assignment) await this.load(0, this.frameCount);
      this.loading.value = false;
      if (drafts.length) notify(`${count(drafts.length, "unsaved edit")} restored.`, "good");
      this.outbox.send();
      const others = this.assignment ? [] : [this.findTraining(signal), this.reviewing.start()];
      await Promise.all([this.loadTimes(signal), ...others]);
    } catch (error) {
      if (!isAbort(error)) notify(errorMessage(error), "error");
      this.loading.value = false;
    }
  }

  close(): void {
    this.controller.abort();
    this.player.close();
    this.training.close();
    this.background.close();
    this.outbox.close();
    this.reviewing.close();
  }

  async during<T>(task: () => Promise<T>): Promise<T> {
    this.runningTasks.value++;
    try {
      return await task();
    } finally {
      this.runningTasks.value--;
    }
  }

  // --- reading ------------------------------------------------------------------------------------------------------

  /** Name of the open video or assignment. */
  get key(): string {
    return this.assignment?.name ?? this.video.name;
  }

  seconds(frame: number): number {
    const table = this.video.frameTable!;
    const base = Number(table.timeBaseNumerator ?? 0) / Number(table.timeBaseDenominator ?? 1);
    const times = this.pts.value;
    return times ? (times[frame] - times[0]) * base : frame / 25;
  }

  classColor(name: string, isFrameClass = false): string {
    const classes = isFrameClass ? this.project.value.frameClasses : this.project.value.objectClasses;
    const index = classes?.findIndex((one) => one.name === name) ?? -1;
    const offset = isFrameClass ? (this.project.value.objectClasses?.length ?? 0) : 0;
    return classColor(classes?.[index]?.color, Math.max(index, 0) + offset);
  }

  /** Objects and frame classes; frame classes also before they have a label. */
  rows(): Row[] {
    for (const one of this.project.value.frameClasses ?? []) this.labels.row(one.name, one.name, true);
    return this.labels.ordered();
  }

  /** Read the labels of frames; labels that the server does not have any more are removed. */
  async load(start: number, stop: number, flash = false, tracks: string[] = []): Promise<void> {
    let resumeToken = "";
    const seen = new Set<string>();
    const options = { flash, seen, pending: (key: string): boolean => this.outbox.isPending(key) };
    const read = async (): Promise<void> => {
      if (this.assignment) {
        for await (const own of listAssigned(this.assignment.name, "", this.controller.signal)) this.labels.merge(own, options);
        return;
      }
      const selection = { startFrame: String(start), stopFrame: String(stop), tracks };
      const body = { parent: this.video.name, selection, resumeToken };
      for await (const message of stream<{ labels?: Label[]; resumeToken?: string; labelRevision?: string }>(
        "LabelService/StreamLabels",
        body,
        this.controller.signal,
      )) {
        this.labels.merge(message.labels ?? [], options);
        if (message.resumeToken) resumeToken = message.resumeToken;
      }
    };
    await this.during(() => retry(read, this.controller.signal));
    const only = tracks.length ? new Set(tracks.flatMap((track) => [rowKey(track, false), rowKey(track, true)])) : undefined;
    this.labels.dropUnseen(seen, start, stop, options, only);
  }

  refresh(tracks: string[] = []): Promise<void> {
    return this.load(0, this.frameCount, true, tracks);
  }

  private async loadTimes(signal: AbortSignal): Promise<void> {
    const times = new Float64Array(this.frameCount);
    let pageToken = "";
    let at = 0;
    do {
      const page = await retry(
        () =>
          call<{ frames?: Frame[]; nextPageToken?: string }>(
            "VideoService/ListFrames",
            { parent: this.video.name, pageSize: 10000, pageToken },
            signal,
          ),
        signal,
      );
      for (const frame of page.frames ?? []) times[at++] = Number(frame.pts ?? 0);
      pageToken = page.nextPageToken ?? "";
    } while (pageToken);
    this.pts.value = times;
  }

  // --- edits --------------------------------------------------------------------------------------------------------

  /** A name for a new object of a class, with the smallest number that is free. */
  newTrack(className: string): string {
    const taken = new Set([...this.labels.rows.values()].flatMap((row) => [row.name, this.nameOf(row)]));
    for (let number = 1; ; number++) {
      const name = `${className} ${number}`;
      if (!taken.has(name)) return name;
    }
  }

  /** The selected object; if none is selected, a new object of the active class. */
  targetRow(): Row | null {
    const row = this.selectedRow.value;
    if (row && !row.isFrameClass) return row;
    const className = this.activeClass.value;
    if (!className) {
      notify("Add a class first: open Classes in the panel on the right.", "error");
      return null;
    }
    const created = this.labels.row(this.newTrack(className), className, false);
    this.selected.value = created.key;
    return created;
  }

  allows(permission: Permission): boolean {
    if (this.assignment && permission !== "work") {
      notify("You can only label in this assignment.");
      return false;
    }
    const project = this.project.value.name;
    if (may(permission, project)) return true;
    notify(whyNot(permission, project), "error");
    return false;
  }

  /** Choose a tool; a started shape has to be finished or discarded first. */
  chooseTool(tool: Tool): void {
    if (tool === this.tool.value) return;
    if (this.drawing.value !== null) return notify("Finish the started shape first, or press Esc to discard it.");
    if (tool === "select" || this.allows("work")) this.tool.value = tool;
  }

  /** Give an object a shape on a frame; it becomes visible there, unless it is occluded. */
  draw(shape: Shape, frame = this.player.shown.value, row = this.targetRow()): void {
    if (!row) return;
    const state = row.state[frame] === State.OCCLUDED ? State.OCCLUDED : State.VISIBLE;
    this.edit(`draw ${this.nameOf(row)}`, [[row, human(frame, state, shape)]]);
  }

  setState(state: StateNumber, row = this.selectedRow.value, frame = this.player.shown.value): void {
    if (!row || row.isFrameClass) return notify("Select an object first.");
    const before = row.get(frame);
    if (state === State.VISIBLE && !before?.shape) return notify("Draw it first: a visible object needs a shape.");
    const shape = state === State.ABSENT ? null : (before?.shape ?? null);
    this.edit(`mark ${this.nameOf(row)} as ${STATE_NAMES[state]}`, [
      [row, human(frame, state, shape)],
    ]);
  }

  setFrameClass(name: string, present: boolean, frame = this.player.shown.value): void {
    const row = this.labels.row(name, name, true);
    this.edit(`set ${name} to ${present ? "yes" : "no"}`, [
      [row, human(frame, present ? State.VISIBLE : State.ABSENT, null)],
    ]);
  }

  /** Remove a label from this frame. */
  remove(row = this.selectedRow.value, frame = this.player.shown.value): void {
    if (!row?.state[frame]) return;
    this.edit(`remove ${this.nameOf(row)}`, [[row, { frame, state: State.NONE } as Entry]]);
  }

  nameOf(row: Row): string {
    return row.isFrameClass || row.name.startsWith(row.className) ? row.name : `${row.className} ${row.name}`;
  }

  /** Edits of one gesture: shown at once, stored in the browser, sent and undone together. */
  edit(text: string, edits: [Row, Entry][]): void {
    if (!this.allows("work")) return;
    if (edits.some(([, { frame }]) => this.assigned?.has(frame) === false))
      return notify("This frame is not assigned to you. Press N for the next one that is.");
    const changes = edits.map(([row, entry]): Change => {
      const after = entry.state === State.NONE ? null : entry;
      return { row, frame: entry.frame, before: row.get(entry.frame), after };
    });
    const id = crypto.randomUUID();
    this.undo.push({ text, id, revision: 0, frame: changes[0].frame, changes });
    this.send(changes, id);
    announcement.value = `${text}, frame ${changes[0].frame}`;
  }

  send(changes: readonly Change[], id: string): void {
    const labels: Label[] = [];
    const deletions: LabelKey[] = [];
    for (const { row, frame, after } of changes) {
      row.put(frame, after);
      row.flash(frame);
      if (after) labels.push(toMessage(row, after, this.size));
      else deletions.push(keyMessage(row, frame));
    }
    this.labels.touch();
    const keys = changes.map(({ row, frame }) => `${row.key}@${frame}`);
    void this.outbox.add({ labels, deletions, keys, baseRevision: this.labels.revision }, id);
  }

  /** Show a draft of an earlier visit. */
  private show(draft: Draft): void {
    this.labels.merge(draft.labels.map((label) => ({ ...label, provenance: label.provenance ?? HUMAN_PROVENANCE })));
    for (const key of draft.deletions) {
      const name = key.track ?? key.frameClass ?? "";
      const row = this.labels.rows.get(rowKey(name, key.frameClass !== undefined));
      if (row) this.labels.drop(row, Number(key.frameIndex ?? 0));
    }
  }

  private async onRefused(draft: Draft, error: RpcError): Promise<void> {
    this.undo.forget(draft.id);
    const conflict = error.reason === "REVISION_CONFLICT";
    const resend = (): void => {
      const baseRevision = this.labels.revision;
      this.show(draft);
      void this.outbox.add({ ...draft, baseRevision });
    };
    const frames = [...draft.labels, ...draft.deletions].map((one) => Number(one.frameIndex ?? 0));
    for (const key of draft.keys) {
      const [row, frame] = [key.slice(0, key.lastIndexOf("@")), Number(key.slice(key.lastIndexOf("@") + 1))];
      this.labels.rows.get(row)?.put(frame, null);
    }
    if (frames.length) await this.load(Math.min(...frames), Math.max(...frames) + 1, true).catch(() => undefined);
    if (conflict) this.labels.revision = Math.max(this.labels.revision, Number(error.metadata.current_revision ?? 0));
    this.labels.touch();
    if (conflict)
      notify(`Another person changed frame ${frames[0]} at the same time. Their label is shown.`, "error", {
        label: "Use mine",
        run: resend,
      });
    else notify(errorMessage(error), "error");
  }

  // --- training -----------------------------------------------------------------------------------------------------

  async train(settings: { experiments: number; effort: number }): Promise<void> {
    if (!this.allows("work")) return;
    try {
      await this.outbox.settled();
      const parent = this.project.value.name;
      const requestId = crypto.randomUUID();
      const body = { parent, video: this.video.name, flipBook: true, settings, requestId };
      const begin = async (): Promise<string> => {
        for await (const message of stream<{ operation?: Operation }>("LabelingService/AutoLabel", body))
          if (message.operation) return message.operation.name;
        return "";
      };
      const name = await retry(begin);
      this.fetched = 0;
      if (name) void this.training.watch(name);
    } catch (error) {
      notify(errorMessage(error), "error");
    }
  }

  /** Watch a training that an earlier visit or another person started. */
  private async findTraining(signal: AbortSignal): Promise<void> {
    const operations = await listOperations(this.video.name, signal);
    this.background.showNewest(operations);
    const mine = operations.filter(({ metadata }) =>
      ["OPERATION_KIND_AUTO_LABEL", "OPERATION_KIND_PROPAGATE", "OPERATION_KIND_TRAIN"].includes(metadata?.kind ?? ""),
    );
    const last = mine.findLast((operation) => !operation.done) ?? mine.at(-1);
    if (last && !this.training.running) void this.training.watch(last.name, !last.done);
  }

  private fetchUpTo(done: number): void {
    if (this.fetching || done <= this.fetched || this.training.state.value === "done") return;
    this.fetching = true;
    const start = this.fetched;
    setTimeout(() => {
      const stop = Math.min(Number(this.training.propagation.value?.framesDone ?? done), this.frameCount);
      this.load(start, stop, true)
        .then(() => (this.fetched = stop))
        .catch(() => undefined)
        .finally(() => {
          this.fetching = false;
        });
    }, RELOAD_MS);
  }

  /** A retrained micro-model has labeled the video. */
  private async onRetrained(): Promise<void> {
    await this.refresh().catch(() => undefined);
    this.reviewing.labelsChanged(true);
  }

  private async onTrained(operation: Operation): Promise<void> {
    const labeled = operation.metadata?.kind !== "OPERATION_KIND_TRAIN";
    if (labeled) await this.refresh().catch(() => undefined);
    this.reviewing.labelsChanged(labeled && !operation.error?.code);
    if (operation.error?.code && this.training.error.value) notify(`Training failed. ${sentence(this.training.error.value)}`, "error");
  }
}

const HUMAN_PROVENANCE = { kind: "PROVENANCE_KIND_HUMAN" };

export function human(frame: number, state: StateNumber, shape: Shape | null): Entry {
  return { frame, state, shape, confidence: NaN, source: Source.HUMAN, version: "", review: 0, revision: 0 };
}
