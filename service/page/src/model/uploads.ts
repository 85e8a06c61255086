/** Uploads in chunks with checksums; an interrupted upload of the same file resumes, also after a reload. */

import { signal } from "@preact/signals";

import type { Operation, Upload } from "../api/messages";
import { call, Code, errorMessage, retry, RpcError } from "../api/rpc";
import { crc32 } from "../lib/crc32";

export interface UploadState {
  id: string;
  project: string;
  fileName: string;
  size: number;
  sent: number;
  phase: "sending" | "reading" | "failed";
  error: string;
  /** Bytes a second. */
  speed: number;
  resumedAt: number;
}

/** Uploads of this visit, newest last. */
export const uploads = signal<UploadState[]>([]);

const CHUNK_BYTES = 2 << 20;
const MAX_FAILURES = 5;
const MEMORY = "micromodels-uploads";
const controllers = new Map<string, AbortController>();

/** Unfinished uploads: from `project|file name|size|last modified` to the name of the upload. */
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

/** Upload a file; gives the operation that reads it, or null if the upload failed or was canceled. */
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
    const operation = await retry(
      () => call<Operation>("VideoService/FinishUpload", { name: upload.name }),
      controller.signal,
    );
    remember(fingerprint, null);
    uploads.value = uploads.value.filter((other) => other.id !== id);
    return operation;
  } catch (error) {
    if (controller.signal.aborted) remember(fingerprint, null);
    else update(id, { phase: "failed", error: errorMessage(error) });
    return null;
  } finally {
    controllers.delete(id);
  }
}

async function begin(project: string, file: File, fingerprint: string, signal: AbortSignal): Promise<Upload> {
  const known = remembered()[fingerprint];
  if (known) {
    try {
      const upload = await retry(() => call<Upload>("VideoService/GetUpload", { name: known }), signal);
      if (upload.state === "UPLOAD_STATE_ACTIVE" || upload.state === "UPLOAD_STATE_FINISHED") return upload;
    } catch (error) {
      if (!(error instanceof RpcError)) throw error; // an RpcError: the upload has expired
    }
  }
  const requestId = crypto.randomUUID();
  const upload = await retry(
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
  const chunkBytes = Math.min(CHUNK_BYTES, upload.maxChunkBytes ? Number(upload.maxChunkBytes) : CHUNK_BYTES);
  const started = performance.now();
  const first = offset;
  for (let failures = 0; offset < file.size; ) {
    const data = new Uint8Array(await file.slice(offset, offset + chunkBytes).arrayBuffer());
    const body = { name: upload.name, offset: String(offset), crc32: crc32(data), data: base64(data) };
    try {
      const answer = await retry(() => call<Upload>("VideoService/UploadChunk", body, signal), signal);
      offset = Number(answer.receivedBytes ?? 0);
      failures = 0;
    } catch (error) {
      if (!(error instanceof RpcError) || ++failures > MAX_FAILURES) throw error;
      if (error.code === Code.OUT_OF_RANGE && error.metadata.expected_offset)
        offset = Number(error.metadata.expected_offset); // the server has the bytes; only its answer was lost
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
