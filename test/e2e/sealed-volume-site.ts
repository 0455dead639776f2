import { constants, generateKeyPairSync, privateDecrypt, sign } from "node:crypto";
import type { SealedVolumeInputs } from "../../provider/resources/sealed-volume-inputs.ts";
import type { SealedVolumeState } from "../../provider/resources/sealed-volume-state.ts";
import type { Connection } from "../../provider/connection.ts";
import { createDevices } from "../../provider/device/devices.ts";
import { signPcrPolicy } from "../../provider/trust/pcr-policy.ts";
import { fingerprint, readPublicKey } from "../../provider/trust/public-key.ts";
import { openRecovery } from "../../provider/trust/recovery.ts";
import type { PrivateKey } from "../../provider/trust/signer.ts";
import type { VirtualPi } from "../../testbed/virtual-pi.ts";
import { kindOf, type Declared } from "./provider-on-pi.ts";

/** The disk of the virtual Pi that is there for volumes. */
export const modelDisk = "/dev/disk/by-id/virtio-model";

/** A site's two keys, in memory. */
export function makeSite() {
  const [policy, recovery] = [2048, 4096].map((modulusLength) =>
    generateKeyPairSync("rsa", { modulusLength }),
  );
  if (policy === undefined || recovery === undefined) throw new Error("no keys");
  const pem = (pair: typeof policy): string =>
    pair.publicKey.export({ type: "spki", format: "pem" }).toString();
  const privateKey = (pair: typeof policy): PrivateKey => ({
    name: "a key in memory",
    sign: (message) => Promise.resolve(sign("sha256", message, pair.privateKey)),
    decrypt: (bytes) =>
      Promise.resolve(
        privateDecrypt(
          { key: pair.privateKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha256" },
          bytes,
        ),
      ),
  });
  const policyKey = pem(policy);
  return {
    policyKey,
    recoveryKey: pem(recovery),
    /**
     * The content of an approval for a value of PCR 11, signed for the TPM. Its events are not those that lead there: the value of a node that measures nothing is zeros, which
     * `edgeseal approve` refuses, and `check` would.
     */
    async approve(pcr11: string): Promise<string> {
      const key = { privateKey: privateKey(policy), publicKey: readPublicKey(policyKey, "policy") };
      const state = await signPcrPolicy(key, pcr11);
      return JSON.stringify({
        version: 1,
        node: "pi",
        generation: 1,
        policyKey: fingerprint(key.publicKey),
        states: [
          {
            ...state,
            approvedAt: "2026-01-01T00:00:00Z",
            reason: "a test",
            events: [{ type: "program", name: "", digest: pcr11 }],
          },
        ],
        signature: state.sig,
      });
    },
    /** The recovery key of a volume, as an operator gets at it. */
    recover: (state: SealedVolumeState): Promise<string> =>
      openRecovery(Buffer.from(state.recoveryCiphertext, "base64"), privateKey(recovery), {
        kind: "luks",
        node: "pi",
        subject: state.recoveryFor,
      }),
  };
}

export type Site = ReturnType<typeof makeSite>;

/** A volume `models` on the model disk, as its checked inputs are. */
export async function declare(site: Site, pcr11: string, inputs: Partial<SealedVolumeInputs> = {}) {
  const all: SealedVolumeInputs = {
    name: "models",
    device: modelDisk,
    filesystem: "ext4",
    mountPoint: "/srv/models",
    readOnly: false,
    mayErase: [],
    cipher: "auto",
    node: "pi",
    policyKey: site.policyKey,
    generation: 1,
    approval: await site.approve(pcr11),
    recoveryKey: site.recoveryKey,
    ...inputs,
  };
  return { kind: kindOf("edgeseal:storage:SealedVolume"), inputs: all } satisfies Declared;
}

export function connectionTo(pi: VirtualPi): Connection {
  const { host, ...login } = pi.ssh;
  return { node: "pi", address: host, ...login };
}

/** What a refresh reads of a volume. */
export async function look(pi: VirtualPi, { kind, inputs }: Declared): Promise<SealedVolumeState> {
  const devices = createDevices({ kinds: [kind] });
  try {
    const observed = await devices.get(connectionTo(pi)).observe<SealedVolumeState>(kind, inputs);
    if (observed.outcome !== "present") throw new Error("the volume was not observed");
    return observed.state;
  } finally {
    await devices.close();
  }
}
