#!/bin/bash
# Assembles a kind node image from Debian packages, kind's own base files (which lie in its Go
# module) and the binaries built from this folder. For machines that cannot pull kindest/node.
#
#   build.sh WORK_DIR OUTPUT.tar
#
# OUTPUT.tar is the node's root file system, for `docker import`. Needs root (debootstrap, chroot)
# and these variables: BASE (file tree made by debian-base.sh, as a tar), KIND_FILES (images/base/files
# of kind's module), BIN (folder with kubernetes, coredns and pause), E2E (the e2e program, which
# packs the system images).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$1 output=$2
: "${BASE:?}" "${KIND_FILES:?}" "${BIN:?}" "${E2E:?}"
# shellcheck source=../../../versions.env
. "$here/../../../versions.env"
root=$work/root

rm -rf "$work"
mkdir -p "$root"
trap 'rm -rf "$work"' EXIT

echo "unpacking the Debian base"
tar -C "$root" --numeric-owner -xf "$BASE"

# kind's files, with what differs on Debian: paths, and the pause image that is preloaded.
cp -r --no-preserve=mode,ownership "$KIND_FILES/etc/." "$root/etc/"
cp -r --no-preserve=mode,ownership "$KIND_FILES/kind" "$root/"
install -m 755 "$KIND_FILES/usr/local/bin/entrypoint" "$root/usr/local/bin/entrypoint"
chmod 755 "$root/kind" "$root/kind/bin" "$root"/kind/bin/*.sh
mkdir -p "$root/kind/manifests" "$root/etc/kubernetes/manifests" "$root/opt/cni" "$root/etc/cni/net.d"
echo "$KUBERNETES_VERSION" > "$root/kind/version"
ln -sfn /usr/lib/cni "$root/opt/cni/bin"
sed -i 's#/usr/local/bin/containerd#/usr/bin/containerd#' "$root/etc/systemd/system/containerd.service"
# restrict_oom_score_adj: a machine without CAP_SYS_RESOURCE may not lower the score of a sandbox,
# and containerd then fails to start it.
sed -i -e "s#registry.k8s.io/pause:[0-9.]*#registry.k8s.io/pause:$PAUSE_TAG#" \
  -e 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' "$root/etc/containerd/config.toml"
cat >> "$root/etc/containerd/config.toml" << 'TOML'

[plugins."io.containerd.grpc.v1.cri".cni]
  conf_template = "/etc/containerd/cni.conflist.tmpl"
TOML
install -m 644 "$here/files/cni.conflist.tmpl" "$root/etc/containerd/"
install -m 644 "$here/files/default-cni.yaml" "$here/files/default-storage.yaml" "$root/kind/manifests/"

# Debian enables units that make no sense in a container; kind's image build removes the same ones.
rm -f "$root"/lib/systemd/system/{sysinit.target.wants/systemd-tmpfiles-setup.service,multi-user.target.wants/*} \
  "$root"/lib/systemd/system/{local-fs.target.wants/*,sockets.target.wants/*udev*,sockets.target.wants/*initctl*,basic.target.wants/*} \
  "$root"/etc/systemd/system/*.wants/*
echo ReadKMsg=no >> "$root/etc/systemd/journald.conf"
ln -sfn /usr/lib/systemd/systemd "$root/sbin/init"

install -m 755 "$BIN/kubernetes" "$root/usr/local/bin/kubernetes"
for name in kubeadm kubelet kubectl; do
  ln -s /usr/local/bin/kubernetes "$root/usr/bin/$name"
done

echo "packing the system images"
"$E2E" system-images --root "$root" --binaries "$BIN" --kubernetes "$KUBERNETES_VERSION" \
  --etcd "$ETCD_TAG" --coredns "$COREDNS_TAG" --pause "$PAUSE_TAG" --output "$root/root/system-images.tar"

echo "preloading them"
install -m 755 "$here/files/finish-in-chroot.sh" "$root/root/"
unshare --mount --propagation private chroot "$root" /root/finish-in-chroot.sh
rm -rf "$root"/root/{system-images.tar,finish-in-chroot.sh} "$root"/var/log/* "$root"/var/cache/debconf/*

echo "writing the image"
# Moved into place when complete, so that an interrupted run leaves no half of an image behind.
tar -C "$root" --numeric-owner --one-file-system -cf "$output.part" .
mv "$output.part" "$output"
