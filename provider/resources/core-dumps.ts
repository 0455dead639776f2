import { Type } from "typebox";
import { defineResource } from "../resource.ts";
import { discardingPattern } from "./core-dumps-files.ts";
import { coreDumpsProbe, coreDumpsState } from "./core-dumps-observation.ts";
import { takeDumpSettingsBack, turnDumpsOff } from "./core-dumps-plan.ts";

/**
 * Core dumps off: a process that crashes leaves no copy of its memory (prompts, answers, keys) behind.
 *
 * The kernel discards every dump; limits and systemd-coredump's configuration are the second line, should somebody set the pattern back.
 */
export const coreDumps = defineResource({
  token: "edgeseal:memory:CoreDumps",
  description:
    "Core dumps on a node: discarded by the kernel now and after every boot, with core limits of 0 for services and logins, systemd-coredump and kdump kept from collecting, and stored dumps removed.",
  inputs: Type.Object({
    mode: Type.Enum(["off", "keep"], {
      type: "string",
      default: "off",
      description:
        "`off` keeps memory from being dumped. `keep` leaves everything as it is and only reports it; the gate flags that. Default `off`: a dump of an inference server holds its users' prompts.",
    }),
    storedDumps: Type.Enum(["remove", "keep"], {
      type: "string",
      default: "remove",
      description:
        "Whether dumps that are on disk are removed (`remove`) or left (`keep`). Only with mode `off`. Default `remove`: prompts may be in them.",
    }),
  }),
  state: coreDumpsState,
  observe: () => coreDumpsProbe,
  desired: ({ mode, storedDumps }) =>
    mode === "keep"
      ? {}
      : {
          corePattern: discardingPattern,
          suidDumpable: 0,
          corePatternAtBoot: discardingPattern,
          suidDumpableAtBoot: 0,
          serviceCoreLimit: "0",
          serviceCoreLimitAtBoot: "0",
          userServiceCoreLimitAtBoot: "0",
          loginsAllowedCores: [],
          coredumpStorage: "none",
          coredumpProcessSizeMax: "0",
          dumpCollectors: [],
          ...(storedDumps === "remove" ? { storedDumps: 0 } : {}),
        },
  plan: ({ mode, storedDumps }, observed) => {
    if (mode === "keep") return [];
    if (observed.outcome === "absent") throw new Error("the state of core dumps was not observed");
    return turnDumpsOff(observed.state, storedDumps === "remove");
  },
  revert: (_inputs, observed) => (observed.outcome === "absent" ? [] : takeDumpSettingsBack(observed.state)),
});
