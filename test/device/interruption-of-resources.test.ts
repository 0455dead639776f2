import { generateKeyPairSync } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { kinds } from "../../provider/registry.ts";
import type { ResourceKind } from "../../provider/resource.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";
import { inputsFor, modelContent } from "../unit/resources/model-example.ts";
import { testEveryInterruption } from "./interruption.ts";
import { nodeFirewall } from "./node-firewall.ts";

/*
 * Every resource of the provider, cut off before and after every step that it takes on an unprotected node: the points come from the plan
 * runner's own list. What no namespace separates (active swap, zram) has its turn on the virtual Pi.
 */

const folder = mkdtempSync(join(tmpdir(), "edgeseal-interrupted-"));

afterAll(() => rmSync(folder, { recursive: true }));

const kindOf = (token: string): ResourceKind =>
  kinds.find((kind) => kind.token === token) ?? expect.fail(`no ${token}`);

/** The same kind with a short window for its confirmation: a test that lets windows run out has many to wait for. */
const impatient = (kind: ResourceKind): ResourceKind => ({
  ...kind,
  plan: (...asked) =>
    kind.plan(...asked).map((step) => (step.kind === "commitConfirm" ? { ...step, windowSeconds: 8 } : step)),
  revert: (...asked) =>
    kind
      .revert(...asked)
      .map((step) => (step.kind === "commitConfirm" ? { ...step, windowSeconds: 8 } : step)),
});

const imageKey = generateKeyPairSync("rsa", { modulusLength: 2048 }).publicKey.export({
  type: "spki",
  format: "pem",
});

const content = modelContent();
const file = join(folder, "model.gguf");
writeFileSync(file, content);
const volume = { mountPoint: "/srv/models", directory: "/srv/models/models" };
const servedModel = await inputsFor(content, volume, { file });

const subjects: Readonly<
  Record<string, { readonly inputs: object; readonly start?: string; readonly points: number }>
> = {
  "edgeseal:memory:Swap": {
    inputs: { mode: "off", leftoverFiles: "remove" },
    // As an image that swaps comes: a line in fstab, rpi-swap's own file, a swap file that is left over, a service.
    start: `rm -f /etc/rpi/swap.conf.d/zz-edgeseal.conf; systemctl unmask dphys-swapfile.service 2>/dev/null
printf '/swapfile none swap sw 0 0\\n' >/etc/fstab
truncate -s 64K /var/swap /swapfile; printf SWAPSPACE2 | dd of=/swapfile bs=1 seek=4086 conv=notrunc status=none
printf '[Service]\\nExecStart=/bin/true\\n[Install]\\nWantedBy=multi-user.target\\n' >/usr/lib/systemd/system/dphys-swapfile.service
systemctl daemon-reload; systemctl enable dphys-swapfile.service 2>/dev/null`,
    points: 6,
  },
  "edgeseal:memory:CoreDumps": { inputs: { mode: "off", storedDumps: "remove" }, points: 8 },
  "edgeseal:network:Firewall": {
    inputs: nodeFirewall,
    points: 8,
  },
  "edgeseal:boot:FirmwareConfig": {
    inputs: {
      settings: ["dtparam=spi=on", "dtoverlay=tpm-slb9670"],
      commandLine: { present: ["lsm=apparmor"], absent: ["quiet"] },
      tryboot: "never",
      reboot: "never",
      rebootUnapproved: "refuse",
    },
    start: `rm -rf /run/edgeseal/firmware-config /boot/firmware; mkdir -p /boot/firmware
printf 'dtparam=audio=on\n[pi4]\nx=1\n' >/boot/firmware/config.txt
printf 'root=/dev/mmcblk0p2 quiet rootwait\n' >/boot/firmware/cmdline.txt`,
    points: 3,
  },
  "edgeseal:container:ImagePolicy": {
    inputs: {
      keys: { site: imageKey },
      allow: [{ image: "registry.example/edge/llama", signedBy: ["site"] }],
    },
    // What Debian ships, by way of a link to where anybody may write; a user who has a policy of their own; and a key that nobody names.
    start: `rm -rf /etc/containers /etc/edgeseal/image-keys /var/lib/edgeseal/image-policy*; mkdir -p /etc/containers /etc/edgeseal/image-keys
echo '{"default":[{"type":"insecureAcceptAnything"}]}' >/etc/containers/theirs.json; chmod 666 /etc/containers/theirs.json; ln -s theirs.json /etc/containers/policy.json; echo old >/etc/edgeseal/image-keys/old.pem
id infer >/dev/null 2>&1 || useradd --create-home infer
rm -rf /home/infer/.config; mkdir -p /home/infer/.config/containers
echo '{"default":[{"type":"insecureAcceptAnything"}]}' >/home/infer/.config/containers/policy.json; chown -R infer /home/infer/.config`,
    points: 7,
  },
  "edgeseal:inference:Model": {
    inputs: servedModel,
    // What is mounted stands for the sealed volume; a run that was cut off long ago has left a piece of another model there.
    start: `umount -l /srv/models 2>/dev/null; rm -rf /srv/models /srv/volume /etc/edgeseal
mkdir -m 0755 -p /srv/models /srv/volume; mount --bind /srv/volume /srv/models
echo x >/srv/models/.edgeseal-model.${servedModel.name}.${"0".repeat(64)}`,
    points: 6,
  },
  "edgeseal:security:SeccompProfile": {
    inputs: { name: "inference", variant: "llama-server", additionalSyscalls: [] },
    // A folder that everybody may change, and a profile that lets everything through.
    start: `rm -rf /etc/edgeseal/seccomp; mkdir -p /etc/edgeseal/seccomp; chmod 0777 /etc/edgeseal/seccomp
echo '{"defaultAction":"SCMP_ACT_ALLOW"}' >/etc/edgeseal/seccomp/inference.json`,
    points: 3,
  },
};

