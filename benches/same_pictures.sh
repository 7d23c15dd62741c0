#!/usr/bin/env bash
# Draws the same set of pictures with two programs and compares their files byte by byte:
#   benches/same_pictures.sh OLD NEW [ONLY]
# OLD and NEW are colora programs, for example of two commits; ONLY is a part of the names of cases to draw.
# A case is `same` when the files are equal to the byte, `pixels` when only the text chunks (the record of the
# settings) differ, and `DIFFERENT` otherwise. The exit code is 1 if a case is DIFFERENT or cannot be drawn.
# Needs the repository (models of tests/goldens, the starter, loras/); about a minute on two cores.
set -uo pipefail
cd "$(dirname "$0")/.."
old=$(realpath "${1:?the old program}") new=$(realpath "${2:?the new program}") only=${3:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export COLORA_LORA_PATH="$PWD/loras" NO_COLOR=1
failed=0 drawn=0

# Whether two PNG files have equal image data: everything from the first IDAT chunk on.
same_pixels() {
    local a b
    a=$(LC_ALL=C grep -abo IDAT "$1" | head -1 | cut -d: -f1)
    b=$(LC_ALL=C grep -abo IDAT "$2" | head -1 | cut -d: -f1)
    [ -n "$a" ] && [ -n "$b" ] && cmp -s --ignore-initial="$a:$b" "$1" "$2"
}

# case NAME ARGUMENTS...: one picture with each program.
case_() {
    local name=$1 program verdict=same
    shift
    [[ $name == *"$only"* ]] || return 0
    for program in old new; do
        rm -rf "$work/$program" && mkdir -p "$work/$program"
        if ! "${!program}" generate "$@" -q -o "$work/$program/{index}.png" > /dev/null 2> "$work/$program.log"; then
            verdict="FAILED ($program: $(tail -1 "$work/$program.log"))"
        fi
    done
    local picture
    for picture in "$work"/old/*.png; do
        [ "$verdict" = same ] || [ "$verdict" = pixels ] || break
        local other=$work/new/$(basename "$picture")
        drawn=$((drawn + 1))
        if cmp -s "$picture" "$other"; then
            continue
        elif same_pixels "$picture" "$other"; then
            verdict=pixels
        else
            verdict=DIFFERENT
        fi
    done
    case $verdict in same | pixels) ;; *) failed=1 ;; esac
    printf '%-10s %s\n' "${verdict%% *}" "$name"
    [[ $verdict == FAILED* ]] && printf '           %s\n' "${verdict#FAILED }"
    return 0
}

prompt="santa and a wizard, flat style"
for dtype in f32 bf16; do
    starter=("$prompt" -m starter --dtype "$dtype" --seed 7)
    case_ "starter $dtype" "${starter[@]}" -s 6
    case_ "starter $dtype q8_0" "${starter[@]}" -s 4 --quantize q8_0
    case_ "starter $dtype q8_0 lora" "${starter[@]}" -s 4 --quantize q8_0 -l flat:0.8 -l santa
    for apply in merge bypass; do
        case_ "starter $dtype lora $apply" "${starter[@]}" -s 4 -l flat:0.8 -l santa:0.7 --apply "$apply"
        case_ "starter $dtype window $apply" "${starter[@]}" -s 5 -l "flat:0.8:steps=0..0.6" -l santa --apply "$apply"
    done
    for method in sequential svd:rank=8 ties:density=0.3 dare switch:period=2 composite; do
        case_ "starter $dtype $method" "${starter[@]}" -s 3 -l flat:0.8 -l gold:0.5 --lora-method "$method"
    done
    case_ "starter $dtype blocks" "${starter[@]}" -s 3 -l "flat:unet=1,text=0.5:blocks=MIDD"
    case_ "starter $dtype three images" "${starter[@]}" -s 4 -n 3 -l wizard:0.6
    case_ "starter $dtype low memory" "${starter[@]}" -s 3 --low-memory -l flat
done
plain=("a red apple" -m starter --seed 3)
for sampler in dpmpp-2m euler ddim; do
    for schedule in discrete karras exponential; do
        case_ "sampler $sampler $schedule" "${plain[@]}" -s 5 --sampler "$sampler" --schedule "$schedule"
    done
done
case_ "negative" "${plain[@]}" -s 4 -N "green, blurred"
case_ "guidance off" "${plain[@]}" -s 4 -g 1
case_ "guidance interval" "${plain[@]}" -s 6 --guidance-interval 0.2..0.8 -N green
case_ "reuse" "${plain[@]}" -s 9 --reuse 3
case_ "reuse and interval" "${plain[@]}" -s 9 --reuse 2 --guidance-interval 0..0.5
case_ "merged tokens" "${plain[@]}" -s 4 --merge-tokens 0.5
case_ "clip skip" "${plain[@]}" -s 4 --clip-skip 2
case_ "size" "${plain[@]}" -s 4 --size 192x136
case_ "tiles" "${plain[@]}" -s 3 --size 640x128 --tile
case_ "tag" "gold wizard <lora:wizard:0.5> <lora:gold>" -m starter --seed 5 -s 4
for model in sd15 sd2 sdxl; do
    for dtype in f32 bf16; do
        case_ "tiny $model $dtype" "$prompt" -m "tests/goldens/$model" --dtype "$dtype" --seed 1 -s 4 -N blue --size 64x64
    done
done
printf '%s pictures\n' "$drawn"
exit $failed
