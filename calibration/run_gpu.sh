#!/usr/bin/env bash
# Measures one GPU in at most nine minutes: the verify surface, products, passes, the live engine, sampling.
# Needs python3 with torch, triton, numpy, scipy and pandas; no installation, no network. Writes under $OUT.
#   OUT=results calibration/run_gpu.sh            on a CUDA machine
#   OUT=results calibration/run_gpu.sh --device cpu --tiny   the same parts in seconds, anywhere
set -euo pipefail
cd "$(dirname "$0")/.."
: "${OUT:=gpu-measurements}"
export OUT PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1
status=0
timeout --kill-after=5 530 "${PYTHON:-python3}" -m calibration.gpu --out "$OUT" "$@" || status=$?
if [ "$status" -eq 124 ]; then
  echo "stopped after 530 s; what was saved is in $OUT" >&2
fi
exit "$status"
