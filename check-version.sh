#!/bin/sh
# Checks that everything that names this project's version names the same one. The release workflow runs it before anything else.
# Usage: check-version.sh VERSION
set -eu
cd "$(dirname "$0")"

version=${1:?usage: check-version.sh VERSION}
failed=
# expect FILE WHAT FOUND
expect() {
  [ "$3" = "$version" ] || { echo "check-version: $1: $2 should be $version, and is ${3:-missing}" >&2; failed=yes; }
}

expect Cargo.toml version "$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)"
for lock in Cargo.lock operator/fuzz/Cargo.lock; do
  expect "$lock" 'the version of bytebase-contract' "$(sed -n '/^name = "bytebase-contract"$/{n;s/^version = "\(.*\)"$/\1/p}' "$lock")"
done
expect charts/bytebase-operator/Chart.yaml version "$(sed -n 's/^version: //p' charts/bytebase-operator/Chart.yaml)"
expect charts/bytebase-operator/Chart.yaml appVersion "$(sed -n 's/^appVersion: "\(.*\)"$/\1/p' charts/bytebase-operator/Chart.yaml)"
expect config/manager/manager.yaml 'the tag of the image' "$(sed -n 's/^ *image: ".*:\(.*\)"$/\1/p' config/manager/manager.yaml)"
expect CHANGELOG.md 'the newest heading' "$(sed -n 's/^## \([^ ]*\).*$/\1/p' CHANGELOG.md | head -n 1)"
# What a reader copies: the released image, and the configuration of a release.
for page in README.md docs/*.md; do
  for named in $(grep -oE 'bytebase-operator/bytebase-operator(:|/config/default\?ref=v)[0-9][0-9A-Za-z.+-]*' "$page" | sed -E 's/.*(:|=v)//' | sort -u); do
    expect "$page" 'a version of the operator' "$named"
  done
done
[ -z "$failed" ]
