/**
 * COCO's compressed run-length encoding, as pycocotools writes and reads it.
 *
 * Runs go column by column, background first. Lengths, from the fourth on as differences to the length two before,
 * are written in groups of five bits as ASCII characters. Masks here are row by row, one byte a pixel: 0 or 1.
 */

/** Run lengths of a compressed string. */
export function parseCounts(text: string): number[] {
  const counts: number[] = [];
  let at = 0;
  while (at < text.length) {
    let value = 0;
    let shift = 0;
    let byte: number;
    do {
      if (at >= text.length) throw new Error("The mask is damaged: its run-length encoding ends in the middle of a number.");
      byte = text.charCodeAt(at++) - 48;
      value |= (byte & 0x1f) << shift;
      shift += 5;
    } while (byte & 0x20);
    if (byte & 0x10 && shift < 32) value |= -1 << shift;
    if (counts.length > 2) value += counts[counts.length - 2];
    counts.push(value);
  }
  return counts;
}

/** The compressed string of run lengths. */
export function formatCounts(counts: readonly number[]): string {
  const bytes: string[] = [];
  for (let index = 0; index < counts.length; index++) {
    let value = counts[index];
    if (index > 2) value -= counts[index - 2];
    for (let more = true; more; ) {
      let byte = value & 0x1f;
      value >>= 5;
      more = byte & 0x10 ? value !== -1 : value !== 0;
      if (more) byte |= 0x20;
      bytes.push(String.fromCharCode(byte + 48));
    }
  }
  return bytes.join("");
}

/** The mask, row by row, of a compressed string. */
export function decodeMask(counts: string, width: number, height: number): Uint8Array {
  const mask = new Uint8Array(width * height);
  let position = 0;
  let on = false;
  for (const run of parseCounts(counts)) {
    const stop = position + run;
    if (run < 0 || stop > mask.length) throw new Error("The mask is damaged: its run-length encoding does not fit the frame size.");
    if (on) {
      let x = Math.floor(position / height);
      let y = position - x * height;
      for (; position < stop; position++) {
        mask[y * width + x] = 1;
        if (++y === height) (y = 0), x++;
      }
    }
    position = stop;
    on = !on;
  }
  return mask;
}

/** The compressed string of a mask, row by row. */
export function encodeMask(mask: Uint8Array, width: number, height: number): string {
  const counts: number[] = [];
  let run = 0;
  let last = 0;
  for (let x = 0; x < width; x++) {
    for (let at = x, y = 0; y < height; y++, at += width) {
      if (mask[at] !== last) {
        counts.push(run);
        run = 0;
        last = mask[at];
      }
      run++;
    }
  }
  counts.push(run);
  return formatCounts(counts);
}
