import { whyNot } from "../model/caller";
import type { Session } from "../model/session";
import { Assigned } from "./Assignments";
import { HistoryPanel } from "./HistoryPanel";
import { LabelPanel } from "./LabelPanel";
import { ReviewPanel } from "./ReviewPanel";
import { TrainPanel } from "./TrainPanel";

export type PanelName = "label" | "train" | "review" | "history";

const PANELS: { name: PanelName; title: string }[] = [
  { name: "label", title: "Label" },
  { name: "train", title: "Train" },
  { name: "review", title: "Review" },
  { name: "history", title: "History" },
];

export function SidePanel(props: {
  session: Session;
  panel: PanelName;
  onPanel: (panel: PanelName) => void;
  onClasses: () => void;
  onIdentity: () => void;
}) {
  const { session, panel } = props;
  const panels = session.assignment ? PANELS.slice(0, 1) : PANELS; // an assignment shows nothing but its own labels
  const reason = whyNot("work", session.project.value.name);
  const onArrow = (event: KeyboardEvent): void => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    const at = panels.findIndex((one) => one.name === panel);
    const next = panels[(at + by + panels.length) % panels.length];
    props.onPanel(next.name);
    document.getElementById(`tab-${next.name}`)?.focus();
  };
  return (
    <aside class="panel" aria-label="Panel">
      <div class="tabs" role="tablist" aria-label="Panels" onKeyDown={onArrow}>
        {panels.map((one) => (
          <button
            key={one.name}
            role="tab"
            id={`tab-${one.name}`}
            aria-selected={panel === one.name}
            aria-controls="panel-body"
            tabIndex={panel === one.name ? 0 : -1}
            onClick={() => props.onPanel(one.name)}
          >
            {one.title}
          </button>
        ))}
      </div>
      <div class="panel-body" id="panel-body" role="tabpanel" aria-labelledby={`tab-${panel}`} tabIndex={0}>
        {reason && (
          <p class="notice" role="note">
            {reason}
          </p>
        )}
        {session.assignment && <Assigned session={session} />}
        {panel === "label" && <LabelPanel session={session} onClasses={props.onClasses} onTrain={() => props.onPanel("train")} />}
        {panel === "train" && <TrainPanel session={session} />}
        {panel === "review" && <ReviewPanel session={session} onIdentity={props.onIdentity} />}
        {panel === "history" && <HistoryPanel session={session} />}
      </div>
    </aside>
  );
}
