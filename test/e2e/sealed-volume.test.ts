import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Step } from "../../provider/device/step.ts";
import { PlanRefused } from "../../provider/resource.ts";
import type { ScratchInputs } from "../../provider/resources/scratch-inputs.ts";
import type { ScratchState } from "../../provider/resources/scratch-observation.ts";
import type { SealedVolumeInputs } from "../../provider/resources/sealed-volume-inputs.ts";
import { recoverVolume } from "../../provider/resources/sealed-volume-plan.ts";
import type { SealedVolumeState } from "../../provider/resources/sealed-volume-state.ts";
import { zeroPcr } from "../../provider/trust/pcr.ts";
import { editLuksHeaders, forgeLuksVolume } from "../../testbed/luks-header.ts";
import { VirtualPi } from "../../testbed/virtual-pi.ts";
import { bringUp, kindOf, observe, onPi, planFor, withProvider, type Declared } from "./provider-on-pi.ts";
import { declare, look, makeSite, modelDisk } from "./sealed-volume-site.ts";

/*
 * A sealed volume with a real kernel, TPM and boots: that it opens by itself in the approved state, and stays locked when anything is not as it was pinned or approved.
 *
 * The node measures nothing here, so PCR 11 is zeros, and that is what is approved. Attacks on the header are tried one after the other in a boot whose cap is masked, with
 * the unlock unit started anew for each: what it finds is what it would find at a boot.
 */

const site = makeSite();
const capUnit = "edgeseal-cap-pcr15.service";
let pi: VirtualPi;
let volume: Declared;
/** The header of the volume before the TPM had a slot in it. */
let olderHeader: string;
let fileDigest: string;

beforeAll(async () => {
  pi = await VirtualPi.start();
  volume = await declare(site, zeroPcr);
});

// It does not exist when its start failed.
afterAll(() => (pi as VirtualPi | undefined)?.stop());

const apply = (steps: readonly Step[]) =>
  withProvider(pi, volume.kind, (device) =>
    device.apply<SealedVolumeState>(volume.kind, volume.inputs, steps),
  );

const fileIsThere = async (): Promise<void> => {
  expect((await onPi(pi, "sha256sum /srv/models/model.gguf | cut -c1-64")).trim()).toBe(fileDigest);
};

test("a device that holds a file system is refused by name, by the plan and by the device, and keeps it", async () => {
  const steps = await planFor(pi, volume);
  const holds = `dd if=${modelDisk} bs=1M count=64 iflag=direct status=none | sha256sum`;
  const before = await onPi(pi, `mkfs.ext4 -q -F ${modelDisk} && ${holds}`);
  await expect(planFor(pi, volume)).rejects.toThrow(PlanRefused);
  await expect(planFor(pi, volume)).rejects.toThrow(`${modelDisk} is not blank, it holds ext4`);
  const { failure, steps: reports } = await apply(steps);
  expect(failure?.message).toContain("it holds: ext4. Nothing was changed");
  expect(reports.at(-1)).toMatchObject({
    title: expect.stringMatching(/^make the recovery key/) as string,
    outcome: "failed",
  });
  expect(await onPi(pi, holds)).toBe(before);
  await onPi(pi, `blkdiscard -f ${modelDisk} && cmp -n 1073741824 ${modelDisk} /dev/zero`);
});

test("a blank device becomes a volume, open and mounted, and its key is nowhere on the node", async () => {
  const steps = await planFor(pi, volume);
  const sealing = steps.findIndex(({ title }) => title.startsWith("seal a key slot"));
  expect((await apply(steps.slice(0, sealing))).failure).toBeUndefined();
  olderHeader = (
    await onPi(pi, `dd if=${modelDisk} bs=1M count=16 iflag=direct status=none | gzip -c | base64 -w 0`)
  ).trim();
  const { failure } = await apply(steps.slice(sealing));
  expect(failure).toBeUndefined();
  await bringUp(pi, volume);

  const state = await look(pi, volume);
  expect(state).toMatchObject({
    formation: "complete",
    openedBy: "formation",
    unlock: "pending-reboot",
    mountedAt: "/srv/models",
    pcr11Approved: true,
    pcr15Capped: true,
    tokens: [{ type: "systemd-tpm2", pcrs: [15], signedPcrs: [11], sealedToZeros: true }],
  });
  expect(state.mountOptions).toEqual(expect.arrayContaining(["nodev", "noexec", "nosuid"]));
  await onPi(pi, "head -c 8000000 /dev/urandom >/srv/models/model.gguf && sync");
  fileDigest = (await onPi(pi, "sha256sum /srv/models/model.gguf | cut -c1-64")).trim();

  const key = await site.recover(state);
  const found = await pi.exec("sudo -n grep -rlaF -f - /etc /var /run /tmp /root /home || :", { stdin: key });
  expect(found.stdout).toBe("");
  // The twin: what would be found if it were there.
  const planted = await pi.exec(
    "sudo -n sh -c 'cat >/var/tmp/planted; grep -rlaF -f /var/tmp/planted /var/tmp; rm /var/tmp/planted'",
    { stdin: key },
  );
  expect(planted.stdout).toBe("/var/tmp/planted\n");
});

