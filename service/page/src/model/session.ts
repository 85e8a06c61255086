/** One open video: its labels, frames, edits, training, and what is selected. */

import { computed, signal } from "@preact/signals";

import type { Assignment, Frame, Label, LabelKey, Operation, Project, Video } from "../api/messages";
import { call, inWords, isAbort, patiently, RpcError, stream } from "../api/rpc";
import { classColor } from "../lib/color";
import { type Shape, type Size } from "../lib/shapes";
import { may, type Permission, whyNot } from "./caller";
import { listAssigned } from "./assigning";
import { FrameCache } from "./frames";
import { type Entry, keyMessage, Labels, type Row, rowKey, Source, State, type StateNumber, toMessage } from "./labels";
import { type Draft, Outbox } from "./outbox";
import { Player } from "./player";
import { Reviewing } from "./reviewing";
import { say, spoken } from "./toasts";
import { Background, listOperations } from "./background";
import { Training } from "./training";
import { type Change, Undo } from "./undo";

export type Tool = "select" | "box" | "polygon" | "brush" | "eraser";

const RELOAD_MS = 700;

export class Session {
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
  /** Key of the row that is selected. */
  readonly selected = signal<string | null>(null);
  readonly activeClass = signal("");
  readonly hidden = signal<ReadonlySet<string>>(new Set());
  readonly loading = signal(true);
  readonly pts = signal<Float64Array | null>(null);
  /** A shape that is being drawn; kept while one looks at other frames. */
  readonly drawing = signal(false);
  readonly selectedRow = computed(() => {
    this.labels.version.value;
    return this.selected.value ? (this.labels.rows.get(this.selected.value) ?? null) : null;
  });
  private readonly underWay = signal(0);
  /** The frames that one is to label; null for all. */
  readonly assigned: ReadonlySet<number> | null = null;
  /** Whether everything that follows from what was done has come. */
  readonly isQuiet = computed(
    () =>
      !this.loading.value &&
      !this.underWay.value &&
      !this.outbox.waiting.value &&
      !this.outbox.hearing.value &&
      !this.reviewing.isUnsettled.value &&
      this.player.frame.value === this.player.shown.value,
  );
  private readonly controller = new AbortController();
  private fetched = 0;
  private fetching = false;

  constructor(
    readonly video: Video,
    project: Project,
    /** Where one labels frames blindly, seeing one's own labels alone. */
    readonly assignment: Assignment | null = null,
  ) {
    const table = video.frameTable!;
    this.frameCount = Number(table.frameCount ?? 0);
    this.size = { width: table.widthPx ?? 0, height: table.heightPx ?? 0 };
    this.labels = new Labels(this.frameCount, this.size);
    const cache = new FrameCache(video.name, this.frameCount, this.size.width, this.size.height);
    cache.onError = (error) => say(inWords(error), "error");
    this.player = new Player(cache, this.frameCount, (frame) => this.seconds(frame));
    this.outbox = new Outbox(this.key, assignment !== null);
    this.project.value = project;
    this.activeClass.value = project.objectClasses?.[0]?.name ?? "";
    this.undo = new Undo(this);
    this.background = new Background(video.name, () => void this.replaced());
    this.reviewing = new Reviewing(this);
    if (assignment) this.assigned = new Set((assignment.frameIndices ?? []).map(Number));
    this.listen();
    this.training.onFrames = (done) => this.fetchUpTo(done);
    this.training.onEnd = (operation) => void this.trained(operation);
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
      labels.take(differences.flatMap(({ after }) => (after ? [after] : [])), { flash: true, pending });
      for (const { key, after } of differences) if (!after && key) this.dropKey(key, true);
    };
    outbox.onSummary = (summary) => {
      if (!summary) void this.refresh().catch(() => undefined);
      const changed = Number(summary?.changedFrameCount ?? 0);
      const seconds = (summary?.durationSeconds ?? 0).toFixed(1);
      if (changed) say(`${changed} ${changed === 1 ? "frame" : "frames"} mended in ${seconds} s`, "good");
      this.reviewing.changed(Boolean(summary?.microModelVersion));
      if (summary?.microModelVersion) this.background.lookOut();
    };
    outbox.onRefused = (draft, error) => void this.refused(draft, error);
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

