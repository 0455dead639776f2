import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { stringify } from "yaml";
import type { SealedVolumeInputs } from "../../provider/resources/sealed-volume-inputs.ts";
import type { SealedVolumeState } from "../../provider/resources/sealed-volume-state.ts";
import { fingerprint, readPublicKey } from "../../provider/trust/public-key.ts";
import { VirtualPi } from "../../testbed/virtual-pi.ts";
import { bringUp, kindOf, observe, onPi, type Declared } from "./provider-on-pi.ts";
import { edgesealIn, type Ran } from "./command-line.ts";
import { modelDisk, models } from "./sealed-volume-site.ts";

/*
 * `edgeseal volume recover` and `rotate` as an operator runs them, on a node that measures its boots: another TPM, which answers a challenge before it gets a key, another key slot, and
 * another generation of the policy key, after which what the old one approved opens nothing.
 */

const keys = ["--keys", "keys", "--passphrase-file", "passphrase"];

let pi: VirtualPi;
let folder: string;

/** Runs the command line with the site's files. */
const edgeseal = (...args: readonly string[]): Promise<Ran> => edgesealIn(folder, args);

const onVolumes = (task: "recover" | "rotate", ...args: readonly string[]): Promise<Ran> =>
  edgeseal("volume", task, "pi-1", "--site", "stacks/lab.yaml", ...keys, "--yes", ...args);

async function approve(): Promise<void> {
  const approved = await edgeseal(
    "approve",
    "pi-1",
    "--site",
    "stacks/lab.yaml",
    "--current",
    "--yes",
    ...keys,
  );
  expect(approved.code, approved.text).toBe(0);
}

function declareSite(generation: number, tpm?: string): void {
  const { host, port, user, identityFile, hostKey } = pi.ssh;
  const site = {
    site: "lab",
    trust: {
      policyKey: `../keys/policy-${generation}.pub.pem`,
      generation,
      recoveryKey: "../keys/recovery.pub.pem",
    },
    nodes: [
      {
        ...{ name: "pi-1", address: host, port, user, identityFile, hostKey, measuredBoot: {} },
        ...(tpm === undefined ? {} : { tpm: { endorsementKeySha256: tpm } }),
        volumes: { models: { device: modelDisk, mountPoint: "/srv/models" } },
      },
    ],
  };
  writeFileSync(join(folder, "stacks/lab.yaml"), stringify(site));
}

const publicKey = (name: string): string => readFileSync(join(folder, `keys/${name}.pub.pem`), "utf8");

const volume = (generation = 1): Declared => {
  const inputs: SealedVolumeInputs = {
    ...models,
    node: "pi-1",
    policyKey: publicKey(`policy-${generation}`),
    generation,
    approval: readFileSync(join(folder, "approvals/pi-1.json"), "utf8"),
    recoveryKey: publicKey("recovery"),
  };
  return { kind: kindOf("edgeseal:storage:SealedVolume"), inputs };
};

const look = (generation = 1): Promise<SealedVolumeState> => observe(pi, volume(generation));

/** The digest of the endorsement key, as a person reads it on the console. */
async function digestOnConsole(): Promise<string> {
  const area = await onPi(
    pi,
    "cd $(mktemp -d) && tpm2_createek -Q -G rsa -c ek -u ek.pub && tail -c +3 ek.pub | base64 -w 0",
  );
  return createHash("sha256").update(Buffer.from(area, "base64")).digest("hex");
}

let fileDigest: string;
const fileIsThere = async (): Promise<void> => {
  expect(await onPi(pi, "sha256sum /srv/models/model.gguf")).toBe(fileDigest);
};
const opensByItself = async (generation = 1): Promise<void> => {
  expect(await look(generation)).toMatchObject({ openedBy: "tpm", unlock: "observed", pcr15Capped: true });
  await fileIsThere();
};

let firstTpm: string;
let secondTpm: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "edgeseal-recover-"));
  writeFileSync(join(folder, "passphrase"), "correct horse battery staple\n", { mode: 0o600 });
  mkdirSync(join(folder, "stacks"));
  expect((await edgeseal("keys", "new", "keys", "--passphrase-file", "passphrase")).code).toBe(0);
  pi = await VirtualPi.start();
  declareSite(1);
  // Better compression only costs time here.
  await onPi(pi, "echo COMPRESSLEVEL=1 >/etc/initramfs-tools/conf.d/zz-fast");
  await bringUp(pi, {
    kind: kindOf("edgeseal:boot:MeasuredBoot"),
    inputs: { node: "pi-1", reboot: "never", rebootUnapproved: "refuse" },
  });
  await pi.reboot();
});

