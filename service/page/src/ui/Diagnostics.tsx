import { useEffect, useState } from "preact/hooks";

import { call, isAbort } from "../api/rpc";
import { confidenceColor } from "../lib/color";
import { count, duration, percent } from "../lib/format";
import { Review, type Row, Source, State } from "../model/labels";
import type { Session } from "../model/session";
import { Dialog } from "./parts";

interface Version {
  name: string;
  metrics?: Record<string, number>;
}

interface Figures {
  row: Row;
  labels: number;
  byHand: number;
  visible: number;
  mean: number;
  worst: number;
  accepted: number;
}

/** How good the labels are, as far as can be told, and what they cost. */
export function Diagnostics({ session, onClose }: { session: Session; onClose: () => void }) {
  session.labels.version.value;
  const changes = session.reviewing.changes.value;
  const figures = session.rows().map(measure).filter((one) => one.labels > 0);
  const drawn = new Set(session.rows().flatMap((row) => row.anchors())).size;
  const labels = figures.reduce((sum, one) => sum + one.labels, 0);
  const byHand = figures.reduce((sum, one) => sum + one.byHand, 0);
  const corrections = changes.filter((one) => one.kind === "CHANGE_KIND_CORRECT" && one.microModelVersion && !Number(one.undoneByRevision ?? 0));
  const go = (frame: number, row: Row): void => {
    onClose();
    session.selected.value = row.key;
    session.player.pause();
    session.player.go(frame);
  };
  return (
    <Dialog title="Diagnostics" onClose={onClose} wide>
      <div class="diagnostics" tabIndex={0}>
        <dl class="figures">
          <Figure value={percent(drawn / session.frameCount)} words={`${count(drawn, "frame")} of ${session.frameCount.toLocaleString("en")} drawn by hand`} />
          <Figure value={labels ? percent(byHand / labels) : "–"} words={`${byHand.toLocaleString("en")} of ${count(labels, "label")} by hand`} />
          <Figure value={String(corrections.length)} words={corrections.length === 1 ? "correction" : "corrections"} />
          <Score session={session} />
        </dl>
        {figures.length > 0 && (
          <table class="plain-table wide-table">
            <thead>
              <tr>
                <th scope="col">Object or class</th>
                <th scope="col">Labels</th>
                <th scope="col">By hand</th>
                <th scope="col">Seen</th>
                <th scope="col">Accepted</th>
                <th scope="col">Confidence</th>
                <th scope="col">Least sure on</th>
              </tr>
            </thead>
            <tbody>
              {figures.map((one) => (
                <tr key={one.row.key}>
                  <th scope="row">{session.nameOf(one.row)}</th>
                  <td>{one.labels.toLocaleString("en")}</td>
                  <td>{one.byHand.toLocaleString("en")}</td>
                  <td>{percent(one.visible / one.labels)}</td>
                  <td>{percent(one.accepted / one.labels)}</td>
                  <td>
                    {Number.isNaN(one.mean) ? "–" : (
                      <span class="meter">
                        <i style={{ width: `${one.mean * 56}px`, background: confidenceColor(one.mean) }} />
                        {percent(one.mean)}
                      </span>
                    )}
                  </td>
                  <td>
                    {one.worst >= 0 && (
                      <button class="link" onClick={() => go(one.worst, one.row)}>
                        frame {one.worst.toLocaleString("en")}, {percent(one.row.confidence[one.worst])}
                      </button>
                    )}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
        <Gains session={session} corrections={corrections.map((one) => Number(one.revision))} />
      </div>
    </Dialog>
  );
}

function measure(row: Row): Figures {
  const out: Figures = { row, labels: 0, byHand: 0, visible: 0, mean: NaN, worst: -1, accepted: 0 };
  let sum = 0;
  let sure = 0;
  for (let frame = 0; frame < row.state.length; frame++) {
    if (!row.state[frame]) continue;
    out.labels++;
    if (row.state[frame] === State.VISIBLE) out.visible++;
    if (row.review[frame] & Review.ACCEPTED) out.accepted++;
    if (row.source[frame] === Source.HUMAN) out.byHand++;
    const confidence = row.confidence[frame];
    if (Number.isNaN(confidence)) continue;
    sum += confidence;
    sure++;
    if (out.worst < 0 || confidence < row.confidence[out.worst]) out.worst = frame;
  }
  if (sure) out.mean = sum / sure;
  return out;
}

function Figure({ value, words }: { value: string; words: string }) {
  return (
    <div>
      <dt>{words}</dt>
      <dd>{value}</dd>
    </div>
  );
}

/** The estimate that training gave of itself: each drawn frame scored by a model that did not see it. */
function Score({ session }: { session: Session }) {
  const [score, setScore] = useState<number | undefined>();
  const version = session.reviewing.changes.value.find((one) => one.microModelVersion)?.microModelVersion;
  useEffect(() => {
    if (!version) return;
    const controller = new AbortController();
    call<Version>("MicroModelService/GetMicroModelVersion", { name: version }, controller.signal)
      .then(({ metrics = {} }) => setScore(metrics.leave_one_seed_out ?? Object.values(metrics)[0]))
      .catch((error) => isAbort(error) || setScore(undefined));
    return () => controller.abort();
  }, [version]);
  return <Figure value={score === undefined ? "–" : percent(score)} words="score on drawn frames that it did not see" />;
}

/** What each correction changed. */
function Gains({ session, corrections }: { session: Session; corrections: number[] }) {
  const changes = session.reviewing.changes.value;
  const rows = corrections.slice(0, 12).map((revision) => {
    const own = changes.find((one) => Number(one.revision) === revision)!;
    const followed = changes.filter((one) => Number(one.parentRevision ?? 0) === revision);
    const labels = followed.reduce((sum, one) => sum + Number(one.labelCount ?? 0), 0);
    return { revision, labels, seconds: own.durationSeconds ?? 0, author: own.author };
  });
  if (!rows.length) return null;
  return (
    <table class="plain-table wide-table">
      <thead>
        <tr>
          <th scope="col">Correction</th>
          <th scope="col">By</th>
          <th scope="col">Labels mended</th>
          <th scope="col">In</th>
        </tr>
      </thead>
      <tbody>
        {rows.map((one) => (
          <tr key={one.revision}>
            <th scope="row">revision {one.revision}</th>
            <td>{one.author}</td>
            <td>{one.labels.toLocaleString("en")}</td>
            <td>{one.seconds ? duration(one.seconds) : "–"}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
