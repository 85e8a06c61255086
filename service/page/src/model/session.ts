/** One open video: its labels, frames, edits, training, and what is selected. */

import { computed, signal } from "@preact/signals";

import type { Frame, Label, Operation, Project, Video } from "../api/messages";
import { call, inWords, isAbort, patiently, RpcError, stream } from "../api/rpc";
import { classColor } from "../lib/color";
import { type Shape, type Size } from "../lib/shapes";
import { FrameCache } from "./frames";
import { type Entry, keyMessage, Labels, type Row, rowKey, Source, State, type StateNumber, toMessage } from "./labels";
import { type Draft, Outbox } from "./outbox";
import { Player } from "./player";
import { say, spoken } from "./toasts";
import { Training } from "./training";

export type Tool = "select" | "box" | "polygon" | "brush" | "eraser";

export interface Suggestion {
  frame: number;
  row: string | null;
  reason: string;
  gain: number;
}

/** One label before and after an edit. */
interface Change {
  row: string;
  className: string;
  name: string;
  isFrameClass: boolean;
  frame: number;
  before: Entry | null;
  after: Entry | null;
}

interface Step {
  words: string;
  changes: Change[];
}

const RELOAD_MS = 700;

export class Session {
  readonly size: Size;
  readonly frameCount: number;
  readonly labels: Labels;
  readonly player: Player;
  readonly outbox: Outbox;
  readonly training = new Training();
  readonly project = signal<Project>({ name: "" });
  readonly tool = signal<Tool>("select");
  /** Key of the row that is selected. */
  readonly selected = signal<string | null>(null);
  readonly activeClass = signal("");
  readonly hidden = signal<ReadonlySet<string>>(new Set());
  readonly loading = signal(true);
  readonly pts = signal<Float64Array | null>(null);
  readonly undoable = signal<Step[]>([]);
  readonly redoable = signal<Step[]>([]);
  /** A shape that is being drawn; kept while one looks at other frames. */
  readonly drawing = signal(false);
  /** Frames worth a look, best first. */
  readonly suggestions = signal<Suggestion[]>([]);
  /** First frames of new scenes. */
  readonly cuts = signal<number[]>([]);
  readonly selectedRow = computed(() => {
    this.labels.version.value;
    return this.selected.value ? (this.labels.rows.get(this.selected.value) ?? null) : null;
  });
  private readonly controller = new AbortController();
  private fetched = 0;
  private fetching = false;

  constructor(
    readonly video: Video,
    project: Project,
  ) {
    const table = video.frameTable!;
    this.frameCount = Number(table.frameCount ?? 0);
    this.size = { width: table.widthPx ?? 0, height: table.heightPx ?? 0 };
    this.labels = new Labels(this.frameCount, this.size);
    const cache = new FrameCache(video.name, this.frameCount, this.size.width, this.size.height);
    cache.onError = (error) => say(inWords(error), "error");
    this.player = new Player(cache, this.frameCount, (frame) => this.seconds(frame));
    this.outbox = new Outbox(video.name);
    this.project.value = project;
    this.activeClass.value = project.objectClasses?.[0]?.name ?? "";
    this.outbox.onAcknowledged = ({ revision }) => {
      this.labels.revision = Math.max(this.labels.revision, revision);
    };
    this.outbox.onRefused = (draft, error) => void this.refused(draft, error);
    this.training.onFrames = (done) => this.fetchUpTo(done);
    this.training.onEnd = (operation) => void this.trained(operation);
  }

  /** Load what is there, and go on where an earlier visit stopped. */
  async start(): Promise<void> {
    const { signal } = this.controller;
    this.labels.revision = Number(this.video.labelRevision ?? 0);
    const memory = Number(sessionStorage.getItem(`frame|${this.video.name}`) ?? 0);
    this.player.go(memory);
    const drafts = await this.outbox.restore();
    for (const draft of drafts) this.show(draft);
    try {
      if (this.labels.revision > 0) await this.load(0, this.frameCount);
      this.loading.value = false;
      if (drafts.length) say(`${drafts.length} unsaved ${drafts.length === 1 ? "edit" : "edits"} restored`, "good");
      this.outbox.send();
      await Promise.all([this.loadTimes(signal), this.findTraining(signal)]);
    } catch (error) {
      if (!isAbort(error)) say(inWords(error), "error");
      this.loading.value = false;
    }
  }

  close(): void {
    this.controller.abort();
    this.player.close();
    this.training.close();
    this.outbox.close();
  }

  // --- what is there ---------------------------------------------------------------------------------------------

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

  /** Objects and frame classes, the latter also where nothing is labelled yet. */
  rows(): Row[] {
    for (const one of this.project.value.frameClasses ?? []) this.labels.row(one.name, one.name, true);
    return this.labels.ordered();
  }

