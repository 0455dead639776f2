import { randomBytes } from "node:crypto";
import { ask } from "../device/ask.ts";
import { DeviceError } from "../device/errors.ts";
import type { PartOutput } from "../device/probe.ts";
import type { ChallengeTpm } from "../device/required-tpm.ts";
import type { Runner } from "../device/session.ts";
import { quote } from "../device/shell-quote.ts";
import { AttestationKeyRefused, readAttestationKey, type AttestationKey } from "../trust/attestation-key.ts";
import {
  EndorsementKeyRefused,
  newChallenge,
  readEndorsementKey,
  tpm2ToolsCredential,
  type Challenge,
  type EndorsementKey,
} from "../trust/credential.ts";
import { QuoteRefused, verifyPcrQuote, type QuoteExpectation } from "../trust/pcr-quote.ts";
import { onDevice } from "./managed-files.ts";

/*
 * A challenge to the TPM of a node, over the connection that a secret is going to be sent on (TPM 2.0 Library, Part 1, 24): the node shows its endorsement key, which has to be the pinned
 * one, and a fresh attestation key; only a TPM that has both unwraps what is sent then. That key quotes PCR 11: what a system says of its own PCRs, root on it can have it say.
 *
 * It shows that this TPM is at hand, at the other end or behind it: a machine in the middle can pass the questions on. So it is of use with the pinned host key, and not in its place.
 */

/**
 * Why a challenge did not succeed.
 *
 * - `noTpm`: the node has no TPM 2.0. `noTools`: tpm2-tools are not installed there.
 * - `otherTpm`: the endorsement key is not the pinned one.
 * - `badKey`: what it showed is not an endorsement key of the default template, or not an attestation key that can't leave its TPM.
 * - `notAnswered`: the TPM did not unwrap the challenge. `wrongAnswer`: something came back that was not in it.
 * - `badQuote`: what came as a quote of PCR 11 is not by that key, of that question, or of that PCR. `otherState`: PCR 11, as quoted, has no approved value.
 * - `failed`: the TPM or its tools failed before that.
 */
export type ChallengeFault =
  | "noTpm"
  | "noTools"
  | "otherTpm"
  | "badKey"
  | "notAnswered"
  | "wrongAnswer"
  | "badQuote"
  | "otherState"
  | "failed";

/** The TPM did not show that it is the pinned one. Nothing secret was sent. */
export class ChallengeFailed extends Error {
  override readonly name = "ChallengeFailed";
  readonly fault: ChallengeFault;
  /** The mend. */
  readonly hint: string | undefined;
  /** Digest of the endorsement key that was shown, as far as one was. */
  readonly endorsementKeySha256: string | undefined;
  constructor(
    fault: ChallengeFault,
    message: string,
    details: {
      readonly hint?: string;
      readonly endorsementKeySha256?: string;
      readonly cause?: unknown;
    } = {},
  ) {
    super(message, { cause: details.cause });
    this.fault = fault;
    this.hint = details.hint;
    this.endorsementKeySha256 = details.endorsementKeySha256;
  }
}

interface Whose {
  /**
   * SHA-256 of the public area of the endorsement key that the node's TPM must have, 64 lower-case hex digits. `undefined`: any, which shows of a TPM only that something
   * answers with a key of that form; a program without a TPM can do that.
   */
  readonly pinned: string | undefined;
  readonly signal?: AbortSignal;
}

export interface ChallengeOptions extends Whose {
  /** Values of PCR 11 (64 lower-case hex digits), of which the TPM must quote one. They are the operator's, never what the node says that it has. */
  readonly approvedPcr11: readonly string[];
}

/** A challenge that was answered. */
export interface AnsweredChallenge {
  /** SHA-256 of the public area of the endorsement key that answered. */
  readonly endorsementKeySha256: string;
  /** The approved value that PCR 11 has, as the TPM quoted it. */
  readonly pcr11: string;
}

/** A TPM on SPI takes half a minute for an RSA key that is not persistent. */
const timeoutMs = 180_000;

/** TPM2B_DATA of a quote takes a digest of the longest hash that the TPM has: 32 bytes, at least. */
const nonceBytes = 32;

const functions = `${onDevice("own-tpm")}\n${onDevice("challenge-tpm")}`;

/**
 * Challenges the TPM of a node, in an approved state. Two execs on the session's connection; nothing stays on the node.
 * @throws ChallengeFailed, DeviceError
 */
