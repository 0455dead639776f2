import * as pulumi from "@pulumi/pulumi";
import { blockTypes, type BlockName, type StateOf } from "../policies/node.ts";
import type {
  CoreDumpsArgs,
  FirewallArgs,
  FirmwareArgs,
  ImagePolicyArgs,
  MeasuredBootArgs,
  ScratchArgs,
  ShippedArgs,
  SwapArgs,
  TpmArgs,
  TrustArgs,
  VerifiedBootArgs,
  VolumeArgs,
} from "./block-args.ts";
import type {
  AppArmorProfileArgs,
  InferenceContainerArgs,
  ModelArgs,
  SeccompProfileArgs,
} from "./inference-args.ts";
import { connectionInputs, type ConnectionArgs, type OnDelete } from "./connection-args.ts";

/** What every device resource takes besides its own inputs. */
export interface DeviceArgs {
  /** The node's name in its site (a DNS label, RFC 1123), and how it is reached. */
  readonly connection: ConnectionArgs & { readonly node: string };
  /** `keep` leaves the protection in force without contacting the device, `revert` takes it back. @default `keep`: removing code must not disarm a device. */
  readonly onDelete?: OnDelete;
}

/** Inputs of a resource; each may be an output of something else. The policy pack fails what a preview can't know. */
export type DeviceResourceArgs<T> = DeviceArgs & { readonly [K in keyof T]: pulumi.Input<T[K]> };

type Outputs<T> = { readonly [K in keyof T]: pulumi.Output<NonNullable<T[K]> | Extract<T[K], undefined>> };

type DeviceResource<Args, State> = new (
  name: string,
  args: DeviceResourceArgs<Args>,
  options?: pulumi.CustomResourceOptions,
) => pulumi.CustomResource & Outputs<Required<State>>;

/**
 * The class of a kind. Its outputs are the kind's state, as it was read back from the device.
 * @param outputs Every property of the state by name (complete by its type): the SDK resolves only outputs that it is told of.
 */
function deviceResource<Args, B extends BlockName>(
  block: B,
  outputs: Readonly<Record<keyof StateOf<B>, undefined>>,
): DeviceResource<Args, StateOf<B>> {
  class Device extends pulumi.CustomResource {
    constructor(name: string, args: DeviceResourceArgs<Args>, options?: pulumi.CustomResourceOptions) {
      const { connection, ...inputs } = args;
      super(
        blockTypes[block],
        name,
        { ...outputs, ...inputs, connection: connectionInputs(connection.node, connection) },
        options,
      );
    }
  }
  return Device as unknown as DeviceResource<Args, StateOf<B>>;
}

/** Swap off, and staying off. */
export class Swap extends deviceResource<SwapArgs, "swap">("swap", {
  activeAreas: undefined,
  zramDevices: undefined,
  fstabEntries: undefined,
  swapUnits: undefined,
  rpiSwapMechanism: undefined,
  swapFiles: undefined,
  rpiSwapSetBy: undefined,
  maskedUnits: undefined,
  fstabCommentedOut: undefined,
}) {}

/** Core dumps off, and staying off. */
export class CoreDumps extends deviceResource<CoreDumpsArgs, "coreDumps">("coreDumps", {
  corePattern: undefined,
  suidDumpable: undefined,
  corePatternAtBoot: undefined,
  suidDumpableAtBoot: undefined,
  serviceCoreLimit: undefined,
  serviceCoreLimitAtBoot: undefined,
  userServiceCoreLimitAtBoot: undefined,
  loginsAllowedCores: undefined,
  coredumpStorage: undefined,
  coredumpProcessSizeMax: undefined,
  dumpCollectors: undefined,
  storedDumps: undefined,
  overridingFiles: undefined,
  limitedLogins: undefined,
  maskedUnits: undefined,
}) {}

