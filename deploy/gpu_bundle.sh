#!/usr/bin/env bash
# Packs the reprise binary with the shared libraries it needs into one archive that runs on a machine
# with a card and no Debian: everything but the C library, CUDA's driver and NCCL comes along. With it
# come gpu_e2e.sh and determinism-device (docs/gpu.md).
#
#   deploy/gpu_bundle.sh [--emulated] ARCHIVE.tar.xz       there: tar xf ARCHIVE.tar.xz; reprise/reprise ...
#
#   --emulated   without CUDA: the CPU does what a card would
set -euo pipefail
cd "$(dirname "$0")/.."

config=(--config=cuda)
[ "${1:-}" != --emulated ] || { config=(); shift; }
case "${1:-}" in
  ''|-h|--help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
archive=$(realpath "$1")
[ ${#config[@]} = 0 ] || [ -x "${NVCC:-/usr/local/cuda/bin/nvcc}" ] || {
  echo "gpu_bundle: no nvcc (set NVCC), needed unless --emulated" >&2; exit 2; }

deploy/install.sh
bazel build "${config[@]}" //cli:reprise //bench:determinism_device_bench
bin=$(bazel info "${config[@]}" bazel-bin 2>/dev/null)

work=$(mktemp -d "${TMPDIR:-/tmp}/reprise-bundle.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/reprise
mkdir -p "$root/lib/ucx" "$root/models"
strip -o "$root/lib/reprise-binary" "$bin/cli/reprise"
strip -o "$root/lib/determinism-binary" "$bin/bench/determinism_device_bench"
# UCX looks for its transports beside its own library.
cp -L /usr/lib/x86_64-linux-gnu/ucx/libuct_cma.so.0 "$root/lib/ucx/"
for file in "$root"/lib/*-binary "$root"/lib/ucx/*; do ldd "$file"; done \
  | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u \
  | grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv|ld-linux[^/]*)\.so' \
  | while read -r library; do cp -L "$library" "$root/lib/"; done
cp -r models/demo "$root/models/"
cp bench/gpu_e2e.sh "$root/"
cp bench/determinism_device.jsonl "$root/"
cat > "$root/reprise" <<'EOF'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$here/lib/reprise-binary" "$@"
EOF
device=gpu
[ ${#config[@]} != 0 ] || device=emulated
sed "s/DEVICE/$device/" > "$root/determinism-device" <<'EOF'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$here/lib/determinism-binary" \
  --reprise="$here/reprise" --golden="$here/determinism_device.jsonl" --device=DEVICE "$@"
EOF
chmod +x "$root/reprise" "$root/determinism-device"
tar -C "$work" -cJf "$archive" reprise
echo "$archive: $(du -h --apparent-size "$archive" | cut -f1)"
