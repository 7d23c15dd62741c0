#!/usr/bin/env bash
# 1,000 jobs of the starter (64 px, 2 steps) by four workers that are killed at random: over one folder,
# over S3 with injected faults, over PostgreSQL. Compares with one undisturbed run: the set of pictures,
# their bytes, and that no job is logged as done twice.
#   cargo build --release --features cluster,postgres && benches/cluster_1000.sh [JOBS [KILLS]]
# COLORA: the program. COLORA_TEST_PYTHON: a Python with moto[server] and boto3. WHICH: folder s3 postgres parts.
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=${1:-1000} kills=${2:-60}
program=${COLORA:-$PWD/target/release/colora} python=${COLORA_TEST_PYTHON:-python3} which=${WHICH:-folder parts s3 postgres}
here=$PWD out=$(mktemp -d)
trap 'exec 7>&- 8>&- 2>/dev/null; rm -rf "$out"' EXIT
cp -r loras "$out/loras"
cd "$out"
export HOME=$out COLORA_LORA_PATH=$out/loras RAYON_NUM_THREADS=1
loras=("" " --lora flat:0.8" " --lora gold:0.5" " --lora wizard:0.7" " --lora flat:0.4 --lora gold:0.4")
for n in $(seq "$jobs"); do echo "--prompt a red apple number $n${loras[$((n % 5))]}"; done > list.txt
common=(-m starter --size 64x64 -s 2 --threads 1 -q)
seconds() { date +%s.%N; }
took() { echo "$(seconds) $1" | awk '{printf "%.1f s", $1 - $2}'; }

begin=$(seconds)
"$program" batch list.txt -o whole "${common[@]}" > /dev/null
echo "undisturbed, one worker: $jobs jobs in $(took "$begin")"

# Runs `worker N` four times, kills one of them with SIGKILL now and then, and starts it again.
disturb() {
    local pids=() killed=0 n
    for n in 0 1 2 3; do worker "$n" & pids[n]=$!; done
    for _ in $(seq "$kills"); do
        sleep 0.$((RANDOM % 9 + 1))
        n=$((RANDOM % 4))
        if kill -9 "${pids[n]}" 2> /dev/null; then killed=$((killed + 1)); fi
        wait "${pids[n]}" 2> /dev/null || true
        worker "$n" & pids[n]=$!
    done
    for n in 0 1 2 3; do wait "${pids[n]}"; done
    echo "$killed kills"
}
# Compares a folder of pictures and logs with the undisturbed run.
compare() {
    "$python" - "$1" "$2" << 'PYTHON'
import glob, hashlib, json, os, sys
what, folder = sys.argv[1:]
def pictures(folder):
    found = {}
    for path in glob.glob(folder + "/**/*.png", recursive=True):
        assert os.path.basename(path) not in found, path
        found[os.path.basename(path)] = hashlib.sha256(open(path, "rb").read()).hexdigest()
    return found
whole, here = pictures("whole"), pictures(folder)
done = []
for log in glob.glob(folder + "/**/manifest-*.jsonl", recursive=True):
    for line in open(log):
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # torn by a kill; what it was about is logged again
        if entry["status"] == "done":
            done.append(entry["id"])
left = [name for name in glob.glob(folder + "/**/.*part*", recursive=True)]
print(f"{what}: {len(here)} of {len(whole)} pictures, bytes {'equal' if here == whole else 'DIFFER'}, "
      f"{len(done)} done in the log, {len(done) - len(set(done))} twice, {len(left)} parts left")
sys.exit(here != whole or sorted(done) != sorted(name[:-4] for name in whole))
PYTHON
}

for kind in $which; do
    begin=$(seconds)
    case $kind in
    folder)
        worker() { exec "$program" batch list.txt -o folder --claim --chunk 10 --lease 5 "${common[@]}" > /dev/null; }
        disturb; compare "claims over a folder" folder ;;
    parts)
        worker() { exec "$program" batch list.txt -o parts --shard "$(($1 + 1))/4" "${common[@]}" > /dev/null; }
        disturb; compare "parts of the list" parts ;;
    s3)
        mkfifo to-s3; "$python" "$here/tests/cluster/s3.py" 50 < to-s3 > from-s3 2> /dev/null & exec 7> to-s3
        until test -s from-s3; do sleep 0.2; done
        export AWS_ENDPOINT="http://127.0.0.1:$(head -n 1 from-s3)" AWS_ALLOW_HTTP=true
        export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_REGION=us-east-1
        worker() { exec "$program" batch list.txt -o s3://batch/run --chunk 10 --lease 8 "${common[@]}" > /dev/null; }
        disturb; echo "dump $out/s3" >&7
        until grep -q done from-s3; do sleep 0.2; done
        compare "claims over S3, each 50th request of $(grep done from-s3 | cut -d' ' -f2) fails" s3; exec 7>&- ;;
    postgres)
        mkfifo to-sql; "$here/tests/cluster/postgres.sh" < to-sql > from-sql & exec 8> to-sql
        until test -s from-sql; do sleep 0.2; done
        export COLORA_QUEUE; COLORA_QUEUE=$(head -n 1 from-sql)
        "$program" batch submit list.txt --batch big "${common[@]}" > /dev/null
        worker() { exec "$program" batch work -o sql --chunk 10 --lease 5 --threads 1 -q > /dev/null; }
        disturb; compare "PostgreSQL" sql; exec 8>&- ;;
    esac
    echo "  $(took "$begin")"
done
