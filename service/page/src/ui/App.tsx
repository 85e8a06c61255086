import { useEffect, useState } from "preact/hooks";

import type { Assignment, Project, Video } from "../api/messages";
import { call, inWords, loginWanted, patiently } from "../api/rpc";
import { getAssignment, isDone, isMine } from "../model/assigning";
import { caller, loadCaller } from "../model/caller";
import { Session } from "../model/session";
import { say } from "../model/toasts";
import { Adjudication } from "./Adjudication";
import { Editor } from "./Editor";
import { Home } from "./Home";
import { Login } from "./Login";
import { OfflineBanner, Toasts } from "./parts";
import { ProjectView } from "./ProjectView";
import { route } from "./route";

export function App() {
  const { project, video, assignment } = route.value;
  const login = loginWanted.value;
  useEffect(() => {
    if (!login && !caller.value) loadCaller().catch((error) => !loginWanted.value && say(inWords(error), "error"));
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
  const [compared, setCompared] = useState<{ project: Project; video: Video; assignment: Assignment } | null>(null);
  const [session, setSession] = useState<Session | null>(null);
  const [error, setError] = useState("");
  const login = loginWanted.value;
  useEffect(() => {
    if (login) return;
    const controller = new AbortController();
    let made: Session | null = null;
    void (async () => {
      try {
        const [ofProject, ofVideo, ofTwo] = await patiently(() =>
          Promise.all([
            call<Project>("ProjectService/GetProject", { name: project }, controller.signal),
            call<Video>("VideoService/GetVideo", { name: video }, controller.signal),
            assignment ? getAssignment(assignment, controller.signal) : null,
          ]),
        );
        if (controller.signal.aborted) return;
        if (ofVideo.state !== "VIDEO_STATE_READY") return setError(ofVideo.error || "The video is still being read");
        const blind = ofTwo && isMine(ofTwo) && !isDone(ofTwo, caller.value?.user ?? "");
        if (ofTwo && !blind) return setCompared({ project: ofProject, video: ofVideo, assignment: ofTwo });
        made = new Session(ofVideo, ofProject, ofTwo);
        setSession(made);
        void made.start();
      } catch (caught) {
        if (!controller.signal.aborted) setError(inWords(caught));
      }
    })();
    return () => {
      controller.abort();
      made?.close();
    };
  }, [project, video, assignment, login]);
  if (compared) return <Adjudication {...compared} />;
  if (session) return <Editor session={session} />;
  return (
    <main class="empty-page">
      {error ? (
        <>
          <h1>This video cannot be shown</h1>
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
