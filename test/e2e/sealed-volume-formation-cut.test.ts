import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { partitionUuid } from "../../provider/resources/sealed-volume-partition.ts";
import { zeroPcr } from "../../provider/trust/pcr.ts";
import { VirtualPi } from "../../testbed/virtual-pi.ts";
import {
  bringUp,
  cutPowerAt,
  cutPowerWithin,
  cutsOf,
  nameOf,
  onPi,
  planFor,
  type Cut,
  type Declared,
} from "./provider-on-pi.ts";
import { declare, look, makeSite, modelDisk } from "./sealed-volume-site.ts";

/*
 * The formation of a sealed volume, in the unallocated space of a disk, with the power cut before and after every step of it, and within those that write most.
 */

const site = makeSite();
let pi: VirtualPi | undefined;
let volume: Declared;

beforeAll(async () => {
  volume = await declare(site, zeroPcr, { device: { disk: modelDisk, sizeMiB: 500 } });
});

afterAll(() => pi?.stop());

const make = {
  partition: `make a partition of 500 MiB in the unallocated space of ${modelDisk}`,
  recoveryKey: "make the recovery key of models, and encrypt it to the site's",
  format: `format /dev/disk/by-partuuid/${partitionUuid("pi", "models")} as LUKS2`,
  slot: "seal a key slot of models to the TPM",
  open: "open models with its recovery key",
  filesystem: "make an ext4 file system on models",
  pins: "pin the header of models",
  mount: "mount models at /srv/models",
  cap: "cap PCR 15, so that nothing sealed can be unsealed before the next boot",
  told: "see whether the next boot is an approved one",
} as const;

const kept = `${modelDisk}-part1`;

/** A node that has nothing of edgeseal's yet, with a partition of somebody else's on the disk. One at a time. */
async function freshNode(): Promise<VirtualPi> {
  await pi?.stop();
  pi = await VirtualPi.start();
  await onPi(
    pi,
    `printf 'label: gpt\\nsize=200MiB\\n' | sfdisk --quiet ${modelDisk} && udevadm settle && mkfs.ext4 -q ${kept} && mount ${kept} /mnt && echo kept >/mnt/file && umount /mnt && sync`,
  );
  return pi;
}

const othersKeepWhatTheyHave = async (node: VirtualPi): Promise<void> => {
  expect(await onPi(node, `mount ${kept} /mnt && cat /mnt/file && umount /mnt`)).toBe("kept\n");
};

const writeFile = (node: VirtualPi): Promise<string> =>
  onPi(node, "head -c 4000000 /dev/urandom >/srv/models/file && sync && sha256sum /srv/models/file");

/** Applies the plan of now as far as there, and cuts the power. */
async function cut(
  { title, when }: Pick<Cut, "title" | "when">,
  node: VirtualPi,
  meanwhile?: () => Promise<void>,
): Promise<void> {
  const steps = await planFor(node, volume);
  const cuts = cutsOf(steps);
  const found =
    cuts.find((each) => each.title === title && each.when === when) ??
    expect.fail(`${when} '${title}' is not in ${cuts.map(nameOf).join("; ")}`);
  await cutPowerAt(found, node, volume, steps, meanwhile);
}

describe("from the pins on the next boot opens it:", () => {
  test("before it is mounted", async () => {
    const node = await freshNode();
    // All that is tried in this file; what comes before makes no volume.
    const all = cutsOf(await planFor(node, volume)).map(nameOf);
    expect(all.slice(all.indexOf(`before '${make.partition}'`))).toEqual([
      ...Object.values(make).map((title) => `before '${title}'`),
      `after '${make.told}'`,
    ]);
    await cut({ when: "before", title: make.mount }, node);
    await node.boot();
    expect(await look(node, volume)).toMatchObject({ formation: "complete", openedBy: "tpm" });
    await bringUp(node, volume);
  });

  test.each([
    ["before", make.cap],
    ["after", make.told],
  ] as const)("%s '%s', with a file on it", async (when, title) => {
    const node = await freshNode();
    let digest = "";
    await cut({ when, title }, node, async () => {
      digest = await writeFile(node);
    });
    await node.boot();
    await bringUp(node, volume);
    expect(await look(node, volume)).toMatchObject({
      formation: "complete",
      openedBy: "tpm",
      headerMatchesPins: true,
      pcr15Capped: true,
    });
    expect(await onPi(node, "sha256sum /srv/models/file")).toBe(digest);
    await othersKeepWhatTheyHave(node);
  });
});

describe("up to the pins the next plan makes it anew:", () => {
  beforeAll(freshNode);

  // Each goes on from where the one before was cut off.
  test.each([
    ["before", make.partition],
    ["before", make.recoveryKey],
    ["before", make.format],
    ["within", make.format],
    ["before", make.slot],
    ["within", make.slot],
    ["before", make.open],
    ["before", make.filesystem],
    ["before", make.pins],
    ["within", make.pins],
  ] as const)("%s '%s'", async (when, title) => {
    const node = pi ?? expect.fail("there is no node");
    if (when === "within") await cutPowerWithin(title, node, volume, await planFor(node, volume));
    else await cut({ when, title }, node);
    await node.boot();
    const state = await look(node, volume);
    if (when === "before")
      expect(state).toMatchObject({
        formation: title === make.partition || title === make.recoveryKey ? "none" : "forming",
        open: false,
      });
    // The ciphertext is there before the header is.
    if (state.luksUuid !== "") expect((await site.recover(state)).length).toBe(64);
  });

  test("and a file on it outlives the next power cut", async () => {
    const node = pi ?? expect.fail("there is no node");
    await bringUp(node, volume);
    const digest = await writeFile(node);
    await node.powerCut();
    await node.boot();
    expect(await look(node, volume)).toMatchObject({
      openedBy: "tpm",
      headerMatchesPins: true,
      formationMarker: "",
    });
    expect(await onPi(node, "sha256sum /srv/models/file")).toBe(digest);
    await othersKeepWhatTheyHave(node);
  });
});
