#!/usr/bin/env bash
# Several processes on one or more machines: tools/dist_train.sh CONFIG PROCESSES [flags of tools/train.py]
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 CONFIG PROCESSES [flags of tools/train.py]" >&2; exit 2; }
config=$1 processes=$2
shift 2
python -m torch.distributed.run \
  --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
  --nproc_per_node="$processes" \
  "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"
