# Sourced by the scripts of this folder. Every step that succeeded is a line of /results/steps; at the end
# the machine stops.
set -eux
PS4='+ $SECONDS s: '
exec >/results/output 2>&1
at_end() {
  journalctl --sync
  journalctl -o short-monotonic --no-pager -n 100 >/results/log
  systemctl --no-block --force exit
}
trap at_end EXIT

step() { echo "$*" >>/results/steps; }
# until_true COMMAND...: at most a minute
until_true() {
  local end=$((SECONDS + 60))
  until "$@"; do
    [ $SECONDS -lt $end ] || { echo "never true: $*"; return 1; }
    sleep 0.05
  done
}
property() { systemctl show --value -p "$1" "$2"; }
# echoes PORT: whether a client of 127.0.0.1 gets its bytes back
echoes() {
  [ "$(printf ping | timeout 20 socat -t 20 - "TCP:127.0.0.1:$1")" = ping ]
}
# while_connecting PORT COMMAND...: runs the command while clients connect to the port, one after the other. None of
# them may be refused. One that the process had accepted when it began to stop is reset, like a stream.
while_connecting() {
  local port=$1 clients
  shift
  rm -f /run/stop-connecting
  python3 - "$port" <<'PYTHON' &
import pathlib, socket, sys, time
count = 0
while not pathlib.Path("/run/stop-connecting").exists():
    try:
        socket.create_connection(("127.0.0.1", int(sys.argv[1])), 30).close()
    except ConnectionResetError:
        pass
    count += 1
    pathlib.Path("/run/connections").write_text(str(count))
    time.sleep(0.02)
PYTHON
  clients=$!
  until_true [ -s /run/connections ]
  "$@"
  touch /run/stop-connecting
  wait $clients
}
