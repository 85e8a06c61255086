/** Every key of the editor, what it does, and when: the help sheet is made of the same table. */

import type { Board } from "../board/Board";
import { Review, type ReviewAct, State } from "../model/labels";
import type { Reach } from "../model/reviewing";
import { brush, opacity, outlineOnly, speed } from "../model/settings";
import { human, type Session, type Tool } from "../model/session";
import { say } from "../model/toasts";

export interface Keyed {
  session: Session;
  board: () => Board | null;
  help: () => void;
  focusFrame: () => void;
  tab: (name: string) => void;
  comment: () => void;
  identity: () => void;
  diagnostics: () => void;
}

interface Binding {
  /** As `Shift+ArrowLeft`; several for one action. */
  keys: string[];
  /** As shown. */
  shown: string;
  words: string;
  group: "Move" | "Draw" | "Label" | "Review" | "Train" | "View";
  act: (on: Keyed) => void;
}

const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4, 8];

function step(by: number) {
  return ({ session }: Keyed): void => session.player.step(by);
}

function tool(name: Tool) {
  return ({ session, board }: Keyed): void => {
    board()?.cancel();
    if (name === "select" || session.allows("work")) session.tool.value = name;
  };
}

function state(value: 1 | 2 | 3 | 4) {
  return ({ session }: Keyed): void => session.setState(value);
}

function nudge(dx: number, dy: number) {
  return ({ board }: Keyed): void => board()?.nudge(dx, dy);
}

function neighbor(frames: number[], from: number, direction: number): number | undefined {
  return direction > 0 ? frames.find((frame) => frame > from) : frames.findLast((frame) => frame < from);
}

function jump(direction: number, what: "anchor" | "cut") {
  return ({ session }: Keyed): void => {
    const row = session.selectedRow.value;
    const frames =
      what === "cut"
        ? session.reviewing.cuts.value
        : [...new Set(row ? row.anchors() : session.rows().flatMap((one) => one.anchors()))].sort((a, b) => a - b);
    const target = neighbor(frames, session.player.frame.value, direction);
    if (target === undefined) return say(`No ${what === "cut" ? "scene cut" : "hand label"} ${direction > 0 ? "after" : "before"} this frame`);
    session.player.pause();
    session.player.go(target);
  };
}

function copy(direction: number) {
  return ({ session }: Keyed): void => {
    const frame = session.player.shown.value;
    const from = frame + direction;
    const row = session.selectedRow.value;
    if (!row) return say("Select an object first");
    const entry = row.get(from);
    if (!entry) return say(`There is no ${session.nameOf(row)} on frame ${from}`);
    session.edit(`copy ${session.nameOf(row)} from frame ${from}`, [[row, human(frame, entry.state, entry.shape)]]);
  };
}

function changeSpeed(by: number) {
  return (): void => {
    const at = SPEEDS.indexOf(speed.value);
    speed.value = SPEEDS[Math.min(Math.max((at < 0 ? 3 : at) + by, 0), SPEEDS.length - 1)];
    say(`Speed ${speed.value} ×`);
  };
}

function selectObject(number: number) {
  return ({ session }: Keyed): void => {
    const row = session.rows()[number];
    if (row) session.selected.value = row.key;
  };
}

function cycleObject(by: number) {
  return ({ session }: Keyed): void => {
    const rows = session.rows();
    if (!rows.length) return;
    const at = rows.findIndex((row) => row.key === session.selected.value);
    session.selected.value = rows[(at + by + rows.length) % rows.length].key;
  };
}

function frameClass({ session }: Keyed): void {
  const row = session.selectedRow.value?.isFrameClass
    ? session.selectedRow.value
    : session.rows().find((one) => one.isFrameClass);
  if (!row) return say("The project has no class of whole frames");
  session.setFrameClass(row.name, row.state[session.player.shown.value] !== State.VISIBLE);
}

