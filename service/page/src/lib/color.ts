/** Colors of classes and of confidence. */

/** Most color-blind people can distinguish these, and they stand out on video. */
export const PALETTE = ["#3ddbd9", "#ffb000", "#ff6ac1", "#6f9cff", "#b6e34b", "#ff7a45", "#a98bff", "#f4e04d"];

export function classColor(color: string | undefined, index: number): string {
  return color && /^#[0-9a-f]{6}$/i.test(color) ? color : PALETTE[index % PALETTE.length];
}

export function rgb(hex: string): [number, number, number] {
  const value = parseInt(hex.slice(1), 16);
  return [(value >> 16) & 255, (value >> 8) & 255, value & 255];
}

const RAMP: [number, [number, number, number]][] = [
  [0, [214, 69, 65]],
  [0.5, [232, 141, 61]],
  [0.75, [226, 196, 92]],
  [0.9, [110, 178, 150]],
  [1, [45, 140, 150]],
];

/** From red (low confidence) through amber to teal (high confidence). */
export function confidenceColor(confidence: number): string {
  const value = Math.min(Math.max(confidence, 0), 1);
  const above = RAMP.findIndex(([at]) => at >= value);
  const [hi, high] = RAMP[Math.max(above, 1)];
  const [lo, low] = RAMP[Math.max(above, 1) - 1];
  const t = (value - lo) / (hi - lo);
  return `rgb(${low.map((part, axis) => Math.round(part + (high[axis] - part) * t)).join(" ")})`;
}
