import type { BlockInputs } from "../policies/node.ts";
import type {
  AppArmorProfileArgs,
  ConfinementArgs,
  InferenceContainerArgs,
  ModelArgs,
  SeccompProfileArgs,
} from "./inference-args.ts";

/*
 * What a node may be told, block by block. Plain values, not outputs of other resources: the gate judges them before anything is registered, and a
 * value that only the update will know would have to be let through unseen.
 */

/** Swap of a node (docs/resources: edgeseal:memory:Swap). */
export interface SwapArgs {
  /** `off`: off now and after every boot. `keep`: only observed; fails the gate. @default `off`, since what is swapped out stays readable on the disk. */
  readonly mode?: "off" | "keep";
  /** Whether left-over swap files are removed. @default `remove`, since prompts may be in them. */
  readonly leftoverFiles?: "remove" | "keep";
}

/** Core dumps of a node (edgeseal:memory:CoreDumps). */
export interface CoreDumpsArgs {
  /** `off`: no process leaves a dump. `keep`: only observed; fails the gate. @default `off`, since a dump holds the process's memory: prompts and keys. */
  readonly mode?: "off" | "keep";
  /** Whether dumps that are on disk are removed. @default `remove`, since prompts may be in them. */
  readonly storedDumps?: "remove" | "keep";
}

/** One allowed service. */
export type AllowArgs = Partial<BlockInputs["firewall"]["allow"][number]> & {
  /** Stable name of the entry, unique in the list. */
  readonly name: string;
};

/** The node's own nftables table (edgeseal:network:Firewall). */
export interface FirewallArgs {
  /** CIDRs that operators connect from. Required: nothing good can be guessed, and a wrong guess locks somebody out or in. */
  readonly management: readonly string[];
  /** TCP port of sshd on the node. @default 22, the port of ssh. */
  readonly sshPort?: number;
  /** DNS servers the node may ask. @default none, so that names resolve only where somebody said how. */
  readonly dns?: readonly string[];
  /** Time servers the node may ask. @default none; a Pi has no clock battery, so name one. */
  readonly ntp?: readonly string[];
  /** What else may pass. @default nothing. */
  readonly allow?: readonly AllowArgs[];
  /** `allowlist` or `open`; `open` fails the gate. @default `allowlist`, so that a compromised node can't send anything anywhere. */
  readonly egress?: "allowlist" | "open";
  /** Whether packets may pass through the node. @default `drop`, so that no container network goes round the rules. */
  readonly forward?: "drop" | "leave";
  /** Refused packets per minute and direction that are logged; 0 is off. @default 10: enough to see, too little to fill a disk. */
  readonly logPerMinute?: number;
  /**
   * Seconds for a change of the rules to be confirmed over a new connection before the device takes it back.
   * @default 30: a change takes about two on a Pi 5
   */
  readonly confirmSeconds?: number;
}

/** Verified boot of a node (edgeseal:boot:VerifiedBoot); observed, never changed. */
export interface VerifiedBootArgs {
  /** What must be observed. `none` fails the gate. @default `signed-boot-locked`: without it, whoever has the card decides what boots. */
  readonly require?: "signed-boot-locked" | "none";
  /** SHA-256, in lower-case hex, of the public key that must be locked in. @default any key, which is no proof that it is yours. */
  readonly customerKeySha256?: string;
  /** SHA-256, in lower-case hex, of the boot.img that must have been loaded. @default any that was signed. */
  readonly bootImageSha256?: string;
}

/** When a node may be rebooted for what takes effect with a boot only. */
export interface RebootArgs {
  /** `never`: a boot that is needed shows as `pendingReboot`. `ifNeeded`: at the end of the update. `window`: the same, when the update begins within `rebootWindow`. @default `never`: whoever lets a node go down should have said so. */
  readonly reboot?: "never" | "ifNeeded" | "window";
  /** With `reboot: window`, in UTC, e.g. `Sun 02:00-04:00`. */
  readonly rebootWindow?: string;
  /** Whether a node with sealed volumes is rebooted into a state that nobody approved; they stay locked then. @default `refuse`. */
  readonly rebootUnapproved?: "refuse" | "allow";
}

