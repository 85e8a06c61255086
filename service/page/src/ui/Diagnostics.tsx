import { useEffect, useState } from "preact/hooks";

import type { CorrectionEffect, Figures, GroupFigures, VerdictPoint } from "../api/messages";
import { call, errorMessage, isAbort, retry } from "../api/rpc";
import { count, duration, percent, sentence, versionName, when } from "../lib/format";
import { rowKey } from "../model/labels";
import type { Session } from "../model/session";
import { Bars, Chart, Columns, type Point, recentMean, Trend } from "./charts";
import { Checks } from "./Checks";
import { Dialog } from "./parts";

const MAX_GROUPS = 12;
const MAX_FRAMES = 8;

/** Quality of the labels and the effort they took, measured by the server. */
export function Diagnostics({ session, onClose }: { session: Session; onClose: () => void }) {
  const [figures, setFigures] = useState<Figures | null>(null);
  const [error, setError] = useState("");
  useEffect(() => {
    const controller = new AbortController();
    retry(
      () => call<Figures>("DiagnosticsService/GetDiagnostics", { name: session.video.name }, controller.signal),
      controller.signal,
    )
      .then(setFigures)
      .catch((caught) => isAbort(caught) || setError(errorMessage(caught)));
    if (session.reviewing.hasModel.value) void session.reviewing.check();
    return () => controller.abort();
  }, [session]);
  const go = (frame: number, track?: string): void => {
    onClose();
    if (track) session.selected.value = rowKey(track, false);
    session.player.pause();
    session.player.go(frame);
  };
  return (
    <Dialog title="Diagnostics" onClose={onClose} wide>
      <div class="diagnostics" tabIndex={0} role="region" aria-label="Figures" aria-busy={!figures && !error}>
        {error && <p class="error-text">{error}</p>}
        {!figures && !error && <p class="muted">Measuring…</p>}
        {figures && (
          <>
            <Summary figures={figures} />
            <Quality figures={figures} />
            <Verdicts points={figures.verdicts ?? []} />
            <Versions figures={figures} />
            <Groups title="By class" groups={figures.classes ?? []} />
            <Groups title="By object" groups={figures.tracks ?? []} />
            <Corrections figures={figures} />
            <Hardest figures={figures} onGo={go} />
            <Confusions figures={figures} />
            <Checks session={session} onGo={go} />
          </>
        )}
      </div>
    </Dialog>
  );
}

function Summary({ figures }: { figures: Figures }) {
  const frames = Number(figures.frameCount ?? 0);
  const drawn = Number(figures.manualFrameCount ?? 0);
  const labels = Number(figures.labelCount ?? 0);
  return (
    <dl class="figures six">
      <Figure value={frames ? percent(drawn / frames) : "–"} text={`frames drawn by hand: ${drawn.toLocaleString("en")} of ${frames.toLocaleString("en")}`} />
      <Figure
        value={figures.speedUp ? `${figures.speedUp.toFixed(1)} ×` : "–"}
        text={`labels for each one drawn by hand: ${labels.toLocaleString("en")} from ${Number(figures.manualLabelCount ?? 0).toLocaleString("en")}`}
      />
      <Figure
        value={frames ? ((Number(figures.correctionCount ?? 0) / frames) * 1000).toFixed(0) : "–"}
        text={`corrections per 1,000 frames: ${count(Number(figures.correctionCount ?? 0), "correction")} so far`}
      />
      <Figure value={figures.meanFrameWorkSeconds ? `${figures.meanFrameWorkSeconds.toFixed(2)} s` : "–"} text="work by people per frame, without pauses" />
      <Figure value={figures.meanFrameSeconds ? `${figures.meanFrameSeconds.toFixed(2)} s` : "–"} text="computing per frame" />
      <Figure value={figures.expectedWrongShare === undefined ? "–" : percent(figures.expectedWrongShare)} text="of labels by the micro-model are expected to be wrong" />
    </dl>
  );
}

function Figure({ value, text }: { value: string; text: string }) {
  return (
    <div>
      <dt>{text}</dt>
      <dd>{value}</dd>
    </div>
  );
}

/** Quality that was expected of the micro-model, and quality that people observed. */
function Quality({ figures }: { figures: Figures }) {
  const rows = [
    { text: "Expected", note: "measured on frames left out of training", value: figures.estimatedQuality, none: "not measured" },
    { text: "Observed", note: "overlap with corrections; accepted counts as 100 %", value: figures.observedQuality, none: "not reviewed yet" },
  ];
  if (rows.every((one) => one.value === undefined)) return null;
  return (
    <section class="chart">
      <h3>Quality, expected and observed</h3>
      <ul class="bar-rows">
        {rows.map((one) => (
          <li key={one.text}>
            <span>
              {one.text} <span class="muted small-text">{one.note}</span>
            </span>
            <Bars parts={[{ kind: "good", value: one.value ?? 0 }]} whole={1} />
            <strong>{one.value === undefined ? one.none : percent(one.value)}</strong>
          </li>
        ))}
      </ul>
    </section>
  );
}

