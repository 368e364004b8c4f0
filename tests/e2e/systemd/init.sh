#!/bin/sh
# Becomes the systemd of a namespace: a copy-on-write view of a root, this machine's or another one, with
# cgroups, /run and /dev of its own. Run it by unshare --mount --pid --fork --uts --ipc, as root.
#
#   init.sh TREE RESULTS PLACE LOWER GROUP    TREE is copied over the root LOWER, RESULTS is /results inside;
#                                             PLACE is an empty directory to build in, GROUP the name of a cgroup
set -eu
tree=$1 results=$2 place=$3 lower=$4
if [ $# = 5 ]; then
  # A cgroup of its own: two machines with one would take each other's services for their own.
  mount --make-rprivate /
  mount -t cgroup2 none "$place"
  mkdir "$place/$5"
  echo 0 >"$place/$5/cgroup.procs"
  umount "$place"
  exec unshare --cgroup "$0" "$tree" "$results" "$place" "$lower"
fi
mount -t tmpfs none "$place"
mkdir "$place/upper" "$place/work" "$place/root"
root=$place/root
mount -t overlay -o "lowerdir=$lower,upperdir=$place/upper,workdir=$place/work" none "$root"
mount -t proc none "$root/proc"
mount -t sysfs -o ro none "$root/sys"
mount -t cgroup2 none "$root/sys/fs/cgroup"
mount -t tmpfs none "$root/run"
mount -t tmpfs none "$root/tmp"
mount -t tmpfs none "$root/dev"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=0666 none "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mkdir "$root/dev/shm" "$root/results"
mount --bind "$results" "$root/results"
if [ "$lower" != / ]; then
  # This machine's root, for a program that is not in the other one but belongs to its machine, such as QEMU: with
  # the machine's /run both mean the same by a path below it.
  mkdir "$root/outer"
  mount --rbind / "$root/outer"
  mount --rbind "$root/run" "$root/outer/run"
fi
# Nothing of this machine starts.
rm -rf "$root/etc/systemd/system"
mkdir -p "$root/etc/systemd/system"
cp -r "$tree/." "$root/"
# Not chroot: systemd gives services mount namespaces, which begin at the root of its own.
mkdir "$root/before"
cd "$root"
pivot_root . before
umount -l /before
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --log-target=journal --log-level=notice --show-status=no
