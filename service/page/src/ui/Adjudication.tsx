import { ArrowLeft, ArrowRight, Check } from "lucide";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import { MaskPictures } from "../board/MaskPictures";
import type { Agreement, Assignment, Label, Project, Video } from "../api/messages";
import { errorMessage, isAbort } from "../api/rpc";
import { classColor } from "../lib/color";
import { count, percent } from "../lib/format";
import { adjudicate, getAgreement, listAssigned } from "../model/assigning";
import { notify } from "../model/toasts";
import { Icon } from "./Icon";
import { Masthead } from "./Masthead";
import { Needs } from "./parts";
import { goTo, href } from "./route";

type ByFrame = Map<number, Label[]>;
interface Loaded {
  agreement: Agreement;
  labels: ByFrame[];
}

/** The labels of two people side by side, their agreement, and a choice frame by frame. */
export function Adjudication(props: { project: Project; video: Video; assignment: Assignment }) {
  const { project, video, assignment } = props;
  const [loaded, setLoaded] = useState<Loaded | null>(null);
  const [error, setError] = useState("");
  useEffect(() => {
    document.title = `Compare labels · ${video.displayName}`;
    const controller = new AbortController();
    load(assignment, controller.signal)
      .then(setLoaded)
      .catch((caught) => isAbort(caught) || setError(errorMessage(caught)));
    return () => controller.abort();
  }, [assignment]);
  return (
    <div class="page">
      <Masthead />
      <main class="column adjudication">
        <div class="heading">
          <h1>{assignment.annotators?.join(" and ")}</h1>
          <a class="button" href={href(video.name)}>
            Back to {video.displayName}
          </a>
        </div>
        {error && <p class="error-text">{error}</p>}
        {loaded && <Figures agreement={loaded.agreement} />}
        {loaded && <Choosing {...props} loaded={loaded} project={project} />}
      </main>
    </div>
  );
}

async function load(assignment: Assignment, signal: AbortSignal): Promise<Loaded> {
  const agreement = await getAgreement(assignment.name, signal);
  const labels = await Promise.all(
    (assignment.annotators ?? []).map(async (name) => {
      const mine: ByFrame = new Map();
      for await (const page of listAssigned(assignment.name, name, signal))
        for (const label of page) {
          const frame = Number(label.frameIndex ?? 0);
          mine.set(frame, [...(mine.get(frame) ?? []), label]);
        }
      return mine;
    }),
  );
  return { agreement, labels };
}

function Figures({ agreement }: { agreement: Agreement }) {
  const kappa = (value: number | undefined): string => (value === undefined ? "–" : value.toFixed(2));
  const all = [
    { value: agreement.meanIou === undefined ? "–" : percent(agreement.meanIou), text: "overlap of shapes (mean IoU)" },
    { value: kappa(agreement.stateKappa), text: "Cohen's kappa, states" },
    { value: kappa(agreement.classKappa), text: "Cohen's kappa, object classes" },
    { value: kappa(agreement.frameClassKappa), text: "Cohen's kappa, frame classes" },
  ];
  return (
    <>
      <dl class="figures">
        {all.map((one) => (
          <div key={one.text}>
            <dt>{one.text}</dt>
            <dd>{one.value}</dd>
          </div>
        ))}
      </dl>
      <p class="muted">
        {count(Number(agreement.objectCount ?? 0), "object")} on {count(Number(agreement.frameCount ?? 0), "frame")},{" "}
        {Number(agreement.matchedCount ?? 0).toLocaleString("en")} labeled by both. Kappa: 1 = full agreement, 0 = no better than chance, – = nothing to
        compare.
      </p>
    </>
  );
}

