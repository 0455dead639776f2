import { quote } from "./shell-quote.ts";

/*
 * The node lock: one plan at a time on a device, whoever runs it. Reads take no lock.
 *
 * Exclusion is by flock(2) on /run/edgeseal/lock, held by the script itself and by the process that bounds its current step. The kernel lets it go when
 * they end, however they end: a killed provider leaves no stale lock, and yet no second plan starts while the last step of the killed one
 * still runs. /run is empty after a boot, and so is the lock.
 *
 * Beside it /run/edgeseal/holder names the holder: fencing token, expiry in seconds of /proc/uptime, owner, purpose; one per line. The expiry is the sum of all deadlines of
 * the plan. A holder that outlives it hangs in the kernel (a dying SD card): then the next one puts a new lock file in place of the held one and takes a higher token. Every step
 * checks that its own token still stands before it starts, so that the former holder, should it come back, does nothing more (`fenced`).
 *
 * A commit-confirmed change outlives its exec, so within its window not the lock but the pending change itself keeps others out (`commit-confirm.ts`).
 */

/** Where everything lives that need not outlast a boot. */
export const runtimeDirectory = "/run/edgeseal";

export interface LockRequest {
  /** Who asks, for the one that is kept out: user and machine of the operator. One line. */
  readonly owner: string;
  /** What for, in the same way: e.g. `apply edgeseal:network:Firewall`. One line. */
  readonly purpose: string;
  /** Time after which the holder counts as hung, in seconds of the device's clock since boot. */
  readonly expirySeconds: number;
  /** How long to wait for another holder, in seconds. */
  readonly waitSeconds: number;
}

const oneLine = (text: string): string => text.replace(/[\0-\x1f\x7f]+/g, " ").trim();

/**
 * Shell functions for the body of a plan's script. They use `say` (prints a marker) and set, in the script:
 * `lock_acquire` returns 0 when the lock is held; otherwise it has said who holds it, or could not write to /run; `lock_holds` tells whether the token still stands; `lock_renew` sets the expiry anew, for what takes as long as it takes; `lock_release` is for the EXIT trap.
 * File descriptor 9 is the lock.
 */
export function renderLock(request: LockRequest): string {
  return `
uptime() { read -r now _ </proc/uptime; now=\${now%%.*}; }
lock_token=
lock_read() {
  held_token=0 held_expiry=0 held_owner= held_purpose=
  [ -r ${runtimeDirectory}/holder ] || return 0
  { read -r held_token; read -r held_expiry; read -r held_owner; read -r held_purpose; } <${runtimeDirectory}/holder || :
  case $held_token$held_expiry in *[!0-9]* | '') held_token=0 held_expiry=0 ;; esac
}
lock_sign() {
  printf '%s\\n' "$lock_token" "$((now + ${Math.ceil(request.expirySeconds)}))" ${quote(oneLine(request.owner))} ${quote(oneLine(request.purpose))} >${runtimeDirectory}/holder.new &&
    mv -f ${runtimeDirectory}/holder.new ${runtimeDirectory}/holder
}
lock_take() {
  exec 9>>${runtimeDirectory}/lock
  flock -n 9 && return 0
  lock_read; uptime
  [ "$held_expiry" -gt 0 ] && [ "$now" -gt "$held_expiry" ] || { exec 9>&-; return 1; }
  rm -f ${runtimeDirectory}/lock
  exec 9>>${runtimeDirectory}/lock
  flock -n 9
}
lock_try() {
  exec 8>>${runtimeDirectory}/guard
  flock -w 5 8 || { exec 8>&-; return 1; }
  if lock_take; then
    lock_last=0
    [ -r ${runtimeDirectory}/fence ] && read -r lock_last <${runtimeDirectory}/fence
    case $lock_last in *[!0-9]* | '') lock_last=0 ;; esac
    lock_token=$((lock_last + 1)); uptime
    printf '%s\\n' "$lock_token" >${runtimeDirectory}/fence
    lock_sign || { lock_token= lock_trouble=1; exec 9>&-; }
  fi
  exec 8>&-
  [ -n "$lock_token" ]
}
lock_acquire() {
  lock_trouble=
  # \`exec\` would end the script where it can't open a file.
  { mkdir -p -m 0700 ${runtimeDirectory} && true >>${runtimeDirectory}/guard && true >>${runtimeDirectory}/lock; } 2>/dev/null || return 1
  uptime; lock_deadline=$((now + ${Math.ceil(request.waitSeconds)}))
  until lock_try; do
    [ -z "$lock_trouble" ] || return 1
    uptime
    if [ "$now" -ge "$lock_deadline" ]; then
      lock_read
      left=$((held_expiry - now)); [ "$left" -ge 0 ] || left=0
      say locked "$left"
      say lock-owner "$held_owner"
      say lock-purpose "$held_purpose"
      return 1
    fi
    sleep 0.2
  done
}
lock_holds() {
  lock_read
  [ "$held_token" = "$lock_token" ]
}
lock_renew() {
  { flock -w 5 8 && lock_holds && { uptime; lock_sign; }; } 8>>${runtimeDirectory}/guard || :
}
lock_release() {
  [ -n "$lock_token" ] || return 0
  if lock_holds; then rm -f ${runtimeDirectory}/holder; fi
  lock_token=
  exec 9>&-
}
`;
}
