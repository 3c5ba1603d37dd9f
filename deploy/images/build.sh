#!/usr/bin/env bash
# Build a slim engine image. Usage: deploy/images/build.sh cpu|cuda [IMAGE]; BASE=<image> chooses another base.
set -euo pipefail
kind=${1:-}; case $kind in cpu|cuda) ;; *) echo "usage: build.sh cpu|cuda [IMAGE]" >&2; exit 2;; esac
image=${2:-hearth/vllm-$kind-slim:0.32.0}
here=$(cd "$(dirname "$0")" && pwd)
docker build ${BASE:+--build-arg "BASE=$BASE"} -f "$here/Dockerfile.$kind" -t "$image" "$here"
docker image inspect --format "hearth: built $image, {{.Size}} bytes" "$image" >&2
