import * as pulumi from "@pulumi/pulumi";
import type { Assurance, JudgedNode } from "../policies/node.ts";
import { bootEvidence } from "../policies/boot-evidence.ts";
import { edgeNodeType } from "../policies/stack.ts";
import type { Waiver } from "../policies/waiver.ts";
import { levelReached, type Level } from "../provider/trust/level.ts";
import {
  withDefaults,
  type BlockArgs,
  type Blocks,
  type ShippedArgs,
  type TpmBlock,
  type TrustArgs,
  type VolumeBlock,
} from "./block-args.ts";
import type { ConnectionArgs, OnDelete } from "./connection-args.ts";
import { requireChecklist, requireDistinctVolumes } from "./gate.ts";
import type { InferenceContainerArgs } from "./inference-args.ts";
import { afterApply, type Hooks } from "./hooks.ts";
import {
  AppArmorProfile,
  CoreDumps,
  Firewall,
  FirmwareConfig,
  ImagePolicy,
  InferenceContainer,
  MeasuredBoot,
  Model,
  Ownership,
  Scratch,
  SealedVolume,
  SeccompProfile,
  Swap,
  VerifiedBoot,
  type DeviceArgs,
} from "./resources.ts";

/** A waiver for the node it is given to. */
export type NodeWaiver = Omit<Waiver, "node">;

/** One Raspberry Pi 5, as it must be. */
export interface EdgeNodeArgs extends BlockArgs {
  /** How the node is reached. */
  readonly connection: ConnectionArgs;
  /** The public halves of the site's keys; volumes and the TPM need them. */
  readonly trust?: TrustArgs;
  /** Content of `approvals/<node>.json`, as `edgeseal approve` wrote it. @default none: volumes are formed, and open at no boot until there is one. */
  readonly approval?: string;
  /** What is asked of its boot: `baseline` is level `measured`, `strict` is level `verified`. @default `baseline`. */
  readonly assurance?: Assurance;
  /** What removing the node does to the device; its TPM stays owned in any case. @default `keep`: removing code must not disarm a device. */
  readonly onDelete?: OnDelete;
  /** Justified, owned, expiring exceptions for this node. @default none. */
  readonly waivers?: readonly NodeWaiver[];
  /** Claims about controls that no resource serves yet, by control id; shown as "declared, not enforced", never as passed. @default none. */
  readonly statements?: Readonly<Record<string, string>>;
  /** One-off commands, by name, that nothing which edgeseal enforces depends on: a smoke test, a notification. @default none. */
  readonly hooks?: { readonly afterApply?: Hooks };
}

/**
 * A node with every protection that edgeseal has, secure where nothing else is said: swap off, core dumps off, signed boot required, egress by
 * allowlist only.
 *
 * @throws pulumi.RunError when the node does not meet the deployment checklist, or its volumes get in each other's way; then none of its resources is registered.
 */
export class EdgeNode extends pulumi.ComponentResource {
  /** The node's name. */
  readonly node: string;
  readonly swap: Swap;
  readonly coreDumps: CoreDumps;
  /** `undefined` when the node has no firewall, which takes a waiver. */
  readonly firewall: Firewall | undefined;
  readonly boot: VerifiedBoot;
  /** `undefined` when the node has none, which takes a waiver; likewise below. */
  readonly firmware: FirmwareConfig | undefined;
  readonly measuredBoot: MeasuredBoot | undefined;
  readonly tpm: Ownership | undefined;
  readonly imagePolicy: ImagePolicy | undefined;
  readonly scratch: Scratch | undefined;
  /** By name. */
  readonly volumes: Readonly<Record<string, SealedVolume>>;
  readonly model: Model | undefined;
  readonly seccompProfile: SeccompProfile | undefined;
  readonly appArmorProfile: AppArmorProfile | undefined;
  readonly inference: InferenceContainer | undefined;
  /** The level of the trust chain that there is evidence for, as it was read back (docs/trust.md). */
  readonly level: pulumi.Output<Level>;

