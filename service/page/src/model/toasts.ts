/** Short messages that come and go; read out by screen readers. */

import { signal } from "@preact/signals";

export interface Toast {
  id: number;
  kind: "info" | "good" | "error";
  text: string;
  action?: { label: string; act: () => void };
}

export const toasts = signal<Toast[]>([]);
let last = 0;

export function say(text: string, kind: Toast["kind"] = "info", action?: Toast["action"]): void {
  const id = ++last;
  toasts.value = [...toasts.value.filter((toast) => toast.text !== text), { id, kind, text, action }].slice(-3);
  setTimeout(() => dismiss(id), kind === "error" ? 9000 : action ? 7000 : 3500);
}

export function dismiss(id: number): void {
  toasts.value = toasts.value.filter((toast) => toast.id !== id);
}

/** What the screen reader is told quietly: where one is, what one did. */
export const spoken = signal("");
