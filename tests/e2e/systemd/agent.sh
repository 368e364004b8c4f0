#!/bin/bash
# virtagent's unit as it is installed, and with a drop-in for what an operator allows. It listens on a socket in
# place of a guest's port.
. /steps.sh

systemd-sysusers
getent group virtagent-port
mkdir -p /etc/systemd/system/virtagent.service.d
cat >/etc/systemd/system/virtagent.service.d/socket.conf <<'UNIT'
[Unit]
ConditionPathExists=
[Service]
RuntimeDirectory=virtagent
ExecStart=
ExecStart=/usr/bin/virtagent guest --listen /run/virtagent/calls
UNIT
call() { virtagent call /run/virtagent/calls "$@"; }
capabilities() { grep '^CapEff:' "/proc/$(property MainPID virtagent)/status" | cut -f 2; }

systemctl daemon-reload
systemctl start virtagent
until_true call guest-ping
[ "$(call guest-ping)" = '{}' ]
call guest-network-get-interfaces | grep -q '"lo"'
! call va-dmesg
[ "$(capabilities)" = 0000000000000000 ]
grep -q '^Uid:[[:space:]]*[1-9]' "/proc/$(property MainPID virtagent)/status"
step "the default set runs without privileges"

echo 'allow = ["dmesg"]' >/etc/virtagent.toml
virtagent drop-in >/etc/systemd/system/virtagent.service.d/allow.conf
systemctl daemon-reload
systemctl restart virtagent
until_true call guest-ping
call va-dmesg bytes=1000 >/dev/null
[ "$(capabilities)" = 0000000400000000 ] # CAP_SYSLOG
step "the drop-in gives what is allowed needs, and nothing else"
