#!/bin/sh
# Runs inside the new root, after the packages and the files of root/ are in. Arguments: DISK_ID CONSOLE INITRAMFS_MODULES.
# /keys holds the public and private keys that were made for this image; it does not stay.
set -eu
disk_id=$1 console=$2 initramfs_modules=$3
sed -i "s/@DISK_ID@/$disk_id/; s/@CONSOLE@/$console/" /etc/fstab /boot/firmware/cmdline.txt

useradd --create-home --shell /bin/bash edge
install -d -m 700 -o edge -g edge /home/edge/.ssh
install -m 600 -o edge -g edge /keys/authorized_keys /home/edge/.ssh/authorized_keys
rm -f /etc/ssh/ssh_host_*
install -m 600 /keys/host_ed25519 /etc/ssh/ssh_host_ed25519_key
install -m 644 /keys/host_ed25519.pub /etc/ssh/ssh_host_ed25519_key.pub
rm -r /keys
chmod 440 /etc/sudoers.d/edge
passwd --lock root >/dev/null

# Empty, and git does not keep empty folders.
install -d /etc/rpi/swap.conf.d
install -d -m 2755 -g systemd-journal /var/log/journal

# Filled with noise, not zeros: what a file system may leave as a hole, swapon refuses.
head -c 32M /dev/urandom >/swapfile
chmod 600 /swapfile
mkswap --quiet /swapfile

# No vsock here, and nobody looks at a screen.
install -d /etc/systemd/system-generators
ln -s /dev/null /etc/systemd/system-generators/systemd-ssh-generator
systemctl --quiet set-default multi-user.target
systemctl --quiet mask modprobe@drm.service modprobe@efi_pstore.service systemd-pstore.service
echo LANG=C.UTF-8 >/etc/default/locale

systemctl --quiet enable systemd-networkd.service ssh.service someone-else-firewall.service testbed-ready.service
# Background work at its own times makes timings and journals of tests differ from run to run.
systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer man-db.timer
# Debian brings some 130 profiles for programs that are not here; loading them takes seconds of each emulated boot.
# Those of what is here stay, and so does what profiles include.
find /etc/apparmor.d -maxdepth 1 -type f ! -name podman ! -name crun ! -name 'usr.bin.pas*' \
  ! -name systemd-coredump ! -name unprivileged_userns -delete
# apt's default of asking a host's proxy or mirror is the builder's business, not the node's.
rm -f /etc/apt/apt.conf.d/*proxy*

echo "$initramfs_modules" | tr ' ' '\n' >/etc/initramfs-tools/modules
update-initramfs -u
