import { CircleStop, Play, RefreshCw, ThumbsUp } from "lucide";
import { useEffect, useRef, useState } from "preact/hooks";

import { count, duration, percent, when } from "../lib/format";
import type { Session } from "../model/session";
import type { Picture, Training } from "../model/training";
import { Icon } from "./Icon";
import { Bar, Needs } from "./parts";

const EFFORTS = [
  { effort: 0.3, name: "Quick", text: "About a third of the normal time" },
  { effort: 1, name: "Normal", text: "Good for most videos" },
  { effort: 2, name: "Thorough", text: "Twice the normal time" },
];

export function TrainPanel({ session }: { session: Session }) {
  const { training } = session;
  session.labels.version.value;
  const [effort, setEffort] = useState(1);
  const [experiments, setExperiments] = useState(1);
  const anchors = new Set(session.rows().flatMap((row) => row.anchors())).size;
  return (
    <>
      {!training.running && (
        <section>
          <h2>Train a micro-model</h2>
          <p class="muted">
            {anchors
              ? `Learns from ${count(anchors, "frame")} drawn by hand, then labels the other ${(session.frameCount - anchors).toLocaleString("en")}.`
              : "Draw the objects on at least one frame first."}
          </p>
          <Needs to="work" project={session.project.value.name}>
          <div class="segmented" role="radiogroup" aria-label="Effort">
            {EFFORTS.map((one) => (
              <button
                key={one.name}
                role="radio"
                aria-checked={effort === one.effort}
                class={effort === one.effort ? "on" : ""}
                title={one.text}
                onClick={() => setEffort(one.effort)}
              >
                {one.name}
              </button>
            ))}
          </div>
          <label class="inline" title="Number of different settings to try. The best result is kept.">
            Experiments
            <select value={experiments} onChange={(event) => setExperiments(Number(event.currentTarget.value))}>
              {[1, 2, 4, 8].map((number) => (
                <option key={number}>{number}</option>
              ))}
            </select>
          </label>
          <button class="primary wide" disabled={!anchors} onClick={() => void session.train({ effort, experiments })}>
            <Icon of={Play} size={15} /> Train
          </button>
          </Needs>
        </section>
      )}
      {training.running && <Running session={session} training={training} />}
      <BackgroundRetraining session={session} />
      {training.error.value && <p class="error-text">{training.error.value}</p>}
      <FlipBook session={session} />
      <Loss session={session} />
      <Experiments session={session} />
      {training.warnings.value.length > 0 && (
        <section>
          <h2>Warnings</h2>
          <ul class="plain">
            {[...new Set(training.warnings.value)].slice(-4).map((warning) => (
              <li key={warning} class="muted">
                {warning}
              </li>
            ))}
          </ul>
        </section>
      )}
    </>
  );
}

/** Retraining in the background: its progress and outcome, and the button that starts it. */
function BackgroundRetraining({ session }: { session: Session }) {
  const { background } = session;
  const outcome = background.outcome.value;
  if (background.running) return <Running session={session} training={background.training} background />;
  if (!session.reviewing.hasModel.value || session.training.running) return null;
  return (
    <section class="in-background">
      <h2>Retraining</h2>
      {outcome ? (
        <p class={`outcome ${outcome.kind}`} role="note">
          {outcome.text}
          {outcome.endTime && <span class="muted small-text"> {when(outcome.endTime)}</span>}
        </p>
      ) : (
        <p class="muted">
          After several corrections, when you pause, a new micro-model is trained and compared with the current one on frames that
          neither was trained on. Labels are updated only if the new one is better.
        </p>
      )}
      <Needs to="work" project={session.project.value.name}>
        <button title="You can keep working while it runs" onClick={() => void background.start()}>
          <Icon of={RefreshCw} size={14} /> Retrain and compare
        </button>
      </Needs>
    </section>
  );
}

function Running({ session, training, background }: { session: Session; training: Training; background?: boolean }) {
  const state = training.state.value;
  const steps = training.steps.value;
  const propagation = training.propagation.value;
  const labeling = state === "labeling" && propagation;
  const done = labeling
    ? Number(propagation.framesDone ?? 0) / Number(propagation.framesTotal || 1)
    : steps
      ? ((steps.experiment ?? 0) + ((steps.step ?? 0) + 1) / (steps.stepCount || 1)) / (steps.experimentCount || 1)
      : 0;
  const eta = labeling ? propagation.etaSeconds : steps?.etaSeconds;
  const title = labeling
    ? "Labeling all frames"
    : background && state !== "stopping"
      ? "Retraining in the background"
      : { waiting: "Preparing frames", training: "Training", stopping: "Stopping" }[state as "waiting"];
  return (
    <section class="running" aria-live="off">
      <div class="section-head">
        <h2>{title}</h2>
        <span class="muted">{eta ? `${duration(eta)} left` : ""}</span>
      </div>
      <Bar value={done} label={title} indeterminate={state === "waiting" || (state === "stopping" && !labeling)} />
      <p class="muted small-text">
        {labeling
          ? `${Number(propagation.framesDone ?? 0).toLocaleString("en")} of ${count(Number(propagation.framesTotal ?? 0), "frame")}; ${background ? "labels are updated at the end" : "finished frames can be reviewed now"}`
          : steps
            ? `Step ${(steps.step ?? 0) + 1} of ${steps.stepCount}, loss ${(steps.loss ?? 0).toFixed(3)}`
            : background
              ? "You can keep correcting while it runs"
              : "Done once for each video; later trainings skip this"}
      </p>
      <Needs to="work" project={session.project.value.name}>
      <div class="button-row">
        {!labeling && state !== "stopping" && (
          <button
            class="primary"
            disabled={training.stoppedEarly.value || !steps}
            title="End training now and label the video with the result"
            onClick={() => void training.stopEarly()}
          >
            <Icon of={ThumbsUp} size={14} /> {training.stoppedEarly.value ? "Stopping" : "Good enough, stop now"}
          </button>
        )}
        <button disabled={state === "stopping"} title={background ? "Keep the current micro-model and labels" : "Stop. Frames that are already labeled keep their labels"} onClick={() => void training.cancel()}>
          <Icon of={CircleStop} size={14} /> Cancel
        </button>
      </div>
      </Needs>
    </section>
  );
}