  /** Load what is there, and go on where an earlier visit stopped. */
  async start(): Promise<void> {
    const { signal } = this.controller;
    this.labels.revision = Number(this.video.labelRevision ?? 0);
    const memory = sessionStorage.getItem(`frame|${this.key}`);
    this.player.go(Number(memory ?? (this.assigned ? Math.min(...this.assigned) : 0)));
    const drafts = await this.outbox.restore();
    for (const draft of drafts) this.show(draft);
    try {
      if (this.labels.revision > 0 || this.assignment) await this.load(0, this.frameCount);
      this.loading.value = false;
      if (drafts.length) say(`${drafts.length} unsaved ${drafts.length === 1 ? "edit" : "edits"} restored`, "good");
      this.outbox.send();
      const others = this.assignment ? [] : [this.findTraining(signal), this.reviewing.start()];
      await Promise.all([this.loadTimes(signal), ...others]);
    } catch (error) {
      if (!isAbort(error)) say(inWords(error), "error");
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

  /** Do something; until it is done the page is not quiet. */
  async during<T>(act: () => Promise<T>): Promise<T> {
    this.underWay.value++;
    try {
      return await act();
    } finally {
      this.underWay.value--;
    }
  }

  // --- what is there ---------------------------------------------------------------------------------------------

  /** What is open: the video, or the assignment. */
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

  /** Objects and frame classes, the latter also where nothing is labeled yet. */
  rows(): Row[] {
    for (const one of this.project.value.frameClasses ?? []) this.labels.row(one.name, one.name, true);
    return this.labels.ordered();
  }

  /** Read labels of frames; what is not there any more goes away. */
  async load(start: number, stop: number, flash = false, tracks: string[] = []): Promise<void> {
    let resumeToken = "";
    const seen = new Set<string>();
    const options = { flash, seen, pending: (key: string): boolean => this.outbox.isPending(key) };
    const read = async (): Promise<void> => {
      if (this.assignment) {
        for await (const own of listAssigned(this.assignment.name, "", this.controller.signal)) this.labels.take(own, options);
        return;
      }
      const selection = { startFrame: String(start), stopFrame: String(stop), tracks };
      const body = { parent: this.video.name, selection, resumeToken };
      for await (const message of stream<{ labels?: Label[]; resumeToken?: string; labelRevision?: string }>(
        "LabelService/StreamLabels",
        body,
        this.controller.signal,
      )) {
        this.labels.take(message.labels ?? [], options);
        if (message.resumeToken) resumeToken = message.resumeToken;
      }
    };
    await this.during(() => patiently(read, this.controller.signal));
    const only = tracks.length ? new Set(tracks.flatMap((track) => [rowKey(track, false), rowKey(track, true)])) : undefined;
    this.labels.dropUnseen(seen, start, stop, options, only);
  }

  /** Read all labels, or those of some tracks, again; what changed is shown. */
  refresh(tracks: string[] = []): Promise<void> {
    return this.load(0, this.frameCount, true, tracks);
  }

  private async loadTimes(signal: AbortSignal): Promise<void> {
    const times = new Float64Array(this.frameCount);
    let pageToken = "";
    let at = 0;
    do {
      const page = await patiently(
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

  // --- edits -----------------------------------------------------------------------------------------------------

  /** A name for a new object of a class, with the smallest number that no other is shown under. */
  newTrack(className: string): string {
    const taken = new Set([...this.labels.rows.values()].flatMap((row) => [row.name, this.nameOf(row)]));
    for (let number = 1; ; number++) {
      const name = `${className} ${number}`;
      if (!taken.has(name)) return name;
    }
  }

  /** The row that an edit on this frame is about; a new object of the active class where none is selected. */
  targetRow(): Row | null {
    const row = this.selectedRow.value;
    if (row && !row.isFrameClass) return row;
    const className = this.activeClass.value;
    if (!className) {
      say("Make a class first: Classes, in the panel on the right", "error");
      return null;
    }
    const made = this.labels.row(this.newTrack(className), className, false);
    this.selected.value = made.key;
    return made;
  }

  /** Whether one may do something here; else says why not. */
  allows(permission: Permission): boolean {
    if (this.assignment && permission !== "work") {
      say("Here one labels, and nothing else");
      return false;
    }
    const project = this.project.value.name;
    if (may(permission, project)) return true;
    say(whyNot(permission, project), "error");
    return false;
  }

  /** Draw a shape on a frame: the object is visible there. */
  draw(shape: Shape, frame = this.player.shown.value, row = this.targetRow()): void {
    if (!row) return;
    const state = row.state[frame] === State.OCCLUDED ? State.OCCLUDED : State.VISIBLE;
    this.edit(`draw ${this.nameOf(row)}`, [[row, human(frame, state, shape)]]);
  }

  setState(state: StateNumber, row = this.selectedRow.value, frame = this.player.shown.value): void {
    if (!row || row.isFrameClass) return say("Select an object first");
    const before = row.get(frame);
    if (state === State.VISIBLE && !before?.shape) return say("Draw where it is: a visible object has a shape");
    const shape = state === State.ABSENT ? null : (before?.shape ?? null);
    this.edit(`${this.nameOf(row)} ${["", "visible", "occluded", "absent", "uncertain"][state]}`, [
      [row, human(frame, state, shape)],
    ]);
  }

  setFrameClass(name: string, present: boolean, frame = this.player.shown.value): void {
    const row = this.labels.row(name, name, true);
    this.edit(`${name} ${present ? "present" : "absent"}`, [
      [row, human(frame, present ? State.VISIBLE : State.ABSENT, null)],
    ]);
  }

  /** Take a label off this frame. */
  remove(row = this.selectedRow.value, frame = this.player.shown.value): void {
    if (!row?.state[frame]) return;
    this.edit(`remove ${this.nameOf(row)}`, [[row, { frame, state: State.NONE } as Entry]]);
  }

  nameOf(row: Row): string {
    return row.isFrameClass || row.name.startsWith(row.className) ? row.name : `${row.className} ${row.name}`;
  }

  /** Edits of one gesture: they are shown at once, kept on this machine, sent, and undone together. */
  edit(words: string, edits: [Row, Entry][]): void {
    if (!this.allows("work")) return;
    if (edits.some(([, { frame }]) => this.assigned?.has(frame) === false))
      return say("This frame is not assigned to you: N goes to one that is");
    const changes = edits.map(([row, entry]): Change => {
      const after = entry.state === State.NONE ? null : entry;
      return { row, frame: entry.frame, before: row.get(entry.frame), after };
    });
    const id = crypto.randomUUID();
    this.undo.did({ words, id, revision: 0, frame: changes[0].frame, changes });
    this.send(changes, id);
    spoken.value = `${words}, frame ${changes[0].frame}`;
  }

  /** Show changes, and send them. */
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

  /** Show a draft that an earlier visit left. */
  private show(draft: Draft): void {
    this.labels.take(draft.labels.map((label) => ({ ...label, provenance: label.provenance ?? HUMAN_PROVENANCE })));
    for (const key of draft.deletions) {
      const name = key.track ?? key.frameClass ?? "";
      const row = this.labels.rows.get(rowKey(name, key.frameClass !== undefined));
      if (row) this.labels.drop(row, Number(key.frameIndex ?? 0));
    }
  }

  private async refused(draft: Draft, error: RpcError): Promise<void> {
    this.undo.forget(draft.id);
    const conflict = error.reason === "REVISION_CONFLICT";
    const again = (): void => {
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
      say(`Somebody else changed frame ${frames[0]} meanwhile; theirs is shown`, "error", {
        label: "Use mine",
        act: again,
      });
    else say(inWords(error), "error");
  }

  // --- training --------------------------------------------------------------------------------------------------

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
      const name = await patiently(begin);
      this.fetched = 0;
      if (name) void this.training.watch(name);
    } catch (error) {
      say(inWords(error), "error");
    }
  }

  /** Go on watching what an earlier visit, or somebody else, has started. */
  private async findTraining(signal: AbortSignal): Promise<void> {
    const operations = await listOperations(this.video.name, signal);
    this.background.found(operations);
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

  /** A micro-model retrained has labeled the video. */
  private async replaced(): Promise<void> {
    await this.refresh().catch(() => undefined);
    this.reviewing.changed(true);
  }

  private async trained(operation: Operation): Promise<void> {
    const made = operation.metadata?.kind !== "OPERATION_KIND_TRAIN";
    if (made) await this.refresh().catch(() => undefined);
    this.reviewing.changed(made && !operation.error?.code);
    if (operation.error?.code && this.training.error.value) say(`Training failed: ${this.training.error.value}`, "error");
  }
}

const HUMAN_PROVENANCE = { kind: "PROVENANCE_KIND_HUMAN" };

export function human(frame: number, state: StateNumber, shape: Shape | null): Entry {
  return { frame, state, shape, confidence: NaN, source: Source.HUMAN, version: "", review: 0, revision: 0 };
}
