/** Messages of `micromodels.v1` in their JSON form, as far as the page reads them. 64-bit integers are strings there. */

export type Int64 = string | number;

export interface ObjectClass {
  name: string;
  color?: string;
  shapes?: ShapeKind[];
  maxInstances?: number;
  flip?: boolean;
  excludes?: string[];
}
export type ShapeKind = "SHAPE_KIND_BOX" | "SHAPE_KIND_POLYGON" | "SHAPE_KIND_MASK";
export interface FrameClass {
  name: string;
  color?: string;
  excludes?: string[];
}
export interface Project {
  name: string;
  displayName?: string;
  objectClasses?: ObjectClass[];
  frameClasses?: FrameClass[];
  createTime?: string;
  etag?: string;
}
export interface FrameTable {
  frameCount?: Int64;
  widthPx?: number;
  heightPx?: number;
  timeBaseNumerator?: Int64;
  timeBaseDenominator?: Int64;
  codec?: string;
  container?: string;
  warnings?: string[];
}
export interface Video {
  name: string;
  displayName?: string;
  state?: "VIDEO_STATE_PROBING" | "VIDEO_STATE_READY" | "VIDEO_STATE_FAILED";
  error?: string;
  frameTable?: FrameTable;
  labelRevision?: Int64;
  sizeBytes?: Int64;
  createTime?: string;
}
export interface Frame {
  frameIndex?: Int64;
  pts?: Int64;
  keyframe?: boolean;
}
export interface Upload {
  name: string;
  receivedBytes?: Int64;
  maxChunkBytes?: Int64;
  state?: string;
  video?: string;
}
export interface BoxMessage {
  x1?: number;
  y1?: number;
  x2?: number;
  y2?: number;
}
export interface MaskMessage {
  heightPx?: number;
  widthPx?: number;
  counts?: string;
}
export interface ObjectLabel {
  track: string;
  objectClass: string;
  state?: string;
  box?: BoxMessage;
  polygon?: { coordinates?: number[] };
  mask?: MaskMessage;
}
export interface Label {
  frameIndex?: Int64;
  object?: ObjectLabel;
  frameClass?: { frameClass: string; present?: boolean };
  confidence?: number;
  provenance?: { kind?: string; version?: string };
  revision?: Int64;
  review?: ReviewMessage;
  author?: string;
}
export interface LabelKey {
  frameIndex?: Int64;
  track?: string;
  frameClass?: string;
}
export interface Status {
  code?: number;
  message?: string;
  details?: { "@type": string; reason?: string; metadata?: Record<string, string> }[];
}
export interface TrainingProgress {
  experiment?: number;
  experimentCount?: number;
  step?: number;
  stepCount?: number;
  loss?: number;
  etaSeconds?: number;
}
export interface PropagationProgress {
  framesDone?: Int64;
  framesTotal?: Int64;
  etaSeconds?: number;
}
export interface ExperimentResult {
  experiment?: number;
  settings?: Record<string, string>;
  score?: number;
  kept?: boolean;
  durationSeconds?: number;
}
export interface FlipBookPicture {
  experiment?: number;
  step?: number;
  frameIndex?: Int64;
  image?: string;
  mediaType?: string;
}
export interface Progress {
  eventTime?: string;
  state?: string;
  training?: TrainingProgress;
  experiment?: ExperimentResult;
  picture?: FlipBookPicture;
  propagation?: PropagationProgress;
  stage?: { stage?: string; durationSeconds?: number };
  warning?: string;
}
export interface OperationMetadata {
  kind?: string;
  state?: string;
  video?: string;
  createTime?: string;
  endTime?: string;
  training?: TrainingProgress;
  propagation?: PropagationProgress;
  experiments?: ExperimentResult[];
  microModelVersion?: string;
}
export interface Operation {
  name: string;
  metadata?: OperationMetadata;
  done?: boolean;
  error?: Status;
  response?: Record<string, unknown>;
}
export interface RetrainResponse {
  replaced?: boolean;
  scoreBefore?: number;
  scoreAfter?: number;
  unseenFrames?: Int64[];
  changedFrameCount?: Int64;
}
export interface LabelFormat {
  name: string;
  title: string;
  extension?: string;
  isFolder?: boolean;
  canWrite?: boolean;
  loses?: string;
}
export interface Capabilities {
  labelFormats?: LabelFormat[];
}
export interface FileMessage {
  name: string;
  fileName?: string;
  sizeBytes?: Int64;
}
export interface ReviewMessage {
  state?: "REVIEW_STATE_UNSPECIFIED" | "REVIEW_STATE_ACCEPTED" | "REVIEW_STATE_REJECTED";
  locked?: boolean;
  reviewer?: string;
  reviewTime?: string;
}
export interface LabelSelection {
  startFrame?: string;
  stopFrame?: string;
  tracks?: string[];
  classNames?: string[];
  anchorsOnly?: boolean;
}
export interface LabelDifference {
  key?: LabelKey;
  before?: Label;
  after?: Label;
}
export interface CorrectLabelsResponse {
  acknowledged?: { labelRevision?: Int64 };
  differences?: { differences?: LabelDifference[]; labelRevision?: Int64 };
  summary?: CorrectionSummary;
  resumeToken?: string;
}
export interface CorrectionSummary {
  durationSeconds?: number;
  changedCount?: Int64;
  changedFrameCount?: Int64;
  microModelVersion?: string;
  labelRevision?: Int64;
}
/** A frame worth a look, as the page steps through them. */
export interface Suggestion {
  frame: number;
  /** Key of the row that it is about; null for the whole frame. */
  row: string | null;
  reason: string;
}
export interface SuggestionMessage {
  frameIndex?: Int64;
  reason?: string;
  explanation?: string;
  expectedGain?: number;
  tracks?: string[];
}
export interface SuspectedSwap {
  frameIndex?: Int64;
  trackA?: string;
  trackB?: string;
  score?: number;
  explanation?: string;
}
export interface Change {
  revision?: Int64;
  lastRevision?: Int64;
  kind?: string;
  author?: string;
  changeTime?: string;
  labelCount?: Int64;
  operation?: string;
  microModelVersion?: string;
  parentRevision?: Int64;
  undoesRevision?: Int64;
  undoneByRevision?: Int64;
  durationSeconds?: number;
  comment?: string;
}
export interface LabelVersion {
  label?: Label;
  revision?: Int64;
  kind?: string;
  author?: string;
  writeTime?: string;
  reviews?: { action?: string; author?: string; reviewTime?: string }[];
}
export interface Comment {
  name?: string;
  startFrame?: Int64;
  stopFrame?: Int64;
  track?: string;
  text: string;
  author?: string;
  createTime?: string;
}
export interface Caller {
  user?: string;
  serverAdmin?: boolean;
  memberships?: { name: string; role?: string }[];
}
export interface Assignment {
  name: string;
  frameIndices?: Int64[];
  annotators?: string[];
  submittedAnnotators?: string[];
  author?: string;
  createTime?: string;
  adjudicator?: string;
  labelRevision?: Int64;
}
export interface Agreement {
  frameCount?: Int64;
  objectCount?: Int64;
  matchedCount?: Int64;
  meanIou?: number;
  stateKappa?: number;
  classKappa?: number;
  frameClassKappa?: number;
}
export interface GroupFigures {
  name?: string;
  labelCount?: Int64;
  manualLabelCount?: Int64;
  acceptedCount?: Int64;
  correctedCount?: Int64;
  correctedShare?: number;
  correctedMeanIou?: number;
  meanConfidence?: number;
  verdicts?: VerdictPoint[];
}
export interface VerdictPoint {
  revision?: Int64;
  author?: string;
  judgeTime?: string;
  microModelVersion?: string;
  learnedCount?: Int64;
  acceptedCount?: Int64;
  correctedCount?: Int64;
  meanOverlap?: number;
}
export interface VersionFigures {
  microModelVersion?: string;
  createTime?: string;
  estimatedQuality?: number;
  labelCount?: Int64;
  acceptedCount?: Int64;
  correctedCount?: Int64;
  observedQuality?: number;
}
export interface CorrectionEffect {
  revision?: Int64;
  author?: string;
  changeTime?: string;
  labelCount?: Int64;
  changedCount?: Int64;
  durationSeconds?: number;
  microModelVersion?: string;
  learnedCount?: Int64;
  confidenceBefore?: number;
  confidenceAfter?: number;
  checkedCount?: Int64;
  agreementBefore?: number;
  agreementAfter?: number;
  undone?: boolean;
}
export interface ConsistencyIssue {
  kind?: string;
  frameIndex?: Int64;
  tracks?: string[];
  score?: number;
  explanation?: string;
}
export interface Figures {
  labelRevision?: Int64;
  frameCount?: Int64;
  manualFrameCount?: Int64;
  labelCount?: Int64;
  manualLabelCount?: Int64;
  manualShare?: number;
  speedUp?: number;
  meanFrameSeconds?: number;
  estimatedQuality?: number;
  observedQuality?: number;
  expectedWrongShare?: number;
  classes?: GroupFigures[];
  tracks?: GroupFigures[];
  confusions?: { property?: string; predicted?: string; corrected?: string; count?: Int64 }[];
  hardestFrames?: { frameIndex?: Int64; correctedCount?: Int64; meanIou?: number }[];
  corrections?: CorrectionEffect[];
  correctionCount?: Int64;
  verdicts?: VerdictPoint[];
  versions?: VersionFigures[];
  meanFrameWorkSeconds?: number;
  issues?: ConsistencyIssue[];
}