/** The same few frames at successive steps of training. */
function FlipBook({ session }: { session: Session }) {
  const pages = [...session.training.pictures.value.entries()].sort(([a], [b]) => a - b);
  const pageCount = Math.max(0, ...pages.map(([, pictures]) => pictures.length));
  const [page, setPage] = useState<number | null>(null); // null: the newest
  if (!pageCount) return null;
  const shown = (pictures: Picture[]): Picture => pictures[Math.min(page ?? pictures.length - 1, pictures.length - 1)];
  const step = shown(pages[0][1]).step;
  return (
    <section>
      <div class="section-head">
        <h2>Training progress</h2>
        <span class="muted small-text">step {step}</span>
      </div>
      <div class={`flip-book ${pages.length === 1 ? "one" : ""}`}>
        {pages.map(([frame, pictures]) => (
          <button key={frame} class="flip" title={`Go to frame ${frame}`} onClick={() => session.player.go(frame)}>
            <img src={shown(pictures).url} alt={`Frame ${frame} at step ${shown(pictures).step}`} />
            <span>{frame.toLocaleString("en")}</span>
          </button>
        ))}
      </div>
      {pageCount > 1 && (
        <input
          type="range"
          aria-label="Step of training"
          min="0"
          max={pageCount - 1}
          value={page ?? pageCount - 1}
          onInput={(event) => {
            const value = Number(event.currentTarget.value);
            setPage(value >= pageCount - 1 ? null : value);
          }}
        />
      )}
    </section>
  );
}

function Loss({ session }: { session: Session }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const points = session.training.loss.value;
  useEffect(() => {
    if (canvas.current && points.length > 1) drawLoss(canvas.current, points);
  }, [points]);
  if (points.length < 2) return null;
  const last = points.at(-1)!;
  return (
    <section>
      <div class="section-head">
        <h2>Loss</h2>
        <span class="muted small-text">{last.loss.toFixed(3)}</span>
      </div>
      <canvas ref={canvas} class="loss" role="img" aria-label={`Loss ${last.loss.toFixed(3)} at step ${last.step}`} />
    </section>
  );
}

function drawLoss(canvas: HTMLCanvasElement, points: { experiment: number; step: number; loss: number }[]): void {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = width * devicePixelRatio;
  canvas.height = height * devicePixelRatio;
  const context = canvas.getContext("2d")!;
  context.scale(devicePixelRatio, devicePixelRatio);
  const finite = points.filter((point) => Number.isFinite(point.loss) && point.loss > 0);
  const logs = finite.map((point) => Math.log(point.loss));
  const [low, high] = [Math.min(...logs), Math.max(...logs)];
  const newest = points.at(-1)!.experiment;
  const lastStep = Math.max(...finite.map((point) => point.step), 1);
  for (let experiment = 0; experiment <= newest; experiment++) {
    context.beginPath();
    finite.forEach((point, index) => {
      if (point.experiment !== experiment) return;
      const x = (point.step / lastStep) * (width - 2) + 1;
      const y = 3 + (1 - (logs[index] - low) / (high - low || 1)) * (height - 6);
      context.lineTo(x, y);
    });
    context.strokeStyle = getComputedStyle(canvas).color;
    context.globalAlpha = experiment === newest ? 1 : 0.25;
    context.lineWidth = 1.75;
    context.lineJoin = "round";
    context.stroke();
  }
}

function Experiments({ session }: { session: Session }) {
  const experiments = session.training.experiments.value;
  if (!experiments.length) return null;
  return (
    <section>
      <h2>Experiments</h2>
      <table class="plain-table">
        <thead>
          <tr>
            <th scope="col">No.</th>
            <th scope="col" title="Measured on frames drawn by hand that it was not trained on">
              Score
            </th>
            <th scope="col">Time</th>
            <th scope="col">
              <span class="visually-hidden">Best</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {experiments.map((one) => (
            <tr key={one.experiment ?? 0}>
              <td>{(one.experiment ?? 0) + 1}</td>
              <td>{one.score === undefined ? "–" : percent(one.score)}</td>
              <td>{duration(one.durationSeconds ?? 0)}</td>
              <td>{one.kept ? <span class="tag good">best so far</span> : ""}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
