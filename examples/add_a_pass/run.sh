#!/bin/sh
# Show the pass, plan with it, compile with it.
#   ./run.sh MODEL OUT [more options of `optcc compile`]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
model=$1 out=$2
shift 2
optcc passes show "$here/prune.py:Prune"
optcc plan "$here/recipe.yaml"
optcc compile "$model" "$here/recipe.yaml" -o "$out" "$@"
