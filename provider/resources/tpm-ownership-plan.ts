import { quote } from "../device/shell-quote.ts";
import { debianPackage, run, type Step } from "../device/step.ts";
import { PlanRefused } from "../resource.ts";
import { onDevice } from "./managed-files.ts";
import { ownershipRecords, type TpmOwnershipState } from "./tpm-ownership-observation.ts";

/** What the plan needs of the inputs. */
export interface Ownership {
  readonly node: string;
  readonly recoveryPublicKey: string;
  readonly endorsementKeySha256?: string;
  readonly maxTries: number;
  readonly recoveryTime: number;
  readonly lockoutRecovery: number;
}

const functions = onDevice("own-tpm");

/** An RSA key takes a TPM on SPI up to half a minute, and commands of others come in between. */
const tpmSeconds = 180;

/** A step that calls one of the functions in `on-device/own-tpm`. */
function call(title: string, wanted: Ownership, command: string, stdin = ""): Step {
  return run({
    title,
    script: `set -eu
node=${quote(wanted.node)}
pinned=${quote(wanted.endorsementKeySha256 ?? "")}
${functions}
begin
${command}
`,
    stdin,
    timeoutSeconds: tpmSeconds,
  });
}

/**
 * Steps that take ownership. The keys come first, since making them persistent needs the owner authorization; the limits before the lockout authorization, which guards them.
 * @throws PlanRefused when there is no TPM 2.0, it is not the pinned one, or somebody else owns it or may own it.
 */
export function takeOwnership(wanted: Ownership, observed: TpmOwnershipState): readonly Step[] {
  requireOurs(wanted, observed);
  const { recoveryPublicKey, maxTries, recoveryTime, lockoutRecovery } = wanted;
  const limitsDiffer =
    observed.maxTries !== maxTries ||
    observed.recoveryTime !== recoveryTime ||
    observed.lockoutRecovery !== lockoutRecovery;
  if (limitsDiffer && observed.lockoutAuth === "ours")
    throw new PlanRefused(...limitsAreGuarded(wanted, observed));
  const take = (of: "owner" | "lockout"): Step =>
    call(`set the ${of} authorization of the TPM`, wanted, `take ${of}`, recoveryPublicKey);
  const isSet = (authorization: string): boolean => authorization === "ours";
  return [
    ...(observed.tools === "missing"
      ? ["tpm2-tools", "openssl"].map((name) =>
          debianPackage({ title: `install ${name}`, package: name, installed: true }),
        )
      : []),
    ...(observed.endorsementKey === "persistent"
      ? []
      : [call("make the endorsement key of the TPM persistent", wanted, "own_endorsement_key")]),
    ...(observed.storageKey === "persistent"
      ? []
      : [
          call(
            "make the storage root key of the TPM persistent",
            wanted,
            "own_endorsement_key\nown_storage_key",
          ),
        ]),
    ...(limitsDiffer
      ? [
          call(
            "limit how often the TPM lets authorizations be guessed",
            wanted,
            `own_endorsement_key\nlimit ${maxTries} ${recoveryTime} ${lockoutRecovery}`,
          ),
        ]
      : []),
    ...(isSet(observed.ownerAuth) ? [] : [take("owner")]),
    ...(isSet(observed.lockoutAuth) ? [] : [take("lockout")]),
  ];
}

function requireOurs(wanted: Ownership, observed: TpmOwnershipState): void {
  if (observed.tpm !== "2.0") {
    throw new PlanRefused(
      observed.tpm === "none" ? "the node has no TPM that its kernel drives" : "the node's TPM is a TPM 1.2",
      "plug in a TPM 2.0, and have its overlay in config.txt (edgeseal:boot:FirmwareConfig) and booted",
    );
  }
  const pinned = wanted.endorsementKeySha256;
  const found = observed.endorsementKeySha256;
  if (pinned !== undefined && found !== "none" && found !== pinned) {
    throw new PlanRefused(
      `this is another TPM: the digest of its endorsement key is ${found}, and ${pinned} is pinned`,
      "if the TPM was replaced on purpose, compare the digest on the node's console, pin it, and recover the volumes (edgeseal volume recover)",
    );
  }
  for (const [name, where] of [
    ["endorsementKey", "0x81010001"],
    ["storageKey", "0x81000001"],
  ] as const) {
    if (observed[name] === "other") {
      throw new PlanRefused(
        `at ${where} the TPM has something else than the ${name === "endorsementKey" ? "endorsement key of the default template" : "storage root key"}`,
        `see what it is (tpm2_readpublic -c ${where}) and evict it (tpm2_evictcontrol -C o -c ${where}), or clear the TPM`,
      );
    }
  }
  for (const name of ["owner", "lockout"] as const) {
    if (observed[`${name}Auth`] !== "pending") continue;
    throw new PlanRefused(
      `the ${name} authorization of the TPM is set, and setting it was cut off here: it is what \`recovery.${name}\` of the state holds, or somebody else's`,
      `have the TPM tell, and take it back if it is edgeseal's: ./edgeseal keys open ${wanted.node} tpm/${name} ... | ssh ... sudo tpm2_changeauth -c ${name} -p file:- (docs/resources/tpm-ownership.md, "Pending"); the next plan sets another then`,
    );
  }
  const foreign = (["ownerAuth", "lockoutAuth"] as const).filter((name) => observed[name] === "foreign");
  if (foreign.length === 0) return;
  const names = foreign.map((name) => name.replace("Auth", "")).join(" and ");
  const which =
    foreign.length === 1
      ? `the ${names} authorization of the TPM is set`
      : `the ${names} authorizations of the TPM are set`;
  if (observed.storageKey === "none") {
    throw new PlanRefused(
      `${which}, and there is no storage root key by which to tell whether edgeseal set them`,
      `whoever is root can take it away (tpm2_evictcontrol -C p), and it comes back with the owner authorization: if that is in ${ownershipRecords}/*/owner.recovery (or owner.pending), decrypt it with the site's recovery key and make the key persistent again (docs/resources/tpm-ownership.md), or clear the TPM (tpm2_clear)`,
    );
  }
  throw new PlanRefused(
    `${which}, and not by edgeseal`,
    `where edgeseal had set ${foreign.length === 1 ? "it" : "them"}, the ciphertext is gone from the node: put it back to ${foreign.map((name) => `${ownershipRecords}/*/${name.replace("Auth", "")}.recovery`).join(" and ")} (base64 -d), from \`recovery\` in the state of the stack, which keeps the last one; else whoever did it can take it back (tpm2_changeauth); or clear the TPM (tpm2_clear), which makes everything that is sealed to it unreadable`,
  );
}

/** Message and mend. */
function limitsAreGuarded(wanted: Ownership, observed: TpmOwnershipState): readonly [string, string] {
  const text = (
    of: Pick<Ownership, "maxTries" | "recoveryTime" | "lockoutRecovery"> | TpmOwnershipState,
  ): string =>
    `maxTries ${of.maxTries ?? "unknown"}, recoveryTime ${of.recoveryTime ?? "unknown"}, lockoutRecovery ${of.lockoutRecovery ?? "unknown"}`;
  return [
    `the TPM has ${text(observed)}, and has to have ${text(wanted)}: that takes the lockout authorization, which this program does not have`,
    `decrypt \`recovery.lockout\` of the state with the site's recovery key, and run on the node: tpm2_dictionarylockout --setup-parameters --max-tries=${wanted.maxTries} --recovery-time=${wanted.recoveryTime} --lockout-recovery-time=${wanted.lockoutRecovery} --auth=file:-; or declare what it has`,
  ];
}
