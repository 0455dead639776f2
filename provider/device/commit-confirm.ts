import { runtimeDirectory } from "./node-lock.ts";
import { outputOf, UnknownObservation, type PartOutput, type Probe } from "./probe.ts";
import type { PlainStep } from "./render.ts";
import {
  revertPath,
  revertScript,
  revertUnit,
  revertUnitFile,
  revertUnitPath,
  stateDirectory,
  windowMarker,
} from "./revert-script.ts";
import { quote } from "./shell-quote.ts";
import { directory, file, run, type CommitConfirmStep } from "./step.ts";

/*
 * A change that can cut the connection, taken back by the device itself unless it is confirmed over a new connection.
 *
 *   /var/lib/edgeseal/pending/     the one unconfirmed change: saved files and kernel state, restore script, nonce, deadline
 *   /var/lib/edgeseal/reverting/   the same while it is being taken back
 *   /var/lib/edgeseal/confirmed/   the last one that was confirmed, without what it had saved
 *   /var/lib/edgeseal/last-revert  the last one that was taken back: what, why, when
 *
 * All of `pending` is on the disk, and the timer runs, before the first step of the change. Time is the device's, monotonic: a Pi has no clock battery. A boot
 * within the window reverts before the network is up, whatever the time. The steps of the change must end within the window too (the plan script sees to it), so that none of
 * them can write what the revert has just put back.
 */

/** Time for change and confirmation when a step does not say. Long enough for a connection over a slow link, short enough to wait for. */
export const defaultWindowSeconds = 30;

export function windowSecondsOf(step: CommitConfirmStep): number {
  const seconds = step.windowSeconds ?? defaultWindowSeconds;
  if (!Number.isInteger(seconds) || seconds < 5 || seconds > 3600) {
    throw new TypeError(
      `the window of '${step.title}' is not a whole number of seconds from 5 to 3600: ${seconds}`,
    );
  }
  return seconds;
}

const oneLine = (text: string): string => text.replace(/[\0-\x1f\x7f]+/g, " ").trim();

/** The timer of one window; its name carries the nonce, so that a left-over one of another change can't be taken for it. */
export function windowUnit(nonce: string): string {
  return `edgeseal-window-${nonce.slice(0, 16)}`;
}

/** The steps that come before the change: nothing that they do is noticed until `start the window`, their last. */
export function armSteps(step: CommitConfirmStep, nonce: string): readonly PlainStep[] {
  return [
    directory({ title: `make ${stateDirectory}`, path: stateDirectory, mode: "0700" }),
    file({ title: "install the revert", path: revertPath, content: revertScript, mode: "0700" }),
    file({
      title: "install the revert at boot",
      path: revertUnitPath,
      content: revertUnitFile,
      mode: "0644",
    }),
    run({ title: "enable the revert at boot", script: enableScript }),
    run({ title: `save ${oneLine(step.rollbackTo)}`, script: saveScript(step, nonce) }),
    run({ title: "start the window", script: startScript(step, nonce) }),
  ];
}

/**
 * What somebody else's files make of the unit counts, too: with another command, or before conditions of theirs, nothing would ever be taken back. Drop-ins for all services are
 * let pass as long as the command is ours.
 */
const enableScript = `set -eu
unit=${revertUnit}
fail() { printf '%s; the change could not be taken back\\n' "$*" >&2; exit 1; }
if [ "$(systemctl show -P NeedDaemonReload -- "$unit")" = yes ] || [ "$(systemctl show -P LoadState -- "$unit")" != loaded ]; then systemctl daemon-reload; fi
set -f
for each in $(systemctl show -P FragmentPath -P DropInPaths -- "$unit"); do
  case $each in ${revertUnitPath} | */service.d/*) ;; *) fail "$each changes $unit" ;; esac
done
case $(systemctl show -P ExecStart -- "$unit") in
  *'argv[]=/bin/sh ${revertPath} ;'*) ;;
  *) fail "$unit does not run ${revertPath}: see systemctl cat $unit" ;;
esac
[ "$(systemctl is-enabled -- "$unit" 2>/dev/null)" = enabled ] || systemctl enable -- "$unit"
[ "$(systemctl is-enabled -- "$unit")" = enabled ]
[ "$(systemctl show -P LoadState -- "$unit")" = loaded ]
`;

function saveScript(step: CommitConfirmStep, nonce: string): string {
  const saveFiles = step.files.map(
    (path, index) =>
      `save_file ${quote(`pending.new/files/${String(index).padStart(3, "0")}`)} ${quote(path)}`,
  );
  const fields: Readonly<Record<string, string>> = {
    nonce,
    title: oneLine(step.title),
    "rollback-to": oneLine(step.rollbackTo),
    restore: step.restore,
  };
  return `set -eu
umask 077
cd ${stateDirectory}
rm -rf pending.new confirmed done
mkdir pending.new pending.new/files pending.new/saved
save_file() {
  mkdir "$1"
  printf '%s' "$2" >"$1/path"
  if [ -d "$2" ] && ! [ -L "$2" ]; then echo "$2 is a directory and can't be saved as a file" >&2; exit 1; fi
  if [ -e "$2" ] || [ -L "$2" ]; then cp -dp -- "$2" "$1/content"; else : >"$1/absent"; fi
}
${saveFiles.join("\n")}
${Object.entries(fields)
  .map(([name, value]) => `printf '%s\\n' ${quote(value)} >pending.new/${name}`)
  .join("\n")}
/bin/sh -n pending.new/restore
export EDGESEAL_SAVED=${stateDirectory}/pending.new/saved
cd /
( eval ${quote(step.save)} )
`;
}

