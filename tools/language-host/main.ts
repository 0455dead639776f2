import { readFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";
import languageService from "@pulumi/pulumi/proto/language_grpc_pb.js";
import { languageHost } from "./host.ts";

/** The engine sends whole projects and plans in one message; this is what Pulumi's own plugins allow. */
const MAX_MESSAGE_BYTES = 400 * 1024 * 1024;

const engine = process.argv.slice(2).find((argument) => !argument.startsWith("-"));
if (engine === undefined) {
  console.error("usage: pulumi-language-nodejs ENGINE_ADDRESS (Pulumi starts it)");
  process.exit(2);
}

const { version } = JSON.parse(
  readFileSync(new URL(import.meta.resolve("@pulumi/pulumi/package.json")), "utf8"),
) as { version: string };
const host = languageHost({ engine, version });
const server = new grpc.Server({
  "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
  "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
});
server.addService(languageService.LanguageRuntimeService, host.service);

function shutDown(): void {
  host.stop();
  server.forceShutdown();
  clearInterval(orphanWatch);
}
process.on("SIGTERM", shutDown);
process.on("SIGINT", shutDown);

// An engine that is killed says nothing; a process whose parent has gone is given another one.
const parent = process.ppid;
const orphanWatch = setInterval(() => {
  if (process.ppid !== parent) shutDown();
}, 1000);

server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(port); // how the engine learns where to connect
});
