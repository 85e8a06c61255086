// A client of the API that shares no code with this project: uploads a video, has it labeled, reads the labels.
// usage: node client.mjs DESCRIPTOR_SET ADDRESS VIDEO; prints a JSON object of what it saw.

import { readFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";
import { loadFileDescriptorSetFromBuffer } from "@grpc/proto-loader";

const [descriptors, address, path] = process.argv.slice(2);
const options = { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true };
const root = grpc.loadPackageDefinition(loadFileDescriptorSetFromBuffer(readFileSync(descriptors), options));
const api = root.micromodels.v1;
const connect = (Service) => new Service(address, grpc.credentials.createInsecure());
const projects = connect(api.ProjectService);
const videos = connect(api.VideoService);
const labels = connect(api.LabelService);
const labeling = connect(api.LabelingService);
const operations = connect(root.google.longrunning.Operations);

const call = (client, method, request) =>
  new Promise((resolve, reject) =>
    client[method](request, (error, response) => (error ? reject(error) : resolve(response))),
  );

const drain = (stream) =>
  new Promise((resolve, reject) => {
    const messages = [];
    stream.on("data", (message) => messages.push(message));
    stream.on("error", reject);
    stream.on("end", () => resolve(messages));
  });

// CRC-32 as in zlib; written out because zlib.crc32 is missing from older versions of Node.
const crc32 = (bytes) => {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return ~crc >>> 0;
};

const seed = (frame) => ({
  frame_index: frame,
  object: {
    track: "1",
    object_class: "square",
    state: "OBJECT_STATE_VISIBLE",
    box: { x1: 16 + 2 * frame, y1: 32, x2: 48 + 2 * frame, y2: 64 },
  },
});

const project = await call(projects, "CreateProject", {
  project: { display_name: "Node", object_classes: [{ name: "square" }] },
});

const data = readFileSync(path);
let upload = await call(videos, "StartUpload", {
  parent: project.name,
  file_name: "video.mp4",
  size_bytes: data.length,
});
while (upload.received_bytes < data.length) {
  const offset = upload.received_bytes;
  const chunk = data.subarray(offset, offset + 1024);
  upload = await call(videos, "UploadChunk", { name: upload.name, offset, data: chunk, crc32: crc32(chunk) });
}
const started = await call(videos, "FinishUpload", { name: upload.name });
const finished = await call(operations, "WaitOperation", { name: started.name, timeout: { seconds: 60 } });
upload = await call(videos, "GetUpload", { name: upload.name });
const video = await call(videos, "GetVideo", { name: upload.video });

const events = await drain(
  labeling.AutoLabel({
    parent: project.name,
    video: video.name,
    seeds: [seed(0), seed(12), seed(23)],
    flip_book: true,
  }),
);
const batches = await drain(labels.StreamLabels({ parent: video.name }));
const read = batches.flatMap((batch) => batch.labels);
const sent = events.filter((event) => event.event === "labels").flatMap((event) => event.labels.labels);

const refusal = await call(labels, "WriteLabels", { parent: video.name, labels: [seed(10_000)] }).catch((error) => error);

console.log(
  JSON.stringify({
    ready: finished.done && finished.result === "response",
    frames: video.frame_table.frame_count,
    events: [...new Set(events.map((event) => event.event))],
    progress: [...new Set(events.filter((event) => event.progress).map((event) => event.progress.event))],
    label_frames: read.map((label) => label.frame_index),
    same_labels: JSON.stringify(sent) === JSON.stringify(read),
    anchors: read.filter((label) => label.provenance.kind === "PROVENANCE_KIND_HUMAN").map((l) => l.frame_index),
    refusal: refusal.code,
    refusal_details: refusal.metadata?.get("grpc-status-details-bin").length,
  }),
);
