#!/usr/bin/env bash
# Writes config/rbac/rbac.yaml and config/manager/manager.yaml: the chart's objects with default values, for people who install with kustomize.
# So rights and pod settings are written down once, in the chart. Usage: charts/render-config.sh [FOLDER], by default the repository's config.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
helm=${HELM:-helm}
target=${1:-$repository/config}

# render FILE TEMPLATE…
render() {
  local file=$1 template only=()
  shift
  for template in "$@"; do
    only+=(--show-only "templates/$template")
  done
  mkdir -p "$(dirname "$file")"
  {
    echo '# Generated from charts/bytebase-operator by charts/render-config.sh. Do not edit: run `make generate`.'
    # What only Helm wants to know does not belong here.
    "$helm" template bytebase-operator "$repository/charts/bytebase-operator" --namespace bytebase-system "${only[@]}" |
      sed -e '/^# Source: /d' -e '/^ *helm\.sh\/chart: /d' -e '/^ *app\.kubernetes\.io\/managed-by: Helm$/d' -e '/^$/d'
  } > "$file"
}

render "$target/rbac/rbac.yaml" serviceaccount.yaml rbac.yaml rbac-users.yaml
render "$target/manager/manager.yaml" deployment.yaml poddisruptionbudget.yaml metrics.yaml
