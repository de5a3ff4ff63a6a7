#!/bin/bash
# Makes this machine ready for the end-to-end tests and the demo, and says what it does. Everything
# it builds goes to ${XDG_CACHE_HOME:-~/.cache}/bytebase-operator, keyed by the content of what it
# was built from, so a second run, or another checkout, takes a second. Called by `make setup`.
#
# What it may do: install Debian packages (only as root), build kind, Helm and, where no node image
# can be pulled, Kubernetes itself from Go modules. It starts nothing that outlives it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/bytebase-operator
logs=$cache/logs
# How long a pull of the published node image (about 400 MB) may take before one is assembled.
pull_timeout=${E2E_PULL_TIMEOUT:-180}
heartbeat=30 # seconds between two lines of a long step
# shellcheck source=versions.env
. "$here/versions.env"
# shellcheck source=definitions.env
. "$here/definitions.env"
# shellcheck source=src/no_registry/setup.sh
. "$here/src/no_registry/setup.sh"
mkdir -p "$logs"
trap 'jobs -p | xargs -r kill 2> /dev/null || true' EXIT

say() { echo "setup: $*"; }

fail() {
  echo "setup: $*" >&2
  exit 1
}

have() { command -v "$1" > /dev/null; }

# hash PATH…: one short checksum over the names and contents of files and folders; texts for people
# build nothing.
hash() {
  (cd "$here" && find "$@" -type f ! -name '*.md' -print0 | sort -z | xargs -0 sha256sum) | sha256sum | cut -c 1-16
}

# long WHAT LOG COMMAND…: runs a command that takes its time, with a line now and then; its output
# goes to the log, whose end is shown if it fails.
long() {
  local what=$1 log=$logs/$2.log start=$SECONDS pid next
  shift 2
  say "$what …"
  "$@" > "$log" 2>&1 < /dev/null &
  pid=$!
  next=$((SECONDS + heartbeat))
  while kill -0 "$pid" 2> /dev/null; do
    sleep 0.5
    if ((SECONDS >= next)); then
      say "  … $what: $((SECONDS - start)) s"
      next=$((SECONDS + heartbeat))
    fi
  done
  if ! wait "$pid"; then
    tail -n 40 "$log" >&2
    fail "$what failed; the whole log: $log"
  fi
  say "  $what: done in $((SECONDS - start)) s"
}

engine_answers() { have docker && timeout 20 docker version --format '{{.Server.Version}}' > /dev/null 2>&1; }

# An engine that is there may know the image already or be able to pull it. kind's own image cannot
# start pods on a machine without CAP_SYS_RESOURCE, so there it is not even tried.
published_image_works() {
  engine_answers || return 1
  lacks_sys_resource && return 1
  docker image inspect "$PUBLISHED_NODE_IMAGE" > /dev/null 2>&1 && return 0
  say "pulling $PUBLISHED_NODE_IMAGE (at most $pull_timeout s) …"
  timeout "$pull_timeout" docker pull --quiet "$PUBLISHED_NODE_IMAGE" > "$logs/pull.log" 2>&1 && return 0
  say "  not possible: $(tail -n 1 "$logs/pull.log")"
  return 1
}