/** config.txt and cmdline.txt of a node (edgeseal:boot:FirmwareConfig); all else in them stays as it is. */
export interface FirmwareArgs extends RebootArgs {
  /** Lines `KEY=VALUE` that have to be in force in config.txt. @default SPI and the TPM, which everything that is sealed stands on. */
  readonly settings?: readonly string[];
  readonly commandLine?: {
    /** Kernel parameters that have to be there. @default AppArmor among the security modules, and the memory cgroup: neither is on by itself on a Pi. */
    readonly present?: readonly string[];
    /** Kernel parameters that must not be there. @default none. */
    readonly absent?: readonly string[];
  };
  /** Whether a change is booted once by way of tryboot.txt before it is kept. @default `auto`: where the firmware can. */
  readonly tryboot?: "auto" | "always" | "never";
}

/** The boot measured into the TPM (edgeseal:boot:MeasuredBoot). */
export type MeasuredBootArgs = RebootArgs;

/** Ownership of the TPM (edgeseal:tpm:Ownership). */
export interface TpmArgs {
  /**
   * The TPM that this node has: SHA-256 of its endorsement key's public area, in lower-case hex, as compared on the node's console. Another is refused.
   * @default any TPM, which is no proof that it is yours; `assurance: strict` refuses that.
   */
  readonly endorsementKeySha256?: string;
  /** Wrong authorizations after which the TPM locks what it protects against guessing. @default 32, the TCG's; a loss of power may count as one. */
  readonly maxTries?: number;
  /** Seconds, with power, after which one of them is forgotten. @default 600. */
  readonly recoveryTime?: number;
  /** Seconds for which a wrong lockout authorization locks that one; 0: until the next boot. @default 86400: one guess a day. */
  readonly lockoutRecovery?: number;
}

/** A partition that is made in the unallocated space of a disk. */
export interface NewPartition {
  /** The disk, by `/dev/disk/by-id/...`. It has a partition table. */
  readonly disk: string;
  /** Size in MiB, the LUKS header (16 MiB) included. */
  readonly sizeMiB: number;
}

/** A volume that only this node, in an approved state, opens (edgeseal:storage:SealedVolume). */
export interface VolumeArgs {
  /** A whole disk or a partition, by `/dev/disk/by-id/...` or `/dev/disk/by-partuuid/...`; or a partition that is to be made. */
  readonly device: string | NewPartition;
  /** Absolute path; mounted nodev, nosuid and noexec. */
  readonly mountPoint: string;
  /** @default `ext4`, which every Raspberry Pi OS has the tools for. */
  readonly filesystem?: "ext4" | "xfs";
  /** @default false. Set it once a volume of models has them. */
  readonly readOnly?: boolean;
  /** What may be erased when the volume is formed, as blkid(8) names it. @default nothing: only a blank device is formatted. */
  readonly mayErase?: readonly string[];
  /** @default `auto`: AES where the processor has instructions for it, as a Pi 5; else Adiantum. */
  readonly cipher?: "auto" | "aes-xts" | "adiantum";
}

/** Images that podman may take. */
export interface AllowedImageArgs {
  /** Host and repository, or a part of a registry from its host on; no tag, no digest, no wildcard. */
  readonly image: string;
  /** A folder on the node that it is taken from instead, by its real path. @default the registry. */
  readonly folder?: string;
  /** Names of the keys of which one has to have signed it. */
  readonly signedBy: readonly string[];
}

/** Which images podman takes on a node (edgeseal:container:ImagePolicy). */
export interface ImagePolicyArgs {
  /** Public halves, in PEM, of the keys that sign images, by name. @default none. */
  readonly keys?: Readonly<Record<string, string>>;
  /** @default none: every image is rejected. */
  readonly allow?: readonly AllowedImageArgs[];
}

