import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { UserError } from "../../../cli/errors.ts";
import { makeKeys, type PrivateHalf } from "../../../cli/keys/make-keys.ts";
import { withUserFaults } from "../../../cli/user-fault.ts";
import { changeVolumes } from "../../../cli/volume/change.ts";
import type { NodeAccess } from "../../../cli/volume/node-access.ts";
import type { Task, VolumeOptions } from "../../../cli/volume/options.ts";
import * as volume from "../../../cli/volume.ts";
import type { Connection } from "../../../provider/connection.ts";
import { DeviceError } from "../../../provider/device/errors.ts";
import type { Step } from "../../../provider/device/step.ts";
import { policyKeyOf } from "../../../provider/resources/sealed-volume-files.ts";
import type { SealedVolumeInputs } from "../../../provider/resources/sealed-volume-inputs.ts";
import type { SealedVolumeState } from "../../../provider/resources/sealed-volume-state.ts";
import { ChallengeFailed } from "../../../provider/resources/tpm-challenge.ts";
import { sealRecovery } from "../../../provider/trust/recovery.ts";
import { readPublicKey } from "../../../provider/trust/public-key.ts";
import { approved, inputs as example, site } from "../resources/sealed-volume-example.ts";
import { device, StepFailed, VolumeNode } from "../resources/sealed-volume-node.ts";
import { testKey } from "../trust/keys.ts";
import { scratchFolder } from "./scratch.ts";

/*
 * The commands over a node whose device mapper and TPM are played: what they refuse, in which order they do what they do, and that no key shows anywhere.
 */

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

const scratch = scratchFolder();
const passphrase = "correct horse battery";
const pinned = "ab".repeat(32);
const policy: PrivateHalf = {
  in: "elsewhere",
  spec: "command:sign",
  key: site.key.privateKey,
  publicKeyPem: site.key.publicKeyPem,
};

/** Keys take their time to be found: the same for every test. */
const readyMade = mkdtempSync(join(tmpdir(), "edgeseal-ready-made-"));
beforeAll(async () => {
  await makeKeys(join(readyMade, "keys"), {
    site: "plant",
    policy,
    recovery: { in: "file", passphrase, workFactor: 4 },
    now: new Date("2027-01-01T00:00:00Z"),
  });
  node = new VolumeNode();
  node.setPcr(11, site.pcr11);
  locked();
  recorded = node.observe(declared());
  node[Symbol.dispose]();
});
afterAll(() => rmSync(readyMade, { recursive: true }));

let node: VolumeNode;
/** What is read of a volume that another TPM keeps locked, for tests that do nothing to the node: to form one takes seconds. */
let recorded: SealedVolumeState;
let onPaper: boolean;
let printed: string[];
/** What the node was asked and told, in order. */
let events: string[];
/** Changes what is read of the volumes. */
let alter: (state: SealedVolumeState, inputs: SealedVolumeInputs) => SealedVolumeState;
let challenge: NodeAccess["challenge"];
/** What the operator approved, which is what the TPM is held to. */
let approvedPcr11: readonly string[];
let applying: (step: Step) => void;
let answer: string | undefined;

beforeEach(() => {
  node = new VolumeNode();
  node.setPcr(11, site.pcr11);
  printed = [];
  events = [];
  onPaper = false;
  alter = (state) => state;
  challenge = () => Promise.resolve({ endorsementKeySha256: pinned, pcr11: site.pcr11 });
  approvedPcr11 = [site.pcr11];
  applying = (step) => node.apply(step);
  answer = undefined;
  vi.spyOn(console, "log").mockImplementation((line: string) => void printed.push(line));
  process.exitCode = undefined;
  cpSync(join(readyMade, "keys"), scratch("keys"), { recursive: true });
  chmodSync(scratch("keys"), 0o700);
  writeFileSync(scratch("passphrase"), `${passphrase}\n`, { mode: 0o600 });
  cpSync(scratch("keys", "recovery.pub.pem"), scratch("recovery.pub.pem"));
  declareSite();
  approveWith(site.approval);
});
afterEach(() => {
  node[Symbol.dispose]();
  vi.restoreAllMocks();
  process.exitCode = undefined;
});

