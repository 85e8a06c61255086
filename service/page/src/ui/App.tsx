import { useEffect, useState } from "preact/hooks";

import type { Assignment, Project, Video } from "../api/messages";
import { call, errorMessage, loginRequired, retry } from "../api/rpc";
import { getAssignment, isDone, isMine } from "../model/assigning";
import { caller, loadCaller } from "../model/caller";
import { Session } from "../model/session";
import { notify } from "../model/toasts";
import { Adjudication } from "./Adjudication";
import { Editor } from "./Editor";
import { Home } from "./Home";
import { Login } from "./Login";
import { OfflineBanner, Toasts } from "./parts";
import { ProjectView } from "./ProjectView";
import { route } from "./route";

export function App() {
  const { project, video, assignment } = route.value;
  const login = loginRequired.value;
  useEffect(() => {
    if (!login && !caller.value) loadCaller().catch((error) => !loginRequired.value && notify(errorMessage(error), "error"));
  }, [login]);
  if (!caller.value)
    return (
      <>
        <OfflineBanner waiting={0} />
        {login && <Login />}
        <Toasts />
      </>
    );
  return (
    <>
      {video ? <OpenVideo key={assignment ?? video} project={project!} video={video} assignment={assignment} /> : <Pages project={project} />}
      <Toasts />
      {login && <Login />}
    </>
  );
}

function Pages({ project }: { project?: string }) {
  return (
    <>
      <OfflineBanner waiting={0} />
      {project ? <ProjectView key={project} name={project} /> : <Home />}
    </>
  );
}

function OpenVideo({ project, video, assignment }: { project: string; video: string; assignment?: string }) {
  const [comparison, setComparison] = useState<{ project: Project; video: Video; assignment: Assignment } | null>(null);
  const [session, setSession] = useState<Session | null>(null);
  const [error, setError] = useState("");
  const login = loginRequired.value;
  useEffect(() => {
    if (login) return;
    const controller = new AbortController();
    let made: Session | null = null;
    void (async () => {
      try {
        const [openProject, openVideo, openAssignment] = await retry(() =>
          Promise.all([
            call<Project>("ProjectService/GetProject", { name: project }, controller.signal),
            call<Video>("VideoService/GetVideo", { name: video }, controller.signal),
            assignment ? getAssignment(assignment, controller.signal) : null,
          ]),
        );
        if (controller.signal.aborted) return;
        if (openVideo.state !== "VIDEO_STATE_READY") return setError(openVideo.error || "The video is still being read. Try again in a moment.");
        const canLabel = openAssignment && isMine(openAssignment) && !isDone(openAssignment, caller.value?.user ?? "");
        if (openAssignment && !canLabel) return setComparison({ project: openProject, video: openVideo, assignment: openAssignment });
        made = new Session(openVideo, openProject, openAssignment);
        setSession(made);
        void made.start();
      } catch (caught) {
        if (!controller.signal.aborted) setError(errorMessage(caught));
      }
    })();
    return () => {
      controller.abort();
      made?.close();
    };
  }, [project, video, assignment, login]);
  if (comparison) return <Adjudication {...comparison} />;
  if (session) return <Editor session={session} />;
  return (
    <main class="empty-page">
      {error ? (
        <>
          <h1>Cannot open this video</h1>
          <p>{error}</p>
          <a class="button" href={`#/${project}`}>
            Back to the project
          </a>
        </>
      ) : (
        <p class="muted">Opening…</p>
      )}
    </main>
  );
}
