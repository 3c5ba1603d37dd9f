#!/usr/bin/env bash
# Build the image in which the Docker runtime runs vLLM on CPU, without any registry: a minimal Debian with CPython 3.11.
# The engine itself is not in it; the agent mounts its engine environment where the label says. Needs root, docker, debootstrap.
# Usage: deploy/engine-image/build.sh [IMAGE]. Idempotent: an image of that name is left alone unless FORCE=1.
set -euo pipefail
readonly IMAGE=${1:-hearth/vllm-cpu:0.32.0} VERSION=0.32.0 SUITE=bookworm MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
# Where the engine environment is mounted; agents/runtimes/docker.py reads the label.
readonly ENGINE=/opt/hearth/engine
# What the CPU wheels of vLLM need beside glibc; g++ and Python's headers for the kernels that it compiles (log-probabilities
# need one even when it runs eagerly).
readonly PACKAGES=ca-certificates,g++,libpython3.11-dev,python3.11,libgomp1,libnuma1,libstdc++6
say() { printf 'hearth: %s\n' "$*" >&2; }

if [ "${FORCE:-}" != 1 ] && docker image inspect "$IMAGE" >/dev/null 2>&1; then exit 0; fi
for tool in docker debootstrap tar; do
  command -v "$tool" >/dev/null || { say "$tool is missing: apt-get install docker.io debootstrap"; exit 2; }
done
[ "$(id -u)" = 0 ] || { say "debootstrap needs root: run this with sudo"; exit 2; }

work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
say "building $IMAGE from Debian $SUITE (about 35 s)"
debootstrap --variant=minbase --include="$PACKAGES" "$SUITE" "$work/root" "$MIRROR" >"$work/log" 2>&1 ||
  { tail -5 "$work/log" >&2; say "debootstrap failed: see the lines above"; exit 1; }
rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/* "$work"/root/usr/share/{doc,man,locale}
mkdir -p "$work/root$ENGINE" "$work/root/run/hearth" "$work/root/weights"

# The environment's own `python` is a link into the host; its packages run on this image's CPython 3.11 just as well.
tar -C "$work/root" -c . | docker import \
  --change 'ENTRYPOINT ["/usr/bin/python3.11", "-m", "vllm.entrypoints.cli.main", "serve"]' \
  --change "ENV PYTHONPATH=$ENGINE/lib/python3.11/site-packages PYTHONDONTWRITEBYTECODE=1" \
  --change "LABEL ai.hearth.engine-env=$ENGINE" \
  --change "LABEL org.opencontainers.image.title=hearth-vllm-cpu org.opencontainers.image.version=$VERSION" \
  - "$IMAGE" >/dev/null
say "built $IMAGE"
