/** Charts as SVG in the colors of the page, always with their numbers as text. */

import type { ComponentChildren } from "preact";

import { count } from "../lib/format";

export interface Part {
  /** Color: a class of diagnostics.css. */
  kind: "hand" | "good" | "bad" | "rest";
  value: number;
}

const WIDTH = 240;
const HEIGHT = 10;

/** One bar of several parts, `whole` wide; hidden from screen readers because the text beside it says the same. */
export function Bars({ parts, whole }: { parts: Part[]; whole: number }) {
  let x = 0;
  return (
    <svg class="bars" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">
      <rect class="bars-track" width={WIDTH} height={HEIGHT} />
      {parts.map((part) => {
        const width = whole > 0 ? (part.value / whole) * WIDTH : 0;
        const from = x;
        x += width;
        return width > 0 ? <rect key={part.kind} class={`bars-${part.kind}`} x={from} width={Math.max(width, 1.5)} height={HEIGHT} /> : null;
      })}
    </svg>
  );
}

const TALL = 96;
const STEP = 30;
const MIN_COLUMNS = 4;

/** One column a value, oldest first; the table of the chart explains them. */
export function Columns({ values, label }: { values: { value: number; text: string }[]; label: string }) {
  const largest = Math.max(...values.map((one) => one.value), 1);
  const width = Math.max(values.length, MIN_COLUMNS) * STEP;
  return (
    <svg class="columns" width={width} height={TALL + 16} viewBox={`0 0 ${width} ${TALL + 16}`} role="img" aria-label={label}>
      <line class="columns-axis" x1="0" x2={width} y1={TALL + 0.5} y2={TALL + 0.5} />
      {values.map((one, index) => {
        const tall = Math.max((one.value / largest) * (TALL - 16), 1.5);
        const x = index * STEP + 4;
        return (
          <g key={index}>
            <title>{one.text}</title>
            <rect class="columns-bar" x={x} y={TALL - tall} width={STEP - 8} height={tall} rx="2" />
            <text x={x + (STEP - 8) / 2} y={TALL - tall - 4} class="columns-value">
              {one.value}
            </text>
          </g>
        );
      })}
      <text x="0" y={TALL + 13} class="columns-note">
        oldest
      </text>
      <text x={width} y={TALL + 13} class="columns-note end">
        newest
      </text>
    </svg>
  );
}

const RECENT = 5;

export interface Point {
  value: number;
  weight: number;
  /** Points of one series share this name; a vertical line is drawn where it changes. */
  series: string;
  text: string;
}

/** Shares over time: a dot for each point and the mean of the most recent points as a line. */
export function Trend({ points, label }: { points: Point[]; label: string }) {
  const [width, height] = [WIDTH, 44];
  const x = (index: number): number => (points.length > 1 ? 5 + (index / (points.length - 1)) * (width - 10) : width / 2);
  const y = (value: number): number => 5 + (1 - value) * (height - 10);
  const line = points.map((_, index) => `${x(index).toFixed(1)},${y(recentMean(points, index)).toFixed(1)}`).join(" ");
  return (
    <svg class="trend" viewBox={`0 0 ${width} ${height}`} role="img" aria-label={label}>
      {[0, 1].map((value) => (
        <line key={value} class="trend-bound" x1="0" x2={width} y1={y(value)} y2={y(value)} />
      ))}
      {points.map((one, index) =>
        index && one.series !== points[index - 1].series ? (
          <line key={index} class="trend-cut" x1={(x(index) + x(index - 1)) / 2} x2={(x(index) + x(index - 1)) / 2} y1="0" y2={height} />
        ) : null,
      )}
      {points.length > 1 && <polyline class="trend-line" points={line} />}
      {points.map((one, index) => (
        <circle key={index} class="trend-dot" cx={x(index)} cy={y(one.value)} r={one.weight > 1 ? 3.2 : 2.4}>
          <title>{one.text}</title>
        </circle>
      ))}
    </svg>
  );
}

/** Weighted mean of a point and the points just before it. */
export function recentMean(points: Point[], index: number): number {
  const some = points.slice(Math.max(0, index + 1 - RECENT), index + 1);
  const weight = some.reduce((sum, one) => sum + one.weight, 0);
  return weight ? some.reduce((sum, one) => sum + one.value * one.weight, 0) / weight : 0;
}

/** A chart with a heading and its numbers as a table. */
export function Chart(props: { title: string; note?: string; head: string[]; rows: ComponentChildren[][]; children: ComponentChildren }) {
  return (
    <section class="chart">
      <h3>{props.title}</h3>
      {props.note && <p class="muted small-text">{props.note}</p>}
      {props.children}
      <details>
        <summary>Show as a table ({count(props.rows.length, "row")})</summary>
        <table class="plain-table wide-table">
          <thead>
            <tr>
              {props.head.map((one) => (
                <th key={one} scope="col">
                  {one}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {props.rows.map((row, index) => (
              <tr key={index}>
                <th scope="row">{row[0]}</th>
                {row.slice(1).map((cell, at) => (
                  <td key={at}>{cell}</td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </details>
    </section>
  );
}
