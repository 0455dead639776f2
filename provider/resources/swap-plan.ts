import { quote } from "../device/shell-quote.ts";
import { directory, file, remove, run, unit, type Step } from "../device/step.ts";
import { PlanRefused } from "../resource.ts";
import { keepFromStarting } from "./boot-units.ts";
import { baseName, byteOrder } from "./config-files.ts";
import { fstabMark, type SwapState } from "./swap-observation.ts";
import { escapeForProcSwaps, isActiveArea, isSwapFile } from "./swap-signature.ts";

/** Sorts after any drop-in with a number before its name, so that it has the last word. */
export const rpiSwapDropIn = "/etc/rpi/swap.conf.d/zz-edgeseal.conf";

/** Swapping gigabytes back in from an SD card takes its time. */
const swapoffSeconds = 900;

/**
 * Memory that must stay available on top of what comes back from swap. Without a margin the kernel's OOM killer picks a victim, and on a node that
 * serves a model it is the inference server.
 */
const marginKiB = 64 * 1024;

/**
 * Steps that turn swap off for good. What the next boot does comes first: when there is too little memory to turn it off now, a reboot finishes it.
 * @throws PlanRefused when a file that is read after edgeseal's drop-in turns rpi-swap on.
 */
export function turnOff(observed: SwapState, removeFiles: boolean): readonly Step[] {
  return [
    ...rpiSwapOff(observed),
    ...commentOut(observed.fstabEntries),
    ...keepFromStarting(observed.swapUnits, "turn swap on", stopsSafely),
    ...observed.activeAreas
      .filter((area) => !isDeleted(area))
      .map((area) => turnOffArea(area, removeFiles && !area.startsWith("/dev/"))),
    ...observed.zramDevices.map((device) => resetZram(device, removeFiles)),
    ...(removeFiles ? observed.swapFiles.map(removeSwapFile) : []),
    // Last: it can't succeed, and nothing else must wait for the reboot that it asks for.
    ...observed.activeAreas.filter(isDeleted).map((area) => turnOffArea(area, removeFiles)),
  ];
}

/** Steps that let the system turn swap on again at its next boot. Files that were removed are not made again. */
export function takeBack(observed: SwapState): readonly Step[] {
  return [
    remove({ title: "remove edgeseal's drop-in for rpi-swap", path: rpiSwapDropIn }),
    ...observed.maskedUnits.map((name) => unit({ title: `unmask ${name}`, unit: name, masked: false })),
    ...(observed.fstabCommentedOut.length === 0 ? [] : [restoreFstab]),
  ];
}

/** A unit that acts by itself is stopped; one that was run once is not: its stop command would be another, unchecked way to turn swap off. */
function stopsSafely(name: string): boolean {
  return name.endsWith(".timer") || name === "swapspace.service";
}

function rpiSwapOff(observed: SwapState): readonly Step[] {
  if (observed.rpiSwapMechanism === "none") return [];
  if (
    byteOrder(baseName(observed.rpiSwapSetBy), baseName(rpiSwapDropIn)) > 0 &&
    observed.rpiSwapSetBy.includes(".conf.d/")
  ) {
    throw new PlanRefused(
      `${observed.rpiSwapSetBy} sets rpi-swap's Mechanism to '${observed.rpiSwapMechanism}' and is read after edgeseal's ${rpiSwapDropIn}`,
      "remove that file or the setting in it",
    );
  }
  return [
    directory({ title: "make the directory /etc/rpi", path: "/etc/rpi", mode: "0755" }),
    directory({
      title: "make the directory for rpi-swap's drop-ins",
      path: "/etc/rpi/swap.conf.d",
      mode: "0755",
    }),
    file({
      title: "turn rpi-swap off",
      path: rpiSwapDropIn,
      mode: "0644",
      content:
        "# Written by edgeseal (edgeseal:memory:Swap). Also in force should rpi-swap be installed later.\n[Main]\nMechanism=none\n",
    }),
  ];
}

/** Edits /etc/fstab atomically, keeping its mode and owner. The awk program reads standard input, then the file. */
function editFstab(program: string): string {
  return [
    "set -eu",
    "fstab=$(readlink -e /etc/fstab)",
    // One fixed name: what a killed step left behind is overwritten, not collected.
    'new="$(dirname "$fstab")/.fstab.edgeseal-new"',
    'rm -f -- "$new"',
    `trap 'rm -f "$new"' EXIT`,
    'cp -p -- "$fstab" "$new"',
    `awk '${program}' - "$fstab" > "$new"`,
    'sync -- "$new"',
    'mv -f -- "$new" "$fstab"',
    'sync -- "$(dirname "$fstab")"',
    // Drops the swap units that were made from the lines.
    "systemctl daemon-reload",
  ].join("\n");
}

function commentOut(lines: readonly string[]): readonly Step[] {
  if (lines.length === 0) return [];
  return [
    run({
      title: `comment out ${lines.length === 1 ? "the swap line" : `${lines.length} swap lines`} in /etc/fstab`,
      precondition: lines.map((line) => `grep -qxF -e ${quote(line)} /etc/fstab`).join(" && "),
      script: editFstab(
        `FILENAME == "-" { off[$0] = 1; next } $0 in off { print "${fstabMark}" $0; next } { print }`,
      ),
      stdin: `${lines.join("\n")}\n`,
    }),
  ];
}

const restoreFstab: Step = run({
  title: "put the swap lines in /etc/fstab back in force",
  precondition: `grep -q -e '^${fstabMark}' /etc/fstab`,
  script: editFstab(`FILENAME != "-" { sub(/^${fstabMark}/, ""); print }`),
});

