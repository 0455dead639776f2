import { createRequire } from "node:module";
import type { Log } from "./handler.ts";
import { grpc } from "./proto.ts";

const require = createRequire(import.meta.url);

type Severity = "DEBUG" | "INFO" | "WARNING" | "ERROR";

/** Messages to the engine, which shows them beside the resource. The only way out for text: standard output belongs to the protocol. */
export interface EngineLog {
  connect(address: string): void;
  send(severity: Severity, message: string, urn?: string, ephemeral?: boolean): void;
  close(): void;
}

/** The connection is made at the first message; most runs have none. */
export function createEngineLog(scrub: (text: string) => string): EngineLog {
  let address: string | undefined;
  let client: import("@pulumi/pulumi/proto/engine_grpc_pb.js").EngineClient | undefined;
  return {
    connect(to) {
      if (to === address) return;
      client?.close();
      client = undefined;
      address = to;
    },
    send(severity, message, urn = "", ephemeral = false) {
      if (address === undefined) return;
      const engine =
        require("@pulumi/pulumi/proto/engine_pb.js") as typeof import("@pulumi/pulumi/proto/engine_pb.js");
      if (client === undefined) {
        const { EngineClient } =
          require("@pulumi/pulumi/proto/engine_grpc_pb.js") as typeof import("@pulumi/pulumi/proto/engine_grpc_pb.js");
        client = new EngineClient(address, grpc.credentials.createInsecure());
      }
      const request = new engine.LogRequest();
      request.setSeverity(engine.LogSeverity[severity]);
      request.setMessage(scrub(message));
      request.setUrn(urn);
      request.setEphemeral(ephemeral);
      // An engine that is gone can't be told so.
      client.log(request, () => undefined);
    },
    close() {
      client?.close();
      client = undefined;
    },
  };
}

/** The log of one call. */
export function logFor(log: EngineLog, urn: string): Log {
  return {
    debug: (message) => log.send("DEBUG", message, urn),
    info: (message) => log.send("INFO", message, urn),
    warn: (message) => log.send("WARNING", message, urn),
    status: (message) => log.send("INFO", message, urn, true),
  };
}
