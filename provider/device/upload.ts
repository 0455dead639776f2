import { createHash } from "node:crypto";
import { open, type FileHandle } from "node:fs/promises";
import { newNonce, requireComplete } from "./batch.ts";
import type { StepReport } from "./device.ts";
import { cancelled, DeviceError } from "./errors.ts";
import { failureIn, mebibytes } from "./plan-failure.ts";
import { parsePlanOutput, said } from "./plan-output.ts";
import { pointsOf, type PlanPoint } from "./plan-points.ts";
import { preconditionSeconds, revertSeconds, type PlanScriptOptions } from "./plan-script.ts";
import type { Session } from "./session.ts";
import type { Step, UploadStep } from "./step.ts";
import { offsetLine, renderUpload, silenceSeconds } from "./upload-script.ts";

export interface UploadOptions {
  readonly script: Omit<PlanScriptOptions, "nonce" | "manifest">;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((message: string) => void) | undefined;
}

export interface UploadResult {
  readonly steps: readonly StepReport[];
  readonly failure?: DeviceError;
}

/** Read, hashed and handed on at a time; a few of these are in memory, never the file. */
const pieceBytes = 256 * 1024;
const progressMs = 3_000;

type Upload = PlanPoint & { readonly step: UploadStep };
type Prepared = Upload & { readonly nonce: string; readonly script: string };

/** Whether a plan begins with uploads. */
export const hasUploads = (steps: readonly Step[]): boolean => steps[0]?.kind === "upload";

const isUpload = (point: PlanPoint): point is Upload => point.step?.kind === "upload";

/**
 * Does the uploads that a plan begins with, one exec each. Every file is read and compared with its step before the device is asked for anything.
 * @returns what was done; with a `failure` nothing after it was
 * @throws DeviceError `refused` when a file is not what its step says, and as `applyPlan`. What has arrived stays on the device, and the next run goes on from there.
 */
export async function sendUploads(
  session: Session,
  steps: readonly Step[],
  options: UploadOptions,
): Promise<UploadResult> {
  const uploads = pointsOf(steps, options.script.changeNonce)
    .filter(isUpload)
    .map((upload): Prepared => {
      const nonce = newNonce();
      return { ...upload, nonce, script: renderUpload(upload, { ...options.script, nonce }) };
    });
  for (const { step } of uploads) await requireSource(session.node, step, options.signal);
  const reports: StepReport[] = [];
  for (const upload of uploads) {
    options.onProgress?.(upload.title);
    const failure = await send(session, upload, options);
    reports.push({ title: upload.title, outcome: failure === undefined ? "done" : "failed" });
    if (failure !== undefined) return { steps: reports, failure };
  }
  return { steps: reports };
}

async function send(
  session: Session,
  upload: Prepared,
  options: UploadOptions,
): Promise<DeviceError | undefined> {
  const { nonce, script } = upload;
  const ready = Promise.withResolvers<Ready | undefined>();
  const progress = progressOf(upload.step, (message) => options.onProgress?.(message));
  let tail = "";
  const heard = (chunk: string): void => {
    const text = tail + chunk;
    const end = text.lastIndexOf("\n") + 1;
    tail = text.slice(end);
    for (const { verb, rest } of said(text.slice(0, end), nonce)) {
      if (verb === "break") options.script.breakpoint?.reached();
      if (verb === "going-on") progress(Number(rest));
      if (verb === "ready") {
        const [bytes = "", sha256 = ""] = rest.split(" ");
        ready.resolve({ bytes: Number(bytes), sha256 });
      }
    }
  };
  try {
    const result = await session.run(script, {
      // The device says every second that it goes on, once it has the lock, has taken back what was overdue, and the precondition holds.
      timeoutMs:
        (silenceSeconds + options.script.lockWaitSeconds + revertSeconds + preconditionSeconds) * 1000,
      ...(options.signal === undefined ? {} : { signal: options.signal }),
      onStdout: heard,
      content: () => contentFor(session.node, upload.step, ready.promise),
    });
    requireComplete(session.node, result, nonce);
    const output = parsePlanOutput(result.stdout, nonce);
    const failure = failureIn(session.node, output, [upload], undefined);
    if (failure === undefined && output.done.length === 0)
      throw new TypeError(`the device did not say what became of '${upload.title}'`);
    return failure;
  } catch (error) {
    throw lost(error, upload.title);
  } finally {
    ready.resolve(undefined);
  }
}

