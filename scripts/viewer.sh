#!/bin/bash
# The viewer that the tests look through: OHIF, as published on npm (MIT), into .viewer/. Pinned by version and hash.
set -euo pipefail
cd "$(dirname "$0")/.."
version=3.13.2
sha512=5997719a9986eeba85816f5924b71b82bdd70ad2e2d4a0cd3e831a798e4f3deea3e06e1f8c48e393271933a0ba664d85f3b04ac457e9abe8dde715d907d13c10
stamp=.viewer/installed
if [ "$(cat "$stamp" 2>/dev/null || true)" = "$sha512" ]; then exit 0; fi
command -v npm >/dev/null || { echo "not installed: npm (tests that need the viewer will say so)" >&2; exit 0; }
rm -rf .viewer
mkdir .viewer
archive=.viewer/$(npm pack --silent --pack-destination .viewer "@ohif/app@$version")
echo "$sha512  $archive" | sha512sum --check --quiet
tar -xzf "$archive" -C .viewer --strip-components=1 package/dist package/LICENSE
rm "$archive"
echo "$sha512" > "$stamp"
