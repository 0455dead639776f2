import { lockedVolumes } from "../device/locked-volumes.ts";
import { sha256Hex } from "../trust/digest.ts";
import { onDevice, type ManagedFile } from "./managed-files.ts";

/** Where the files of measured boot are on a node. */
export const measuredBootPaths = {
  program: "/usr/lib/edgeseal/measure",
  conf: "/etc/edgeseal/measure.conf",
  hook: "/etc/initramfs-tools/hooks/edgeseal",
  script: "/etc/initramfs-tools/scripts/init-top/edgeseal",
  panic: "/etc/initramfs-tools/scripts/panic/edgeseal",
  record: "/etc/initramfs/post-update.d/edgeseal",
  aptHook: "/usr/lib/edgeseal/apt-hook",
  // By its name after what copies the image to the boot partition (z50-raspi-firmware).
  warn: "/etc/initramfs/post-update.d/zz-edgeseal",
  keepBoot: "/usr/lib/edgeseal/keep-boot",
  aptConf: "/etc/apt/apt.conf.d/90edgeseal",
} as const;

export type MeasuredBootFile = keyof typeof measuredBootPaths;

/** What goes into an initramfs, or decides what does: after a change of one of these it has to be built anew. */
export const filesOfInitramfs: readonly MeasuredBootFile[] = ["program", "conf", "hook", "script", "panic"];

/** Where the hook notes what is in each initramfs, a file for each kernel. */
export const recordsDirectory = "/var/lib/edgeseal/initramfs";

/** Where the program leaves its log, in the initramfs. */
export const measuredDirectory = "/run/edgeseal/measured";

/** Builds the initramfs anew; run as a step, not installed. */
export const rebuildScript = onDevice("initramfs-rebuild");

const contents = {
  program: onDevice("measure"),
  hook: onDevice("initramfs-hook"),
  script: onDevice("initramfs-script"),
  panic: onDevice("initramfs-panic"),
  record: onDevice("initramfs-record"),
  aptHook: `#!/bin/sh\n${lockedVolumes}\n${onDevice("apt-hook")}`,
  warn: onDevice("initramfs-warn"),
  keepBoot: onDevice("keep-boot"),
  aptConf: onDevice("apt.conf"),
} as const;

/** SHA-256 of the program: what its own event is, and what a probe checks before it runs the program of a node. */
export const programDigest = sha256Hex(contents.program);

/** A file of ours, with its name here. */
export interface MeasuringFile extends ManagedFile {
  readonly name: MeasuredBootFile;
}

/** Every file of ours on a node, in the order in which they are written: nothing is called before all that it calls is there. */
export function managedFiles(node: string): readonly MeasuringFile[] {
  const all: readonly (readonly [MeasuredBootFile, string, string])[] = [
    ["conf", "0644", `NODE=${node}\n`],
    ["program", "0755", contents.program],
    ["script", "0755", contents.script],
    ["panic", "0755", contents.panic],
    ["record", "0755", contents.record],
    ["hook", "0755", contents.hook],
    ["aptHook", "0755", contents.aptHook],
    ["warn", "0755", contents.warn],
    ["keepBoot", "0755", contents.keepBoot],
    ["aptConf", "0644", contents.aptConf],
  ];
  return all.map(([name, mode, content]) => ({ name, path: measuredBootPaths[name], mode, content }));
}
