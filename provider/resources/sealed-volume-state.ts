import { Type, type Static } from "typebox";
import { oneOf, texts, textsByName } from "./state-schema.ts";

/** What is read back of `edgeseal:storage:SealedVolume`. Everything but what is said to come from a record is read from the kernel, the disk or the TPM. */
export const sealedVolumeState = Type.Object({
  formation: oneOf(
    ["none", "forming", "complete"],
    "How far the volume came, by the node's record: `none`; `forming`: begun and not finished, so that nobody ever used it; `complete`: finished, and never formatted again. It is `complete` with its pins, also where the power went before the record said so.",
  ),
  device: Type.String({
    description:
      "The path that the volume is opened by, as pinned; before that, the one it will be formed on. Empty when the partition is still to be made.",
  }),
  devicePresent: Type.Boolean({ description: "Whether there is such a block device now." }),
  deviceBytes: Type.Integer({ description: "Its size in bytes; 0 without one." }),
  content: texts(
    "What is on the device, as blkid names it; `edgeseal:UUID` for a sealed volume, `unknown-data` for what has no signature and is not blank. Empty when it is blank.",
  ),
  formationMarker: Type.String({
    description:
      "UUID in the marker that a volume has on its device until it is finished; empty when there is none.",
  }),
  disk: Type.Optional(
    Type.Object(
      {
        label: oneOf(
          ["gpt", "dos", "other", "none", "missing"],
          "Kind of its partition table; `missing` without such a disk.",
        ),
        digest: Type.String({ description: "SHA-256 of the table, as `sfdisk --dump` prints it." }),
        sectorBytes: Type.Integer(),
        id: Type.String({ description: "The disk's own identifier in the table." }),
        numbers: Type.Array(Type.Integer(), { description: "Numbers of its partitions." }),
        made: Type.Optional(
          Type.Object(
            {
              number: Type.Integer(),
              start: Type.Integer(),
              sectors: Type.Integer(),
              partuuid: Type.String(),
            },
            {
              description:
                "The partition that was made for this volume, of which the kernel does not know yet.",
            },
          ),
        ),
        free: Type.Array(Type.Object({ start: Type.Integer(), sectors: Type.Integer() }), {
          description: "What no partition has, in sectors, from one whole MiB to another.",
        }),
      },
      { description: "The disk that a partition is still to be made on." },
    ),
  ),
  usedBy: texts(
    "What uses the device, but for this volume itself: mounts, swap, device mapper, RAID, loop devices.",
  ),
  luksUuid: Type.String({
    description:
      "UUID in the LUKS2 header that opens the volume: on the device now, or written ahead; empty without one.",
  }),
  cipher: Type.String({ description: "Cipher of its data, e.g. `aes-xts-plain64`." }),
  keySlots: Type.Array(
    Type.Object({
      slot: Type.String(),
      type: Type.String(),
      pbkdf: Type.String(),
      keyBits: Type.Integer({ description: "Size of the volume key in bits." }),
    }),
    { description: "Key slots in that header: 0 has the recovery key, the other the TPM's." },
  ),
  tokens: Type.Array(
    Type.Object({
      token: Type.String(),
      type: Type.String(),
      keySlots: texts("Key slots that it opens."),
      pcrs: Type.Array(Type.Integer(), { description: "PCRs bound by their value." }),
      bank: Type.String(),
      signedPcrs: Type.Array(Type.Integer(), { description: "PCRs bound by the policy key's signature." }),
      policyKey: Type.String({ description: "Fingerprint of that key; empty without one." }),
      sealedToZeros: Type.Boolean({
        description:
          "Whether the policy in the TPM's object is that of this key and PCR 15 at zeros, computed anew and not believed.",
      }),
    }),
    { description: "Tokens in that header." },
  ),
  segments: Type.Array(
    Type.Object({
      segment: Type.String(),
      type: Type.String(),
      cipher: Type.String(),
      offsetBytes: Type.String(),
      size: Type.String(),
      sectorBytes: Type.Integer(),
    }),
    { description: "Segments in that header." },
  ),
  headerDigest: Type.String({
    description:
      "SHA-256 of the header on the device now, both copies and all key slots (16 MiB); empty without one.",
  }),
  pinnedDigest: Type.String({ description: "What it has to be; empty before the volume is finished." }),
  headerMatchesPins: Type.Boolean({ description: "Whether it is." }),
  headerUnfinished: Type.Boolean({
    description:
      "Whether something of making it is left: the marker of a formation, or the file with the header that a rotation or recovery wrote ahead, which was cut off. Where that is the pinned one the volume opens all the same, and the next update finishes it.",
  }),
  headerDifferences: texts(
    "What in the header differs from the pins, for people; nothing where it is only unfinished.",
  ),
  policyKey: Type.String({
    description: "Fingerprint of the policy key that the TPM's key slot is bound to; empty without one.",
  }),
  recoveryKey: Type.String({
    description:
      "Fingerprint of the recovery key that the ciphertext on the node was made for, from the node's record; empty where there is none, or not all of it.",
  }),
  recoveryCiphertext: Type.String({
    description:
      "The recovery key, encrypted to the site's, in base64: public. It is bound to this node and to a LUKS UUID. The state of the stack is a copy that outlives the node: where the node has none any more, the last one stays in it.",
  }),
  recoveryFor: Type.String({
    description: "The LUKS UUID that the one on the node is bound to, from the node's record; empty without.",
  }),
  open: Type.Boolean({
    description:
      "Whether the volume is open: a mapping of this UUID, with the pinned cipher, at the pinned place.",
  }),
  openedBy: oneOf(
    ["tpm", "formation", "other", "none"],
    "What opened it in this boot: the `tpm`; the `formation`, with the recovery key, as only a boot shows that the TPM opens it; something else (`other`), also a mapping that was closed and opened again by hand; or `none`, it is not open.",
  ),
  unlock: oneOf(
    ["observed", "pending-reboot", "none"],
    "Whether the TPM was seen to open it: `observed`, in this boot; `pending-reboot`: the next boot will tell; `none`: there is nothing to open yet.",
  ),
  lockedReason: Type.String({
    description:
      "Why the boot left it locked, as a code and a sentence; empty when it is open or was never tried.",
  }),
  mountedAt: Type.String({ description: "Where it is mounted; empty when it is not." }),
  mountOptions: texts("The options in effect, of the mount and of the file system. Sorted."),
  missingOptions: texts("Those of nodev, nosuid and noexec that are not in effect though it is mounted."),
  filesystem: Type.String({ description: "File system that is mounted; empty when none is." }),
  readOnly: Type.Boolean({ description: "Whether it is mounted read-only." }),
  tpmPresent: Type.Boolean({ description: "Whether there is a TPM 2.0 (/dev/tpmrm0)." }),
  pcr11: Type.String({ description: "PCR 11 of the SHA-256 bank now; `unknown` without a TPM." }),
  pcr15Capped: Type.Boolean({
    description:
      "Whether PCR 15 was extended in this boot, so that nothing sealed can be unsealed before the next.",
  }),
  pcr11Approved: Type.Boolean({
    description:
      "Whether the state that PCR 11 shows now is in the site's approval, the node has that by the site's policy key, and the volume is bound to no other key.",
  }),
  approvals: Type.Array(
    Type.Object({
      pcr11: Type.String({
        description:
          "The approved value of PCR 11, where the site's approval has it too; else `unknown`: what a node has for systemd are digests.",
      }),
      pol: Type.String({ description: "The digest of TPM2_PolicyPCR over that value." }),
    }),
    { description: "States that the node has approvals of, by the key that the volume is bound to." },
  ),
  files: textsByName("Our files on the node by path: mode, owner and SHA-256 of the content."),
  bootUnits: textsByName(
    "The unlock unit and the cap: `enabled`, wherever they have to start, `not enabled`, `masked`, or `changed by PATH` where a file overrides ours.",
  ),
  missingPackages: texts("Debian packages that are needed and not installed. Sorted."),
  aesInstructions: Type.Boolean({
    description: "Whether the processor has instructions for AES (/proc/cpuinfo).",
  }),
});

export type SealedVolumeState = Static<typeof sealedVolumeState>;
