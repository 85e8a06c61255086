import { FolderPlus, Layers, Plus, Trash2 } from "lucide";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import type { Project } from "../api/messages";
import { call, errorMessage, loginRequired, retry } from "../api/rpc";
import { classColor } from "../lib/color";
import { count, when } from "../lib/format";
import { may, whyNot } from "../model/caller";
import { notify } from "../model/toasts";
import { Icon } from "./Icon";
import { Masthead } from "./Masthead";
import { Dialog } from "./parts";
import { goTo, href } from "./route";

export function Home() {
  const [projects, setProjects] = useState<Project[] | null>(null);
  const [creating, setCreating] = useState(false);
  const [deleting, setDeleting] = useState<Project | null>(null);
  const login = loginRequired.value;
  const load = async (): Promise<void> => {
    const all: Project[] = [];
    let pageToken = "";
    do {
      const page = await retry(() =>
        call<{ projects?: Project[]; nextPageToken?: string }>("ProjectService/ListProjects", { pageSize: 1000, pageToken }),
      );
      all.push(...(page.projects ?? []));
      pageToken = page.nextPageToken ?? "";
    } while (pageToken);
    setProjects(all.reverse());
  };
  useEffect(() => {
    if (!login) load().catch((error) => notify(errorMessage(error), "error"));
  }, [login]);
  useEffect(() => {
    document.title = "micromodels";
  }, []);
  return (
    <div class="page">
      <Masthead />
      <main class="column">
        {projects?.length === 0 && !may("server") && (
          <section class="welcome">
            <h1>No project yet</h1>
            <p>You are signed in but not a member of any project. Ask your administrator to add you.</p>
          </section>
        )}
        {projects?.length === 0 && may("server") && (
          <section class="welcome">
            <h1>Label a few frames. Get labels for all of them.</h1>
            <p>
              Create a project with your classes and upload a video. Draw the objects on two or three frames and train. A
              micro-model, trained for this one video, labels the other frames and suggests which frames to check.
            </p>
            <FirstProject onClick={() => setCreating(true)} />
          </section>
        )}
        {projects && projects.length > 0 && (
          <>
            <div class="heading">
              <h1>Projects</h1>
              <button class="primary" disabled={!may("server")} title={whyNot("server")} onClick={() => setCreating(true)}>
                <Icon of={Plus} /> New project
              </button>
            </div>
            <ul class="cards">
              {projects.map((project) => (
                <li key={project.name} class="card">
                  <a href={href(project.name)} class="card-main">
                    <strong>{project.displayName || project.name.slice(9)}</strong>
                    <span class="muted">
                      {count(project.objectClasses?.length ?? 0, "object class", "object classes")}
                      {project.frameClasses?.length
                        ? `, ${count(project.frameClasses.length, "frame class", "frame classes")}`
                        : ""}
                    </span>
                    <span class="swatches">
                      {[...(project.objectClasses ?? []), ...(project.frameClasses ?? [])].slice(0, 8).map((one, index) => (
                        <span key={one.name} class="swatch" style={{ background: classColor(one.color, index) }} />
                      ))}
                    </span>
                    <span class="muted end">{when(project.createTime)}</span>
                  </a>
                  <button
                    class="quiet square"
                    aria-label={`Delete ${project.displayName}`}
                    title={whyNot("manage", project.name) || "Delete"}
                    disabled={!may("manage", project.name)}
                    onClick={() => setDeleting(project)}
                  >
                    <Icon of={Trash2} />
                  </button>
                </li>
              ))}
            </ul>
          </>
        )}
      </main>
      {creating && <NewProject onClose={() => setCreating(false)} />}
      {deleting && <DeleteProject project={deleting} onClose={() => (setDeleting(null), void load())} />}
    </div>
  );
}

/** Focused when it appears, so that Enter creates the first project. */
function FirstProject({ onClick }: { onClick: () => void }) {
  const button = useRef<HTMLButtonElement>(null);
  useLayoutEffect(() => button.current?.focus(), []);
  return (
    <button ref={button} class="primary large" onClick={onClick}>
      <Icon of={FolderPlus} size={18} /> Create your first project
    </button>
  );
}

function NewProject({ onClose }: { onClose: () => void }) {
  const [name, setName] = useState("");
  const [classes, setClasses] = useState("");
  const [requestId] = useState(() => crypto.randomUUID());
  const [error, setError] = useState("");
  const create = async (event: Event): Promise<void> => {
    event.preventDefault();
    const names = [...new Set(classes.split(/[,\n]/).map((one) => one.trim()))].filter(Boolean);
    const project = {
      displayName: name.trim() || "Untitled",
      objectClasses: names.map((one, index) => ({ name: one, color: classColor("", index) })),
    };
    try {
      const created = await retry(() => call<Project>("ProjectService/CreateProject", { project, requestId }));
      goTo(created.name);
    } catch (caught) {
      setError(errorMessage(caught));
    }
  };
  return (
    <Dialog title="New project" onClose={onClose}>
      <form class="stack" onSubmit={(event) => void create(event)}>
        <label>
          Name
          <input autofocus value={name} placeholder="Colonoscopy" onInput={(event) => setName(event.currentTarget.value)} />
        </label>
        <label>
          Object classes
          <input
            value={classes}
            placeholder="polyp, instrument"
            onInput={(event) => setClasses(event.currentTarget.value)}
          />
          <span class="hint">What to label, separated by commas. You can change this later.</span>
        </label>
        {error && <p class="error-text">{error}</p>}
        <div class="actions">
          <button type="submit" class="primary">
            <Icon of={Layers} /> Create project
          </button>
        </div>
      </form>
    </Dialog>
  );
}

function DeleteProject({ project, onClose }: { project: Project; onClose: () => void }) {
  const remove = async (): Promise<void> => {
    try {
      await call("ProjectService/DeleteProject", { name: project.name, force: true });
      notify(`Deleted ${project.displayName}.`, "good");
    } catch (error) {
      notify(errorMessage(error), "error");
    }
    onClose();
  };
  return (
    <Dialog title={`Delete ${project.displayName}?`} onClose={onClose}>
      <p>This also deletes its videos, labels, micro-models and exports. It cannot be undone.</p>
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
