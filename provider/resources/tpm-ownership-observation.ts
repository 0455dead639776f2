import { Type, type Static } from "typebox";
import { outputOf, UnknownObservation, type PartOutput, type Probe } from "../device/probe.ts";
import type { Observed } from "../resource.ts";
import { isWholeCiphertext } from "../trust/recovery.ts";
import { oneOf } from "./state-schema.ts";

/** Persistent handles of the TCG's provisioning guidance (TPM v2.0 Provisioning Guidance, table 2; EK Credential Profile, 2.2.1.4). */
export const endorsementKeyHandle = "0x81010001";
export const storageKeyHandle = "0x81000001";

/** Recovery ciphertexts, in a folder for each storage root key. */
export const ownershipRecords = "/var/lib/edgeseal/tpm";

const authorization = (of: string) =>
  oneOf(
    ["ours", "pending", "foreign", "empty", "unknown"],
    `The ${of} authorization: \`ours\`: set by edgeseal, with its recovery ciphertext. \`pending\`: set, and edgeseal's setting of it was cut off, so that it may be what the ciphertext holds, or somebody else's. \`foreign\`: set, and nobody here knows to what. \`empty\`: anyone who is root owns the TPM.`,
  );

const persistentKey = (what: string) =>
  oneOf(
    ["persistent", "none", "other", "unknown"],
    `${what}: \`persistent\` where it belongs, \`none\`, or \`other\` when something else is there.`,
  );

const count = (description: string) => Type.Optional(Type.Integer({ description }));

export const tpmOwnershipState = Type.Object({
  tpm: oneOf(["2.0", "1.2", "none"], "The TPM that the kernel drives (/sys/class/tpm/tpm0)."),
  tools: oneOf(
    ["installed", "missing"],
    "Whether tpm2-tools and openssl are on the node; without them nothing more can be told.",
  ),
  manufacturer: Type.String({ description: "Manufacturer, e.g. `IFX` (Infineon); `unknown` without tools." }),
  firmwareVersion: Type.String({ description: "Firmware of the TPM, e.g. `7.85`; `unknown` without tools." }),
  endorsementKey: persistentKey("The endorsement key of the TCG's default RSA template, at 0x81010001"),
  endorsementKeySha256: Type.String({
    description:
      "SHA-256 of its public area (TPMT_PUBLIC), which is this TPM's identity: 64 hex digits; `none` as long as it is not persistent.",
  }),
  storageKey: persistentKey("The storage root key, at 0x81000001, under which systemd seals"),
  storageKeyType: oneOf(["ecc", "rsa", "none"], "Its kind."),
  storageKeySha256: Type.String({
    description: "SHA-256 of its public area, another one after each TPM2_Clear; `none` without one.",
  }),
  ownerAuth: authorization("owner"),
  lockoutAuth: authorization("lockout"),
  endorsementAuth: oneOf(["set", "empty", "unknown"], "The endorsement authorization; reported only."),
  maxTries: count("Wrong authorizations after which the TPM locks those objects that it protects so."),
  recoveryTime: count("Seconds after which one of them is forgotten."),
  lockoutRecovery: count("Seconds for which a wrong lockout authorization locks that one."),
  failedTries: count("Wrong authorizations that are not forgotten yet."),
  inLockout: oneOf(["yes", "no", "unknown"], "Whether the TPM is locked for too many of them."),
  platformHierarchy: oneOf(
    ["enabled", "disabled", "unknown"],
    "Whether the platform hierarchy is open in this boot. The firmware of a Raspberry Pi leaves it open and without an authorization, so that root can clear the TPM.",
  ),
  recovery: Type.Record(Type.String(), Type.String(), {
    description:
      "The authorizations `owner` and `lockout`, each encrypted to the site's recovery key (RSA-OAEP with SHA-256), in base64.",
  }),
  recoveryKey: Type.String({
    description: "Fingerprint of the recovery key that they are encrypted to; empty without any.",
  }),
});

export type TpmOwnershipState = Static<typeof tpmOwnershipState>;

/** The kernel's resource manager, for each of tpm2-tools. */
const tcti = `: "\${TPM2TOOLS_TCTI:=device:/dev/tpmrm0}"; export TPM2TOOLS_TCTI`;

const withTools = (script: string): string => `if [ ! -e /sys/class/tpm/tpm0 ]; then exit 0; fi
if ! command -v tpm2_getcap >/dev/null; then exit 0; fi
${tcti}
${script}`;