// Each on a node of its own: the firewall's windows are waited for meanwhile.
test.concurrent.each(Object.entries(subjects))(
  "%s, cut off before and after each step, is in its desired state after the next plan",
  async (token, { inputs, start, points }) => {
    // With python3 a seccomp profile is tried on the node.
    await using node = await NamespaceNode.start({ packages: ["python3"] });
    const reset =
      start === undefined
        ? {}
        : {
            reset: async (): Promise<void> => {
              await node.must(start);
            },
          };
    const cuts = await testEveryInterruption(impatient(kindOf(token)), inputs, node, reset);
    expect(cuts.length).toBeGreaterThanOrEqual(2 * points);
  },
  900_000,
);

/** Resources that have no place here, and why. */
const elsewhere: Readonly<Record<string, string>> = {
  "edgeseal:boot:VerifiedBoot": "it only observes: there is no step to cut off",
  "edgeseal:tpm:Ownership":
    "a namespace has no TPM: each step in test/unit/resources/tpm-ownership.test.ts, the power cut in test/e2e/tpm-ownership.test.ts",
  "edgeseal:boot:MeasuredBoot":
    "a namespace has no initramfs: each step in test/unit/resources/measured-boot.test.ts, the power cut in test/e2e/measured-boot.test.ts",
  "edgeseal:storage:SealedVolume":
    "a namespace has no dm-crypt: each step in test/unit/resources/sealed-volume-formation.test.ts, kills and power cuts in test/e2e/sealed-volume-formation.test.ts",
  "edgeseal:memory:Scratch":
    "it needs a node whose /tmp systemd has mounted: each step in test/device/scratch.test.ts",
  "edgeseal:security:AppArmorProfile":
    "a namespace has no AppArmor of its own: each step in test/e2e/apparmor-profile.test.ts",
  "edgeseal:inference:InferenceContainer":
    "a namespace has no podman: each step of a first start and of an exchange in test/e2e/inference-cut.test.ts",
};

test("no resource is forgotten", () => {
  expect([...Object.keys(subjects), ...Object.keys(elsewhere)].sort()).toEqual(
    kinds.map(({ token }) => token).sort(),
  );
});

test("a resource that only observes has no step to cut off", () => {
  const kind = kindOf("edgeseal:boot:VerifiedBoot");
  expect(kind.plan({ require: "none" }, { outcome: "present", state: {} }, {} as never)).toEqual([]);
});
