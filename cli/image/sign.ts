import type { SigningKey } from "../../provider/trust/signer.ts";
import { writeDurably } from "../durable-file.ts";
import { packArchive, readLayout } from "./archive.ts";
import { checkImage } from "./check.ts";
import { formatReference, type ImageReference } from "./reference.ts";
import { signatureFile, signImage } from "./signature.ts";
import { signaturesOf } from "./verify.ts";

export interface SignedArchive {
  readonly archive: string;
  readonly digest: string;
  readonly reference: string;
  readonly signatures: number;
  readonly bytes: number;
}

/**
 * Signs an image and writes it as an archive, with the signatures that it had. What is signed is checked first, to the byte.
 * @param image Folder or archive.
 * @param openKey Called when everything else is in order: nobody types a passphrase for nothing.
 * @throws UserError, KeyUnusable
 */
export async function signArchive(
  image: string,
  reference: ImageReference,
  openKey: () => Promise<SigningKey>,
  archive: string,
): Promise<SignedArchive> {
  const layout = await readLayout(image);
  const checked = checkImage(image, layout);
  const former = [...signaturesOf(image, checked).values()];
  const fresh = await signImage(await openKey(), checked.digest, reference);
  // The same key signs the same again in the same bytes, when it is RSA.
  const others = former.filter((each) => !signatureFile(each).equals(signatureFile(fresh)));
  const all = [...others, fresh];
  const files = new Map([...layout].filter(([name]) => !checked.signatures.has(name)));
  all.forEach((each, index) => files.set(`signature-${index + 1}`, signatureFile(each)));
  const bytes = await packArchive(files, checked.created);
  await writeDurably(archive, bytes, 0o644);
  return {
    archive,
    digest: checked.digest,
    reference: formatReference(reference),
    signatures: all.length,
    bytes: bytes.length,
  };
}
