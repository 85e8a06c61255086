import { flushSync } from "preact/compat";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

import { Board } from "../board/Board";
import { may } from "../model/caller";
import type { Session } from "../model/session";
import { opacity, outlineOnly } from "../model/settings";
import { Classes } from "./Classes";
import { Diagnostics } from "./Diagnostics";
import { Export } from "./Export";
import { Header } from "./Header";
import { Help } from "./Help";
import { Identity } from "./Identity";
import { onKey, type KeyContext } from "./keys";
import { Dialog, OfflineBanner } from "./parts";
import { guardRoute, leave, waitingRoute } from "./route";
import { type PanelName, SidePanel } from "./SidePanel";
import { describe, Timeline } from "./Timeline";
import { Tools } from "./Tools";
import { Transport } from "./Transport";

/** The view of one video: tools, picture, panel, timeline. */
export function Editor({ session }: { session: Session }) {
  const stage = useRef<HTMLDivElement>(null);
  const board = useRef<Board | null>(null);
  const [zoom, setZoom] = useState(1);
  const [help, setHelp] = useState(false);
  const [classes, setClasses] = useState(false);
  const [exporting, setExporting] = useState(false);
  const [identity, setIdentity] = useState(false);
  const [diagnostics, setDiagnostics] = useState(false);
  const [panel, setPanel] = useState<PanelName>("label");

  // Layout effects, so that the next key or click meets the same state as the screen.
  useLayoutEffect(() => {
    const made = new Board(stage.current!, session, setZoom);
    board.current = made;
    const observer = new ResizeObserver(() => made.resize(stage.current!.clientWidth, stage.current!.clientHeight));
    observer.observe(stage.current!);
    return () => {
      observer.disconnect();
      made.destroy();
      board.current = null;
    };
  }, [session]);

  const shown = session.player.shown.value;
  useLayoutEffect(() => board.current?.showFrame(session.player.cache.peek(shown)), [shown, session]);
  const drawn = [
    shown,
    session.labels.version.value,
    session.selected.value,
    session.hidden.value,
    session.tool.value,
    session.project.value,
    opacity.value,
    outlineOnly.value,
  ];
  useLayoutEffect(() => board.current?.draw(), drawn);
  useLayoutEffect(() => void board.current?.cancel(), [session.tool.value]);

  useLayoutEffect(() => {
    document.title = `${session.video.displayName} · micromodels`;
    if (!session.project.value.objectClasses?.length && !session.project.value.frameClasses?.length) setClasses(true);
    const context: KeyContext = {
      session,
      board: () => board.current,
      help: () => setHelp(true),
      focusFrame: () => document.querySelector<HTMLInputElement>("#frame-number")?.focus(),
      tab: (name) => session.assignment || setPanel(name as PanelName),
      comment: () => {
        if (session.assignment) return;
        flushSync(() => setPanel("review")); // so that the next key is typed into the comment
        document.querySelector<HTMLInputElement>("#comment-text")?.focus();
      },
      identity: () => session.assignment || setIdentity(true),
      diagnostics: () => session.assignment || setDiagnostics(true),
    };
    const listen = (event: KeyboardEvent): void => onKey(event, context);
    const stopGuarding = guardRoute(() => session.drawing.peek() !== null);
    const unload = (event: BeforeUnloadEvent): void => {
      sessionStorage.setItem(`frame|${session.key}`, String(session.player.frame.peek()));
      const { waiting, stored } = session.outbox;
      if (session.drawing.peek() !== null || stored.peek() < waiting.peek()) event.preventDefault();
    };
    addEventListener("keydown", listen);
    addEventListener("beforeunload", unload);
    return () => {
      removeEventListener("keydown", listen);
      removeEventListener("beforeunload", unload);
      stopGuarding();
      sessionStorage.setItem(`frame|${session.key}`, String(session.player.frame.peek()));
    };
  }, [session]);

  useLayoutEffect(() => {
    let byPointer = false;
    const note = (event: Event): void => void (byPointer = event.type === "pointerdown");
    // A slider or list that was used with the mouse gives the focus back, so that keys act on the video again.
    const release = ({ target }: Event): void => {
      if (byPointer && target instanceof HTMLElement && target.matches("input[type=range], select")) target.blur();
    };
    // Pinching on a touchpad, or Ctrl and the wheel, zooms the frame or the timeline, never the whole page.
    const keepPage = (event: WheelEvent): void => void (event.ctrlKey && event.preventDefault());
    const controller = new AbortController();
    const { signal } = controller;
    addEventListener("pointerdown", note, { capture: true, signal });
    addEventListener("keydown", note, { capture: true, signal });
    addEventListener("change", release, { capture: true, signal });
    addEventListener("pointerup", (event) => setTimeout(() => release(event)), { signal });
    addEventListener("wheel", keepPage, { passive: false, signal });
    return () => controller.abort();
  }, []);

  return (
    <div class="editor" data-state={session.loading.value ? "loading" : session.isIdle.value ? "idle" : "busy"}>
      <Header session={session} onHelp={() => setHelp(true)} onExport={() => setExporting(true)} onDiagnostics={() => setDiagnostics(true)} onPanel={setPanel} />
      <OfflineBanner waiting={session.outbox.waiting.value} />
      <main class="workspace">
        <Tools session={session} zoom={zoom} onZoom={(factor) => board.current?.zoom(factor)} onFit={() => board.current?.fit()} />
        <div class={`stage tool-${session.tool.value}`} data-shown={shown}>
          <div ref={stage} class="stage-canvas" role="img" aria-label={`Frame ${shown}: ${describe(session, shown)}`} />
          {shown < 0 && <p class="stage-note">Loading the frame…</p>}
          {shown !== session.player.frame.value && shown >= 0 && <span class="stage-busy" aria-hidden="true" />}
          <Hint session={session} />
        </div>
        <SidePanel session={session} panel={panel} onPanel={setPanel} onClasses={() => setClasses(true)} onIdentity={() => setIdentity(true)} />
      </main>
      <Transport session={session} />
      <Timeline session={session} />
      {diagnostics && <Diagnostics session={session} onClose={() => setDiagnostics(false)} />}
      {identity && <Identity session={session} onClose={() => setIdentity(false)} />}
      {help && <Help onClose={() => setHelp(false)} />}
      {exporting && <Export session={session} onClose={() => setExporting(false)} />}
      {waitingRoute.value !== null && <UnfinishedShape onDiscard={leave} />}
      {classes && (
        <Classes
          project={session.project.value}
          onClose={() => setClasses(false)}
          onChange={(project) => {
            session.project.value = project;
            session.activeClass.value ||= project.objectClasses?.[0]?.name ?? "";
          }}
        />
      )}
    </div>
  );
}

