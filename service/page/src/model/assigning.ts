/** Two people label the same frames without seeing each other's labels; a third person chooses. */

import { signal } from "@preact/signals";

import type { Agreement, Assignment, Label, Suggestion } from "../api/messages";
import { call, errorMessage, isAbort, retry } from "../api/rpc";
import { caller } from "./caller";
import type { SessionContext } from "./context";
import { notify } from "./toasts";

/** The assignments of the open video, newest first. */
export class Assigning {
  readonly all = signal<Assignment[]>([]);

  constructor(private readonly video: string) {}

  async load(): Promise<void> {
    try {
      const body = { parent: this.video, pageSize: 1000 };
      const answer = await retry(() => call<{ assignments?: Assignment[] }>("AssignmentService/ListAssignments", body));
      this.all.value = (answer.assignments ?? []).reverse();
    } catch (error) {
      if (!isAbort(error)) notify(errorMessage(error), "error");
    }
  }

  /** Assign frames to two people. */
  async create(frames: number[], annotators: string[], requestId: string): Promise<void> {
    const assignment = { frameIndices: frames.map(String), annotators };
    await retry(() => call("AssignmentService/CreateAssignment", { parent: this.video, assignment, requestId }));
    await this.load();
  }
}

/** Labels of an annotator, page by page; empty for the caller's own. */
export async function* listAssigned(parent: string, annotator: string, signal?: AbortSignal): AsyncGenerator<Label[]> {
  let pageToken = "";
  do {
    const body = { parent, annotator, pageSize: 1000, pageToken };
    const page = await retry(
      () => call<{ labels?: Label[]; nextPageToken?: string }>("AssignmentService/ListAssignedLabels", body, signal),
      signal,
    );
    // The API leaves the provenance out: all of them are human labels.
    yield (page.labels ?? []).map((label) => ({ ...label, provenance: { kind: "PROVENANCE_KIND_HUMAN" } }));
    pageToken = page.nextPageToken ?? "";
  } while (pageToken);
}

export function getAssignment(name: string, signal?: AbortSignal): Promise<Assignment> {
  return retry(() => call<Assignment>("AssignmentService/GetAssignment", { name }, signal), signal);
}

export function getAgreement(name: string, signal?: AbortSignal): Promise<Agreement> {
  return retry(() => call<Agreement>("AssignmentService/GetAgreement", { name }, signal), signal);
}

/** Submit the labels of the open assignment; they cannot be changed afterwards. */
export async function submit(session: SessionContext): Promise<void> {
  await session.outbox.settled();
  const requestId = crypto.randomUUID();
  const body = { name: session.assignment!.name, submit: true, requestId };
  await retry(() => call("AssignmentService/WriteAssignedLabels", body));
}

/** Save the chosen person's labels, frame by frame, as labels of the video. */
export function adjudicate(name: string, annotator: string, choices: Record<string, string>, requestId: string): Promise<Assignment> {
  const body = { name, annotator, choices, requestId };
  return retry(() => call<Assignment>("AssignmentService/AdjudicateAssignment", body));
}

export function isMine(assignment: Assignment): boolean {
  return assignment.annotators?.includes(caller.value?.user ?? "") ?? false;
}

export function isDone(assignment: Assignment, annotator: string): boolean {
  return assignment.submittedAnnotators?.includes(annotator) ?? false;
}

/** The assigned frames as suggestions, so that the same keys step through them. */
export function assignedFrames(session: SessionContext): Suggestion[] {
  return [...session.assigned!]
    .sort((a, b) => a - b)
    .map((frame) => {
      return { frame, row: null, reason: isLabeled(session, frame) ? "labeled" : "not labeled yet" };
    });
}

export function isLabeled(session: SessionContext, frame: number): boolean {
  return [...session.labels.rows.values()].some((row) => row.state[frame]);
}

/** The frames of a text such as `0, 4, 10-12`; null if the text is something else. */
export function parseFrames(text: string, frameCount: number): number[] | null {
  const frames = new Set<number>();
  for (const part of text.split(",")) {
    const match = /^\s*(\d+)\s*(?:[-–]\s*(\d+)\s*)?$/.exec(part);
    if (!match) return null;
    const [first, last] = [Number(match[1]), Number(match[2] ?? match[1])];
    if (last < first || last >= frameCount) return null;
    for (let frame = first; frame <= last; frame++) frames.add(frame);
  }
  return [...frames].sort((a, b) => a - b);
}
