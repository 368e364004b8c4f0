#!/bin/bash
# Checks the models of the credit protocol and of a virtagent port, and that the checks can fail.
#
#   check.sh BUILD_DIR [MODEL | NAME]...
#
# Works in BUILD_DIR, which it creates. Prints one line for each check, or for each that was named by itself
# or by its model (credit, agent), and
# exits with 1 if one of them did not come out as it must. SPIN and CC name other programs than spin
# and cc. For each error that must be found, BUILD_DIR/NAME/counterexample says how it comes about.

set -u -o pipefail

if [ $# -lt 1 ]; then
  echo "usage: $0 BUILD_DIR [NAME...]" >&2
  exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 2
mkdir -p "$1" && build=$(cd "$1" && pwd) || exit 2
shift
wanted=("$@")
spin=${SPIN:-spin}
cc=${CC:-cc}

memory_mib=1600 # for each search
failed=0
ran=0

# What a search that was cut short says. Any of these makes a check fail, whatever it found.
incomplete='max search depth too small|out of memory|memory limit|hash-?compact|[Bb]it ?state'
incomplete+='|truncated|aborted|interrupted|partial order reduction invalid|VECTORSZ|too many'

# search KIND DIR: compiles and runs what spin made in DIR; its report goes to DIR/report.
search() {
  local kind=$1 dir=$2 cflags run
  # (-O1, and -O0 where the search is short: more would cost more than it saves)
  case $kind in
    safety)   cflags='-O1 -DSAFETY -DNOFAIR';    run='-m10000' ;;
    long)     cflags='-O1 -DSAFETY -DNOFAIR';    run='-m3000000' ;; # safety, of runs that go on long
    deadlock) cflags='-O0 -DSAFETY -DNOFAIR';    run='-m10000 -A' ;; # assertions aside
    assert)   cflags='-O0 -DSAFETY -DNOFAIR';    run='-m10000 -E' ;; # deadlocks aside
    rest)     cflags='-O1 -DNP -DNOFAIR';        run='-m10000 -l' ;; # cycles of any kind
    progress) cflags='-O1 -DNFAIR=4';            run='-m200000 -a -f' ;;
    *) return 1 ;;
  esac
  # shellcheck disable=SC2086
  (cd "$dir" && "$cc" -w $cflags -DMEMLIM=$memory_mib -o pan pan.c && ./pan -w22 -b -n $run) \
    > "$dir/report" 2>&1
}

# complete KIND REPORT: the search saw every state and looked for what it is meant to look for.
complete() {
  local kind=$1 report=$2
  ! grep -qE "$incomplete" "$report" &&
    ! grep -q 'Search not completed' "$report" &&
    grep -q '^Full statespace search for:' "$report" &&
    grep -qE '^State-vector .* errors: 0$' "$report" &&
    case $kind in
      safety | long)
        grep -qE 'assertion violations[[:space:]]+\+' "$report" &&
          grep -qE 'invalid end states[[:space:]]+\+' "$report" ;;
      rest) grep -qE 'non-progress cycles[[:space:]]+\+' "$report" ;;
      progress)
        grep -qE 'never claim[[:space:]]+\+ \(progress\)' "$report" &&
          grep -qE 'acceptance[[:space:]]+cycles[[:space:]]+\+ \(fairness enabled\)' "$report" ;;
      *) false ;;
    esac
}