function declareSite(
  given: { generation?: number; policyKey?: string; tpm?: string; more?: string } = {},
): void {
  const { generation = 1, policyKey = site.key.publicKeyPem, tpm = pinned, more = "" } = given;
  writeFileSync(scratch("policy.pub.pem"), policyKey);
  writeFileSync(
    scratch("site.yaml"),
    `site: plant
trust: { policyKey: policy.pub.pem, generation: ${generation}, recoveryKey: recovery.pub.pem, approvals: approvals }
nodes:
  - name: pi-1
    address: 192.0.2.1
    hostKey: SHA256:${"A".repeat(43)}
${tpm === "" ? "" : `    tpm: { endorsementKeySha256: "${tpm}" }\n`}    volumes:
      models: { device: ${device}, mountPoint: /srv/models }
${more}`,
  );
}

function approveWith(content: string): void {
  mkdirSync(scratch("approvals"), { recursive: true });
  writeFileSync(scratch("approvals", "pi-1.json"), content);
}

const declared = (): SealedVolumeInputs => ({
  ...example,
  recoveryKey: readFileSync(join(readyMade, "keys/recovery.pub.pem"), "utf8"),
});

/** A finished volume; its recovery key. */
function form(name = "pi-1"): string {
  node.applyAll(node.plan({ ...declared(), node: name }));
  const uuid = /^uuid=(.*)$/m.exec(node.read("/var/lib/edgeseal/volumes/models/formation"))?.[1] ?? "";
  return node.read(`/secrets/${uuid}.key`);
}

/** A volume that is locked, for a test that does nothing to it. */
const lockedOnPaper = (): void => {
  onPaper = true;
};

/** The same, with another TPM in the node. */
function locked(formedAs?: string): string {
  const key = form(formedAs);
  node.remove("/tpm-opens");
  node.boot();
  return key;
}

function openFake(connection: Connection): NodeAccess {
  events.push(`open ${connection.node}`);
  const observe = (inputs: SealedVolumeInputs): SealedVolumeState => {
    const state = onPaper ? recorded : node.observe({ ...inputs, name: "models" });
    // The token of the header that is played is bound to a key that is gone: its digest can't be that of the policy of another key.
    return alter(
      { ...state, tokens: state.tokens.map((each) => ({ ...each, sealedToZeros: true })) },
      inputs,
    );
  };
  return {
    observe: (volumes) => {
      events.push(`observe ${volumes.map(({ name }) => name).join(" ")}`);
      return Promise.resolve(volumes.map(observe));
    },
    ask: (probe) => {
      events.push(`ask ${probe.id}`);
      const parts = Object.entries(probe.parts).map(([part, script]) => [part, node.sh(script)] as const);
      return Promise.resolve(probe.parse(Object.fromEntries(parts)));
    },
    challenge: (given) => {
      events.push(`challenge ${given.pinned ?? "any"}`);
      expect(given.approvedPcr11).toEqual(approvedPcr11);
      return challenge(given);
    },
    apply: (inputs, steps, { onProgress }) => {
      events.push(`apply ${inputs.name}`);
      expect(onPaper, "a node that is only written down").toBe(false);
      let failure: Error | undefined;
      try {
        for (const step of steps) {
          onProgress(step.title);
          applying(step);
        }
      } catch (error) {
        if (!(error instanceof StepFailed)) throw error;
        failure = error;
      }
      return Promise.resolve({
        steps: [],
        observed: { outcome: "present", state: observe(inputs) } as const,
        failure,
      });
    },
    close: () => {
      events.push("close");
      return Promise.resolve();
    },
  };
}

interface Ran {
  readonly code: number;
  readonly output: string;
}