/** What is said and typed on a node kept in memory (edgeseal:memory:Scratch). */
export interface ScratchArgs extends RebootArgs {
  /** Size of /tmp, in MiB of memory. @default 256. */
  readonly tmpMiB?: number;
  /** Size of /var/tmp, likewise; an initramfs is built there. @default 512. */
  readonly varTmpMiB?: number;
  /** The journal: in memory, or in a folder on a sealed volume. @default `volatile`. */
  readonly journal?: "volatile" | { readonly directory: string };
  /** What writes the log to files a second time. @default `off`. */
  readonly syslog?: "off" | "keep";
  /** Histories of shells and other programs in homes. @default `remove`: what somebody typed to try a prompt is in them. */
  readonly historyFiles?: "remove" | "keep";
  /** What was written to the plain disk before. @default `remove`: prompts may be in it. */
  readonly leftovers?: "remove" | "keep";
}

/** The public half of what a site trusts (docs/trust.md). The private halves are nowhere near Pulumi. */
export interface TrustArgs {
  /** Generation of the policy key. A later one revokes all approvals of those before. @default 1. */
  readonly generation?: number;
  /** Public half of the policy key, in PEM: whose approvals open the volumes. */
  readonly policyKey: string;
  /** Public half of the recovery key, in PEM. */
  readonly recoveryKey: string;
}

/** A node's approval, and what it is verified by: what may end in a reboot ships it first. */
export interface ShippedArgs {
  readonly node?: string;
  readonly policyKey?: string;
  readonly generation?: number;
  /** Content of `approvals/<node>.json`. */
  readonly approval?: string;
}

/** The blocks of a node. */
export interface BlockArgs {
  /** @default swap off. */
  readonly swap?: SwapArgs;
  /** @default core dumps off. */
  readonly coreDumps?: CoreDumpsArgs;
  /** No default: a firewall must know who manages the node. The gate refuses a node without it. */
  readonly firewall?: FirewallArgs;
  /** @default signed boot locked in OTP is required. */
  readonly boot?: VerifiedBootArgs;
  /** No default: it changes how the node boots. */
  readonly firmware?: FirmwareArgs;
  /** No default: it changes how the node boots. The gate refuses a node without it. */
  readonly measuredBoot?: MeasuredBootArgs;
  /** No default: what is set in a TPM only the site's recovery key, or clearing it, takes back. The gate refuses a node without it. */
  readonly tpm?: TpmArgs;
  /** By name; the gate refuses a node without `models` and `logs`. No default: a disk has to be named. */
  readonly volumes?: Readonly<Record<string, VolumeArgs>>;
  /** No default: what runs on the node already would not be pulled again. The gate refuses a node without it. */
  readonly imagePolicy?: ImagePolicyArgs;
  /** No default: what is on the disk in /var/tmp and the journal would go. The gate refuses a node without it. */
  readonly scratch?: ScratchArgs;
  /** No default, like the three below: somebody has to say what is served. `inferenceService` makes all four; the gate refuses a node without them. */
  readonly model?: ModelArgs;
  readonly seccompProfile?: SeccompProfileArgs;
  readonly appArmorProfile?: AppArmorProfileArgs;
  readonly inference?: InferenceContainerArgs;
}

/** What blocks need to know of their node that nobody says twice. */
export interface NodeFacts {
  /** The node's name. */
  readonly node: string;
  /** Volumes and the TPM need it. */
  readonly trust?: TrustArgs;
  /** Content of `approvals/<node>.json`. */
  readonly approval?: string;
}

