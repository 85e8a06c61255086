import { Download, FileJson } from "lucide";
import { useEffect, useState } from "preact/hooks";

import type { Capabilities, FileMessage, LabelFormat, Operation } from "../api/messages";
import { call, errorMessage, isAbort, retry } from "../api/rpc";
import { bytes } from "../lib/format";
import { may } from "../model/caller";
import type { Session } from "../model/session";
import { Icon } from "./Icon";
import { Bar, Dialog } from "./parts";

/** One thing that can be exported: `format` is what the API calls it. */
interface Choice {
  format: string;
  name: string;
  text: string;
}

const REPORT: Choice = { format: "review_report", name: "Audit report", text: "Who drew, corrected and accepted each label, when, with which micro-model" };
const ARCHIVE: Choice = { format: "archive", name: "Archive", text: "The video file and all data about it" };

function choiceOf(format: LabelFormat): Choice {
  const file = format.isFolder ? ".zip" : format.extension;
  return { format: format.name, name: `${format.title} (${file})`, text: format.loses || "Keeps everything" };
}

export function Export({ session, onClose }: { session: Session; onClose: () => void }) {
  const [busy, setBusy] = useState("");
  const [formats, setFormats] = useState<LabelFormat[] | null>(null);
  const [files, setFiles] = useState<FileMessage[]>([]);
  const [error, setError] = useState("");
  useEffect(() => {
    const controller = new AbortController();
    retry(() => call<Capabilities>("CapabilityService/GetCapabilities", {}, controller.signal), controller.signal)
      .then((found) => setFormats((found.labelFormats ?? []).filter((format) => format.canWrite)))
      .catch((caught) => isAbort(caught) || setError(errorMessage(caught)));
    return () => controller.abort();
  }, []);
  const mayManage = may("manage", session.project.value.name);
  const choices = formats && [...formats.map(choiceOf), REPORT, ...(mayManage ? [ARCHIVE] : [])];
  const run = async (format: string): Promise<void> => {
    setBusy(format);
    setError("");
    try {
      await session.outbox.settled();
      const requestId = crypto.randomUUID();
      let operation = await retry(() =>
        call<Operation>("LabelingService/Export", { video: session.video.name, format, requestId }),
      );
      while (!operation.done)
        operation = await retry(() =>
          call<Operation>("google.longrunning.Operations/WaitOperation", { name: operation.name, timeout: "20s" }),
        );
      if (operation.error?.code) throw new Error(operation.error.message);
      const made = (operation.response as { files?: FileMessage[] } | undefined)?.files ?? [];
      setFiles((before) => [...made, ...before]);
      for (const file of made) download(file);
    } catch (caught) {
      setError(errorMessage(caught));
    }
    setBusy("");
  };
  return (
    <Dialog title="Export" onClose={onClose}>
      {!choices && !error && <p class="muted">Loading the formats…</p>}
      <ul class="choices">
        {choices?.map((one) => (
          <li key={one.format}>
            <button class="choice" disabled={busy !== ""} onClick={() => void run(one.format)}>
              <Icon of={FileJson} size={20} />
              <span>
                <strong>{one.name}</strong>
                <span class="muted">{one.text}</span>
              </span>
              <Icon of={Download} />
            </button>
            {busy === one.format && <Bar value={0} indeterminate label={`Writing ${one.name}`} />}
          </li>
        ))}
      </ul>
      {error && <p class="error-text">{error}</p>}
      {files.length > 0 && (
        <ul class="files">
          {files.map((file) => (
            <li key={file.name}>
              <a href={`/files/${file.name}`} download={file.fileName}>
                {file.fileName}
              </a>{" "}
              <span class="muted">{bytes(Number(file.sizeBytes ?? 0))}</span>
            </li>
          ))}
        </ul>
      )}
    </Dialog>
  );
}

function download(file: FileMessage): void {
  const link = document.createElement("a");
  link.href = `/files/${file.name}`;
  link.download = file.fileName ?? "";
  link.click();
}