  /** @param name The node's name in its site: lower-case letters, digits and hyphens (a DNS label, RFC 1123). */
  constructor(name: string, args: EdgeNodeArgs, options?: pulumi.ComponentResourceOptions) {
    const blocks = withDefaults(args, { ...args, node: name });
    const declared = declaredNode(name, blocks, args);
    const waivers = (args.waivers ?? []).map((waiver) => ({ ...waiver, node: name }));
    // Registered before it is judged, so that the policy pack sees, and judges, what is refused here.
    super(edgeNodeType, name, { node: componentInput(declared), waivers }, options);
    requireChecklist(`node "${name}"`, [declared], waivers);
    requireDistinctVolumes(`node "${name}"`, blocks.volumes ?? {});

    const device: DeviceArgs = {
      connection: { ...args.connection, node: name },
      ...(args.onDelete === undefined ? {} : { onDelete: args.onDelete }),
    };
    const child = { parent: this };
    this.node = name;
    this.swap = new Swap(`${name}-swap`, { ...device, ...blocks.swap }, child);
    this.coreDumps = new CoreDumps(`${name}-core-dumps`, { ...device, ...blocks.coreDumps }, child);
    this.firewall =
      blocks.firewall && new Firewall(`${name}-firewall`, { ...device, ...blocks.firewall }, child);
    this.imagePolicy =
      blocks.imagePolicy &&
      new ImagePolicy(`${name}-image-policy`, { ...device, ...blocks.imagePolicy }, child);
    this.boot = new VerifiedBoot(`${name}-boot`, { ...device, ...blocks.boot }, child);
    this.firmware =
      blocks.firmware && new FirmwareConfig(`${name}-firmware`, { ...device, ...blocks.firmware }, child);
    const those = <T>(all: readonly unknown[]): T[] => all.filter((each) => each !== undefined) as T[];
    // One after the other: each may end in a reboot, which must not come while another is at work, and the first may be what brings the TPM.
    const after = (...before: readonly unknown[]): pulumi.CustomResourceOptions => ({
      ...child,
      dependsOn: those<pulumi.Resource>(before),
    });
    this.measuredBoot =
      blocks.measuredBoot &&
      new MeasuredBoot(
        `${name}-measured-boot`,
        { ...device, ...blocks.measuredBoot },
        after(this.firmware, this.swap, this.coreDumps, this.firewall, this.imagePolicy),
      );
    // Without onDelete: to take ownership back needs the recovery key, and a refusal would keep all else that is to be taken back from it.
    this.tpm =
      blocks.tpm &&
      new Ownership(
        `${name}-tpm`,
        { connection: device.connection, ...blocks.tpm },
        after(this.firmware, this.measuredBoot),
      );
    const scratch = (before: pulumi.CustomResourceOptions): Scratch | undefined =>
      blocks.scratch && new Scratch(`${name}-scratch`, { ...device, ...blocks.scratch }, before);
    // It may reboot: better while no volume is there that would have to open. A journal on a volume needs that volume.
    const journalOnVolume = typeof blocks.scratch?.journal === "object";
    const scratchFirst = journalOnVolume
      ? undefined
      : scratch(after(this.firmware, this.measuredBoot, this.tpm));
    // The TPM is known to be this node's, and owned, before anything is sealed to it.
    this.volumes = Object.fromEntries(
      Object.entries(blocks.volumes ?? {}).map(([volume, args]) => [
        volume,
        new SealedVolume(
          `${name}-volume-${volume}`,
          { ...device, ...args },
          { ...after(this.firmware, this.measuredBoot, scratchFirst, this.tpm), protect: true },
        ),
      ]),
    );
    this.scratch = scratchFirst ?? scratch(after(...Object.values(this.volumes)));
    // By then whatever may reboot the node, and AppArmor may be on only after a boot, has done so.
    const settled = after(
      ...[this.firmware, this.measuredBoot, this.tpm, ...Object.values(this.volumes), this.scratch],
    );
    this.model = blocks.model && new Model(`${name}-model`, { ...device, ...blocks.model }, settled);
    this.seccompProfile =
      blocks.seccompProfile &&
      new SeccompProfile(`${name}-seccomp-profile`, { ...device, ...blocks.seccompProfile }, settled);
    this.appArmorProfile =
      blocks.appArmorProfile &&
      new AppArmorProfile(`${name}-apparmor-profile`, { ...device, ...blocks.appArmorProfile }, settled);
    this.inference =
      blocks.inference &&
      new InferenceContainer(
        `${name}-inference`,
        { ...device, ...blocks.inference, ...secretLogin(blocks.inference, blocks.tpm) },
        after(
          ...[this.swap, this.coreDumps, this.firewall, this.imagePolicy, ...Object.values(this.volumes)],
          ...[this.scratch, this.model, this.seccompProfile, this.appArmorProfile],
        ),
      );
    const resources = those<pulumi.CustomResource>([
      ...[this.swap, this.coreDumps, this.firewall, this.imagePolicy, this.boot, this.firmware],
      ...[this.measuredBoot, this.tpm, ...Object.values(this.volumes), this.scratch],
      ...[this.model, this.seccompProfile, this.appArmorProfile, this.inference],
    ]);
    afterApply(name, args.hooks?.afterApply ?? {}, { connection: args.connection, resources }, this);
    this.level = levelOf(this);
    this.registerOutputs({ node: componentInput(declared), waivers });
  }
}

