import {
  isSeveral,
  type BlockInputs,
  type BlockName,
  type BlockStates,
  type JudgedNode,
} from "../../../policies/node.ts";
import type { SealedVolumeInputs } from "../../../provider/resources/sealed-volume-inputs.ts";
import type { SealedVolumeState } from "../../../provider/resources/sealed-volume-state.ts";
import { goodServiceInputs, goodServiceStates } from "./service-cases.ts";
import type { Waiver } from "../../../policies/waiver.ts";

/** Inputs and states of a node that passes every control that a resource serves; tests change one thing at a time. */
export const goodInputs: BlockInputs = {
  swap: { mode: "off", leftoverFiles: "remove" },
  coreDumps: { mode: "off", storedDumps: "remove" },
  firewall: {
    management: ["192.0.2.0/24"],
    sshPort: 22,
    dns: ["192.0.2.53"],
    ntp: ["192.0.2.123"],
    allow: [{ name: "store", to: "203.0.113.5", protocol: "tcp", ports: [443] }],
    egress: "allowlist",
    forward: "drop",
    logPerMinute: 10,
    confirmSeconds: 30,
  },
  boot: { require: "signed-boot-locked" },
  firmware: {
    settings: ["dtparam=spi=on", "dtoverlay=tpm-slb9670"],
    commandLine: { present: ["lsm=apparmor"], absent: [] },
    tryboot: "auto",
    reboot: "never",
    rebootUnapproved: "refuse",
  },
  measuredBoot: { node: "pi-1", reboot: "never", rebootUnapproved: "refuse" },
  tpm: {
    node: "pi-1",
    recoveryPublicKey: "(PEM)",
    endorsementKeySha256: "e1".repeat(32),
    maxTries: 32,
    recoveryTime: 600,
    lockoutRecovery: 86_400,
  },
  volumes: { models: goodVolume("models"), logs: goodVolume("logs") },
  imagePolicy: {
    keys: { site: "(PEM)" },
    allow: [{ image: "registry.example/edge/llama", signedBy: ["site"] }],
  },
  ...goodServiceInputs,
};

function goodVolume(name: string): SealedVolumeInputs {
  return {
    name,
    device: `/dev/disk/by-id/nvme-${name}`,
    mountPoint: `/srv/${name}`,
    filesystem: "ext4",
    readOnly: false,
    mayErase: [],
    cipher: "auto",
    node: "pi-1",
    policyKey: "(PEM)",
    generation: 1,
    recoveryKey: "(PEM)",
  };
}

const pcr11 = "1b".repeat(32);

/** The properties that controls read, as they are when all is well. */
function goodVolumeState(name: string): SealedVolumeState {
  return {
    formation: "complete",
    device: `/dev/disk/by-id/nvme-${name}`,
    devicePresent: true,
    deviceBytes: 2 ** 34,
    content: [],
    formationMarker: "",
    usedBy: [],
    luksUuid: "11111111-2222-3333-4444-555555555555",
    cipher: "aes-xts-plain64",
    keySlots: [],
    tokens: [
      {
        token: "0",
        type: "systemd-tpm2",
        keySlots: ["1"],
        pcrs: [15],
        bank: "sha256",
        signedPcrs: [11],
        policyKey: "ab".repeat(32),
        sealedToZeros: true,
      },
    ],
    segments: [],
    headerDigest: "cd".repeat(32),
    pinnedDigest: "cd".repeat(32),
    headerMatchesPins: true,
    headerUnfinished: false,
    headerDifferences: [],
    policyKey: "ab".repeat(32),
    recoveryKey: "ef".repeat(32),
    recoveryCiphertext: "AAAA",
    recoveryFor: "11111111-2222-3333-4444-555555555555",
    open: true,
    openedBy: "tpm",
    unlock: "observed",
    lockedReason: "",
    mountedAt: `/srv/${name}`,
    mountOptions: ["nodev", "noexec", "nosuid", "rw"],
    missingOptions: [],
    filesystem: "ext4",
    readOnly: false,
    tpmPresent: true,
    pcr11,
    pcr15Capped: true,
    pcr11Approved: true,
    approvals: [],
    files: {},
    bootUnits: {},
    missingPackages: [],
    aesInstructions: true,
  };
}

