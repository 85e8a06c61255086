import { expect, test } from "vitest";

import { UpdateCount } from "../src/model/updates";

const label = {};

test("updated, new and removed labels are told from each other, by frame", () => {
  const updates = new UpdateCount();
  updates.add([
    { key: { frameIndex: "1", track: "a" }, before: label, after: label },
    { key: { frameIndex: "1", track: "b" }, before: label, after: label },
    { key: { frameIndex: "2", track: "a" }, before: label, after: label },
  ]);
  expect(updates.onlyUpdates).toBe(true);
  expect(updates.text(0.42)).toBe("2 frames updated in 0.4 s.");
  updates.add([
    { key: { frameIndex: "3", track: "c" }, after: label },
    { key: { frameIndex: "4", track: "a" }, before: label },
  ]);
  expect(updates.onlyUpdates).toBe(false);
  expect(updates.text(6.9)).toBe("2 frames updated, new labels on 1 frame, labels removed from 1 frame in 6.9 s. Check the new labels.");
});

test("a label that comes twice counts once, from its first to its last state", () => {
  const updates = new UpdateCount();
  updates.add([{ key: { frameIndex: "5", track: "new" }, after: label }]);
  updates.add([{ key: { frameIndex: "5", track: "new" }, before: label, after: label }]);
  expect(updates.text(1)).toBe("new labels on 1 frame in 1.0 s. Check the new labels.");
  updates.add([{ key: { frameIndex: "5", track: "new" }, before: label }]);
  expect(updates.text(1)).toBe("");
});