function startScript(step: CommitConfirmStep, nonce: string): string {
  const window = windowSecondsOf(step);
  return `set -eu
umask 077
cd ${stateDirectory}
[ -n "\${SSH_CONNECTION-}" ] || { echo 'SSH_CONNECTION is not set, so a new connection could not be told from this one' >&2; exit 1; }
printf '%s\\n' "$SSH_CONNECTION" >pending.new/connection
printf '%s\\n' ${windowUnit(nonce)}.timer >pending.new/timer
mkdir -p -m 0700 ${runtimeDirectory}
printf '%s\\n' ${nonce} >${windowMarker}
read -r now _ </proc/uptime
printf '%s\\n' "$((\${now%%.*} + ${window}))" >pending.new/deadline
# The timer first: so there is no moment in which a change is pending and nothing would end it.
trap 'systemctl stop ${windowUnit(nonce)}.timer' EXIT
systemd-run --quiet --collect --unit=${windowUnit(nonce)} --on-active=${window}s --timer-property=AccuracySec=100ms \\
  --description='End of the window of an unconfirmed edgeseal change' systemctl start --no-block ${revertUnit}
[ "$(systemctl show -P ActiveState ${windowUnit(nonce)}.timer)" = active ] || { echo 'the timer of the revert does not run' >&2; exit 1; }
sync -f ${revertUnitPath} pending.new
mv -T pending.new pending
trap - EXIT
sync .
`;
}

/**
 * Shell function `pending_absent`: 0 when no change waits for its confirmation. Otherwise it says which one, and takes it back first when that is overdue (the timer
 * was lost, or an earlier revert failed).
 */
export const pendingCheck = `
pending_absent() {
  [ -d ${stateDirectory}/pending ] || [ -d ${stateDirectory}/reverting ] || return 0
  pending_dir=${stateDirectory}/pending
  [ -d "$pending_dir" ] || pending_dir=${stateDirectory}/reverting
  say pending-title "$(cat "$pending_dir/title" 2>/dev/null)"
  say pending-rollback-to "$(cat "$pending_dir/rollback-to" 2>/dev/null)"
  uptime
  pending_deadline=$(cat "$pending_dir/deadline" 2>/dev/null)
  case $pending_deadline in *[!0-9]* | '') pending_deadline=0 ;; esac
  [ "$(cat "$pending_dir/nonce" 2>/dev/null)" = "$(cat ${windowMarker} 2>/dev/null)" ] || pending_deadline=0
  if [ "$pending_dir" = ${stateDirectory}/pending ] && [ "$now" -lt "$pending_deadline" ]; then
    say pending "$((pending_deadline - now))"
    return 1
  fi
  timeout -k 5 120 systemctl start ${revertUnit} >/dev/null 2>&1 </dev/null 9>&-
  if [ -d ${stateDirectory}/pending ] || [ -d ${stateDirectory}/reverting ]; then
    say pending-trouble "$(cat ${stateDirectory}/reverting/trouble 2>/dev/null)"
  else
    say pending-reverted
  fi
  return 1
}
`;

/** Shell function `give_up`: takes the pending change back at once; says `reverted` or `revert-failed`. */
export const giveUp = `
give_up() {
  true >${stateDirectory}/pending/given-up
  timeout -k 5 120 systemctl start ${revertUnit} >/dev/null 2>&1 </dev/null 9>&-
  if [ -d ${stateDirectory}/pending ] || [ -d ${stateDirectory}/reverting ]; then
    say revert-failed "$(cat ${stateDirectory}/reverting/trouble 2>/dev/null)"
  else
    say reverted
  fi
}
`;

/**
 * Shell for the confirmation; says `confirmed`, or `unconfirmed REASON`: `reverted`, `other` (another change is pending), `same-connection`, `unfinished` (its plan ended in the middle;
 * given up at once).
 */