function newObject({ session }: Keyed): void {
  const classes = session.project.value.objectClasses ?? [];
  const at = classes.findIndex((one) => one.name === session.activeClass.value);
  if (session.selected.value === null && classes.length) session.activeClass.value = classes[(at + 1) % classes.length].name;
  session.selected.value = null;
  say(`The next shape is a new ${session.activeClass.value}`);
}

function remove({ session, board }: Keyed): void {
  if (board()?.takeBack()) return;
  session.remove();
}

function review(action: ReviewAct, reach: Reach) {
  return ({ session }: Keyed): void => void session.reviewing.review(action, reach);
}

function lock(on: Keyed): void {
  const row = on.session.selectedRow.value;
  const locked = row && row.review[on.session.player.shown.value] & Review.LOCKED;
  review(locked ? "unlock" : "lock", "label")(on);
}

function enter(on: Keyed): void {
  const board = on.board();
  if (!board || (!board.hasMovedOn && board.finish())) return;
  if (on.session.tool.value !== "select") board.press();
  else review("accept", "frame")(on);
}

export const BINDINGS: Binding[] = [
  { keys: ["ArrowLeft"], shown: "←", words: "One frame back", group: "Move", act: step(-1) },
  { keys: ["ArrowRight"], shown: "→", words: "One frame on", group: "Move", act: step(1) },
  { keys: ["Shift+ArrowLeft"], shown: "Shift ←", words: "Ten frames back", group: "Move", act: step(-10) },
  { keys: ["Shift+ArrowRight"], shown: "Shift →", words: "Ten frames on", group: "Move", act: step(10) },
  { keys: ["Home"], shown: "Home", words: "First frame", group: "Move", act: ({ session }) => session.player.step(-1e9) },
  { keys: ["End"], shown: "End", words: "Last frame", group: "Move", act: ({ session }) => session.player.step(1e9) },
  { keys: [" "], shown: "Space", words: "Play, pause", group: "Move", act: ({ session }) => session.player.toggle() },
  { keys: ["<", "Shift+<"], shown: "<", words: "Slower", group: "Move", act: changeSpeed(-1) },
  { keys: [">", "Shift+>"], shown: ">", words: "Faster", group: "Move", act: changeSpeed(1) },
  { keys: ["n"], shown: "N", words: "Next suggestion", group: "Move", act: ({ session }) => session.reviewing.next(1) },
  { keys: ["Shift+N"], shown: "Shift N", words: "The suggestion before", group: "Move", act: ({ session }) => session.reviewing.next(-1) },
  { keys: ["k"], shown: "K", words: "Next hand label", group: "Move", act: jump(1, "anchor") },
  { keys: ["j"], shown: "J", words: "Hand label before", group: "Move", act: jump(-1, "anchor") },
  { keys: ["Shift+K"], shown: "Shift K", words: "Next scene cut", group: "Move", act: jump(1, "cut") },
  { keys: ["Shift+J"], shown: "Shift J", words: "Scene cut before", group: "Move", act: jump(-1, "cut") },
  { keys: ["g"], shown: "G", words: "Go to a frame by number", group: "Move", act: ({ focusFrame }) => focusFrame() },

  { keys: ["v"], shown: "V", words: "Select and adjust", group: "Draw", act: tool("select") },
  { keys: ["b"], shown: "B", words: "Box", group: "Draw", act: tool("box") },
  { keys: ["p"], shown: "P", words: "Polygon", group: "Draw", act: tool("polygon") },
  { keys: ["m"], shown: "M", words: "Mask: brush", group: "Draw", act: tool("brush") },
  { keys: ["e"], shown: "E", words: "Mask: eraser", group: "Draw", act: tool("eraser") },
  { keys: ["["], shown: "[", words: "Smaller brush", group: "Draw", act: () => (brush.value = Math.max(1, Math.round(brush.value * 0.8))) },
  { keys: ["]"], shown: "]", words: "Larger brush", group: "Draw", act: () => (brush.value = Math.min(200, Math.ceil(brush.value * 1.25))) },
  { keys: ["Ctrl+ArrowLeft", "Alt+ArrowLeft"], shown: "Ctrl ← ↑ ↓ →", words: "Move the shape, or the pen, by 1 pixel", group: "Draw", act: nudge(-1, 0) },
  { keys: ["Ctrl+ArrowRight", "Alt+ArrowRight"], shown: "", words: "", group: "Draw", act: nudge(1, 0) },
  { keys: ["Ctrl+ArrowUp", "Alt+ArrowUp"], shown: "", words: "", group: "Draw", act: nudge(0, -1) },
  { keys: ["Ctrl+ArrowDown", "Alt+ArrowDown"], shown: "", words: "", group: "Draw", act: nudge(0, 1) },
  { keys: ["Ctrl+Shift+ArrowLeft", "Alt+Shift+ArrowLeft"], shown: "Ctrl Shift ← ↑ ↓ →", words: "The same by 10 pixels", group: "Draw", act: nudge(-10, 0) },
  { keys: ["Ctrl+Shift+ArrowRight", "Alt+Shift+ArrowRight"], shown: "", words: "", group: "Draw", act: nudge(10, 0) },
  { keys: ["Ctrl+Shift+ArrowUp", "Alt+Shift+ArrowUp"], shown: "", words: "", group: "Draw", act: nudge(0, -10) },
  { keys: ["Ctrl+Shift+ArrowDown", "Alt+Shift+ArrowDown"], shown: "", words: "", group: "Draw", act: nudge(0, 10) },
  { keys: ["Enter"], shown: "Enter", words: "Pen down, pen up; twice in one place: close the polygon; otherwise accept the frame", group: "Draw", act: enter },
  { keys: ["+", "Shift++", "="], shown: "+", words: "Grow the shape", group: "Draw", act: ({ board }) => board()?.grow(1) },
  { keys: ["-"], shown: "−", words: "Shrink the shape", group: "Draw", act: ({ board }) => board()?.grow(-1) },
  { keys: ["s"], shown: "S", words: "Smooth the shape", group: "Draw", act: ({ board }) => board()?.smooth() },
  { keys: [","], shown: ",", words: "Copy from the frame before", group: "Draw", act: copy(-1) },
  { keys: ["."], shown: ".", words: "Copy from the next frame", group: "Draw", act: copy(1) },
  { keys: ["Ctrl+z"], shown: "Ctrl Z", words: "Undo", group: "Draw", act: ({ session }) => void session.undo.undo() },
  { keys: ["Ctrl+Shift+Z", "Ctrl+y"], shown: "Ctrl Shift Z", words: "Redo", group: "Draw", act: ({ session }) => void session.undo.redo() },

  ...[1, 2, 3, 4, 5, 6, 7, 8, 9].map((number): Binding => ({
    keys: [String(number)],
    shown: number === 1 ? "1 … 9" : "",
    words: number === 1 ? "Select an object by its place in the timeline" : "",
    group: "Label",
    act: selectObject(number - 1),
  })),
  { keys: ["ArrowUp"], shown: "↑", words: "Object above", group: "Label", act: cycleObject(-1) },
  { keys: ["ArrowDown"], shown: "↓", words: "Object below", group: "Label", act: cycleObject(1) },
  { keys: ["o"], shown: "O", words: "New object; again: of the next class", group: "Label", act: newObject },
  { keys: ["i"], shown: "I", words: "Visible here", group: "Label", act: state(1) },
  { keys: ["h"], shown: "H", words: "Hidden behind something here", group: "Label", act: state(2) },
  { keys: ["x"], shown: "X", words: "Absent from here", group: "Label", act: state(3) },
  { keys: ["u"], shown: "U", words: "Uncertain here", group: "Label", act: state(4) },
  { keys: ["f"], shown: "F", words: "The frame class holds, or not", group: "Label", act: frameClass },
  { keys: ["Delete", "Backspace"], shown: "Delete", words: "Take the label off this frame", group: "Label", act: remove },

  { keys: ["a"], shown: "A", words: "Accept the frame", group: "Review", act: review("accept", "frame") },
  { keys: ["Shift+A"], shown: "Shift A", words: "Accept the object from hand label to hand label", group: "Review", act: review("accept", "span") },
  { keys: ["Ctrl+Shift+A"], shown: "Ctrl Shift A", words: "Accept the whole object", group: "Review", act: review("accept", "object") },
  { keys: ["r"], shown: "R", words: "Reject the object here", group: "Review", act: review("reject", "label") },
  { keys: ["Shift+R"], shown: "Shift R", words: "Take the judgment away", group: "Review", act: review("reset", "label") },
  { keys: ["l"], shown: "L", words: "Lock the object here, or unlock it", group: "Review", act: lock },
  { keys: ["c"], shown: "C", words: "Comment on the frame", group: "Review", act: (on) => on.comment() },
  { keys: ["w"], shown: "W", words: "Who is who: swap, split, merge, delete from here", group: "Review", act: (on) => on.identity() },
  { keys: ["t"], shown: "T", words: "Train", group: "Train", act: (on) => on.tab("train") },
  { keys: ["d"], shown: "D", words: "Diagnostics: how good, at what cost", group: "View", act: (on) => on.diagnostics() },
  { keys: ["\\"], shown: "\\", words: "Outlines only", group: "View", act: () => (outlineOnly.value = !outlineOnly.value) },
  { keys: [";"], shown: ";", words: "Fainter labels", group: "View", act: () => (opacity.value = Math.max(0, opacity.value - 0.1)) },
  { keys: ["'"], shown: "'", words: "Stronger labels", group: "View", act: () => (opacity.value = Math.min(1, opacity.value + 0.1)) },
  { keys: ["z"], shown: "Z", words: "Zoom in on the object", group: "View", act: ({ board }) => board()?.reveal() },
  { keys: ["0"], shown: "0", words: "Fit the frame", group: "View", act: ({ board }) => board()?.fit() },
  { keys: ["?", "Shift+?"], shown: "?", words: "This sheet", group: "View", act: ({ help }) => help() },
  {
    keys: ["Escape"],
    shown: "Esc",
    words: "Give up what is being drawn; select nothing",
    group: "View",
    act: ({ session, board }) => {
      if (board()?.cancel()) return;
      if (session.tool.value !== "select") session.tool.value = "select";
      else session.selected.value = null;
    },
  },
];