export const goodStates: BlockStates = {
  swap: {
    activeAreas: [],
    zramDevices: [],
    fstabEntries: [],
    swapUnits: [],
    rpiSwapMechanism: "none",
    swapFiles: [],
    rpiSwapSetBy: "/etc/rpi/swap.conf.d/zz-edgeseal.conf",
    maskedUnits: [],
    fstabCommentedOut: [],
  },
  coreDumps: {
    corePattern: "|/bin/false",
    suidDumpable: 0,
    corePatternAtBoot: "|/bin/false",
    suidDumpableAtBoot: 0,
    serviceCoreLimit: "0",
    serviceCoreLimitAtBoot: "0",
    userServiceCoreLimitAtBoot: "0",
    loginsAllowedCores: [],
    coredumpStorage: "none",
    coredumpProcessSizeMax: "0",
    dumpCollectors: [],
    storedDumps: 0,
    overridingFiles: [],
    limitedLogins: [],
    maskedUnits: [],
  },
  firewall: {
    loaded: "ruleset",
    inputPolicy: "drop",
    outputPolicy: "drop",
    forwardPolicy: "drop",
    chains: {},
    rules: {
      "base:input-loopback": 'input accept iif "lo"',
      "management-ipv4": "input accept ip saddr 192.0.2.0/24 tcp dport 22",
      "base:output-loopback": 'output accept oif "lo"',
      "dns-ipv4": "output accept ip daddr 192.0.2.53 l4proto tcp,udp th dport 53",
      "allow:store": "output accept ip daddr 203.0.113.5 tcp dport 443",
      "base:output-reject": "output reject with icmpx admin-prohibited",
    },
    order: [],
    files: {},
    bootUnit: { state: "enabled", active: "active", beforeNetwork: true, linkedFrom: [], overrides: [] },
    nftablesService: "harmless",
    foreignTables: ["inet podman"],
  },
  boot: {
    model: "Raspberry Pi 5 Model B Rev 1.0",
    signedBits: "0x80000009",
    signedBootEnabled: "yes",
    developmentKeyRevoked: "no",
    otpKeyLocked: "yes",
    customerKeySha256: "ab".repeat(32),
    bootImageSha256: "unknown",
    eepromVersion: "unknown",
    eepromBuildTime: "unknown",
  },
  firmware: {
    settings: {},
    settingsWritten: {},
    staleSettings: [],
    commandLine: {},
    pendingReboot: false,
    bootedCommandLine: {},
    activeLsms: [],
    appArmor: "enabled",
    memoryCgroup: "enabled",
    tpm: "2.0",
    marks: "none",
    ownSettings: [],
    settingsElsewhere: [],
    commandLineFile: "cmdline.txt",
    commandLineText: "",
    formerCommandLine: "",
    configDigest: "",
    commandLineDigest: "",
    lastGood: {},
    tryboot: "supported",
    trial: "",
    trialEnds: false,
    staged: "",
    stagedPhase: "none",
    bootMeasured: true,
  },
  measuredBoot: {
    tpmPresent: true,
    pcr11,
    pcr15: "15".repeat(32),
    measured: true,
    replay: "consistent",
    desync: "none",
    failures: [],
    events: [],
    initramfs: "current",
    nextPcr11: pcr11,
    pendingReboot: false,
    pendingChanges: [],
    rootIntegrity: "none",
    bootSource: "PARTUUID=4f1c-01",
    files: {},
  },
  tpm: {
    tpm: "2.0",
    tools: "installed",
    manufacturer: "IFX",
    firmwareVersion: "7.85",
    endorsementKey: "persistent",
    endorsementKeySha256: "e1".repeat(32),
    storageKey: "persistent",
    storageKeyType: "ecc",
    storageKeySha256: "51".repeat(32),
    ownerAuth: "ours",
    lockoutAuth: "ours",
    endorsementAuth: "empty",
    maxTries: 32,
    recoveryTime: 600,
    lockoutRecovery: 86_400,
    failedTries: 0,
    inLockout: "no",
    platformHierarchy: "enabled",
    recovery: { owner: "AAAA", lockout: "AAAA" },
    recoveryKey: "ef".repeat(32),
  },
  volumes: { models: goodVolumeState("models"), logs: goodVolumeState("logs") },
  imagePolicy: {
    defaultRule: "reject",
    rules: {
      "docker:registry.example/edge/llama": `signed by sha256:${"5a".repeat(32)} for its own name and tag`,
    },
    signatureLookup: { "registry.example/edge/llama": "attached" },
    lookupConflicts: [],
    userOverrides: {},
    foreignKeys: [],
    files: {
      "/etc/containers": "0755 root:root directory",
      "/etc/containers/policy.json": "0644 root:root",
      "/etc/edgeseal/image-keys/site.pem": "0644 root:root",
    },
    formerPolicy: "kept",
  },
  ...goodServiceStates,
};

/** The resources behind a block: one, or as many as it has. */
export function resourcesOf(
  block: BlockName,
): readonly { readonly inputs: object; readonly outputs: object }[] {
  if (!isSeveral(block)) return [{ inputs: goodInputs[block], outputs: goodStates[block] }];
  return Object.keys(goodInputs[block]).map((name) => ({
    inputs: goodInputs[block][name] ?? {},
    outputs: goodStates[block][name] ?? {},
  }));
}

/** A block with some properties changed; `undefined` takes one away. */
type Changes = { readonly [B in keyof BlockInputs]?: object | undefined };

function changed(blocks: BlockInputs | BlockStates, changes: Changes): JudgedNode["blocks"] {
  return Object.fromEntries(
    Object.entries(blocks).flatMap(([name, block]) => {
      if (!(name in changes)) return [[name, block as object]];
      const change = changes[name as keyof Changes];
      if (change === undefined) return [];
      if (!isSeveral(name as BlockName)) return [[name, { ...(block as object), ...change }]];
      // Of each volume that is named, some properties; `undefined` takes it away.
      const volumes: Record<string, object | undefined> = { ...(block as Record<string, object>) };
      for (const [key, each] of Object.entries(change as Record<string, object | undefined>))
        volumes[key] = each === undefined ? undefined : { ...volumes[key], ...each };
      return [[name, Object.fromEntries(Object.entries(volumes).filter(([, each]) => each !== undefined))]];
    }),
  );
}

export const declared = (changes: Changes = {}, name = "pi-1"): JudgedNode => ({
  name,
  basis: "declared",
  blocks: changed(goodInputs, changes),
});

export const observed = (changes: Changes = {}, name = "pi-1"): JudgedNode => ({
  name,
  basis: "observed",
  blocks: changed(goodStates, changes),
  asked: { ...goodInputs },
});

export const waiver = (changes: Partial<Waiver> = {}): Waiver => ({
  control: "3.swap-off",
  node: "pi-1",
  reason: "bench device",
  owner: "platform",
  expires: "2027-01-31",
  ...changes,
});
