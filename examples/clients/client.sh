#!/bin/sh
# Asks a server (python -m trainer.serve) about photos, all in one request.
#
#     sh client.sh http://127.0.0.1:8501 photo.jpg …
set -eu
url=$1
shift
for file; do
    set -- "$@" -F "image=@\"$file\""
    shift
done
# --fail-with-body: what is wrong is printed, and the exit code says that something is.
curl --silent --show-error --fail-with-body "$@" "$url/predict"
echo