export async function challengeTpm(on: Runner, options: ChallengeOptions): Promise<AnsweredChallenge> {
  const { endorsementKeySha256, attestationKey, nonce, stdout } = await answerOf(on, options);
  const pcr11 = quotedPcr11(on.node, stdout, { attestationKey, nonce, pcr: 11 }, options.approvedPcr11);
  return { endorsementKeySha256, pcr11 };
}

/** The same in any state, before a plan with a secret is sent: a node may have no measured boot. */
export const challengeTpmForSecret: ChallengeTpm = async (on, { endorsementKeySha256, title }, signal) => {
  try {
    await answerOf(on, { pinned: endorsementKeySha256, ...(signal === undefined ? {} : { signal }) });
  } catch (error) {
    if (!(error instanceof ChallengeFailed)) throw error;
    throw new DeviceError(
      "refused",
      on.node,
      `'${title}' was not done, nor anything else: what it sends is for the pinned TPM only, and ${error.message}`,
      { hint: error.hint ?? "nothing secret was sent; look at the node before you try again", cause: error },
    );
  }
};

/** What a TPM answered that has the endorsement key. The quote in it is not judged yet. */
interface Answer extends Pick<QuoteExpectation, "attestationKey" | "nonce"> {
  readonly endorsementKeySha256: string;
  readonly stdout: string;
}

/** @throws ChallengeFailed, DeviceError */
async function answerOf(on: Runner, { pinned, signal }: Whose): Promise<Answer> {
  const { node } = on;
  const ask = (call: string): Promise<PartOutput> => runOnNode(on, call, signal);
  const shown = introduction(node, await ask("introduce_tpm"));
  let question: Question;
  try {
    question = questionFor(node, shown, pinned);
  } catch (error) {
    // It is in memory, and goes with the next boot or the next challenge; what is said is why it was refused.
    await ask(`folder=${quote(shown.folder)}\ndrop_challenge`).catch(() => undefined);
    throw error;
  }
  const { challenge, attestationKey, digest: endorsementKeySha256 } = question;
  const nonce = randomBytes(nonceBytes);
  const credential = tpm2ToolsCredential(challenge.credential).toString("base64");
  const { code, stdout, stderr } = await ask(
    `folder=${quote(shown.folder)}\ncredential=${quote(credential)}\nnonce=${nonce.toString("hex")}\nanswer_challenge`,
  );
  if (code !== 0) {
    throw new ChallengeFailed(
      "notAnswered",
      `the TPM of ${node} did not answer the challenge: ${lastLine(stderr)}`,
      {
        endorsementKeySha256,
        hint: "nothing secret was sent; run it again, and if it stays so: the key that the node shows is not in the TPM that it has",
      },
    );
  }
  const answer = /^answer ([0-9a-f]*)$/m.exec(stdout)?.[1] ?? "";
  if (!challenge.isAnswer(Buffer.from(answer, "hex"))) {
    throw new ChallengeFailed("wrongAnswer", `what ${node} answered is not what the challenge held`, {
      endorsementKeySha256,
      hint: "nothing secret was sent; something else than this TPM answers there: look at the node before you try again",
    });
  }
  return { endorsementKeySha256, attestationKey, nonce, stdout };
}

/** The approved value that was quoted. @throws ChallengeFailed */
function quotedPcr11(
  node: string,
  stdout: string,
  expected: QuoteExpectation,
  approved: readonly string[],
): string {
  const bytes = (name: string): Buffer =>
    Buffer.from(new RegExp(`^${name} ([0-9a-f]*)$`, "m").exec(stdout)?.[1] ?? "", "hex");
  let isQuoted: (value: string) => boolean;
  try {
    isQuoted = verifyPcrQuote({ attest: bytes("quote"), signature: bytes("signature") }, expected);
  } catch (error) {
    if (!(error instanceof QuoteRefused)) throw error;
    throw new ChallengeFailed("badQuote", `${node} does not prove its PCR 11: ${error.message}`, {
      cause: error,
      hint: "nothing secret was sent; something else than the TPM's word came back: look at the node before you try again",
    });
  }
  const value = approved.find(isQuoted);
  if (value !== undefined) return value;
  throw new ChallengeFailed(
    "otherState",
    `nobody approved the state that ${node} is in: the value of PCR 11 that its TPM signed is none of the approved ones`,
    {
      hint: `nothing secret was sent; look at what changed, and if it is meant, approve it: edgeseal approve ${node} --current. If the node itself told an approved value, it does not tell the truth: don't trust what it shows`,
    },
  );
}

