# Sourced by the commands beside it: goes to the top of the tree, installs what is missing, builds.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }

install_packages() {
  local wanted missing=()
  wanted=$(sed 's/#.*//' cmake/packages.txt)
  for package in $wanted; do
    dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
      missing+=("$package")
  done
  if [ ${#missing[@]} -eq 0 ]; then
    say "packages: all of cmake/packages.txt are installed"
    return
  fi
  say "packages: installing ${missing[*]}"
  if [ "$(id -u)" -ne 0 ]; then
    echo "not root: run this once as root, or: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  # Packages that start a daemon when installed must not do so here.
  local policy=/usr/sbin/policy-rc.d made_policy=
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && made_policy=1
  fi
  export DEBIAN_FRONTEND=noninteractive
  local status=0
  { apt-get update -q && apt-get install -q -y --no-install-recommends "${missing[@]}"; } || status=$?
  if [ -n "$made_policy" ]; then rm -f "$policy"; fi
  return $status
}

# build PRESET [TARGET...]
build() {
  local preset=$1
  shift
  say "building: cmake --preset $preset && cmake --build --preset $preset"
  cmake --preset "$preset" --log-level=WARNING
  cmake --build --preset "$preset" ${1:+--target "$@"}
}
