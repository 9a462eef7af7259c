#!/usr/bin/env bash
# Runs a cloud on this machine, to try what needs one: stores for gs:// and s3://, Beam's engine Prism, two Beam workers.
#
#   scripts/local_cloud.sh up|run COMMAND…|status|down
#
# All of it lives in a network namespace of its own, since Prism and the workers listen on all interfaces: nothing of it
# can be reached from outside, and it reaches nothing. `run` runs a command in there. Each worker has a /tmp of its own
# too, as if it were another machine: what is to be shared must go through a store. `down` leaves nothing.
set -euo pipefail

NAME=${LOCAL_CLOUD_NAME:-local-cloud}
STATE=/run/$NAME
REPO=$(cd "$(dirname "$0")/.." && pwd)
TOOLS=${TPU_RETRAINING_TOOLS:-$HOME/.cache/tpu-retraining/bin}
BUCKET=bucket
GCS=http://127.0.0.1:4443 S3=http://127.0.0.1:5555 PRISM=localhost:8073 WORKERS=(50051 50052)
ENVIRONMENT=(
    "STORAGE_EMULATOR_HOST=$GCS" GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false FSSPEC_GS_TOKEN=anon NO_GCE_CHECK=true
    "AWS_ENDPOINT_URL=$S3" AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_DEFAULT_REGION=us-east-1
    AWS_EC2_METADATA_DISABLED=true "PYTHONPATH=$REPO" "PATH=$REPO/.venv/bin:$PATH"
)

fail() { echo "local_cloud.sh: $*" >&2; exit 1; }

inside() { ip netns exec "$NAME" env "${ENVIRONMENT[@]}" "$@"; }

start() { # NAME COMMAND…
    local name=$1
    shift
    # A session of its own: it outlives this script, and ^C of a command does not reach it.
    (cd / && exec setsid ip netns exec "$NAME" env "${ENVIRONMENT[@]}" "$@") >"$STATE/$name.log" 2>&1 </dev/null &
}

tool() { # NAME PACKAGE
    [[ -x $TOOLS/$1 ]] && return
    command -v go >/dev/null || fail "needs Go to build $1 (or $1 in $TOOLS)"
    echo "building $1 into $TOOLS, once; takes minutes" >&2
    mkdir -p "$TOOLS"
    GOBIN=$TOOLS nice -n 10 go install "$2"
}

until_answers() { # NAME PORT
    for _ in $(seq 300); do
        inside bash -c "exec 3<>/dev/tcp/127.0.0.1/$2" 2>/dev/null && return
        sleep 0.2
    done
    tail -n 5 "$STATE/$1.log" >&2
    fail "$1 does not answer"
}

up() {
    [[ -e $STATE ]] && fail "is up already; take it down first"
    [[ -x $REPO/.venv/bin/python ]] || fail "needs $REPO/.venv with '.[gcs,s3,dev]'"
    tool fake-gcs-server github.com/fsouza/fake-gcs-server@v1.56.1
    tool prism github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0
    mkdir "$STATE"
    trap 'down' ERR
    trap 'down; exit 1' INT TERM
    ip netns add "$NAME"
    ip -n "$NAME" link set lo up
    mkdir -p "$STATE/gcs/$BUCKET" "$STATE/repo"
    start gcs "$TOOLS/fake-gcs-server" -backend memory -data "$STATE/gcs" -scheme http -host 127.0.0.1 -port 4443 \
        -external-url "$GCS" -public-host 127.0.0.1:4443
    start s3 python -m moto.server -H 127.0.0.1 -p 5555
    start prism "$TOOLS/prism" --job_port 8073 --serve_http=false
    local port
    for port in "${WORKERS[@]}"; do
        # The repository is seen by workers as installed software would be, even if it lies in what is hidden.
        # shellcheck disable=SC2016  # expanded by the inner shell
        start "worker-$port" unshare --mount bash -euc '
            mount --bind "$2" "$3"
            for hidden in /tmp /var/tmp /mnt /media; do mount -t tmpfs none "$hidden"; done
            mkdir -p "$2"
            mount --bind "$3" "$2"
            exec python -m apache_beam.runners.worker.worker_pool_main --service_port="$1"' \
            - "$port" "$REPO" "$STATE/repo"
    done
    until_answers gcs 4443
    until_answers s3 5555
    until_answers prism 8073
    for port in "${WORKERS[@]}"; do until_answers "worker-$port" "$port"; done
    inside python -c "import urllib.request as u; u.urlopen(u.Request('$S3/$BUCKET', method='PUT'))"
    trap - ERR INT TERM
    status
    printf '\nIn there, commands have\n'
    printf '    %s\n' "${ENVIRONMENT[@]:0:9}"
    printf '\nTry it:\n    %s run python -m examples.local_cloud\n' "$0"
    printf 'Beam options: --runner=PortableRunner --job_endpoint=%s --environment_type=EXTERNAL' "$PRISM"
    printf ' --environment_config=localhost:%s (or %s)\n' "${WORKERS[@]}"
}

down() {
    if ip netns list | grep -qw "$NAME"; then
        local pids
        # Some start others while they end.
        while pids=$(ip netns pids "$NAME") && [[ -n $pids ]]; do
            # shellcheck disable=SC2086  # a list
            kill -KILL $pids 2>/dev/null || true
            sleep 0.1
        done
        ip netns delete "$NAME"
    fi
    rm -rf "$STATE"
}

status() {
    [[ -e $STATE ]] || { echo "down"; return 1; }
    echo "up: gs://$BUCKET, s3://$BUCKET, Prism at $PRISM, workers at ${WORKERS[*]/#/localhost:}; logs in $STATE"
}

[[ $(uname) == Linux ]] || fail "needs Linux: it uses network and mount namespaces"
[[ $EUID == 0 ]] || fail "needs root: it makes network and mount namespaces"
for command in ip unshare setsid; do
    command -v "$command" >/dev/null || fail "needs $command (Debian: iproute2, util-linux)"
done
case "${1:-}" in
    up | down | status) "$1" ;;
    run)
        [[ -e $STATE ]] || fail "is down; take it up first"
        shift
        inside "$@"
        ;;
    *) fail "usage: $0 up|run COMMAND…|status|down" ;;
esac
