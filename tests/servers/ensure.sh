#!/usr/bin/env bash
# Makes sure of what building and testing need on a fresh Debian or Ubuntu with a Rust toolchain:
# a C linker, and a Redis or Valkey server. Installs with apt-get only what is missing, and says so.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }

missing=()
command -v cc >/dev/null || missing+=(build-essential)
PATH=$PATH:/usr/sbin:/usr/local/sbin
command -v redis-server >/dev/null || command -v valkey-server >/dev/null || missing+=(redis-server)
if ! command -v cargo >/dev/null; then
  say "cargo was not found: install the Rust toolchain from https://rustup.rs and try again."
  exit 1
fi
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  say "Please install: ${missing[*]} (or valkey-server). This script only knows apt-get."
  exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { say "Please install as root: ${missing[*]}"; exit 1; }
  as_root=(sudo)
fi
say "Installing with apt-get${as_root[*]:+ (as root, through sudo)}: ${missing[*]}"
"${as_root[@]}" apt-get update
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y --no-install-recommends "${missing[@]}"
