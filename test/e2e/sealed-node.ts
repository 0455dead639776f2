import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
import { stringify } from "yaml";
import { openPrivateKey } from "../../cli/keys/open-private-key.ts";
import type { SealedVolumeInputs } from "../../provider/resources/sealed-volume-inputs.ts";
import type { SealedVolumeState } from "../../provider/resources/sealed-volume-state.ts";
import type { Approval } from "../../provider/trust/approval-schema.ts";
import { parseApproval } from "../../provider/trust/approval.ts";
import { openRecovery } from "../../provider/trust/recovery.ts";
import { VirtualPi } from "../../testbed/virtual-pi.ts";
import { edgesealIn, type Ran } from "./command-line.ts";
import { bringUp, endorsementKeyOf, kindOf, observe, onPi, type Declared } from "./provider-on-pi.ts";
import { modelDisk, models } from "./sealed-volume-site.ts";

/**
 * A site of one node, `pi-1`, as an operator has it: keys and approvals made by the command line, a site file, and a virtual Pi whose boot is measured, approved, and opens a
 * sealed volume with a file on it.
 */
export class SealedNode {
  readonly pi: VirtualPi;
  /** Has `stacks/lab.yaml`, `keys/`, `approvals/` and the passphrase of the keys. */
  readonly folder: string;
  readonly measuredBoot: Declared = {
    kind: kindOf("edgeseal:boot:MeasuredBoot"),
    inputs: { node: "pi-1", reboot: "never", rebootUnapproved: "refuse" },
  };
  /** What `sha256sum` says of the file on the volume. */
  #file = "";
  /** Of the policy key that the site file names. */
  #generation = 1;

  private constructor(pi: VirtualPi, folder: string) {
    this.pi = pi;
    this.folder = folder;
  }

  /** @throws when the node does not come to where its volume is opened by a boot */
  static async start(): Promise<SealedNode> {
    const pi = await VirtualPi.start();
    const node = new SealedNode(pi, mkdtempSync(join(tmpdir(), "edgeseal-site-")));
    try {
      await node.#prepare();
    } catch (error) {
      await node.stop();
      throw error;
    }
    return node;
  }

  async stop(): Promise<void> {
    await this.pi.stop();
    rmSync(this.folder, { recursive: true, force: true });
  }

  async #prepare(): Promise<void> {
    writeFileSync(join(this.folder, "passphrase"), "correct horse battery staple\n", { mode: 0o600 });
    mkdirSync(join(this.folder, "stacks"));
    this.declareSite();
    expect((await this.edgeseal("keys", "new", "keys", "--passphrase-file", "passphrase")).code).toBe(0);
    // Better compression only costs time here.
    await this.root("echo COMPRESSLEVEL=1 >/etc/initramfs-tools/conf.d/zz-fast");
    await bringUp(this.pi, this.measuredBoot);
    await this.pi.reboot();
    await this.approve();
    await bringUp(this.pi, this.volume);
    const write = "head -c 4000000 /dev/urandom >/srv/models/model.gguf && sync";
    this.#file = await this.root(`${write} && sha256sum /srv/models/model.gguf`);
    await this.pi.reboot();
    await this.expectOpen();
  }

  /**
   * Writes the site file.
   * @param endorsementKeySha256 the TPM that is pinned; none by default
   */
  declareSite({
    generation = 1,
    endorsementKeySha256,
  }: { readonly generation?: number; readonly endorsementKeySha256?: string } = {}): void {
    this.#generation = generation;
    const { host, port, user, identityFile, hostKey } = this.pi.ssh;
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
          ...(endorsementKeySha256 === undefined ? {} : { tpm: { endorsementKeySha256 } }),
          volumes: { models: { device: modelDisk, mountPoint: "/srv/models" } },
        },
      ],
    };
    writeFileSync(join(this.folder, "stacks/lab.yaml"), stringify(site));
  }

  /** Approves the state that the node is in, or the one that it boots next. @returns all that is approved */
  async approve(which: "current" | "next" = "current"): Promise<Approval> {
    const state = which === "current" ? ["--current"] : [];
    const approved = await this.edgeseal("approve", "pi-1", ...state, "--yes", ...this.keys);
    expect(approved.code, approved.text).toBe(0);
    return parseApproval(readFileSync(join(this.folder, "approvals/pi-1.json"), "utf8"));
  }

  /** Options that name the site and its keys. */
  readonly keys = ["--site", "stacks/lab.yaml", "--keys", "keys", "--passphrase-file", "passphrase"] as const;

  /** Runs the command line in the site's folder. */
  edgeseal(...args: readonly string[]): Promise<Ran> {
    return edgesealIn(this.folder, args);
  }

  /** The volume, as a program that reads the site file declares it. */
  get volume(): Declared {
    const read = (path: string): string => readFileSync(join(this.folder, path), "utf8");
    const inputs: SealedVolumeInputs = {
      ...models,
      node: "pi-1",
      policyKey: read(`keys/policy-${this.#generation}.pub.pem`),
      generation: this.#generation,
      approval: read("approvals/pi-1.json"),
      recoveryKey: read("keys/recovery.pub.pem"),
    };
    return { kind: kindOf("edgeseal:storage:SealedVolume"), inputs };
  }

  /** Standard output of a command that root runs on the node. */
  root(script: string): Promise<string> {
    return onPi(this.pi, script);
  }

  async pcr11(): Promise<string> {
    return (await this.root("cat /sys/class/tpm/tpm0/pcr-sha256/11")).trim().toLowerCase();
  }

  /** Puts signatures where the node's approvals are, as by hand. */
  async putApprovals(json: string): Promise<void> {
    await this.root(`printf '%s' '${json}' >/etc/edgeseal/trust/approvals.json; sync`);
  }

  look(): Promise<SealedVolumeState> {
    return observe<SealedVolumeState>(this.pi, this.volume);
  }

  /** The digest of the TPM's endorsement key. */
  endorsementKeySha256(): Promise<string> {
    return endorsementKeyOf(this.pi);
  }

  /** The volume's recovery key, as the operator gets at it. */
  async recoveryKey(): Promise<string> {
    const { recoveryCiphertext, recoveryFor } = await this.look();
    const key = await openPrivateKey(join(this.folder, "keys/recovery.key.age"), {
      passphraseFile: join(this.folder, "passphrase"),
    });
    const binding = { kind: "luks", node: "pi-1", subject: recoveryFor } as const;
    return openRecovery(Buffer.from(recoveryCiphertext, "base64"), key, binding);
  }

  /** Holds that the boot opened the volume, and that its file is as it was. @returns what was read of it */
  async expectOpen(): Promise<SealedVolumeState> {
    const state = await this.look();
    expect(state).toMatchObject({ openedBy: "tpm", unlock: "observed", pcr15Capped: true });
    await this.expectFile();
    return state;
  }

  /** Holds that the file on the volume is as it was. */
  async expectFile(): Promise<void> {
    expect(await this.root("sha256sum /srv/models/model.gguf")).toBe(this.#file);
  }
}