/** Calls one of the functions on the device. */
export async function runOnNode(
  on: Runner,
  call: string,
  signal: AbortSignal | undefined,
): Promise<PartOutput> {
  const question = { id: "tpm", parts: { call: `${functions}\n${call}` } };
  const answers = await ask(on, [question], {
    timeoutMs,
    ...(signal === undefined ? {} : { signal }),
  });
  const part = answers(question)["call"];
  return part ?? { code: 1, stdout: "", stderr: "no answer" };
}

interface Introduction {
  readonly endorsementKey: Buffer;
  readonly attestationKey: Buffer;
  readonly folder: string;
}

/** @throws ChallengeFailed when the node has no TPM 2.0, or no tools to ask it */
export function requireTpm(node: string, { code }: PartOutput): void {
  if (code === 66) {
    throw new ChallengeFailed("noTpm", `${node} has no TPM 2.0`, {
      hint: "on a Pi 5: dtparam=spi=on and dtoverlay=tpm-slb9670 in config.txt (edgeseal:boot:FirmwareConfig), and a reboot",
    });
  }
  if (code === 67) {
    throw new ChallengeFailed("noTools", `tpm2-tools are not installed on ${node}`, {
      hint: "run `sudo apt-get install --no-install-recommends tpm2-tools` there",
    });
  }
}

function introduction(node: string, output: PartOutput): Introduction {
  requireTpm(node, output);
  const { code, stdout, stderr } = output;
  const value = (name: string, form: string): string | undefined =>
    new RegExp(`^${name} (${form})$`, "m").exec(stdout)?.[1];
  const endorsementKey = value("endorsement-key", "(?:[0-9a-f]{2})+");
  const attestationKey = value("attestation-key", "(?:[0-9a-f]{2})+");
  // It comes back as a part of a path.
  const folder = value("folder", "challenge\\.[A-Za-z0-9]{8}");
  if (code !== 0 || endorsementKey === undefined || attestationKey === undefined || folder === undefined) {
    throw new ChallengeFailed("failed", `${node} can't show its TPM: ${lastLine(stderr)}`, {
      hint: "nothing secret was sent; `sudo tpm2_getcap properties-variable` on the node tells more (a lockout, an authorization that is set)",
    });
  }
  return {
    endorsementKey: Buffer.from(endorsementKey, "hex"),
    attestationKey: Buffer.from(attestationKey, "hex"),
    folder,
  };
}

interface Question {
  readonly challenge: Challenge;
  readonly attestationKey: AttestationKey;
  /** Of the endorsement key. */
  readonly digest: string;
}

function questionFor(node: string, shown: Introduction, pinned: string | undefined): Question {
  try {
    const endorsementKey = pinnedEndorsementKey(node, shown.endorsementKey, pinned);
    const attestationKey = readAttestationKey(shown.attestationKey);
    const challenge = newChallenge(endorsementKey, attestationKey.name);
    return { challenge, attestationKey, digest: endorsementKey.digest };
  } catch (error) {
    if (!(error instanceof EndorsementKeyRefused || error instanceof AttestationKeyRefused)) throw error;
    throw new ChallengeFailed("badKey", `${node} shows a key that can't be challenged: ${error.message}`, {
      cause: error,
      hint: "at 0x81010001 the TPM has something else than its endorsement key of the default template, or something else than a TPM answers; nothing secret was sent",
    });
  }
}

/**
 * @param pinned As in ChallengeOptions.
 * @throws EndorsementKeyRefused; ChallengeFailed for another one than the pinned
 */
export function pinnedEndorsementKey(
  node: string,
  publicArea: Uint8Array,
  pinned: string | undefined,
): EndorsementKey {
  const endorsementKey = readEndorsementKey(publicArea);
  const { digest } = endorsementKey;
  if (pinned !== undefined && digest !== pinned) {
    throw new ChallengeFailed(
      "otherTpm",
      `${node} has another TPM: the digest of its endorsement key is ${digest}, and ${pinned} is pinned`,
      {
        endorsementKeySha256: digest,
        hint: "if the TPM was replaced on purpose, compare the digest on the node's console, and pin it; nothing secret was sent",
      },
    );
  }
  return endorsementKey;
}

/** The tools say much before they say what matters; what refuses says it last. */
export const lastLine = (stderr: string): string =>
  (stderr.trim().split("\n").at(-1) ?? "").slice(0, 300) || "no error output";
