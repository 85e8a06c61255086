/** Retraining in the background: detected when the server starts it by itself, watched, and its outcome. */

import { signal } from "@preact/signals";

import type { Operation, RetrainResponse } from "../api/messages";
import { call, Code, errorMessage, isAbort, retry } from "../api/rpc";
import { count, percent, sentence } from "../lib/format";
import { notify } from "./toasts";
import { Training } from "./training";

export interface Outcome {
  kind: "replaced" | "kept" | "stopped" | "failed";
  text: string;
  endTime?: string;
}

const POLL_MS = 5000;
/** After so many polls without a correction the page polls less often. */
const FAST_POLLS = 24;
const SLOW_POLL_MS = 30_000;
const RETRAIN = "OPERATION_KIND_RETRAIN";

export class Background {
  readonly training = new Training();
  /** The outcome of the newest retraining; null before the first. */
  readonly outcome = signal<Outcome | null>(null);
  private readonly controller = new AbortController();
  private timer = 0;
  /** Name of the newest retraining that was seen. */
  private newest = "";
  private polls = 0;

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

  /** Show the newest retraining, or watch it if it is running; `live` if it is new since the last look. */
  showNewest(operations: Operation[], live = false): void {
    const last = operations.findLast(({ metadata }) => metadata?.kind === RETRAIN && metadata.video === this.video);
    if (!last || last.name === this.newest) return;
    this.newest = last.name;
    if (last.done) this.ended(last, live);
    else void this.training.watch(last.name, true, false);
  }

  /** A label was corrected: the server may retrain at the next pause, so poll for it. */
  startPolling(): void {
    this.polls = 0;
    this.schedulePoll();
  }

  private schedulePoll(): void {
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => void this.poll(), this.polls++ < FAST_POLLS ? POLL_MS : SLOW_POLL_MS);
  }

  private async poll(): Promise<void> {
    if (this.running) return; // the next correction starts polling again
    const before = this.newest;
    try {
      if (!document.hidden) this.showNewest(await listOperations(this.video, this.controller.signal), true);
    } catch (error) {
      if (isAbort(error)) return; // after any other error it polls again
    }
    if (this.newest === before) this.schedulePoll();
  }

  /** Retrain now and compare. */
  async start(): Promise<void> {
    try {
      const body = { video: this.video, requestId: crypto.randomUUID() };
      const operation = await retry(() => call<Operation>("LabelingService/Retrain", body), this.controller.signal);
      clearTimeout(this.timer);
      this.newest = operation.name;
      void this.training.watch(operation.name, true, false);
    } catch (error) {
      if (!isAbort(error)) notify(errorMessage(error), "error");
    }
  }

  private ended(operation: Operation, live: boolean): void {
    const outcome = outcomeOf(operation);
    this.outcome.value = outcome;
    if (!live) return;
    if (outcome.kind !== "failed") notify(outcome.text, outcome.kind === "replaced" ? "good" : "info");
    if (outcome.kind === "replaced") this.onReplaced();
  }
}

/** The outcome of a retraining, as text. */
export function outcomeOf(operation: Operation): Outcome {
  const endTime = operation.metadata?.endTime;
  if (operation.error?.code === Code.CANCELLED) return { kind: "stopped", text: "Retraining was canceled. Nothing changed.", endTime };
  if (operation.error?.code) return { kind: "failed", text: `Retraining failed. ${sentence(operation.error.message ?? "Unknown error")} The old micro-model and all labels are kept.`, endTime };
  const { replaced, scoreBefore, scoreAfter, unseenFrames, changedFrameCount } = (operation.response ?? {}) as RetrainResponse;
  const comparison = `new micro-model ${percent(scoreAfter ?? 0)}, old one ${percent(scoreBefore ?? 0)}, on ${count((unseenFrames ?? []).length, "frame")} drawn by hand that neither was trained on`;
  if (!replaced) return { kind: "kept", text: `Retrained: the old micro-model is kept. No label changed (${comparison}).`, endTime };
  const changed = count(Number(changedFrameCount ?? 0), "frame");
  return { kind: "replaced", text: `Retrained: labels on ${changed} updated (${comparison}).`, endTime };
}

/** The operations on a video, oldest first. */
export async function listOperations(video: string, signal: AbortSignal): Promise<Operation[]> {
  const name = video.slice(0, video.indexOf("/videos/"));
  const filter = `metadata.video = "${video}"`;
  const found: Operation[] = [];
  let pageToken = "";
  do {
    const body = { name, filter, pageSize: 1000, pageToken };
    const page = await retry(
      () => call<{ operations?: Operation[]; nextPageToken?: string }>("google.longrunning.Operations/ListOperations", body, signal),
      signal,
    );
    found.push(...(page.operations ?? []));
    pageToken = page.nextPageToken ?? "";
  } while (pageToken);
  return found;
}
