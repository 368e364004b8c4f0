#!/bin/busybox sh
# PID 1 of the test guest. Its output goes to the console log (ttyS0) and nowhere else.
# /etc/modules-load lists the modules in load order; virtproxy.ports=N on the kernel command
# line says how many virtio-serial ports are to be named before the guest counts as ready.

fail() {
    echo "guest init failed: $*"
    /bin/busybox poweroff -f
}

/bin/busybox --install -s /bin
export PATH=/sbin:/bin HOME=/root
mount -t proc proc /proc || fail "mount proc"
mount -t sysfs sysfs /sys || fail "mount sysfs"
mount -t devtmpfs devtmpfs /dev || fail "mount devtmpfs"
dmesg -n 1
mkdir -p /dev/pts /dev/shm /dev/virtio-ports
mount -t devpts devpts /dev/pts || fail "mount devpts"
mount -t tmpfs tmpfs /dev/shm || fail "mount /dev/shm"
mount -t tmpfs tmpfs /run || fail "mount /run"
mount -t tmpfs tmpfs /tmp || fail "mount /tmp"
hostname guest
ip link set lo up || fail "loopback interface"

while read -r module; do
    insmod "$module" || fail "insmod $module"
done < /etc/modules-load

want=1
for word in $(cat /proc/cmdline); do
    case $word in virtproxy.ports=*) want=${word#*=} ;; esac
done

# The names arrive after the nodes, by messages from QEMU: look until all are there.
tries=0
while :; do
    have=$(link-ports)
    [ "$have" -ge "$want" ] && break
    tries=$((tries + 1))
    [ "$tries" -lt 1000 ] || fail "$have of $want virtio-serial ports got their names"
    usleep 20000
done

# A child, so that its death ends the guest in order; while it waits, this shell reaps orphans.
# Not in the background: that would have SIGINT and SIGQUIT ignored in every command.
control /dev/virtio-ports/virtproxy.control
echo "guest: control channel closed, powering off"
poweroff -f
