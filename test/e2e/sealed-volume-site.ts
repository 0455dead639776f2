import type { SealedVolumeInputs } from "../../provider/resources/sealed-volume-inputs.ts";
import type { SealedVolumeState } from "../../provider/resources/sealed-volume-state.ts";
import { signPcrPolicy } from "../../provider/trust/pcr-policy.ts";
import { fingerprint } from "../../provider/trust/public-key.ts";
import { openRecovery } from "../../provider/trust/recovery.ts";
import type { VirtualPi } from "../../testbed/virtual-pi.ts";
import { testKey } from "../unit/trust/keys.ts";
import { kindOf, observe, type Declared } from "./provider-on-pi.ts";

/** The disk of the virtual Pi that is there for volumes. */
export const modelDisk = "/dev/disk/by-id/virtio-model";

/** What the checked inputs of a volume `models` on it are, but for what comes of the site. */
export const models = {
  name: "models",
  device: modelDisk,
  filesystem: "ext4",
  mountPoint: "/srv/models",
  readOnly: false,
  mayErase: [],
  cipher: "auto",
} satisfies Partial<SealedVolumeInputs>;

/** A site's two keys, in memory. */
export function makeSite() {
  const [policy, recovery] = [testKey("policy"), testKey("recovery")];
  return {
    policyKey: policy.publicKeyPem,
    recoveryKey: recovery.publicKeyPem,
    /**
     * The content of an approval for a value of PCR 11, signed for the TPM. Its events are not those that lead there: the value of a node that measures nothing is zeros, which
     * `edgeseal approve` refuses, and `check` would.
     */
    async approve(pcr11: string): Promise<string> {
      const state = await signPcrPolicy(policy, pcr11);
      return JSON.stringify({
        version: 1,
        node: "pi",
        generation: 1,
        policyKey: fingerprint(policy.publicKey),
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
      openRecovery(Buffer.from(state.recoveryCiphertext, "base64"), recovery.privateKey, {
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
    ...models,
    node: "pi",
    policyKey: site.policyKey,
    generation: 1,
    approval: await site.approve(pcr11),
    recoveryKey: site.recoveryKey,
    ...inputs,
  };
  return { kind: kindOf("edgeseal:storage:SealedVolume"), inputs: all } satisfies Declared;
}

/** What a refresh reads of a volume. */
export const look = (pi: VirtualPi, volume: Declared): Promise<SealedVolumeState> => observe(pi, volume);