/** Reviews and corrections as points of a trend. */
function points(verdicts: VerdictPoint[]): Point[] {
  return verdicts.map((one) => ({
    value: one.meanOverlap ?? 0,
    weight: Number(one.acceptedCount ?? 0) + Number(one.correctedCount ?? 0),
    series: one.microModelVersion ?? "",
    text: `Revision ${one.revision} by ${one.author}, ${versionName(one.microModelVersion)}: ${number(one.acceptedCount)} accepted, ${number(one.correctedCount)} corrected, overlap ${percent(one.meanOverlap ?? 0)}`,
  }));
}

function trendText(some: Point[]): string {
  if (some.length < 2) return some.length ? `${percent(some[0].value)} correct` : "not reviewed yet";
  return `${percent(some[0].value)} correct at first, ${percent(recentMean(some, some.length - 1))} recently`;
}

/** Observed quality of predictions over time. */
function Verdicts({ points: verdicts }: { points: VerdictPoint[] }) {
  if (!verdicts.length) return null;
  const some = points(verdicts);
  return (
    <Chart
      title="Observed quality over time"
      note={`One dot for each review or correction; higher is better. ${sentence(trendText(some))} A vertical line marks a new version.`}
      head={["Change", "By", "When", "Version", "Learned from", "Accepted", "Corrected", "Overlap"]}
      rows={verdicts.toReversed().map((one) => [
        `revision ${one.revision}`,
        one.author,
        when(one.judgeTime),
        versionName(one.microModelVersion),
        count(Number(one.learnedCount ?? 0), "correction"),
        number(one.acceptedCount),
        number(one.correctedCount),
        share(one.meanOverlap ?? 0),
      ])}
    >
      <div class="trend-wide">
        <span class="trend-scale" aria-hidden="true">
          <span>100 %</span>
          <span>0 %</span>
        </span>
        <Trend points={some} label={`${count(some.length, "review or correction", "reviews and corrections")}: ${trendText(some)}. The table below has the numbers.`} />
      </div>
    </Chart>
  );
}

