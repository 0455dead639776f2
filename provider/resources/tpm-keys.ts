import type { Session } from "../device/session.ts";
import { EndorsementKeyRefused, type EndorsementKey } from "../trust/credential.ts";
import { StorageKeyRefused, storageKeyName } from "../trust/storage-key.ts";
import { ChallengeFailed, lastLine, pinnedEndorsementKey, requireTpm, runOnNode } from "./tpm-challenge.ts";

/** What a secret is wrapped for, so that one TPM alone gives it back. */
export interface TpmKeys {
  readonly endorsementKey: EndorsementKey;
  /** The TPM's name of its storage root key, 34 bytes. It is another one after TPM2_Clear. */
  readonly storageKeyName: Buffer;
}

/**
 * Reads the public areas of a node's endorsement key and of its storage root key, in one exec; nothing is changed, and nothing stays there. That the TPM has them is not asked: what is wrapped
 * for the pinned endorsement key no other TPM opens, whoever showed it.
 * @param pinned SHA-256 of the public area of the endorsement key that it must have.
 * @throws ChallengeFailed, DeviceError
 */
export async function readTpmKeys(
  session: Session,
  { pinned, signal }: { readonly pinned: string; readonly signal?: AbortSignal },
): Promise<TpmKeys> {
  const { node } = session;
  const output = await runOnNode(session, "show_keys", signal);
  requireTpm(node, output);
  if (output.code === 68)
    throw new ChallengeFailed("failed", `the TPM of ${node} has no storage root key`, {
      hint: "edgeseal:tpm:Ownership makes it persistent: have a `tpm` block in the site file, and run pulumi up",
    });
  const shown = (name: string): string | undefined =>
    new RegExp(`^${name} ((?:[0-9a-f]{2})+)$`, "m").exec(output.stdout)?.[1];
  const endorsement = shown("endorsement-key");
  const storage = shown("storage-key");
  if (output.code !== 0 || endorsement === undefined || storage === undefined)
    throw new ChallengeFailed("failed", `${node} can't show its TPM: ${lastLine(output.stderr)}`, {
      hint: "`sudo tpm2_getcap properties-variable` on the node tells more (a lockout, an authorization that is set)",
    });
  try {
    return {
      endorsementKey: pinnedEndorsementKey(node, Buffer.from(endorsement, "hex"), pinned),
      storageKeyName: storageKeyName(Buffer.from(storage, "hex")),
    };
  } catch (error) {
    if (!(error instanceof EndorsementKeyRefused || error instanceof StorageKeyRefused)) throw error;
    throw new ChallengeFailed(
      "badKey",
      `${node} shows a key that nothing can be wrapped for: ${error.message}`,
      {
        cause: error,
        hint: "at 0x81010001 or 0x81000001 the TPM has something else than its endorsement key and storage root key of the default templates",
      },
    );
  }
}
