#!/bin/sh
# Take out of a site-packages folder what an engine never opens while it serves: headers, static libraries, tests,
# type stubs, symbol tables. What is left answers the same. Usage: slim.sh SITE_PACKAGES
set -eu
site=$1
[ -d "$site/vllm" ] || { echo "slim: $site holds no vllm" >&2; exit 2; }
# Parts of torch that build extensions. Inductor compiles C++ against torch/include on CPU, so that stays.
rm -rf "$site"/torch/bin/*test* "$site"/torch/test "$site"/torch/testing/_internal/generated "$site"/torch/share/cmake
find "$site" -type d \( -name tests -o -name test \) \
  -not -path '*/torch/*' -not -path '*/numpy/*' -not -path '*/vllm/*' -prune -exec rm -rf {} +
find "$site" -type d -name __pycache__ -prune -exec rm -rf {} +
find "$site" -type f \( -name '*.a' -o -name '*.pyi' -o -name '*.pxd' -o -name '*.whl' -o -name '*.md' \) -delete
# Test runners and wheels' own tools are no part of serving.
rm -rf "$site"/pip "$site"/pip-* "$site"/torchvision* "$site"/torchaudio* "$site"/torchcodec* "$site"/triton*
# Libraries below *.libs were moved by auditwheel: strip breaks their alignment.
find "$site" -type f -name '*.so*' -size +256k -not -path '*.libs/*' -exec sh -c 'strip --strip-unneeded "$1" 2>/dev/null || true' _ {} \;
