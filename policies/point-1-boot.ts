import { atLeast, levelReached } from "../provider/trust/level.ts";
import { bootEvidence } from "./boot-evidence.ts";
import { control, holdsUnknown, pass, unknown, violation, type Judgement } from "./control.ts";
import { unknownValue, type BlockStates, type JudgedNode, type RawBlock } from "./node.ts";

/** The level that a site asks for. */
const wanted = ({ assurance = "baseline" }: JudgedNode): "measured" | "verified" =>
  assurance === "strict" ? "verified" : "measured";

/** Point 1: verified boot or bootloader signature checks; a TPM or secure element present and used. */
export const bootControls = [
  control({
    id: "1.verified-boot",
    point: 1,
    title: "The board loads only a signed boot image, and the key for it is locked in OTP",
    mend: "provision the board on the bench with rpi-sb-provisioner (it burns the key's digest into OTP, for good), and set `boot: { require: signed-boot-locked }`, the default",
    block: "boot",
    declared: {
      reads: ["require"],
      judge: ({ require, customerKeySha256 }) =>
        require === "signed-boot-locked"
          ? pass(`boot.require is "signed-boot-locked", key ${customerKeySha256 ?? "any"}`)
          : violation(`boot.require is ${JSON.stringify(require)}`),
    },
    observed: {
      reads: ["signedBits", "signedBootEnabled", "otpKeyLocked", "customerKeySha256"],
      judge: ({ signedBits, signedBootEnabled, otpKeyLocked, customerKeySha256 }) => {
        const evidence = `signed ${signedBits}: signed boot ${signedBootEnabled}, key locked in OTP ${otpKeyLocked}, key ${customerKeySha256}`;
        if (signedBootEnabled === "yes" && otpKeyLocked === "yes") return pass(evidence);
        // What is known to be off is a violation, whatever else the firmware keeps to itself.
        return signedBootEnabled === "no" || otpKeyLocked === "no" ? violation(evidence) : unknown(evidence);
      },
    },
  }),
  control({
    id: "1.measured-boot",
    point: 1,
    title: "The boot is measured into the TPM, and what was measured is approved",
    mend: "give the node a `measuredBoot` block and sealed `volumes`; after a boot that was measured, `edgeseal approve NODE`, have the approval reviewed, and apply it (docs/trust.md)",
    block: "measuredBoot",
    alsoReads: ["volumes", "boot"],
    declared: {
      reads: ["node"],
      judge: (_, node) =>
        wanted(node) === "measured"
          ? pass("measured in the initramfs, approvals signed by the site's policy key")
          : violation(
              "`assurance: strict` asks for level verified, which takes a fresh quote checked off the device: edgeseal does not check quotes yet",
            ),
    },
    observed: {
      reads: ["replay", "measured", "pcr11"],
      judge: ({ pcr11 }, node) => {
        const { level, lacking } = levelReached(bootEvidence(node));
        if (atLeast(level, wanted(node))) return pass(`level ${level}, PCR 11 ${pcr11.slice(0, 16)}...`);
        return violation(`level ${level}; for the next it lacks ${lacking.join("; ")}`);
      },
    },
  }),
  control({
    id: "1.tpm",
    point: 1,
    title: "A TPM 2.0 is present and used, its owner and lockout authorizations set by edgeseal",
    mend: "give the node a `tpm` block, and in it `endorsementKeySha256`, compared on the node's console (docs/resources/tpm-ownership.md)",
    block: "tpm",
    declared: {
      reads: ["maxTries"],
      judge: ({ endorsementKeySha256: pin }, node) => {
        if (holdsUnknown(pin)) return unknown("tpm.endorsementKeySha256 is not known at this time");
        return pin === undefined && node.assurance === "strict"
          ? violation(anyTpm)
          : pass(`owner and lockout authorization set, endorsement key ${pin ?? "any"}`);
      },
    },
    observed: {
      reads: ["tpm", "endorsementKey", "endorsementKeySha256", "storageKey", "ownerAuth", "lockoutAuth"],
      judge: (state, node) => {
        const identity = identityJudgement(state.endorsementKeySha256, node);
        const facts = ownershipFacts(state);
        // What is known to be wrong is a violation, whatever else is not known.
        const wrong = facts.filter(({ found, wanted }) => found !== wanted && found !== "unknown");
        const unclear = facts.filter(({ found }) => found === "unknown");
        const texts = (some: typeof facts): string[] => some.map(({ what, found }) => `${what} ${found}`);
        const worst = (outcome: Judgement["outcome"], of: typeof facts): string =>
          [...texts(of), ...(identity.outcome === outcome ? [identity.evidence] : [])].join(", ");
        if (wrong.length > 0 || identity.outcome === "violation") return violation(worst("violation", wrong));
        if (unclear.length > 0 || identity.outcome === "unknown") return unknown(worst("unknown", unclear));
        return pass([...texts(facts), identity.evidence].join(", "));
      },
    },
  }),
] as const;

const anyTpm = "no endorsement key is pinned, so any TPM would do; `assurance: strict` asks for this node's";

/** What has to be found of a TPM that is owned. */
function ownershipFacts(
  state: Pick<BlockStates["tpm"], "tpm" | "endorsementKey" | "storageKey" | "ownerAuth" | "lockoutAuth">,
): readonly { readonly what: string; readonly found: string; readonly wanted: string }[] {
  return [
    { what: "TPM", found: state.tpm, wanted: "2.0" },
    { what: "endorsement key", found: state.endorsementKey, wanted: "persistent" },
    { what: "storage root key", found: state.storageKey, wanted: "persistent" },
    { what: "owner authorization", found: state.ownerAuth, wanted: "ours" },
    { what: "lockout authorization", found: state.lockoutAuth, wanted: "ours" },
  ];
}

/** Whether the TPM that answered is the one that the node must have. Where none is pinned, the level that the site asks for decides. */
function identityJudgement(found: string, { asked = {}, assurance }: JudgedNode): Judgement {
  const inputs = asked.tpm;
  const pin =
    inputs === unknownValue ? unknownValue : (inputs as RawBlock | undefined)?.["endorsementKeySha256"];
  if (pin === undefined)
    return assurance === "strict" ? violation(anyTpm) : pass(`digest ${short(found)}, none is pinned`);
  if (typeof pin !== "string") return unknown("which endorsement key is pinned is not known");
  if (found === "none") return unknown("its digest is not known");
  return pin === found
    ? pass(`digest ${short(found)} as pinned`)
    : violation(`digest ${short(found)}, pinned is ${short(pin)}`);
}

const short = (digest: string): string => (digest.length > 16 ? `${digest.slice(0, 16)}...` : digest);