/** What a connection that ended leaves is known here: a beginning, which is of use. */
function lost(error: unknown, title: string): unknown {
  if (!(error instanceof DeviceError) || (error.kind !== "unreachable" && error.kind !== "timedOut"))
    return error;
  return new DeviceError(error.kind, error.node, `'${title}' was cut off: ${error.shortMessage}`, {
    ...(error.originalMessage === undefined ? {} : { originalMessage: error.originalMessage }),
    hint: "what arrived is kept on the device; run the operation again once it is reachable, and it goes on from there",
    cause: error,
  });
}

/** What the device has of the content already. */
interface Ready {
  readonly bytes: number;
  readonly sha256: string;
}

/** The line that says where the content begins, and the content from there; nothing when the device needs none. */
async function* contentFor(
  node: string,
  step: UploadStep,
  asked: Promise<Ready | undefined>,
): AsyncGenerator<Uint8Array> {
  const there = await asked;
  if (there === undefined) return;
  await using source = await opened(node, step);
  let hash = createHash("sha256");
  let from = 0;
  if (there.bytes > 0) {
    for await (const piece of pieces(source, 0, there.bytes)) hash.update(piece);
    if (hash.copy().digest("hex") === there.sha256) from = there.bytes;
    else hash = createHash("sha256");
  }
  yield Buffer.from(offsetLine(from));
  let sent = from;
  for await (const piece of pieces(source, from, step.bytes)) {
    hash.update(piece);
    sent += piece.length;
    yield piece;
  }
  if (sent !== step.bytes || hash.digest("hex") !== step.sha256)
    throw refused(node, step, "was changed while it was sent, and is not on the device");
}

/** The bytes of a file from one place up to another, or to where it ends now. */
async function* pieces(file: FileHandle, from: number, to: number): AsyncGenerator<Buffer> {
  for (let at = from; at < to;) {
    // Its own buffer each time: what was handed on may not have been sent yet.
    const piece = Buffer.allocUnsafe(Math.min(pieceBytes, to - at));
    const { bytesRead } = await file.read(piece, 0, piece.length, at);
    if (bytesRead === 0) return;
    at += bytesRead;
    yield piece.subarray(0, bytesRead);
  }
}

async function opened(node: string, step: UploadStep): Promise<FileHandle> {
  try {
    return await open(step.source);
  } catch (error) {
    throw refused(node, step, "can't be read", error);
  }
}

/** @throws DeviceError `refused` unless the file is of the size and digest of its step; `cancelled`. */
async function requireSource(node: string, step: UploadStep, signal: AbortSignal | undefined): Promise<void> {
  await using source = await opened(node, step);
  const status = await source.stat();
  if (!status.isFile()) throw refused(node, step, "is not a regular file");
  if (status.size !== step.bytes)
    throw refused(node, step, `has ${status.size} bytes, and ${step.bytes} were expected`);
  const hash = createHash("sha256");
  for await (const piece of pieces(source, 0, step.bytes)) {
    if (signal?.aborted === true) throw cancelled(node);
    hash.update(piece);
  }
  const digest = hash.digest("hex");
  if (digest !== step.sha256)
    throw refused(node, step, `has the SHA-256 digest ${digest}, and ${step.sha256} was expected`);
}

function refused(node: string, step: UploadStep, why: string, cause?: unknown): DeviceError {
  return new DeviceError("refused", node, `'${step.title}': ${step.source} ${why}`, {
    ...(cause instanceof Error ? { originalMessage: cause.message, cause } : {}),
    hint: "nothing of the device was changed; give the file that is meant, and run the operation again",
  });
}

/** Says how far an upload came, seldom enough for a log. */
function progressOf(step: UploadStep, say: (message: string) => void): (bytes: number) => void {
  let last: { readonly bytes: number; readonly at: number } | undefined;
  return (bytes) => {
    if (bytes === 0) return;
    const at = performance.now();
    last ??= { bytes, at };
    if (at - last.at < progressMs) return;
    const perSecond = ((bytes - last.bytes) / (at - last.at)) * 1000;
    last = { bytes, at };
    const percent = Math.floor((bytes / step.bytes) * 100);
    say(
      `${step.title}: ${percent} % of ${mebibytes(step.bytes)}, ${(Math.max(0, perSecond) / 1e6).toFixed(1)} MB/s`,
    );
  };
}
