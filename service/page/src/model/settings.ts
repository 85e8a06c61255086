/** What a person has set on this machine. */

import { effect, signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";

interface Kept {
  theme: Theme;
  opacity: number;
  outlineOnly: boolean;
  brush: number;
  speed: number;
}

const KEY = "micromodels-settings";
const DEFAULTS: Kept = { theme: "system", opacity: 0.45, outlineOnly: false, brush: 12, speed: 1 };

function read(): Kept {
  try {
    return { ...DEFAULTS, ...(JSON.parse(localStorage.getItem(KEY) ?? "{}") as Partial<Kept>) };
  } catch {
    return DEFAULTS;
  }
}

const kept = read();
export const theme = signal<Theme>(kept.theme);
export const opacity = signal(kept.opacity);
export const outlineOnly = signal(kept.outlineOnly);
export const brush = signal(kept.brush);
export const speed = signal(kept.speed);

effect(() => {
  const all: Kept = {
    theme: theme.value,
    opacity: opacity.value,
    outlineOnly: outlineOnly.value,
    brush: brush.value,
    speed: speed.value,
  };
  localStorage.setItem(KEY, JSON.stringify(all));
  document.documentElement.dataset.theme = all.theme;
});
