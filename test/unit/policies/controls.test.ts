import { describe, expect, test } from "vitest";
import { bootEvidence } from "../../../policies/boot-evidence.ts";
import { checklist, points } from "../../../policies/checklist.ts";
import { blockNames, unknownValue, type JudgedNode } from "../../../policies/node.ts";
import { levelReached } from "../../../provider/trust/level.ts";
import { declared, goodStates, observed } from "./cases.ts";
import { fail, pass, unclear, type Case } from "./control-case.ts";
import { serviceControlCases } from "./service-control-cases.ts";

const rules = (more: Record<string, string>) => ({ firewall: { rules: more } });

const level = (lacking: string) => `level ${lacking}`;

/** An observed node of which something else was asked of the TPM; `{}` is no pin. */
const asking = (asked: object, changes: Parameters<typeof observed>[0] = {}): JudgedNode => ({
  ...observed(changes),
  asked: { tpm: asked },
});

const owned =
  "TPM 2.0, endorsement key persistent, storage root key persistent, owner authorization ours, lockout authorization ours";
const anyTpm = "no endorsement key is pinned, so any TPM would do; `assurance: strict` asks for this node's";
const digest = `${"e1".repeat(8)}...`;

/** Every volume with the same change. */
const volumes = (change: object) => ({ volumes: { models: change, logs: change } });

const [bound] = goodStates.volumes["models"]?.tokens ?? [];
const alsoUnbound = [
  bound,
  { ...bound, token: "1", pcrs: [], signedPcrs: [], policyKey: "", sealedToZeros: false },
];

