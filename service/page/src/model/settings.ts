/** Settings of the person, stored in this browser. */

import { effect, signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";

interface Stored {
  theme: Theme;
  opacity: number;
  outlineOnly: boolean;
  brush: number;
  speed: number;
}

const KEY = "micromodels-settings";
const DEFAULTS: Stored = { theme: "system", opacity: 0.45, outlineOnly: false, brush: 12, speed: 1 };

function read(): Stored {
  try {
    return { ...DEFAULTS, ...(JSON.parse(localStorage.getItem(KEY) ?? "{}") as Partial<Stored>) };
  } catch {
    return DEFAULTS;
  }
}

const stored = read();
export const theme = signal<Theme>(stored.theme);
export const opacity = signal(stored.opacity);
export const outlineOnly = signal(stored.outlineOnly);
export const brush = signal(stored.brush);
export const speed = signal(stored.speed);

effect(() => {
  const all: Stored = {
    theme: theme.value,
    opacity: opacity.value,
    outlineOnly: outlineOnly.value,
    brush: brush.value,
    speed: speed.value,
  };
  localStorage.setItem(KEY, JSON.stringify(all));
  document.documentElement.dataset.theme = all.theme;
});
