#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one call on a bare machine: builds the library and the plug-in for its card,
# runs the CUDA tests plain and under compute-sanitizer, the Python tests that want a GPU, and the benchmarks.
#
#   benchmarks/gpu.sh --out DIR [--parts "build tests sanitizers pytest bench"] [--budget 570] [--find-links WHEELS]
#                     [--architectures "90"] [-- options of gpu_bench.py]
#
# Needs nvcc, CMake, a C++ compiler and Python 3.10; PyTorch for the comparison with it, compute-sanitizer for its part,
# and pip's way to scikit-build-core, pybind11, av, pillow, tqdm and pytest (or their wheels in WHEELS). What is missing
# leaves its part out with a sentence; a part never runs longer than is left of the budget. DIR gets a log for each part,
# gpu_bench.json and gpu_bench.md; the exit code is 1 when a part failed.
set -uo pipefail
cd "$(dirname "$0")/.."

out="" parts="build tests sanitizers pytest bench" budget=570 links="" architectures="" bench_options=()
while (($#)); do
  case $1 in
    --out) out=$2 && shift 2 ;;
    --parts) parts=$2 && shift 2 ;;
    --budget) budget=$2 && shift 2 ;;
    --find-links) links=$(cd "$2" && pwd) && shift 2 ;;
    --architectures) architectures=$2 && shift 2 ;;
    --) shift && bench_options=("$@") && break ;;
    *) sed -n '2,13s/^# \{0,1\}//p' "$0" && exit 2 ;;
  esac
done
[[ $out ]] || { echo "say where the results go: --out DIR" >&2; exit 2; }
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
work=${UNILS_GPU_WORK:-$PWD/build/gpu}  # kept, so that a second call builds what changed
mkdir -p "$work"
summary=()

left() { echo $((budget - SECONDS)); }
leave_out() { summary+=("$1: left out: $2") && echo "=== $1: left out: $2"; }

part() {  # name, most seconds, command...: runs it within what is left, with a log
  local name=$1 limit=$2 start=$SECONDS status
  shift 2
  ((limit > $(left))) && limit=$(left)
  ((limit > 5)) || { leave_out "$name" "no time left of $budget s"; return 1; }
  echo "=== $name (at most $limit s)"
  timeout --kill-after=10 "$limit" "$@" >"$out/$name.log" 2>&1 </dev/null
  status=$?
  tail -n "$((status ? 25 : 5))" "$out/$name.log"
  if ((status)); then
    summary+=("$name: FAILED with $status, $((SECONDS - start)) s: $name.log") && failed=1
  else
    summary+=("$name: ok, $((SECONDS - start)) s")
  fi
  return $status
}

wants() { [[ " $parts " == *" $1 "* ]]; }

card() {  # compute capability of the first card, "90" say
  nvidia-smi --query-gpu=compute_cap --format=csv,noheader --id=0 2>/dev/null | tr -d '.\n '
}

native_build() {
  cmake -S . -B "$work/native" -DCMAKE_BUILD_TYPE=Release -DUNILS_BUILD_TESTS=ON -DUNILS_CUDA=ON \
    "-DUNILS_CUDA_ARCHITECTURES=$architectures" &&
    cmake --build "$work/native" --parallel "$(nproc)" --target unils_cuda unils_cuda_tests test_plugin
}

python_build() {
  # What this machine's python3 has (PyTorch above all) is seen from the environment, wherever that lies.
  local pip=(pip install --quiet) site
  [[ $links ]] && pip+=(--find-links "$links" --no-index)
  site=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))') || return 1
  python3 -m venv "$work/venv" && . "$work/venv/bin/activate" || return 1
  echo "import site; site.addsitedir('$site')" >"$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/machine.pth"
  python -c 'import scikit_build_core, pybind11' 2>/dev/null && pip+=(--no-build-isolation)
  python -c 'import av, PIL, tqdm, numpy' 2>/dev/null && pip+=(--no-deps)
  UNILS_CUDA=OFF "${pip[@]}" . || return 1  # the plug-in is the native build's: nvcc runs once
  python -c 'import pytest' 2>/dev/null || pip install --quiet ${links:+--find-links "$links" --no-index} pytest pytest-timeout
  unils doctor
}

cuda_tests() {  # runs each of them, behind a command if one is given; one that found no GPU to test has failed
  local name status=0
  for name in kernels_on_gpu backend_on_gpu sessions; do
    echo "--- test_cuda_$name"
    "$@" "$work/native/tests/cpp/test_cuda_$name" "$UNILS_CUDA_PLUGIN" 2>&1 | tee "$work/test.log"
    ((PIPESTATUS[0] == 0)) || status=1
    if grep -q '^skipped' "$work/test.log"; then status=1; fi
  done
  return $status
}

sanitizer() {  # tool
  UNILS_TEST_SMALL=1 cuda_tests compute-sanitizer --tool "$1" --error-exitcode 86
}

python_tests() {  # which are skipped where there is no GPU, and may not be here
  python -m pytest -m gpu tests/test_gpu.py --junitxml="$out/pytest.xml" && python .ci/totals.py "$out/pytest.xml"
}

export -f native_build python_build cuda_tests sanitizer python_tests
export out work links architectures UNILS_CUDA_PLUGIN=$work/native/csrc/libunils_cuda.so
failed=0
if ! command -v nvidia-smi >/dev/null || [[ -z $(card) ]]; then
  echo "there is no NVIDIA GPU here (nvidia-smi names none): this script needs one; gpu_bench.py --backend cpu does not" >&2
  exit 1
fi
[[ $architectures ]] || architectures=$(card)
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/card.txt"

built=0 python_built=0
if wants build; then
  part build 300 bash -c native_build && built=1
  part build_python 300 bash -c python_build && python_built=1
else
  [[ -x $work/native/tests/cpp/test_cuda_backend_on_gpu ]] && built=1
  [[ -x $work/venv/bin/unils ]] && python_built=1
fi
if ((!built)); then
  for name in tests sanitizers; do wants $name && leave_out $name "the native build is missing: --parts build"; done
else
  if wants tests; then part tests 200 bash -c cuda_tests; fi
  if wants sanitizers; then
    if command -v compute-sanitizer >/dev/null; then
      for tool in memcheck racecheck initcheck synccheck; do part "$tool" 120 bash -c "sanitizer $tool"; done
    else
      leave_out sanitizers "compute-sanitizer is not installed; it comes with the CUDA toolkit"
    fi
  fi
fi
if ((!python_built || !built)); then
  for name in pytest bench; do wants $name && leave_out $name "a build is missing: --parts build"; done
else
  # shellcheck disable=SC1091
  . "$work/venv/bin/activate"
  if wants pytest; then part pytest 150 bash -c python_tests; fi
  if wants bench; then
    export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD/training${PYTHONPATH:+:$PYTHONPATH}"
    part bench 570 python benchmarks/gpu_bench.py --out "$out" "${bench_options[@]}"
  fi
fi

echo
[[ -s $out/gpu_bench.md ]] && cat "$out/gpu_bench.md"
printf '%s\n' "${summary[@]}" | tee "$out/summary.txt"
echo "$SECONDS s of $budget"
exit $failed