test("after a reboot the TPM has opened it, before the network, ssh and everybody but root, and the cap is between", async () => {
  await pi.reboot();
  expect(await look(pi, volume)).toMatchObject({
    openedBy: "tpm",
    unlock: "observed",
    pcr15Capped: true,
    lockedReason: "",
  });
  await fileIsThere();
  await bringUp(pi, volume);
  const times = await onPi(
    pi,
    `show() { systemctl show -P "$1" -- "$2"; }
echo "cap $(show ExecMainExitTimestampMonotonic ${capUnit})"
echo "volumes $(show ActiveEnterTimestampMonotonic edgeseal-volumes.service)"
for unit in $(systemctl list-units --all --plain --no-legend --type=service,socket | cut -d " " -f 1) network-pre.target; do
  case $unit in *.service) user=$(show User "$unit"); user=\${user:-root} ;; *.socket) user=socket ;; *) user=target ;; esac
  case $unit in ssh.* | systemd-networkd.service | network-pre.target) ;; *.socket) continue ;; *) [ "$user" != root ] || continue ;; esac
  echo "after $unit $user $(show InactiveExitTimestampMonotonic "$unit")"
done`,
  );
  const at = (name: string): number => Number(new RegExp(`^${name} (\\d+)$`, "m").exec(times)?.[1]);
  expect(at("volumes")).toBeGreaterThan(0);
  expect(at("cap")).toBeGreaterThan(at("volumes"));
  const later = [...times.matchAll(/^after (\S+) (\S+) (\d+)$/gm)].filter(
    ([, , , microseconds]) => Number(microseconds) > 0,
  );
  expect(later.map(([, unit]) => unit)).toEqual(
    expect.arrayContaining(["ssh.service", "systemd-networkd.service", "network-pre.target", "dbus.service"]),
  );
  for (const [, unit, user, microseconds] of later)
    expect(Number(microseconds), `${unit} (${user}) starts after the cap`).toBeGreaterThan(at("cap"));
});

const unsealAgain = `umount /srv/models && cryptsetup close edgeseal-models
/usr/lib/systemd/systemd-cryptsetup attach edgeseal-models ${modelDisk} none tpm2-device=auto,headless=true,tpm2-signature=/etc/edgeseal/trust/approvals.json 2>&1
[ -e /dev/mapper/edgeseal-models ] && echo open || echo locked`;

test("nothing unseals it again in that boot, not even root", async () => {
  const said = await onPi(pi, unsealAgain);
  expect(said).toMatch(/Failed to unseal secret using TPM2/);
  expect(said).toMatch(/^locked$/m);
  const { failure } = await apply(await planFor(pi, volume));
  expect(failure?.message).toContain(
    "models can be opened by a boot only, as PCR 15 is capped; it was open in this boot, and closed since",
  );
});

/**
 * What systemd has the TPM do to open the volume, by hand, with what lies on the node: the blob and the policy key's public half in the header, and the approvals. The policy is
 * PolicyAuthorize, of what the key signed for PCR 11, then PolicyPCR of PCR 15. What is unsealed is tried on the volume.
 */
