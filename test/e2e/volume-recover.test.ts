import { afterAll, beforeAll, expect, test } from "vitest";
import { policyKeyOf } from "../../provider/resources/sealed-volume-files.ts";
import type { SealedVolumeInputs } from "../../provider/resources/sealed-volume-inputs.ts";
import type { Ran } from "./command-line.ts";
import { SealedNode } from "./sealed-node.ts";
import { modelDisk } from "./sealed-volume-site.ts";

/*
 * `edgeseal volume recover` and `rotate` as an operator runs them, on a node that measures its boots: another TPM, which answers a challenge before it gets a key, another key slot, and
 * another generation of the policy key, after which what the old one approved opens nothing.
 */

let node: SealedNode;
let firstTpm: string;
let secondTpm: string;

beforeAll(async () => {
  node = await SealedNode.start();
  firstTpm = await node.endorsementKeySha256();
});

// It does not exist when its start failed.
afterAll(() => (node as SealedNode | undefined)?.stop());

/** The header, the pins and the approvals of before the new generation. */
const oldCopy = "/var/tmp/old-copy";

const onVolumes = (task: "recover" | "rotate", ...args: readonly string[]): Promise<Ran> =>
  node.edgeseal("volume", task, "pi-1", ...node.keys, "--yes", ...args);

test("with another TPM it is locked, and no key is sent to a TPM that is not pinned, or not the pinned one", async () => {
  await node.pi.powerOff();
  await node.pi.replaceTpm();
  await node.pi.boot();
  const state = await node.look();
  expect(state).toMatchObject({ open: false, pcr11Approved: true, pcr15Capped: true });
  expect(state.lockedReason).toMatch(/^tpm-refused/);
  secondTpm = await node.endorsementKeySha256();
  expect(secondTpm).not.toBe(firstTpm);

  const unpinned = await onVolumes("recover");
  expect(unpinned.text).toContain("it is not known which TPM pi-1 has");
  expect(unpinned.code).toBe(5);
  node.declareSite({ endorsementKeySha256: firstTpm });
  const other = await onVolumes("recover");
  expect(other.text).toContain(`is ${secondTpm}, and ${firstTpm} is pinned`);
  expect(other.code).toBe(5);
  expect((await node.look()).headerDigest).toBe(state.headerDigest);
  expect(await node.root("ls -A /run/edgeseal")).not.toContain("challenge");
});

test("recovered with the challenge to the new TPM, it is open at once, and opens by itself from the next boot on", async () => {
  node.declareSite({ endorsementKeySha256: secondTpm });
  const dry = await onVolumes("recover", "--dry-run");
  expect(dry.text).toContain(`the pinned endorsement key ${secondTpm} answered a challenge`);
  expect(dry.code).toBe(4);
  expect((await node.look()).open).toBe(false);
  const { code, text } = await onVolumes("recover");
  expect(code, text).toBe(0);
  expect(text).toMatch(/^ {2}models: open, mounted at \/srv\/models; sealed to this TPM/m);
  await node.expectFile();
  expect(await node.root("ls -A /run/edgeseal; tpm2_getcap handles-saved-session")).not.toMatch(
    /challenge|0x/,
  );
  await node.pi.reboot();
  await node.expectOpen();
  expect((await onVolumes("recover")).text).toContain("nothing to do");
});

test("rotated, it has another slot, loses what somebody added to it, and stays open", async () => {
  const before = await node.look();
  const added = await node.pi.exec(
    `sudo -n sh -c 'printf attacker >/run/own && cryptsetup luksAddKey --batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file - ${modelDisk} /run/own &&
printf "{\\"type\\":\\"foreign\\",\\"keyslots\\":[\\"2\\"]}" | cryptsetup token import ${modelDisk}'`,
    { stdin: await node.recoveryKey() },
  );
  expect(added.code, added.stderr).toBe(0);
  expect(await node.look()).toMatchObject({ headerMatchesPins: false, tokens: [{}, { type: "foreign" }] });
  const { code, text } = await onVolumes("rotate", "models");
  expect(code, text).toBe(0);
  const after = await node.look();
  expect(after).toMatchObject({ open: true, headerMatchesPins: true, tokens: [{ sealedToZeros: true }] });
  expect(after.headerDigest).not.toBe(before.headerDigest);
  expect(after.keySlots).toHaveLength(2);
  await node.expectFile();
});

