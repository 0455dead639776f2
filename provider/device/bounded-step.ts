import { runtimeDirectory } from "./node-lock.ts";

/*
 * How the device runs one step: a `sh` of its own under timeout(1), which is the leader of a process group of its own.
 *
 * - Script and standard input travel through pipes: nothing of them is ever in an argument, the environment or a file.
 * - The step's output goes to a `tail` that keeps the last 8 KiB; it never reaches the channel, so that a step can neither fill the disk nor
 *   forge a marker, and a process that it leaves behind can't keep the exec open.
 * - When the step ends, in whatever way, what is left of its process group is killed: what is to live on is a unit's business.
 * - What it costs is processes, 10 to 20 ms each on a small board that is busy: `mkfifo` and two pairs of `timeout` and what it bounds, and no more where nothing is on standard input.
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
work= running= bounds=0
work_begin() {
  rm -rf ${runtimeDirectory}/work.*
  work=$(mktemp -d ${runtimeDirectory}/work.XXXXXXXX) || return 1
}
work_end() {
  [ -z "$running" ] || kill -s TERM -- "-$running" 2>/dev/null
  running=
  [ -z "$work" ] || rm -rf -- "$work"
}
# SECONDS KILL_AFTER SCRIPT: becomes the process that bounds the script. The script closes its own way in first, so that nothing below holds it.
bounded_sh() {
  exec timeout -k "$2" "$1" /bin/sh -c 'exec 9>&-; . /dev/fd/3' 3<<EDGESEAL
exec 3<&-
$3
EDGESEAL
}
bounded() {
  bounds=$((bounds + 1)) code=1
  # Of its own, as is its log: what reads the last step's output may not have seen its end yet.
  out=$work/out.$bounds
  mkfifo -m 0600 "$out" || return 0
  timeout $(($1 + $2 + 5)) tail -c ${keptBytes} <"$out" >"$work/log.$bounds" 2>/dev/null 9>&- &
  collector=$!
  if [ -z "$4" ]; then
    bounded_sh "$1" "$2" "$3" </dev/null >"$out" 2>&1 &
  else
    { printf '%s' "$4" | base64 -d; } 2>/dev/null 9>&- | bounded_sh "$1" "$2" "$3" >"$out" 2>&1 &
  fi
  running=$!
  code=0
  wait "$running" || code=$?
  kill -s KILL -- "-$running" 2>/dev/null
  running=
  [ "$code" -eq 0 ] || { wait "$collector"; mv -f -- "$work/log.$bounds" "$work/log"; }
}
`;
