/** Every key of the editor and its action; the list of keys on the page is made from the same table. */

import type { Board } from "../board/Board";
import { Review, type ReviewAction, State } from "../model/labels";
import type { Scope } from "../model/reviewing";
import { brush, opacity, outlineOnly, speed } from "../model/settings";
import { human, type Session, type Tool } from "../model/session";
import { notify } from "../model/toasts";

/** What the actions of keys need. */
export interface KeyContext {
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
  /** For example `Shift+ArrowLeft`; several keys can have one action. */
  keys: string[];
  /** As in the list of keys; empty for keys that another entry covers. */
  shown: string;
  description: string;
  group: "Move" | "Draw" | "Label" | "Review" | "Train" | "View";
  run: (on: KeyContext) => void;
}

const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4, 8];

function step(by: number) {
  return ({ session }: KeyContext): void => session.player.step(by);
}

function tool(name: Tool) {
  return ({ session }: KeyContext): void => session.chooseTool(name);
}

function state(value: 1 | 2 | 3 | 4) {
  return ({ session }: KeyContext): void => session.setState(value);
}

function nudge(dx: number, dy: number) {
  return ({ board }: KeyContext): void => board()?.nudge(dx, dy);
}

function neighbor(frames: number[], from: number, direction: number): number | undefined {
  return direction > 0 ? frames.find((frame) => frame > from) : frames.findLast((frame) => frame < from);
}

function jump(direction: number, what: "anchor" | "cut") {
  return ({ session }: KeyContext): void => {
    const row = session.selectedRow.value;
    const frames =
      what === "cut"
        ? session.reviewing.cuts.value
        : [...new Set(row ? row.anchors() : session.rows().flatMap((one) => one.anchors()))].sort((a, b) => a - b);
    const target = neighbor(frames, session.player.frame.value, direction);
    if (target === undefined) return notify(`No ${what === "cut" ? "scene cut" : "label drawn by hand"} ${direction > 0 ? "after" : "before"} this frame.`);
    session.player.pause();
    session.player.go(target);
  };
}

function copy(direction: number) {
  return ({ session }: KeyContext): void => {
    const frame = session.player.shown.value;
    const from = frame + direction;
    const row = session.selectedRow.value;
    if (!row) return notify("Select an object first.");
    const entry = row.get(from);
    if (!entry) return notify(`${session.nameOf(row)} has no label on frame ${from} to copy.`);
    session.edit(`copy ${session.nameOf(row)} from frame ${from}`, [[row, human(frame, entry.state, entry.shape)]]);
  };
}

function changeSpeed(by: number) {
  return (): void => {
    const at = SPEEDS.indexOf(speed.value);
    speed.value = SPEEDS[Math.min(Math.max((at < 0 ? 3 : at) + by, 0), SPEEDS.length - 1)];
    notify(`Speed ${speed.value}×.`);
  };
}

function selectObject(number: number) {
  return ({ session }: KeyContext): void => {
    const row = session.rows()[number];
    if (row) session.selected.value = row.key;
  };
}

function cycleObject(by: number) {
  return ({ session }: KeyContext): void => {
    const rows = session.rows();
    if (!rows.length) return;
    const at = rows.findIndex((row) => row.key === session.selected.value);
    session.selected.value = rows[(at + by + rows.length) % rows.length].key;
  };
}

function frameClass({ session }: KeyContext): void {
  const row = session.selectedRow.value?.isFrameClass
    ? session.selectedRow.value
    : session.rows().find((one) => one.isFrameClass);
  if (!row) return notify("This project has no frame classes. Add one in Classes.");
  session.setFrameClass(row.name, row.state[session.player.shown.value] !== State.VISIBLE);
}

function newObject({ session }: KeyContext): void {
  const classes = session.project.value.objectClasses ?? [];
  const at = classes.findIndex((one) => one.name === session.activeClass.value);
  if (session.selected.value === null && classes.length) session.activeClass.value = classes[(at + 1) % classes.length].name;
  session.selected.value = null;
  if (!classes.length) return notify("Add a class first: open Classes in the panel on the right.", "error");
  notify(`Next shape: new ${session.activeClass.value}.`);
}

function remove({ session, board }: KeyContext): void {
  if (board()?.removeLastPoint()) return;
  session.remove();
}

function review(action: ReviewAction, scope: Scope) {
  return ({ session }: KeyContext): void => void session.reviewing.review(action, scope);
}

function lock(on: KeyContext): void {
  const row = on.session.selectedRow.value;
  const locked = row && row.review[on.session.player.shown.value] & Review.LOCKED;
  review(locked ? "unlock" : "lock", "label")(on);
}

function enter(on: KeyContext): void {
  const board = on.board();
  if (!board || (!board.hasMovedOn && board.finish())) return;
  if (on.session.tool.value !== "select") board.press();
  else review("accept", "frame")(on);
}

