#!/bin/bash
# What an administrator does with the units, in a machine whose systemd is the real one. FORWARD and ECHO are
# free TCP ports.
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
# One end is the service of the host, the other stands for a guest behind QEMU's socket.
echo "ARGS=-c unix-listen:/run/virtproxy/main/vm1.sock:- -o echo:127.0.0.1:$FORWARD" >/etc/virtproxy/virtproxy.env
ln -s main/vm1.sock /run/virtproxy/vm1.sock
echo "ARGS=-i echo:127.0.0.1:$ECHO" >/etc/virtproxy/vm/vm1.env
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
