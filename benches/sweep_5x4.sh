#!/usr/bin/env bash
# Times a sweep of 5 x 4 LoRA strengths against 20 calls of `generate`, and compares the files byte by byte:
#   benches/sweep_5x4.sh [COLORA] [SIDE] [STEPS] [PAIRS]
# COLORA is the program (default target/release/colora), SIDE the side of the pictures (64), STEPS their steps (2).
# Runs alternate PAIRS times (3), so that both see the same machine; prints both times of each pair and the ratio of
# the medians. Needs the repository (the starter model, loras/).
set -euo pipefail
cd "$(dirname "$0")/.."
colora=$(realpath "${1:-target/release/colora}") side=${2:-64} steps=${3:-2} pairs=${4:-3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export COLORA_LORA_PATH="$PWD/loras" NO_COLOR=1
now() { date +%s.%N; }
common=(-m starter --size "$side" -s "$steps" -S 1 -q)

sweep() {
    rm -rf "$work/sweep"
    "$colora" sweep "a red apple" --x lora.flat=0.2..1:0.2 --y lora.gold=0.1..0.4:0.1 "${common[@]}" -o "$work/sweep" > "$work/out"
}

# The calls that a user would make instead, with the flags that the cells record.
singles() {
    rm -rf "$work/single" && mkdir "$work/single"
    for flat in 0.2 0.4 0.6 0.8 1; do
        for gold in 0.1 0.2 0.3 0.4; do
            "$colora" generate "a red apple" "${common[@]}" --apply bypass -l "flat:$flat" -l "gold:$gold" \
                -o "$work/single/$flat-$gold.png" > "$work/out"
        done
    done
}

sweep && singles # warm
for file in "$work"/single/*.png; do
    found=no
    for cell in "$work"/sweep/cells/*.png; do
        cmp -s "$file" "$cell" && found=yes && break
    done
    [ "$found" = yes ] || { echo "$file is no cell of the sweep" >&2; exit 1; }
done
echo "20 cells are the 20 single pictures, byte by byte"
for pair in $(seq "$pairs"); do
    begin=$(now); sweep; middle=$(now); singles; end=$(now)
    echo "$pair $begin $middle $end"
done | awk '{ s[NR] = $3 - $2; g[NR] = $4 - $3; printf "pair %d: sweep %.2f s, single calls %.2f s\n", $1, s[NR], g[NR] }
    END { asort_(s, NR); asort_(g, NR); m = int((NR + 1) / 2); printf "medians: sweep %.2f s, single calls %.2f s, ratio %.2f\n", s[m], g[m], s[m] / g[m] }
    function asort_(a, n,  i, j, t) { for (i = 2; i <= n; i++) for (j = i; j > 1 && a[j] < a[j-1]; j--) { t = a[j]; a[j] = a[j-1]; a[j-1] = t } }'