async function run(
  task: Task,
  options: Partial<VolumeOptions> = {},
  names: readonly string[] = [],
): Promise<Ran> {
  printed = [];
  process.exitCode = undefined;
  const all: VolumeOptions = {
    site: scratch("site.yaml"),
    keys: scratch("keys"),
    passphraseFile: scratch("passphrase"),
    ...options,
  };
  await withUserFaults(() =>
    changeVolumes(task, "pi-1", names, all, {
      open: openFake,
      canAsk: () => answer !== undefined,
      ask: () => Promise.resolve(answer ?? ""),
    }),
  );
  return { code: exitCode(), output: printed.join("\n") };
}

const exitCode = (): number => Number(process.exitCode ?? 0);

/** What was done to the node, before which nothing may be refused any more. */
const applied = (): readonly string[] => events.filter((each) => each.startsWith("apply"));

describe("recover", () => {
  test("shows, challenges the TPM, sends the key, reads back: open, and the next boot opens by itself", async () => {
    const key = locked();
    const { code, output } = await run("recover", { yes: true });
    expect(output).toMatch(/^pi-1: recover its sealed volumes\n {2}PCR 11 {2}[0-9a-f]{64}, approved$/m);
    expect(output).toMatch(
      new RegExp(`^ {2}models {2}${device} {2}LUKS [0-9a-f-]{36}\\n {4}locked: tpm-refused: `, "m"),
    );
    expect(output).toContain("formation complete, sealed by policy key");
    expect(output).toContain("the site's is generation 1, the same");
    expect(output).toContain(`the TPM with the pinned endorsement key ${pinned} answered a challenge`);
    expect(output).toContain("\n  seal models to the TPM anew, and open it\n");
    expect(output).toMatch(/^ {2}models: open, mounted at \/srv\/models; sealed to this TPM by policy key/m);
    expect(code).toBe(0);
    expect(events).toEqual(["open pi-1", "observe models", `challenge ${pinned}`, "apply models", "close"]);
    expect(output).not.toContain(key);
    node.write("/tpm-opens", "");
    expect(node.boot().code).toBe(0);
    expect((await run("recover", { yes: true })).output).toContain("-> nothing to do");
    expect(applied()).toHaveLength(1);
  });

  test("for another generation of the policy key, whose approval is the only one that counts then", async () => {
    locked();
    const next = await approved("pi-1", 2);
    declareSite({ generation: 2, policyKey: next.key.publicKeyPem });
    approveWith(next.approval);
    const { code, output } = await run("recover", { yes: true });
    expect(output).toMatch(/the site's is generation 2, [0-9a-f]{16}\.\.\./);
    expect(code).toBe(0);
    const state = node.observe(declared());
    expect(state.policyKey).toBe(policyKeyOf({ ...declared(), policyKey: next.key.publicKeyPem }));
    expect(JSON.parse(node.read("/etc/edgeseal/trust/approvals.json"))).toMatchObject({
      sha256: [{ pkfp: state.policyKey, pol: next.pol }],
    });
  });

  test("makes the TPM's slot anew, where the header differs in that only", async () => {
    locked();
    node.sh(`cryptsetup token remove --token-id 0 -- ${device}`);
    const { code, output } = await run("recover", { yes: true });
    expect(output).toContain("its header is not the pinned one, in the TPM's slot only\n");
    expect(events).toContain("ask reseal#models");
    expect(code).toBe(0);
  });

  test("encrypts the key to the site's new recovery key, and says so", async () => {
    locked();
    const next = testKey("recovery");
    writeFileSync(scratch("recovery.pub.pem"), next.publicKeyPem);
    const record = "/var/lib/edgeseal/volumes/models/formation";
    const before = node.read(record);
    const { code, output } = await run("recover", { yes: true });
    expect(output).toMatch(/its recovery key is encrypted to [0-9a-f]{16}\.\.\., and will be to the site's/);
    expect(code).toBe(0);
    // The folder has the old one.
    declareSite();
    await expect(run("rotate", { yes: true })).rejects.toThrow(/\(the recovery key of models\)/);
    // As it is where the power went between the ciphertext and the record.
    node.write(record, before);
    await expect(run("rotate", { yes: true })).rejects.toMatchObject({
      hint: expect.stringMatching(
        /^where the last run was cut off, it is encrypted to .* that the site file names/,
      ) as string,
    });
    expect(applied()).toHaveLength(1);
  });

  test("the key is neither in what is printed nor in an error, and nowhere but on standard input", async () => {
    const key = locked();
    const seen: string[] = [];
    applying = (step) => {
      const { stdin = "", ...rest } = step as { stdin?: string };
      seen.push(JSON.stringify(rest));
      if (stdin !== "") expect(stdin).toBe(key);
      if (step.title.startsWith("mount")) throw new StepFailed("mount: bad superblock");
      node.apply(step);
    };
    const { code, output } = await run("recover", { yes: true });
    expect(code).toBe(1);
    expect(output).toContain("models: not done: mount: bad superblock");
    expect(seen.join("\n")).not.toContain(key);
    expect(output).not.toContain(key);
    const json = await run("recover", { yes: true, json: true });
    expect(json.output).not.toContain(key);
  });
});

describe("rotate", () => {
  test("gives a volume that is as it should be another slot, and leaves it open", async () => {
    form();
    node.boot();
    const before = node.observe(declared());
    expect(before.openedBy).toBe("tpm");
    expect((await run("recover", { yes: true })).output).toContain("nothing to do");
    expect(events).not.toContain(`challenge ${pinned}`);
    const { code, output } = await run("rotate", { yes: true }, ["models"]);
    expect(output).toContain("pi-1: give its sealed volumes new key slots");
    expect(code).toBe(0);
    const after = node.observe(declared());
    expect(after).toMatchObject({ open: true, mountedAt: "/srv/models", headerMatchesPins: true });
    expect(after.headerDigest).not.toBe(before.headerDigest);
    expect(after.recoveryCiphertext).toBe(before.recoveryCiphertext);
  });
});

describe("nobody is asked, and nothing is sent, when", () => {
  const refused = async (message: RegExp, options: Partial<VolumeOptions> = {}): Promise<void> => {
    const { code, output } = await run("recover", { yes: true, ...options });
    expect(output).toMatch(message);
    expect(code).toBe(6);
    expect(events.filter((each) => /^(challenge|apply)/.test(each))).toEqual([]);
  };

  test("the state that the node is in was not approved", async () => {
    lockedOnPaper();
    alter = (state) => ({ ...state, pcr11: "cd".repeat(32) });
    await refused(
      /nobody approved the state that pi-1 is in \(PCR 11 (cd){32}\).*edgeseal approve pi-1 --current/,
    );
  });

  test("there is no approval, or one of another generation, or of another node", async () => {
    lockedOnPaper();
    rmSync(scratch("approvals"), { recursive: true });
    await refused(/nobody approved the state that pi-1 is in/);
    approveWith(site.approval);
    declareSite({ generation: 2 });
    await refused(/the approvals of pi-1 can't be used.*generation.*edgeseal approve pi-1/);
    declareSite();
    approveWith((await approved("pi-2", 1, site.key)).approval);
    await refused(/the approvals of pi-1 can't be used/);
  });

  test("the header is another one, in more than the TPM's slot", async () => {
    locked();
    alter = (state) => ({
      ...state,
      headerMatchesPins: false,
      headerDifferences: ["segment 0: encryption is x"],
    });
    // The node's own answer: its header is as it was. What is altered shows that it is asked, and believed.
    node.write(
      "/etc/edgeseal/volumes/models.pins",
      node
        .read("/etc/edgeseal/volumes/models.pins")
        .replace("fact segments.0.encryption ", "fact segments.0.encryption other-"),
    );
    await refused(
      /can't be done: the header of models on .* in more than the TPM's slot: segment 0: encryption is x/,
    );
  });

  test.each<[string, (state: SealedVolumeState) => SealedVolumeState, RegExp]>([
    [
      "was not finished",
      (state) => ({ ...state, formation: "forming" }),
      /begun and not finished.*pulumi up/,
    ],
    [
      "was never formed",
      (state) => ({ ...state, formation: "none" }),
      /never formed on this node, or its records/,
    ],
    ["has no device", (state) => ({ ...state, devicePresent: false }), /is not there; connect it/],
    [
      "has no ciphertext",
      (state) => ({ ...state, recoveryCiphertext: "" }),
      /its recovery ciphertext is not on/,
    ],
    [
      "has another header in its place",
      (state) => ({ ...state, luksUuid: "0a1b2c3d-1111-4222-8333-000000000000" }),
      /there is LUKS 0a1b2c3d-1111-4222-8333-000000000000, and its record is that of/,
    ],
    [
      "is mounted elsewhere",
      (state) => ({ ...state, usedBy: ["mounted at /mnt"] }),
      /in use.*mounted at \/mnt/,
    ],
    ["has a node without a TPM", (state) => ({ ...state, tpmPresent: false }), /pi-1 has no TPM/],
  ])("a volume %s", async (_, change, message) => {
    lockedOnPaper();
    alter = change;
    await refused(message);
  });

  test("one of several can't be done; the others alone can, if they are named", async () => {
    lockedOnPaper();
    declareSite({ more: `      logs: { device: /dev/disk/by-id/virtio-logs, mountPoint: /srv/logs }\n` });
    alter = (state, { name }) => (name === "logs" ? { ...state, formation: "none" } : state);
    await refused(/nothing was changed; for the others alone, name them: models/);
    expect((await run("recover", {}, ["models"])).code).toBe(4);
  });
});

describe("the TPM", () => {
  test("is asked for by the site file's digest, or by --tpm where that has none; not by both", async () => {
    lockedOnPaper();
    declareSite({ tpm: "" });
    await run("recover", { tpm: "CD".repeat(32), dryRun: true });
    expect(events).toContain(`challenge ${"cd".repeat(32)}`);
    declareSite();
    await expect(run("recover", { tpm: "cd".repeat(32) })).rejects.toThrow(
      /--tpm is (cd){32}, and the site file pins/,
    );
    await run("recover", { tpm: pinned, dryRun: true });
    expect(events.at(-2)).toBe(`challenge ${pinned}`);
    await expect(run("recover", { unpinnedTpm: true })).rejects.toThrow(/--unpinned-tpm is of no use/);
    await expect(run("recover", { tpm: "abc" })).rejects.toThrow(/64 hex digits/);
  });

  test("that is not known gets no key, with 5, unless somebody says what that means", async () => {
    lockedOnPaper();
    declareSite({ tpm: "" });
    await expect(run("recover", { yes: true })).rejects.toThrow(
      /it is not known which TPM pi-1 has, so no recovery key is sent to it/,
    );
    expect(exitCode()).toBe(5);
    expect(events).toEqual([]);
    const { code, output } = await run("recover", { unpinnedTpm: true });
    expect(events).toContain("challenge any");
    expect(output).toMatch(/SOMETHING answered a challenge .* may be any TPM, or none/);
    expect(code).toBe(4);
  });

  test("that is another one, or does not answer, gets no key, with 5, before any passphrase", async () => {
    lockedOnPaper();
    challenge = () =>
      Promise.reject(new ChallengeFailed("otherTpm", "pi-1 has another TPM", { hint: "compare the digest" }));
    const failed = run("recover", { yes: true, passphraseFile: scratch("none") });
    await expect(failed).rejects.toThrow(UserError);
    await expect(failed).rejects.toMatchObject({
      message: "pi-1 has another TPM",
      hint: "compare the digest",
    });
    expect(exitCode()).toBe(5);
    expect(applied()).toEqual([]);
    expect(events.at(-1)).toBe("close");
  });
});

test("a system that tells the approved PCR 11, while its TPM quotes another, gets no key, with 6, before any passphrase", async () => {
  lockedOnPaper();
  challenge = () =>
    Promise.reject(new ChallengeFailed("otherState", "nobody approved the state", { hint: "look" }));
  await expect(run("recover", { yes: true, passphraseFile: scratch("none") })).rejects.toMatchObject({
    message: "nobody approved the state",
    hint: "look",
  });
  expect(printed.join("\n")).toContain(`PCR 11  ${site.pcr11}, approved`);
  expect(exitCode()).toBe(6);
  expect(applied()).toEqual([]);
  expect(events.at(-1)).toBe("close");
});

describe("the recovery ciphertext", () => {
  const bound = (node_: string, subject: string) => (state: SealedVolumeState) => ({
    ...state,
    recoveryCiphertext: sealRecovery(
      readPublicKey(readFileSync(scratch("recovery.pub.pem"), "utf8"), "recovery"),
      {
        kind: "luks",
        node: node_,
        subject: subject === "" ? state.luksUuid : subject,
        key: "k".repeat(64),
      },
    ).toString("base64"),
  });

  test.each([
    [
      "another node",
      "pi-2",
      "",
      /is that of the LUKS volume .* of pi-2, and was given as that of .* of pi-1: it was swapped, or the node was renamed; nothing was sent/,
    ],
    ["another volume", "pi-1", "0a1b2c3d-1111-4222-8333-000000000000", /it was swapped; nothing was sent/],
  ])("of %s is refused, with 6, and nothing is sent", async (_, of, subject, message) => {
    lockedOnPaper();
    alter = bound(of, subject);
    await expect(run("recover", { yes: true })).rejects.toThrow(message);
    expect(exitCode()).toBe(6);
    expect(applied()).toEqual([]);
  });

  test("of a node that was renamed opens by its former name, and is made anew for the present one", async () => {
    locked("pi-0");
    await expect(run("recover", { yes: true })).rejects.toMatchObject({
      hint: expect.stringMatching(
        /^if the node was called pi-0 when this was made: --bound-to pi-0 \(/,
      ) as string,
    });
    expect(applied()).toEqual([]);
    const { code, output } = await run("recover", { yes: true, boundTo: "pi-0" });
    expect([code, output]).toEqual([0, expect.stringMatching(/^ {2}models: open/m)]);
    // Now it is bound to the present name, and no longer to the former one.
    await expect(run("rotate", { yes: true, boundTo: "pi-0" })).rejects.toMatchObject({
      hint: expect.stringMatching(/leave --bound-to out/) as string,
    });
    expect((await run("rotate", { yes: true })).code).toBe(0);
    expect(applied()).toHaveLength(2);
  });

  test("of a node that was renamed is still refused for another volume; the name of another node is not offered", async () => {
    lockedOnPaper();
    alter = bound("pi-0", "0a1b2c3d-1111-4222-8333-000000000000");
    const refused = run("recover", { yes: true, boundTo: "pi-0" });
    await expect(refused).rejects.toThrow(/it was swapped; nothing was sent/);
    await expect(refused).rejects.toMatchObject({
      hint: expect.not.stringMatching(/bound-to/) as string,
    });
    declareSite({
      more: `  - { name: pi-2, address: 192.0.2.2, hostKey: "SHA256:${"B".repeat(43)}" }\n`,
    });
    alter = bound("pi-2", "");
    await expect(run("recover", { yes: true })).rejects.toMatchObject({
      hint: expect.stringMatching(/^pi-2 is another node: /) as string,
    });
    expect(applied()).toEqual([]);
  });

  test("of another site's key can't be opened: both keys are named", async () => {
    lockedOnPaper();
    alter = (state) => ({
      ...state,
      recoveryKey: "12".repeat(32),
      recoveryCiphertext: Buffer.alloc(512, 1).toString("base64"),
    });
    const failed = run("recover", { yes: true });
    await expect(failed).rejects.toMatchObject({
      hint: expect.stringMatching(/^it was encrypted to the recovery key 1212121212121212\.\.\./) as string,
    });
    expect(applied()).toEqual([]);
  });
});

describe("saying yes", () => {
  test("is needed: without a terminal, with --json, with --dry-run or a no, nothing is done, with 4", async () => {
    locked();
    for (const options of [{}, { json: true }, { dryRun: true, yes: true }] as const) {
      expect((await run("recover", options)).code).toBe(4);
    }
    answer = "n";
    expect((await run("recover")).code).toBe(4);
    expect(applied()).toEqual([]);
    answer = "y";
    expect((await run("recover")).code).toBe(0);
    expect(applied()).toHaveLength(1);
  });

  test("Ctrl-C ends it with 130, and the connection", async () => {
    lockedOnPaper();
    challenge = ({ signal }) =>
      new Promise((_resolve, reject) => {
        signal.addEventListener("abort", () =>
          reject(new DeviceError("cancelled", "pi-1", "cancelled", { hint: "" })),
        );
        process.emit("SIGINT");
      });
    await expect(run("recover", { yes: true })).rejects.toThrow("interrupted: nothing was changed");
    expect(exitCode()).toBe(130);
    expect(events.at(-1)).toBe("close");
    expect(process.listenerCount("SIGINT")).toBe(0);
  });
});

test("as JSON, everything is told to programs, and nothing else is printed", async () => {
  locked();
  const { output } = await run("recover", { yes: true, json: true });
  expect(JSON.parse(output)).toMatchObject({
    node: "pi-1",
    task: "recover",
    pcr11Approved: true,
    objections: [],
    tpm: { endorsementKeySha256: pinned, pinned: true },
    volumes: [
      {
        name: "models",
        formation: "complete",
        open: false,
        change: true,
        siteGeneration: 1,
        after: { open: true, mountedAt: "/srv/models", sealed: true },
        done: true,
        failure: null,
      },
    ],
  });
  node.setPcr(11, "cd".repeat(32));
  const refused = JSON.parse((await run("rotate", { yes: true, json: true })).output) as object;
  expect(refused).toMatchObject({ tpm: null, volumes: [{ done: false, after: null }] });
});

test("a volume of another policy key that is not meant is named: no new approval opens it", async () => {
  lockedOnPaper();
  declareSite({ more: `      logs: { device: /dev/disk/by-id/virtio-logs, mountPoint: /srv/logs }\n` });
  alter = (state, { name }) => (name === "logs" ? { ...state, policyKey: "12".repeat(32) } : state);
  const { output } = await run("recover", { dryRun: true }, ["models"]);
  expect(output).toContain("note: logs is bound to another policy key than the site's, and not meant here");
});

test.each<[string, Partial<VolumeOptions>, readonly string[], RegExp]>([
  ["no key", { keys: undefined as never }, [], /which recovery key\?/],
  ["two keys", { recoveryKey: "command:x" }, [], /not both/],
  ["a volume that there is not", {}, ["model"], /pi-1 has no volume model/],
])("%s is told before the node is reached", async (_, options, names, message) => {
  await expect(run("recover", options, names)).rejects.toThrow(message);
  expect(events).toEqual([]);
});

test("the options are those that commander gives, and --site is required", async () => {
  const program = new Command().exitOverride().configureOutput({ writeErr: () => undefined });
  volume.register(program);
  for (const command of program.commands.flatMap(({ commands }) => commands))
    command.exitOverride().configureOutput({ writeErr: () => undefined });
  await expect(program.parseAsync(["volume", "recover", "pi-1"], { from: "user" })).rejects.toThrow(/--site/);
  const words = ["--site", scratch("none.yaml"), "--keys", scratch("keys")];
  await expect(program.parseAsync(["volume", "rotate", "pi-1", ...words], { from: "user" })).rejects.toThrow(
    /there is no such site file/,
  );
});
