/** Uploads in chunks with checksums; after a break, also after a reload, the same file goes on where it stood. */

import { signal } from "@preact/signals";

import type { Operation, Upload } from "../api/messages";
import { call, Code, inWords, patiently, RpcError } from "../api/rpc";
import { crc32 } from "../lib/crc32";

export interface UploadState {
  id: string;
  project: string;
  fileName: string;
  size: number;
  sent: number;
  phase: "sending" | "reading" | "failed";
  error: string;
  /** Bytes a second, lately. */
  speed: number;
  resumedAt: number;
}

/** The uploads of this page, newest last. */
export const uploads = signal<UploadState[]>([]);

const CHUNK_BYTES = 2 << 20;
const MEMORY = "micromodels-uploads";
const controllers = new Map<string, AbortController>();

/** What was begun, by what the file looks like: `project|name|size|changed` to the name of the upload. */
function remembered(): Record<string, string> {
  try {
    return JSON.parse(localStorage.getItem(MEMORY) ?? "{}") as Record<string, string>;
  } catch {
    return {};
  }
}

function remember(fingerprint: string, name: string | null): void {
  const all = remembered();
  if (name) all[fingerprint] = name;
  else delete all[fingerprint];
  localStorage.setItem(MEMORY, JSON.stringify(all));
}

function update(id: string, change: Partial<UploadState>): void {
  uploads.value = uploads.value.map((upload) => (upload.id === id ? { ...upload, ...change } : upload));
}

export function forget(id: string): void {
  controllers.get(id)?.abort();
  uploads.value = uploads.value.filter((upload) => upload.id !== id);
}

/** Upload a file; gives the operation that reads it, or null where it failed or was given up. */
export async function uploadFile(project: string, file: File): Promise<Operation | null> {
  const id = crypto.randomUUID();
  const state: UploadState = {
    id,
    project,
    fileName: file.name,
    size: file.size,
    sent: 0,
    phase: "sending",
    error: "",
    speed: 0,
    resumedAt: 0,
  };
  uploads.value = [...uploads.value, state];
  const controller = new AbortController();
  controllers.set(id, controller);
  const fingerprint = [project, file.name, file.size, file.lastModified].join("|");
  try {
    const upload = await begin(project, file, fingerprint, controller.signal);
    if (upload.state !== "UPLOAD_STATE_FINISHED") await sendAll(id, upload, file, controller.signal);
    update(id, { phase: "reading", sent: file.size });
    const operation = await patiently(
      () => call<Operation>("VideoService/FinishUpload", { name: upload.name }),
      controller.signal,
    );
    remember(fingerprint, null);
    uploads.value = uploads.value.filter((other) => other.id !== id);
    return operation;
  } catch (error) {
    if (controller.signal.aborted) remember(fingerprint, null);
    else update(id, { phase: "failed", error: inWords(error) });
    return null;
  } finally {
    controllers.delete(id);
  }
}

async function begin(project: string, file: File, fingerprint: string, signal: AbortSignal): Promise<Upload> {
  const known = remembered()[fingerprint];
  if (known) {
    try {
      const upload = await patiently(() => call<Upload>("VideoService/GetUpload", { name: known }), signal);
      if (upload.state === "UPLOAD_STATE_ACTIVE" || upload.state === "UPLOAD_STATE_FINISHED") return upload;
    } catch (error) {
      if (!(error instanceof RpcError)) throw error; // else it has expired
    }
  }
  const requestId = crypto.randomUUID();
  const upload = await patiently(
    () =>
      call<Upload>("VideoService/StartUpload", {
        parent: project,
        fileName: file.name,
        sizeBytes: String(file.size),
        requestId,
      }),
    signal,
  );
  remember(fingerprint, upload.name);
  return upload;
}

async function sendAll(id: string, upload: Upload, file: File, signal: AbortSignal): Promise<void> {
  let offset = Number(upload.receivedBytes ?? 0);
  update(id, { sent: offset, resumedAt: offset });
  const most = Math.min(CHUNK_BYTES, upload.maxChunkBytes ? Number(upload.maxChunkBytes) : CHUNK_BYTES);
  const started = performance.now();
  const first = offset;
  for (let failures = 0; offset < file.size; ) {
    const data = new Uint8Array(await file.slice(offset, offset + most).arrayBuffer());
    const body = { name: upload.name, offset: String(offset), crc32: crc32(data), data: base64(data) };
    try {
      const answer = await patiently(() => call<Upload>("VideoService/UploadChunk", body, signal), signal);
      offset = Number(answer.receivedBytes ?? 0);
      failures = 0;
    } catch (error) {
      if (!(error instanceof RpcError) || ++failures > 5) throw error;
      if (error.code === Code.OUT_OF_RANGE && error.metadata.expected_offset)
        offset = Number(error.metadata.expected_offset); // an answer was lost, not the bytes
      else if (error.code !== Code.DATA_LOSS && error.code !== Code.ABORTED) throw error;
      else await new Promise((resolve) => setTimeout(resolve, 300 * failures));
    }
    update(id, { sent: offset, speed: ((offset - first) / (performance.now() - started)) * 1000 });
  }
}

function base64(data: Uint8Array): string {
  let text = "";
  for (let at = 0; at < data.length; at += 0x8000) text += String.fromCharCode(...data.subarray(at, at + 0x8000));
  return btoa(text);
}
