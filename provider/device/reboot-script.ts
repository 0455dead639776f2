import { killAfterSeconds } from "./bounded-step.ts";
import { lockedVolumes, nextPolicy } from "./locked-volumes.ts";
import { quote } from "./shell-quote.ts";
import type { RebootStep } from "./step.ts";

/*
 * What the device does for a reboot: first in the exec of the plan, which ends with the boot, then in one over a new connection, in the boot that came after it.
 */

/** The kernel's name for one boot, new with each: what proves that a node was rebooted (random(4)). */
const bootIdFile = "/proc/sys/kernel/random/boot_id";

export const isBootId = (text: string): boolean =>
  /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/.test(text);

const preconditionSeconds = 30;
/** Reading the boot partition of a slow card, file by file. */
export const approvalSeconds = 120;
/** A full page cache on a slow card. */
const syncSeconds = 300;
const requestSeconds = 60;

/** Time for the system to end its boot (all units started) before it is looked at; what it waits longer for, it may do without. */
const settleSeconds = 90;

/** Exit status of the approval check when the next boot's state is known and has no approval. */
export const isUnapproved = 3;

/**
 * Whether sealed volumes would open after the next boot, or, with the path of a folder, after one with the files of that folder on the boot partition: 0 when there are none, or when the node has a signature for the state that the next boot would measure, for each volume by the policy key
 * that it is sealed to. Where nothing measures, no boot has an approval.
 */
export const approvalCheck = (folder?: string): string => `set -eu
set -- /etc/edgeseal/volumes/*.conf
[ -e "$1" ] || exit 0
measure=/usr/lib/edgeseal/measure
names=
for each; do each=\${each##*/}; names="$names \${each%.conf}"; done
tell() { printf '%s\\n' "$*" >&2; exit 1; }
[ -x $measure ] || tell "sealed volumes:$names; nothing measures a boot here: $measure is not there"
${nextPolicy}next_policy${folder === undefined ? "" : ` --with ${quote(folder)}`} || exit 1
${lockedVolumes}locked_in "$policy" /etc/edgeseal/trust/approvals.json "$@"
[ -n "$locked" ] || exit 0
[ -z "$signed" ] || signed='; it is approved, by another policy key than they are sealed to: edgeseal volume recover'
printf 'sealed volumes:%s; policy of the next boot: %s%s\\n' "$locked" "$policy" "$signed" >&2
exit ${isUnapproved}
`;

/** Keeps to what inhibits a shutdown (a running dpkg, for one): logind refuses then, without saying why. */
const request = ({
  tryboot = false,
  prepare,
}: RebootStep): string => `${prepare === undefined ? "" : `( ${prepare.script}\n) || exit`}
systemctl reboot${tryboot ? " --reboot-argument='0 tryboot'" : ""} && exit
code=$?
${prepare === undefined ? "" : `( ${prepare.undo}\n)`}
systemd-inhibit --list --no-pager --no-legend 2>/dev/null | grep shutdown.*block
exit "$code"`;

/**
 * Shell function `reboot_step ID WAIT PRECONDITION APPROVAL_CHECK REQUEST UNAPPROVED`, for a plan's script. It says `rebooting BOOT_ID` and asks for the boot; then it holds the lock and prints line feeds until
 * the shutdown ends it, so that the end of the connection is noticed by both sides. It comes back only when there is no boot: refused, or still the same one after WAIT seconds.
 */
export const rebootFunction = `
reboot_step() {
  [ -z "$stopped" ] || return 0
  say begin-step "$1" || lost
  if ! lock_holds; then stopped=fenced; say fenced "$1"; return 0; fi
  if [ -n "$3" ]; then
    bounded ${preconditionSeconds} ${killAfterSeconds} "$3" ''
    if [ "$code" -ne 0 ]; then stopped=precondition; say precondition "$1" "$code" "$(kept)"; return 0; fi
  fi
  if [ -n "$4" ]; then
    bounded ${approvalSeconds} ${killAfterSeconds} "$4" ''
    case $code in 0) verdict= ;; ${isUnapproved}) verdict=unapproved ;; *) verdict=approval-unknown ;; esac
    if [ -n "$verdict" ]; then
      if [ "$6" != allow ]; then stopped=unapproved; say "$verdict" "$1" "$code" "$(kept)"; return 0; fi
      say "allowed-$verdict" "$1" "$code" "$(kept)" || lost
    fi
  fi
  bounded ${syncSeconds} ${killAfterSeconds} sync ''
  if [ "$code" -ne 0 ]; then stopped=failed; say failed "$1" "$code" ${syncSeconds} "$(kept)"; return 0; fi
  # Without a boot id there would be no proof of the new boot, and no end of waiting for it.
  if ! read -r boot <${bootIdFile}; then stopped=failed; say failed "$1" 1 1 ''; return 0; fi
  say rebooting "$boot" || lost
  bounded ${requestSeconds} ${killAfterSeconds} "$5" ''
  if [ "$code" -ne 0 ]; then stopped=failed; say failed "$1" "$code" ${requestSeconds} "$(kept)"; return 0; fi
  uptime; up_until=$((now + $2))
  while [ "$now" -lt "$up_until" ]; do printf '\\n' 2>/dev/null || exit 141; sleep 1; uptime; done
  stopped=still-up; say still-up "$1" 0 "$2"
}
`;

/**
 * Time that a reboot may take on the device before it is the client's turn, in seconds.
 * @throws TypeError when the time to wait is not one that is meant.
 */
export function rebootSecondsOf(step: RebootStep): number {
  const seconds = step.waitSeconds;
  if (!Number.isInteger(seconds) || seconds < 10 || seconds > 3600) {
    throw new TypeError(
      `the time to wait of '${step.title}' is not a whole number of seconds from 10 to 3600: ${seconds}`,
    );
  }
  return seconds + approvalSeconds + syncSeconds + requestSeconds + 6 * killAfterSeconds;
}

/** The call of `reboot_step` for a step of a plan. */
export function renderReboot(id: string, step: RebootStep): string {
  const { unapproved = "refuse" } = step;
  const check = unapproved === "unasked" ? "" : approvalCheck(step.approvedWith);
  const words = [step.precondition ?? "", check, request(step), unapproved].map(quote);
  return `reboot_step ${quote(id)} ${step.waitSeconds} ${words.join(" ")}`;
}

/**
 * Shell for the exec over the new connection: says `booted BOOT_ID` when this is another boot than the one that was to end, waits until it has ended starting, and runs what is given; or
 * says `same-boot`, and runs nothing.
 */
export function renderReturn(bootBefore: string, body: string): string {
  return `
read -r boot <${bootIdFile} || boot=
if [ -z "$boot" ]; then say same-boot
elif [ "$boot" = ${quote(bootBefore)} ]; then say same-boot
else
  say booted "$boot"
  timeout -k 5 ${settleSeconds} systemctl is-system-running --wait >/dev/null 2>&1 </dev/null
  ${body}
fi`;
}

/** Deadline of that exec, beside what its body needs. */
export const returnSeconds = settleSeconds + 10;
