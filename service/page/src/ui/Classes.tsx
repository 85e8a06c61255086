import { Plus, Trash2 } from "lucide";
import { useState } from "preact/hooks";

import type { Project, ShapeKind } from "../api/messages";
import { call, errorMessage, retry } from "../api/rpc";
import { classColor } from "../lib/color";
import { Icon } from "./Icon";
import { Dialog } from "./parts";

interface Draft {
  name: string;
  color: string;
  kind: "object" | "frame";
  shapes: ShapeKind[];
  maxInstances: number;
  flip: boolean;
  excludes: string[];
}

function drafts(project: Project): Draft[] {
  const objects = project.objectClasses ?? [];
  return [
    ...objects.map((one, index): Draft => ({
      name: one.name,
      color: classColor(one.color, index),
      kind: "object",
      shapes: one.shapes ?? [],
      maxInstances: one.maxInstances ?? 0,
      flip: one.flip ?? true,
      excludes: one.excludes ?? [],
    })),
    ...(project.frameClasses ?? []).map((one, index): Draft => ({
      name: one.name,
      color: classColor(one.color, objects.length + index),
      kind: "frame",
      shapes: [],
      maxInstances: 0,
      flip: true,
      excludes: one.excludes ?? [],
    })),
  ];
}

/** Dialog to add, change and remove the classes of a project. */
export function Classes(props: { project: Project; onClose: () => void; onChange: (project: Project) => void }) {
  const [classes, setClasses] = useState<Draft[]>(() => {
    const present = drafts(props.project);
    return present.length ? present : [blank(0)];
  });
  const [error, setError] = useState("");
  const change = (index: number, part: Partial<Draft>): void =>
    setClasses(classes.map((one, at) => (at === index ? { ...one, ...part } : one)));
  const save = async (event: Event): Promise<void> => {
    event.preventDefault();
    const named = classes.map((one) => ({ ...one, name: one.name.trim() })).filter((one) => one.name);
    const left = (one: Draft): string[] => one.excludes.filter((other) => candidates(named, one).includes(other));
    const project: Project = {
      name: props.project.name,
      etag: props.project.etag,
      objectClasses: named
        .filter((one) => one.kind === "object")
        .map(({ kind, ...one }) => ({ ...one, excludes: left({ kind, ...one }) })),
      frameClasses: named
        .filter((one) => one.kind === "frame")
        .map((one) => ({ name: one.name, color: one.color, excludes: left(one) })),
    };
    try {
      const body = { project, updateMask: "objectClasses,frameClasses" };
      props.onChange(await retry(() => call<Project>("ProjectService/UpdateProject", body)));
      props.onClose();
    } catch (caught) {
      setError(errorMessage(caught));
    }
  };
  return (
    <Dialog title="Classes" onClose={props.onClose} wide>
      <form class="stack" onSubmit={(event) => void save(event)}>
        <div class="class-rows">
          {classes.map((one, index) => (
            <div class="class-row" key={index}>
              <input
                type="color"
                value={one.color}
                aria-label={`Color of ${one.name || "the class"}`}
                onInput={(event) => change(index, { color: event.currentTarget.value })}
              />
              <input
                value={one.name}
                placeholder="Name"
                aria-label="Name of the class"
                autofocus={index === classes.length - 1 && !one.name}
                onInput={(event) => change(index, { name: event.currentTarget.value })}
              />
              <select
                value={one.kind}
                aria-label="Kind"
                onChange={(event) => change(index, { kind: event.currentTarget.value as Draft["kind"] })}
              >
                <option value="object">Object class</option>
                <option value="frame">Frame class</option>
              </select>
              <label class="check" title="Training may mirror objects of this class. Turn off for text, or where left and right differ.">
                <input
                  type="checkbox"
                  checked={one.flip}
                  disabled={one.kind === "frame"}
                  onChange={(event) => change(index, { flip: event.currentTarget.checked })}
                />
                may be mirrored
              </label>
              <label class="check" title="Largest number of objects of this class on one frame. Leave empty for no limit.">
                max. per frame
                <input
                  class="narrow"
                  type="number"
                  min="1"
                  max="999"
                  placeholder="no limit"
                  disabled={one.kind === "frame"}
                  value={one.maxInstances || ""}
                  onInput={(event) => change(index, { maxInstances: Number(event.currentTarget.value) })}
                />
              </label>
              <button
                type="button"
                class="quiet square"
                aria-label={`Remove ${one.name || "the class"}`}
                onClick={() => setClasses(classes.filter((_, at) => at !== index))}
              >
                <Icon of={Trash2} />
              </button>
              <Never classes={classes} one={one} onChange={(excludes) => change(index, { excludes })} />
            </div>
          ))}
        </div>
        <div>
          <button type="button" onClick={() => setClasses([...classes, blank(classes.length)])}>
            <Icon of={Plus} /> Add a class
          </button>
        </div>
        <p class="hint">
          Object classes are for things with a position. Frame classes apply to the whole frame: yes or no. Turn off “may be
          mirrored” for text, or where left and right differ. “Never with”: classes that cannot be on the same frame or in the same place.
        </p>
        {error && <p class="error-text">{error}</p>}
        <div class="actions">
          <button type="submit" class="primary">
            Save
          </button>
        </div>
      </form>
    </Dialog>
  );
}

/** Names that “never with” can list: for an object class all other classes, for a frame class the other frame classes. */
function candidates(classes: Draft[], one: Draft): string[] {
  const fitting = classes.filter((other) => one.kind === "object" || other.kind === "frame");
  const names = new Set(fitting.map((other) => other.name.trim()));
  names.delete(one.name.trim());
  names.delete("");
  return [...names];
}

/** Classes that exclude each other; the check for possible errors reports labels that break this. */
function Never(props: { classes: Draft[]; one: Draft; onChange: (excludes: string[]) => void }) {
  const { one } = props;
  const others = candidates(props.classes, one);
  const chosen = one.excludes.filter((name) => others.includes(name));
  if (!others.length) return null;
  return (
    <details class="never">
      <summary>{chosen.length ? `never with ${chosen.join(", ")}` : "never with…"}</summary>
      <div class="chips" role="group" aria-label={`${one.name || "The class"} is never with`}>
        {others.map((name) => (
          <button
            key={name}
            type="button"
            class={`chip ${chosen.includes(name) ? "on" : ""}`}
            aria-pressed={chosen.includes(name)}
            onClick={() => props.onChange(chosen.includes(name) ? chosen.filter((other) => other !== name) : [...chosen, name])}
          >
            {name}
          </button>
        ))}
      </div>
    </details>
  );
}

function blank(index: number): Draft {
  return { name: "", color: classColor("", index), kind: "object", shapes: [], maxInstances: 0, flip: true, excludes: [] };
}
