#!/bin/bash
# Builds dist/dicomnode_VERSION_ARCH.deb: a virtual environment under /opt/dicomnode with everything that pip brings,
# the units, sysusers, tmpfiles, /etc/dicomnode/config.toml as a conffile, completion. For Debian 12, without its sources.
# usage: scripts/deb.sh [--without-dependencies]     the latter is small, for tests of the packaging alone
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022
with_dependencies=yes
case ${1:-} in
  "") ;;
  --without-dependencies) with_dependencies=no ;;
  *) echo "unknown: $1" >&2; exit 2 ;;
esac
out=$(realpath -m "${OUT:-dist}")
recipe=packaging/deb
program=.venv/bin/python
interpreter=/usr/bin/python3.11
[ -x "$interpreter" ] || { echo "$interpreter is needed: the package is for Debian 12" >&2; exit 1; }
version=$($program -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')-1
architecture=$(dpkg --print-architecture)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
root=$scratch/root
home=$root/opt/dicomnode
mkdir -p "$root/opt" "$out"

# The environment, as pip makes it; then nothing in it may name the folder that it was made in.
"$interpreter" -m venv --without-pip "$home"
pip() { "$program" -m pip --quiet --disable-pip-version-check --python "$home/bin/python" "$@"; }
$program -m pip --quiet --disable-pip-version-check wheel --no-deps -w "$scratch" .
if [ "$with_dependencies" = yes ]; then
  pip install --no-compile -c constraints.txt torch
  pip install --no-compile -c constraints.txt "$(echo "$scratch"/dicomnode-*.whl)[postgresql]"
else
  pip install --no-compile --no-deps "$scratch"/dicomnode-*.whl
fi
rm -rf "$home"/bin/activate* "$home"/bin/Activate.ps1 "$home"/lib/python*/site-packages/dicomnode-*.dist-info/direct_url.json
grep -rlIZ --include='*' "$root" "$home/bin" "$home/pyvenv.cfg" | xargs -0 -r sed -i "s|$root||g"
"$interpreter" -m compileall -q -s "$root" -p / "$home/lib" || true  # some packages carry templates that are no Python
find "$home" -name '*.so*' -type f -exec chmod 0644 {} +
find "$home" -name '*.exe' -delete  # launchers for another system

# What the distribution looks for.
install -d "$root"/usr/{bin,lib/{sysusers.d,tmpfiles.d},share/{bash-completion/completions,doc/dicomnode,lintian/overrides}}
install -d "$root"/lib/systemd/system "$root"/etc/dicomnode
for name in dicomnode dicomnode-train; do ln -s "/opt/dicomnode/bin/$name" "$root/usr/bin/$name"; done
install -m 0644 systemd/*.service systemd/*.timer "$root/lib/systemd/system/"
install -m 0644 systemd/dicomnode.sysusers "$root/usr/lib/sysusers.d/dicomnode.conf"
install -m 0644 systemd/dicomnode.tmpfiles "$root/usr/lib/tmpfiles.d/dicomnode.conf"
install -m 0644 config.toml "$root/etc/dicomnode/config.toml"
_DICOMNODE_COMPLETE=source_bash .venv/bin/dicomnode > "$root/usr/share/bash-completion/completions/dicomnode"
install -m 0644 "$recipe/copyright" "$recipe/README.Debian" "$root/usr/share/doc/dicomnode/"
gzip -9n < CHANGELOG.md > "$root/usr/share/doc/dicomnode/changelog.gz"
gzip -9n > "$root/usr/share/doc/dicomnode/changelog.Debian.gz" <<END
dicomnode ($version) bookworm; urgency=medium

  * Built by scripts/deb.sh; what has changed is in changelog.gz.

 -- dicomnode maintainers <maintainers@dicomnode.invalid>  $(date -R)
END
install -m 0644 "$recipe/lintian-overrides" "$root/usr/share/lintian/overrides/dicomnode"

# Control files.
mkdir "$root/DEBIAN"
size=$(du -sk --exclude=DEBIAN "$root" | cut -f1)
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@SIZE@/$size/" "$recipe/control" > "$root/DEBIAN/control"
echo /etc/dicomnode/config.toml > "$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do install -m 0755 "$recipe/$script" "$root/DEBIAN/$script"; done
(cd "$root" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum > DEBIAN/md5sums)
# gzip: xz needs a quarter of an hour of processor time for a tenth less, and lintian knows no zstd.
dpkg-deb --root-owner-group -Zgzip -z6 --build "$root" "$out/dicomnode_${version}_${architecture}.deb"
