import { Type, type Static } from "typebox";
import { outputOf, UnknownObservation, type PartOutput, type Probe } from "../device/probe.ts";
import type { Observed } from "../resource.ts";
import { listUnits, parseUnits } from "./boot-units.ts";
import {
  byteOrder,
  configRoots,
  iniEntries,
  kernelValue,
  parseFiles,
  readFiles,
  systemdConfigFiles,
  systemdConfigPatterns,
  systemdSetting,
  type ConfigFiles,
} from "./config-files.ts";
import { isSwapByPath, readSignature, signatureOffsets, unescapeOctal } from "./swap-signature.ts";

/** What stands before a line of /etc/fstab that edgeseal put out of force. */
export const fstabMark = "#edgeseal-swap-off# ";

const strings = (description: string) => Type.Array(Type.String(), { description });

export const swapState = Type.Object({
  activeAreas: strings("Swap areas in use, from /proc/swaps: devices and files. Sorted."),
  zramDevices: Type.Array(
    Type.Object({
      device: Type.String({ description: "Name in /sys/block, e.g. `zram0`." }),
      sizeBytes: Type.Integer({ description: "Its disk size in bytes." }),
      backingDevice: Type.String({
        description: "Block device that idle pages are written back to; `none` without one.",
      }),
      backingFile: Type.String({
        description: "File behind that device when it is a loop device; else empty.",
      }),
    }),
    {
      description:
        "zram devices that are swap, or have a backing device: what is written back to that is on disk, and `swapon` doesn't list it.",
    },
  ),
  fstabEntries: strings("Lines of type `swap` in /etc/fstab, as they stand there."),
  swapUnits: strings(
    "Units that would turn swap on at the next boot: `.swap` units, dphys-swapfile and its like; what zram-generator is set to make. Sorted.",
  ),
  rpiSwapMechanism: Type.String({
    description:
      "`[Main] Mechanism` of rpi-swap as its files and drop-ins leave it; `unset` where nothing sets it, which rpi-swap takes for zram with write-back to /var/swap.",
  }),
  swapFiles: strings(
    "Left-over swap files that are not in use: /var/swap, and regular files with a swap signature where swap files are kept or any configuration names one. Prompts may be in them. Sorted.",
  ),
  rpiSwapSetBy: Type.String({
    description: "The file that has the last word on `rpiSwapMechanism`; empty where nothing sets it.",
  }),
  maskedUnits: strings("Those of the units above that are masked in /etc. Reported only. Sorted."),
  fstabCommentedOut: strings("Lines of /etc/fstab that edgeseal put out of force. Reported only."),
});

export type SwapState = Static<typeof swapState>;

/** Services, besides `.swap` units, that turn swap on or write it back. */
const swapServices = [
  "dphys-swapfile.service", // Raspberry Pi OS up to bookworm
  "rpi-zram-writeback.timer", // rpi-swap, trixie
  "zramswap.service", // Debian's zram-tools
  "zram-config.service", // Ubuntu's zram-config
  "zram-swap.service",
  "swapspace.service", // makes swap files as they are needed
] as const;

/** Where swap files are kept when nobody says otherwise. */
const usualSwapFiles = [
  "/var/swap",
  "/swapfile",
  "/swap.img",
  "/swap",
  "/var/swapfile",
  "/var/lib/swapspace/*",
] as const;

const dphysConfigs = ["/etc/dphys-swapfile", "/etc/default/dphys-swapfile"] as const;
const rpiConfigs = systemdConfigPatterns("rpi/swap.conf");
const loopBackings = "/sys/block/loop*/loop/backing_file";

// fstab can hold passwords of network file systems: nothing but its swap lines leaves the device.
const settings = readFiles(
  [
    "/proc/swaps",
    "/etc/fstab",
    ...rpiConfigs,
    ...systemdConfigPatterns("systemd/zram-generator.conf"),
    "/sys/block/zram*/disksize",
    "/sys/block/zram*/backing_dev",
    loopBackings,
  ],
  `FILENAME == "/etc/fstab" { if (index($0, "${fstabMark}") == 1 || ($1 !~ /^#/ && $3 == "swap")) emit(); next } { emit() }`,
);

const candidates = [
  `usual=$(printf '%s\\n' ${usualSwapFiles.join(" ")})`,
  "set --",
  `for f in /proc/swaps /etc/fstab ${[...dphysConfigs, ...rpiConfigs, loopBackings].join(" ")}; do`,
  `  if [ -f "$f" ]; then set -- "$@" "$f"; fi`,
  "done",
  // The paths that any configuration names, what is commented out by edgeseal included: a file is removed after its line in fstab.
  `named=$(awk '
    function offer(path) { gsub(/\\\\040/, " ", path); if (path ~ /^\\// && path !~ /^\\/(dev|proc|sys)\\//) print path }
    FILENAME == "/proc/swaps" { if ($2 == "file") offer($1); next }
    FILENAME ~ /backing_file$/ { offer($0); next }
    FILENAME == "/etc/fstab" { sub(/^${fstabMark}/, ""); if ($1 !~ /^#/ && $3 == "swap") offer($1); next }
    FILENAME ~ /dphys-swapfile$/ { if (sub(/^[ \\t]*CONF_SWAPFILE=/, "")) { gsub(/["\\047]|[ \\t]+$/, ""); offer($0) } next }
    { if (sub(/^[ \\t]*Path[ \\t]*=[ \\t]*/, "")) { sub(/[ \\t]+$/, ""); offer($0) } }
  ' "$@") || exit 1`,
  "set -f",
  "IFS='\n'",
  "for p in $usual $named; do",
  `  if [ -f "$p" ] && [ ! -L "$p" ]; then printf 'F %s\\n' "$p"; ${signatureOffsets('"$p"')}; fi`,
  "done",
  // The status of the last grep says nothing.
  "true",
].join("\n");