/** The node's own nftables table: what is not listed does not pass. */
export class Firewall extends deviceResource<FirewallArgs, "firewall">("firewall", {
  loaded: undefined,
  inputPolicy: undefined,
  outputPolicy: undefined,
  forwardPolicy: undefined,
  chains: undefined,
  rules: undefined,
  order: undefined,
  files: undefined,
  bootUnit: undefined,
  nftablesService: undefined,
  foreignTables: undefined,
}) {}

/** Whether the device booted verified; observed, never changed. */
export class VerifiedBoot extends deviceResource<VerifiedBootArgs, "boot">("boot", {
  model: undefined,
  signedBits: undefined,
  signedBootEnabled: undefined,
  developmentKeyRevoked: undefined,
  otpKeyLocked: undefined,
  customerKeySha256: undefined,
  bootImageSha256: undefined,
  eepromVersion: undefined,
  eepromBuildTime: undefined,
}) {}

/** config.txt and cmdline.txt, as far as they are declared. */
export class FirmwareConfig extends deviceResource<FirmwareArgs & ShippedArgs, "firmware">("firmware", {
  settings: undefined,
  settingsWritten: undefined,
  staleSettings: undefined,
  commandLine: undefined,
  pendingReboot: undefined,
  bootedCommandLine: undefined,
  activeLsms: undefined,
  appArmor: undefined,
  memoryCgroup: undefined,
  tpm: undefined,
  marks: undefined,
  ownSettings: undefined,
  settingsElsewhere: undefined,
  commandLineFile: undefined,
  commandLineText: undefined,
  formerCommandLine: undefined,
  configDigest: undefined,
  commandLineDigest: undefined,
  lastGood: undefined,
  tryboot: undefined,
  trial: undefined,
  trialEnds: undefined,
  staged: undefined,
  stagedPhase: undefined,
  bootMeasured: undefined,
}) {}

/** The boot, measured into the TPM. */
export class MeasuredBoot extends deviceResource<
  MeasuredBootArgs & ShippedArgs & { readonly node: string },
  "measuredBoot"
>("measuredBoot", {
  tpmPresent: undefined,
  pcr11: undefined,
  pcr15: undefined,
  measured: undefined,
  replay: undefined,
  desync: undefined,
  failures: undefined,
  events: undefined,
  initramfs: undefined,
  nextPcr11: undefined,
  pendingReboot: undefined,
  pendingChanges: undefined,
  rootIntegrity: undefined,
  bootSource: undefined,
  files: undefined,
}) {}

/** The node's TPM 2.0: which one it is, and by whom it is owned. */
export class Ownership extends deviceResource<
  TpmArgs & { readonly node: string; readonly recoveryPublicKey: string },
  "tpm"
>("tpm", {
  tpm: undefined,
  tools: undefined,
  manufacturer: undefined,
  firmwareVersion: undefined,
  endorsementKey: undefined,
  endorsementKeySha256: undefined,
  storageKey: undefined,
  storageKeyType: undefined,
  storageKeySha256: undefined,
  ownerAuth: undefined,
  lockoutAuth: undefined,
  endorsementAuth: undefined,
  maxTries: undefined,
  recoveryTime: undefined,
  lockoutRecovery: undefined,
  failedTries: undefined,
  inLockout: undefined,
  platformHierarchy: undefined,
  recovery: undefined,
  recoveryKey: undefined,
}) {}

/** A volume that only this node, in an approved state, opens. */
export class SealedVolume extends deviceResource<
  VolumeArgs & TrustArgs & { readonly name: string; readonly node: string; readonly approval?: string },
  "volumes"
