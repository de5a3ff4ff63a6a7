#!/bin/sh
# Builds the image that ships, for this machine's architecture: two static binaries, and the Dockerfile that the release uses.
# Usage: image.sh REGISTRY/NAME:TAG
set -eu
cd "$(dirname "$0")"

image=${1:?usage: image.sh REGISTRY/NAME:TAG}
# A colon before the last slash is that of a registry's port.
case ${image##*/} in
  *:?*) ;;
  *) echo "image: $image has no tag: write REGISTRY/NAME:TAG" >&2; exit 2 ;;
esac

for engine in docker podman; do
  if command -v "$engine" >/dev/null && "$engine" info >/dev/null 2>&1; then found=$engine; break; fi
done
if [ -z "${found:-}" ]; then
  echo "image: neither docker nor podman is here and runs" >&2
  exit 2
fi

target=$(rustc -vV | sed -n 's/^host: //p')
case $target in
  x86_64-*-linux-*) arch=amd64 ;;
  aarch64-*-linux-*) arch=arm64 ;;
  *) echo "image: this machine is $target: build on Linux, on amd64 or arm64" >&2; exit 2 ;;
esac

# Naming the target keeps the flags from build scripts and procedural macros, which cannot be static.
RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --release \
  --package bytebase-operator --package bytebase-drain --bins --target "$target"
built=$(cargo metadata --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')/$target/release
mkdir -p "dist/$arch"
cp "$built/bytebase-operator" "$built/bytebase-drain" "dist/$arch/"
# A static program brings this machine's libc, and one that is too old cannot start what was linked (operator/build.rs).
"dist/$arch/bytebase-operator" --version >/dev/null || {
  echo "image: what was built does not run here: build with glibc 2.36 or later (Debian 12, Ubuntu 24.04)" >&2
  exit 1
}
# Given by hand as well: not every builder knows it by itself.
"$found" build --build-arg "TARGETARCH=$arch" --tag "$image" .

cat <<END
image: built $image. Bring it where the cluster finds it, one of:
  $found push $image
  kind load docker-image $image
Then install with --set image.repository=${image%:*} --set image.tag=${image##*:}
END