function Choosing(props: { project: Project; video: Video; assignment: Assignment; loaded: Loaded }) {
  const { project, video, assignment, loaded } = props;
  const [one, other] = assignment.annotators!;
  const frames = (assignment.frameIndices ?? []).map(Number);
  const [at, setAt] = useState(0);
  const [choices, setChoices] = useState<Record<number, string>>({});
  const [requestId] = useState(() => crypto.randomUUID());
  const [busy, setBusy] = useState(false);
  const frame = frames[at];
  const isDecided = Boolean(assignment.adjudicator);
  const same = frames.filter((number) => isSame(loaded.labels, number));
  const chosen = (number: number): string => choices[number] ?? (same.includes(number) ? one : "");
  const open = frames.filter((number) => !chosen(number)).length;
  const choose = (name: string): void => {
    if (isDecided) return;
    setChoices({ ...choices, [frame]: name });
    const next = frames.findIndex((number, index) => index > at && !chosen(number));
    if (next >= 0) setAt(next);
  };
  useLayoutEffect(() => {
    const listen = (event: KeyboardEvent): void => {
      if (event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]")) return;
      if (event.key === "ArrowRight") setAt(Math.min(at + 1, frames.length - 1));
      else if (event.key === "ArrowLeft") setAt(Math.max(at - 1, 0));
      else if (event.key === "1") choose(one);
      else if (event.key === "2") choose(other);
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", listen);
    return () => removeEventListener("keydown", listen);
  });
  const decide = async (): Promise<void> => {
    setBusy(true);
    try {
      const all = Object.fromEntries(frames.map((number) => [String(number), chosen(number)]));
      await adjudicate(assignment.name, one, all, requestId);
      notify("Saved to the video.", "good");
      goTo(video.name);
    } catch (error) {
      notify(errorMessage(error), "error");
      setBusy(false);
    }
  };
  return (
    <>
      <nav class="chips" aria-label="Frames">
        {frames.map((number, index) => (
          <button key={number} class={`chip ${index === at ? "on" : ""}`} aria-current={index === at} onClick={() => setAt(index)}>
            {number.toLocaleString("en")}
            <span class="muted small-text">{same.includes(number) ? "same" : chosen(number) || "undecided"}</span>
          </button>
        ))}
      </nav>
      <div class="pair">
        {[one, other].map((name, index) => (
          <section key={name} class={`side ${chosen(frame) === name && !same.includes(frame) ? "chosen" : ""}`}>
            <div class="section-head">
              <h2>{name}</h2>
              <Needs to="review" project={project.name}>
                <button aria-pressed={chosen(frame) === name} disabled={isDecided} onClick={() => choose(name)}>
                  <Icon of={Check} size={14} /> Use {name}'s <kbd>{index + 1}</kbd>
                </button>
              </Needs>
            </div>
            <Picture project={project} video={video} frame={frame} labels={loaded.labels[index].get(frame) ?? []} name={name} />
          </section>
        ))}
      </div>
      <div class="heading">
        <span class="masthead-end">
          <button class="square" aria-label="Previous frame" disabled={at === 0} onClick={() => setAt(at - 1)}>
            <Icon of={ArrowLeft} />
          </button>
          <button class="square" aria-label="Next frame" disabled={at === frames.length - 1} onClick={() => setAt(at + 1)}>
            <Icon of={ArrowRight} />
          </button>
          <span class="muted">{isDecided ? `Decided by ${assignment.adjudicator}` : open ? `${count(open, "frame")} left to decide` : "All frames decided"}</span>
        </span>
        <Needs to="review" project={project.name}>
          <button class="primary" disabled={isDecided || busy || open > 0} onClick={() => void decide()}>
            Save to the video
          </button>
        </Needs>
      </div>
    </>
  );
}

/** A person's labels on a frame, as a picture and as text. */
function Picture(props: { project: Project; video: Video; frame: number; labels: Label[]; name: string }) {
  const { project, video, frame, labels } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  const size = { width: video.frameTable?.widthPx ?? 1, height: video.frameTable?.heightPx ?? 1 };
  const text = labels.map(summary).join("; ") || "no labels";
  useEffect(() => {
    const image = new Image();
    let isGone = false;
    image.onload = () => !isGone && canvas.current && paint(canvas.current, image, labels, project, size);
    image.src = `/frames/${video.name}/${frame}.jpg`;
    return () => void (isGone = true);
  }, [frame, labels]);
  return (
    <>
      <canvas ref={canvas} width={size.width} height={size.height} role="img" aria-label={`Frame ${frame} by ${props.name}: ${text}`} />
      <p class="muted small-text">{text}</p>
    </>
  );
}

function paint(canvas: HTMLCanvasElement, image: HTMLImageElement, labels: Label[], project: Project, size: { width: number; height: number }): void {
  const context = canvas.getContext("2d")!;
  context.drawImage(image, 0, 0, size.width, size.height);
  context.lineWidth = Math.max(1.5, size.width / 320);
  const masks = new MaskPictures(size);
  for (const { object } of labels) {
    if (!object) continue;
    const index = project.objectClasses?.findIndex((one) => one.name === object.objectClass) ?? 0;
    const color = classColor(project.objectClasses?.[index]?.color, Math.max(index, 0));
    context.strokeStyle = color;
    context.fillStyle = `${color}44`;
    const { box, polygon, mask } = object;
    const path = new Path2D();
    if (box) path.rect(box.x1 ?? 0, box.y1 ?? 0, (box.x2 ?? 0) - (box.x1 ?? 0), (box.y2 ?? 0) - (box.y1 ?? 0));
    const points = polygon?.coordinates ?? [];
    for (let at = 0; at < points.length; at += 2) path.lineTo(points[at], points[at + 1]);
    if (polygon) path.closePath();
    context.fill(path);
    context.stroke(path);
    if (mask?.counts) context.drawImage(masks.get(mask.counts, color, false, 0.35), 0, 0);
  }
}

function summary({ object, frameClass }: Label): string {
  if (frameClass) return `${frameClass.frameClass} ${frameClass.present ? "yes" : "no"}`;
  const state = (object!.state ?? "").replace("OBJECT_STATE_", "").toLowerCase();
  return `${object!.objectClass} ${state}`;
}

/** Whether the labels of both are the same, apart from the names of objects. */
function isSame(labels: ByFrame[], frame: number): boolean {
  const [one, other] = labels.map((mine) =>
    (mine.get(frame) ?? []).map(({ object, frameClass }) => JSON.stringify([object ? { ...object, track: "" } : null, frameClass])).sort().join(),
  );
  return one === other;
}
