#!/usr/bin/env bash
# Long fuzzing: each target for SECONDS_EACH seconds (600), one after another; ends at the first crash or hang.
# Prints the executions of each and their sum. Needs atheris; clang for the kernel and the Triton backend. A hang is a minute: libFuzzer counts
# wall-clock time, and a machine that does other things stalls a run of six milliseconds for twenty seconds.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${SECONDS_EACH:-600} python=${PYTHON:-.venv/bin/python} out=${OUT:-out/fuzz} total=0
mkdir -p "$out"
run() { # name, command...
  local name=$1 log=$out/$1.log
  shift
  "$@" -max_total_time="$seconds" -timeout=60 -report_slow_units=30 -rss_limit_mb=3000 -artifact_prefix="$out/$name-" >"$log" 2>&1 \
    || { tail -20 "$log"; echo "$name: crashed or hung, see $log"; exit 1; }
  local runs
  runs=$(sed -n 's/^Done \([0-9]*\) runs.*/\1/p' "$log" | tail -1)
  echo "$name: $runs executions"
  total=$((total + runs))
}
for target in ${TARGETS:-wire journal tokens signed pages looks prompts}; do
  run "$target" "$python" tests/fuzz/parsers.py "$target"
done
run pictures "$python" tests/fuzz/pictures.py
if command -v clang++ >/dev/null && command -v cmake >/dev/null; then
  cmake -S . -B "$out/build" -DATTRIBUTARY_TESTS=ON -DATTRIBUTARY_LIBFUZZER=ON -DATTRIBUTARY_PYTHON=OFF \
    -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_C_COMPILER=clang -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" >"$out/build.log"
  cmake --build "$out/build" --target preprocess_fuzz >>"$out/build.log"
  run preprocess "$out/build/kernels/preprocess_fuzz"
  if cmake --build "$out/build" --target triton_request_fuzz >>"$out/build.log" 2>&1; then
    run triton_request "$out/build/kernels/triton_request_fuzz"
  else
    echo "triton_request: not built, see $out/build.log (Debian: nlohmann-json3-dev); left out"
  fi
else
  echo "preprocess, triton_request: no clang++ or cmake here, left out"
fi
echo "sum: $total executions, 0 crashes, 0 hangs"