  async load(start: number, stop: number, flash = false): Promise<void> {
    let resumeToken = "";
    const read = async (): Promise<void> => {
      const selection = { startFrame: String(start), stopFrame: String(stop) };
      const body = { parent: this.video.name, selection, resumeToken };
      for await (const message of stream<{ labels?: Label[]; resumeToken?: string; labelRevision?: string }>(
        "LabelService/StreamLabels",
        body,
        this.controller.signal,
      )) {
        this.labels.take(message.labels ?? [], { flash, pending: (key) => this.outbox.isPending(key) });
        if (message.resumeToken) resumeToken = message.resumeToken;
      }
    };
    await patiently(read, this.controller.signal);
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

  /** A name for a new object: the smallest number that no object has. */
  newTrack(): string {
    for (let number = 1; ; number++) if (!this.labels.rows.has(rowKey(String(number), false))) return String(number);
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
    const made = this.labels.row(this.newTrack(), className, false);
    this.selected.value = made.key;
    return made;
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
    return row.isFrameClass ? row.name : `${row.className} ${row.name}`;
  }

  /** Edits of one gesture: they are shown at once, kept on this machine, sent, and undone together. */
  edit(words: string, edits: [Row, Entry][]): void {
    const changes = edits.map(([row, entry]): Change => {
      const after = entry.state === State.NONE ? null : entry;
      const { key, className, name, isFrameClass } = row;
      return { row: key, className, name, isFrameClass, frame: entry.frame, before: row.get(entry.frame), after };
    });
    this.undoable.value = [...this.undoable.value.slice(-199), { words, changes }];
    this.redoable.value = [];
    this.commit(changes);
    spoken.value = `${words}, frame ${changes[0].frame}`;
  }

  undo(): void {
    const step = this.undoable.value.at(-1);
    if (!step) return say("Nothing to undo");
    this.undoable.value = this.undoable.value.slice(0, -1);
    this.redoable.value = [...this.redoable.value, step];
    this.replay(step, true);
    say(`Undone: ${step.words}`);
  }

  redo(): void {
    const step = this.redoable.value.at(-1);
    if (!step) return say("Nothing to redo");
    this.redoable.value = this.redoable.value.slice(0, -1);
    this.undoable.value = [...this.undoable.value, step];
    this.replay(step, false);
    say(`Done again: ${step.words}`);
  }

  private replay(step: Step, back: boolean): void {
    const changes = back
      ? step.changes.map((change) => ({ ...change, before: change.after, after: change.before }))
      : step.changes;
    this.commit(changes);
    const { frame } = changes[0];
    if (frame !== this.player.frame.value) this.player.go(frame);
  }

  private commit(changes: Change[]): void {
    const labels: Label[] = [];
    const deletions = [];
    const restored: Label[] = []; // what a micro-model said: it can only be put back where no person's label is
    const keys: string[] = [];
    for (const change of changes) {
      const row = this.labels.row(change.name, change.className, change.isFrameClass);
      row.put(change.frame, change.after);
      row.flash(change.frame);
      keys.push(`${row.key}@${change.frame}`);
      if (change.after?.source === Source.HUMAN) labels.push(toMessage(row, change.after, this.size));
      else deletions.push(keyMessage(row, change.frame));
      if (change.after && change.after.source !== Source.HUMAN) restored.push(toMessage(row, change.after, this.size));
    }
    this.labels.touch();
    const baseRevision = this.labels.revision;
    void this.outbox.add({ labels, deletions, keys, baseRevision });
    if (restored.length) void this.outbox.add({ labels: restored, deletions: [], keys, baseRevision });
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

  // --- suggestions and review ------------------------------------------------------------------------------------

  nextSuggestion(direction: number): void {
    const all = this.suggestions.value;
    if (!all.length) return say("No suggestions yet: train first");
    const at = all.findIndex((one) => one.frame === this.player.frame.value);
    const next = all[at < 0 ? 0 : (at + direction + all.length) % all.length];
    this.player.pause();
    this.player.go(next.frame);
    if (next.row) this.selected.value = next.row;
    spoken.value = `Suggestion: frame ${next.frame}, ${next.reason}`;
  }

  review(decision: "accept" | "reject" | "lock", what: "frame" | "object"): void {
    say(`${decision} ${what}: not yet`);
  }

  // --- training --------------------------------------------------------------------------------------------------

  async train(settings: { experiments: number; effort: number }): Promise<void> {
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
    const page = await patiently(
      () =>
        call<{ operations?: Operation[] }>(
          "google.longrunning.Operations/ListOperations",
          { name: this.project.value.name, pageSize: 1000 },
          signal,
        ),
      signal,
    );
    const mine = (page.operations ?? []).filter(
      ({ metadata }) =>
        metadata?.video === this.video.name &&
        ["OPERATION_KIND_AUTO_LABEL", "OPERATION_KIND_PROPAGATE", "OPERATION_KIND_TRAIN"].includes(metadata.kind ?? ""),
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

  private async trained(operation: Operation): Promise<void> {
    const made = operation.metadata?.kind !== "OPERATION_KIND_TRAIN";
    if (made) await this.load(0, this.frameCount, true).catch(() => undefined);
    if (operation.error?.code && this.training.error.value) say(`Training failed: ${this.training.error.value}`, "error");
  }
}

const HUMAN_PROVENANCE = { kind: "PROVENANCE_KIND_HUMAN" };

export function human(frame: number, state: StateNumber, shape: Shape | null): Entry {
  return { frame, state, shape, confidence: NaN, source: Source.HUMAN, version: "" };
}
