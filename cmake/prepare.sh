# Sourced by the commands beside it: goes to the top of the tree, installs what is missing, builds.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }

# missing_of LIST: the packages of the list that are not installed
missing_of() {
  local package
  for package in $(sed 's/#.*//' "$1"); do
    dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
      echo "$package"
  done
}

# apt_install PACKAGE...
apt_install() {
  if [ "$(id -u)" -ne 0 ]; then
    echo "not root: run this once as root, or: apt-get install $*" >&2
    return 1
  fi
  # Packages that start a daemon when installed must not do so here.
  local policy=/usr/sbin/policy-rc.d made_policy=
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && made_policy=1
  fi
  export DEBIAN_FRONTEND=noninteractive
  local status=0
  { apt-get update -q && apt-get install -q -y -o DPkg::Lock::Timeout=300 \
    --no-install-recommends "$@"; } || status=$?
  if [ -n "$made_policy" ]; then rm -f "$policy"; fi
  return $status
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_of cmake/packages.txt)
  if [ ${#missing[@]} -eq 0 ]; then
    say "packages: all of cmake/packages.txt are installed"
    return
  fi
  say "packages: installing ${missing[*]}"
  apt_install "${missing[@]}"
}

# install_wanted LIST: one that cannot be had is named, and done without
install_wanted() {
  local missing package
  mapfile -t missing < <(missing_of "$1")
  if [ ${#missing[@]} -eq 0 ]; then
    say "packages: all of $1 are installed"
    return
  fi
  say "packages: installing ${missing[*]}"
  apt_install "${missing[@]}" && return
  for package in "${missing[@]}"; do
    apt_install "$package" || say "packages: WITHOUT $package, which cannot be installed"
  done
}

# build PRESET [TARGET...]
build() {
  local preset=$1
  shift
  say "building: cmake --preset $preset && cmake --build --preset $preset"
  cmake --preset "$preset" --log-level=WARNING
  cmake --build --preset "$preset" ${1:+--target "$@"}
}
