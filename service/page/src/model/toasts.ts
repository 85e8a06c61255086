/** Short messages that come and go, and what was said so far; read out by screen readers. */

import { signal } from "@preact/signals";

export interface Toast {
  id: number;
  kind: "info" | "good" | "error";
  text: string;
  action?: { label: string; act: () => void };
}

const SHOWN = 3;
const TOLD = 50;

export const toasts = signal<Toast[]>([]);
/** The newest messages, oldest first, also those that are no longer on the screen. */
export const told = signal<{ id: number; text: string }[]>([]);
let last = 0;

/** Show a message for a while; one that asks something stays until it is answered or dismissed. */
export function say(text: string, kind: Toast["kind"] = "info", action?: Toast["action"]): void {
  const id = ++last;
  const others = toasts.value.filter((toast) => toast.text !== text);
  const asking = others.filter((toast) => toast.action);
  const passing = others.filter((toast) => !toast.action).slice(1 - SHOWN);
  toasts.value = [...asking, ...passing, { id, kind, text, action }];
  told.value = [...told.value.slice(1 - TOLD), { id, text }];
  if (!action) setTimeout(() => dismiss(id), kind === "error" ? 9000 : 3500);
}

export function dismiss(id: number): void {
  toasts.value = toasts.value.filter((toast) => toast.id !== id);
}

/** What the screen reader is told quietly: where one is, what one did. */
export const spoken = signal("");
