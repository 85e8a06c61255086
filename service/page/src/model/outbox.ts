/**
 * Edits on their way to the server. Each is on this machine's disk before it is shown, and stays there until the server
 * has acknowledged it: a reload, a crash of the browser or a lost connection loses nothing.
 */

import { signal } from "@preact/signals";
import { createStore, del, entries, set, type UseStore } from "idb-keyval";

import type { Label, LabelKey } from "../api/messages";
import { call, Code, isPassing, RpcError, whenOnline } from "../api/rpc";

/** One write: labels and deletions that belong together. */
export interface Draft {
  id: string;
  video: string;
  labels: Label[];
  deletions: LabelKey[];
  /** `row key@frame` of everything in it. */
  keys: string[];
  baseRevision: number;
  at: number;
}

export interface Acknowledged {
  draft: Draft;
  revision: number;
}

let store: UseStore | undefined;

function drafts(): UseStore {
  return (store ??= createStore("micromodels-drafts", "drafts"));
}

export class Outbox {
  /** How many drafts are not acknowledged. */
  readonly waiting = signal(0);
  private queue: Draft[] = [];
  private running = false;
  private closed = false;
  onAcknowledged: (answer: Acknowledged) => void = () => undefined;
  /** Somebody else wrote there first, or the server refused it. */
  onRefused: (draft: Draft, error: RpcError) => void = () => undefined;

  constructor(private readonly video: string) {}

  /** Drafts that an earlier visit left behind, oldest first; they are sent again. */
  async restore(): Promise<Draft[]> {
    const all = (await entries<string, Draft>(drafts())).map(([, draft]) => draft);
    this.queue = all.filter((draft) => draft.video === this.video).sort((a, b) => a.at - b.at);
    this.waiting.value = this.queue.length;
    return [...this.queue];
  }

  /** Keep a draft and send it when its turn comes. */
  async add(draft: Omit<Draft, "id" | "video" | "at">): Promise<void> {
    const last = this.queue.at(-1)?.at ?? 0;
    const whole: Draft = { ...draft, id: crypto.randomUUID(), video: this.video, at: Math.max(Date.now(), last + 1) };
    this.queue.push(whole);
    this.waiting.value = this.queue.length;
    await set(whole.id, whole, drafts()).catch(() => undefined); // private mode: kept in memory at least
    this.send();
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
  }

  private async run(): Promise<void> {
    this.running = true;
    try {
      while (this.queue.length && !this.closed) {
        const draft = this.queue[0];
        try {
          const revision = await write(draft);
          for (const later of this.queue.slice(1)) later.baseRevision = Math.max(later.baseRevision, revision);
          await this.done(draft);
          this.onAcknowledged({ draft, revision });
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
    this.waiting.value = this.queue.length;
  }
}

async function write(draft: Draft): Promise<number> {
  const answer = await call<{ labelRevision?: string }>("LabelService/WriteLabels", {
    parent: draft.video,
    labels: draft.labels,
    deletions: draft.deletions,
    baseRevision: String(draft.baseRevision),
    requestId: draft.id,
  });
  return Number(answer.labelRevision ?? 0);
}
