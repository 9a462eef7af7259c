#!/bin/sh
# Five days of scheduled retraining in some minutes, on your own photos: what a pass does with good days and bad ones.
#
#     sh examples/five_days.sh PHOTOS WORK
#
# PHOTOS holds one folder a class, of 100 photos or more each; the first three classes are taken. WORK must not exist.
# Every line that begins with "==" says what happened, and the exit code of the pass.
set -u
[ $# -eq 2 ] || { echo "usage: sh examples/five_days.sh PHOTOS WORK" >&2; exit 64; }
photos=$1 work=$2
[ -d "$photos" ] || { echo "$photos: no such folder" >&2; exit 64; }
[ ! -e "$work" ] || { echo "$work exists; give a folder that does not" >&2; exit 64; }
python=${PYTHON:-python}
mkdir -p "$work/photos"
cat > "$work/retrain.yaml" <<'YAML'
input: photos
data: data
runs: runs
models: models
recipe: quick
settings: {phases.0.duration: 10ep, phases.1.duration: 1ep, phases.1.lr_max: 1.0e-4}
check: {recipe: quick}
build: {splits: "train:0.5,validation:0.1,test:0.4"}
gate: {margin: 0.1, minimum_accuracy: 0.6}
YAML
set -- $(ls "$photos" | head -3)
one=$1 two=$2 three=$3

add() {  # FROM TO: photos of every class, by their place in the list
  for class in "$one" "$two" "$three"; do
    mkdir -p "$work/photos/$class"
    ls "$photos/$class" | sed -n "$1,$2p" | while read -r name; do cp "$photos/$class/$name" "$work/photos/$class/"; done
  done
}
# Every pass is first killed outright at some moment (seconds in KILL_AFTER, "" for none): the next one goes on from there.
kills=${KILL_AFTER-6 20 15 8 40}
pass() {
  if [ -n "$kills" ] && [ "${2-}" != whole ]; then
    moment=${kills%% *}
    case $kills in *" "*) kills=${kills#* } ;; *) kills= ;; esac
    "$python" -m retrain.main --config="$work/retrain.yaml" > "$work/killed.log" 2>&1 &
    sleep "$moment"
    kill -9 $! 2> /dev/null && echo "-- killed after $moment s"
    wait $! 2> /dev/null
  fi
  "$python" -m retrain.main --config="$work/retrain.yaml" --result="$work/result.json" > "$work/pass.log" 2>&1
  code=$?
  outcome=$("$python" -c 'import json, sys; r = json.load(open(sys.argv[1])); print(r["outcome"] + ":", "; ".join(r["reasons"] if r["outcome"] == "held" else r["reasons"][-1:]))' "$work/result.json")
  echo "== $1: exit $code, $outcome"
}

add 1 60
pass "day 1, the first photos"
pass "day 1 again, nothing new" whole
add 61 75
pass "day 2, more photos"
add 76 90
ls "$photos/$one" | sed -n 76,90p | while read -r name; do mv "$work/photos/$one/$name" "$work/photos/$two/$one-$name"; done
ls "$photos/$two" | sed -n 76,90p | while read -r name; do mv "$work/photos/$two/$name" "$work/photos/$three/$two-$name"; done
pass "day 3, most new photos in a wrong folder"
for class in "$two" "$three"; do rm -f "$work/photos/$class/"*-*; done
mv "$work/photos/$one" "$work/vanished"
pass "day 4, a class has vanished"
mv "$work/vanished" "$work/photos/$one"
add 76 90
pass "day 5, all is well again"
"$python" -m retrain.models list --models="$work/models"
"$python" -m retrain.models rollback --why="a bad feeling" --models="$work/models" && pass "after a roll-back, nothing new" whole
