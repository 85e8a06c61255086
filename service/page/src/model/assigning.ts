/** Two people label the same frames without seeing each other's labels; a third one decides. */

import { signal } from "@preact/signals";

import type { Agreement, Assignment, Label } from "../api/messages";
import { call, inWords, isAbort, patiently } from "../api/rpc";
import { caller } from "./caller";
import type { Suggestion } from "./reviewing";
import type { Session } from "./session";
import { say } from "./toasts";

/** The assignments of the video that is open, newest first. */
export class Assigning {
  readonly all = signal<Assignment[]>([]);

  constructor(private readonly video: string) {}

  async load(): Promise<void> {
    try {
      const body = { parent: this.video, pageSize: 1000 };
      const answer = await patiently(() => call<{ assignments?: Assignment[] }>("AssignmentService/ListAssignments", body));
      this.all.value = (answer.assignments ?? []).reverse();
    } catch (error) {
      if (!isAbort(error)) say(inWords(error), "error");
    }
  }

  /** Assign frames to two people; whether it was done. */
  async create(frames: number[], annotators: string[], requestId: string): Promise<void> {
    const assignment = { frameIndices: frames.map(String), annotators };
    await patiently(() => call("AssignmentService/CreateAssignment", { parent: this.video, assignment, requestId }));
    await this.load();
  }
}

/** Labels of an annotator, page by page; empty for the caller's own. */
export async function* listAssigned(parent: string, annotator: string, signal?: AbortSignal): AsyncGenerator<Label[]> {
  let pageToken = "";
  do {
    const body = { parent, annotator, pageSize: 1000, pageToken };
    const page = await patiently(
      () => call<{ labels?: Label[]; nextPageToken?: string }>("AssignmentService/ListAssignedLabels", body, signal),
      signal,
    );
    // They are human labels, which the API takes for granted here.
    yield (page.labels ?? []).map((one) => ({ ...one, provenance: { kind: "PROVENANCE_KIND_HUMAN" } }));
    pageToken = page.nextPageToken ?? "";
  } while (pageToken);
}

export function getAssignment(name: string, signal?: AbortSignal): Promise<Assignment> {
  return patiently(() => call<Assignment>("AssignmentService/GetAssignment", { name }, signal), signal);
}

export function getAgreement(name: string, signal?: AbortSignal): Promise<Agreement> {
  return patiently(() => call<Agreement>("AssignmentService/GetAgreement", { name }, signal), signal);
}

/** Say that one is done: nothing can be changed after it. */
export async function submit(session: Session): Promise<void> {
  await session.outbox.settled();
  const requestId = crypto.randomUUID();
  const body = { name: session.assignment!.name, submit: true, requestId };
  await patiently(() => call("AssignmentService/WriteAssignedLabels", body));
}

/** Make the labels of one of the two, frame by frame, labels of the video. */
export function adjudicate(name: string, annotator: string, choices: Record<string, string>, requestId: string): Promise<Assignment> {
  const body = { name, annotator, choices, requestId };
  return patiently(() => call<Assignment>("AssignmentService/AdjudicateAssignment", body));
}

export function isMine(assignment: Assignment): boolean {
  return assignment.annotators?.includes(caller.value?.user ?? "") ?? false;
}

export function isDone(assignment: Assignment, annotator: string): boolean {
  return assignment.submittedAnnotators?.includes(annotator) ?? false;
}

/** The frames that one is to label, in the form in which suggestions are stepped through. */
export function assignedFrames(session: Session): Suggestion[] {
  return [...session.assigned!]
    .sort((a, b) => a - b)
    .map((frame) => {
      const drawn = [...session.labels.rows.values()].some((row) => row.state[frame]);
      return { frame, row: null, reason: drawn ? "labeled" : "to be labeled", gain: 0 };
    });
}

/** Frames as `0, 4, 10-12`; null where that is not what it is. */
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
