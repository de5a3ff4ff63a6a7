#!/bin/bash
# The Debian part of a node image: systemd, containerd and the network tools, as a tar.
#
#   debian-base.sh WORK_DIR OUTPUT.tar      (root; debootstrap)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$1 output=$2
# shellcheck source=../../../versions.env
. "$here/../../../versions.env"

packages=(
  # what a systemd machine consists of
  systemd dbus util-linux mount kmod procps bash ca-certificates libseccomp2
  # containers
  containerd runc containernetworking-plugins
  # kube-proxy, kubelet and kubeadm call these
  iptables nftables conntrack ethtool iproute2 e2fsprogs
  # kind and this build call these
  curl jq
)
# On Debian the mirror this machine itself uses, which is known to be reachable; elsewhere debootstrap's own default.
mirror=
if [ "$(. /etc/os-release && echo "$ID")" = debian ]; then
  mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 2> /dev/null | head -n 1)
fi

rm -rf "$work"
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT
debootstrap --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" \
  "$DEBIAN_SUITE" "$work/root" ${mirror:+"$mirror"}
rm -rf "$work"/root/var/cache/apt/archives "$work"/root/var/lib/apt/lists/* \
  "$work"/root/usr/share/{doc,man,locale,info}/*
tar -C "$work/root" --numeric-owner -cf "$output.part" .
mv "$output.part" "$output"