const parts = {
  kernel:
    "if [ -e /sys/class/tpm/tpm0 ]; then cat /sys/class/tpm/tpm0/tpm_version_major || exit 1; if command -v tpm2_getcap >/dev/null && command -v openssl >/dev/null; then echo tools; fi; fi",
  properties: withTools(`tpm2_getcap properties-fixed && tpm2_getcap properties-variable`),
  keys: withTools(`handles=$(tpm2_getcap handles-persistent) || exit 1
for handle in ${endorsementKeyHandle} ${storageKeyHandle}; do
  if printf '%s\\n' "$handles" | grep -qix -e "- $handle"; then
    echo "@ $handle"
    tpm2_readpublic -c "$handle" || exit 1
  fi
done`),
  records: `cd ${ownershipRecords} 2>/dev/null || exit 0
for file in */owner.recovery */lockout.recovery */owner.pending */lockout.pending */owner.key */lockout.key; do
  [ ! -f "$file" ] || printf '%s %s\\n' "$file" "$(head -c 4096 <"$file" | base64 -w 0)"
done`,
};

export const tpmOwnershipProbe: Probe<Observed<TpmOwnershipState>> = {
  id: "edgeseal:tpm:Ownership",
  parts,
  parse: (given) => ({ outcome: "present", state: parseTpmOwnership(given) }),
};

function parseTpmOwnership(given: Readonly<Record<string, PartOutput>>): TpmOwnershipState {
  const [version = "", tools = ""] = outputOf(given, "kernel").split("\n");
  const unseen: TpmOwnershipState = {
    tpm: tpmOf(version),
    tools: tools === "tools" ? "installed" : "missing",
    manufacturer: "unknown",
    firmwareVersion: "unknown",
    endorsementKey: "unknown",
    endorsementKeySha256: "none",
    storageKey: "unknown",
    storageKeyType: "none",
    storageKeySha256: "none",
    ownerAuth: "unknown",
    lockoutAuth: "unknown",
    endorsementAuth: "unknown",
    inLockout: "unknown",
    platformHierarchy: "unknown",
    recovery: {},
    recoveryKey: "",
  };
  if (unseen.tpm !== "2.0" || unseen.tools === "missing") return unseen;
  const properties = outputOf(given, "properties");
  const keys = parseKeys(outputOf(given, "keys"));
  const endorsement = keys.get(endorsementKeyHandle);
  const storage = keys.get(storageKeyHandle);
  const records = parseRecords(outputOf(given, "records"));
  const recordOf = (name: string): string | undefined =>
    storage === undefined ? undefined : records.get(`${storage.digest}/${name}`);
  const authorizationOf = (name: "owner" | "lockout"): TpmOwnershipState["ownerAuth"] => {
    if (!flag(properties, `${name}AuthSet`)) return "empty";
    if (recordOf(`${name}.pending`) !== undefined) return "pending";
    return isWhole(recordOf(`${name}.recovery`)) ? "ours" : "foreign";
  };
  const recovery = Object.fromEntries(
    ["owner", "lockout"].flatMap((name): [string, string][] => {
      const ciphertext = recordOf(`${name}.pending`) ?? recordOf(`${name}.recovery`);
      return isWhole(ciphertext) && flag(properties, `${name}AuthSet`) ? [[name, ciphertext]] : [];
    }),
  );
  return {
    ...unseen,
    manufacturer: textOf(properties, "TPM2_PT_MANUFACTURER"),
    firmwareVersion: firmwareVersionOf(properties),
    endorsementKey:
      endorsement === undefined ? "none" : isDefaultEndorsementKey(endorsement) ? "persistent" : "other",
    endorsementKeySha256: endorsement?.digest ?? "none",
    storageKey: storage === undefined ? "none" : isStorageKey(storage) ? "persistent" : "other",
    storageKeyType: storage?.type === "ecc" || storage?.type === "rsa" ? storage.type : "none",
    storageKeySha256: storage?.digest ?? "none",
    ownerAuth: authorizationOf("owner"),
    lockoutAuth: authorizationOf("lockout"),
    endorsementAuth: flag(properties, "endorsementAuthSet") ? "set" : "empty",
    maxTries: number(properties, "TPM2_PT_MAX_AUTH_FAIL"),
    recoveryTime: number(properties, "TPM2_PT_LOCKOUT_INTERVAL"),
    lockoutRecovery: number(properties, "TPM2_PT_LOCKOUT_RECOVERY"),
    failedTries: number(properties, "TPM2_PT_LOCKOUT_COUNTER"),
    inLockout: flag(properties, "inLockout") ? "yes" : "no",
    platformHierarchy: flag(properties, "phEnable") ? "enabled" : "disabled",
    recovery,
    recoveryKey: fromBase64(recordOf("owner.key") ?? recordOf("lockout.key") ?? "").trim(),
  };
}

