import { runtimeDirectory } from "./node-lock.ts";
import { sandbox } from "./unit-sandbox.ts";

/** Names the change whose window is open. It is gone after a boot, and so tells one: unlike a boot id, also where nodes share a kernel. */
export const windowMarker = `${runtimeDirectory}/window`;

/** Where everything lives that outlasts a boot. */
export const stateDirectory = "/var/lib/edgeseal";

/** The program that takes a change back, as it lies on the device. */
export const revertPath = `${stateDirectory}/revert`;

/** The unit that runs it: at every boot before the network, and when a window has ended. */
export const revertUnit = "edgeseal-revert.service";
export const revertUnitPath = `/etc/systemd/system/${revertUnit}`;

/**
 * Takes back the pending change when it is due: its window has passed, the device was booted since, its timer is gone (a soft reboot, a person), or its own plan gave it up. Else does
 * nothing, so that a left-over timer of another change can't harm. Whoever renames `pending` away decides what becomes of it: this program (to `reverting`) or the confirmation (to
 * `confirmed`); rename(2) lets only one of them win.
 *
 * Can be killed anywhere and run again: `reverting` stays until all is back, and every boot and every retry of the unit goes on with it.
 */
export const revertScript = `#!/bin/sh
# Takes back an unconfirmed change of edgeseal. Run by ${revertUnit}; by hand: systemctl start ${revertUnit}
set -u
umask 077
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
cd ${stateDirectory} || exit 1
mkdir -p -m 0700 ${runtimeDirectory} || exit 1
exec 7>>${runtimeDirectory}/revert.lock
flock -w 90 7 || { echo 'another revert is still running'; exit 1; }

field() { cat "$1" 2>/dev/null || :; }

if [ -d pending ] && ! [ -d reverting ]; then
  read -r now _ </proc/uptime; now=\${now%%.*}
  deadline=$(field pending/deadline)
  case $deadline in *[!0-9]* | '') deadline=0 ;; esac
  if [ "$(field ${windowMarker})" != "$(field pending/nonce)" ]; then
    reason='the device was started again before it was confirmed'
  elif [ -e pending/given-up ]; then
    reason='the plan gave it up before its end'
  elif [ "$now" -ge "$deadline" ]; then
    reason='it was not confirmed in time'
  elif [ "$(systemctl show -P ActiveState "$(field pending/timer)" 7>&-)" != active ]; then
    reason='the timer of its window was gone'
  else
    echo "the change has $((deadline - now)) s left for its confirmation"
    exit 0
  fi
  printf '%s\\n' "$reason" >pending/reason
  mv -T pending reverting || exit 0
  sync .
fi
[ -d reverting ] || exit 0

echo "taking back '$(field reverting/title)': $(field reverting/reason); back to: $(field reverting/rollback-to)"
failed=
trouble() { echo "$*"; failed="\${failed:+$failed; }$*"; }

put_back() {
  path=$(cat "$1/path") || return 1
  if [ -e "$1/absent" ]; then
    if [ -e "$path" ] || [ -L "$path" ]; then rm -f -- "$path" && sync "\${path%/*}/"; fi
    return
  fi
  mkdir -p "\${path%/*}/" || return 1
  new="\${path%/*}/.\${path##*/}.edgeseal-new"
  rm -f -- "$new"
  if cp -dp -- "$1/content" "$new" && { [ -L "$new" ] || sync "$new"; } && mv -fT -- "$new" "$path"; then
    sync "\${path%/*}/"
  else
    rm -f -- "$new"
    return 1
  fi
}
for each in reverting/files/*; do
  [ -e "$each/path" ] || continue
  put_back "$each" || trouble "$(field "$each/path") could not be put back"
done

export EDGESEAL_SAVED=${stateDirectory}/reverting/saved
export EDGESEAL_REVERT_REASON="$(field reverting/reason)"
( cd / && exec timeout -k 5 60 /bin/sh ${stateDirectory}/reverting/restore </dev/null 7>&- ) || trouble "its restore ended with exit status $?"

if [ -n "$failed" ]; then
  printf '%s\\n' "$failed" >reverting/trouble
  echo "not taken back yet; tried again in 5 s and at the next boot"
  exit 1
fi
read -r now _ </proc/uptime
{
  echo "nonce=$(field reverting/nonce)"
  echo "title=$(field reverting/title)"
  echo "rollbackTo=$(field reverting/rollback-to)"
  echo "reason=$(field reverting/reason)"
  echo "boot=$(cat /proc/sys/kernel/random/boot_id)"
  echo "uptime=\${now%%.*}"
} >last-revert.new && sync last-revert.new && mv -fT last-revert.new last-revert || exit 1
systemctl --no-block stop 'edgeseal-window-*.timer' 2>/dev/null 7>&- || :
rm -rf done && mv -T reverting done && sync . && rm -rf done
echo 'taken back'
`;

/**
 * Before anything that brings the network up: those units are all ordered after network-pre.target, which counts only when something pulls it in. Restarted
 * until it succeeds, since nobody else can: the way in may be cut.
 */
export const revertUnitFile = `# Written by edgeseal, which arms it before each change that could cut the connection.
[Unit]
Description=Take back an unconfirmed edgeseal change
DefaultDependencies=no
RequiresMountsFor=${stateDirectory}
After=local-fs.target
Wants=network-pre.target
Before=network-pre.target nftables.service edgeseal-firewall.service
Conflicts=shutdown.target
Before=shutdown.target
ConditionPathExists=|${stateDirectory}/pending
ConditionPathExists=|${stateDirectory}/reverting
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=/bin/sh ${revertPath}
Restart=on-failure
RestartSec=5
TimeoutStartSec=180
${sandbox({
  // Rules of the kernel, and files of any owner.
  capabilities: ["CAP_NET_ADMIN", "CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_FOWNER"],
  addressFamilies: ["AF_NETLINK", "AF_UNIX"],
  systemCalls: ["@chown"],
})}

[Install]
WantedBy=sysinit.target
`;
