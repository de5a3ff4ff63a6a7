#!/bin/bash
# Runs inside the node's file tree: enables the units and puts the system images into containerd's
# store, so that a node never pulls anything. /root/system-images.tar is the archive.
set -euo pipefail

mount -t proc proc /proc
mount -t tmpfs tmpfs /run
trap 'umount /run /proc' EXIT

systemctl --quiet enable kubelet.service containerd.service undo-mount-hacks.service
systemctl --quiet mask systemd-binfmt.service

# What every container of the node starts from: containerd's default with kind's hook that hides
# the machine's product files, and without limits, which an unprivileged outer container may not raise.
ctr oci spec |
  jq '.hooks.createContainer += [{"path": "/kind/bin/mount-product-files.sh"}] | del(.process.rlimits)' \
    > /etc/containerd/cri-base.json

containerd > /run/containerd.log 2>&1 &
containerd=$!
for attempt in $(seq 100); do
  ctr version > /dev/null 2>&1 && break
  if [ "$attempt" = 100 ]; then
    echo "containerd did not start:" >&2
    cat /run/containerd.log >&2
    exit 1
  fi
  sleep 0.1
done
# Unpacking waits for the node: its snapshotter is chosen there.
ctr --namespace k8s.io images import --all-platforms --no-unpack /root/system-images.tar > /dev/null
for image in $(ctr --namespace k8s.io images list --quiet); do
  ctr --namespace k8s.io images label "$image" io.cri-containerd.pinned=pinned > /dev/null
done
kill "$containerd"
wait "$containerd" || true # containerd answers SIGTERM with a non-zero code
