import { Film, Palette, Trash2, Upload as UploadIcon, X } from "lucide";
import { useEffect, useRef, useState } from "preact/hooks";

import type { Operation, Project, Video } from "../api/messages";
import { call, errorMessage, loginRequired, retry } from "../api/rpc";
import { classColor } from "../lib/color";
import { bytes, count, duration, percent, when } from "../lib/format";
import { may, whyNot } from "../model/caller";
import { notify } from "../model/toasts";
import { forget, uploadFile, uploads, type UploadState } from "../model/uploads";
import { Classes } from "./Classes";
import { Icon } from "./Icon";
import { Masthead } from "./Masthead";
import { Bar, Dialog } from "./parts";
import { href } from "./route";

const ACCEPT = "video/*,.mp4,.mov,.3gp,.mkv,.webm,.avi,.mpg,.mpeg,.vob,.ts,.mts,.wmv,.flv,.mxf,.ogv,.dv,.gif,.tif,.tiff";

export function ProjectView({ name }: { name: string }) {
  const [project, setProject] = useState<Project | null>(null);
  const [videos, setVideos] = useState<Video[]>([]);
  const [error, setError] = useState("");
  const [classes, setClasses] = useState(false);
  const [deleting, setDeleting] = useState<Video | null>(null);
  const login = loginRequired.value;
  const loadVideos = async (): Promise<Video[]> => {
    const all: Video[] = [];
    let pageToken = "";
    do {
      const page = await retry(() =>
        call<{ videos?: Video[]; nextPageToken?: string }>("VideoService/ListVideos", { parent: name, pageSize: 1000, pageToken }),
      );
      all.push(...(page.videos ?? []));
      pageToken = page.nextPageToken ?? "";
    } while (pageToken);
    setVideos(all.reverse());
    return all;
  };
  useEffect(() => {
    if (login) return;
    void (async () => {
      try {
        const loaded = await retry(() => call<Project>("ProjectService/GetProject", { name }));
        document.title = `${loaded.displayName} · micromodels`;
        setProject(loaded);
        if (!loaded.objectClasses?.length && !loaded.frameClasses?.length && may("manage", name)) setClasses(true);
        await loadVideos();
      } catch (caught) {
        setError(errorMessage(caught));
      }
    })();
  }, [name, login]);
  const reading = videos.some((video) => video.state === "VIDEO_STATE_PROBING");
  useEffect(() => {
    if (!reading) return;
    const timer = setInterval(() => void loadVideos().catch(() => undefined), 1000);
    return () => clearInterval(timer);
  }, [reading]);
  const add = (files: Iterable<File>): void => {
    for (const file of files)
      void uploadFile(name, file).then((operation: Operation | null) => operation && void loadVideos());
  };
  if (error)
    return (
      <main class="empty-page">
        <h1>Cannot open this project</h1>
        <p>{error}</p>
        <a class="button" href="#/">
          All projects
        </a>
      </main>
    );
  if (!project) return null;
  const mine = uploads.value.filter((upload) => upload.project === name);
  return (
    <div class="page">
      <Masthead />
      <main class="column">
        <div class="heading">
          <h1>{project.displayName}</h1>
          <button disabled={!may("manage", name)} title={whyNot("manage", name)} onClick={() => setClasses(true)}>
            <Icon of={Palette} /> Classes
          </button>
        </div>
        <ClassChips project={project} />
        {may("work", name) ? (
          <DropZone onFiles={add} empty={!videos.length && !mine.length} />
        ) : (
          <p class="muted">{whyNot("work", name)}</p>
        )}
        {(mine.length > 0 || videos.length > 0) && (
          <ul class="cards">
            {mine.map((upload) => (
              <UploadRow key={upload.id} upload={upload} />
            ))}
            {videos.map((video) => (
              <VideoRow key={video.name} video={video} project={name} onDelete={() => setDeleting(video)} />
            ))}
          </ul>
        )}
      </main>
      {classes && <Classes project={project} onClose={() => setClasses(false)} onChange={setProject} />}
      {deleting && <DeleteVideo video={deleting} onClose={() => (setDeleting(null), void loadVideos())} />}
    </div>
  );
}

function ClassChips({ project }: { project: Project }) {
  const all = [...(project.objectClasses ?? []), ...(project.frameClasses ?? [])];
  return (
    <ul class="chips" aria-label="Classes">
      {all.map((one, index) => (
        <li key={one.name} class="chip">
          <span class="swatch" style={{ background: classColor(one.color, index) }} />
          {one.name}
        </li>
      ))}
    </ul>
  );
}

