#!/usr/bin/env bash
# Makes sure of what building and testing need on a fresh Debian or Ubuntu with a Rust toolchain:
# a linker, certificates to download crates with, and a Redis or Valkey server. Installs with
# apt-get only what is missing, and says so.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { printf '%s\n' "$*" >&2; }

# Before anything is installed: Debian's own Rust is too old, and its message does not say so.
wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
if ! version=$(cargo --version); then
  say "cargo was not found: install the Rust toolchain from https://rustup.rs and try again."
  exit 1
fi
version=$(cut -d ' ' -f 2 <<<"$version")
if [ "$(printf '%s\n' "$wanted" "$version" | sort -V | sed -n 1p)" != "$wanted" ]; then
  say "cargo is $version, but Tandem needs $wanted or later: rustup update, or https://rustup.rs"
  exit 1
fi

missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
PATH=$PATH:/usr/sbin:/usr/local/sbin
command -v redis-server >/dev/null || command -v valkey-server >/dev/null || missing+=(redis-server)
if command -v apt-get >/dev/null; then
  # Only here is it known where they are and what the package is called.
  [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
fi
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  say "Please install what Debian calls: ${missing[*]}. (valkey-server will do for redis-server.)"
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