test("a recovery ciphertext of another volume or another node, put in the place of its own, is refused, and nothing is sent", async () => {
  const ciphertext = "/var/lib/edgeseal/volumes/models/recovery";
  const own = await node.root(`cat ${ciphertext}`);
  const { luksUuid, headerDigest } = await node.look();
  for (const [theirNode, uuid] of [
    ["pi-1", "99999999-1111-4222-8333-444455556666"],
    ["pi-2", luksUuid],
  ] as const) {
    const plain = JSON.stringify({ v: 1, kind: "luks", node: theirNode, subject: uuid, key: "k".repeat(64) });
    await node.root(
      `printf '%s' '${plain}' | openssl pkeyutl -encrypt -pubin -inkey /etc/edgeseal/trust/recovery.pub.pem -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256 | base64 -w 0 >${ciphertext}`,
    );
    const { code, text } = await onVolumes("rotate");
    expect(code, text).toBe(6);
    expect(text).toMatch(theirNode === "pi-1" ? new RegExp(uuid) : /pi-2/);
  }
  await node.root(`printf '%s\n' '${own.trim()}' >${ciphertext}`);
  expect((await node.look()).headerDigest).toBe(headerDigest);
  const { code, text } = await onVolumes("rotate", "--dry-run");
  expect(code, text).toBe(4);
});

test("under a new generation of the policy key, what the old one approved opens nothing any more", async () => {
  // What somebody copies who has the disks in hand for an hour; the next test puts it back.
  await node.root(
    `mkdir -m 700 ${oldCopy} && dd if=${modelDisk} iflag=direct of=${oldCopy}/header bs=1M count=16 status=none && cp -a /etc/edgeseal/volumes /etc/edgeseal/trust ${oldCopy} && sync`,
  );
  const oldSignatures = await node.root("cat /etc/edgeseal/trust/approvals.json");
  expect((await node.edgeseal("keys", "rotate", "keys", "--passphrase-file", "passphrase")).code).toBe(0);
  node.declareSite({ generation: 2, endorsementKeySha256: secondTpm });
  const early = await onVolumes("recover");
  expect(early.text).toMatch(/the approvals of pi-1 can't be used.*edgeseal approve pi-1/);
  expect(early.code).toBe(6);
  await node.approve();
  const { code, text } = await onVolumes("recover");
  expect(code, text).toBe(0);
  const state = await node.look();
  expect(state.policyKey).toBe(policyKeyOf(node.volume.inputs as SealedVolumeInputs));
  expect(state.tokens).toHaveLength(1);

  const newSignatures = await node.root("cat /etc/edgeseal/trust/approvals.json");
  await node.putApprovals(oldSignatures);
  await node.pi.reboot();
  const locked = await node.look();
  expect(locked).toMatchObject({
    open: false,
    pcr11: state.pcr11,
    pcr11Approved: false,
    headerMatchesPins: true,
  });
  expect(locked.lockedReason).toMatch(/^approval-revoked/);
  // The control: the same state, with the signature of the new generation.
  await node.putApprovals(newSignatures);
  await node.pi.reboot();
  await node.expectOpen();
});

/* The honest one: the TPM knows of no generations. */
test("the header, pins and approvals of before the new generation, put back from a copy, open it: what revoking does not reach", async () => {
  const policyKey = (await node.look()).policyKey;
  const today = "the data of today";
  await node.root(`printf '%s' '${today}' >/srv/models/today && sync`);
  await node.pi.reboot();
  await node.expectOpen();
  await node.root(
    `dd if=${oldCopy}/header of=${modelDisk} oflag=direct conv=notrunc bs=1M status=none && cp -a ${oldCopy}/volumes ${oldCopy}/trust /etc/edgeseal/ && sync`,
  );
  await node.pi.reboot();
  const state = await node.expectOpen();
  expect(state.policyKey).not.toBe(policyKey);
  // The old slot has the same volume key, and so what was written since.
  expect(await node.root("cat /srv/models/today")).toBe(today);
});