# check NAME KIND EXPECTED FLAGS...: EXPECTED is `holds`, or what the first error must look like.
check() {
  local name=$1 kind=$2 expected=$3
  shift 3
  if [ ${#wanted[@]} -gt 0 ] && [[ " ${wanted[*]} " != *" $name "* ]] &&
    [[ " ${wanted[*]} " != *" $model "* ]]; then return; fi
  local dir=$build/$name begun=$EPOCHREALTIME verdict=FAILED said='' states='' seconds
  local nothing='search incomplete'
  rm -rf "$dir"
  mkdir -p "$dir"
  ran=$((ran + 1))
  if (cd "$dir" && "$spin" -a "$@" "$here/$model.pml") > "$dir/spin" 2>&1; then
    search "$kind" "$dir"
    said=$(grep -m1 '^pan:1: ' "$dir/report" | sed -E 's/^pan:1: //; s/ +\(at depth [0-9]+\)//')
    if [ "$expected" = holds ]; then
      if [ -z "$said" ] && complete "$kind" "$dir/report"; then verdict=ok said=holds; fi
    elif [ -z "$said" ]; then
      nothing='no error found'
    elif [[ "$said" =~ $expected ]] && ! grep -qE "$incomplete" "$dir/report"; then
      verdict=ok
      said="found: $said"
      # (spin's replay ends with the state in which the error shows)
      (cd "$dir" && "$spin" -t -p -g -k "$model.pml.trail" "$@" "$here/$model.pml") \
        > "$dir/counterexample" 2>&1
    fi
    states=$(sed -nE 's/^ *([0-9e.+]+) states, stored.*/\1/p' "$dir/report")
  else
    said='spin refuses the model'
  fi
  seconds=$(awk -v a="$begun" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
  printf '%-6s %-28s %9s states %6s s  %s\n' "$verdict" "$name" "${states:-0}" "$seconds" \
    "${said:-$nothing}"
  if [ $verdict != ok ]; then
    failed=$((failed + 1))
    tail -n 40 "$dir/spin" "$dir/report" 2> /dev/null | sed 's/^/    /'
  fi
  rm -f "$dir"/pan "$dir"/pan.?
}

# units N0 N1 N2 N3: how much goes Alice to Bob, Bob to Alice, Mary to Joe, Joe to Mary.
units() { echo "-DUNITS0=$1 -DUNITS1=$2 -DUNITS2=$3 -DUNITS3=$4"; }

model=credit
# shellcheck disable=SC2046,SC2086
{
  # With credit: no deadlock, nothing lost, memory bounded, and nobody who reads is left waiting.
  check credit.data       safety   holds -DFREE -DOPEN_ENDED $(units 3 1 2 1)
  check credit.narrow     safety   holds -DFREE -DOPEN_ENDED -DWINDOW=1
  check credit.ends       safety   holds -DFREE -DWINDOW=1 $(units 1 1 1 0)
  check credit.ends-wide  safety   holds -DFREE $(units 2 NONE 2 0)
  check credit.flat-out   safety   holds -DFLAT -DOPEN_ENDED -DWINDOW=1
  check credit.four       safety   holds -DFOUR -DWINDOW=1 $(units 3 NONE 3 NONE)
  check credit.acks       safety   holds -DFREE -DACKS -DOPEN_ENDED -DWINDOW=1 $(units 2 2 2 NONE)
  check credit.acks-ends  safety   holds -DFREE -DACKS -DWINDOW=1 $(units 2 NONE NONE 2)
  # ... because every run comes to rest, in a state that the checks above have judged.
  check rest.data         rest     holds -DFREE -DOPEN_ENDED -DWINDOW=1 $(units 2 1 2 1)
  check rest.ends         rest     holds -DFREE -DWINDOW=1 $(units 1 1 1 NONE)
  check rest.acks         rest     holds -DFREE -DACKS -DOPEN_ENDED -DWINDOW=1 $(units 2 1 2 NONE)
  # Without an end, and a writer that takes turns: Bob goes on receiving, whatever Mary and Joe do.
  check progress.two-way  progress holds -DENDLESS -DWINDOW=1 $(units 1 NONE 1 1)
  check progress.answers  progress holds -DENDLESS -DWINDOW=1 $(units 1 1 1 NONE)
  check progress.wide     progress holds -DENDLESS $(units 1 NONE 1 NONE)

  # The daemon of 2010.
  both_write='assertion violated.*writing\[0\]&&writing\[1\]'
  one_places='assertion violated.*placing\[1\]'
  check 2010.flat-out     deadlock '^invalid end state'  -DNO_CREDIT -DFLAT -DOPEN_ENDED
  check 2010.flat-out-why assert   "$both_write"         -DNO_CREDIT -DFLAT -DOPEN_ENDED
  check 2010.four         deadlock '^invalid end state'  -DNO_CREDIT -DFOUR $(units 3 NONE 3 NONE)
  check 2010.four-why     assert   "$one_places"         -DNO_CREDIT -DFOUR $(units 3 NONE 3 NONE)
  check 2010.room-for-all safety   holds                 -DNO_CREDIT -DFLAT -DOPEN_ENDED -DWIRE=4

  # One mistake each.
  data="-DFREE -DOPEN_ENDED $(units 3 1 3 1)"
  check mutant.credit-on-read   assert   'assertion violated.*granted\[me\]' $data -DMUTANT=1
  check mutant.reader-waits     deadlock '^invalid end state'                $data -DMUTANT=2
  check mutant.credit-dropped   deadlock '^invalid end state'                $data -DMUTANT=3
  check mutant.limit-ignored    assert   'assertion violated.*received\[d\]!=granted\[d\]' \
                                                                             $data -DMUTANT=4
  check mutant.waits-for-socket deadlock '^invalid end state'                $data -DMUTANT=5
  check mutant.no-turns         progress '^acceptance cycle' \
                                         -DENDLESS -DWINDOW=1 $(units 1 NONE 1 1) -DMUTANT=6
  check mutant.done-early       assert   'assertion violated end_taken\[d\]' \
                                         -DFREE -DWINDOW=1 $(units 1 1 1 NONE) -DMUTANT=7
  check mutant.sparse-acks      deadlock '^invalid end state' \
                                         -DFREE -DACKS -DOPEN_ENDED -DWINDOW=1 -DMUTANT=8
}

model=agent
{
  # No deadlock, every slot is free when it is needed, and after a sync no answer of before it comes.
  check agent.any           long     holds
  # Every call comes to an end: where nothing more happens, all have; and if nobody gives up, that is soon.
  check agent.ends          long     holds -DFINITE=2
  check agent.patient       safety   holds -DNO_TIMEOUTS
  check agent.patient-ends  safety   holds -DNO_TIMEOUTS -DFINITE=2
  check agent.patient-rests rest     holds -DNO_TIMEOUTS -DFINITE=2
  # One mistake each.
  check agent.waits         deadlock '^invalid end state' -DNO_TIMEOUTS -DMUTANT=1
  check agent.no-sync       long     'assertion violated' -DMUTANT=2
  check agent.no-abandon    long     'assertion violated' -DMUTANT=3 -DFINITE=3
}

if [ $ran -eq 0 ]; then
  echo "no check of that name: ${wanted[*]}" >&2
  exit 2
fi
if [ $failed -gt 0 ]; then
  echo "$failed of $ran checks failed"
  exit 1
fi
echo "$ran checks passed"
