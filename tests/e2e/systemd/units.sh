#!/bin/bash
# What an administrator does with the units, in a machine whose systemd is the real one. FORWARD and ECHO are
# free TCP ports, and so is OTHER.
. /steps.sh

systemd-sysusers
systemd-tmpfiles --create
[ "$(stat -c '%U %a' /run/virtproxy)" = "root 755" ]
id virtproxy
step "sysusers and tmpfiles"

systemctl start virtproxy
[ "$(property ActiveState virtproxy)" = inactive ]
step "a service without its file does not start"

mkdir -p /etc/virtproxy/vm
cp /virtproxy.toml /etc/virtproxy
! systemctl start virtproxy
[ "$(property ExecMainStatus virtproxy)" = 78 ]
[ "$(property NRestarts virtproxy)" = 0 ]
systemctl reset-failed virtproxy
step "a file without a channel is an error that is not tried again"

# One end is the service of the host, the other stands for a guest behind QEMU's socket.
cat >>/etc/virtproxy/virtproxy.toml <<TOML
[channel.vm1]
transport = "unix-listen:/run/virtproxy/main/vm1.sock"
[channel.vm1.listen.echo]
at = "127.0.0.1:$FORWARD"
TOML
ln -s main/vm1.sock /run/virtproxy/vm1.sock
cat >/etc/virtproxy/vm/vm1.toml <<TOML
[channel.vm1]
transport = "unix-connect:/run/virtproxy/vm1.sock"
TOML
# Options beside the file.
echo "ARGS=-i echo:127.0.0.1:$ECHO:vm1" >/etc/virtproxy/vm/vm1.env
socat "TCP-LISTEN:$ECHO,bind=127.0.0.1,fork,reuseaddr" EXEC:/bin/cat &
systemctl start virtproxy
[ "$(property ActiveState virtproxy)" = active ]
property StatusText virtproxy | grep -q '^ready: channels 1'
[ "$(property NFileDescriptorStore virtproxy)" = 2 ]
grep -q '^CapEff:[[:space:]]*0*$' "/proc/$(property MainPID virtproxy)/status"
grep -q '^Uid:[[:space:]]*[1-9]' "/proc/$(property MainPID virtproxy)/status"
step "the service is ready, unprivileged, and its listeners are stored"

/hook vm1 started begin - </dev/null
/hook vm9 started begin - </dev/null
until_true systemctl is-active --quiet virtproxy@vm1
! systemctl is-active --quiet virtproxy@vm9
until_true echoes "$FORWARD"
step "the hook starts the process of a virtual machine, and bytes pass"

virtproxyctl status | grep -q "^pid *$(property MainPID virtproxy)$"
virtproxyctl status --control /run/virtproxy/vm/vm1/control.sock | grep -q "^channels_up *1$"
exec 5<>"/dev/tcp/127.0.0.1/$FORWARD"
cp /etc/virtproxy/virtproxy.toml /before.toml
printf '[channel.vm1.listen.other]\nat = "127.0.0.1:%s"\n' "$OTHER" >>/etc/virtproxy/virtproxy.toml
before=$(property MainPID virtproxy)
systemctl reload virtproxy
until_true [ "$(property ActiveState virtproxy)" = active ]
property StatusText virtproxy | grep -q 'listening for 2 services'
[ "$(property NFileDescriptorStore virtproxy)" = 3 ]
[ "$(property MainPID virtproxy)" = "$before" ]
cp /before.toml /etc/virtproxy/virtproxy.toml
kill -HUP "$before"
until_true sh -c "systemctl show --value -p StatusText virtproxy | grep -q 'listening for 1 services'"
until_true systemctl is-active --quiet virtproxy
echo over >&5
read -r -t 60 line <&5
[ "$line" = over ]
exec 5>&-
step "a reload changes a forward and keeps a connection"

printf '[process]\nthreads = 7\n[channel.vm1.listen.low]\nat = "127.0.0.1:80"\nwidnow = 1\n' >>/etc/virtproxy/virtproxy.toml
! systemctl reload virtproxy
systemctl is-active --quiet virtproxy
journalctl --sync
journalctl -u virtproxy | grep -q "unknown key 'widnow'"
sed -i '/widnow/d' /etc/virtproxy/virtproxy.toml
virtproxyctl reload 2>/reload-errors && false
grep -q 'threads cannot change while it runs: it is 1 and would be 7; restart for that' /reload-errors
property StatusText virtproxy | grep -q 'listening for 1 services'
cp /before.toml /etc/virtproxy/virtproxy.toml
until_true echoes "$FORWARD"
step "a reload with errors fails, names them and changes nothing"

before=$(property MainPID virtproxy)
while_connecting "$FORWARD" systemctl restart virtproxy
[ "$(property MainPID virtproxy)" != "$before" ]
[ "$(property NFileDescriptorStore virtproxy)" = 2 ]
until_true echoes "$FORWARD"
step "a restart refuses no client"

before=$(property MainPID virtproxy)
kill -KILL "$before"
until_true sh -c "[ \"\$(systemctl show --value -p NRestarts virtproxy)\" = 1 ]"
until_true echoes "$FORWARD"
step "a process that is killed comes back"

mkdir -p /run/systemd/system/virtproxy.service.d
printf '[Service]\nWatchdogSec=1\n' >/run/systemd/system/virtproxy.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart virtproxy
until_true echoes "$FORWARD"
main=$(property MainPID virtproxy)
# One thread of the process hangs; the others go on.
python3 - "$main" <<'PYTHON' &
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
main = int(sys.argv[1])
worker = min(int(t) for t in os.listdir(f"/proc/{main}/task") if int(t) != main)
assert libc.ptrace(0x4206, worker, None, None) == 0 and libc.ptrace(0x4207, worker, None, None) == 0
while os.path.exists(f"/proc/{main}/stat"):
    try:
        os.waitpid(worker, 0x40000000)
    except ChildProcessError:
        break
PYTHON
until_true sh -c "[ \"\$(systemctl show --value -p MainPID virtproxy)\" != $main ] && systemctl is-active --quiet virtproxy"
until_true echoes "$FORWARD"
step "a thread that hangs makes the manager restart the process"

systemctl stop virtproxy
[ "$(property Result virtproxy)" = success ]
printf '[Socket]\nListenStream=127.0.0.1:%s\nFileDescriptorName=echo\nService=virtproxy.service\n' "$FORWARD" \
  >/etc/systemd/system/forward.socket
systemctl daemon-reload
systemctl start forward.socket
! systemctl is-active --quiet virtproxy
until_true echoes "$FORWARD"
systemctl is-active --quiet virtproxy
[ "$(property NFileDescriptorStore virtproxy)" = 1 ] # the channel's own; the other is the manager's
step "a socket unit starts the service with the first client"

systemctl stop forward.socket virtproxy
/hook vm1 release end - </dev/null
until_true sh -c "! systemctl is-active --quiet virtproxy@vm1"
[ "$(property Result virtproxy@vm1)" = success ]
step "the hook stops the process of a virtual machine"
