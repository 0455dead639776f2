import { renderDirectory, renderFile, renderRemove, failFunction } from "./render-paths.ts";
import { renderUnit } from "./render-unit.ts";
import { quote } from "./shell-quote.ts";
import type { ModuleStep, PackageStep, PlainStep, RunStep, SysctlStep } from "./step.ts";

export type { PlainStep } from "./step.ts";

/** One step as the device runs it: a whole POSIX `sh` script, of its own, with its own standard input and deadline. */
export interface RenderedStep {
  readonly script: string;
  /** Standard input of the script, in base64; where content and secrets travel, so that no argument and no environment ever holds them. */
  readonly stdinBase64: string;
  readonly timeoutSeconds: number;
}

const base64 = (text: string): string => Buffer.from(text, "utf8").toString("base64");

/** A slow SD card takes seconds for an fsync; a hung one must not hold the plan for ever. */
const fileTimeoutSeconds = 60;
/** Over systemd's own DefaultTimeoutStartSec and DefaultTimeoutStopSec of 90 s, so that systemd says what went wrong. */
const unitTimeoutSeconds = 120;
/** Downloads over a slow uplink and dpkg on an SD card. */
const packageTimeoutSeconds = 900;
const runTimeoutSeconds = 60;

/**
 * Shell for one step. Every value is quoted; the script is idempotent, verifies what it did, and ends with a status other than 0 and a message on standard
 * error when it could not.
 * @throws TypeError when the step holds something that can't be meant (a relative path, a unit without its type, a NUL byte).
 */
export function renderStep(step: PlainStep): RenderedStep {
  switch (step.kind) {
    case "file":
      return {
        script: renderFile(step),
        stdinBase64: base64(step.content),
        timeoutSeconds: fileTimeoutSeconds,
      };
    case "remove":
      return { script: renderRemove(step), stdinBase64: "", timeoutSeconds: fileTimeoutSeconds };
    case "directory":
      return { script: renderDirectory(step), stdinBase64: "", timeoutSeconds: fileTimeoutSeconds };
    case "unit":
      return { script: renderUnit(step), stdinBase64: "", timeoutSeconds: unitTimeoutSeconds };
    case "sysctl":
      return { script: renderSysctl(step), stdinBase64: "", timeoutSeconds: runTimeoutSeconds };
    case "module":
      return { script: renderModule(step), stdinBase64: "", timeoutSeconds: runTimeoutSeconds };
    case "package":
      return { script: renderPackage(step), stdinBase64: "", timeoutSeconds: packageTimeoutSeconds };
    case "run":
      return renderRun(step);
  }
}

/**
 * The file of a kernel parameter. As in sysctl(8): the first separator decides; after a dot, `/` stands for a dot in a name (`net.ipv4.conf.eth0/1.forwarding`).
 */
export function sysctlPath(key: string): string {
  if (!/^[A-Za-z0-9_][A-Za-z0-9_./:-]*$/.test(key) || /(^|[./])([./]|$)/.test(key)) {
    throw new TypeError(`'${key}' is not the name of a kernel parameter`);
  }
  const dotted = /^[^./]*\./.test(key);
  return `/proc/sys/${dotted ? key.replace(/[./]/g, (each) => (each === "." ? "/" : ".")) : key}`;
}

function renderSysctl(step: SysctlStep): string {
  if (/[\0\n]/.test(step.value)) throw new TypeError(`the value of ${step.key} is not one line`);
  const path = quote(sysctlPath(step.key));
  // The kernel separates the numbers of a list by tabs.
  const wanted = step.value.trim().replace(/\s+/g, " ");
  return `set -eu
${failFunction}
value() { tr -s '\\t ' '  ' <${path}; }
[ -e ${path} ] || fail ${quote(`this kernel has no parameter ${step.key}`)}
if [ "$(value)" = ${quote(wanted)} ]; then exit 0; fi
printf '%s\\n' ${quote(step.value)} >${path} || fail ${quote(`the kernel refused '${step.value}' for ${step.key}`)}
[ "$(value)" = ${quote(wanted)} ] || fail ${quote(`${step.key} was set and still reads`)} "'$(value)'"
`;
}

function renderModule(step: ModuleStep): string {
  if (!/^[A-Za-z0-9_][A-Za-z0-9_-]*$/.test(step.module)) {
    throw new TypeError(`'${step.module}' is not the name of a kernel module`);
  }
  const listed = `grep -q '^${step.module.replaceAll("-", "_")} ' /proc/modules`;
  const builtIn = `[ "$(modinfo -F filename ${step.module} 2>/dev/null)" = '(builtin)' ]`;
  return step.loaded
    ? `set -eu
${failFunction}
if ${listed} || ${builtIn}; then exit 0; fi
modprobe -- ${step.module}
${listed} || fail 'modprobe succeeded, but module ${step.module} is not loaded'
`
    : `set -eu
${failFunction}
if ${listed}; then
  modprobe -r -- ${step.module}
  ! ${listed} || fail 'modprobe succeeded, but module ${step.module} is still loaded'
elif ${builtIn}; then
  fail 'module ${step.module} is built into the kernel'
fi
`;
}

/** apt waits this long for another apt or dpkg (unattended-upgrades after boot). */
const aptLockSeconds = 120;

function renderPackage(step: PackageStep): string {
  if (!/^[a-z0-9][a-z0-9+.-]+$/.test(step.package)) {
    throw new TypeError(`'${step.package}' is not the name of a Debian package`);
  }
  const installed = `[ "$(dpkg-query -W -f '\${db:Status-Status}' ${step.package} 2>/dev/null)" = installed ]`;
  const apt = `apt-get -y -q --no-install-recommends -o DPkg::Lock::Timeout=${aptLockSeconds} -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold`;
  const environment = `export DEBIAN_FRONTEND=noninteractive APT_LISTCHANGES_FRONTEND=none NEEDRESTART_SUSPEND=1`;
  // An apt that was killed leaves packages half configured, and every later apt fails until this has been done.
  const mend = `if [ -n "$(dpkg --audit)" ]; then dpkg --force-confdef --force-confold --configure -a >&2; fi`;
  return step.installed
    ? `set -eu
${failFunction}
if ${installed}; then exit 0; fi
${environment}
${mend}
if ! ${apt} install -- ${step.package} >&2; then
  ${apt} update >&2
  ${apt} install -- ${step.package} >&2
fi
${installed} || fail 'apt-get succeeded, but package ${step.package} is not installed'
`
    : `set -eu
${failFunction}
if ! ${installed}; then exit 0; fi
${environment}
${mend}
${apt} remove -- ${step.package} >&2
if ${installed}; then fail 'apt-get succeeded, but package ${step.package} is still installed'; fi
`;
}

function renderRun(step: RunStep): RenderedStep {
  const timeoutSeconds = step.timeoutSeconds ?? runTimeoutSeconds;
  if (!Number.isInteger(timeoutSeconds) || timeoutSeconds < 1) {
    throw new TypeError(
      `the deadline of '${step.title}' is not a whole number of seconds: ${timeoutSeconds}`,
    );
  }
  return { script: step.script, stdinBase64: base64(step.stdin ?? ""), timeoutSeconds };
}
