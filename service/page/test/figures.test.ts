import { expect, test } from "vitest";

import { versionName } from "../src/lib/format";
import { outcomeOf } from "../src/model/background";
import { recentMean } from "../src/ui/charts";

const scores = { scoreBefore: 0.5, scoreAfter: 0.75, unseenFrames: ["3", "9"], changedFrameCount: "18" };

test("the outcome of retraining names both scores", () => {
  const name = "projects/a/operations/b";
  const replaced = outcomeOf({ name, done: true, response: { replaced: true, ...scores } });
  expect(replaced.kind).toBe("replaced");
  expect(replaced.text).toBe(
    "Retrained: labels on 18 frames updated (new micro-model 75 %, old one 50 %, on 2 frames drawn by hand that neither was trained on).",
  );
  const kept = outcomeOf({ name, done: true, response: { ...scores, scoreAfter: 0.25 } });
  expect(kept.kind).toBe("kept");
  expect(kept.text).toContain("No label changed");
  expect(outcomeOf({ name, done: true, error: { code: 1 } }).kind).toBe("stopped");
  expect(outcomeOf({ name, done: true, error: { code: 9, message: "2 frames; at least 3" } }).text).toContain("at least 3");
});

test("a trend is the mean of the newest points, weighted by the number of reviewed labels", () => {
  const points = [0, 1, 1, 1, 1, 0.5].map((value, index) => ({ value, weight: index === 5 ? 4 : 1, series: "", text: "" }));
  expect(recentMean(points, 0)).toBe(0);
  expect(recentMean(points, 4)).toBeCloseTo(0.8);
  expect(recentMean(points, 5)).toBeCloseTo((4 + 4 * 0.5) / 8);
});

test("versions of different micro-models have different names", () => {
  expect(versionName("projects/p/microModels/8c3b5b88/versions/2")).toBe("8c3b, version 2");
  expect(versionName("my tool")).toBe("my tool");
  expect(versionName(undefined)).toBe("another tool");
});
