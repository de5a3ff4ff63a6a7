# The part of `make setup` for machines that can pull no image. Read by ../../setup.sh, which brings
# `here` (the folder e2e), `repository`, `cache`, `logs` and the functions that this one calls.

# From the folder e2e, as the checksums name it.
node_image=src/no_registry/node-image

# kind's own image cannot start pods without it.
lacks_sys_resource() {
  local bounding
  bounding=$(sed -n 's/^CapBnd:\t//p' /proc/self/status)
  (((0x$bounding >> 24 & 1) == 0))
}

# The packages that assembling needs, to those that are `missing`.
assembly_packages() {
  have debootstrap || missing+=(debootstrap)
  engine_answers || have runc || missing+=(runc)
  engine_answers || have iptables || missing+=(iptables)
}

assemble_image() {
  [ "$(id -u)" = 0 ] ||
    fail "$PUBLISHED_NODE_IMAGE cannot be pulled here, and assembling a node image needs root. Start a Docker engine that can pull it, or run this as root."
  local base
  bin=$cache/go-$(hash versions.env go.mod go.sum "$node_image"/{kubernetes,coredns,pause})
  base=$cache/debian-base-$(hash versions.env "$node_image/debian-base.sh").tar
  archive=$cache/node-image-$(hash versions.env "$node_image" src/images/archive.rs src/no_registry/system_images.rs).tar
  image=bytebase-operator-e2e/node:$KUBERNETES_VERSION-$(basename "$archive" .tar | sed 's/.*-//')
  if [ ! -f "$archive" ]; then
    say "no published node image can be used here: assembling one from Debian packages and Go modules"
    # The one waits for the network, the other for the processors.
    local fetching=
    if [ ! -f "$base" ]; then
      "$here/$node_image/debian-base.sh" "$cache/debian-base.work" "$base" > "$logs/debian-base.log" 2>&1 < /dev/null &
      fetching=$!
    fi
    [ -d "$bin" ] || long "building Kubernetes, CoreDNS, kind and Helm (5 to 10 minutes on two cores)" go \
      build_go "$bin" "./$node_image/"{kubernetes,coredns,pause} "${go_tools[@]}"
    if [ -n "$fetching" ]; then
      wait "$fetching" || { tail -n 20 "$logs/debian-base.log" >&2; fail "debootstrap failed; the whole log: $logs/debian-base.log"; }
    fi
    long "building the harness" cargo cargo build --quiet --manifest-path "$repository/Cargo.toml" --package bytebase-e2e
    long "assembling the node image" node-image env BASE="$base" BIN="$bin" \
      KIND_FILES="$(cd "$here" && go list -m -f '{{.Dir}}' sigs.k8s.io/kind)/images/base/files" \
      E2E="${CARGO_TARGET_DIR:-$repository/target}/debug/e2e" \
      "$here/$node_image/build.sh" "$cache/node-image.work" "$archive"
  fi
}
