import { afterAll, beforeAll, expect, test } from "vitest";
import { zeroPcr } from "../../provider/trust/pcr.ts";
import { VirtualPi } from "../../testbed/virtual-pi.ts";
import { bringUp, cutsOf, killProviderAt, onPi, planFor, type Declared } from "./provider-on-pi.ts";
import { declare, look, makeSite, modelDisk } from "./sealed-volume-site.ts";

/*
 * The formation of a sealed volume with the provider killed before and after every step of it. Then one in the unallocated space of a disk that is in use, with the other file
 * system and the other cipher.
 */

const site = makeSite();
let pi: VirtualPi;
let volume: Declared;

beforeAll(async () => {
  pi = await VirtualPi.start();
  volume = await declare(site, zeroPcr);
});

// It does not exist when its start failed.
afterAll(() => (pi as VirtualPi | undefined)?.stop());

const firstOfFormation = "make the recovery key of models, and encrypt it to the site's";

test("a provider killed before and after every step leaves nothing that the next plan does not get past", async () => {
  const titles: string[] = [];
  const points = cutsOf(await planFor(pi, volume)).map(({ title, when }) => ({ title, when }));
  const first = points.findIndex(({ title }) => title === firstOfFormation);
  // Each plan is itself killed, at the next point: it has to get past the one before first.
  for (const { title, when } of points.slice(first)) {
    const cut = cutsOf(await planFor(pi, volume)).find((each) => each.title === title && each.when === when);
    if (cut === undefined) {
      // The plan after a finished volume has only the rest.
      expect(await look(pi, volume), `no longer in the plan: ${title}`).toMatchObject({
        formation: "complete",
      });
      continue;
    }
    await killProviderAt(cut, pi, volume);
    titles.push(`${when} ${title}`);
    const state = await look(pi, volume);
    // The ciphertext is there before the header is.
    if (state.luksUuid !== "") expect((await site.recover(state)).length).toBe(64);
  }
  expect(titles).toEqual([
    `before ${firstOfFormation}`,
    `before format ${modelDisk} as LUKS2`,
    "before seal a key slot of models to the TPM",
    "before open models with its recovery key",
    "before make an ext4 file system on models",
    "before pin the header of models",
    "before mount models at /srv/models",
    "before cap PCR 15, so that nothing sealed can be unsealed before the next boot",
  ]);
  await bringUp(pi, volume);
  expect(await look(pi, volume)).toMatchObject({
    formation: "complete",
    openedBy: "formation",
    formationMarker: "",
  });
});

test("a partition in the unallocated space of a disk in use, with XFS and Adiantum, is opened by the TPM; the others keep what they have", async () => {
  await onPi(
    pi,
    `umount /srv/models && cryptsetup close edgeseal-models
rm -r /var/lib/edgeseal/volumes/models /etc/edgeseal/volumes/models.pins
blkdiscard -f ${modelDisk} && udevadm settle`,
  );
  await onPi(
    pi,
    `printf 'label: gpt\\nsize=200MiB\\n' | sfdisk --quiet ${modelDisk} && udevadm settle && mkfs.ext4 -q ${modelDisk}-part1 && mount ${modelDisk}-part1 /mnt && echo kept >/mnt/file && sync`,
  );
  const declared = await declare(site, zeroPcr, {
    device: { disk: modelDisk, sizeMiB: 500 },
    filesystem: "xfs",
    cipher: "adiantum",
    readOnly: true,
  });
  const tooBig = await declare(site, zeroPcr, { device: { disk: modelDisk, sizeMiB: 1000 } });
  await expect(planFor(pi, tooBig)).rejects.toThrow(
    /has no 1000 MiB in one piece that no partition has; unallocated: 822 MiB/,
  );
  await bringUp(pi, declared);
  expect(await look(pi, declared)).toMatchObject({
    device: expect.stringMatching(/^\/dev\/disk\/by-partuuid\/[0-9a-f-]{36}$/) as string,
    cipher: "xchacha12,aes-adiantum-plain64",
    filesystem: "xfs",
    readOnly: true,
  });
  expect(await onPi(pi, "cat /mnt/file; touch /srv/models/x 2>/dev/null || echo read-only")).toBe(
    "kept\nread-only\n",
  );
  await pi.reboot();
  const state = await look(pi, declared);
  expect(state).toMatchObject({ openedBy: "tpm", unlock: "observed", filesystem: "xfs", readOnly: true });
  await bringUp(pi, declared);
  expect(await onPi(pi, `mount ${modelDisk}-part1 /mnt && cat /mnt/file`)).toBe("kept\n");
});