/** Asks before the editor is left with a started shape. */
function UnfinishedShape({ onDiscard }: { onDiscard: () => void }) {
  return (
    <Dialog title="Leave without finishing the shape?" onClose={() => (waitingRoute.value = null)}>
      <p>You started a shape and did not finish it. If you leave now, it is lost. Everything else is saved.</p>
      <div class="actions">
        <button onClick={() => (waitingRoute.value = null)} autofocus>
          Keep drawing
        </button>
        <button class="danger" onClick={onDiscard}>
          Discard and leave
        </button>
      </div>
    </Dialog>
  );
}

/** One line on what to do with the current tool. */
function Hint({ session }: { session: Session }) {
  const tool = session.tool.value;
  const drawing = session.drawing.value;
  const elsewhere = drawing !== null && drawing !== session.player.shown.value;
  session.labels.version.value;
  const empty = !session.rows().some((row) => !row.isEmpty());
  const text = elsewhere
    ? `You started a shape on frame ${drawing}. Go back to finish it, or press Esc to discard it`
    : tool === "box"
      ? drawing !== null ? "Click the opposite corner" : "Drag, or click two corners. Keyboard: Ctrl and arrow keys move the pen, Enter sets a corner"
      : tool === "polygon"
        ? drawing !== null ? "To close: double-click, click the first point or press Enter. Backspace removes the last point" : "Click the corners one after the other"
        : tool === "brush"
          ? "Paint. A closed stroke fills the area inside. [ and ] change the brush size"
          : tool === "eraser"
            ? "Paint over what to remove. [ and ] change the size"
            : empty && !session.loading.value && may("work", session.project.value.name)
              ? "Draw the object on this frame: B for box, P for polygon, M for mask"
              : "";
  return text ? <p class="hint-line">{text}</p> : null;
}
