import type { BlockInputs, BlockStates, JudgedNode } from "../../../policies/node.ts";
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
};

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
};

/** A block with some properties changed; `undefined` takes one away. */
type Changes = { readonly [B in keyof BlockInputs]?: object | undefined };

function changed(blocks: BlockInputs | BlockStates, changes: Changes): JudgedNode["blocks"] {
  return Object.fromEntries(
    Object.entries(blocks).flatMap(([name, block]) => {
      if (!(name in changes)) return [[name, block as object]];
      const change = changes[name as keyof Changes];
      return change === undefined ? [] : [[name, { ...(block as object), ...change }]];
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
});

export const waiver = (changes: Partial<Waiver> = {}): Waiver => ({
  control: "3.swap-off",
  node: "pi-1",
  reason: "bench device",
  owner: "platform",
  expires: "2027-01-31",
  ...changes,
});
