import type { BlockInputs } from "../policies/node.ts";

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
}

/** Blocks with every default filled in, as they go to the gate and to the provider: both see the same. */
export interface Blocks {
  readonly swap: Required<SwapArgs>;
  readonly coreDumps: Required<CoreDumpsArgs>;
  readonly firewall?: Required<FirewallArgs>;
  readonly boot: VerifiedBootArgs & Required<Pick<VerifiedBootArgs, "require">>;
}

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
} as const satisfies Blocks | { readonly firewall: Omit<Required<FirewallArgs>, "management"> };

/** Fills in the defaults. */
export function withDefaults(args: BlockArgs): Blocks {
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
  };
}
