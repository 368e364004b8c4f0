#!/bin/sh
# The guest end of the control channel (see control.py for the other one).
# Request, host to guest:  "ID COMMAND_BYTES STDIN_BYTES\n" COMMAND STDIN
# Answer, guest to host:   "VP ID started PID\n", later "VP ID ended STATUS BYTES\n" OUTPUT
# Requests run at the same time as each other; only deliver() writes to the port.
export CONTROL=/run/control
mkdir -p "$CONTROL"
mkfifo "$CONTROL/events"
exec 3<> "$1" 4<> "$CONTROL/events" || exit 1

deliver() {
    while read -r id event value <&4; do
        out=$CONTROL/$id.out
        case $event in
        started) echo "VP $id started $value" >&3 ;;
        ended)
            size=$(stat -c %s "$out")
            echo "VP $id ended $value $size" >&3
            [ "$size" -gt 0 ] && head -c "$size" "$out" >&3
            rm -f "$CONTROL/$id".*
            ;;
        esac
    done
}

take() { # take BYTES FILE: exactly that many bytes of the port, never one more
    if [ "$1" -gt 0 ]; then
        dd bs="$1" count=1 iflag=fullblock of="$2" <&3 2> /dev/null
    else
        : > "$2"
    fi
}

deliver &
echo "VP 0 ready $(uname -r)" >&3
while read -r id command_bytes stdin_bytes <&3; do
    take "$command_bytes" "$CONTROL/$id.command"
    take "$stdin_bytes" "$CONTROL/$id.in"
    # The outer setsid makes a group leader, for which the inner one has to fork: the job is
    # detached without "&", which would leave SIGINT and SIGQUIT ignored in it.
    setsid setsid control-job "$id"
done
