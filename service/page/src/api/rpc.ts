/** Calls of the API through the gateway: proto JSON in, proto JSON out; streams as newline-delimited JSON. */

import { signal } from "@preact/signals";

import { sentence } from "../lib/format";
import type { Status } from "./messages";

/** Whether the last call got through. */
export const online = signal(true);
/** Whether the server asks for a token. */
export const loginRequired = signal(false);

export const Code = {
  CANCELLED: 1,
  INVALID_ARGUMENT: 3,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  PERMISSION_DENIED: 7,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  OUT_OF_RANGE: 11,
  UNIMPLEMENTED: 12,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
  UNAUTHENTICATED: 16,
} as const;

/** The server answered, with an error. */
export class RpcError extends Error {
  readonly code: number;
  readonly reason: string;
  readonly metadata: Record<string, string>;

  constructor(status: Status) {
    super(status.message || `The server could not do this (code ${status.code ?? 0}). Try again.`);
    this.name = "RpcError";
    this.code = status.code ?? 0;
    const info = status.details?.find((detail) => detail["@type"].endsWith("google.rpc.ErrorInfo"));
    this.reason = info?.reason ?? "";
    this.metadata = info?.metadata ?? {};
  }
}

/** The server could not be reached, or the connection broke during the answer. */
export class Offline extends Error {
  constructor() {
    super("Cannot reach the server. Check the connection.");
    this.name = "Offline";
  }
}

export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}

async function post(method: string, body: unknown, signal?: AbortSignal): Promise<Response> {
  const service = method.startsWith("google.") ? method : `micromodels.v1.${method}`;
  let response: Response;
  try {
    response = await fetch(`/api/${service}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      cache: "no-store",
      signal,
    });
  } catch (error) {
    if (isAbort(error)) throw error;
    markOffline();
    throw new Offline();
  }
  online.value = true;
  if (!response.ok) throw failure(await response.json().catch(() => ({ error: { code: 2 } })));
  return response;
}

function failure(body: { error: Status }): RpcError {
  const error = new RpcError(body.error);
  if (error.code === Code.UNAUTHENTICATED) loginRequired.value = true;
  return error;
}

/** One unary call, e.g. `call<Project>("ProjectService/GetProject", { name })`. */
export async function call<T>(method: string, body: unknown, signal?: AbortSignal): Promise<T> {
  const response = await post(method, body, signal);
  try {
    return (await response.json()) as T;
  } catch (error) {
    if (isAbort(error)) throw error;
    markOffline();
    throw new Offline();
  }
}

/** A server stream; throws `Offline` if the connection breaks, so that the caller can resume with its resume token. */
export async function* stream<T>(method: string, body: unknown, signal?: AbortSignal): AsyncGenerator<T> {
  const response = await post(method, body, signal);
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop()!;
      for (const line of lines) {
        if (!line) continue; // keep-alive
        const parsed = JSON.parse(line) as { message?: T; status?: Status };
        if (parsed.message) yield parsed.message;
        else if (parsed.status?.code) throw failure({ error: parsed.status });
        else if (parsed.status) return;
      }
    }
  } catch (error) {
    if (isAbort(error) || error instanceof RpcError) throw error;
  } finally {
    void reader.cancel().catch(() => undefined);
  }
  if (signal?.aborted) throw new DOMException("aborted", "AbortError");
  markOffline();
  throw new Offline();
}

let probing = false;

/** Mark the page as offline and probe the server every second until it answers. */
function markOffline(): void {
  online.value = false;
  if (probing) return;
  probing = true;
  const probe = async (): Promise<void> => {
    try {
      await fetch("/", { method: "HEAD", cache: "no-store" });
      probing = false;
      online.value = true;
    } catch {
      setTimeout(() => void probe(), 1000);
    }
  };
  setTimeout(() => void probe(), 500);
}

/** Resolves when the server can be reached. */
export function whenOnline(): Promise<void> {
  return new Promise((resolve) => {
    const stop = online.subscribe((yes) => {
      if (yes) queueMicrotask(() => (stop(), resolve()));
    });
  });
}

/** Whether the same call may work later. */
export function isTransient(error: unknown): boolean {
  return error instanceof Offline || (error instanceof RpcError && error.code === Code.UNAVAILABLE);
}

/** Repeat a call until it succeeds or fails for good; waits while the server cannot be reached. */
export async function retry<T>(attempt: () => Promise<T>, signal?: AbortSignal): Promise<T> {
  for (let wait = 250; ; wait = Math.min(wait * 2, 4000)) {
    try {
      return await attempt();
    } catch (error) {
      if (!isTransient(error) || signal?.aborted) throw error;
      await whenOnline();
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}

/** The message of an error as it is shown to a person. */
export function errorMessage(error: unknown): string {
  let text = error instanceof Error ? error.message : String(error);
  // "field: got value; allowed: what" becomes two sentences that say what to do.
  const allowed = /^(\S+?): got .*; allowed: (.*)$/s.exec(text);
  if (allowed) text = `This value of ${allowed[1].replace(/^\w+\[\d+\]\./, "")} is not allowed. Allowed: ${allowed[2]}`;
  return sentence(text);
}