# install_packages ASSEMBLE: the Debian packages whose programs are missing.
install_packages() {
  local missing=()
  [ -n "${POSTGRES_BIN:-}" ] || have initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' > /dev/null || missing+=(postgresql)
  have pgbouncer || [ -x /usr/sbin/pgbouncer ] || missing+=(pgbouncer)
  have cc || missing+=(gcc libc6-dev)
  engine_answers || have dockerd || missing+=(docker.io)
  [ "$1" = no ] || assembly_packages
  ((${#missing[@]} > 0)) || return 0
  local command="apt-get update && apt-get install --yes --no-install-recommends ${missing[*]}"
  have apt-get || fail "missing here: ${missing[*]} (names of Debian packages). Install them by this system's own means and run it again."
  [ "$(id -u)" = 0 ] || fail "packages are missing. Run this line, then this again:  sudo sh -c '$command'"
  long "installing Debian packages: ${missing[*]}" packages env DEBIAN_FRONTEND=noninteractive sh -c "$command"
}

check_go() {
  have go || fail "Go 1.25 or newer is missing (https://go.dev/dl/): kind and Helm are built with it."
}

# build_go OUTPUT_DIR PACKAGE…: into a new folder that takes its name when it is complete.
build_go() {
  local output=$1 version=k8s.io/component-base/version client=k8s.io/client-go/pkg/version minor
  shift
  minor=${KUBERNETES_VERSION#v1.}
  rm -rf "$output.part"
  mkdir -p "$output.part"
  # Without these Kubernetes would call itself v0.0.0 and kubeadm would refuse it.
  (cd "$here" && GOFLAGS=-mod=readonly CGO_ENABLED=0 go build -trimpath -o "$output.part/" -ldflags "-s -w \
    -X $version.gitVersion=$KUBERNETES_VERSION -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*} \
    -X $client.gitVersion=$KUBERNETES_VERSION" "$@")
  if [ -x "$output.part/kubernetes" ]; then
    ln -s kubernetes "$output.part/kubectl"
  fi
  mv "$output.part" "$output"
}

go_tools=(helm.sh/helm/v4/cmd/helm sigs.k8s.io/kind)

use_published_image() {
  bin=$cache/go-tools-$(hash go.mod go.sum)
  [ -d "$bin" ] || long "building kind, Helm and kubectl (about 3 minutes)" go build_go "$bin" "${go_tools[@]}" k8s.io/kubernetes/cmd/kubectl
  image=$PUBLISHED_NODE_IMAGE archive=
}

# definition MODULE VERSION SUM PATH: a file out of a Go module whose checksum is known.
definition() {
  local found
  found=$(cd / && GONOSUMDB=$1 go mod download -json "$1@$2") || fail "$1@$2 cannot be downloaded: $found"
  grep -qF "\"Sum\": \"$3\"" <<< "$found" || fail "$1@$2 has another checksum than definitions.env says"
  cp "$(sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p' <<< "$found")/$4" "$definitions.part/"
}

# Kinds that Kubernetes itself does not bring, for the scenario that installs them.
fetch_definitions() {
  definitions=$cache/definitions-$(hash definitions.env)
  [ ! -d "$definitions" ] || return 0
  say "fetching the definitions of HTTPRoute and ServiceMonitor"
  rm -rf "$definitions.part"
  mkdir -p "$definitions.part"
  definition sigs.k8s.io/gateway-api "$GATEWAY_API_VERSION" "$GATEWAY_API_SUM" \
    config/crd/standard/gateway.networking.k8s.io_httproutes.yaml
  definition github.com/prometheus-operator/prometheus-operator "$PROMETHEUS_OPERATOR_VERSION" "$PROMETHEUS_OPERATOR_SUM" \
    example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml
  chmod -R u+w "$definitions.part"
  mv "$definitions.part" "$definitions"
}

exec 9> "$cache/setup.lock"
flock --nonblock 9 || { say "waiting for another setup on this machine"; flock 9; }

bin='' image='' archive='' definitions=''
if published_image_works; then
  install_packages no
  check_go
  use_published_image
else
  install_packages yes
  check_go
  assemble_image
fi

fetch_definitions

# What no checkout has used for a month goes; each node image takes half a gigabyte.
touch "$bin" "$definitions"
[ -z "$archive" ] || touch "$archive"
find "$cache" -maxdepth 1 \( -name 'go-*' -o -name 'node-image-*' -o -name 'debian-base-*' -o -name 'definitions-*' \) -mtime +30 -exec rm -rf {} +

mkdir -p "$repository/.cache"
cat > "$repository/.cache/setup.env" << ENV
# Written by e2e/setup.sh for this checkout; read by the harness.
KIND=$bin/kind
HELM=$bin/helm
KUBECTL=$bin/kubectl
NODE_IMAGE=$image
NODE_ARCHIVE=$archive
DEFINITIONS=$definitions
CACHE=$cache
ENV
say "ready: node image $image"
