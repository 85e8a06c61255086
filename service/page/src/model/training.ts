/** Progress of a training: loss, flip book, experiments, time left, frames labeled so far. */

import { signal } from "@preact/signals";

import type {
  ExperimentResult,
  FlipBookPicture,
  Operation,
  Progress,
  PropagationProgress,
  TrainingProgress,
} from "../api/messages";
import { call, Code, errorMessage, isAbort, retry, RpcError, stream } from "../api/rpc";

export interface Picture {
  frame: number;
  step: number;
  experiment: number;
  url: string;
}

const MAX_LOSS_POINTS = 1200;
const MAX_PICTURES = 60;

export class Training {
  readonly operation = signal("");
  readonly state = signal<"idle" | "waiting" | "training" | "labeling" | "stopping" | "done" | "failed">("idle");
  readonly steps = signal<TrainingProgress | null>(null);
  readonly loss = signal<{ experiment: number; step: number; loss: number }[]>([]);
  readonly experiments = signal<ExperimentResult[]>([]);
  /** The newest pictures of every frame of the flip book, by step. */
  readonly pictures = signal<Map<number, Picture[]>>(new Map());
  readonly propagation = signal<PropagationProgress | null>(null);
  readonly warnings = signal<string[]>([]);
  readonly error = signal("");
  readonly startedAt = signal(0);
  readonly stoppedEarly = signal(false);
  private controller: AbortController | null = null;
  private live = true;
  onFrames: (done: number) => void = () => undefined;
  onEnd: (operation: Operation) => void = () => undefined;

  get running(): boolean {
    return ["waiting", "training", "labeling", "stopping"].includes(this.state.value);
  }

  /** Watch an operation until it ends, across lost connections; of an operation that has ended, show its progress. */
  async watch(name: string, live = true, flipBook = true): Promise<void> {
    this.reset(name);
    this.live = live;
    const controller = new AbortController();
    this.controller = controller;
    let resumeToken = "";
    const follow = async (): Promise<void> => {
      const body = { name, resumeToken, flipBook };
      for await (const message of stream<{ progress?: Progress; resumeToken?: string }>(
        "LabelingService/WatchTraining",
        body,
        controller.signal,
      )) {
        if (message.resumeToken) resumeToken = message.resumeToken;
        if (message.progress) this.take(message.progress);
      }
    };
    try {
      await retry(follow, controller.signal);
      const operation = await retry(() => call<Operation>("google.longrunning.Operations/GetOperation", { name }));
      if (operation.error?.code) this.fail(operation);
      else this.state.value = "done";
      if (live) this.onEnd(operation);
    } catch (error) {
      if (isAbort(error)) return;
      this.error.value = errorMessage(error);
      this.state.value = "failed";
    }
  }

  private fail(operation: Operation): void {
    const cancelled = operation.error?.code === Code.CANCELLED;
    this.error.value = cancelled ? "" : (operation.error?.message ?? "");
    this.state.value = cancelled ? "done" : "failed";
  }

  /** End training now with what it has learned; then the video is labeled. */
  async stopEarly(): Promise<void> {
    await call("LabelingService/StopEarly", { name: this.operation.value });
    this.stoppedEarly.value = true;
  }

  async cancel(): Promise<void> {
    this.state.value = "stopping";
    try {
      await call("google.longrunning.Operations/CancelOperation", { name: this.operation.value });
    } catch (error) {
      if (!(error instanceof RpcError)) throw error;
    }
  }

  close(): void {
    this.controller?.abort();
    for (const pictures of this.pictures.value.values()) for (const picture of pictures) URL.revokeObjectURL(picture.url);
    this.pictures.value = new Map();
  }

  private reset(name: string): void {
    this.close();
    this.operation.value = name;
    this.state.value = "waiting";
    this.steps.value = null;
    this.loss.value = [];
    this.experiments.value = [];
    this.propagation.value = null;
    this.warnings.value = [];
    this.error.value = "";
    this.stoppedEarly.value = false;
    this.startedAt.value = Date.now();
  }

  private take(progress: Progress): void {
    if (progress.training) {
      const steps = progress.training;
      if (this.state.value !== "stopping") this.state.value = "training";
      this.steps.value = steps;
      const point = { experiment: steps.experiment ?? 0, step: steps.step ?? 0, loss: steps.loss ?? 0 };
      this.loss.value = [...this.loss.value.slice(-MAX_LOSS_POINTS), point];
    } else if (progress.experiment) {
      this.experiments.value = [...this.experiments.value, progress.experiment];
    } else if (progress.picture) {
      this.add(progress.picture);
    } else if (progress.propagation) {
      if (this.state.value !== "stopping") this.state.value = "labeling";
      this.propagation.value = progress.propagation;
      if (this.live) this.onFrames(Number(progress.propagation.framesDone ?? 0));
    } else if (progress.warning) {
      this.warnings.value = [...this.warnings.value, progress.warning];
    }
  }

  private add(message: FlipBookPicture): void {
    const data = Uint8Array.from(atob(message.image ?? ""), (character) => character.charCodeAt(0));
    const url = URL.createObjectURL(new Blob([data], { type: message.mediaType ?? "image/jpeg" }));
    const frame = Number(message.frameIndex ?? 0);
    const picture: Picture = { frame, step: message.step ?? 0, experiment: message.experiment ?? 0, url };
    const pictures = new Map(this.pictures.value);
    const of = [...(pictures.get(frame) ?? []), picture];
    while (of.length > MAX_PICTURES) URL.revokeObjectURL(of.splice(1, 1)[0].url); // the first picture is kept to compare with
    pictures.set(frame, of);
    this.pictures.value = pictures;
  }
}
