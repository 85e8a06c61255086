/** The current view: the part of the address after `#`. */

import { signal } from "@preact/signals";

export interface Route {
  project?: string;
  video?: string;
  assignment?: string;
}

function parse(hash: string): Route {
  const match = /^#\/(projects\/[^/]+)(?:\/(videos\/[^/?]+))?(?:\/(assignments\/[^/?]+))?/.exec(hash);
  if (!match) return {};
  return {
    project: match[1],
    video: match[2] ? `${match[1]}/${match[2]}` : undefined,
    assignment: match[3] ? `${match[1]}/${match[2]}/${match[3]}` : undefined,
  };
}

export const route = signal(parse(location.hash));
/** Address that waits for an answer because the current view has unfinished work; null if there is none. */
export const waitingRoute = signal<string | null>(null);

let current = location.hash;
let hasUnfinishedWork = (): boolean => false;

/** Ask before the view is left while it has unfinished work; gives the function that stops asking. */
export function guardRoute(isUnfinished: () => boolean): () => void {
  hasUnfinishedWork = isUnfinished;
  return () => {
    hasUnfinishedWork = () => false;
    waitingRoute.value = null;
  };
}

addEventListener("hashchange", () => {
  if (location.hash === current) return;
  if (hasUnfinishedWork()) {
    waitingRoute.value = location.hash;
    history.pushState(null, "", current || location.pathname);
    return;
  }
  current = location.hash;
  route.value = parse(current);
});

/** Leave for the address that waits; the unfinished work is lost. */
export function leave(): void {
  const target = waitingRoute.value;
  hasUnfinishedWork = () => false;
  waitingRoute.value = null;
  if (target !== null) location.hash = target || "#/";
}

export function href(name: string): string {
  return `#/${name}`;
}

export function goTo(name: string): void {
  location.hash = `/${name}`;
}
