import { posix } from "node:path";
import { Type, type Static } from "typebox";
import type { InputProblem } from "../resource.ts";
import { approvalProblems, keyProblems } from "./approval-inputs.ts";

/** LUKS2's header, and the least that the file system on top takes: mkfs.xfs refuses less than 300 MiB. */
export const leastMiB = { ext4: 64, xfs: 320 } as const;

const partition = Type.Object(
  {
    disk: Type.String({
      description: "The disk, by a stable path: `/dev/disk/by-id/...`. It must have a partition table.",
    }),
    sizeMiB: Type.Integer({
      minimum: leastMiB.ext4,
      description: "Size of the partition that is made, in MiB, the LUKS header (16 MiB) included.",
    }),
  },
  {
    additionalProperties: false,
    title: "NewPartition",
    description:
      "A partition that edgeseal makes in the unallocated space of a disk. No partition that exists is moved or made smaller.",
  },
);

/** Inputs of `edgeseal:storage:SealedVolume`. */
export const sealedVolumeInputs = Type.Object({
  name: Type.String({
    pattern: "^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$",
    description:
      "The volume's name, unique on its node: lower-case letters, digits and hyphens, 32 at most. `/dev/mapper/edgeseal-NAME` is the open volume.",
  }),
  device: Type.Union(
    [
      Type.String({
        description:
          "A whole disk or a partition, by a path that stays the same: `/dev/disk/by-id/...` or `/dev/disk/by-partuuid/...`.",
      }),
      partition,
    ],
    {
      description: "Where the volume is: a disk or partition by its path, or a partition that is to be made.",
    },
  ),
  filesystem: Type.Enum(["ext4", "xfs"], {
    type: "string",
    default: "ext4",
    description: "File system on the volume. Default `ext4`, which every Raspberry Pi OS has the tools for.",
  }),
  mountPoint: Type.String({
    pattern: "^(/[A-Za-z0-9._@+-]+)+$",
    description:
      "Where the volume is mounted, nodev, nosuid and noexec: an absolute path without symbolic links. The directory is made if it is missing.",
  }),
  readOnly: Type.Boolean({
    default: false,
    description:
      "Whether it is mounted read-only. Default `false`; set it once a volume of models has them. It may be changed at any time.",
  }),
  mayErase: Type.Array(Type.String({ pattern: "^[A-Za-z0-9_+.:-]+$" }), {
    default: [],
    description:
      "What may be erased when the volume is formed, as blkid(8) names it (`ext4`, `vfat`, `gpt`, ...); `unknown-data` for what has no signature and is not blank; `edgeseal:UUID` for a sealed volume, which `crypto_LUKS` does not stand for. Default nothing: only a blank device is formatted.",
  }),
  cipher: Type.Enum(["auto", "aes-xts", "adiantum"], {
    type: "string",
    default: "auto",
    description:
      "`aes-xts`: AES-256 in XTS mode. `adiantum`: XChaCha12 with one block of AES for each sector, several times as fast where the processor has no AES instructions (a Pi 4). `auto`: AES where it has them, as a Pi 5 does. Counts when the volume is formed. Default `auto`.",
  }),
  node: Type.String({
    pattern: "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
    description: "The node's name in its site: approvals and recovery ciphertexts are bound to it.",
  }),
  policyKey: Type.String({
    description: "Public half of the site's policy key, in PEM (RSA-2048): whose signature opens the volume.",
  }),
  generation: Type.Integer({
    minimum: 1,
    description: "Generation of that key. A later one revokes all approvals of those before.",
  }),
  approval: Type.Optional(
    Type.String({
      description:
        "Content of `approvals/<node>.json`, as `edgeseal approve` wrote it. Default none: the volume can be formed, and opens at no boot until there is one; approvals that the node has are left as they are.",
    }),
  ),
  recoveryKey: Type.String({
    description:
      "Public half of the site's recovery key, in PEM (RSA-4096): what the recovery key of the volume is encrypted to before anything is formatted.",
  }),
});

export type SealedVolumeInputs = Static<typeof sealedVolumeInputs>;

/** Every fault of the inputs that the schema can't express. */
export function checkSealedVolume(inputs: SealedVolumeInputs): readonly InputProblem[] {
  return [
    ...deviceProblems(inputs),
    ...mountPointProblems(inputs.mountPoint),
    ...inputs.mayErase.flatMap(eraseProblems),
    ...trustProblems(inputs),
  ];
}

function deviceProblems({ device, filesystem }: SealedVolumeInputs): readonly InputProblem[] {
  const isPath = typeof device === "string";
  const path = isPath ? device : device.disk;
  const where = isPath ? "device" : "device.disk";
  const problems: InputProblem[] = [];
  const stable = isPath
    ? /^\/dev\/disk\/by-(id|partuuid)\/[A-Za-z0-9._:@+=-]+$/
    : /^\/dev\/disk\/by-id\/[A-Za-z0-9._:@+=-]+$/;
  if (!stable.test(path)) {
    problems.push({
      path: where,
      message: `expected a path that names the same ${isPath ? "device" : "disk"} at every boot, /dev/disk/by-id/...${isPath ? " or /dev/disk/by-partuuid/..." : ""}, got '${path}': names such as /dev/sda go to whichever disk is found first; \`ls -l /dev/disk/by-id\` on the node lists them`,
    });
  }
  if (!isPath && device.sizeMiB < leastMiB[filesystem]) {
    problems.push({
      path: "device.sizeMiB",
      message: `${filesystem} in LUKS takes at least ${leastMiB[filesystem]} MiB, got ${device.sizeMiB}`,
    });
  }
  return problems;
}

/** What the system itself lives in, or fills before a volume is mounted: a volume there would hide it. */
const taken: readonly string[] = [
  "/bin",
  "/boot",
  "/dev",
  "/etc",
  "/lib",
  "/lib64",
  "/proc",
  "/run",
  "/sbin",
  "/sys",
  "/tmp",
  "/usr",
];
const takenItself: readonly string[] = ["/home", "/opt", "/root", "/var", "/var/lib", "/var/log", "/var/tmp"];

function mountPointProblems(mountPoint: string): readonly InputProblem[] {
  const problem = (message: string): readonly InputProblem[] => [{ path: "mountPoint", message }];
  if (posix.normalize(mountPoint) !== mountPoint)
    return problem(`expected a path without '.' and '..', got '${mountPoint}'`);
  const tree = taken.find((path) => mountPoint === path || mountPoint.startsWith(`${path}/`));
  if (tree !== undefined)
    return problem(`${tree} is the system's own; mount the volume at a directory such as /srv/models`);
  if (takenItself.includes(mountPoint))
    return problem(
      `a volume at ${mountPoint} would hide what the system keeps there; name a directory below it`,
    );
  if (`${mountPoint}/`.startsWith("/var/lib/edgeseal/"))
    return problem(
      "/var/lib/edgeseal is where edgeseal keeps how to open the volume; name another directory",
    );
  return [];
}

function eraseProblems(type: string, index: number): readonly InputProblem[] {
  if (!type.includes(":") || /^edgeseal:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(type)) return [];
  return [
    {
      path: `mayErase[${index}]`,
      message: `expected a type as blkid names it, 'unknown-data' or 'edgeseal:UUID', got '${type}'`,
    },
  ];
}

const trustProblems = (inputs: SealedVolumeInputs): readonly InputProblem[] => [
  ...keyProblems("policyKey", inputs.policyKey, "policy"),
  ...keyProblems("recoveryKey", inputs.recoveryKey, "recovery"),
  ...approvalProblems(inputs),
];
