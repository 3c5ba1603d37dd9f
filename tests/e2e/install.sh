#!/usr/bin/env bash
# Install what the end-to-end tests need from Debian: a Docker Engine, the tool that makes its base image without a registry, a browser, a PostgreSQL.
# Called by `make test`. Idempotent; does nothing in a few milliseconds when all is there.
set -euo pipefail
readonly PACKAGES=(docker.io debootstrap chromium postgresql)
say() { printf 'hearth: %s\n' "$*" >&2; }

missing=()
for package in "${PACKAGES[@]}"; do
  dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
# A Docker Engine or a compiler from elsewhere does as well.
if command -v dockerd >/dev/null && command -v docker >/dev/null; then missing=("${missing[@]/docker.io/}"); fi
if command -v cc >/dev/null; then missing=("${missing[@]/gcc/}"); fi
read -ra missing <<<"${missing[*]-}"
[ ${#missing[@]} -gt 0 ] || exit 0

command -v apt-get >/dev/null || { say "install these by hand, there is no apt-get here: ${missing[*]}"; exit 2; }
[ "$(id -u)" = 0 ] || { say "run once as root: apt-get install ${missing[*]}"; exit 2; }
say "installing ${missing[*]} for the end-to-end tests (about 30 s)"
log=$(mktemp); trap 'rm -f "$log"' EXIT
# The tests start a private Docker Engine; the package must not start one of its own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod +x "$policy"; trap 'rm -f "$log" "$policy"' EXIT; fi
{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 ||
  { tail -5 "$log" >&2; say "could not install ${missing[*]}: see the lines above"; exit 1; }