/** Blocks with every default filled in, as they go to the gate and to the provider: both see the same. */
export interface Blocks {
  readonly swap: Required<SwapArgs>;
  readonly coreDumps: Required<CoreDumpsArgs>;
  readonly firewall?: Required<FirewallArgs>;
  readonly boot: VerifiedBootArgs & Required<Pick<VerifiedBootArgs, "require">>;
  readonly firmware?: Filled<FirmwareArgs, "settings" | "tryboot" | "reboot" | "rebootUnapproved"> &
    ShippedArgs & { readonly commandLine: Required<NonNullable<FirmwareArgs["commandLine"]>> };
  readonly measuredBoot?: Filled<MeasuredBootArgs, "reboot" | "rebootUnapproved"> &
    ShippedArgs & { readonly node: string };
  readonly tpm?: TpmBlock;
  readonly volumes?: Readonly<Record<string, VolumeBlock>>;
  readonly imagePolicy?: Required<ImagePolicyArgs>;
  readonly scratch?: Filled<ScratchArgs, Exclude<keyof ScratchArgs, "rebootWindow">> & ShippedArgs;
  readonly model?: Filled<ModelArgs, "keep">;
  readonly seccompProfile?: Required<SeccompProfileArgs>;
  readonly appArmorProfile?: Filled<AppArmorProfileArgs, "name" | "variant">;
  readonly inference?: Filled<
    InferenceContainerArgs,
    Exclude<keyof InferenceContainerArgs, "archive" | "registryAuth" | "port" | "nodeMemoryMiB">
  > & { readonly confinement: Required<ConfinementArgs> };
}

type Filled<T, K extends keyof T> = T & Required<Pick<T, K>>;

export type TpmBlock = Filled<TpmArgs, "maxTries" | "recoveryTime" | "lockoutRecovery"> & {
  readonly node: string;
  readonly recoveryPublicKey: string;
};

export type VolumeBlock = Required<VolumeArgs> &
  Required<TrustArgs> & { readonly name: string; readonly node: string; readonly approval?: string };

/** Defaults of the blocks. The kinds' own schemas have the same, which a test holds them to; they stand here so that a program need not load those. */
export const blockDefaults = {
  swap: { mode: "off", leftoverFiles: "remove" },
  coreDumps: { mode: "off", storedDumps: "remove" },
  firewall: {
    sshPort: 22,
    dns: [],
    ntp: [],
    allow: [],
    egress: "allowlist",
    forward: "drop",
    logPerMinute: 10,
    confirmSeconds: 30,
  },
  boot: { require: "signed-boot-locked" },
  firmware: {
    settings: ["dtparam=spi=on", "dtoverlay=tpm-slb9670"],
    commandLine: {},
    tryboot: "auto",
    reboot: "never",
    rebootUnapproved: "refuse",
  },
  measuredBoot: { reboot: "never", rebootUnapproved: "refuse" },
  tpm: { maxTries: 32, recoveryTime: 600, lockoutRecovery: 86_400 },
  volumes: { filesystem: "ext4", readOnly: false, mayErase: [], cipher: "auto" },
  imagePolicy: { keys: {}, allow: [] },
  scratch: {
    tmpMiB: 256,
    varTmpMiB: 512,
    journal: "volatile",
    syslog: "off",
    historyFiles: "remove",
    leftovers: "remove",
    reboot: "never",
    rebootUnapproved: "refuse",
  },
  model: { keep: 1 },
  seccompProfile: { name: "inference", variant: "llama-server", additionalSyscalls: [] },
  appArmorProfile: { name: "inference", variant: "llama-server" },
  inference: {
    name: "inference",
    variant: "llama-server",
    contextTokens: 4096,
    threads: 3,
    parallel: 1,
    cpuQuotaPercent: 350,
    tasksMax: 64,
    tmpMiB: 16,
    startTimeoutSeconds: 600,
    confinement: {},
  },
} as const;

const strictConfinement = {
  seccomp: "profile",
  appArmor: "profile",
  readOnlyRoot: true,
  noNewPrivileges: true,
  memoryLock: true,
  network: "none",
  capabilities: [],
  devices: [],
} as const;

const commandLineDefaults = {
  present: ["lsm=landlock,lockdown,yama,integrity,apparmor,bpf", "cgroup_enable=memory"],
  absent: [],
} as const;

/**
 * Fills in the defaults, and what is known of the node.
 * @throws TypeError when there are volumes, or a TPM to be owned, and no `trust`.
 */
