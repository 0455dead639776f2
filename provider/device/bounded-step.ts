import { runtimeDirectory } from "./node-lock.ts";

/*
 * How the device runs one step: a `sh` of its own under timeout(1), which is the leader of a process group of its own.
 *
 * - Script and standard input travel through pipes: nothing of them is ever in an argument, the environment or a file.
 * - The step's output goes to a `tail` that keeps the last 8 KiB; it never reaches the channel, so that a step can neither fill the disk nor
 *   forge a marker, and a process that it leaves behind can't keep the exec open.
 * - When the step ends, in whatever way, what is left of its process group is killed: what is to live on is a unit's business.
 * - The lock's descriptor 9 stays with `timeout`, so that the lock is held as long as the step runs, and is closed for what runs below, so that a daemon can't keep it.
 */

/** Signal TERM at the deadline, KILL this much later. */
export const killAfterSeconds = 5;

/** The last bytes of a step's output that are kept for messages. */
const keptBytes = 8192;

/**
 * Shell function `bounded SECONDS KILL_AFTER SCRIPT STDIN_BASE64`: sets `code` (124 or 137 when the deadline ended it). Its output is in `$work/log`.
 * `work_begin` makes the private directory `$work`, `work_end` is for the EXIT trap.
 */
export const boundedStep = `
work= running=
work_begin() {
  rm -rf ${runtimeDirectory}/work.*
  work=$(mktemp -d ${runtimeDirectory}/work.XXXXXXXX) || return 1
}
work_end() {
  [ -z "$running" ] || kill -s TERM -- "-$running" 2>/dev/null
  running=
  [ -z "$work" ] || rm -rf -- "$work"
}
bounded() {
  rm -f -- "$work/out" "$work/log"
  mkfifo -m 0600 "$work/out" || { code=1; return 0; }
  timeout $(($1 + $2 + 5)) tail -c ${keptBytes} <"$work/out" >"$work/log" 2>/dev/null 9>&- &
  collector=$!
  { printf '%s' "$4" | base64 -d; } 2>/dev/null 9>&- |
    timeout -k "$2" "$1" /bin/sh -c 'exec 9>&-; eval "exec 3<&-
$(cat <&3)"' 3<<EDGESEAL >"$work/out" 2>&1 &
$3
EDGESEAL
  running=$!
  code=0
  wait "$running" || code=$?
  kill -s KILL -- "-$running" 2>/dev/null
  running=
  [ "$code" -eq 0 ] || wait "$collector"
}
`;
