/** Who is at this page, and what they may do. The server decides; this only says so before one tries. */

import { signal } from "@preact/signals";

import type { Caller } from "../api/messages";
import { call, loginWanted, patiently } from "../api/rpc";

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
  work: "drawing and training need the role annotator",
  review: "accepting, rejecting and assigning need the role reviewer",
  curate: "deleting needs the role admin",
  manage: "this needs the role admin",
  server: "this needs an administrator of the server",
};
const LOCAL = "local";

/** Null until the server has said. */
export const caller = signal<Caller | null>(null);

export async function loadCaller(): Promise<void> {
  caller.value = await patiently(() => call<Caller>("AccessService/GetCaller", {}));
}

/** Whether somebody signed in, and can sign out. */
export function isSignedIn(): boolean {
  return caller.value !== null && caller.value.user !== LOCAL;
}

/** Forget the token; what was not sent yet stays on this machine for the next time of the same person. */
export async function signOut(): Promise<void> {
  await fetch("/sign-in", { method: "DELETE" });
  caller.value = null;
  loginWanted.value = true;
}

/** What the caller is in a project, in a word; empty for the administrator of the server. */
export function roleIn(project: string): string {
  const { serverAdmin, memberships = [] } = caller.value ?? {};
  if (serverAdmin) return "";
  const member = memberships.find((one) => one.name.startsWith(`${project}/members/`));
  return ROLES[member?.role ?? ""]?.name ?? "guest";
}

export function may(permission: Permission, project = ""): boolean {
  const { serverAdmin, memberships = [] } = caller.value ?? {};
  if (serverAdmin) return true;
  const member = memberships.find((one) => one.name.startsWith(`${project}/members/`));
  return ROLES[member?.role ?? ""]?.may.includes(permission) ?? false;
}

/** Why not, for a tooltip; empty where one may. */
export function whyNot(permission: Permission, project = ""): string {
  if (may(permission, project)) return "";
  const role = roleIn(project);
  return `You are ${/^[aeiou]/.test(role) ? "an" : "a"} ${role} here: ${NEEDED[permission]}`;
}
