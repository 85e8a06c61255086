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

addEventListener("hashchange", () => (route.value = parse(location.hash)));

export function href(name: string): string {
  return `#/${name}`;
}

export function goTo(name: string): void {
  location.hash = `/${name}`;
}
