import { Type } from "typebox";
import { defineResource } from "../resource.ts";
import { swapProbe, swapState } from "./swap-observation.ts";
import { takeBack, turnOff } from "./swap-plan.ts";

/**
 * Swap off, and staying off: what a process holds in memory (prompts, answers, keys) is never written to disk by the kernel.
 *
 * Checked and mended: active areas, zram with its backing device, /etc/fstab, swap units and services, rpi-swap, zram-generator, dphys-swapfile, and
 * left-over swap files.
 */
export const swap = defineResource({
  token: "edgeseal:memory:Swap",
  description:
    "Swap on a node: off now, off after every boot, and no old swap files left behind, since prompts and keys may be in them. Covers swap partitions and files, zram with write-back to disk, /etc/fstab, swap units, rpi-swap, zram-generator and dphys-swapfile.",
  inputs: Type.Object({
    mode: Type.Enum(["off", "keep"], {
      type: "string",
      default: "off",
      description:
        "`off` turns swap off and keeps it off. `keep` leaves it as it is and only reports it; the gate flags that. Default `off`: what is swapped out stays readable on the disk.",
    }),
    leftoverFiles: Type.Enum(["remove", "keep"], {
      type: "string",
      default: "remove",
      description:
        "Whether swap files are removed (`remove`) or left where they are (`keep`). Only with mode `off`. Only regular files with a swap signature are ever removed. Default `remove`: prompts may be in them.",
    }),
  }),
  state: swapState,
  observe: () => swapProbe,
  desired: ({ mode, leftoverFiles }) =>
    mode === "keep"
      ? {}
      : {
          activeAreas: [],
          zramDevices: [],
          fstabEntries: [],
          swapUnits: [],
          rpiSwapMechanism: "none",
          ...(leftoverFiles === "remove" ? { swapFiles: [] } : {}),
        },
  plan: ({ mode, leftoverFiles }, observed) => {
    if (mode === "keep") return [];
    if (observed.outcome === "absent") throw new Error("the state of swap was not observed");
    return turnOff(observed.state, leftoverFiles === "remove");
  },
  revert: (_inputs, observed) => (observed.outcome === "absent" ? [] : takeBack(observed.state)),
});
