import type { Approval } from "../trust/approval-schema.ts";
import { signatureFile, parseApproval } from "../trust/approval.ts";
import { fingerprint, readPublicKey } from "../trust/public-key.ts";
import { onDevice, type ManagedFile } from "./managed-files.ts";
import type { SealedVolumeInputs } from "./sealed-volume-inputs.ts";

/** Directory on a node with the settings (`NAME.conf`) and the pins (`NAME.pins`) of its volumes. */
export const settingsDirectory = "/etc/edgeseal/volumes";
/** What decides whether a volume opens: the public halves of the site's keys, and the approvals. */
export const trustDirectory = "/etc/edgeseal/trust";
/** How far each volume came: `NAME/formation`, `NAME/recovery`, and `NAME/partition` where edgeseal made one. */
export const recordsDirectory = "/var/lib/edgeseal/volumes";
/** What became of each volume in this boot: written by the unlock program, and by the formation. */
export const statusDirectory = "/run/edgeseal/volumes";

export const unlockUnit = "edgeseal-volumes.service";
export const capUnit = "edgeseal-cap-pcr15.service";
export const unlockProgram = "/usr/lib/edgeseal/unlock-volumes";

/** The functions that look at a device and form a volume; sent within probes and steps. */
export const formVolume = onDevice("form-volume");

const programs = {
  [unlockProgram]: onDevice("unlock-volumes"),
  "/usr/lib/edgeseal/cap-pcr15": onDevice("cap-pcr15"),
} as const;

const units = {
  [`/etc/systemd/system/${unlockUnit}`]: onDevice(unlockUnit),
  [`/etc/systemd/system/${capUnit}`]: onDevice(capUnit),
} as const;

/** What has each unit start: the cap, on each way on which the system may come up to a shell, and when a TPM appears late. */
export const wantedBy: Readonly<Record<typeof unlockUnit | typeof capUnit, readonly string[]>> = {
  [unlockUnit]: wantedByOf(onDevice(unlockUnit)),
  [capUnit]: wantedByOf(onDevice(capUnit)),
};

function wantedByOf(unit: string): readonly string[] {
  return /^WantedBy=(.*)$/m.exec(unit)?.[1]?.split(" ") ?? [];
}

/** The device mapper's name of a volume; `/dev/mapper/` has it. */
export const mappingOf = (name: string): string => `edgeseal-${name}`;

/**
 * Every file of a volume on its node that depends on the inputs alone. All but the first are the same for all volumes of a node, which share a site's keys.
 * @throws ApprovalRefused, PublicKeyRefused for inputs that `check` refuses.
 */
export function managedFiles(inputs: SealedVolumeInputs): readonly ManagedFile[] {
  const { name, mountPoint, filesystem, readOnly, generation, policyKey, recoveryKey, approval } = inputs;
  const settings = [
    "# Written by edgeseal (edgeseal:storage:SealedVolume).",
    `mount-point=${mountPoint}`,
    `filesystem=${filesystem}`,
    `read-only=${readOnly}`,
  ];
  return [
    { path: `${settingsDirectory}/${name}.conf`, mode: "0600", content: `${settings.join("\n")}\n` },
    {
      path: `${trustDirectory}/policy-${generation}.pub.pem`,
      mode: "0644",
      content: pem(policyKey, "policy"),
    },
    { path: `${trustDirectory}/recovery.pub.pem`, mode: "0644", content: pem(recoveryKey, "recovery") },
    // None given is none taken away: a path that is wrong, or another branch, would else lock every volume at its next boot.
    ...(approval === undefined ? [] : [approvalsFile(parseApproval(approval))]),
    ...Object.entries(programs).map(([path, content]) => ({ path, mode: "0755", content })),
    ...Object.entries(units).map(([path, content]) => ({ path, mode: "0644", content })),
  ];
}

/** Whether a file of ours is a unit, which systemd has to be told of. */
export const isUnit = (path: string): boolean => path in units;

/** One spelling of a key, whatever line ends and white space a site's file has. */
const pem = (text: string, purpose: "policy" | "recovery"): string =>
  readPublicKey(text, purpose).export({ type: "spki", format: "pem" }).toString();

/** What a node's volumes open by. */
export const approvalsPath = `${trustDirectory}/approvals.json`;

/** The signatures that a node's volumes open by, in systemd's form. */
export const approvalsFile = (approval: Approval): ManagedFile => ({
  path: approvalsPath,
  mode: "0644",
  content: `${JSON.stringify(signatureFile(approval), undefined, 1)}\n`,
});

/** Fingerprints of the site's keys, as the state has them. */
export const policyKeyOf = (inputs: SealedVolumeInputs): string =>
  fingerprint(readPublicKey(inputs.policyKey, "policy"));
export const recoveryKeyOf = (inputs: SealedVolumeInputs): string =>
  fingerprint(readPublicKey(inputs.recoveryKey, "recovery"));