/** Expected and observed quality of each version of the micro-model. */
function Versions({ figures }: { figures: Figures }) {
  const versions = figures.versions ?? [];
  if (!versions.length) return null;
  return (
    <section class="chart">
      <h3>Versions of the micro-model</h3>
      <table class="plain-table wide-table">
        <thead>
          <tr>
            {["Version", "Trained", "Expected", "Observed", "Accepted", "Corrected", "Current labels"].map((one) => (
              <th key={one} scope="col">
                {one}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {versions.map((one) => (
            <tr key={one.microModelVersion ?? ""}>
              <th scope="row">{versionName(one.microModelVersion)}</th>
              <td>{when(one.createTime) || "unknown"}</td>
              <td>{share(one.estimatedQuality)}</td>
              <td>{share(one.observedQuality)}</td>
              <td>{number(one.acceptedCount)}</td>
              <td>{number(one.correctedCount)}</td>
              <td>{number(one.labelCount)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

function Groups({ title, groups }: { title: string; groups: GroupFigures[] }) {
  const some = groups.filter((one) => Number(one.labelCount ?? 0) > 0 || Number(one.correctedCount ?? 0) > 0);
  if (!some.length) return null;
  const maxLabels = Math.max(...some.map((one) => Number(one.labelCount ?? 0)));
  return (
    <Chart
      title={title}
      head={["Name", "Labels", "By hand", "Accepted", "Corrected", "Overlap with corrections", "Confidence"]}
      rows={some.map((one) => [
        one.name,
        number(one.labelCount),
        number(one.manualLabelCount),
        number(one.acceptedCount),
        one.correctedShare === undefined ? "–" : `${number(one.correctedCount)} (${percent(one.correctedShare)})`,
        share(one.correctedMeanIou),
        share(one.meanConfidence),
      ])}
    >
      <ul class="bar-rows">
        {some.slice(0, MAX_GROUPS).map((one) => {
          const some = points(one.verdicts ?? []);
          const [labels, hand, accepted] = [one.labelCount, one.manualLabelCount, one.acceptedCount].map((value) => Number(value ?? 0));
          return (
            <li key={one.name}>
              <span class="ellipsis">{one.name}</span>
              <div class="bar-and-trend">
                <Bars
                  parts={[
                    { kind: "hand", value: hand },
                    { kind: "good", value: accepted },
                    { kind: "rest", value: labels - hand - accepted },
                  ]}
                  whole={maxLabels}
                />
                {some.length > 0 && <Trend points={some} label={`${one.name}: ${trendText(some)}`} />}
              </div>
              <span class="small-text">
                <i class="key hand" /> {hand.toLocaleString("en")} by hand <i class="key good" /> {accepted.toLocaleString("en")} accepted{" "}
                <i class="key rest" /> {(labels - hand - accepted).toLocaleString("en")} remaining
                {some.length > 0 && <br />}
                {some.length > 0 && trendText(some)}
              </span>
            </li>
          );
        })}
      </ul>
    </Chart>
  );
}

/** The effect of each correction, oldest first. */
function Corrections({ figures }: { figures: Figures }) {
  const all = (figures.corrections ?? []).filter((one) => Number(one.changedCount ?? 0) > 0 || one.durationSeconds);
  if (!all.length) return null;
  const updated = all.reduce((sum, one) => sum + Number(one.changedCount ?? 0), 0);
  return (
    <Chart
      title="Effect of each correction"
      note={`${count(all.length, "correction")} updated ${count(updated, "label")}.${checkedText(all)}`}
      head={["Change", "By", "When", "Labels updated", "Time", "Confidence", "Agreement with later labels by hand"]}
      rows={all.map((one) => [
        `revision ${one.revision}${one.undone ? ", undone" : ""}`,
        one.author,
        when(one.changeTime),
        number(one.changedCount),
        one.durationSeconds ? duration(one.durationSeconds) : "–",
        fromTo(one.confidenceBefore, one.confidenceAfter),
        one.checkedCount ? `${fromTo(one.agreementBefore, one.agreementAfter)} on ${count(Number(one.checkedCount), "label")}` : "–",
      ])}
    >
      <Columns
        label={`${count(all.length, "correction")}, ${count(updated, "label")} updated. The table below has the numbers.`}
        values={all.slice(-40).map((one) => ({
          value: Number(one.changedCount ?? 0),
          text: `Revision ${one.revision} by ${one.author}: ${number(one.changedCount)} labels in ${(one.durationSeconds ?? 0).toFixed(1)} s, confidence ${fromTo(one.confidenceBefore, one.confidenceAfter)}`,
        }))}
      />
    </Chart>
  );
}

/** Whether corrections improved labels, measured on updated labels that people drew by hand later. */
function checkedText(all: CorrectionEffect[]): string {
  const checked = all.reduce((sum, one) => sum + Number(one.checkedCount ?? 0), 0);
  if (!checked) return "";
  const mean = (of: (one: CorrectionEffect) => number | undefined): number =>
    all.reduce((sum, one) => sum + (of(one) ?? 0) * Number(one.checkedCount ?? 0), 0) / checked;
  const gained = fromTo(mean((one) => one.agreementBefore), mean((one) => one.agreementAfter));
  return ` On updated labels that people drew later, agreement changed: ${gained}.`;
}

function fromTo(before: number | undefined, after: number | undefined): string {
  return before === undefined || after === undefined ? "–" : `${percent(before)} → ${percent(after)}`;
}

function Hardest({ figures, onGo }: { figures: Figures; onGo: (frame: number) => void }) {
  const frames = (figures.hardestFrames ?? []).slice(0, MAX_FRAMES);
  if (!frames.length) return null;
  return (
    <section class="chart">
      <h3>Hardest frames</h3>
      <ul class="bar-rows">
        {frames.map((one) => (
          <li key={String(one.frameIndex ?? 0)}>
            <button class="link" onClick={() => onGo(Number(one.frameIndex ?? 0))}>
              Frame {number(one.frameIndex)}
            </button>
            <Bars parts={[{ kind: "bad", value: 1 - (one.meanIou ?? 0) }]} whole={1} />
            <span class="small-text">
              {percent(one.meanIou ?? 0)} overlap, {number(one.correctedCount)} corrected
            </span>
          </li>
        ))}
      </ul>
    </section>
  );
}

/** Predictions that people changed to something else; the diagonal counts those they agreed with. */
function Confusions({ figures }: { figures: Figures }) {
  const all = figures.confusions ?? [];
  const properties = [...new Set(all.map((one) => one.property ?? ""))].filter((property) => {
    const mine = all.filter((one) => one.property === property);
    return mine.some((one) => one.predicted !== one.corrected);
  });
  if (!properties.length) return null;
  return (
    <section class="chart">
      <h3>Confusions</h3>
      {properties.map((property) => {
        const mine = all.filter((one) => one.property === property);
        const names = [...new Set(mine.flatMap((one) => [one.predicted ?? "", one.corrected ?? ""]))].sort();
        return (
          <table key={property} class="plain-table wide-table confusion">
            <caption class="muted small-text">Rows: {property} by the micro-model. Columns: {property} by people.</caption>
            <thead>
              <tr>
                <td />
                {names.map((name) => (
                  <th key={name} scope="col">
                    {name}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {names.map((predicted) => (
                <tr key={predicted}>
                  <th scope="row">{predicted}</th>
                  {names.map((corrected) => {
                    const found = Number(mine.find((one) => one.predicted === predicted && one.corrected === corrected)?.count ?? 0);
                    return (
                      <td key={corrected} class={found ? (predicted === corrected ? "same" : "other") : "muted"}>
                        {found || "·"}
                      </td>
                    );
                  })}
                </tr>
              ))}
            </tbody>
          </table>
        );
      })}
    </section>
  );
}

function number(value: number | string | undefined): string {
  return Number(value ?? 0).toLocaleString("en");
}

function share(value: number | undefined): string {
  return value === undefined ? "–" : percent(value);
}