/** The login to a registry, its password marked secret whatever it came as, and for the node's own TPM only, where that is pinned. */
function secretLogin(
  { registryAuth }: NonNullable<Blocks["inference"]>,
  { endorsementKeySha256 }: Partial<TpmBlock> = {},
): Partial<InferenceContainerArgs> {
  if (registryAuth === undefined) return {};
  return {
    registryAuth: {
      ...registryAuth,
      password: pulumi.secret(registryAuth.password),
      ...(endorsementKeySha256 === undefined ? {} : { endorsementKeySha256 }),
    },
  };
}

function levelOf({ node, boot, measuredBoot, volumes }: EdgeNode): pulumi.Output<Level> {
  const { signedBootEnabled, otpKeyLocked } = boot;
  const measured = measuredBoot && {
    measured: measuredBoot.measured,
    replay: measuredBoot.replay,
    rootIntegrity: measuredBoot.rootIntegrity,
  };
  const sealed = Object.entries(volumes).map(([name, volume]) => {
    const { headerMatchesPins, openedBy, pcr15Capped, tokens, pcr11Approved } = volume;
    return [name, { headerMatchesPins, openedBy, pcr15Capped, tokens, pcr11Approved }] as const;
  });
  const blocks = pulumi.output({
    boot: { signedBootEnabled, otpKeyLocked },
    ...(measured === undefined ? {} : { measuredBoot: measured }),
    ...(sealed.length === 0 ? {} : { volumes: Object.fromEntries(sealed) }),
  }) as pulumi.Output<JudgedNode["blocks"]>;
  return blocks.apply(
    (each) => levelReached(bootEvidence({ name: node, basis: "observed", blocks: each })).level,
  );
}

/** A node as the gate judges it. Keys and approvals are for the provider to judge, and too long for the state of a component. */
export function declaredNode(
  name: string,
  { volumes, tpm, imagePolicy, firmware, measuredBoot, scratch, model, inference, ...blocks }: Blocks,
  { statements = {}, assurance = "baseline" }: Pick<EdgeNodeArgs, "statements" | "assurance">,
): JudgedNode {
  const short = ({ policyKey: _p, recoveryKey: _r, approval: _a, ...rest }: VolumeBlock): object => rest;
  const unshipped = ({ policyKey: _p, generation: _g, approval: _a, ...rest }: ShippedArgs): object => rest;
  // Paths on the machine that runs Pulumi differ from one to the next, and say nothing of the node. Of keys, who they are is judged.
  const served = ({ statement: _s, file: _f, keys, ...rest }: NonNullable<Blocks["model"]>): object => ({
    ...rest,
    keys: Object.fromEntries(Object.keys(keys).map((key) => [key, "(public key)"])),
  });
  const pulled = ({ archive: _, registryAuth: _l, ...rest }: NonNullable<Blocks["inference"]>): object =>
    rest;
  const withoutKey = ({ recoveryPublicKey: _, ...rest }: TpmBlock): object => rest;
  return {
    name,
    basis: "declared",
    blocks: {
      ...blocks,
      ...(firmware === undefined ? {} : { firmware: unshipped(firmware) }),
      ...(measuredBoot === undefined ? {} : { measuredBoot: unshipped(measuredBoot) }),
      ...(scratch === undefined ? {} : { scratch: unshipped(scratch) }),
      ...(tpm === undefined ? {} : { tpm: withoutKey(tpm) }),
      ...(imagePolicy === undefined ? {} : { imagePolicy: { allow: imagePolicy.allow } }),
      ...(model === undefined ? {} : { model: served(model) }),
      ...(inference === undefined ? {} : { inference: pulled(inference) }),
      ...(volumes === undefined
        ? {}
        : { volumes: Object.fromEntries(Object.entries(volumes).map(([key, each]) => [key, short(each)])) }),
    },
    statements,
    assurance,
  };
}

/** A declared node as an input of a component, for the pack and for reports. Holds nothing secret: no part of a connection is in it. */
export function componentInput({ name, blocks, statements, assurance }: JudgedNode): pulumi.Inputs {
  return { name, blocks, statements, assurance };
}
