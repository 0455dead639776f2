/**
 * The kernel pipes every dump to a program that ends at once without reading it: nothing reaches a disk, whatever a process's RLIMIT_CORE says,
 * and no later `ulimit -c` brings it back (core(5), "Piping core dumps to a program"; the value the DISA STIGs and ComplianceAsCode's
 * `sysctl_kernel_core_pattern` ask for).
 *
 * A process that crashes is still reported as "core dumped": the kernel means that it handed the dump over.
 */
export const discardingPattern = "|/bin/false";

/** The files edgeseal writes. Their names sort after any that begins with a number or a common word, so that they have the last word. */
export const coreDumpFiles = {
  sysctl: "/etc/sysctl.d/zz-edgeseal-core-dumps.conf",
  limits: "/etc/security/limits.d/zz-edgeseal-core-dumps.conf",
  coredump: "/etc/systemd/coredump.conf.d/zz-edgeseal.conf",
  system: "/etc/systemd/system.conf.d/zz-edgeseal-core-dumps.conf",
  user: "/etc/systemd/user.conf.d/zz-edgeseal-core-dumps.conf",
} as const;

/** Sets kernel parameters at boot; while it is masked, no file in sysctl.d has any effect. */
export const sysctlUnit = "systemd-sysctl.service";

/** Where systemd-coredump(8) keeps dumps. */
export const dumpDirectory = "/var/lib/systemd/coredump";