const isWhole = (ciphertext: string | undefined): ciphertext is string =>
  ciphertext !== undefined && isWholeCiphertext(ciphertext);

const fromBase64 = (text: string): string => Buffer.from(text, "base64").toString("latin1");

function tpmOf(version: string): TpmOwnershipState["tpm"] {
  if (version === "") return "none";
  if (version === "2") return "2.0";
  if (version === "1") return "1.2";
  throw new UnknownObservation(
    `the kernel tells no version of the TPM that is known: '${version.slice(0, 40)}'`,
  );
}

/** A line `NAME: VALUE` of tpm2_getcap. */
function valueOf(properties: string, name: string): string {
  const found = new RegExp(`^ *${name}: *(.+)$`, "m").exec(properties)?.[1];
  if (found === undefined) throw new UnknownObservation(`tpm2_getcap did not tell ${name}`);
  return found.trim();
}

function flag(properties: string, name: string): boolean {
  const value = valueOf(properties, name);
  if (value !== "0" && value !== "1")
    throw new UnknownObservation(`tpm2_getcap tells '${value}' for ${name}`);
  return value === "1";
}

function number(properties: string, name: string): number {
  const value = valueOf(properties, name);
  if (!/^0x[0-9A-Fa-f]{1,8}$/.test(value))
    throw new UnknownObservation(`tpm2_getcap tells '${value}' for ${name}`);
  return Number(value);
}

/** The lines that belong to a property of the fixed ones: `raw` and, of text, `value`. */
function detailOf(properties: string, name: string, key: "raw" | "value"): string {
  const block = new RegExp(`^${name}:\\n((?:  .*\\n?)+)`, "m").exec(properties)?.[1] ?? "";
  const found = new RegExp(`^ +${key}: *(.+)$`, "m").exec(block)?.[1];
  if (found === undefined) throw new UnknownObservation(`tpm2_getcap did not tell ${name}`);
  return found.trim();
}

const textOf = (properties: string, name: string): string =>
  detailOf(properties, name, "value").replaceAll('"', "").trim();

/** The first word's halves are what manufacturers print as the version. */
function firmwareVersionOf(properties: string): string {
  const raw = Number(detailOf(properties, "TPM2_PT_FIRMWARE_VERSION_1", "raw"));
  return `${raw >>> 16}.${raw & 0xffff}`;
}

interface PersistentKey {
  readonly digest: string;
  readonly type: string;
  readonly attributes: readonly string[];
  readonly policy: string;
}

function parseKeys(output: string): ReadonlyMap<string, PersistentKey> {
  const keys = new Map<string, PersistentKey>();
  for (const section of output.split(/^@ /m).slice(1)) {
    const [handle = "", ...rest] = section.split("\n");
    const text = rest.join("\n");
    const digest = /^name: 000b([0-9a-f]{64})$/m.exec(text)?.[1];
    const attributes = /^attributes:\n +value: (.+)$/m.exec(text)?.[1];
    const type = /^type:\n +value: (.+)$/m.exec(text)?.[1];
    if (digest === undefined || attributes === undefined || type === undefined)
      throw new UnknownObservation(`tpm2_readpublic did not tell the key at ${handle.slice(0, 40)}`);
    const policy = /^authorization policy: ([0-9a-f]+)$/m.exec(text)?.[1] ?? "";
    keys.set(handle, { digest, type, attributes: attributes.split("|"), policy });
  }
  return keys;
}

/** PolicySecret of the endorsement hierarchy with SHA-256 (EK Credential Profile, B.3.1). */
const endorsementPolicy = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa";

const has = (key: PersistentKey, ...attributes: readonly string[]): boolean =>
  attributes.every((each) => key.attributes.includes(each));

const isDefaultEndorsementKey = (key: PersistentKey): boolean =>
  key.type === "rsa" &&
  key.policy === endorsementPolicy &&
  has(key, "fixedtpm", "fixedparent", "sensitivedataorigin", "adminwithpolicy", "restricted", "decrypt");

const isStorageKey = (key: PersistentKey): boolean =>
  has(key, "fixedtpm", "fixedparent", "sensitivedataorigin", "userwithauth", "restricted", "decrypt");

function parseRecords(output: string): ReadonlyMap<string, string> {
  const records = new Map<string, string>();
  for (const line of output.split("\n").filter((each) => each !== "")) {
    const [name = "", text = "", ...more] = line.split(" ");
    if (more.length > 0 || !/^[A-Za-z0-9+/]*=*$/.test(text))
      throw new UnknownObservation(
        `unexpected line in a listing of ${ownershipRecords}: '${line.slice(0, 120)}'`,
      );
    records.set(name, text);
  }
  return records;
}
