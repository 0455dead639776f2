#!/bin/sh
# PID 1 of a namespace node until systemd takes over. Arguments: LOWER WORKDIR HOSTNAME. Runs in fresh mount, PID, network, UTS, IPC and cgroup
# namespaces; waits for one line on standard input (the network is plumbed from outside) and becomes /sbin/init.
set -eu
lower=$1 work=$2 name=$3
root=$work/root
mkdir -p "$work/upper" "$work/overlay" "$root"
hostname "$name"
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$work/upper,workdir=$work/overlay" "$root"

mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
  : > "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/run/testbed"
mount --bind "$work/pipes" "$root/run/testbed"

# Kernel parameters that no namespace separates: the node sees files of its own, with the kernel's defaults, and can't reach the host's.
private=$root/run/testbed-sys
mkdir "$private" "$private/proc"
mount -t proc proc "$private/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount --bind "$private/proc/sys/net" "$root/proc/sys/net"
mkdir "$private/kernel" "$private/kernel/random" "$private/fs"
# Each boot of a node is a boot, though the host's kernel goes on.
cat "$private/proc/sys/kernel/random/uuid" > "$private/kernel/random/boot_id"
printf 'core\n' > "$private/kernel/core_pattern"
printf '0\n' > "$private/kernel/core_pipe_limit"
printf '1\n' > "$private/kernel/core_uses_pid"
printf '2\n' > "$private/fs/suid_dumpable"
for key in kernel/core_pattern kernel/core_pipe_limit kernel/core_uses_pid kernel/random/boot_id fs/suid_dumpable; do
  mount --bind "$private/$key" "$root/proc/sys/$key"
done

# A node with a boot partition (the folder /var/firmware) has the command line that a firmware finds there: as config.txt says, or once as tryboot.txt does, when /var/firmware-asked has what
# reboot(2) was given. One with `testbed.hang` comes to no boot that a node could see: somebody cuts the power, and the next one is of config.txt.
set --
firmware=$root/var/firmware
line_of() {
  file=$(sed -n 's/^cmdline=//p' "$firmware/$1" | tail -n 1)
  head -n 1 "$firmware/${file:-cmdline.txt}"
}
if [ -f "$firmware/config.txt" ]; then
  line=testbed.hang
  if [ "$(cat "$root/var/firmware-asked" 2>/dev/null)" = '0 tryboot' ] && [ -f "$firmware/tryboot.txt" ]; then line=$(line_of tryboot.txt); fi
  rm -f "$root/var/firmware-asked"
  case $line in *testbed.hang*) line=$(line_of config.txt) ;; esac
  printf '%s\n' "$line" > "$private/cmdline"
  mount --bind "$private/cmdline" "$root/proc/cmdline"
  mkdir -p "$root/boot/firmware"
  mount --bind "$firmware" "$root/boot/firmware"
  # systemd in a container does not look at the kernel's.
  set -- "SYSTEMD_PROC_CMDLINE=$line"
fi

echo namespaces
read -r _
ip link set lo up
cd "$root"
pivot_root . mnt
exec env -i container=edgeseal-testbed "$@" PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . /bin/sh -c 'umount -l /mnt; exec /sbin/init >/dev/null 2>&1 </dev/null'
