#!/usr/bin/env bash
# One vLLM server for GRPO's rollouts, on a GPU that the trainer does not use. The trainer writes its weights to FOLDER at
# every step, and the server reads them again in place.
#   CHECKPOINT=runs/my-data/sft/model CUDA_VISIBLE_DEVICES=7 deploy/rollouts.sh /dev/shm/policy [further vLLM arguments]
# and in the recipe:  grpo: {rollouts: server, server: http://localhost:8000, server_weights: /dev/shm/policy}
#
# FOLDER      at the same path on the trainer's side; best in memory: a 2B model is 9 GB in fp32, written at every step.
#             Its files are replaced: never the checkpoint that is to be kept
# CHECKPOINT  what FOLDER starts from, copied where it has no checkpoint yet
# HOST        127.0.0.1: dev mode lets anybody who reaches the server call its workers. Another only in a closed network
#
# Several GPUs: --data-parallel-size 4. Requests come with their media, and a group of rollouts shares one prompt's cache.
set -euo pipefail
folder="$(realpath -m "${1:?give the folder that the trainer writes its weights to}")"
shift
if [[ ! -e "$folder/config.json" ]]; then
  mkdir -p "$folder"
  cp "${CHECKPOINT:?set CHECKPOINT to the checkpoint that GRPO starts from}"/*.* "$folder/"
fi
export VLLM_SERVER_DEV_MODE=1 VLLM_NO_USAGE_STATS=1
exec umer1-vllm serve "$folder" \
  --host "${HOST:-127.0.0.1}" --port "${PORT:-8000}" \
  --max-model-len "${MAX_MODEL_LEN:-16384}" --max-num-seqs "${MAX_NUM_SEQS:-256}" \
  --dtype "${DTYPE:-bfloat16}" \
  --generation-config vllm --logprobs-mode processed_logprobs \
  --worker-extension-cls umer1_core.grpo.rollouts.vllm_worker.PolicyWorker \
  --limit-mm-per-prompt '{"image": 4, "video": 1}' --media-io-kwargs '{"video": {"num_frames": -1, "fps": 2}}' \
  "$@"
