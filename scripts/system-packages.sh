#!/bin/bash
# What the tests need from Debian 12: a real PACS, DICOM toolkits, validators, PostgreSQL, a browser. Nothing is started.
set -euo pipefail
packages="gcc libc6-dev curl dcmtk orthanc orthanc-dicomweb postgresql prometheus systemd strace util-linux lintian
  libpixelmed-java libxalan2-java libjsonp-java libcommons-codec-java libcommons-compress-java default-jre-headless
  chromium fonts-dejavu-core poppler-utils"
missing=""
for package in $packages; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
command -v npm >/dev/null || missing="$missing npm"  # whoever has a newer Node.js has its npm
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "not installed:$missing (tests that need them will say so)" >&2
  exit 0
fi
# Debian starts services on installation; the tests start their own on loopback instead.
if [ ! -e /usr/sbin/policy-rc.d ]; then
  printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
  chmod +x /usr/sbin/policy-rc.d
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
