#!/usr/bin/env bash
# Build an engine image. Usage: deploy/images/build.sh cpu|cuda [IMAGE [TARGET]]
# BASE=<image> chooses another base, WHEELS=<folder> packages that lie here (then the build needs no network).
set -euo pipefail
kind=${1:-}; case $kind in cpu|cuda) ;; *) echo "usage: build.sh cpu|cuda [IMAGE [TARGET]]" >&2; exit 2;; esac
image=${2:-hearth/vllm-$kind-slim:0.32.0} target=${3:-}
here=$(cd "$(dirname "$0")" && pwd) context=$(mktemp -d); trap 'rm -rf "$context"' EXIT
cp "$here"/*.sh "$context"
[ -z "${WHEELS:-}" ] || cp -rl "$WHEELS" "$context/wheels" 2>/dev/null || cp -r "$WHEELS" "$context/wheels"
docker build ${BASE:+--build-arg "BASE=$BASE"} ${WHEELS:+--network none} ${target:+--target "$target"} \
  -f "$here/Dockerfile.$kind" -t "$image" "$context"
docker image inspect --format "hearth: built $image, {{.Size}} bytes" "$image" >&2