function DropZone({ onFiles, empty }: { onFiles: (files: Iterable<File>) => void; empty: boolean }) {
  const [over, setOver] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  return (
    <div
      class={`drop ${empty ? "tall" : ""} ${over ? "over" : ""}`}
      onDragOver={(event) => (event.preventDefault(), setOver(true))}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        setOver(false);
        onFiles(event.dataTransfer?.files ?? []);
      }}
    >
      <Icon of={UploadIcon} size={empty ? 26 : 18} />
      <p>
        Drop a video here, or{" "}
        <button class="link" onClick={() => input.current?.click()}>
          choose a file
        </button>
      </p>
      {empty && <p class="muted">It is stored on this server only. An interrupted upload resumes when you choose the same file again.</p>}
      <input
        ref={input}
        type="file"
        accept={ACCEPT}
        multiple
        class="visually-hidden"
        tabIndex={-1}
        aria-label="Video files"
        onChange={(event) => {
          onFiles([...(event.currentTarget.files ?? [])]);
          event.currentTarget.value = "";
        }}
      />
    </div>
  );
}

function UploadRow({ upload }: { upload: UploadState }) {
  const share = upload.sent / upload.size;
  const left = upload.speed ? (upload.size - upload.sent) / upload.speed : NaN;
  const text =
    upload.phase === "failed"
      ? upload.error
      : upload.phase === "reading"
        ? "Reading the video"
        : `${bytes(upload.sent)} of ${bytes(upload.size)}${upload.resumedAt ? `, resumed at ${percent(upload.resumedAt / upload.size)}` : ""}${left > 3 ? `, ${duration(left)} left` : ""}`;
  return (
    <li class="card">
      <div class="card-main">
        <strong>{upload.fileName}</strong>
        <span class={upload.phase === "failed" ? "error-text" : "muted"}>{text}</span>
        {upload.phase !== "failed" && (
          <Bar value={share} label={`Upload of ${upload.fileName}`} indeterminate={upload.phase === "reading"} />
        )}
      </div>
      <button class="quiet square" aria-label={`${upload.phase === "failed" ? "Dismiss" : "Cancel upload of"} ${upload.fileName}`} onClick={() => forget(upload.id)}>
        <Icon of={X} />
      </button>
    </li>
  );
}

function VideoRow({ video, project, onDelete }: { video: Video; project: string; onDelete: () => void }) {
  const ready = video.state === "VIDEO_STATE_READY";
  const table = video.frameTable;
  const frames = Number(table?.frameCount ?? 0);
  const name = video.displayName || video.name;
  const inside = (
    <>
      <span class="poster">
        {ready ? (
          <img src={`/frames/${video.name}/${Math.floor(frames / 3)}.jpg?width=192`} alt="" loading="lazy" />
        ) : (
          <Icon of={Film} size={20} />
        )}
      </span>
      <span class="card-text">
        <strong>{name}</strong>
        <span class={video.state === "VIDEO_STATE_FAILED" ? "error-text" : "muted"}>
          {ready
            ? `${count(frames, "frame")}, ${table?.widthPx} × ${table?.heightPx}, ${bytes(Number(video.sizeBytes ?? 0))}`
            : video.error || "Reading and counting frames"}
        </span>
        {!ready && !video.error && <Bar value={0} label={`Reading ${name}`} indeterminate />}
      </span>
      <span class="muted end">
        {Number(video.labelRevision ?? 0) > 0 ? <span class="tag">labeled</span> : null} {when(video.createTime)}
      </span>
    </>
  );
  return (
    <li class="card">
      {ready ? (
        <a class="card-main video" href={href(video.name)}>
          {inside}
        </a>
      ) : (
        <div class="card-main video">{inside}</div>
      )}
      <button class="quiet square" aria-label={`Delete ${name}`} title={whyNot("curate", project) || "Delete"} disabled={!may("curate", project)} onClick={onDelete}>
        <Icon of={Trash2} />
      </button>
    </li>
  );
}

function DeleteVideo({ video, onClose }: { video: Video; onClose: () => void }) {
  const remove = async (): Promise<void> => {
    try {
      await call("VideoService/DeleteVideo", { name: video.name });
      notify(`Deleted ${video.displayName}.`, "good");
    } catch (error) {
      notify(errorMessage(error), "error");
    }
    onClose();
  };
  return (
    <Dialog title={`Delete ${video.displayName}?`} onClose={onClose}>
      <p>This also deletes its labels and every micro-model trained on it. It cannot be undone.</p>
      <div class="actions">
        <button onClick={onClose} autofocus>
          Cancel
        </button>
        <button class="danger" onClick={() => void remove()}>
          Delete
        </button>
      </div>
    </Dialog>
  );
}
