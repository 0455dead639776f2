import { DeviceError } from "../provider/device/errors.ts";
import { ApprovalRefused } from "../provider/trust/approval.ts";
import { EventLogRefused } from "../provider/trust/event-log.ts";
import { PublicKeyRefused } from "../provider/trust/public-key.ts";
import { KeyUnusable } from "../provider/trust/signer.ts";
import { UserError } from "./errors.ts";
import { Interrupted } from "./ask.ts";

/**
 * Runs a command's work, and turns what the trust library and the device layer refuse into a fault that is shown without a stack.
 * @throws UserError
 */
export async function withUserFaults<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw asUserFault(error);
  }
}

/** The shell's convention for a program ended by SIGINT. */
const interrupted = 130;

function asUserFault(error: unknown): unknown {
  if (error instanceof Interrupted) {
    process.exitCode = interrupted;
    return new UserError(`${error.message}: nothing was written`);
  }
  if (error instanceof KeyUnusable) {
    return new UserError(error.message, {
      cause: error,
      ...(error.hint === undefined ? {} : { hint: error.hint }),
    });
  }
  if (
    error instanceof PublicKeyRefused ||
    error instanceof ApprovalRefused ||
    error instanceof EventLogRefused ||
    error instanceof DeviceError
  ) {
    return new UserError(error.message, { cause: error });
  }
  return error;
}