export function renderConfirm(nonce: string): string {
  const pending = `${stateDirectory}/pending`;
  const confirmed = `${stateDirectory}/confirmed`;
  return `
confirm() {
  if [ "$(cat ${pending}/nonce 2>/dev/null)" != ${nonce} ]; then
    if [ "$(cat ${confirmed}/nonce 2>/dev/null)" = ${nonce} ]; then say confirmed
    elif [ -d ${pending} ]; then say unconfirmed other
    else say unconfirmed reverted
    fi
    return
  fi
  armed_over=$(cat ${pending}/connection)
  if [ -z "\${SSH_CONNECTION-}" ] || [ "$SSH_CONNECTION" = "$armed_over" ]; then say unconfirmed same-connection; return; fi
  if ! [ -e ${pending}/applied ]; then
    # Or it was renamed away under our eyes.
    if [ "$(cat ${pending}/nonce 2>/dev/null)" = ${nonce} ]; then give_up; say unconfirmed unfinished; else say unconfirmed reverted; fi
    return
  fi
  rm -rf ${confirmed}
  if ! mv -T ${pending} ${confirmed} 2>/dev/null; then say unconfirmed reverted; return; fi
  sync ${stateDirectory}
  say confirmed
  systemctl stop ${windowUnit(nonce)}.timer >/dev/null 2>&1 </dev/null 9>&-
  rm -rf ${confirmed}/files ${confirmed}/saved
}
`;
}

/** Shell function `outcome`: says how the change with this nonce ended: `outcome` `pending`, `reverting`, `reverted`, `confirmed` or `gone`. */
export function renderOutcome(nonce: string): string {
  return `
outcome() {
  if [ "$(cat ${stateDirectory}/confirmed/nonce 2>/dev/null)" = ${nonce} ]; then say outcome confirmed
  elif [ "$(cat ${stateDirectory}/reverting/nonce 2>/dev/null)" = ${nonce} ]; then
    say outcome-trouble "$(cat ${stateDirectory}/reverting/trouble 2>/dev/null)"
    say outcome reverting
  elif [ "$(cat ${stateDirectory}/pending/nonce 2>/dev/null)" = ${nonce} ]; then say outcome pending
  elif grep -qx nonce=${nonce} ${stateDirectory}/last-revert 2>/dev/null; then
    say outcome-reason "$(sed -n 's/^reason=//p' ${stateDirectory}/last-revert)"
    say outcome reverted
  else say outcome gone
  fi
}
`;
}

/** A change that waits for its confirmation, as found by looking. What was observed beside it may be gone when its window ends. */
export interface PendingChange {
  readonly title: string;
  readonly rollbackTo: string;
  /** Seconds until the device takes it back; 0 while it is doing so. */
  readonly secondsLeft: number;
}

/**
 * Whether a change waits for its confirmation. Part of every batch: an observation that was made within somebody's window tells of a state that may not last, so a
 * reader waits for the window's end and looks again.
 */
export const pendingProbe: Probe<PendingChange | undefined> = {
  id: "edgeseal:device:Pending",
  parts: {
    // Looked at again when it was renamed away under our eyes.
    pending: `while :; do
  d=${stateDirectory}/pending; left=0
  [ -d "$d" ] || d=${stateDirectory}/reverting
  [ -d "$d" ] || exit 0
  title=$(cat "$d/title" 2>/dev/null); to=$(cat "$d/rollback-to" 2>/dev/null); nonce=$(cat "$d/nonce" 2>/dev/null); deadline=$(cat "$d/deadline" 2>/dev/null)
  [ -d "$d" ] && break
done
read -r now _ </proc/uptime
if [ "$d" = ${stateDirectory}/pending ] && [ "$nonce" = "$(cat ${windowMarker} 2>/dev/null)" ]; then left=$((\${deadline:-0} - \${now%%.*})); fi
printf '%s\\n' "$left" "$title" "$to"`,
  },
  parse: parsePending,
};

function parsePending(parts: Readonly<Record<string, PartOutput>>): PendingChange | undefined {
  const output = outputOf(parts, "pending");
  if (output === "") return undefined;
  const [left, title, rollbackTo] = output.split("\n");
  if (left === undefined || !/^-?\d+$/.test(left) || title === undefined || rollbackTo === undefined) {
    throw new UnknownObservation("the record of a pending change on the device can't be read");
  }
  return { title, rollbackTo, secondsLeft: Math.max(0, Number(left)) };
}

/** How the last change that was taken back ended. */
export interface LastRevert {
  readonly title: string;
  readonly rollbackTo: string;
  readonly reason: string;
  /** Boot id and seconds since that boot at which it was back: the device's clock can't be relied on. */
  readonly boot: string;
  readonly uptimeSeconds: number;
}

export const lastRevertProbe: Probe<LastRevert | undefined> = {
  id: "edgeseal:device:LastRevert",
  parts: { record: `[ ! -e ${stateDirectory}/last-revert ] || cat ${stateDirectory}/last-revert` },
  parse: (parts) => {
    const output = outputOf(parts, "record");
    if (output === "") return undefined;
    const fields = new Map(
      output.split("\n").map((line) => {
        const at = line.indexOf("=");
        return [line.slice(0, Math.max(at, 0)), line.slice(at + 1)] as const;
      }),
    );
    const field = (name: string): string => {
      const value = fields.get(name);
      if (value === undefined) throw new UnknownObservation(`the record of the last revert has no '${name}'`);
      return value;
    };
    return {
      title: field("title"),
      rollbackTo: field("rollbackTo"),
      reason: field("reason"),
      boot: field("boot"),
      uptimeSeconds: Number(field("uptime")),
    };
  },
};
