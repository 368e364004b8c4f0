#!/bin/busybox sh
# Process 1 until the disk is there: loads the modules of /etc/modules-load and goes on with the disk's systemd.

fail() {
    echo "guest init failed: $*"
    /bin/busybox poweroff -f
}

/bin/busybox mount -t proc proc /proc || fail "mount proc"
/bin/busybox mount -t devtmpfs devtmpfs /dev || fail "mount devtmpfs"
while read -r module; do
    /bin/busybox insmod "$module" || fail "insmod $module"
done < /etc/modules-load
# The disk's probe may end behind insmod.
tries=0
until [ -b /dev/vda ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 1000 ] || fail "no disk"
    /bin/busybox usleep 20000
done
/bin/busybox mount -t ext4 /dev/vda /root || fail "mount the disk"
/bin/busybox umount /dev /proc
exec /bin/busybox switch_root /root /lib/systemd/systemd
