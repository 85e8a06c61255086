/** Short messages on the screen and a log of them for screen readers. */

import { signal } from "@preact/signals";

import { sentence } from "../lib/format";

export interface Toast {
  id: number;
  kind: "info" | "good" | "error";
  text: string;
  action?: { label: string; run: () => void };
}

const MAX_TOASTS = 3;
const MAX_LOGGED = 50;

export const toasts = signal<Toast[]>([]);
/** The newest messages, oldest first, including those that are no longer on the screen. */
export const messageLog = signal<{ id: number; text: string }[]>([]);
let last = 0;

/** Show a message for some seconds; a message with an action stays until it is answered or dismissed. */
export function notify(message: string, kind: Toast["kind"] = "info", action?: Toast["action"]): void {
  const id = ++last;
  const text = sentence(message);
  const others = toasts.value.filter((toast) => toast.text !== text);
  const withAction = others.filter((toast) => toast.action);
  const passing = others.filter((toast) => !toast.action).slice(1 - MAX_TOASTS);
  toasts.value = [...withAction, ...passing, { id, kind, text, action }];
  messageLog.value = [...messageLog.value.slice(1 - MAX_LOGGED), { id, text }];
  if (!action) setTimeout(() => dismiss(id), kind === "error" ? 9000 : 3500);
}

export function dismiss(id: number): void {
  toasts.value = toasts.value.filter((toast) => toast.id !== id);
}

/** Announced by screen readers and not shown: the current position, the last edit. */
export const announcement = signal("");
