import { control, pass, verdict, violation } from "./control.ts";
import { whereServing } from "./serving.ts";

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
        return verdict(found, "no active area, no zram, nothing in fstab, no unit, no left-over file");
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
        return verdict(
          found,
          `core_pattern ${JSON.stringify(discarding)} now and at boot, suid_dumpable 0, no collector, no stored dump`,
        );
      },
    },
  }),
  control({
    id: "3.memory-locked",
    point: 3,
    title:
      "The inference process locks the model in memory, and nothing of what it computes with can be swapped out",
    mend: "give the node an `inference` block with llama-server, and leave `confinement.memoryLock` at true (docs/resources/inference-container.md)",
    block: "inference",
    declared: {
      reads: ["confinement", "variant"],
      judge: ({ confinement, variant }) => {
        if (variant !== "llama-server") return violation(`${variant} does not lock its memory`);
        return confinement.memoryLock
          ? pass("inference.confinement.memoryLock is true")
          : violation("inference.confinement.memoryLock is false");
      },
    },
    observed: {
      reads: ["health", "confinement"],
      judge: (state) =>
        whereServing(state, ({ confinement: { modelLocked, swapMax } }) =>
          modelLocked === "all" && swapMax === "0 MiB"
            ? pass("the whole model is locked; its control group may not swap")
            : violation(
                `of the model is locked: ${modelLocked ?? "unknown"}; it may swap ${swapMax ?? "an unknown amount"}`,
              ),
        ),
    },
  }),
  control({
    id: "3.scratch-in-memory",
    point: 3,
    title: "Temporary files, logs and histories, which prompts get into, never reach the plain disk",
    mend: "give the node a `scratch` block with its defaults, or the journal in a folder on the sealed volume `logs` (docs/resources/scratch.md)",
    block: "scratch",
    declared: {
      reads: ["syslog", "historyFiles", "leftovers"],
      judge: ({ syslog, historyFiles, leftovers }) => {
        const loose = [
          ...(syslog === "off" ? [] : [`scratch.syslog is ${JSON.stringify(syslog)}`]),
          ...(historyFiles === "remove" ? [] : [`scratch.historyFiles is ${JSON.stringify(historyFiles)}`]),
          ...(leftovers === "remove" ? [] : [`scratch.leftovers is ${JSON.stringify(leftovers)}`]),
        ];
        return verdict(
          loose,
          "/tmp and /var/tmp in memory, no log on the plain disk, no histories, nothing left from before",
        );
      },
    },
    observed: {
      reads: [
        "mountUnits",
        "mounts",
        "diskUsers",
        "overridingFiles",
        "journalIn",
        "syslogUnits",
        "syslogProcesses",
        "syslogFiles",
        "crashReporters",
        "bashHistory",
        "historyFiles",
        "leftovers",
      ],
      judge: ({ mounts, journalIn, ...state }) => {
        const found = [
          ...["/tmp", "/var/tmp"].flatMap((path) =>
            mounts[path]?.startsWith("tmpfs ") === true
              ? []
              : [`${path} is on ${mounts[path] ?? "the disk"}`],
          ),
          ...["tmp.mount", "var-tmp.mount"]
            .filter((unit) => !state.mountUnits.includes(unit))
            .map((unit) => `${unit} would not start`),
          ...state.diskUsers.map((user) => `on the disk still, ${user}`),
          ...state.overridingFiles.map((path) => `${path} comes before what was declared`),
          // Where a directory is on a device that is neither memory nor a sealed volume, that is named behind it.
          ...journalIn.filter((each) => each.includes(" ")).map((each) => `journal in ${each}`),
          ...[...state.syslogUnits, ...state.syslogProcesses].map(
            (each) => `${each} writes the log to files`,
          ),
          ...state.syslogFiles.map((path) => `log on the disk: ${path}`),
          ...state.crashReporters.map((unit) => `${unit} would start`),
          ...(state.bashHistory === "off" ? [] : ["bash keeps a history"]),
          ...Object.keys(state.historyFiles).map((path) => `history ${path}`),
          ...state.leftovers.map((path) => `left from before: ${path}`),
        ];
        return verdict(
          found,
          `/tmp and /var/tmp in memory; journal in ${journalIn.join(", ")}; no second log, no history, nothing left`,
        );
      },
    },
  }),
] as const;