export function withDefaults(args: BlockArgs, facts: NodeFacts): Blocks {
  return {
    swap: { ...blockDefaults.swap, ...args.swap },
    coreDumps: { ...blockDefaults.coreDumps, ...args.coreDumps },
    ...(args.firewall === undefined
      ? {}
      : {
          firewall: {
            ...blockDefaults.firewall,
            ...args.firewall,
            allow: (args.firewall.allow ?? []).map((entry) => ({ protocol: "tcp", ...entry }) as const),
          },
        }),
    boot: { ...blockDefaults.boot, ...args.boot },
    ...(args.firmware === undefined
      ? {}
      : {
          firmware: {
            ...blockDefaults.firmware,
            ...args.firmware,
            commandLine: { ...commandLineDefaults, ...args.firmware.commandLine },
            ...shippedBeforeReboot(facts),
          },
        }),
    ...(args.measuredBoot === undefined
      ? {}
      : {
          measuredBoot: {
            ...blockDefaults.measuredBoot,
            ...args.measuredBoot,
            ...shippedBeforeReboot(facts),
            node: facts.node,
          },
        }),
    ...(args.tpm === undefined ? {} : { tpm: tpmBlock(args.tpm, facts) }),
    ...(args.volumes === undefined ? {} : { volumes: volumeBlocks(args.volumes, facts) }),
    ...(args.imagePolicy === undefined
      ? {}
      : { imagePolicy: { ...blockDefaults.imagePolicy, ...args.imagePolicy } }),
    ...(args.scratch === undefined
      ? {}
      : { scratch: { ...blockDefaults.scratch, ...shippedBeforeReboot(facts), ...args.scratch } }),
    ...inferenceBlocks(args),
  };
}

function inferenceBlocks(
  args: BlockArgs,
): Pick<Blocks, "model" | "seccompProfile" | "appArmorProfile" | "inference"> {
  const { model, seccompProfile, appArmorProfile, inference } = args;
  return {
    ...(model === undefined ? {} : { model: { ...blockDefaults.model, ...model } }),
    ...(seccompProfile === undefined
      ? {}
      : { seccompProfile: { ...blockDefaults.seccompProfile, ...seccompProfile } }),
    ...(appArmorProfile === undefined
      ? {}
      : { appArmorProfile: { ...blockDefaults.appArmorProfile, ...appArmorProfile } }),
    ...(inference === undefined
      ? {}
      : {
          inference: {
            ...blockDefaults.inference,
            ...inference,
            confinement: { ...strictConfinement, ...inference.confinement },
          },
        }),
  };
}

/** What `firmware`, `measuredBoot` and `scratch` ship before they reboot the node: what it would boot may be approved, and the volumes, which ship it too, come after them. */
export function shippedBeforeReboot({ node, trust, approval }: NodeFacts): ShippedArgs {
  if (trust === undefined || approval === undefined) return {};
  return { node, policyKey: trust.policyKey, generation: trust.generation ?? 1, approval };
}

function tpmBlock(tpm: TpmArgs, { node, trust }: NodeFacts): TpmBlock {
  if (trust === undefined)
    throw new TypeError(
      `${node} has a \`tpm\` block and no \`trust\`: the TPM's authorizations need the site's recovery key (docs/trust.md)`,
    );
  return { ...blockDefaults.tpm, ...tpm, node, recoveryPublicKey: trust.recoveryKey };
}

function volumeBlocks(
  volumes: Readonly<Record<string, VolumeArgs>>,
  { node, trust, approval }: NodeFacts,
): Readonly<Record<string, VolumeBlock>> {
  if (trust === undefined)
    throw new TypeError(`${node} has volumes and no \`trust\`: they need the site's keys (docs/trust.md)`);
  return Object.fromEntries(
    Object.entries(volumes).map(([name, volume]) => [
      name,
      {
        ...blockDefaults.volumes,
        ...volume,
        ...{ generation: 1, ...trust },
        ...(approval === undefined ? {} : { approval }),
        name,
        node,
      },
    ]),
  );
}
