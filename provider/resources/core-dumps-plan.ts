import { directory, file, remove, run, sysctl, unit, type Step } from "../device/step.ts";
import { PlanRefused } from "../resource.ts";
import { keepFromStarting } from "./boot-units.ts";
import { coreDumpFiles, discardingPattern, dumpDirectory, sysctlUnit } from "./core-dumps-files.ts";
import { limitsContent } from "./core-dumps-limits.ts";
import { isElfCore, type CoreDumpsState } from "./core-dumps-observation.ts";

const header = "# Written by edgeseal (edgeseal:memory:CoreDumps).\n";

/**
 * Steps that keep memory from being dumped: at once, and after every boot.
 * @throws PlanRefused when a file that is read after edgeseal's turns dumps on.
 */
export function turnDumpsOff(observed: CoreDumpsState, removeStored: boolean): readonly Step[] {
  if (observed.overridingFiles.length > 0) {
    throw new PlanRefused(
      `${observed.overridingFiles.join(" and ")} turn${observed.overridingFiles.length === 1 ? "s" : ""} core dumps on and can't be overridden by edgeseal's files`,
      "remove the core dump settings there",
    );
  }
  return [
    ...kernel(observed),
    ...serviceLimits(observed),
    ...loginLimits(observed),
    ...systemdCoredump(observed),
    ...keepFromStarting(observed.dumpCollectors, "collect dumps", () => true),
    ...(removeStored && observed.storedDumps > 0 ? [removeStoredDumps(observed.storedDumps)] : []),
  ];
}

/** Steps that remove edgeseal's settings and let the system's own take effect. Dumps that were removed are gone. */
export function takeDumpSettingsBack(observed: CoreDumpsState): readonly Step[] {
  return [
    ...Object.values(coreDumpFiles).map((path) => remove({ title: `remove ${path}`, path })),
    ...observed.maskedUnits.map((name) => unit({ title: `unmask ${name}`, unit: name, masked: false })),
    run({
      title: "apply the system's own core dump settings",
      script: [
        "set -eu",
        // The kernel's defaults, for parameters that no file sets; then what the files say.
        "echo core > /proc/sys/kernel/core_pattern",
        "echo 0 > /proc/sys/fs/suid_dumpable",
        "/usr/lib/systemd/systemd-sysctl --prefix=/kernel/core_pattern --prefix=/fs/suid_dumpable",
        "systemctl daemon-reload",
      ].join("\n"),
    }),
  ];
}

function kernel(observed: CoreDumpsState): readonly Step[] {
  const steps: Step[] = [];
  if (observed.corePatternAtBoot !== discardingPattern || observed.suidDumpableAtBoot !== 0) {
    steps.push(
      file({
        title: "keep the kernel from writing core dumps after a boot",
        path: coreDumpFiles.sysctl,
        mode: "0644",
        content: `${header}kernel.core_pattern = ${discardingPattern}\nfs.suid_dumpable = 0\n`,
      }),
    );
    if (observed.maskedUnits.includes(sysctlUnit)) {
      const title = `unmask ${sysctlUnit}, which sets kernel parameters at boot`;
      steps.push(unit({ title, unit: sysctlUnit, masked: false }));
    }
  }
  if (observed.corePattern !== discardingPattern) {
    steps.push(
      sysctl({
        title: "let the kernel discard core dumps",
        key: "kernel.core_pattern",
        value: discardingPattern,
      }),
    );
  }
  if (observed.suidDumpable !== 0) {
    steps.push(
      sysctl({ title: "keep privileged programs from dumping core", key: "fs.suid_dumpable", value: "0" }),
    );
  }
  return steps;
}

function serviceLimits(observed: CoreDumpsState): readonly Step[] {
  const steps: Step[] = [];
  const dropIn = (path: string, whose: string): void => {
    const folder = path.slice(0, path.lastIndexOf("/"));
    steps.push(
      directory({ title: `make the directory ${folder}`, path: folder, mode: "0755" }),
      file({
        title: `set the core limit of ${whose} to 0`,
        path,
        mode: "0644",
        content: `${header}[Manager]\nDefaultLimitCORE=0\n`,
      }),
    );
  };
  if (observed.serviceCoreLimitAtBoot !== "0") dropIn(coreDumpFiles.system, "services");
  if (observed.userServiceCoreLimitAtBoot !== "0") dropIn(coreDumpFiles.user, "services of user sessions");
  if (observed.serviceCoreLimit !== "0") {
    steps.push(run({ title: "let systemd take up the core limit", script: "systemctl daemon-reload" }));
  }
  return steps;
}

function loginLimits(observed: CoreDumpsState): readonly Step[] {
  if (observed.loginsAllowedCores.length === 0) return [];
  return [
    directory({
      title: "make the directory /etc/security/limits.d",
      path: "/etc/security/limits.d",
      mode: "0755",
    }),
    file({
      title: "set the core limit of logins to 0",
      path: coreDumpFiles.limits,
      mode: "0644",
      content: limitsContent(observed.limitedLogins),
    }),
  ];
}

function systemdCoredump(observed: CoreDumpsState): readonly Step[] {
  if (observed.coredumpStorage === "none" && observed.coredumpProcessSizeMax === "0") return [];
  return [
    directory({
      title: "make the directory for systemd-coredump's drop-ins",
      path: "/etc/systemd/coredump.conf.d",
      mode: "0755",
    }),
    file({
      title: "keep systemd-coredump from storing dumps",
      path: coreDumpFiles.coredump,
      mode: "0644",
      content: `${header}[Coredump]\nStorage=none\nProcessSizeMax=0\n`,
    }),
  ];
}

function removeStoredDumps(count: number): Step {
  return run({
    title: count === 1 ? "remove the stored core dump" : `remove the ${count} stored core dumps`,
    precondition: `[ ! -L ${dumpDirectory} ]`,
    script: [
      "set -eu",
      `if [ -d ${dumpDirectory} ]; then find ${dumpDirectory} -xdev -mindepth 1 -maxdepth 1 -type f -delete; fi`,
      `for f in /core /core.[0-9]*; do if ${isElfCore('"$f"')}; then rm -f -- "$f"; fi; done`,
    ].join("\n"),
  });
}
