/**
 * Edits on their way to the server. Each is stored in the browser's database until the server has acknowledged it: a
 * reload, a crash of the browser or a lost connection loses nothing.
 */

import { signal } from "@preact/signals";
import { createStore, del, entries, set, type UseStore } from "idb-keyval";

import type { CorrectionSummary, CorrectLabelsResponse, Label, LabelDifference, LabelKey } from "../api/messages";
import { call, Code, isAbort, isTransient, Offline, retry, RpcError, stream, whenOnline } from "../api/rpc";
import { caller } from "./caller";
import { UpdateCount } from "./updates";

/** So many streams of corrections are read at once; a browser opens at most six connections to a server. */
const MAX_LISTENERS = 2;

/** One edit: labels and deletions that belong together. */
export interface Draft {
  id: string;
  video: string;
  /** Who drew it; it is never sent under another name. */
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
  /** Number of drafts that the server has not acknowledged. */
  readonly waiting = signal(0);
  /** Number of them that are stored in the browser's database. */
  readonly stored = signal(0);
  /** Number of acknowledged drafts whose recomputed labels are still arriving. */
  readonly awaitingResults = signal(0);
  private queue: Draft[] = [];
  private running = false;
  private closed = false;
  /** The server has stored a draft, as this label revision. */
  onAcknowledged: (draft: Draft, revision: number) => void = () => undefined;
  /** Labels that were recomputed because of a draft. */
  onDifferences: (differences: LabelDifference[], revision: number) => void = () => undefined;
  /** All labels are recomputed; null if the page missed the result and should read the labels again. */
  onSummary: (summary: CorrectionSummary | null, updates: UpdateCount) => void = () => undefined;
  /** The server refused a draft, for example because another person wrote there first. */
  onRefused: (draft: Draft, error: RpcError) => void = () => undefined;
  private inFlight = "";
  private listeners: AbortController[] = [];

  /**
   * @param target Name of the video or the assignment that the drafts belong to.
   * @param isAssignment Nothing is recomputed in an assignment, and only one person writes there.
   */
  constructor(
    private readonly target: string,
    private readonly isAssignment = false,
  ) {}

  /** Drafts that an earlier visit left, oldest first; they are sent again. */
  async restore(): Promise<Draft[]> {
    const stored = await entries<string, Draft>(drafts()).catch(() => []); // private mode has no database
    const all = stored.map(([, draft]) => draft);
    const mine = all.filter((draft) => draft.video === this.target && (draft.user ?? user()) === user());
    this.queue = mine.sort((a, b) => a.at - b.at);
    this.waiting.value = this.queue.length;
    return [...this.queue];
  }

  /** Store a draft and send it after those before it. */
  async add(draft: Omit<Draft, "id" | "video" | "user" | "at">, id: string = crypto.randomUUID()): Promise<void> {
    const last = this.queue.at(-1)?.at ?? 0;
    const whole: Draft = { ...draft, id, video: this.target, user: user(), at: Math.max(Date.now(), last + 1) };
    this.queue.push(whole);
    this.waiting.value = this.queue.length;
    await set(whole.id, whole, drafts()).catch(() => undefined); // private mode: in memory only
    this.stored.value = this.queue.length;
    this.send();
  }

  /** Remove a draft that was not sent yet; false if it was sent. */
  async withdraw(id: string): Promise<boolean> {
    const draft = this.queue.find((one) => one.id === id);
    if (!draft || id === this.inFlight) return false;
    await this.done(draft);
    return true;
  }

  isPending(key: string): boolean {
    return this.queue.some((draft) => draft.keys.includes(key));
  }

  /** Resolves when the server has every draft. */
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
          const { revision, readResults } = await this.write(draft);
          await this.done(draft);
          for (const later of this.queue) {
            later.baseRevision = Math.max(later.baseRevision, revision);
            // Store it as it will be sent: after a reload the server would refuse the same id with another body.
            await set(later.id, later, drafts()).catch(() => undefined);
          }
          this.awaitingResults.value++;
          this.onAcknowledged(draft, revision);
          void readResults().finally(() => this.awaitingResults.value--);
        } catch (error) {
          if (isTransient(error)) {
            await new Promise((resolve) => setTimeout(resolve, 500));
            await whenOnline();
          } else if (error instanceof RpcError && error.code === Code.UNAUTHENTICATED) {
            return; // sent again after signing in
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
    this.waiting.value = this.stored.value = this.queue.length;
  }

  /** Send a draft; returns when it is acknowledged, with a function that reads the labels recomputed because of it. */
  private async write(draft: Draft): Promise<{ revision: number; readResults: () => Promise<void> }> {
    if (this.isAssignment) {
      const { id: requestId, video: name, labels, deletions } = draft;
      await call("AssignmentService/WriteAssignedLabels", { name, labels, deletions, requestId });
      return { revision: 0, readResults: async () => undefined };
    }
    const controller = new AbortController();
    let resumeToken = "";
    const open = (): AsyncGenerator<CorrectLabelsResponse> =>
      stream<CorrectLabelsResponse>("CorrectionService/CorrectLabels", request(draft, resumeToken), controller.signal);
    const messages = open();
    const first = await messages.next();
    if (first.done || !first.value.acknowledged) throw new Offline();
    resumeToken = first.value.resumeToken ?? "";
    const updates = new UpdateCount();
    const read = async (source: AsyncGenerator<CorrectLabelsResponse>): Promise<void> => {
      for await (const message of source) {
        resumeToken = message.resumeToken ?? resumeToken;
        const { differences, summary } = message;
        if (differences) {
          updates.add(differences.differences ?? []);
          this.onDifferences(differences.differences ?? [], Number(differences.labelRevision ?? 0));
        }
        if (summary) this.onSummary(summary, updates);
      }
    };
    let source: AsyncGenerator<CorrectLabelsResponse> | null = messages;
    const readResults = async (): Promise<void> => {
      this.listeners.push(controller);
      while (this.listeners.length > MAX_LISTENERS) this.listeners.shift()!.abort();
      try {
        await retry(async () => {
          const now = source ?? open();
          source = null;
          await read(now);
        }, controller.signal);
      } catch (error) {
        if (!this.closed) this.onSummary(null, updates);
        if (!isAbort(error) && !(error instanceof RpcError)) throw error;
      } finally {
        this.listeners = this.listeners.filter((one) => one !== controller);
      }
    };
    return { revision: Number(first.value.acknowledged.labelRevision ?? 0), readResults };
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
