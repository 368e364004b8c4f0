#!/bin/sh
# control-job ID: runs one request in a session of its own and reports its start and its end.
file=$CONTROL/$1
setsid sh -c 'echo "$0 started $$" >&4; exec 3<&- 4<&-; unset CONTROL; exec sh "$1"' \
    "$1" "$file.command" < "$file.in" > "$file.out" 2>&1
echo "$1 ended $?" >&4
