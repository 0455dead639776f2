import { join } from "node:path";
import type { Control } from "../../../policies/control.ts";
import type { VirtualPi } from "../../../testbed/virtual-pi.ts";
import { readSite } from "../../pulumi.ts";
import { dataDisk, keyedSite, type DemoSite } from "../site.ts";
import type { DemoContext } from "../step.ts";

/** What this chapter adds to what the demo's node has to pass. */
export const trustControls: readonly Control["id"][] = [
  "1.tpm",
  "1.measured-boot",
  "2.sealed-volumes",
  "2.unsealing-capped",
];

/** The partition that the operator made on it for the models; the logs get one that edgeseal makes. */
export const modelsPartition = "7d5e4c3b-2a19-4807-9f6e-5d4c3b2a1908";

/**
 * The demo's site with the trust chain: keys, an owned TPM, measured boot, two sealed volumes, and none of the waivers for those.
 * @param endorsementKeySha256 the TPM that the node must have
 */
export function trustSite(
  template: Record<string, unknown>,
  pi: Pick<VirtualPi, "ssh">,
  endorsementKeySha256: string,
): DemoSite {
  return keyedSite(template, pi, trustControls, {
    tpm: { endorsementKeySha256 },
    volumes: {
      models: { device: `/dev/disk/by-partuuid/${modelsPartition}`, mountPoint: "/srv/models" },
      logs: { device: { disk: dataDisk, sizeMiB: 256 }, mountPoint: "/srv/logs" },
    },
  });
}

/** Writes the site file. */
export async function declareSite(context: DemoContext, endorsementKeySha256: string): Promise<void> {
  const template = await readSite(join(context.checkout, "stacks/demo.yaml"));
  await context.pulumi.site("demo", trustSite(template, context.pi, endorsementKeySha256));
}
