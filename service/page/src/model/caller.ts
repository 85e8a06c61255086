/** Who uses this page and what they may do. The server decides; the page disables what the server would refuse. */

import { signal } from "@preact/signals";

import type { Caller } from "../api/messages";
import { call, loginRequired, retry } from "../api/rpc";

/** As in service/domain/access.py. */
export type Permission = "work" | "review" | "curate" | "manage" | "server";

const ROLES: Record<string, { name: string; may: Permission[] }> = {
  ROLE_VIEWER: { name: "viewer", may: [] },
  ROLE_ANNOTATOR: { name: "annotator", may: ["work"] },
  ROLE_REVIEWER: { name: "reviewer", may: ["work", "review"] },
  ROLE_SERVICE: { name: "service", may: ["work", "curate"] },
  ROLE_ADMIN: { name: "admin", may: ["work", "review", "curate", "manage"] },
};
const NEEDED: Record<Permission, string> = {
  work: "Drawing and training need the role annotator.",
  review: "Accepting, rejecting and assigning need the role reviewer.",
  curate: "Deleting needs the role admin.",
  manage: "This needs the role admin.",
  server: "This needs an administrator of the server.",
};
const LOCAL = "local";

/** Null until the server has answered. */
export const caller = signal<Caller | null>(null);

export async function loadCaller(): Promise<void> {
  caller.value = await retry(() => call<Caller>("AccessService/GetCaller", {}));
}

/** Whether a person signed in with a token, and can sign out. */
export function isSignedIn(): boolean {
  return caller.value !== null && caller.value.user !== LOCAL;
}

/** Forget the token. Edits that are not sent yet stay on this computer until the same person signs in again. */
export async function signOut(): Promise<void> {
  await fetch("/sign-in", { method: "DELETE" });
  caller.value = null;
  loginRequired.value = true;
}

function roleIn(project: string): (typeof ROLES)[string] | undefined {
  const member = (caller.value?.memberships ?? []).find(({ name }) => name.startsWith(`${project}/members/`));
  return ROLES[member?.role ?? ""];
}

export function may(permission: Permission, project = ""): boolean {
  return caller.value?.serverAdmin || (roleIn(project)?.may.includes(permission) ?? false);
}

/** Why the caller may not do this, for tooltips and messages; empty if allowed. */
export function whyNot(permission: Permission, project = ""): string {
  if (may(permission, project)) return "";
  if (!project) return NEEDED[permission];
  const role = roleIn(project);
  return `${role ? `Your role in this project is ${role.name}.` : "You have no role in this project."} ${NEEDED[permission]}`;
}
