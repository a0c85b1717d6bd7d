#!/usr/bin/env bash
# A fit on two real Slurm jobs on this machine, against the same fit on threads: the same bits.
#
# Not part of the test suite: it needs root, Debian's packages and dask-jobqueue.
#
#   apt-get install --no-install-recommends slurm-wlm munge
#   pip install 'gmm-dask[slurm]'
#   tests/slurm/run.sh [PYTHON]
#
# Everything it starts ends with it; its files are in a directory of their own.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
python=${1:-$here/../../.venv/bin/python}
work=$(mktemp -d)
host=$(hostname -s)
started=()

finish() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT

chmod 755 "$work"
mkdir "$work/state" "$work/spool" "$work/jobs" "$work/munge"
chmod 700 "$work/munge"
dd if=/dev/urandom of="$work/munge/key" bs=1024 count=1 status=none
chmod 400 "$work/munge/key"
cat >"$work/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket
CredType=cred/munge
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
NodeName=$host CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$work/slurm.conf"

munged --force --foreground --key-file="$work/munge/key" --socket="$work/munge/socket" \
    --pid-file="$work/munge/pid" --log-file="$work/munge/log" --seed-file="$work/munge/seed" &
started+=($!)
slurmctld -D &>"$work/slurmctld.log" &
started+=($!)
slurmd -D &>"$work/slurmd.log" &
started+=($!)

for _ in $(seq 120); do
    if sinfo -h -o %T 2>/dev/null | grep -q idle; then break; fi
    sleep 0.25
done
sinfo -h -o %T | grep -q idle || { cat "$work"/*.log >&2; exit 1; }
cd "$work/jobs"
PYTHONPATH="$here/../.." "$python" "$here/fit_on_slurm.py"
