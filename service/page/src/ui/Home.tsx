import { FolderPlus, Layers, Plus, Trash2 } from "lucide";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import type { Project } from "../api/messages";
import { call, inWords, loginWanted, patiently } from "../api/rpc";
import { classColor } from "../lib/color";
import { count, when } from "../lib/format";
import { may, whyNot } from "../model/caller";
import { say } from "../model/toasts";
import { Icon } from "./Icon";
import { Masthead } from "./Masthead";
import { Dialog } from "./parts";
import { goTo, href } from "./route";

export function Home() {
  const [projects, setProjects] = useState<Project[] | null>(null);
  const [making, setMaking] = useState(false);
  const [doomed, setDoomed] = useState<Project | null>(null);
  const login = loginWanted.value;
  const load = async (): Promise<void> => {
    const all: Project[] = [];
    let pageToken = "";
    do {
      const page = await patiently(() =>
        call<{ projects?: Project[]; nextPageToken?: string }>("ProjectService/ListProjects", { pageSize: 1000, pageToken }),
      );
      all.push(...(page.projects ?? []));
      pageToken = page.nextPageToken ?? "";
    } while (pageToken);
    setProjects(all.reverse());
  };
  useEffect(() => {
    if (!login) load().catch((error) => say(inWords(error), "error"));
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
            <p>You are signed in, but a member of no project. Whoever runs this server makes you one.</p>
          </section>
        )}
        {projects?.length === 0 && may("server") && (
          <section class="welcome">
            <h1>Draw a few labels. Get all of them.</h1>
            <p>
              A project holds the classes to label and the videos. Draw them on two or three frames, press train, and a
              small model made for this one video labels every other frame and shows where to look next.
            </p>
            <FirstProject onClick={() => setMaking(true)} />
          </section>
        )}
        {projects && projects.length > 0 && (
          <>
            <div class="heading">
              <h1>Projects</h1>
              <button class="primary" disabled={!may("server")} title={whyNot("server")} onClick={() => setMaking(true)}>
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
                    onClick={() => setDoomed(project)}
                  >
                    <Icon of={Trash2} />
                  </button>
                </li>
              ))}
            </ul>
          </>
        )}
      </main>
      {making && <NewProject onClose={() => setMaking(false)} />}
      {doomed && <DeleteProject project={doomed} onClose={() => (setDoomed(null), void load())} />}
    </div>
  );
}

/** Has the focus as soon as it is there, so that Enter begins. */
function FirstProject({ onClick }: { onClick: () => void }) {
  const button = useRef<HTMLButtonElement>(null);
  useLayoutEffect(() => button.current?.focus(), []);
  return (
    <button ref={button} class="primary large" onClick={onClick}>
      <Icon of={FolderPlus} size={18} /> Make the first project
    </button>
  );
}

function NewProject({ onClose }: { onClose: () => void }) {
  const [name, setName] = useState("");
  const [classes, setClasses] = useState("");
  const [requestId] = useState(() => crypto.randomUUID());
  const [error, setError] = useState("");
  const make = async (event: Event): Promise<void> => {
    event.preventDefault();
    const names = [...new Set(classes.split(/[,\n]/).map((one) => one.trim()))].filter(Boolean);
    const project = {
      displayName: name.trim() || "Untitled",
      objectClasses: names.map((one, index) => ({ name: one, color: classColor("", index) })),
    };
    try {
      const made = await patiently(() => call<Project>("ProjectService/CreateProject", { project, requestId }));
      goTo(made.name);
    } catch (caught) {
      setError(inWords(caught));
    }
  };
  return (
    <Dialog title="New project" onClose={onClose}>
      <form class="stack" onSubmit={(event) => void make(event)}>
        <label>
          Name
          <input autofocus value={name} placeholder="Colonoscopy" onInput={(event) => setName(event.currentTarget.value)} />
        </label>
        <label>
          What is to be labeled
          <input
            value={classes}
            placeholder="polyp, instrument"
            onInput={(event) => setClasses(event.currentTarget.value)}
          />
          <span class="hint">Classes of objects, separated by commas. You can change them later.</span>
        </label>
        {error && <p class="error-text">{error}</p>}
        <div class="actions">
          <button type="submit" class="primary">
            <Icon of={Layers} /> Make project
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
      say(`${project.displayName} deleted`, "good");
    } catch (error) {
      say(inWords(error), "error");
    }
    onClose();
  };
  return (
    <Dialog title={`Delete ${project.displayName}?`} onClose={onClose}>
      <p>Its videos, labels, micro-models and exports are deleted with it. This cannot be undone.</p>
      <div class="actions">
        <button onClick={onClose} autofocus>
          Keep it
        </button>
        <button class="danger" onClick={() => void remove()}>
          Delete
        </button>
      </div>
    </Dialog>
  );
}