const cases: Readonly<Record<string, readonly Case[]>> = {
  "1.measured-boot": [
    pass("asked for", declared(), "measured in the initramfs, approvals signed by the site's policy key"),
    fail(
      "no block",
      declared({ measuredBoot: undefined }),
      "the node has no `measuredBoot` block (edgeseal:boot:MeasuredBoot)",
    ),
    fail(
      "strict: no quote is checked off the device yet, so nobody can say `verified`",
      { ...declared(), assurance: "strict" },
      "`assurance: strict` asks for level verified, which takes a fresh quote checked off the device: edgeseal does not check quotes yet",
    ),
    pass("measured and approved", observed(), `level measured, PCR 11 ${"1b".repeat(8)}...`),
    fail(
      "all that strict asks for, but for the quote",
      { ...observed({ measuredBoot: { rootIntegrity: "verity" } }), assurance: "strict" },
      level(
        "measured; for the next it lacks a fresh quote checked off the device (not-checked: edgeseal does not check quotes yet)",
      ),
    ),
    fail(
      "a value that nobody approved",
      observed(volumes({ pcr11Approved: false })),
      level("sealed; for the next it lacks an approval of the value that PCR 11 has"),
    ),
    fail(
      "approved for one volume only",
      observed({ volumes: { logs: { pcr11Approved: false } } }),
      level("sealed; for the next it lacks an approval of the value that PCR 11 has"),
    ),
    fail(
      "a TPM that was not reset",
      observed({ measuredBoot: { replay: "power-cycle", measured: false } }),
      level(
        "sealed; for the next it lacks a measurement in the initramfs of this boot; a TPM that was reset before this boot (desync: power-cycle; cut the power and boot again)",
      ),
    ),
    fail(
      "PCR 15 not extended",
      observed(volumes({ pcr15Capped: false })),
      level("none; for the next it lacks PCR 15 bound at zeros and extended in this boot"),
    ),
    fail(
      "a token that is bound to nothing, beside the one that is",
      observed(volumes({ tokens: alsoUnbound })),
      level("none; for the next it lacks PCR 15 bound at zeros and extended in this boot"),
    ),
    fail(
      "no volumes",
      observed({ volumes: undefined }),
      level(
        "none; for the next it lacks a volume whose key is sealed to this node's TPM; PCR 15 bound at zeros and extended in this boot",
      ),
    ),
    fail(
      "volumes that no boot has opened yet",
      observed(volumes({ openedBy: "formation" })),
      level("none; for the next it lacks a volume whose key is sealed to this node's TPM (not determined)"),
    ),
    unclear(
      "not read",
      observed({ measuredBoot: { replay: unknownValue } }),
      "measuredBoot.replay is not known at this time",
    ),
  ],
  "1.tpm": [
    pass("pinned", declared(), `owner and lockout authorization set, endorsement key ${"e1".repeat(32)}`),
    pass(
      "not pinned, where `baseline` is asked for",
      declared({ tpm: { endorsementKeySha256: undefined } }),
      "owner and lockout authorization set, endorsement key any",
    ),
    fail(
      "not pinned, where `strict` is",
      { ...declared({ tpm: { endorsementKeySha256: undefined } }), assurance: "strict" },
      anyTpm,
    ),
    pass(
      "pinned, where `strict` is asked for",
      { ...declared(), assurance: "strict" },
      `owner and lockout authorization set, endorsement key ${"e1".repeat(32)}`,
    ),
    fail("no block", declared({ tpm: undefined }), "the node has no `tpm` block (edgeseal:tpm:Ownership)"),
    fail(
      "no block, nor anything that uses a TPM",
      declared({ tpm: undefined, measuredBoot: undefined, volumes: undefined }),
      "the node has no `tpm` block (edgeseal:tpm:Ownership)",
    ),
    unclear(
      "a pin that is not known yet",
      declared({ tpm: { endorsementKeySha256: unknownValue } }),
      "tpm.endorsementKeySha256 is not known at this time",
    ),
    pass("owned, and the pinned one", observed(), `${owned}, digest ${digest} as pinned`),
    pass("owned, and none is pinned", asking({ maxTries: 32 }), `${owned}, digest ${digest}, none is pinned`),
    fail("none is pinned, where `strict` is asked for", { ...asking({}), assurance: "strict" }, anyTpm),
    fail(
      "another TPM, owned or not",
      observed({ tpm: { endorsementKeySha256: "0f".repeat(32) } }),
      `digest ${"0f".repeat(8)}..., pinned is ${digest}`,
    ),
    fail(
      "another TPM than the site is to have now",
      asking({ endorsementKeySha256: "0f".repeat(32) }),
      `digest ${digest}, pinned is ${"0f".repeat(8)}...`,
    ),
    unclear(
      "a pin that can't be told",
      asking({ endorsementKeySha256: unknownValue }),
      "which endorsement key is pinned is not known",
    ),
    unclear(
      "inputs that can't be told",
      { ...observed(), asked: { tpm: unknownValue } },
      "which endorsement key is pinned is not known",
    ),
    fail(
      "no TPM",
      observed({
        tpm: {
          tpm: "none",
          endorsementKey: "unknown",
          endorsementKeySha256: "none",
          storageKey: "unknown",
          ownerAuth: "unknown",
          lockoutAuth: "unknown",
        },
      }),
      "TPM none",
    ),
    fail("somebody else's", observed({ tpm: { ownerAuth: "foreign" } }), "owner authorization foreign"),
    fail("perhaps ours", observed({ tpm: { lockoutAuth: "pending" } }), "lockout authorization pending"),
    fail(
      "cleared",
      asking({}, { tpm: { storageKey: "none", ownerAuth: "empty", lockoutAuth: "empty" } }),
      "storage root key none, owner authorization empty, lockout authorization empty",
    ),
    fail(
      "something else where the endorsement key belongs",
      asking({}, { tpm: { endorsementKey: "other" } }),
      "endorsement key other",
    ),
    fail(
      "a lockout authorization that is empty, whatever else can't be told",
      observed({ tpm: { ownerAuth: "unknown", lockoutAuth: "empty" } }),
      "lockout authorization empty",
    ),
    fail("a word of another version", observed({ tpm: { ownerAuth: "set" } }), "owner authorization set"),
    unclear(
      "without the tools that tell",
      observed({
        tpm: {
          tools: "missing",
          endorsementKey: "unknown",
          endorsementKeySha256: "none",
          storageKey: "unknown",
          ownerAuth: "unknown",
          lockoutAuth: "unknown",
        },
      }),
      "endorsement key unknown, storage root key unknown, owner authorization unknown, lockout authorization unknown, its digest is not known",
    ),
    unclear(
      "a secret",
      observed({ tpm: { ownerAuth: unknownValue } }),
      "tpm.ownerAuth is not known at this time",
    ),
    fail(
      "not in the state",
      observed({ tpm: undefined }),
      "the state has no edgeseal:tpm:Ownership of this node",
    ),
  ],
  "2.sealed-volumes": [
    pass(
      "both volumes",
      declared(),
      "models: /dev/disk/by-id/nvme-models at /srv/models; logs: /dev/disk/by-id/nvme-logs at /srv/logs",
    ),
    fail(
      "no block",
      declared({ volumes: undefined }),
      "the node has no `volumes` block (edgeseal:storage:SealedVolume)",
    ),
    fail(
      "no volume for logs",
      declared({ volumes: { logs: undefined } }),
      "the node has no `volumes.logs` (edgeseal:storage:SealedVolume)",
    ),
    unclear(
      "a device that is not known yet",
      declared({ volumes: { logs: { device: unknownValue } } }),
      "logs: volumes.logs.device is not known at this time",
    ),
    pass(
      "opened by the TPM",
      observed(),
      "models: opened by the TPM, header as pinned, aes-xts-plain64; logs: opened by the TPM, header as pinned, aes-xts-plain64",
    ),
    fail(
      "one is locked",
      observed({ volumes: { logs: { open: false, openedBy: "none", lockedReason: "tpm: not approved" } } }),
      "logs: locked: tpm: not approved",
    ),
    fail(
      "another header",
      observed({ volumes: { models: { headerMatchesPins: false, headerDifferences: ["cipher null"] } } }),
      "models: the header is not the pinned one: cipher null",
    ),
    fail(
      "the pinned header in parts only",
      observed({ volumes: { models: { headerMatchesPins: false } } }),
      "models: the header on the device is not the pinned one, or not written to its end; pulumi up tells",
    ),
    pass(
      "made on a board without AES instructions",
      observed(volumes({ cipher: "xchacha12,aes-adiantum-plain64" })),
      "models: opened by the TPM, header as pinned, xchacha12,aes-adiantum-plain64; logs: opened by the TPM, header as pinned, xchacha12,aes-adiantum-plain64",
    ),
    fail(
      "a cipher that encrypts nothing, in the header and in the pins",
      observed({ volumes: { models: { cipher: "cipher_null-ecb" } } }),
      "models: its cipher is cipher_null-ecb, which edgeseal never makes",
    ),
    fail(
      "not finished",
      observed({ volumes: { models: { formation: "forming" } } }),
      "models: its formation is forming",
    ),
    fail(
      "programs can be run from it",
      observed({ volumes: { models: { missingOptions: ["noexec"] } } }),
      "models: mounted without noexec",
    ),
    fail(
      "opened by somebody",
      observed({ volumes: { models: { openedBy: "other" } } }),
      "models: opened by something else than the TPM (other)",
    ),
    fail(
      "a token that is bound to nothing, beside the one that is",
      observed({ volumes: { models: { tokens: alsoUnbound } } }),
      "models: its key slot for the TPM is not the only one, or not sealed as it has to be",
    ),
    fail(
      "opened by an approval of another policy key, or by one that was withdrawn",
      observed({ volumes: { models: { pcr11Approved: false } } }),
      "models: opened by the TPM, and not by an approval of the site's policy key",
    ),
    fail(
      "whose recovery ciphertext is gone",
      observed({ volumes: { models: { recoveryKey: "" } } }),
      "models: its recovery ciphertext is not on the node: once this TPM is gone, nothing opens it",
    ),
    unclear(
      "open since it was formed",
      observed(volumes({ openedBy: "formation" })),
      "models: open since it was formed: only a boot shows that the TPM opens it; logs: open since it was formed: only a boot shows that the TPM opens it",
    ),
  ],
  "2.unsealing-capped": [
    pass(
      "with every volume",
      declared(),
      ["models", "logs"]
        .map(
          (name) => `${name}: bound to PCR 15 at zeros, which every boot extends before sshd and the network`,
        )
        .join("; "),
    ),
    fail(
      "no block",
      declared({ volumes: undefined }),
      "the node has no `volumes` block (edgeseal:storage:SealedVolume)",
    ),
    pass(
      "extended, and bound",
      observed(),
      ["models", "logs"]
        .map((name) => `${name}: PCR 15 was extended in this boot, key bound to it at zeros`)
        .join("; "),
    ),
    fail(
      "not extended",
      observed({ volumes: { logs: { pcr15Capped: false } } }),
      "logs: PCR 15 was not extended in this boot, key bound to it at zeros",
    ),
    fail(
      "bound, and another token that is not",
      observed({ volumes: { logs: { tokens: alsoUnbound } } }),
      "logs: PCR 15 was extended in this boot, key not bound to it at zeros",
    ),
    fail(
      "not bound",
      observed({ volumes: { logs: { tokens: [] } } }),
      "logs: PCR 15 was extended in this boot, key not bound to it at zeros",
    ),
  ],
  "1.verified-boot": [
    pass("required", declared(), 'boot.require is "signed-boot-locked", key any'),
    fail("not required", declared({ boot: { require: "none" } }), 'boot.require is "none"'),
    fail(
      "no block",
      declared({ boot: undefined }),
      "the node has no `boot` block (edgeseal:boot:VerifiedBoot)",
    ),
    unclear(
      "not yet known",
      declared({ boot: { require: unknownValue } }),
      "boot.require is not known at this time",
    ),
    pass(
      "locked",
      observed(),
      `signed 0x80000009: signed boot yes, key locked in OTP yes, key ${"ab".repeat(32)}`,
    ),
    fail(
      "signed boot on, but the key is not in OTP: the EEPROM can be replaced",
      observed({ boot: { signedBits: "0x1", otpKeyLocked: "no", customerKeySha256: "unknown" } }),
      "signed 0x1: signed boot yes, key locked in OTP no, key unknown",
    ),
    unclear(
      "the firmware says nothing",
      observed({
        boot: {
          signedBits: "unknown",
          signedBootEnabled: "unknown",
          otpKeyLocked: "unknown",
          customerKeySha256: "unknown",
        },
      }),
      "signed unknown: signed boot unknown, key locked in OTP unknown, key unknown",
    ),
    fail(
      "not in the state",
      observed({ boot: undefined }),
      "the state has no edgeseal:boot:VerifiedBoot of this node",
    ),
  ],
  "3.swap-off": [
    pass("off", declared(), 'swap.mode is "off"; left-over swap files are removed'),
    fail("kept", declared({ swap: { mode: "keep" } }), 'swap.mode is "keep"'),
    fail(
      "old swap files kept",
      declared({ swap: { leftoverFiles: "keep" } }),
      'swap.leftoverFiles is "keep": what was swapped out stays on the disk',
    ),
    fail("no block", declared({ swap: undefined }), "the node has no `swap` block (edgeseal:memory:Swap)"),
    unclear(
      "not yet known",
      declared({ swap: { mode: unknownValue } }),
      "swap.mode is not known at this time",
    ),
    unclear("not given", declared({ swap: { mode: undefined } }), "swap.mode is not declared"),
    pass("off", observed(), "no active area, no zram, nothing in fstab, no unit, no left-over file"),
    fail(
      "on, in every way there is",
      observed({
        swap: {
          activeAreas: ["/dev/zram0"],
          zramDevices: [
            { device: "zram0", sizeBytes: 1, backingDevice: "/dev/loop0", backingFile: "/var/swap" },
          ],
          fstabEntries: ["/swapfile none swap sw 0 0"],
          swapUnits: ["dev-zram0.swap"],
          rpiSwapMechanism: "unset",
          swapFiles: ["/var/swap"],
        },
      }),
      "/dev/zram0 in use; zram0 (backing device /dev/loop0); fstab: /swapfile none swap sw 0 0; dev-zram0.swap would start; rpi-swap mechanism unset; left-over swap file /var/swap",
    ),
    unclear(
      "the state of another version",
      observed({ swap: { activeAreas: undefined } }),
      "swap.activeAreas is not observed",
    ),
    unclear(
      "a state of another shape",
      observed({ swap: { activeAreas: "none" } }),
      "swap.activeAreas, swap.zramDevices, swap.fstabEntries, swap.swapUnits, swap.rpiSwapMechanism, swap.swapFiles: not of the expected shape",
    ),
  ],
  "3.core-dumps-off": [
    pass("off", declared(), 'coreDumps.mode is "off"; stored dumps are removed'),
    fail("kept", declared({ coreDumps: { mode: "keep" } }), 'coreDumps.mode is "keep"'),
    fail(
      "stored dumps kept",
      declared({ coreDumps: { storedDumps: "keep" } }),
      'coreDumps.storedDumps is "keep": prompts may be in them',
    ),
    pass(
      "off",
      observed(),
      'core_pattern "|/bin/false" now and at boot, suid_dumpable 0, no collector, no stored dump',
    ),
    fail(
      "on, in every way there is",
      observed({
        coreDumps: {
          corePattern: "core",
          suidDumpable: 2,
          corePatternAtBoot: "unset",
          suidDumpableAtBoot: "unset",
          dumpCollectors: ["systemd-coredump.socket"],
          storedDumps: 3,
        },
      }),
      'core_pattern "core"; suid_dumpable 2; core_pattern at the next boot "unset"; suid_dumpable at the next boot unset; systemd-coredump.socket would start; 3 stored dump(s)',
    ),
    unclear(
      "a secret",
      observed({ coreDumps: { storedDumps: unknownValue } }),
      "coreDumps.storedDumps is not known at this time",
    ),
  ],
  "5.default-deny": [
    pass("management only", declared(), "SSH from 192.0.2.0/24 only; forward drop"),
    pass(
      "the largest private network",
      declared({ firewall: { management: ["10.0.0.0/8"] } }),
      "SSH from 10.0.0.0/8 only; forward drop",
    ),
    fail(
      "SSH from everywhere",
      declared({ firewall: { management: ["0.0.0.0/0"] } }),
      "sources include 0.0.0.0/0, which is wider than any private network",
    ),
    fail(
      "a service for everybody",
      declared({ firewall: { allow: [{ name: "api", from: "::/0", protocol: "tcp" }] } }),
      "sources include ::/0, which is wider than any private network",
    ),
    fail(
      "forwarding left alone",
      declared({ firewall: { forward: "leave" } }),
      'firewall.forward is "leave"',
    ),
    fail(
      "no block",
      declared({ firewall: undefined }),
      "the node has no `firewall` block (edgeseal:network:Firewall)",
    ),
    unclear(
      "one source not yet known",
      declared({ firewall: { management: ["192.0.2.0/24", unknownValue] } }),
      "firewall.management is not known at this time",
    ),
    pass(
      "in force",
      observed(),
      "input policy drop, forward policy drop, 2 input rules; boot unit enabled, before the network",
    ),
    fail(
      "no table of ours",
      observed({
        firewall: {
          loaded: "absent",
          inputPolicy: undefined,
          outputPolicy: undefined,
          forwardPolicy: undefined,
          rules: undefined,
        },
      }),
      "loaded: absent; input policy not there; forward policy not there",
    ),
    fail(
      "not in force before the network",
      observed({
        firewall: {
          bootUnit: {
            state: "disabled",
            active: "active",
            beforeNetwork: false,
            linkedFrom: [],
            overrides: ["/etc/x.conf"],
          },
        },
      }),
      "boot unit disabled, not before the network; boot unit changed by /etc/x.conf",
    ),
    fail(
      "lost on a reload",
      observed({ firewall: { nftablesService: "flushes" } }),
      "nftables.service flushes",
    ),
    fail(
      "a rule of somebody else's in our table",
      observed(rules({ "unmanaged: tcp dport 8080 accept": "input accept tcp dport 8080" })),
      'rule not ours: unmanaged: tcp dport 8080 accept; rule "unmanaged: tcp dport 8080 accept" is open',
    ),
    fail(
      "a rule that lets everybody in under one of our names",
      observed(rules({ "base:input-loopback": "input accept" })),
      'rule "base:input-loopback" is open',
    ),
    fail(
      "a rule out of order",
      observed({ firewall: { order: ["input: allow:x stands after base:input-reject"] } }),
      "out of order: input: allow:x stands after base:input-reject",
    ),
  ],
  "5.egress-allowlist": [
    pass("listed only", declared(), "egress to 203.0.113.5, 192.0.2.53, 192.0.2.123 only"),
    pass("nothing", declared({ firewall: { allow: [], dns: [], ntp: [] } }), "egress to nothing"),
    pass(
      "the article's example",
      declared({
        firewall: {
          dns: [],
          ntp: [],
          allow: [
            { name: "a", to: "10.0.0.0/8", protocol: "any" },
            { name: "b", to: "203.0.113.5", protocol: "tcp", ports: [443] },
          ],
        },
      }),
      "egress to 10.0.0.0/8, 203.0.113.5 only",
    ),
    fail("open", declared({ firewall: { egress: "open" } }), 'firewall.egress is "open"'),
    fail(
      "open under another name",
      declared({
        firewall: {
          allow: [
            { name: "a", to: "0.0.0.0/1", protocol: "any" },
            { name: "b", to: "128.0.0.0/1", protocol: "any" },
          ],
        },
      }),
      "the allowlist has 0.0.0.0/1, which is wider than any private network; the allowlist has 128.0.0.0/1, which is wider than any private network",
    ),
    unclear(
      "an endpoint not yet known",
      declared({ firewall: { allow: [{ name: "a", to: unknownValue }] } }),
      "firewall.allow is not known at this time",
    ),
    pass("in force", observed(), "output policy drop, 4 output rules"),
    fail("open", observed({ firewall: { outputPolicy: "accept" } }), "output policy accept"),
    fail(
      "one rule to everywhere",
      observed(rules({ "allow:any": "output accept ip daddr 0.0.0.0/0 tcp dport 443" })),
      'rule "allow:any" is open',
    ),
    fail(
      "one rule to nowhere in particular",
      observed(rules({ "allow:any": "output accept tcp dport 443" })),
      'rule "allow:any" is open',
    ),
    fail(
      "a wide range among narrow ones",
      observed(rules({ "allow:any": "output accept ip daddr 192.0.2.1,1.0.0.0-223.255.255.255" })),
      'rule "allow:any" is open',
    ),
  ],
  "6.signed-images": [
    pass("signed", declared(), "only registry.example/edge/llama signed by site"),
    pass("nothing allowed", declared({ imagePolicy: { allow: [] } }), "every image is rejected"),
    pass(
      "from a folder",
      declared({
        imagePolicy: {
          allow: [{ image: "registry.example/edge/llama", folder: "/srv/images", signedBy: ["a", "b"] }],
        },
      }),
      "only /srv/images signed by a or b",
    ),
    fail(
      "no block",
      declared({ imagePolicy: undefined }),
      "the node has no `imagePolicy` block (edgeseal:container:ImagePolicy)",
    ),
    fail(
      "no key",
      declared({ imagePolicy: { allow: [{ image: "registry.example/edge/llama", signedBy: [] }] } }),
      "imagePolicy.allow: registry.example/edge/llama without a key that signs",
    ),
    unclear(
      "an image that is not yet known",
      declared({ imagePolicy: { allow: [{ image: unknownValue, signedBy: ["site"] }] } }),
      "imagePolicy.allow is not known at this time",
    ),
    pass("in force", observed(), "rejected by default; 1 scope(s), each signed; no user's own policy"),
    pass(
      "nothing allowed",
      observed({ imagePolicy: { rules: { "docker:docker.io": "reject" } } }),
      "rejected by default; 1 scope(s), each signed; no user's own policy",
    ),
    fail(
      "Debian's own",
      observed({ imagePolicy: { defaultRule: "insecureAcceptAnything" } }),
      "what is not listed: insecureAcceptAnything",
    ),
    fail("no policy", observed({ imagePolicy: { defaultRule: "missing" } }), "what is not listed: missing"),
    fail(
      "one scope without a signature",
      observed({ imagePolicy: { rules: { "docker:docker.io/library": "insecureAcceptAnything" } } }),
      "docker:docker.io/library: insecureAcceptAnything",
    ),
    fail(
      "a key that is not edgeseal's",
      observed({
        imagePolicy: {
          rules: {
            "docker:a.example": "signed by /home/x/k.pem (not a key of edgeseal's) for its own name and tag",
          },
        },
      }),
      "docker:a.example: signed by /home/x/k.pem (not a key of edgeseal's) for its own name and tag",
    ),
    fail(
      "a user's own policy",
      observed({ imagePolicy: { userOverrides: { "/home/infer/.config/containers/policy.json": "infer" } } }),
      "infer has /home/infer/.config/containers/policy.json in its place",
    ),
    fail(
      "a key beside the site's, or in the place of one",
      observed({ imagePolicy: { foreignKeys: ["/etc/edgeseal/image-keys/evil.pem"] } }),
      "/etc/edgeseal/image-keys/evil.pem is a key that was not declared",
    ),
    unclear(
      "keys of which nobody said whose they are",
      observed({ imagePolicy: { foreignKeys: undefined } }),
      "imagePolicy.foreignKeys is not observed",
    ),
    ...["0664 root:root", "0646 root:root", "0644 infer:root", "0777 root:root symbolic link"].map((marks) =>
      fail(
        `a policy that is ${marks}`,
        observed({ imagePolicy: { files: { "/etc/containers/policy.json": marks } } }),
        `/etc/containers/policy.json is ${marks}`,
      ),
    ),
  ],
  ...serviceControlCases,
};

