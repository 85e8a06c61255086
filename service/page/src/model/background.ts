/** Retraining in the background: noticed when the server starts it by itself, watched, and what came of it. */

import { signal } from "@preact/signals";

import type { Operation, RetrainResponse } from "../api/messages";
import { call, Code, inWords, isAbort, patiently } from "../api/rpc";
import { count, percent } from "../lib/format";
import { say } from "./toasts";
import { Training } from "./training";

export interface Outcome {
  kind: "replaced" | "kept" | "stopped" | "failed";
  words: string;
  endTime?: string;
}

const LOOK_MS = 5000;
/** After some time without a correction it looks less often. */
const LOOKS = 24;
const LATER_MS = 30_000;
const RETRAIN = "OPERATION_KIND_RETRAIN";

export class Background {
  readonly training = new Training();
  /** What came of the newest one; null before there was any. */
  readonly outcome = signal<Outcome | null>(null);
  private readonly controller = new AbortController();
  private timer = 0;
  private known = "";
  private looks = 0;

  constructor(
    private readonly video: string,
    /** Called when labels were replaced. */
    private readonly onReplaced: () => void,
  ) {
    this.training.onEnd = (operation) => this.ended(operation, true);
  }

  get running(): boolean {
    return this.training.running;
  }

  close(): void {
    this.controller.abort();
    clearTimeout(this.timer);
    this.training.close();
  }

  /** Show the newest one, or go on watching it; `live` where it was not there a moment ago. */
  found(operations: Operation[], live = false): void {
    const last = operations.findLast(({ metadata }) => metadata?.kind === RETRAIN && metadata.video === this.video);
    if (!last || last.name === this.known) return;
    this.known = last.name;
    if (last.done) this.ended(last, live);
    else void this.training.watch(last.name, true, false);
  }

  /** Somebody corrected something: the server may retrain when he pauses, so look every now and then. */
  lookOut(): void {
    this.looks = 0;
    this.wait();
  }

  private wait(): void {
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => void this.look(), this.looks++ < LOOKS ? LOOK_MS : LATER_MS);
  }

  private async look(): Promise<void> {
    if (this.running) return; // another correction makes it look again
    const known = this.known;
    try {
      if (!document.hidden) this.found(await listOperations(this.video, this.controller.signal), true);
    } catch (error) {
      if (isAbort(error)) return; // else it is asked for again
    }
    if (this.known === known) this.wait();
  }

  /** Retrain now, and compare. */
  async start(): Promise<void> {
    try {
      const body = { video: this.video, requestId: crypto.randomUUID() };
      const operation = await patiently(() => call<Operation>("LabelingService/Retrain", body), this.controller.signal);
      clearTimeout(this.timer);
      this.known = operation.name;
      void this.training.watch(operation.name, true, false);
    } catch (error) {
      if (!isAbort(error)) say(inWords(error), "error");
    }
  }

  private ended(operation: Operation, live: boolean): void {
    const outcome = outcomeOf(operation);
    this.outcome.value = outcome;
    if (!live) return;
    if (outcome.kind !== "failed") say(outcome.words, outcome.kind === "replaced" ? "good" : "info");
    if (outcome.kind === "replaced") this.onReplaced();
  }
}

/** What a retraining came to, in words. */
export function outcomeOf(operation: Operation): Outcome {
  const endTime = operation.metadata?.endTime;
  if (operation.error?.code === Code.CANCELLED) return { kind: "stopped", words: "Retraining was cancelled; nothing changed", endTime };
  if (operation.error?.code) return { kind: "failed", words: `Not retrained: ${operation.error.message ?? "it failed"}`, endTime };
  const { replaced, scoreBefore, scoreAfter, unseenFrames, changedFrameCount } = (operation.response ?? {}) as RetrainResponse;
  const judged = `${percent(scoreAfter ?? 0)} on ${count((unseenFrames ?? []).length, "drawn frame")} that neither had seen, the old one ${percent(scoreBefore ?? 0)}`;
  if (!replaced) return { kind: "kept", words: `Retrained and kept the old micro-model: the new one reached ${judged}. No label changed`, endTime };
  const changed = count(Number(changedFrameCount ?? 0), "frame");
  return { kind: "replaced", words: `Retrained, labels on ${changed} replaced: the new micro-model reached ${judged}`, endTime };
}

/** The operations on a video, oldest first. */
export async function listOperations(video: string, signal: AbortSignal): Promise<Operation[]> {
  const name = video.slice(0, video.indexOf("/videos/"));
  const filter = `metadata.video = "${video}"`;
  const found: Operation[] = [];
  let pageToken = "";
  do {
    const body = { name, filter, pageSize: 1000, pageToken };
    const page = await patiently(
      () => call<{ operations?: Operation[]; nextPageToken?: string }>("google.longrunning.Operations/ListOperations", body, signal),
      signal,
    );
    found.push(...(page.operations ?? []));
    pageToken = page.nextPageToken ?? "";
  } while (pageToken);
  return found;
}
