import { control, pass, uncovered, violation } from "./control.ts";

/** The pattern that hands every dump to a program that ends without reading it (core(5)). */
const discarding = "|/bin/false";

/** Point 3: swap and core dumps off; the inference process locks its memory. */
export const memoryControls = [
  control({
    id: "3.swap-off",
    point: 3,
    title: "Swap is off and stays off: prompts and keys in memory are never written to disk",
    mend: "set `swap: { mode: off, leftoverFiles: remove }`, the defaults",
    block: "swap",
    declared: {
      reads: ["mode", "leftoverFiles"],
      judge: ({ mode, leftoverFiles }) => {
        if (mode !== "off") return violation(`swap.mode is ${JSON.stringify(mode)}`);
        return leftoverFiles === "remove"
          ? pass('swap.mode is "off"; left-over swap files are removed')
          : violation(
              `swap.leftoverFiles is ${JSON.stringify(leftoverFiles)}: what was swapped out stays on the disk`,
            );
      },
    },
    observed: {
      reads: ["activeAreas", "zramDevices", "fstabEntries", "swapUnits", "rpiSwapMechanism", "swapFiles"],
      judge: (state) => {
        const found = [
          ...state.activeAreas.map((area) => `${area} in use`),
          ...state.zramDevices.map(
            ({ device, backingDevice }) => `${device} (backing device ${backingDevice})`,
          ),
          ...state.fstabEntries.map((line) => `fstab: ${line}`),
          ...state.swapUnits.map((unit) => `${unit} would start`),
          ...(state.rpiSwapMechanism === "none" ? [] : [`rpi-swap mechanism ${state.rpiSwapMechanism}`]),
          ...state.swapFiles.map((file) => `left-over swap file ${file}`),
        ];
        return found.length === 0
          ? pass("no active area, no zram, nothing in fstab, no unit, no left-over file")
          : violation(found.join("; "));
      },
    },
  }),
  control({
    id: "3.core-dumps-off",
    point: 3,
    title: "Core dumps are off and stay off: a crash leaves no copy of a process's memory",
    mend: "set `coreDumps: { mode: off, storedDumps: remove }`, the defaults",
    block: "coreDumps",
    declared: {
      reads: ["mode", "storedDumps"],
      judge: ({ mode, storedDumps }) => {
        if (mode !== "off") return violation(`coreDumps.mode is ${JSON.stringify(mode)}`);
        return storedDumps === "remove"
          ? pass('coreDumps.mode is "off"; stored dumps are removed')
          : violation(`coreDumps.storedDumps is ${JSON.stringify(storedDumps)}: prompts may be in them`);
      },
    },
    observed: {
      reads: [
        "corePattern",
        "suidDumpable",
        "corePatternAtBoot",
        "suidDumpableAtBoot",
        "dumpCollectors",
        "storedDumps",
      ],
      judge: (state) => {
        const found = [
          ...(state.corePattern === discarding ? [] : [`core_pattern ${JSON.stringify(state.corePattern)}`]),
          ...(state.suidDumpable === 0 ? [] : [`suid_dumpable ${state.suidDumpable}`]),
          ...(state.corePatternAtBoot === discarding
            ? []
            : [`core_pattern at the next boot ${JSON.stringify(state.corePatternAtBoot)}`]),
          ...(state.suidDumpableAtBoot === 0
            ? []
            : [`suid_dumpable at the next boot ${state.suidDumpableAtBoot}`]),
          ...state.dumpCollectors.map((unit) => `${unit} would start`),
          ...(state.storedDumps === 0 ? [] : [`${state.storedDumps} stored dump(s)`]),
        ];
        return found.length === 0
          ? pass(
              `core_pattern ${JSON.stringify(discarding)} now and at boot, suid_dumpable 0, no collector, no stored dump`,
            )
          : violation(found.join("; "));
      },
    },
  }),
  uncovered({ id: "3.memory-locked", point: 3, title: "The inference process locks its memory" }),
] as const;
