#!/bin/bash
# The way of LIBVIRT.md with a package, in a machine whose systemd and dpkg are the real ones. The guest is an end
# that listens where QEMU would. FORWARD and ECHO are free TCP ports.
. /steps.sh

# Of other packages' triggers none is of interest: the index of manual pages takes many seconds.
quick='--no-triggers --force-unsafe-io'

dpkg $quick -i /virtproxy.deb
[ "$(stat -c '%U %a' /run/virtproxy)" = "root 755" ]
id virtproxy
systemctl cat virtproxy.service virtproxy@.service virtproxy-guest.service >/dev/null
step "dpkg installs: the user, the directory and the units are there"

grep -q '^transport = "virtio-serial:' /etc/virtproxy/guest.toml
mkdir -p /etc/virtproxy/vm
cat >/etc/virtproxy/vm/vm-1.toml <<TOML
[channel.vm-1]
transport = "unix-connect:/run/virtproxy/vm-1.sock"
[channel.vm-1.listen.ssh]
at = "127.0.0.1:$FORWARD"
TOML
systemctl enable --now virtproxy@vm-1
systemctl is-active virtproxy@vm-1
socat "TCP-LISTEN:$ECHO,bind=127.0.0.1,fork,reuseaddr" EXEC:/bin/cat &
virtproxy --socket-mode 0666 -c unix-listen:/run/virtproxy/vm-1.sock:- -i "ssh:127.0.0.1:$ECHO" &
guest=$!
until_true echoes "$FORWARD"
step "QEMU's socket is there, and the service of the machine connects to it"

before=$(property MainPID virtproxy@vm-1)
while_connecting "$FORWARD" dpkg $quick -i /virtproxy.deb
[ "$(property MainPID virtproxy@vm-1)" != "$before" ]
until_true echoes "$FORWARD"
step "an upgrade refuses no client"

dpkg $quick -r virtproxy
until_true sh -c "! systemctl is-active --quiet virtproxy@vm-1"
[ -e /etc/virtproxy/vm/vm-1.toml ]
[ -e /etc/virtproxy/virtproxy.toml ]
[ ! -e /usr/bin/virtproxy ]
kill $guest
step "dpkg removes: the service is stopped, its settings stay"
