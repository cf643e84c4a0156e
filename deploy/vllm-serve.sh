#!/usr/bin/env bash
# One vLLM server a GPU for `annotation.endpoints`, without a reasoning parser: the tags must reach the parser as text.
#   MODEL=zai-org/GLM-4.1V-9B-Thinking PORT=8000 CUDA_VISIBLE_DEVICES=0 deploy/vllm-serve.sh [further vLLM arguments]
#
# MEDIA_ROOT   a folder above all sources, at the same path as where the run is: image files then go by reference
# MAX_PIXELS   larger images are scaled down; unset: the model's own limit (GLM-4.1V: 4.8 million). One API server prepares
#              about 58, 17 and 3.6 images a second of 512, 1,024 and 2,048 pixels a side: with document pages left whole
#              it, not the GPU, is the limit. 1500000 is a good compromise; all servers of a data set need the same
# API_SERVERS  processes that prepare images. One has the whole cache of equal images; two to four where pages stay large
#              and cores are idle (plan four cores a GPU)
# MAX_QUEUED   503 beyond so many requests, where others use the server too; a run alone steers by /metrics
#
# --reasoning-config is what `thinking_budget` needs; unlike a reasoning parser it leaves the tags in the text.
# `stop_loops` needs nothing. Prefix caching, the cache of prepared images (4 GiB a process) and /metrics are on.
set -euo pipefail
arguments=(
  --host "${HOST:-0.0.0.0}" --port "${PORT:-8000}"
  --max-model-len "${MAX_MODEL_LEN:-24576}" --max-num-seqs "${MAX_NUM_SEQS:-256}"
  --api-server-count "${API_SERVERS:-1}"
  --limit-mm-per-prompt '{"image": 4, "video": 1}'
  --reasoning-config '{"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}'
  --generation-config vllm
)
if [[ -n "${MEDIA_ROOT:-}" ]]; then
  arguments+=(--allowed-local-media-path "$MEDIA_ROOT")
fi
if [[ -n "${MAX_PIXELS:-}" ]]; then
  # GLM counts an image as two equal frames; the frames of a clip share one limit.
  size="{\"shortest_edge\": ${MIN_PIXELS:-12544}, \"longest_edge\": $((2 * MAX_PIXELS))}"
  arguments+=(--mm-processor-kwargs "{\"size\": $size}")
fi
if [[ -n "${MAX_QUEUED:-}" ]]; then
  arguments+=(--max-num-queued-reqs "$MAX_QUEUED")
fi
exec umer1-vllm serve "${MODEL:?set MODEL to a hub name or folder}" "${arguments[@]}" "$@"
