import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { parse } from "yaml";
import { tpmOwnership } from "../../provider/resources/tpm-ownership.ts";
import type { TpmOwnershipState } from "../../provider/resources/tpm-ownership-observation.ts";
import { openRecovery } from "../../provider/trust/recovery.ts";
import { VirtualPi } from "../../testbed/virtual-pi.ts";
import { testKey } from "../unit/trust/keys.ts";
import { edgesealIn, type Ran } from "./command-line.ts";
import { bringUp, driftOf, endorsementKeyOf, observe, onPi } from "./provider-on-pi.ts";

/*
 * Ownership of a TPM 2.0 behind a real kernel and its resource manager, with systemd as the one that seals to it.
 */

let pi: VirtualPi;

beforeAll(async () => {
  pi = await VirtualPi.start();
});

// It does not exist when its start failed.
afterAll(() => (pi as VirtualPi | undefined)?.stop());

const recovery = testKey("recovery");

type Inputs = Parameters<typeof tpmOwnership.desired>[0];
const inputs: Inputs = {
  node: "pi",
  recoveryPublicKey: recovery.publicKeyPem,
  maxTries: 32,
  recoveryTime: 600,
  lockoutRecovery: 86_400,
};
const declared = { kind: tpmOwnership, inputs };

const stateOf = (): Promise<TpmOwnershipState> => observe(pi, declared);

const drift = (): Promise<readonly string[]> => driftOf(pi, declared);

const authorization = async (of: "owner" | "lockout"): Promise<string> =>
  openRecovery(Buffer.from((await stateOf()).recovery[of] ?? "", "base64"), recovery.privateKey, {
    kind: "tpm-auth",
    node: "pi",
    subject: of,
  });

/** What a TPM that nobody owns differs in. */
const unowned = [
  "endorsementKey",
  "storageKey",
  "ownerAuth",
  "lockoutAuth",
  "maxTries",
  "recoveryTime",
  "lockoutRecovery",
];

/** Makes a small volume, enrols the TPM as sealed volumes do, and opens it by the TPM alone. */
const enrol = `set -e
cd /var/tmp; rm -f volume key; truncate -s 32M volume; head -c 32 /dev/urandom >key
cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file key volume
systemd-cryptenroll --unlock-key-file=key --tpm2-device=auto --tpm2-pcrs=15 volume
/usr/lib/systemd/systemd-cryptsetup attach trial /var/tmp/volume none tpm2-device=auto,headless=true
[ -b /dev/mapper/trial ]
/usr/lib/systemd/systemd-cryptsetup detach trial
`;

test("ownership is taken; systemd still enrols and opens, since it finds the storage root key", async () => {
  expect(await drift()).toEqual(unowned);
  await bringUp(pi, declared);
  expect(await stateOf()).toMatchObject({
    ownerAuth: "ours",
    lockoutAuth: "ours",
    storageKeyType: "ecc",
    maxTries: 32,
    recoveryTime: 600,
    lockoutRecovery: 86_400,
  });
  await onPi(pi, enrol);
  expect(await onPi(pi, "ls -A /run/edgeseal; find /var/lib/edgeseal/tpm -perm /077")).not.toContain("tpm.");
});

test("the control: without that key, and with the owner authorization set, nothing can be enrolled", async () => {
  const owner = await authorization("owner");
  await onPi(pi, `tpm2_evictcontrol -Q -C o -P ${owner} -c 0x81000001`);
  const { code, stderr } = await pi.exec(`sudo sh -c '${enrol}'`, { timeoutMs: 300_000 });
  expect(code).not.toBe(0);
  // TPM_RC_BAD_AUTH of session 1: it would have to make the key, as the owner.
  expect(stderr).toMatch(/Esys_CreatePrimary.*0x000009a2/s);
  expect(await stateOf()).toMatchObject({ storageKey: "none", ownerAuth: "foreign" });
  await onPi(
    pi,
    `cd /root && tpm2_createprimary -Q -C o -P ${owner} -G ecc256:aes128cfb -a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt' -c srk
tpm2_evictcontrol -Q -C o -P ${owner} -c srk 0x81000001; rm srk`,
  );
  expect(await drift()).toEqual([]);
});

test("a reboot changes nothing of it", async () => {
  const before = await stateOf();
  await pi.reboot();
  expect(await stateOf()).toEqual(before);
  expect(await drift()).toEqual([]);
});