const unsealByHand = `set -e
cd "$(mktemp -d /run/by-hand.XXXXXX)"
cryptsetup token export --token-id 0 ${modelDisk} >token
python3 -c 'import base64, json, struct
token = json.load(open("token"))
blob = base64.b64decode(token["tpm2-blob"] if isinstance(token["tpm2-blob"], str) else token["tpm2-blob"][0])
size = 2 + struct.unpack(">H", blob[:2])[0]
(approval,) = json.load(open("/etc/edgeseal/trust/approvals.json"))["sha256"]
for name, content in {
    "blob.private": blob[:size],
    "blob.public": blob[size:],
    "key.pem": base64.b64decode(token["tpm2_pubkey"]),
    "pcr11.policy": bytes.fromhex(approval["pol"]),
    "pcr11.signature": base64.b64decode(approval["sig"]),
    "zeros": bytes(32),
}.items():
    open(name, "wb").write(content)'
tpm2_load -Q -C 0x81000001 -u blob.public -r blob.private -c blob
tpm2_loadexternal -Q -C o -G rsa -u key.pem -c key -n key.name
tpm2_verifysignature -Q -c key -g sha256 -f rsassa -m pcr11.policy -s pcr11.signature -t ticket
authorize() {
  tpm2_startauthsession -Q --policy-session -S session
  tpm2_policypcr -Q -S session -l sha256:11
  tpm2_policyauthorize -Q -S session -i pcr11.policy -n key.name -t ticket
}
authorize
echo AUTHORIZED
tpm2_policypcr -Q -S session -l sha256:15
if tpm2_unseal -c blob -p session:session >secret 2>said; then
  base64 -w 0 secret | cryptsetup open --test-passphrase --key-file - ${modelDisk} && echo OPENS THE VOLUME
fi
cat said
tpm2_flushcontext session
authorize
tpm2_policypcr -Q -S session -l sha256:15 -f zeros 2>&1 && echo PCR 15 IS ZEROS || :
tpm2_flushcontext session
rm -r "$PWD"`;

test("nor does the TPM unseal it by hand, to who plays its whole policy", async () => {
  const said = await onPi(pi, unsealByHand);
  expect(said).toMatch(/^AUTHORIZED$/m);
  expect(said).toMatch(/policy check failed/);
  expect(said).not.toMatch(/OPENS THE VOLUME|PCR 15 IS ZEROS/);
});

