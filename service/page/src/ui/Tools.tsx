import { Brush, Eraser, MousePointer2, Pentagon, SquareDashed, ZoomIn, ZoomOut } from "lucide";

import { may, whyNot } from "../model/caller";
import type { Session, Tool } from "../model/session";
import { brush, opacity, outlineOnly } from "../model/settings";
import { Icon } from "./Icon";

const TOOLS: { tool: Tool; icon: typeof Brush; name: string; key: string }[] = [
  { tool: "select", icon: MousePointer2, name: "Select and adjust", key: "V" },
  { tool: "box", icon: SquareDashed, name: "Box", key: "B" },
  { tool: "polygon", icon: Pentagon, name: "Polygon", key: "P" },
  { tool: "brush", icon: Brush, name: "Mask brush", key: "M" },
  { tool: "eraser", icon: Eraser, name: "Eraser", key: "E" },
];

export function Tools(props: { session: Session; zoom: number; onZoom: (factor: number) => void; onFit: () => void }) {
  const { session } = props;
  const tool = session.tool.value;
  const project = session.project.value.name;
  const mayDraw = may("work", project);
  return (
    <div class="tools" role="toolbar" aria-label="Tools" aria-orientation="vertical">
      {TOOLS.map((one) => (
        <button
          key={one.tool}
          class={`tool ${tool === one.tool ? "on" : ""}`}
          aria-pressed={tool === one.tool}
          aria-label={one.name}
          disabled={one.tool !== "select" && !mayDraw}
          title={one.tool !== "select" && !mayDraw ? whyNot("work", project) : `${one.name} (${one.key})`}
          onClick={() => session.chooseTool(one.tool)}
        >
          <Icon of={one.icon} size={18} />
          <span class="tool-key" aria-hidden="true">
            {one.key}
          </span>
        </button>
      ))}
      {(tool === "brush" || tool === "eraser") && (
        <label class="vertical" title="Brush size ([ and ])">
          <span class="visually-hidden">Brush size</span>
          <input
            type="range"
            min="1"
            max="80"
            value={brush.value}
            onInput={(event) => (brush.value = Number(event.currentTarget.value))}
          />
          <span aria-hidden="true">{brush.value}</span>
        </label>
      )}
      <span class="spacer" />
      <label class="vertical" title="Label opacity (; and ')">
        <span class="visually-hidden">Label opacity</span>
        <input
          type="range"
          min="0"
          max="1"
          step="0.05"
          value={opacity.value}
          onInput={(event) => (opacity.value = Number(event.currentTarget.value))}
        />
      </label>
      <button
        class={`tool ${outlineOnly.value ? "on" : ""}`}
        aria-pressed={outlineOnly.value}
        aria-label="Outlines only"
        title="Outlines only (\)"
        onClick={() => (outlineOnly.value = !outlineOnly.value)}
      >
        <svg width="18" height="18" viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.9" aria-hidden="true">
          <circle cx="12" cy="12" r="8" />
          {!outlineOnly.value && <path d="M12 4a8 8 0 0 1 0 16z" fill="currentColor" stroke="none" />}
        </svg>
      </button>
      <button class="tool" aria-label="Zoom in" title="Zoom in (wheel)" onClick={() => props.onZoom(1.3)}>
        <Icon of={ZoomIn} size={17} />
      </button>
      <button class="tool zoom" aria-label={`Zoom ${Math.round(props.zoom * 100)} %; fit the frame`} title="Fit the frame to the window (0)" onClick={props.onFit}>
        {Math.round(props.zoom * 100)}%
      </button>
      <button class="tool" aria-label="Zoom out" title="Zoom out (wheel)" onClick={() => props.onZoom(1 / 1.3)}>
        <Icon of={ZoomOut} size={17} />
      </button>
    </div>
  );
}