/** Whether an area is a file that has no name any more: the kernel writes this after the name that it had (d_path in fs/d_path.c). */
const isDeleted = (area: string): boolean => area.endsWith(" (deleted)");

/**
 * swapoff(2) takes a path, so a file that was removed while it was in use stays in use until a reboot. A file may also be named so; it is turned off
 * like any other.
 */
function refuseDeleted(area: string): string {
  const told = `${area.replace(/ \(deleted\)$/, "")} was removed while it was in use as swap, and without a name nothing can turn it off; reboot the node: swap is already kept from coming back`;
  return `if [ ! -e ${quote(area)} ]; then printf '%s\\n' ${quote(told)} >&2; exit 1; fi`;
}

function turnOffArea(area: string, removeFile: boolean): Step {
  const word = quote(area);
  const lines = [
    "set -eu",
    ...(isDeleted(area) ? [refuseDeleted(area)] : []),
    `needed=$(AREA=${quote(escapeForProcSwaps(area))} awk '
      FILENAME == "/proc/swaps" && $1 == ENVIRON["AREA"] { used = $4 }
      $1 == "MemAvailable:" { available = $2 }
      END { if (used > 0 && used + ${marginKiB} > available) print used " KiB are in swap, " available + 0 " KiB of memory are available" }
    ' /proc/swaps /proc/meminfo)`,
    'if [ -n "$needed" ]; then',
    `  echo "too little memory to turn it off now: $needed; stop a service, or reboot: swap is already kept from coming back" >&2`,
    "  exit 1",
    "fi",
    `swapoff -- ${word}`,
  ];
  // In the same step: once it is off, nothing may name the file any more, and an interrupted plan could not find it again.
  if (removeFile) lines.push(removeIfSwap(area));
  return run({
    title: removeFile ? `turn off swap file ${area} and remove it` : `turn off swap area ${area}`,
    precondition: isActiveArea(area),
    script: lines.join("\n"),
    timeoutSeconds: swapoffSeconds,
  });
}

function resetZram(
  { device, backingDevice, backingFile }: SwapState["zramDevices"][number],
  removeFile: boolean,
): Step {
  const sys = `/sys/block/${device}`;
  const lines = [
    "set -eu",
    // zram-generator's unit resets the device itself once its swap is off.
    `if systemctl is-active --quiet systemd-zram-setup@${device}.service; then systemctl stop systemd-zram-setup@${device}.service; fi`,
    // udev may still have the device open to look at it.
    "if command -v udevadm >/dev/null; then udevadm settle --timeout=30; fi",
    `if [ -e ${sys}/disksize ] && [ "$(cat ${sys}/disksize)" != 0 ]; then echo 1 > ${sys}/reset; fi`,
  ];
  if (backingFile !== "") {
    // Before the loop device goes: it is what proves that this is the file. The device keeps its content until then.
    if (removeFile) lines.unshift("set -eu", removeBacking(backingDevice, backingFile));
    lines.push(detachLoops(backingFile));
  }
  const backing = backingDevice === "none" ? "" : ` and detach its backing device ${backingDevice}`;
  return run({
    title: `reset ${device}${backing}${removeFile && backingFile !== "" ? `, and remove ${backingFile}` : ""}`,
    precondition: `! ${isActiveArea(`/dev/${device}`)} && ! grep -q -e '^/dev/${device} ' /proc/mounts`,
    script: lines.join("\n"),
  });
}

/** Shell that detaches whatever loop devices a file is behind; rpi-swap's own unit for it, where there is one, is told first. */
function detachLoops(path: string): string {
  const word = quote(path);
  return [
    `loop_unit=rpi-setup-loop@$(systemd-escape --path -- ${word}).service`,
    'if systemctl is-active --quiet "$loop_unit"; then systemctl stop "$loop_unit"; fi',
    "for backing in /sys/block/loop*/loop/backing_file; do",
    `  if [ -e "$backing" ] && { [ "$(cat "$backing")" = ${word} ] || [ "$(cat "$backing")" = ${quote(`${path} (deleted)`)} ]; }; then losetup -d "/dev/$(basename "\${backing%/loop/backing_file}")"; fi`,
    "done",
  ].join("\n");
}

/**
 * Shell that removes a file if it is swap. Check and removal name an entry of the working directory, so that nobody who may write on the way there can
 * put another file under root's hands in between (CWE-367).
 */
function removeIfSwap(path: string): string {
  const slash = path.lastIndexOf("/");
  const name = `./${path.slice(slash + 1)}`;
  return `cd -P -- ${quote(path.slice(0, slash) || "/")}\nif ${isSwapFile(path, quote(name))}; then rm -f -- ${quote(name)}; fi`;
}

/** Shell that removes the file that a loop device is backed by at that moment; another file of that name stays. */
function removeBacking(loopDevice: string, path: string): string {
  const slash = path.lastIndexOf("/");
  const name = quote(`./${path.slice(slash + 1)}`);
  const backing = `/sys/block/${baseName(loopDevice)}/loop/backing_file`;
  return [
    `cd -P -- ${quote(path.slice(0, slash) || "/")}`,
    `if [ "$(cat ${backing})" = ${quote(path)} ] && [ -f ${name} ] && [ ! -L ${name} ]; then rm -f -- ${name}; fi`,
  ].join("\n");
}

function removeSwapFile(path: string): Step {
  return run({
    title: `remove left-over swap file ${path}`,
    precondition: `! ${isActiveArea(path)} && ${isSwapFile(path)}`,
    script: ["set -eu", detachLoops(path), removeIfSwap(path)].join("\n"),
  });
}