describe("in a boot without the cap", () => {
  const disk = modelDisk;
  const saved = "/run/header.good";
  /** Starts the unlock unit as a boot does. @returns what it says of the volume */
  const unlock = async (): Promise<string> => {
    await onPi(
      pi,
      "if mountpoint -q /srv/models; then umount /srv/models; cryptsetup close edgeseal-models; fi; systemctl restart edgeseal-volumes.service || :",
    );
    const status = await onPi(
      pi,
      "cat /run/edgeseal/volumes/models; if [ -e /dev/mapper/edgeseal-models ]; then echo OPEN; fi",
    );
    return status;
  };
  const restore = `dd if=${saved} of=${disk} bs=1M oflag=direct conv=notrunc status=none`;

  test("the same command unseals it: what stops it is the cap", async () => {
    await onPi(pi, `rm /etc/systemd/system/${capUnit} && ln -s /dev/null /etc/systemd/system/${capUnit}`);
    await pi.reboot();
    const state = await look(pi, volume);
    expect(state).toMatchObject({ openedBy: "tpm", pcr15Capped: false, bootUnits: { [capUnit]: "masked" } });
    expect(await onPi(pi, unsealAgain)).toMatch(/^open$/m);
    await onPi(
      pi,
      `cryptsetup close edgeseal-models; dd if=${disk} of=${saved} bs=1M count=16 iflag=direct status=none`,
    );
  });

  test("and by hand the same script gives what opens it", async () => {
    expect(await onPi(pi, unsealByHand)).toBe("AUTHORIZED\nOPENS THE VOLUME\nPCR 15 IS ZEROS\n");
  });

  /** Both copies of the header with a change to the JSON, their checksums made anew. */
  async function editHeader(change: (json: string) => string): Promise<void> {
    const bytes = Buffer.from(
      await onPi(pi, `dd if=${disk} bs=16384 count=2 iflag=direct status=none | base64 -w 0`),
      "base64",
    );
    const { code } = await pi.exec(
      `sudo -n sh -c 'base64 -d | dd of=${disk} bs=16384 oflag=direct iflag=fullblock conv=notrunc status=none'`,
      {
        stdin: editLuksHeaders(bytes, change).toString("base64"),
      },
    );
    expect(code).toBe(0);
  }

  /** Runs a command with the recovery key as its standard input. */
  const withKey = async (command: string): Promise<void> => {
    const stdin = await site.recover(await look(pi, volume));
    const { code, stderr } = await pi.exec(`sudo -n sh -c '${command}'`, { stdin });
    expect(code, stderr).toBe(0);
  };

  const attacks: Readonly<
    Record<string, { readonly attack: () => Promise<unknown>; readonly reason: RegExp }>
  > = {
    "a null cipher": {
      attack: () =>
        editHeader((json) =>
          json.replace(/("segments":.*?"encryption":")aes-xts-plain64/, "$1cipher_null-ecb"),
        ),
      reason: /header-differs: .*segment 0: encryption is cipher_null-ecb, pinned aes-xts-plain64/,
    },
    "another key slot": {
      attack: () =>
        withKey(
          `cat >/run/key && printf attacker >/run/own && cryptsetup luksAddKey --batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /run/key ${disk} /run/own; code=$?; rm /run/key; exit $code`,
        ),
      reason: /header-differs: .*key slot 2 \(luks2\) was added/,
    },
    "a foreign token": {
      attack: () =>
        onPi(pi, `printf '{"type":"foreign","keyslots":["1"]}' | cryptsetup token import ${disk}`),
      reason: /header-differs: .*token 1 \(foreign\) was added/,
    },
    "an older header of its own": {
      attack: () =>
        pi.exec(
          `sudo -n sh -c 'base64 -d | gunzip | dd of=${disk} bs=1M iflag=fullblock oflag=direct conv=notrunc status=none'`,
          { stdin: olderHeader },
        ),
      reason: /header-differs: .*header\.epoch is 3, pinned 5.*key slot 1 \(luks2\) is gone/,
    },
    "an attacker's volume of the same UUID, with the volume's own token": {
      attack: () =>
        onPi(
          pi,
          `if mountpoint -q /srv/models; then umount /srv/models; fi
if [ -e /dev/mapper/edgeseal-models ]; then cryptsetup close edgeseal-models; fi
${forgeLuksVolume(disk, disk)}`,
        ),
      reason: /header-differs: .*digest 0: digest is .*, pinned /,
    },
    "no header": {
      attack: () =>
        onPi(pi, `dd if=/dev/zero of=${disk} bs=1M count=16 oflag=direct conv=notrunc status=none`),
      reason: /header-differs: there is no LUKS2 header any more that can be read/,
    },
  };

  test.each(Object.entries(attacks))(
    "%s keeps it locked; with the original back it opens",
    async (_what, { attack, reason }) => {
      try {
        await attack();
        const said = await unlock();
        expect(said).toMatch(reason);
        expect(said).toMatch(/^state=locked$/m);
        expect(said).not.toContain("OPEN");
        const state = await look(pi, volume);
        expect(state).toMatchObject({ open: false, openedBy: "none", headerMatchesPins: false });
        expect(state.headerDifferences.length).toBeGreaterThan(0);
        await expect(planFor(pi, volume)).rejects.toThrow(/the header of models on .* is not the pinned one/);
      } finally {
        await onPi(pi, restore);
      }
      expect(await unlock()).toMatch(/^state=open\nby=tpm\ndiskseq=\d+\nOPEN\n$/);
      await fileIsThere();
    },
  );

  test("another value of PCR 11 keeps it locked, and the update says so", async () => {
    await onPi(pi, `tpm2_pcrextend 11:sha256=${"12".repeat(32)}`);
    expect(await unlock()).toMatch(
      /pcr11-not-approved: PCR 11 is [0-9a-f]{64}, and the node has no approval of that state/,
    );
    const state = await look(pi, volume);
    expect(state).toMatchObject({ open: false, pcr11Approved: false, headerMatchesPins: true });
    const { failure } = await apply(await planFor(pi, volume));
    expect(failure?.message).toContain("pcr11-not-approved");
  });

  test("and the next boot, in the approved state and with the cap back, opens it", async () => {
    await pi.reboot();
    await bringUp(pi, volume);
    expect(await look(pi, volume)).toMatchObject({ openedBy: "tpm", pcr15Capped: true, pcr11Approved: true });
    await fileIsThere();
  });
});

describe("the cap comes in every boot:", () => {
  /** Boots with another TPM, which keeps the volume locked; ssh answers. */
  const lockedByAnotherTpm = async (): Promise<SealedVolumeState> => {
    await pi.powerOff();
    await pi.replaceTpm();
    await pi.boot();
    const state = await look(pi, volume);
    expect(state).toMatchObject({
      open: false,
      openedBy: "none",
      unlock: "pending-reboot",
      pcr15Capped: true,
      headerMatchesPins: true,
    });
    expect(state.lockedReason).toMatch(
      /^tpm-refused: PCR 11 and 15 are as they should be, but this TPM does not open it: another TPM/,
    );
    return state;
  };

  test("with another TPM, which does not open the volume; with the original back it opens", async () => {
    await lockedByAnotherTpm();
    await pi.powerOff();
    await pi.restoreTpm();
    await pi.boot();
    expect(await look(pi, volume)).toMatchObject({ openedBy: "tpm", pcr15Capped: true });
    await fileIsThere();
  });

  test("with another TPM, until the recovery key has that one open it", async () => {
    const state = await lockedByAnotherTpm();
    const key = await site.recover(state);
    const inputs = volume.inputs as SealedVolumeInputs;
    const wrong = await apply(recoverVolume(inputs, state, "0".repeat(64)));
    expect(wrong.failure?.message).toContain("the recovery key does not open models");
    expect((await look(pi, volume)).headerMatchesPins).toBe(true);
    expect((await apply(recoverVolume(inputs, state, key))).failure).toBeUndefined();
    await bringUp(pi, volume);
    await fileIsThere();
    const recovered = await look(pi, volume);
    expect(recovered).toMatchObject({ open: true, openedBy: "other", tokens: [{ sealedToZeros: true }] });
    expect(recovered.keySlots).toHaveLength(2);
    expect(recovered.headerDigest).not.toBe(state.headerDigest);
  });

  test("with an unlock program that hangs", async () => {
    await onPi(
      pi,
      `mkdir /etc/systemd/system/edgeseal-volumes.service.d
printf '[Service]\\nExecStart=\\nExecStart=/bin/sleep infinity\\nTimeoutStartSec=5\\n' >/etc/systemd/system/edgeseal-volumes.service.d/hang.conf`,
    );
    await pi.reboot();
    expect(await onPi(pi, "systemctl show -P Result edgeseal-volumes.service")).toBe("timeout\n");
    const [cap = 0, ...others] = (
      await onPi(
        pi,
        `systemctl show -P ExecMainExitTimestampMonotonic ${capUnit}; for unit in ssh.service network-pre.target; do systemctl show -P InactiveExitTimestampMonotonic $unit; done`,
      )
    )
      .trim()
      .split("\n")
      .map(Number);
    expect(cap).toBeGreaterThan(0);
    expect(others).toHaveLength(2);
    for (const started of others) expect(started, "starts after the cap").toBeGreaterThan(cap);
    expect(await look(pi, volume)).toMatchObject({
      open: false,
      pcr15Capped: true,
      bootUnits: {
        "edgeseal-volumes.service": "changed by /etc/systemd/system/edgeseal-volumes.service.d/hang.conf",
      },
    });
  });

  test("with the unlock unit masked", async () => {
    await onPi(
      pi,
      "rm -r /etc/systemd/system/edgeseal-volumes.service.d; ln -sf /dev/null /etc/systemd/system/edgeseal-volumes.service",
    );
    await pi.reboot();
    expect(await onPi(pi, "systemctl show -P LoadState edgeseal-volumes.service")).toBe("masked\n");
    expect(await look(pi, volume)).toMatchObject({ open: false, pcr15Capped: true });
  });

  test("and with all of it mended the new TPM opens the volume", async () => {
    const { failure } = await apply(await planFor(pi, volume));
    expect(failure?.message).toContain("models can be opened by a boot only");
    await pi.reboot();
    await bringUp(pi, volume);
    expect(await look(pi, volume)).toMatchObject({ openedBy: "tpm", unlock: "observed", pcr15Capped: true });
    await fileIsThere();
  });
});

test("a journal that is kept on it is there after a boot, and nothing of it is in the clear", async () => {
  const inputs: ScratchInputs = {
    tmpMiB: 64,
    varTmpMiB: 384,
    journal: { directory: "/srv/models/journal" },
    syslog: "off",
    historyFiles: "keep",
    leftovers: "keep",
    reboot: "never",
    rebootUnapproved: "refuse",
  };
  const journal: Declared = { kind: kindOf("edgeseal:memory:Scratch"), inputs };
  const swap = { mode: "off", leftoverFiles: "remove" };
  await bringUp(pi, { kind: kindOf("edgeseal:memory:Swap"), inputs: swap });
  await bringUp(pi, journal);
  const [logged, written] = [randomBytes(12).toString("hex"), randomBytes(12).toString("hex")];
  // In halves until it is there: sudo logs the command that is run.
  const word = `${logged.slice(0, 12)}''${logged.slice(12)}`;
  await onPi(
    pi,
    `echo ${word} | systemd-cat -t prompt; journalctl --sync; echo ${written} >/root/twin; sync`,
  );
  await pi.powerOff();
  expect(await pi.foundOnDisks([logged, written].map((each) => Buffer.from(each)))).toEqual([false, true]);
  await pi.boot();
  expect((await look(pi, volume)).openedBy).toBe("tpm");
  expect(await observe<ScratchState>(pi, journal)).toMatchObject({ journalIn: ["/srv/models/journal"] });
  expect(await onPi(pi, "journalctl --no-pager -b -1 -t prompt -o cat")).toContain(logged);
  expect(await onPi(pi, `grep -rlaF ${word} /srv/models/journal`)).toMatch(/\.journal$/m);
});
