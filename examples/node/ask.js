// Ask over gRPC, and read what a refusal says: node ask.js HOST:PORT PICTURE [PROMPT] [TOP_K]
// PROTO is the folder that attributary/v1/attribution.proto lies in; ../../proto in a checkout.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import protobuf from "protobufjs";

const [address, picture, prompt = "", topK = "3"] = process.argv.slice(2);
const root = process.env.PROTO || fileURLToPath(new URL("../../proto", import.meta.url));
const contract = loader.loadSync("attributary/v1/attribution.proto", { includeDirs: [root], keepCase: true, longs: String, defaults: true });
const { AttributionService } = grpc.loadPackageDefinition(contract).attributary.v1;

// google.rpc.Status and the three details that this service uses: https://cloud.google.com/apis/design/errors
const rpc = protobuf.parse(`
  syntax = "proto3"; package google.rpc;
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message BadRequest { message FieldViolation { string field = 1; string description = 2; } repeated FieldViolation field_violations = 1; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
  message Duration { int64 seconds = 1; int32 nanos = 2; }
  message RetryInfo { Duration retry_delay = 1; }
`, { keepCase: true }).root;

function detailsOf(error) {
  const [packed] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (!packed) return [];
  return rpc.lookupType("google.rpc.Status").decode(packed).details.map(({ type_url, value }) => {
    const name = type_url.split(".").pop();
    const kind = ["BadRequest", "ErrorInfo", "RetryInfo"].includes(name) && rpc.lookupType(`google.rpc.${name}`);
    return { kind: name, ...(kind ? kind.toObject(kind.decode(value), { longs: Number }) : {}) };
  });
}

const client = new AttributionService(address, grpc.credentials.createInsecure());
const request = { query: { image: readFileSync(picture), prompt }, options: { top_k: Number(topK) } };
client.Attribute(request, { deadline: Date.now() + 10_000 }, (error, reply) => {
  client.close();
  if (error) {
    console.error(JSON.stringify({ code: grpc.status[error.code], message: error.details, details: detailsOf(error) }));
    process.exitCode = 1;
    return;
  }
  for (const item of reply.attribution.items) {
    console.log(item.rank, item.id, `${(100 * item.share).toFixed(1)}%`, item.creator, item.caption);
  }
  console.log("nobody in particular", `${(100 * reply.attribution.diffuse_share).toFixed(1)}%`);
});