afterAll(async () => {
  // It does not exist when its start failed.
  await (pi as VirtualPi | undefined)?.stop();
  rmSync(folder, { recursive: true, force: true });
});

test("the beginning: a volume that is sealed to the first TPM", async () => {
  firstTpm = await digestOnConsole();
  await approve();
  await bringUp(pi, volume());
  fileDigest = await onPi(
    pi,
    "head -c 4000000 /dev/urandom >/srv/models/model.gguf && sync && sha256sum /srv/models/model.gguf",
  );
});

test("with another TPM it is locked, and no key is sent to a TPM that is not pinned, or not the pinned one", async () => {
  await pi.powerOff();
  await pi.replaceTpm();
  await pi.boot();
  const state = await look();
  expect(state).toMatchObject({ open: false, pcr11Approved: true, pcr15Capped: true });
  expect(state.lockedReason).toMatch(/^tpm-refused/);
  secondTpm = await digestOnConsole();
  expect(secondTpm).not.toBe(firstTpm);

  const unpinned = await onVolumes("recover");
  expect(unpinned.text).toContain("it is not known which TPM pi-1 has");
  expect(unpinned.code).toBe(5);
  declareSite(1, firstTpm);
  const other = await onVolumes("recover");
  expect(other.text).toContain(`is ${secondTpm}, and ${firstTpm} is pinned`);
  expect(other.code).toBe(5);
  expect((await look()).headerDigest).toBe(state.headerDigest);
  expect(await onPi(pi, "ls -A /run/edgeseal")).not.toContain("challenge");
});

test("recovered with the challenge to the new TPM, it is open at once, and opens by itself from the next boot on", async () => {
  declareSite(1, secondTpm);
  const dry = await onVolumes("recover", "--dry-run");
  expect(dry.text).toContain(`the pinned endorsement key ${secondTpm} answered a challenge`);
  expect(dry.code).toBe(4);
  expect((await look()).open).toBe(false);
  const { code, text } = await onVolumes("recover");
  expect(code, text).toBe(0);
  expect(text).toMatch(/^ {2}models: open, mounted at \/srv\/models; sealed to this TPM/m);
  await fileIsThere();
  expect(await onPi(pi, "ls -A /run/edgeseal; tpm2_getcap handles-saved-session")).not.toMatch(
    /challenge|0x/,
  );
  await pi.reboot();
  await opensByItself();
  expect((await onVolumes("recover")).text).toContain("nothing to do");
});

test("rotated, it has another slot, and stays open", async () => {
  const before = await look();
  const { code, text } = await onVolumes("rotate", "models");
  expect(code, text).toBe(0);
  const after = await look();
  expect(after).toMatchObject({ open: true, headerMatchesPins: true, tokens: [{ sealedToZeros: true }] });
  expect(after.headerDigest).not.toBe(before.headerDigest);
  expect(after.keySlots).toHaveLength(2);
  await fileIsThere();
});

test("under a new generation of the policy key, what the old one approved opens nothing any more", async () => {
  const oldSignatures = await onPi(pi, "cat /etc/edgeseal/trust/approvals.json");
  expect((await edgeseal("keys", "rotate", "keys", "--passphrase-file", "passphrase")).code).toBe(0);
  declareSite(2, secondTpm);
  const early = await onVolumes("recover");
  expect(early.text).toMatch(/the approvals of pi-1 can't be used.*edgeseal approve pi-1/);
  expect(early.code).toBe(6);
  await approve();
  const { code, text } = await onVolumes("recover");
  expect(code, text).toBe(0);
  const state = await look(2);
  expect(state.policyKey).toBe(fingerprint(readPublicKey(publicKey("policy-2"), "policy")));
  expect(state.tokens).toHaveLength(1);

  const newSignatures = await onPi(pi, "cat /etc/edgeseal/trust/approvals.json");
  const put = (signatures: string): Promise<string> =>
    onPi(pi, `printf '%s' '${signatures}' >/etc/edgeseal/trust/approvals.json; sync`);
  await put(oldSignatures);
  await pi.reboot();
  const locked = await look(2);
  expect(locked).toMatchObject({
    open: false,
    pcr11: state.pcr11,
    pcr11Approved: false,
    headerMatchesPins: true,
  });
  // The unlock program knows the state by its digest, which is the same; it is the TPM that asks for the new key's signature.
  expect(locked.lockedReason).toMatch(/^tpm-refused/);
  // The control: the same state, with the signature of the new generation.
  await put(newSignatures);
  await pi.reboot();
  await opensByItself(2);
});
