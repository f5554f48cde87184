#!/bin/bash
# A run on several machines under Slurm, which saves and is queued again when its time is over, and goes on then:
#
#     sbatch examples/slurm.sh pretrain voxceleb2_pretrain data.train=vox.csv train.global_batch=128 \
#         train.batch_size=4 output=runs/vox
#
# What follows the name of this file is a command of maedfer; PYTHON is the interpreter it is installed for. The lines
# that begin with #SBATCH are for you to change.
#SBATCH --job-name=maedfer
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
# SIGUSR1 comes to this script five minutes before the time is over, which a step and a checkpoint must fit in.
#SBATCH --signal=B:USR1@300
# Also when a machine fails.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=maedfer-%j.log

set -u
if [ "$#" -eq 0 ]; then
    echo "slurm.sh: give a command of maedfer: sbatch slurm.sh pretrain RECIPE data.train=list.csv output=runs/name" >&2
    exit 2
fi
if [ -z "${SLURM_JOB_ID:-}" ]; then
    echo "slurm.sh: this is a script for sbatch; without Slurm, start torchrun as docs/scale.md says" >&2
    exit 2
fi

processes=${PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Jobs that share a machine have ports of their own.
port=$((20000 + SLURM_JOB_ID % 20000))
# srun does not take it over from the job.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
# Seconds that torchrun gives its processes to save in, before it kills them.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240

# One torchrun on each machine starts a process for each of its GPUs, and all of them again, from the last checkpoint,
# when one is lost. In the background, since a shell that waits for a program hears no signal.
srun --kill-on-bad-exit=0 "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$processes" --max-restarts 3 \
    --rdzv-id "$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}" --rdzv-backend c10d --rdzv-endpoint "$first:$port" \
    --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
    -m maedfer "$@" &
step=$!

# srun hands a signal on to torchrun and its processes. These save after the step that they are in, and process 0 gives
# the job back to Slurm.
hand_on() {
    heard=yes
    kill -s "$1" "$step" 2>/dev/null
}
trap 'hand_on USR1' USR1
trap 'hand_on TERM' TERM

heard=yes
while [ "$heard" = yes ]; do
    # A signal ends the waiting, not the run.
    heard=no
    wait "$step"
    status=$?
done
exit "$status"
