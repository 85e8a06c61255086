/** Calls of the API through the gateway: proto JSON in, proto JSON out; streams as newline-delimited JSON. */

import { signal } from "@preact/signals";

import type { Status } from "./messages";

/** Whether the last call got through. */
export const online = signal(true);
/** Whether the server wants to know who is calling. */
export const loginWanted = signal(false);

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
    super(status.message || `the call failed (code ${status.code ?? 0})`);
    this.name = "RpcError";
    this.code = status.code ?? 0;
    const info = status.details?.find((detail) => detail["@type"].endsWith("google.rpc.ErrorInfo"));
    this.reason = info?.reason ?? "";
    this.metadata = info?.metadata ?? {};
  }
}

/** The server could not be reached, or the answer was cut. */
export class Offline extends Error {
  constructor() {
    super("the server cannot be reached");
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
    goneOffline();
    throw new Offline();
  }
  online.value = true;
  if (!response.ok) throw failure(await response.json().catch(() => ({ error: { code: 2 } })));
  return response;
}

function failure(body: { error: Status }): RpcError {
  const error = new RpcError(body.error);
  if (error.code === Code.UNAUTHENTICATED) loginWanted.value = true;
  return error;
}

/** One unary call, e.g. `call<Project>("ProjectService/GetProject", { name })`. */
export async function call<T>(method: string, body: unknown, signal?: AbortSignal): Promise<T> {
  const response = await post(method, body, signal);
  try {
    return (await response.json()) as T;
  } catch (error) {
    if (isAbort(error)) throw error;
    goneOffline();
    throw new Offline();
  }
}

/** A server stream; throws `Offline` where it was cut, so that the caller can go on with its resume token. */
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
        if (!line) continue; // a sign of life
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
  goneOffline();
  throw new Offline();
}

let probing = false;

/** Say so, and ask again every second until the server answers. */
function goneOffline(): void {
  online.value = false;
  if (probing) return;
  probing = true;
  const ask = async (): Promise<void> => {
    try {
      await fetch("/", { method: "HEAD", cache: "no-store" });
      probing = false;
      online.value = true;
    } catch {
      setTimeout(() => void ask(), 1000);
    }
  };
  setTimeout(() => void ask(), 500);
}

/** Resolves when the server can be reached (again). */
export function whenOnline(): Promise<void> {
  return new Promise((resolve) => {
    const stop = online.subscribe((yes) => {
      if (yes) queueMicrotask(() => (stop(), resolve()));
    });
  });
}

/** Whether the same call may well work later. */
export function isPassing(error: unknown): boolean {
  return error instanceof Offline || (error instanceof RpcError && error.code === Code.UNAVAILABLE);
}

/** Do something until it works or fails for good; waits while the server cannot be reached. */
export async function patiently<T>(act: () => Promise<T>, signal?: AbortSignal): Promise<T> {
  for (let wait = 250; ; wait = Math.min(wait * 2, 4000)) {
    try {
      return await act();
    } catch (error) {
      if (!isPassing(error) || signal?.aborted) throw error;
      await whenOnline();
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}

/** The words of an error for a person. */
export function inWords(error: unknown): string {
  let text = error instanceof Error ? error.message : String(error);
  // "field: got value; allowed: what": a person wants to know the last part.
  const allowed = /^(\S+?): got .*; allowed: (.*)$/s.exec(text);
  if (allowed) text = `not possible, needed is ${allowed[2]} (${allowed[1].replace(/^\w+\[\d+\]\./, "")})`;
  return text.charAt(0).toUpperCase() + text.slice(1);
}
