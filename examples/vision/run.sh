#!/bin/sh
# Train a small image classifier on drawn shapes, and compile it to int8.
#   ./run.sh OUT [more options of `optcc compile`]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$1
shift
python "$here/net.py"
optcc compile "$here/net.py:classifier" vision-int8 -o "$out" "$@"
