#!/usr/bin/env bash
# Start-up script of TPU VMs, on every host of one: installs once, then trains. A VM that is made anew after a
# pre-emption runs it again and goes on from the last checkpoint, because --run lies in a bucket. docs/tpu.md: how to use it.
#
# Instance metadata that it reads:
#   package  what pip installs: gs://BUCKET/tpu_retraining-0.1.0-py3-none-any.whl, or git+https://…
#   flags    of trainer.main: --data=gs://… --recipe=… --run=gs://…
set -euo pipefail

metadata_url=${METADATA_URL:-http://metadata.google.internal/computeMetadata/v1/instance/attributes}
venv=${VENV:-/opt/tpu-retraining}

metadata() {
    curl --silent --show-error --fail --header 'Metadata-Flavor: Google' "$metadata_url/$1"
}

package=$(metadata package)
flags=$(metadata flags)

if [[ ! -e $venv/.ready ]]; then
    if ! python3 -m venv "$venv"; then # Debian and Ubuntu ship the module apart
        apt-get update --quiet && apt-get install --quiet --yes python3-venv
        python3 -m venv "$venv"
    fi
    if [[ $package == gs://* ]]; then
        gcloud storage cp "$package" "$venv/"
        package=$venv/${package##*/}
    else
        package="tpu-retraining @ $package"
    fi
    # pip's form for extras of a file is PATH[extra], of a URL NAME[extra] @ URL.
    if [[ $package == *" @ "* ]]; then package=${package/ @ /[tpu] @ }; else package+="[tpu]"; fi
    "$venv/bin/python" -m pip install --quiet "$package"
    touch "$venv/.ready"
fi

child=
stopping=
# The service manager signals this script only; the trainer saves its state and exits with 75.
trap 'stopping=yes; if [[ -n $child ]]; then kill -TERM "$child"; fi' TERM
while true; do
    code=0
    # shellcheck disable=SC2086  # several flags
    "$venv/bin/python" -m trainer.main $flags --tpu=all & # any name: the chips of all hosts, of which each runs this
    child=$!
    wait "$child" || code=$?
    if [[ -n $stopping ]]; then # the signal has ended the first wait, not the trainer
        code=0
        wait "$child" || code=$?
        exit "$code"
    fi
    [[ $code == 75 ]] || exit "$code" # 75 asks to be run again, all else is final
    sleep "${PAUSE:-10}"
done
