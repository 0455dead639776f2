/*
 * Why a command is not run on a node; told for a line of the site file by `edgeseal site check`, and for programs when the hook is registered. One place, so that both
 * refuse the same.
 */

/** What of a node decides about it, as far as it is known. */
export interface HookTarget {
  readonly hostKey?: unknown;
  readonly privateKey?: unknown;
  readonly identityCommand?: unknown;
  readonly identityFile?: unknown;
  readonly agent?: unknown;
}

/** Type and key of a host key, without the comment that a .pub file has after them; `undefined` for a fingerprint. */
export const wholeHostKey = (text: string): string | undefined =>
  /^[a-z0-9-]+ [A-Za-z0-9+/]+=*(?= |$)/.exec(text)?.[0];

export const needsWholeKey =
  "a command on the node needs its whole host key, and `hostKey` is a fingerprint; write the line of /etc/ssh/ssh_host_ed25519_key.pub there, type and key";
const needsAgent =
  "a command on the node would take the private key of `identityFile` or `identityCommand` into Pulumi's state; give the node an ssh agent (`agent`), or a `privateKey` from Pulumi configuration";
/** ssh alone tells who is there, and a copy of the disk has its host key: that the node's TPM is at hand is for a challenge to show, which such a command knows nothing of. */
const needsNoSecrets =
  "its `environment` would go to whoever has the node's host key, which lies on its disk: the node's TPM is not asked before a hook; keep what the command needs on a sealed volume of the node, or run it `here`";

/** Every reason why a command can't be run on that node. */
export function onNodeFaults(
  { environment }: { readonly environment?: unknown },
  { hostKey, privateKey, identityCommand, identityFile, agent }: HookTarget,
): readonly string[] {
  const hasSecrets =
    typeof environment === "object" && environment !== null && Object.keys(environment).length > 0;
  const keyComesOtherwise = identityCommand !== undefined || identityFile !== undefined;
  return [
    ...(typeof hostKey === "string" && wholeHostKey(hostKey) === undefined ? [needsWholeKey] : []),
    ...(privateKey === undefined && keyComesOtherwise && agent === undefined ? [needsAgent] : []),
    ...(hasSecrets ? [needsNoSecrets] : []),
  ];
}
