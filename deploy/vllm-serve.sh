#!/usr/bin/env bash
# One vLLM server a GPU for `annotation.endpoints`, without a reasoning parser: the tags must reach the parser as text.
#   MODEL=zai-org/GLM-4.1V-9B-Thinking PORT=8000 CUDA_VISIBLE_DEVICES=0 deploy/vllm-serve.sh [further vLLM arguments]
set -euo pipefail
exec umer1-vllm serve "${MODEL:?set MODEL to a hub name or folder}" \
  --host "${HOST:-0.0.0.0}" --port "${PORT:-8000}" \
  --max-model-len "${MAX_MODEL_LEN:-24576}" --max-num-seqs "${MAX_NUM_SEQS:-256}" \
  --limit-mm-per-prompt '{"image": 4, "video": 1}' --generation-config vllm "$@"
