#!/usr/bin/env bash
# Stage 1 on a validated data set: as `umer1 train`, in one process a GPU, with the same batch, loss and checkpoints.
# With STAGE=grpo stage 2, as `umer1 grpo`.
#   deploy/train.sh runs/my-data                                  one GPU
#   GPUS=8 deploy/train.sh runs/my-data                           eight of one machine
#   NODES=4 NODE=0 MASTER=10.0.0.1 GPUS=8 deploy/train.sh …       on each of four machines, NODE 0 to 3; MASTER: NODE 0's
#   STAGE=grpo GPUS=8 deploy/train.sh runs/my-data                stage 2, likewise
# Further arguments are those of the verb. Started again, it goes on from the newest checkpoint.
#
# CONFIG  of deploy/accelerate: ddp (default) while a model's weights, gradients and optimizer states fit into a GPU at 16
#         bytes a parameter and its longest pack beside them (2B: 80 GB); fsdp2 beyond; zero1, zero2, zero3: DeepSpeed
# PORT    free on MASTER
#
# Several machines see the data set, its folders `sft` and `grpo` and the model at the same path. `batch_pairs`, and for
# stage 2 `grpo.block_pairs`, is the number over all processes and all are negatives of each other, whatever GPUS and
# NODES are.
set -euo pipefail
gpus="${GPUS:-1}" nodes="${NODES:-1}" stage="${STAGE:-train}"
if ((gpus * nodes == 1)) && [[ -z "${CONFIG:-}" ]]; then
  exec umer1 "$stage" "$@"
fi
config="$(dirname "$0")/accelerate/${CONFIG:-ddp}.yaml"
shape=(--num_processes $((gpus * nodes)) --num_machines "$nodes" --main_process_port "${PORT:-29500}")
if ((nodes > 1)); then
  shape+=(--machine_rank "${NODE:?set NODE to this machine\'s number, from 0}")
  shape+=(--main_process_ip "${MASTER:?set MASTER to the address of machine 0}")
fi
exec accelerate launch --config_file "$config" "${shape[@]}" -m umer1_core.cli "$stage" "$@"