const TABLE = new Map(BINDINGS.flatMap((binding) => binding.keys.map((key) => [key, binding] as const)));

function chord(event: KeyboardEvent): string {
  const parts = [];
  if (event.ctrlKey || event.metaKey) parts.push("Ctrl");
  if (event.altKey) parts.push("Alt");
  if (event.shiftKey) parts.push("Shift");
  parts.push(event.key.length === 1 && !event.shiftKey ? event.key.toLowerCase() : event.key);
  return parts.join("+");
}

/** Handle a key of the editor; fields and open dialogs keep theirs. */
export function onKey(event: KeyboardEvent, on: Keyed): void {
  const target = event.target instanceof Element ? event.target : document.body;
  if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
  const field = target.closest("input:not([type=range]):not([type=checkbox]), textarea, select, [contenteditable]");
  if (field) return;
  const onButton = target.closest("button, a[href], summary, [role=tab]") !== null;
  if (onButton && [" ", "Enter"].includes(event.key)) return;
  if (target.closest("input[type=range]") && /^(Arrow|Home$|End$|Page)/.test(event.key)) return;
  const binding = TABLE.get(chord(event)) ?? TABLE.get(chord(event).replace("Shift+", ""));
  if (!binding) return;
  event.preventDefault();
  binding.act(on);
}
