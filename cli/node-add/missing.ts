import { checklist, points } from "../../policies/checklist.ts";
import type { Point } from "../../policies/control.ts";
import { judge, lets, type Finding } from "../../policies/evaluate.ts";
import { outcomeText } from "../../policies/message.ts";
import type { JudgedNode } from "../../policies/node.ts";
import type { Waiver } from "../../policies/waiver.ts";
import { isBlank, largestGapMiB, type DeviceDisk } from "./device-disks.ts";
import type { DeviceReading } from "./read-device.ts";

/** A control that does not hold yet. */
export interface MissingControl {
  readonly control: string;
  readonly title: string;
  /** Whether a resource serves it; what none serves takes a waiver. */
  readonly served: boolean;
  /** As observed on the device, before anything was done to it. */
  readonly device: Pick<Finding, "outcome" | "evidence">;
  /** As the site file declares the node, waivers counted in. */
  readonly siteFile: Pick<Finding, "outcome" | "evidence">;
  /** Whether `pulumi up` sees to it as the site file stands. */
  readonly seenTo: boolean;
  readonly mend: string;
}

/** What is missing at one point of the checklist. */
export interface PointMissing {
  readonly point: Point;
  readonly title: string;
  /** What the device itself lacks, which no software mends. */
  readonly remarks: readonly string[];
  readonly controls: readonly MissingControl[];
}

/**
 * Holds a device, as it was read, and its node, as it is declared, against the checklist, with the very controls of the gate.
 * @param declared The node of the site file.
 */
export function missingByPoint(
  reading: DeviceReading,
  declared: JudgedNode,
  waivers: readonly Waiver[],
  now: Date,
): readonly PointMissing[] {
  const observed: JudgedNode = { ...declared, basis: "observed", blocks: reading.blocks };
  const controls = checklist.flatMap((control): (MissingControl & { readonly point: Point })[] => {
    const device = judge(control, observed, [], now);
    const siteFile = judge(control, declared, waivers, now);
    if (device.outcome === "pass" && lets(siteFile)) return [];
    const { id, point, title, block, mend } = control;
    return [
      {
        point,
        control: id,
        title,
        served: block !== undefined,
        device: {
          outcome: device.outcome,
          evidence:
            block !== undefined && reading.blocks[block] === undefined ? "not there" : device.evidence,
        },
        siteFile: { outcome: siteFile.outcome, evidence: siteFile.evidence },
        // Fuses are not set over SSH.
        seenTo: siteFile.outcome === "pass" && block !== "boot",
        mend,
      },
    ];
  });
  const remarks = remarksOf(reading);
  return (Object.keys(points).map(Number) as Point[]).map((point) => ({
    point,
    title: points[point],
    remarks: remarks[point] ?? [],
    controls: controls.filter((each) => each.point === point).map(({ point: _, ...rest }) => rest),
  }));
}

function remarksOf({ identity, firmware, disks, unknown }: DeviceReading): Partial<Record<Point, string[]>> {
  const model = firmware?.model ?? "unknown";
  return {
    1: [
      ...(identity.tpm === "none"
        ? [
            "the kernel drives no TPM: fit a TPM 2.0, such as an SLB 9670, and enable it in config.txt (dtparam=spi=on, dtoverlay=tpm-slb9670)",
          ]
        : identity.trouble === undefined
          ? []
          : [`the TPM's endorsement key could not be read: ${identity.trouble}`]),
      ...(model.startsWith("Raspberry Pi 5") || model.startsWith("Raspberry Pi Compute Module 5")
        ? []
        : [
            `the board is ${model === "unknown" ? "not known to be" : `a ${model}, and not`} a Raspberry Pi 5: its signed boot can't be told`,
          ]),
    ],
    2: "disks" in unknown ? [`its disks could not be told: ${unknown["disks"] ?? ""}`] : roomRemarks(disks),
  };
}

/** The least that a suggestion is made of; a volume itself may be smaller. */
const leastMiB = 1024;

function roomRemarks(disks: readonly DeviceDisk[]): string[] {
  const room = disks.filter((disk) => isBlank(disk) || largestGapMiB(disk) >= leastMiB);
  const untold = disks.filter(({ content }) => content === undefined).map(({ path }) => path);
  if (untold.length > 0) return [`it could not be told what is on ${untold.join(", ")}`];
  if (room.length === 0)
    return [
      "no disk is blank, and none has a GiB that no partition has: add a disk for models and logs, or name in `mayErase` what may go",
    ];
  return room
    .filter(({ stablePath }) => stablePath === undefined)
    .map(
      ({ path }) =>
        `${path} has room, and no name in /dev/disk/by-id: a partition table (GPT) gives its partitions stable names`,
    );
}

/** The same for people, point by point. */
export function missingLines(missing: readonly PointMissing[]): readonly string[] {
  return missing.flatMap(({ point, title, remarks, controls }) => {
    const served = controls.filter((each) => each.served);
    const unserved = controls.filter((each) => !each.served && each.siteFile.outcome !== "waived");
    const waived = controls.filter((each) => !each.served && each.siteFile.outcome === "waived");
    return [
      `${point} ${title}`,
      ...remarks.map((remark) => `    ${remark}`),
      ...served.flatMap(controlLines),
      ...(unserved.length === 0
        ? []
        : [`    no resource serves yet, so it takes a waiver: ${names(unserved)}`]),
      ...(waived.length === 0 ? [] : [`    no resource serves yet, and it is waived: ${names(waived)}`]),
      ...(remarks.length + controls.length === 0 ? ["    nothing is missing"] : []),
    ];
  });
}

function controlLines({ control, device, siteFile, seenTo, mend }: MissingControl): string[] {
  const now = `    ${control}: on the device: ${outcomeText(device.outcome)}, ${device.evidence}`;
  if (seenTo) return [now, `      it is declared, so \`pulumi up\` sees to it`];
  return [
    now,
    `      as declared: ${outcomeText(siteFile.outcome)}, ${siteFile.evidence}`,
    ...(siteFile.outcome === "waived" ? [] : [`      mend: ${mend}`]),
  ];
}

const names = (controls: readonly MissingControl[]): string =>
  controls.map(({ control }) => control).join(", ");
