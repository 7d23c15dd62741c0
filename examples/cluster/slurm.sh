#!/bin/bash
# A prompt file over a Slurm array: each task makes its block of the list.
#   sbatch --array=0-15%8 slurm.sh prompts.txt /shared/out
#SBATCH --job-name=colora
#SBATCH --array=0-3
#SBATCH --cpus-per-task=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=colora-%A_%a.log
# On GPUs: #SBATCH --gres=gpu:1
set -eu
LIST=${1:?usage: sbatch slurm.sh FILE FOLDER [more flags of colora batch]}
OUT=${2:?usage: sbatch slurm.sh FILE FOLDER [more flags of colora batch]}
shift 2
# `--shard auto` reads SLURM_ARRAY_TASK_ID, _COUNT, _MIN and _STEP. `exec` lets the program itself
# receive SIGTERM from scancel, preemption and the time limit: it ends the picture at work, syncs
# its log and dies by the signal; the requeued task goes on where it was.
exec "${COLORA:-colora}" batch "$LIST" --out "$OUT" --shard auto --threads "${SLURM_CPUS_PER_TASK:-1}" "$@"