export const BINDINGS: Binding[] = [
  { keys: ["ArrowLeft"], shown: "←", description: "One frame back", group: "Move", run: step(-1) },
  { keys: ["ArrowRight"], shown: "→", description: "One frame forward", group: "Move", run: step(1) },
  { keys: ["Shift+ArrowLeft"], shown: "Shift ←", description: "Ten frames back", group: "Move", run: step(-10) },
  { keys: ["Shift+ArrowRight"], shown: "Shift →", description: "Ten frames forward", group: "Move", run: step(10) },
  { keys: ["Home"], shown: "Home", description: "First frame", group: "Move", run: ({ session }) => session.player.step(-1e9) },
  { keys: ["End"], shown: "End", description: "Last frame", group: "Move", run: ({ session }) => session.player.step(1e9) },
  { keys: [" "], shown: "Space", description: "Play or pause", group: "Move", run: ({ session }) => session.player.toggle() },
  { keys: ["<", "Shift+<"], shown: "<", description: "Play slower", group: "Move", run: changeSpeed(-1) },
  { keys: [">", "Shift+>"], shown: ">", description: "Play faster", group: "Move", run: changeSpeed(1) },
  { keys: ["n"], shown: "N", description: "Next suggestion", group: "Move", run: ({ session }) => session.reviewing.next(1) },
  { keys: ["Shift+N"], shown: "Shift N", description: "Previous suggestion", group: "Move", run: ({ session }) => session.reviewing.next(-1) },
  { keys: ["k"], shown: "K", description: "Next label drawn by hand", group: "Move", run: jump(1, "anchor") },
  { keys: ["j"], shown: "J", description: "Previous label drawn by hand", group: "Move", run: jump(-1, "anchor") },
  { keys: ["Shift+K"], shown: "Shift K", description: "Next scene cut", group: "Move", run: jump(1, "cut") },
  { keys: ["Shift+J"], shown: "Shift J", description: "Previous scene cut", group: "Move", run: jump(-1, "cut") },
  { keys: ["g"], shown: "G", description: "Go to a frame number", group: "Move", run: ({ focusFrame }) => focusFrame() },

  { keys: ["v"], shown: "V", description: "Select and adjust", group: "Draw", run: tool("select") },
  { keys: ["b"], shown: "B", description: "Draw a box", group: "Draw", run: tool("box") },
  { keys: ["p"], shown: "P", description: "Draw a polygon", group: "Draw", run: tool("polygon") },
  { keys: ["m"], shown: "M", description: "Paint a mask", group: "Draw", run: tool("brush") },
  { keys: ["e"], shown: "E", description: "Erase from a mask", group: "Draw", run: tool("eraser") },
  { keys: ["["], shown: "[", description: "Smaller brush", group: "Draw", run: () => (brush.value = Math.max(1, Math.round(brush.value * 0.8))) },
  { keys: ["]"], shown: "]", description: "Larger brush", group: "Draw", run: () => (brush.value = Math.min(200, Math.ceil(brush.value * 1.25))) },
  { keys: ["Ctrl+ArrowLeft", "Alt+ArrowLeft"], shown: "Ctrl ← ↑ ↓ →", description: "Move the shape or the pen by 1 pixel", group: "Draw", run: nudge(-1, 0) },
  { keys: ["Ctrl+ArrowRight", "Alt+ArrowRight"], shown: "", description: "", group: "Draw", run: nudge(1, 0) },
  { keys: ["Ctrl+ArrowUp", "Alt+ArrowUp"], shown: "", description: "", group: "Draw", run: nudge(0, -1) },
  { keys: ["Ctrl+ArrowDown", "Alt+ArrowDown"], shown: "", description: "", group: "Draw", run: nudge(0, 1) },
  { keys: ["Ctrl+Shift+ArrowLeft", "Alt+Shift+ArrowLeft"], shown: "Ctrl Shift ← ↑ ↓ →", description: "Move the shape or the pen by 10 pixels", group: "Draw", run: nudge(-10, 0) },
  { keys: ["Ctrl+Shift+ArrowRight", "Alt+Shift+ArrowRight"], shown: "", description: "", group: "Draw", run: nudge(10, 0) },
  { keys: ["Ctrl+Shift+ArrowUp", "Alt+Shift+ArrowUp"], shown: "", description: "", group: "Draw", run: nudge(0, -10) },
  { keys: ["Ctrl+Shift+ArrowDown", "Alt+Shift+ArrowDown"], shown: "", description: "", group: "Draw", run: nudge(0, 10) },
  { keys: ["Enter"], shown: "Enter", description: "While drawing: pen down or up; twice in one place closes a polygon. Otherwise: accept the frame", group: "Draw", run: enter },
  { keys: ["+", "Shift++", "="], shown: "+", description: "Grow the shape", group: "Draw", run: ({ board }) => board()?.grow(1) },
  { keys: ["-"], shown: "−", description: "Shrink the shape", group: "Draw", run: ({ board }) => board()?.grow(-1) },
  { keys: ["s"], shown: "S", description: "Smooth the shape", group: "Draw", run: ({ board }) => board()?.smooth() },
  { keys: [","], shown: ",", description: "Copy the label from the previous frame", group: "Draw", run: copy(-1) },
  { keys: ["."], shown: ".", description: "Copy the label from the next frame", group: "Draw", run: copy(1) },
  { keys: ["Ctrl+z"], shown: "Ctrl Z", description: "Undo", group: "Draw", run: ({ session }) => void session.undo.undo() },
  { keys: ["Ctrl+Shift+Z", "Ctrl+y"], shown: "Ctrl Shift Z", description: "Redo", group: "Draw", run: ({ session }) => void session.undo.redo() },

  ...[1, 2, 3, 4, 5, 6, 7, 8, 9].map((number): Binding => ({
    keys: [String(number)],
    shown: number === 1 ? "1 … 9" : "",
    description: number === 1 ? "Select an object by its row in the timeline" : "",
    group: "Label",
    run: selectObject(number - 1),
  })),
  { keys: ["ArrowUp"], shown: "↑", description: "Select the object above", group: "Label", run: cycleObject(-1) },
  { keys: ["ArrowDown"], shown: "↓", description: "Select the object below", group: "Label", run: cycleObject(1) },
  { keys: ["o"], shown: "O", description: "New object; press again for the next class", group: "Label", run: newObject },
  { keys: ["i"], shown: "I", description: "Visible on this frame", group: "Label", run: state(1) },
  { keys: ["h"], shown: "H", description: "Occluded on this frame: behind something", group: "Label", run: state(2) },
  { keys: ["x"], shown: "X", description: "Absent: not on this frame", group: "Label", run: state(3) },
  { keys: ["u"], shown: "U", description: "Uncertain on this frame", group: "Label", run: state(4) },
  { keys: ["f"], shown: "F", description: "Frame class: yes or no", group: "Label", run: frameClass },
  { keys: ["Delete", "Backspace"], shown: "Delete", description: "Remove the label from this frame", group: "Label", run: remove },

  { keys: ["a"], shown: "A", description: "Accept the frame", group: "Review", run: review("accept", "frame") },
  { keys: ["Shift+A"], shown: "Shift A", description: "Accept the object between the two nearest labels drawn by hand", group: "Review", run: review("accept", "span") },
  { keys: ["Ctrl+Shift+A"], shown: "Ctrl Shift A", description: "Accept the object on every frame", group: "Review", run: review("accept", "object") },
  { keys: ["r"], shown: "R", description: "Reject the object's label on this frame", group: "Review", run: review("reject", "label") },
  { keys: ["Shift+R"], shown: "Shift R", description: "Clear the review", group: "Review", run: review("reset", "label") },
  { keys: ["l"], shown: "L", description: "Lock or unlock the object's label on this frame", group: "Review", run: lock },
  { keys: ["c"], shown: "C", description: "Comment on this frame", group: "Review", run: (on) => on.comment() },
  { keys: ["w"], shown: "W", description: "Fix identities: swap, split, merge, delete", group: "Review", run: (on) => on.identity() },
  { keys: ["t"], shown: "T", description: "Train", group: "Train", run: (on) => on.tab("train") },
  { keys: ["d"], shown: "D", description: "Diagnostics: quality and effort", group: "View", run: (on) => on.diagnostics() },
  { keys: ["\\"], shown: "\\", description: "Show outlines only", group: "View", run: () => (outlineOnly.value = !outlineOnly.value) },
  { keys: [";"], shown: ";", description: "More transparent labels", group: "View", run: () => (opacity.value = Math.max(0, opacity.value - 0.1)) },
  { keys: ["'"], shown: "'", description: "Less transparent labels", group: "View", run: () => (opacity.value = Math.min(1, opacity.value + 0.1)) },
  { keys: ["z"], shown: "Z", description: "Zoom in on the selected object", group: "View", run: ({ board }) => board()?.reveal() },
  { keys: ["0"], shown: "0", description: "Fit the frame to the window", group: "View", run: ({ board }) => board()?.fit() },
  { keys: ["?", "Shift+?"], shown: "?", description: "Show this list", group: "View", run: ({ help }) => help() },
  {
    keys: ["Escape"],
    shown: "Esc",
    description: "Discard the drawing, or deselect",
    group: "View",
    run: ({ session, board }) => {
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

/** Handle a key of the editor; text fields and open dialogs handle their own keys. */
export function onKey(event: KeyboardEvent, on: KeyContext): void {
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
  binding.run(on);
}
