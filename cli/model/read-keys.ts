import { ChallengeFailed } from "../../provider/resources/tpm-challenge.ts";
import { readTpmKeys, type TpmKeys } from "../../provider/resources/tpm-keys.ts";
import { createSession, type Session } from "../../provider/device/session.ts";
import { ssh2Transport } from "../../provider/device/ssh2-transport.ts";
import { UserError } from "../errors.ts";
import { siteNode, type SiteNode } from "../site-node.ts";

/**
 * Asks a node of a site for the keys of its TPM; only the one that the site file pins will do.
 * @param session Only for tests.
 * @throws UserError, DeviceError
 */
export async function readKeysOfNode(
  siteFile: string,
  node: string,
  options: {
    readonly stack?: string | undefined;
    readonly signal: AbortSignal;
    readonly session?: Session;
  },
): Promise<TpmKeys> {
  const { spec, connection } = await siteNode(siteFile, node, options.stack);
  const pinned = pinOf(siteFile, node, spec);
  const session =
    options.session ?? createSession({ connection: await connection(), transport: ssh2Transport() });
  try {
    return await readTpmKeys(session, { pinned, signal: options.signal });
  } catch (error) {
    if (!(error instanceof ChallengeFailed)) throw error;
    throw new UserError(error.message, {
      cause: error,
      ...(error.hint === undefined ? {} : { hint: error.hint }),
    });
  } finally {
    await session.close();
  }
}

function pinOf(siteFile: string, node: string, { blocks }: SiteNode["spec"]): string {
  const pinned = blocks.tpm?.endorsementKeySha256;
  if (pinned === undefined)
    throw new UserError(
      `${siteFile} pins no TPM for ${node}: the model would be encrypted to whatever answers there`,
      {
        hint: "compare the digest of its endorsement key on the node's console (`edgeseal node add`), and give the node `tpm.endorsementKeySha256`",
      },
    );
  return pinned;
}
