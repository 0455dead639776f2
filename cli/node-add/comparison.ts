import { createHash } from "node:crypto";
import { fingerprint, type HostKeyPin } from "../../provider/device/host-key.ts";
import type { ShownHostKey } from "../../provider/device/scan-host-key.ts";
import { UserError } from "../errors.ts";

/*
 * The check line: what a device's console prints in `first-contact`, short enough to be read out and typed: 96 bits of the digest of the host key, in hex and in groups, and
 * 96 bits of that of the TPM's endorsement key, or `no-tpm`. To find another host key with the same 96 bits takes 2^96 key pairs; no key pair of one's own is of use, since
 * the device's is what the line is made of.
 */

/** A check line as somebody gave it. */
export interface CheckLine {
  /** The first 24 hex digits of the SHA-256 of the host key. */
  readonly host: string;
  /** The same of the endorsement key; `none` for a device without a TPM; `undefined` when the line is only of the host key. */
  readonly endorsement: string | undefined;
}

const digits = 24;
const noTpm = "no-tpm";

/**
 * Reads a check line, however it was grouped.
 * @returns undefined for something else
 */
export function parseCheckLine(text: string): CheckLine | undefined {
  const words = text.trim().toLowerCase();
  const without = words.replace(new RegExp(`\\s${noTpm}$`), "");
  const hex = without.replaceAll(/[\s-]/g, "");
  const whole = without === words && hex.length === 2 * digits;
  if (!/^[0-9a-f]+$/.test(hex) || (!whole && hex.length !== digits)) return undefined;
  return {
    host: hex.slice(0, digits),
    endorsement: whole ? hex.slice(digits) : without === words ? undefined : "none",
  };
}

const grouped = (hex: string): string => hex.slice(0, digits).replaceAll(/(.{4})(?=.)/g, "$1-");

const digestOf = (key: ShownHostKey): string => createHash("sha256").update(key.blob).digest("hex");

/** The first part of the line, which is known before anything is sent. */
export const hostPart = (key: ShownHostKey): string => grouped(digestOf(key));

/** The second part. @param endorsementKey digest, `none`, or `undefined` when it could not be read. */
export const endorsementPart = (endorsementKey: string | undefined): string | undefined =>
  endorsementKey === undefined ? undefined : endorsementKey === "none" ? noTpm : grouped(endorsementKey);

/** What the host key has to be, as somebody read it at the console. At least one of them. */
export interface Expectation {
  readonly pin?: HostKeyPin;
  readonly line?: CheckLine;
}

/** Whether a host key is the expected one, in every way that it is expected. */
export const isExpected = ({ pin, line }: Expectation, key: ShownHostKey): boolean =>
  (pin === undefined || pin.matches(key.blob)) && (line === undefined || digestOf(key).startsWith(line.host));

/** An expectation in words. */
export const expectationText = ({ pin, line }: Expectation): string =>
  [...(pin === undefined ? [] : [pin.text]), ...(line === undefined ? [] : [grouped(line.host)])].join(
    " and ",
  );

/** What is wrong with a device's endorsement key, held against a check line; `undefined` when nothing is, or the line does not say. */
export function endorsementFault(line: CheckLine, endorsementKey: string | undefined): string | undefined {
  const { endorsement } = line;
  if (endorsement === undefined) return undefined;
  if (endorsementKey === undefined)
    return "the device's TPM did not tell its endorsement key, so it can't be compared with the check line";
  const fits = endorsement === "none" ? endorsementKey === "none" : endorsementKey.startsWith(endorsement);
  return fits
    ? undefined
    : `the TPM is not the one of the check line: expected ${endorsementPart(endorsement) ?? ""}, the device has ${endorsementPart(endorsementKey) ?? ""}`;
}

/** What a person typed after comparing. */
export type Answer =
  | { readonly says: "compared"; readonly how: string; readonly line?: CheckLine }
  | { readonly says: "differs" }
  | { readonly says: "no" };

/** Of a fingerprint in base64, this many characters have to be typed: 96 bits, as of the check line, since a key that shares fewer can be searched for. */
const fingerprintDigits = 16;

/**
 * Judges what was typed: the check line, or its first part, or the beginning of the fingerprint, as the console shows it; or `yes`.
 * Something else that has the form of one of them differs, and that is no typing mistake until a person has looked again.
 */
export function judgeAnswer(typed: string, key: ShownHostKey): Answer {
  const answer = typed.trim();
  if (answer.toLowerCase() === "yes") return { says: "compared", how: "yes, typed after comparing" };
  const line = parseCheckLine(answer);
  if (line !== undefined) {
    return isExpected({ line }, key)
      ? { says: "compared", how: "the check line, typed", line }
      : { says: "differs" };
  }
  const bare = answer.replace(/^SHA256:/, "");
  if (bare.length < fingerprintDigits) return { says: "no" };
  return fingerprint(key.blob).slice("SHA256:".length).startsWith(bare)
    ? { says: "compared", how: "the beginning of the fingerprint, typed" }
    : { says: "differs" };
}

/**
 * Reads `--expect`.
 * @throws UserError
 */
export function requireCheckLine(text: string): CheckLine {
  const line = parseCheckLine(text);
  if (line !== undefined) return line;
  throw new UserError(`--expect takes the check line of the device's console, got '${text}'`, {
    hint: text.startsWith("SHA256:")
      ? "a fingerprint is given with --host-key"
      : "it is six groups of four hex digits for the host key, and as many for the TPM or `no-tpm`; `edgeseal node console-script` prints the script that shows it",
  });
}