describe.each(Object.entries(cases))("%s", (id, list) => {
  const control = checklist.find((each) => each.id === id);

  test.each(list.map((each) => [`${each.node.basis}, ${each.title}: ${each.outcome}`, each] as const))(
    "%s",
    (_, { node, outcome, evidence }) => {
      expect(control?.evaluate(node)).toEqual({ outcome, evidence });
    },
  );

  test.each(["declared", "observed"])("has a case that passes and one that fails, %s", (basis) => {
    const outcomes = list.filter(({ node }) => node.basis === basis).map(({ outcome }) => outcome);
    expect(outcomes).toContain("pass");
    expect(outcomes).toContain("violation");
  });
});

describe("the checklist", () => {
  test("every control that a resource serves has cases above", () => {
    const served = checklist.filter(({ block }) => block !== undefined).map(({ id }) => id);
    expect(Object.keys(cases).sort()).toEqual(served.sort());
  });

  test("every point has a control, and no id is used twice", () => {
    expect(new Set(checklist.map(({ point }) => String(point)))).toEqual(new Set(Object.keys(points)));
    expect(new Set(checklist.map(({ id }) => id)).size).toBe(checklist.length);
  });

  test.each(checklist.map((control) => [control.id, control] as const))(
    "%s is named after its point, and says what holds and what to do",
    (id, control) => {
      expect(id).toMatch(new RegExp(`^${control.point}\\.[a-z][a-z-]+$`));
      expect(control.title).not.toBe("");
      expect(control.mend).not.toBe("");
    },
  );

  const uncovered = checklist.filter(({ block }) => block === undefined);

  test.each(uncovered.map((control) => [control.id, control] as const))(
    "%s never passes: not covered, or declared and not enforced",
    (id, control) => {
      expect(control.evaluate(declared())).toEqual({
        outcome: "not-covered",
        evidence: "no resource observes this yet",
      });
      expect(control.evaluate({ ...observed(), statements: { [id]: "runbook 7" } })).toEqual({
        outcome: "declared-not-enforced",
        evidence: "stated, observed by no resource: runbook 7",
      });
    },
  );
});

test("an owned TPM is no evidence of a level: neither is one more claimed with it, nor one less without", () => {
  for (const changes of [{}, volumes({ pcr15Capped: false }), { measuredBoot: { replay: "tampered" } }]) {
    const without = bootEvidence(observed({ ...changes, tpm: undefined }));
    expect(bootEvidence(observed(changes))).toEqual(without);
  }
  const nothingElse = observed({ measuredBoot: undefined, volumes: undefined });
  expect(levelReached(bootEvidence(nothingElse)).level).toBe("none");
});

test("a node of which nothing is known passes nothing", () => {
  const blank: JudgedNode = {
    name: "pi-1",
    basis: "declared",
    blocks: Object.fromEntries(blockNames.map((name) => [name, unknownValue])),
  };
  expect(new Set(checklist.map((control) => control.evaluate(blank).outcome))).toEqual(
    new Set(["unknown", "not-covered"]),
  );
});