>("volumes", {
  formation: undefined,
  device: undefined,
  devicePresent: undefined,
  deviceBytes: undefined,
  content: undefined,
  formationMarker: undefined,
  headerUnfinished: undefined,
  disk: undefined,
  usedBy: undefined,
  luksUuid: undefined,
  cipher: undefined,
  keySlots: undefined,
  tokens: undefined,
  segments: undefined,
  headerDigest: undefined,
  pinnedDigest: undefined,
  headerMatchesPins: undefined,
  headerDifferences: undefined,
  policyKey: undefined,
  recoveryKey: undefined,
  recoveryCiphertext: undefined,
  recoveryFor: undefined,
  open: undefined,
  openedBy: undefined,
  unlock: undefined,
  lockedReason: undefined,
  mountedAt: undefined,
  mountOptions: undefined,
  missingOptions: undefined,
  filesystem: undefined,
  readOnly: undefined,
  tpmPresent: undefined,
  pcr11: undefined,
  pcr15Capped: undefined,
  pcr11Approved: undefined,
  approvals: undefined,
  files: undefined,
  bootUnits: undefined,
  missingPackages: undefined,
  aesInstructions: undefined,
}) {}

/** Which images podman takes: none but those that are listed and signed. */
export class ImagePolicy extends deviceResource<ImagePolicyArgs, "imagePolicy">("imagePolicy", {
  defaultRule: undefined,
  rules: undefined,
  signatureLookup: undefined,
  lookupConflicts: undefined,
  userOverrides: undefined,
  foreignKeys: undefined,
  files: undefined,
  formerPolicy: undefined,
}) {}

/** What is said and typed on the node is kept in memory. */
export class Scratch extends deviceResource<ScratchArgs & ShippedArgs, "scratch">("scratch", {
  mountUnits: undefined,
  mounts: undefined,
  mountDifferences: undefined,
  diskUsers: undefined,
  pendingReboot: undefined,
  journalSetting: undefined,
  journalIn: undefined,
  journalLink: undefined,
  syslogUnits: undefined,
  syslogProcesses: undefined,
  syslogFiles: undefined,
  crashReporters: undefined,
  historyVariables: undefined,
  bashHistory: undefined,
  historyFiles: undefined,
  leftovers: undefined,
  files: undefined,
  overridingFiles: undefined,
  maskedUnits: undefined,
}) {}

/** A model on a sealed volume, vouched for by the site. */
export class Model extends deviceResource<ModelArgs, "model">("model", {
  volume: undefined,
  digest: undefined,
  model: undefined,
  former: undefined,
  inUse: undefined,
  surplus: undefined,
  leftovers: undefined,
  otherModels: undefined,
  keys: undefined,
  foreignKeys: undefined,
  files: undefined,
}) {}

/** The system calls that the inference container may make. */
export class SeccompProfile extends deviceResource<SeccompProfileArgs, "seccompProfile">("seccompProfile", {
  defaultAction: undefined,
  calls: undefined,
  allowedCalls: undefined,
  dangerousCalls: undefined,
  trial: undefined,
  letThrough: undefined,
  undecided: undefined,
  architecture: undefined,
  proof: undefined,
  containerSeccomp: undefined,
  containerFilters: undefined,
  content: undefined,
  files: undefined,
}) {}

/** The AppArmor profiles of the inference container. */
export class AppArmorProfile extends deviceResource<AppArmorProfileArgs, "appArmorProfile">(
  "appArmorProfile",
  {
    kernel: undefined,
    modes: undefined,
    loadedPolicy: undefined,
    atBoot: undefined,
    overrides: undefined,
    otherDefinitions: undefined,
    containerLabel: undefined,
    content: undefined,
    files: undefined,
  },
) {}

/** The server of a model, in a container that can do little else. */
export class InferenceContainer extends deviceResource<InferenceContainerArgs, "inference">("inference", {
  missingPackages: undefined,
  health: undefined,
  reason: undefined,
  image: undefined,
  model: undefined,
  confinement: undefined,
  account: undefined,
  groups: undefined,
  groupMembers: undefined,
  subordinateIds: undefined,
  lingering: undefined,
  directories: undefined,
  content: undefined,
  files: undefined,
  unitOverrides: undefined,
  units: undefined,
  lastGood: undefined,
  foreignContainers: undefined,
  foreignProcesses: undefined,
  leftovers: undefined,
  images: undefined,
  modelPresent: undefined,
  volumes: undefined,
  nodeMemory: undefined,
  exposure: undefined,
  restarts: undefined,
}) {}
