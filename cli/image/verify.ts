import type { KeyObject } from "node:crypto";
import { UserError } from "../errors.ts";
import { damaged, type CheckedImage } from "./check.ts";
import { parseSignatureFile, SignatureRefused, verifySignature, type ImageSignature } from "./signature.ts";

/** The signatures of an image, by their files' names. @throws UserError with every problem */
export function signaturesOf(
  path: string,
  { signatures }: Pick<CheckedImage, "signatures">,
): ReadonlyMap<string, ImageSignature> {
  const parsed = new Map<string, ImageSignature>();
  const problems = refusals(path, signatures, (bytes, name) => {
    parsed.set(name, parseSignatureFile(bytes));
  });
  if (problems.length > 0) throw new UserError(problems.join("\n"), { hint: damaged });
  return parsed;
}

/** What one of the keys vouches for. */
export interface VerifiedImage {
  /** Name of the key. */
  readonly signedBy: string;
  /** `HOST/REPOSITORY:TAG`, as it was signed. */
  readonly reference: string;
}

/**
 * Verifies that an image is signed, as podman on a node will: by one of the keys, this very image, and for the name when one is asked for. One signature that fits is
 * enough.
 * @throws UserError with what is wrong with each signature
 */
export function verifyImage(
  path: string,
  image: CheckedImage,
  keys: ReadonlyMap<string, KeyObject>,
  reference?: string,
): VerifiedImage {
  const signatures = signaturesOf(path, image);
  const fitting: VerifiedImage[] = [];
  const refused = refusals(path, signatures, (signature) => {
    fitting.push(verifySignature(signature, { digest: image.digest, reference, keys }));
  });
  const [verified] = fitting;
  if (verified !== undefined) return verified;
  if (refused.length === 0) {
    throw new UserError(`${path} has no signature`, {
      hint: "edgeseal image sign IMAGE --as HOST/REPOSITORY:TAG --key KEY --out ARCHIVE",
    });
  }
  throw new UserError(refused.join("\n"), {
    hint: "nodes refuse it; sign it with a key that they know: edgeseal image sign",
  });
}

/** Why each of them is refused that is. */
function refusals<T>(
  path: string,
  of: ReadonlyMap<string, T>,
  judge: (each: T, name: string) => void,
): readonly string[] {
  return [...of].flatMap(([name, each]) => {
    try {
      judge(each, name);
      return [];
    } catch (error) {
      if (!(error instanceof SignatureRefused)) throw error;
      return [`${path}: ${name}: ${error.message}`];
    }
  });
}
