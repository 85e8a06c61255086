/**
 * Edits on their way to the server. Each is on this machine's disk before it is shown, and stays there until the server
 * has acknowledged it: a reload, a crash of the browser or a lost connection loses nothing.
 */

import { signal } from "@preact/signals";
import { createStore, del, entries, set, type UseStore } from "idb-keyval";

import type { CorrectionSummary, CorrectLabelsResponse, Label, LabelDifference, LabelKey } from "../api/messages";
import { call, Code, isAbort, isPassing, Offline, patiently, RpcError, stream, whenOnline } from "../api/rpc";

import { caller } from "./caller";

/** What corrections change is heard on this many streams at once; a browser has six connections to a server. */
const MAX_LISTENERS = 2;

/** One act: labels and deletions that belong together. */
export interface Draft {
  id: string;
  video: string;
  /** Who drew it; nobody else's name ever goes with it. */
  user?: string;
  labels: Label[];
  deletions: LabelKey[];
  /** `row key@frame` of everything in it. */
  keys: string[];
  baseRevision: number;
  at: number;
}

let store: UseStore | undefined;

function user(): string {
  return caller.peek()?.user ?? "";
}

function drafts(): UseStore {
  return (store ??= createStore("micromodels-drafts", "drafts"));
}

export class Outbox {
  /** How many drafts are not acknowledged. */
  readonly waiting = signal(0);
  /** How many of them lie on this machine's disk. */
  readonly kept = signal(0);
  /** Of how many acknowledged ones one still hears what follows. */
  readonly hearing = signal(0);
  private queue: Draft[] = [];
  private running = false;
  private closed = false;
  /** The labels are stored, as a revision of the video. */
  onAcknowledged: (draft: Draft, revision: number) => void = () => undefined;
  /** Labels that were computed again because of it. */
  onDifferences: (differences: LabelDifference[], revision: number) => void = () => undefined;
  /** Nothing more will change because of it; null where that was not heard, and labels should be read again. */
  onSummary: (summary: CorrectionSummary | null) => void = () => undefined;
  /** Somebody else wrote there first, or the server refused it. */
  onRefused: (draft: Draft, error: RpcError) => void = () => undefined;
  private inFlight = "";
  private listeners: AbortController[] = [];

  /**
   * @param video What the drafts are of: a video, or an assignment.
   * @param isBlind Whether it is an assignment: nothing is computed then, and nobody else writes there.
   */
  constructor(
    private readonly video: string,
    private readonly isBlind = false,
  ) {}

  /** Drafts that an earlier visit left behind, oldest first; they are sent again. */
  async restore(): Promise<Draft[]> {
    const kept = await entries<string, Draft>(drafts()).catch(() => []); // private mode: there is no disk
    const all = kept.map(([, draft]) => draft);
    const mine = all.filter((draft) => draft.video === this.video && (draft.user ?? user()) === user());
    this.queue = mine.sort((a, b) => a.at - b.at);
    this.waiting.value = this.queue.length;
    return [...this.queue];
  }

  /** Keep a draft and send it when its turn comes. */
  async add(draft: Omit<Draft, "id" | "video" | "user" | "at">, id: string = crypto.randomUUID()): Promise<void> {
    const last = this.queue.at(-1)?.at ?? 0;
    const whole: Draft = { ...draft, id, video: this.video, user: user(), at: Math.max(Date.now(), last + 1) };
    this.queue.push(whole);
    this.waiting.value = this.queue.length;
    await set(whole.id, whole, drafts()).catch(() => undefined); // private mode: kept in memory at least
    this.kept.value = this.queue.length;
    this.send();
  }

  /** Take a draft back that was not sent yet; whether that was so. */
  async withdraw(id: string): Promise<boolean> {
    const draft = this.queue.find((one) => one.id === id);
    if (!draft || id === this.inFlight) return false;
    await this.done(draft);
    return true;
  }

  isPending(key: string): boolean {
    return this.queue.some((draft) => draft.keys.includes(key));
  }

