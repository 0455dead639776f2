import type { Metadata, ServerErrorResponse, status as ServiceStatus } from "@grpc/grpc-js";
import { CallFailed, InitializationFailed, InvalidRequest } from "./errors.ts";
import { any, grpc, provider, status } from "./proto.ts";
import type { Path } from "./values.ts";
import { encodeStruct } from "./wire.ts";

/*
 * Codes matter: after `Internal`, `Unknown` and `DataLoss` the engine takes the resource's state for lost, and leaves a pending operation that a
 * person has to clear. Only bugs are answered with `Internal`.
 */
const codes = {
  failedPrecondition: "FAILED_PRECONDITION",
  timedOut: "DEADLINE_EXCEEDED",
  cancelled: "CANCELLED",
} as const;

/** The gRPC error that tells the engine of `error`. */
export function toServiceError(
  error: unknown,
  options: {
    readonly scrub: (text: string) => string;
    /** Where the state of an initialization failure must be wrapped. */
    readonly stateSecrets: (failure: InitializationFailed) => readonly Path[];
  },
): ServerErrorResponse & { metadata?: Metadata } {
  const message = options.scrub(error instanceof Error ? error.message : String(error));
  if (error instanceof InitializationFailed) return initializationFailure(error, message, options);
  if (error instanceof CallFailed) return serviceError(grpc.status[codes[error.reason]], message);
  if (error instanceof InvalidRequest) {
    const where = error.property === undefined ? "" : `${error.property}: `;
    return serviceError(grpc.status.INVALID_ARGUMENT, where + message);
  }
  return serviceError(grpc.status.INTERNAL, `this is a bug in the provider, please report it: ${message}`);
}

function serviceError(
  code: ServiceStatus,
  details: string,
  metadata?: Metadata,
): ServerErrorResponse & { metadata?: Metadata } {
  const error = Object.assign(new Error(details), { code, details });
  return metadata === undefined ? error : Object.assign(error, { metadata });
}

/** As the Go engine reads it: a google.rpc.Status with an `ErrorResourceInitFailed` among its details, in the trailer. */
function initializationFailure(
  error: InitializationFailed,
  message: string,
  options: Parameters<typeof toServiceError>[1],
): ServerErrorResponse & { metadata?: Metadata } {
  const failure = new provider.ErrorResourceInitFailed();
  failure.setId(error.id);
  failure.setProperties(encodeStruct(error.state, options.stateSecrets(error)));
  failure.setReasonsList(error.reasons.map(options.scrub));
  const detail = new any.Any();
  detail.pack(failure.serializeBinary(), "pulumirpc.ErrorResourceInitFailed");
  const rpcStatus = new status.Status();
  rpcStatus.setCode(grpc.status.UNKNOWN);
  rpcStatus.setMessage(message);
  rpcStatus.addDetails(detail);
  const metadata = new grpc.Metadata();
  metadata.add("grpc-status-details-bin", Buffer.from(rpcStatus.serializeBinary()));
  return serviceError(grpc.status.UNKNOWN, message, metadata);
}
