import type { IconNode } from "lucide";
import { h } from "preact";

/** A lucide icon in the color of the text; decorative, so hidden from screen readers. */
export function Icon({ of, size = 16 }: { of: IconNode; size?: number }) {
  return (
    <svg
      width={size}
      height={size}
      viewBox="0 0 24 24"
      fill="none"
      stroke="currentColor"
      stroke-width="1.9"
      stroke-linecap="round"
      stroke-linejoin="round"
      aria-hidden="true"
      class="icon"
    >
      {of.map(([tag, attributes]) => h(tag as "path", attributes as object))}
    </svg>
  );
}
