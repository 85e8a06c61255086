import { ChartColumn, Check, ChevronRight, CircleHelp, Download, LoaderCircle, Redo2, Undo2 } from "lucide";

import { online } from "../api/rpc";
import { count, duration } from "../lib/format";
import { may, whyNot } from "../model/caller";
import type { Session } from "../model/session";
import { Icon } from "./Icon";
import { Account, ThemeButton } from "./parts";
import { href } from "./route";
import type { PanelName } from "./SidePanel";

export function Header(props: {
  session: Session;
  onHelp: () => void;
  onExport: () => void;
  onDiagnostics: () => void;
  onPanel: (panel: PanelName) => void;
}) {
  const { session } = props;
  const project = session.project.value.name;
  return (
    <header class="topbar">
      <nav aria-label="Location" class="crumbs">
        <a href="#/" class="brand" aria-label="All projects">
          <img src="/icon.svg" width="20" height="20" alt="" />
        </a>
        <a href={href(session.project.value.name)} class="crumb">
          {session.project.value.displayName}
        </a>
        <Icon of={ChevronRight} size={13} />
        <h1 class="crumb here">{session.video.displayName}</h1>
        {session.assignment && <span class="tag">assignment</span>}
      </nav>
      <JobChip session={session} onClick={() => props.onPanel("train")} />
      <div class="topbar-end">
        <Saved session={session} />
        <button
          class="quiet square"
          aria-label="Undo"
          title={`${["Undo", session.undo.undoable.value.at(-1)?.text].filter(Boolean).join(": ")} (Ctrl Z)`}
          disabled={!session.undo.undoable.value.length}
          onClick={() => void session.undo.undo()}
        >
          <Icon of={Undo2} />
        </button>
        <button
          class="quiet square"
          aria-label="Redo"
          title={`${["Redo", session.undo.redoable.value.at(-1)?.text].filter(Boolean).join(": ")} (Ctrl Shift Z)`}
          disabled={!session.undo.redoable.value.length}
          onClick={() => void session.undo.redo()}
        >
          <Icon of={Redo2} />
        </button>
        {!session.assignment && (
        <button class="quiet square" aria-label="Diagnostics" title="Diagnostics (D)" onClick={props.onDiagnostics}>
          <Icon of={ChartColumn} />
        </button>
        )}
        {!session.assignment && (
        <button onClick={props.onExport} disabled={!may("work", project)} title={whyNot("work", project)}>
          <Icon of={Download} /> Export
        </button>
        )}
        <Account />
        <ThemeButton />
        <button class="quiet square" aria-label="Keyboard shortcuts" title="Keyboard shortcuts (?)" onClick={props.onHelp}>
          <Icon of={CircleHelp} />
        </button>
      </div>
    </header>
  );
}

function Saved({ session }: { session: Session }) {
  const waiting = session.outbox.waiting.value;
  const text = waiting ? (online.value ? "Saving" : `${count(waiting, "edit")} to save`) : "Saved";
  return (
    <span class={`saved ${waiting ? "busy" : ""}`} data-stored={session.outbox.stored.value} title="Edits are stored in this browser until the server has them.">
      <Icon of={waiting ? LoaderCircle : Check} size={14} />
      {text}
    </span>
  );
}

function JobChip({ session, onClick }: { session: Session; onClick: () => void }) {
  const training = session.training.running ? session.training : session.background.training;
  if (!training.running) return <span class="spacer" />;
  const background = training !== session.training;
  const propagation = training.propagation.value;
  const labeling = training.state.value === "labeling" && propagation;
  const eta = labeling ? propagation.etaSeconds : training.steps.value?.etaSeconds;
  const text = labeling
    ? `Labeling frames: ${Number(propagation.framesDone ?? 0)} of ${Number(propagation.framesTotal ?? 0)}`
    : { waiting: "Waiting", training: "Training", stopping: "Stopping" }[training.state.value as "waiting"];
  return (
    <button class={background ? "job-chip background" : "job-chip"} onClick={onClick}>
      <span class="pulse" />
      {background ? `Background: ${text.toLowerCase()}` : text}
      {eta ? `, ${duration(eta)} left` : ""}
    </button>
  );
}
