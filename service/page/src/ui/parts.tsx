/** Small parts that every view uses. */

import { CloudOff, LogOut, Moon, Sun, SunMoon, X } from "lucide";
import type { ComponentChildren, RefObject } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";

import { online } from "../api/rpc";
import { count } from "../lib/format";
import { caller, isSignedIn, may, type Permission, signOut, whyNot } from "../model/caller";
import { theme } from "../model/settings";
import { announcement, dismiss, messageLog, toasts } from "../model/toasts";
import { Icon } from "./Icon";

/** A dialog over the page; the browser keeps the focus in it and closes it on Escape. */
export function Dialog(props: {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
  wide?: boolean;
  /** The dialog cannot be closed, only answered. */
  fixed?: boolean;
}) {
  const element = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    element.current?.showModal(); // at once, so that the next key goes to the dialog
  }, []);
  return (
    <dialog
      ref={element}
      class={props.wide ? "dialog wide" : "dialog"}
      aria-label={props.title}
      onClose={props.onClose}
      onCancel={(event) => props.fixed && event.preventDefault()}
      onClick={(event) => !props.fixed && event.target === element.current && element.current?.close()}
    >
      <div class="dialog-body">
        <header>
          <h2>{props.title}</h2>
          {!props.fixed && (
            <button class="quiet square" aria-label="Close" onClick={() => element.current?.close()}>
              <Icon of={X} />
            </button>
          )}
        </header>
        {props.children}
      </div>
    </dialog>
  );
}

export function Toasts() {
  return (
    <>
      <div class="toasts" role="region" aria-label="Messages">
        {toasts.value.map((toast) => (
          <div key={toast.id} class={`toast ${toast.kind}`}>
            <span>{toast.text}</span>
            {toast.action && (
              <button
                class="link"
                onClick={() => {
                  toast.action!.run();
                  dismiss(toast.id);
                }}
              >
                {toast.action.label}
              </button>
            )}
            <button class="quiet square small" aria-label="Dismiss" onClick={() => dismiss(toast.id)}>
              <Icon of={X} size={14} />
            </button>
          </div>
        ))}
      </div>
      <div class="visually-hidden message-log" role="log" aria-label="Messages so far">
        {messageLog.value.map((message) => (
          <p key={message.id}>{message.text}</p>
        ))}
      </div>
      <div class="visually-hidden" role="status" aria-live="polite">
        {announcement.value}
      </div>
    </>
  );
}

export function OfflineBanner({ waiting }: { waiting: number }) {
  if (online.value) return null;
  return (
    <div class="banner" role="status">
      <Icon of={CloudOff} size={15} />
      No connection. {waiting ? `${count(waiting, "edit")} stored in this browser; they will be sent` : "The page will continue"} when the
      server is back.
    </div>
  );
}

export function ThemeButton() {
  const next = { system: "light", light: "dark", dark: "system" } as const;
  const icon = { system: SunMoon, light: Sun, dark: Moon }[theme.value];
  return (
    <button
      class="quiet square"
      title={`Theme: ${theme.value}`}
      aria-label={`Theme: ${theme.value}. Change`}
      onClick={() => (theme.value = next[theme.value])}
    >
      <Icon of={icon} />
    </button>
  );
}

/** The signed-in person and the button to sign out; nothing if the server needs no token. */
export function Account() {
  if (!isSignedIn()) return null;
  return (
    <button class="quiet" title="Sign out" aria-label={`Sign out ${caller.value!.user}`} onClick={() => void signOut()}>
      {caller.value!.user}
      <Icon of={LogOut} size={15} />
    </button>
  );
}

/** A reference to an element that is scrolled into view whenever it becomes selected. */
export function useScrollIntoView<E extends HTMLElement>(isSelected: boolean): RefObject<E | null> {
  const element = useRef<E>(null);
  useLayoutEffect(() => {
    if (isSelected) element.current?.scrollIntoView({ block: "nearest" });
  }, [isSelected]);
  return element;
}

/** Controls that need a permission: disabled without it, with the reason as a tooltip. */
export function Needs(props: { to: Permission; project: string; children: ComponentChildren }) {
  return (
    <fieldset class="needs" disabled={!may(props.to, props.project)} title={whyNot(props.to, props.project)}>
      {props.children}
    </fieldset>
  );
}

export function Bar(props: { value: number; label: string; indeterminate?: boolean }) {
  const value = Math.min(Math.max(props.value, 0), 1);
  return (
    <div
      class={props.indeterminate ? "bar busy" : "bar"}
      role="progressbar"
      aria-label={props.label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={props.indeterminate ? undefined : Math.round(value * 100)}
    >
      <div style={{ transform: `scaleX(${props.indeterminate ? 1 : value})` }} />
    </div>
  );
}

export function Kbd({ children }: { children: string }) {
  return (
    <span class="keys">
      {children.split(" ").map((key) => (
        <kbd key={key}>{key}</kbd>
      ))}
    </span>
  );
}