  /** Resolves when nothing waits any more. */
  settled(): Promise<void> {
    return new Promise((resolve) => {
      const stop = this.waiting.subscribe((count) => {
        if (!count) queueMicrotask(() => (stop(), resolve()));
      });
    });
  }

  send(): void {
    if (!this.running && !this.closed) void this.run();
  }

  close(): void {
    this.closed = true;
    for (const listener of this.listeners) listener.abort();
  }

  private async run(): Promise<void> {
    this.running = true;
    try {
      while (this.queue.length && !this.closed) {
        const draft = this.queue[0];
        try {
          this.inFlight = draft.id;
          const { revision, rest } = await this.write(draft);
          await this.done(draft);
          for (const later of this.queue) {
            later.baseRevision = Math.max(later.baseRevision, revision);
            // As it will be sent: the same id with another body would be refused after a reload.
            await set(later.id, later, drafts()).catch(() => undefined);
          }
          this.hearing.value++;
          this.onAcknowledged(draft, revision);
          void rest().finally(() => this.hearing.value--);
        } catch (error) {
          if (isPassing(error)) {
            await new Promise((resolve) => setTimeout(resolve, 500));
            await whenOnline();
          } else if (error instanceof RpcError && error.code === Code.UNAUTHENTICATED) {
            return; // sent again after the login
          } else if (error instanceof RpcError) {
            await this.done(draft);
            this.onRefused(draft, error);
          } else throw error;
        }
      }
    } finally {
      this.running = false;
    }
  }

  private async done(draft: Draft): Promise<void> {
    this.queue = this.queue.filter((other) => other.id !== draft.id);
    await del(draft.id, drafts()).catch(() => undefined);
    this.waiting.value = this.kept.value = this.queue.length;
  }

  /** Send a draft; returns when it is acknowledged, with a function that hears what follows from it. */
  private async write(draft: Draft): Promise<{ revision: number; rest: () => Promise<void> }> {
    if (this.isBlind) {
      const { id: requestId, video: name, labels, deletions } = draft;
      await call("AssignmentService/WriteAssignedLabels", { name, labels, deletions, requestId });
      return { revision: 0, rest: async () => undefined };
    }
    const controller = new AbortController();
    let resumeToken = "";
    const open = (): AsyncGenerator<CorrectLabelsResponse> =>
      stream<CorrectLabelsResponse>("CorrectionService/CorrectLabels", request(draft, resumeToken), controller.signal);
    const messages = open();
    const first = await messages.next();
    if (first.done || !first.value.acknowledged) throw new Offline();
    resumeToken = first.value.resumeToken ?? "";
    const hear = async (source: AsyncGenerator<CorrectLabelsResponse>): Promise<void> => {
      for await (const message of source) {
        resumeToken = message.resumeToken ?? resumeToken;
        const { differences, summary } = message;
        if (differences) this.onDifferences(differences.differences ?? [], Number(differences.labelRevision ?? 0));
        if (summary) this.onSummary(summary);
      }
    };
    let source: AsyncGenerator<CorrectLabelsResponse> | null = messages;
    const rest = async (): Promise<void> => {
      this.listeners.push(controller);
      while (this.listeners.length > MAX_LISTENERS) this.listeners.shift()!.abort();
      try {
        await patiently(async () => {
          const now = source ?? open();
          source = null;
          await hear(now);
        }, controller.signal);
      } catch (error) {
        if (!this.closed) this.onSummary(null);
        if (!isAbort(error) && !(error instanceof RpcError)) throw error;
      } finally {
        this.listeners = this.listeners.filter((one) => one !== controller);
      }
    };
    return { revision: Number(first.value.acknowledged.labelRevision ?? 0), rest };
  }
}

function request(draft: Draft, resumeToken: string): object {
  return {
    parent: draft.video,
    labels: draft.labels,
    deletions: draft.deletions,
    baseRevision: String(draft.baseRevision),
    requestId: draft.id,
    resumeToken,
  };
}