test("a TPM2_Clear behind our back is drift, property by property, and what was sealed is gone; ownership is taken anew", async () => {
  const before = await stateOf();
  await onPi(pi, `tpm2_clear -Q -c l ${await authorization("lockout")}`);
  expect(await drift()).toEqual(unowned);
  await bringUp(pi, declared);
  expect((await stateOf()).endorsementKeySha256).toBe(before.endorsementKeySha256);
  const attach =
    "/usr/lib/systemd/systemd-cryptsetup attach trial /var/tmp/volume none tpm2-device=auto,headless=true";
  expect((await pi.exec(`sudo ${attach}`, { timeoutMs: 120_000 })).code).not.toBe(0);
});

test("power is cut after the ciphertext is on the disk and before the TPM has the authorization: the next plan goes on, and no authorization is lost", async () => {
  await onPi(pi, `tpm2_clear -Q -c l ${await authorization("lockout")}`);
  // Before the tool in the PATH, something that never comes to its end.
  const held = "/usr/sbin/tpm2_changeauth";
  await onPi(
    pi,
    `printf '#!/bin/sh\\ntouch /run/reached; exec sleep 3600\\n' >${held}; chmod 755 ${held}; sync`,
  );
  const cut = bringUp(pi, declared).catch((error: unknown) => error);
  await onPi(pi, "until [ -e /run/reached ]; do sleep 0.2; done");
  await pi.powerCut();
  expect(await cut).toBeInstanceOf(Error);
  await pi.boot();
  await onPi(pi, `rm ${held}`);
  expect(await onPi(pi, "ls /var/lib/edgeseal/tpm/*/owner.pending")).not.toBe("");
  expect(await stateOf()).toMatchObject({ ownerAuth: "empty", lockoutAuth: "empty", recovery: {} });
  await bringUp(pi, declared);
  // The TPM takes what the ciphertext holds.
  await onPi(
    pi,
    `tpm2_changeauth -Q -c owner -p ${await authorization("owner")} ${await authorization("owner")}`,
  );
  await onPi(pi, enrol);
});

test("first contact: the console's script tells the endorsement key that the TPM has, `edgeseal node add` pins it, and a device with another TPM is not written down", async () => {
  const folder = mkdtempSync(join(tmpdir(), "edgeseal-first-contact-"));
  const { host, port, user, identityFile, hostKey } = pi.ssh;
  try {
    const { stdout: script } = await edgesealIn(folder, ["node", "console-script"]);
    const shown = await pi.exec("sudo -n sh -s", { stdin: script });
    const check = /^check +(.*)$/m.exec(shown.stdout)?.[1] ?? expect.fail(shown.stdout + shown.stderr);
    const endorsementKeySha256 = await endorsementKeyOf(pi);
    expect(shown.stdout).toMatch(new RegExp(`^EK digest +${endorsementKeySha256}$`, "m"));

    const site = join(folder, "lab.yaml");
    const before =
      "site: lab\ntrust:\n  policyKey: policy.pub.pem\n  generation: 1\n  recoveryKey: recovery.pub.pem\nnodes: []\n";
    writeFileSync(join(folder, "policy.pub.pem"), testKey("policy").publicKeyPem);
    writeFileSync(join(folder, "recovery.pub.pem"), recovery.publicKeyPem);
    writeFileSync(site, before);
    const reach = ["--port", String(port), "--user", user, "--identity-file", identityFile];
    const add = (expected: string): Promise<Ran> =>
      edgesealIn(folder, [
        ...["node", "add", host, "--site", "lab.yaml", "--name", "pi"],
        ...[...reach, "--expect", expected],
      ]);
    const [hostPart = "", tpmPart = ""] = check.split(" ");
    const other = await add(
      `${hostPart} ${tpmPart.replaceAll(/[0-9a-f]/g, (digit) => (digit === "0" ? "1" : "0"))}`,
    );
    expect(other.code, other.text).toBe(5);
    expect(readFileSync(site, "utf8")).toBe(before);

    const added = await add(check);
    expect(added.code, added.text).toBe(0);
    expect(parse(readFileSync(site, "utf8"))).toMatchObject({
      nodes: [{ name: "pi", address: host, hostKey, tpm: { endorsementKeySha256 } }],
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("another TPM is refused by the pinned digest, both named, and nothing is done to it", async () => {
  const { endorsementKeySha256 } = await stateOf();
  const pinned = { kind: tpmOwnership, inputs: { ...inputs, endorsementKeySha256 } };
  await bringUp(pi, pinned);
  await pi.powerOff();
  await pi.replaceTpm();
  await pi.boot();
  await expect(bringUp(pi, pinned)).rejects.toThrow(
    new RegExp(
      `this is another TPM: the digest of its endorsement key is [0-9a-f]{64}, and ${endorsementKeySha256} is pinned`,
    ),
  );
  expect(await onPi(pi, "tpm2_getcap handles-persistent")).toBe("");
  expect(await stateOf()).toMatchObject({ ownerAuth: "empty", endorsementKey: "none" });
});
