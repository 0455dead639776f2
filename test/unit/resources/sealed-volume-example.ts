import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { SealedVolumeInputs } from "../../../provider/resources/sealed-volume-inputs.ts";
import type { EventType } from "../../../provider/trust/event-log.ts";
import { approveState, formatApproval, signApproval } from "../../../provider/trust/approval.ts";
import { sha256Hex } from "../../../provider/trust/digest.ts";
import { testKey } from "../trust/keys.ts";
import { device } from "./sealed-volume-node.ts";

/** What `cryptsetup luksDump --dump-json-metadata` (2.7.5) printed of a volume after systemd-cryptenroll (257). */
export const luksJson = readFileSync(join(import.meta.dirname, "luks-headers/virtual-pi.json"), "utf8");

/** The policy key that it is bound to: its private half is gone. */
export const enrolledKey = Buffer.from(
  (JSON.parse(luksJson) as { tokens: { "0": { tpm2_pubkey: string } } }).tokens["0"].tpm2_pubkey,
  "base64",
).toString("latin1");

export const recovery = testKey("recovery");

/** The events of a boot of that node, as they are approved. */
export const events = (node: string): { type: EventType; name: string; digest: string }[] => [
  { type: "program", name: "", digest: sha256Hex("program") },
  { type: "node", name: node, digest: sha256Hex(node) },
  { type: "file", name: "config.txt", digest: sha256Hex("config") },
  { type: "tree", name: "/", digest: sha256Hex("config.txt\n") },
  { type: "cmdline", name: "", digest: sha256Hex("cmdline") },
  { type: "devicetree", name: "", digest: sha256Hex("none") },
];

/** A policy key, and the content of an approval that it signed. */
export async function approved(node = "pi-1", generation = 1, key = testKey("policy")) {
  const signing = { privateKey: key.privateKey, publicKey: key.publicKey };
  const state = await approveState(signing, {
    events: events(node),
    reason: "a test",
    now: "2026-01-01T00:00:00Z",
  });
  const approval = formatApproval(await signApproval(signing, { node, generation, states: [state] }));
  return { key, approval, pcr11: state.pcr11, pol: state.pol };
}

/** The site's policy key, and the node's approved state. */
export const site = await approved();

export const inputs: SealedVolumeInputs = {
  name: "models",
  device,
  filesystem: "ext4",
  mountPoint: "/srv/models",
  readOnly: false,
  mayErase: [],
  cipher: "auto",
  node: "pi-1",
  policyKey: site.key.publicKeyPem,
  generation: 1,
  approval: site.approval,
  recoveryKey: recovery.publicKeyPem,
};
