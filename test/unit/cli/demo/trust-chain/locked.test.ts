import { expect, test } from "vitest";
import { lockedReasonIn } from "../../../../../cli/demo/trust-chain/locked.ts";

/** As the engine printed it. */
const refreshed = `Previewing refresh (demo):
  pulumi:pulumi:Stack: (same)
    [urn=urn:pulumi:demo::edgeseal::pulumi:pulumi:Stack::edgeseal-demo]
            ~ edgeseal:storage:SealedVolume: (update) 🔒
                [id=pi-demo/storage:SealedVolume/logs]
                [urn=urn:pulumi:demo::edgeseal::edgeseal:index:Site$edgeseal:index:EdgeNode$edgeseal:storage:SealedVolume::pi-demo-volume-logs]
              - filesystem  : "ext4"
              + lockedReason: "pcr11-not-approved: changed \\"cmdline\\""
              - mountedAt   : "/srv/logs"
              ~ open        : true => false
            ~ edgeseal:storage:SealedVolume: (update) 🔒
                [id=pi-demo/storage:SealedVolume/models]
                [urn=urn:pulumi:demo::edgeseal::edgeseal:index:Site$edgeseal:index:EdgeNode$edgeseal:storage:SealedVolume::pi-demo-volume-models]
              ~ lockedReason: "header-differs: a => b" => "tpm-refused: another TPM"
Resources:
    ~ 2 to update
    9 unchanged
`;

test("each volume's own reason is found, added or changed", () => {
  expect(lockedReasonIn(refreshed, "logs")).toBe('pcr11-not-approved: changed "cmdline"');
  expect(lockedReasonIn(refreshed, "models")).toBe("tpm-refused: another TPM");
});

test("a volume without one has none, whatever the others have", () => {
  expect(lockedReasonIn(refreshed.replace(/^.*\+ lockedReason.*\n/m, ""), "logs")).toBeUndefined();
  expect(lockedReasonIn(refreshed, "other")).toBeUndefined();
  expect(lockedReasonIn("", "logs")).toBeUndefined();
});