export const swapProbe: Probe<Observed<SwapState>> = {
  id: "edgeseal:memory:Swap",
  parts: { settings, units: listUnits(["*.swap", ...swapServices]), candidates },
  parse: (parts) => ({ outcome: "present", state: parseSwap(parts) }),
};

function parseSwap(parts: Readonly<Record<string, PartOutput>>): SwapState {
  const files = parseFiles(outputOf(parts, "settings"));
  const units = parseUnits(outputOf(parts, "units"));
  const activeAreas = activeAreasOf(files);
  const fstab = files.get("/etc/fstab") ?? [];
  const mechanism = systemdSetting(files, "rpi/swap.conf", "Main", "Mechanism");
  const zramDevices = zramDevicesOf(files, activeAreas);
  const inUse = [...activeAreas, ...zramDevices.map(({ backingFile }) => backingFile)];
  const zramUnits = zramGeneratorUnits(files).filter((unit) => !units.masked.includes(unit));
  return {
    activeAreas,
    zramDevices,
    fstabEntries: fstab.filter((line) => !line.startsWith(fstabMark)),
    swapUnits: [...new Set([...units.starting, ...zramUnits])].sort(byteOrder),
    rpiSwapMechanism: mechanism?.value ?? "unset",
    swapFiles: swapFilesOf(outputOf(parts, "candidates")).filter((path) => !inUse.includes(path)),
    rpiSwapSetBy: mechanism?.setBy ?? "",
    maskedUnits: [...units.masked],
    fstabCommentedOut: fstab
      .filter((line) => line.startsWith(fstabMark))
      .map((line) => line.slice(fstabMark.length)),
  };
}

function activeAreasOf(files: ConfigFiles): string[] {
  const lines = files.get("/proc/swaps");
  // It is there on any kernel with swap support: without it nothing is known (no /proc, for one).
  if (lines === undefined) throw new UnknownObservation("the device has no /proc/swaps");
  return lines
    .slice(1)
    .map((line) => unescapeOctal(line.split(/\s/)[0] ?? ""))
    .filter((area) => area !== "")
    .sort(byteOrder);
}

function zramDevicesOf(files: ConfigFiles, activeAreas: readonly string[]): SwapState["zramDevices"] {
  const devices = [...files.keys()].flatMap(
    (path) => /^\/sys\/block\/(zram\d+)\/disksize$/.exec(path)?.[1] ?? [],
  );
  return devices
    .map((device) => {
      const backingDevice = kernelValue(files, `/sys/block/${device}/backing_dev`) ?? "none";
      const loop = /^\/dev\/(loop\d+)$/.exec(backingDevice)?.[1];
      const size = kernelValue(files, `/sys/block/${device}/disksize`) ?? "";
      if (!/^\d+$/.test(size))
        throw new UnknownObservation(`${device} has no disk size that is a number: '${size}'`);
      return {
        device,
        sizeBytes: Number(size),
        backingDevice,
        backingFile: ((loop && kernelValue(files, `/sys/block/${loop}/loop/backing_file`)) ?? "").replace(
          / \(deleted\)$/,
          "",
        ),
      };
    })
    .filter(({ device, backingDevice }) => backingDevice !== "none" || activeAreas.includes(`/dev/${device}`))
    .sort((a, b) => byteOrder(a.device, b.device));
}

/**
 * The swap units that zram-generator will make at the next boot, after zram-generator.conf(5). What is in /run is left out: it is gone by then, and
 * what it caused in this boot is in the generator's directory.
 */
function zramGeneratorUnits(files: ConfigFiles): readonly string[] {
  const lasting = configRoots.filter((root) => root !== "/run");
  const devices = new Map<string, Map<string, string>>();
  for (const path of systemdConfigFiles(files, "systemd/zram-generator.conf", lasting)) {
    for (const line of files.get(path) ?? []) {
      // A section makes a device even when it is empty.
      const section = /^\s*\[(zram\d+)\]\s*$/.exec(line)?.[1];
      if (section !== undefined && !devices.has(section)) devices.set(section, new Map());
    }
    for (const { section, key, value } of iniEntries(files.get(path) ?? []))
      devices.get(section)?.set(key, value);
  }
  return [...devices]
    .filter(([, options]) => {
      const limit = options.get("host-memory-limit") ?? options.get("memory-limit");
      const type = options.get("fs-type") ?? (options.has("mount-point") ? "ext2" : "swap");
      return type === "swap" && limit !== "0" && options.get("zram-size") !== "0";
    })
    .map(([device]) => `dev-${device}.swap`);
}

function swapFilesOf(output: string): string[] {
  const found = new Set<string>();
  let path = "";
  for (const line of output.split("\n")) {
    if (line.startsWith("F ")) {
      path = line.slice(2);
      if (isSwapByPath(path)) found.add(path);
      continue;
    }
    const kind = readSignature(line);
    if (kind === "unreadable")
      throw new UnknownObservation(`the device could not read ${path}, which may be a swap file`);
    if (kind === "swap") found.add(path);
  }
  return [...found].sort(byteOrder);
}
