#!/usr/bin/env bash
# Renders the chart with many values and the kustomize folders, and checks what comes out. Needs no cluster.
# HELM and KUBECTL name the programs; by default they are looked up in PATH.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
chart=$repository/charts/bytebase-operator
helm=${HELM:-helm}
kubectl=${KUBECTL:-kubectl}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
checks=0
failures=0
title='before the first test'

# --- Helpers

# begin TITLE: names what follows, for the message of a failed check.
begin() { title=$1; }

fail() {
  echo "FAILED: $title: $*" >&2
  failures=$((failures + 1))
}

# check MESSAGE COMMAND…
check() {
  local message=$1
  shift
  checks=$((checks + 1))
  "$@" > "$work/said" 2>&1 || { fail "$message"; head -n 20 "$work/said" >&2; }
}

# render [HELM ARGUMENT…]: the chart's objects, in one normal form (sorted keys, no comments, block style), into $work/objects.
render() {
  rm -rf "$work/build"
  mkdir "$work/build"
  "$helm" template bytebase-operator "$chart" --namespace operators "$@" > "$work/build/all.yaml"
  echo 'resources: [all.yaml]' > "$work/build/kustomization.yaml"
  "$kubectl" kustomize "$work/build" > "$work/objects"
}

# object KIND [NAME] [FILE]: the documents of that kind and name.
object() {
  awk -v kind="$1" -v name="${2:-}" '
    function flush() { if (document ~ "(^|\n)kind: " kind "\n" && (name == "" || document ~ "\n  name: " name "\n")) printf "---\n%s", document; document = "" }
    /^---$/ { flush(); next }
    { document = document $0 "\n" }
    END { flush() }' "${3:-$work/objects}"
}

there() { [ -n "$(object "$@")" ]; }
absent() { [ -z "$(object "$@")" ]; }

# has KIND NAME TEXT and lacks KIND NAME TEXT: whether the object holds these lines one after the other. Indentation and the dash of a list's
# item don't count.
bare() { sed -E 's/^ *(- )*//'; }
holds() {
  object "$1" "$2" | bare > "$work/object"
  [ -s "$work/object" ] || return 2
  printf '%s\n' "$3" | bare > "$work/wanted"
  awk 'NR == FNR { wanted = wanted $0 "\n"; next } { text = text $0 "\n" } END { exit !index("\n" text, "\n" wanted) }' "$work/wanted" "$work/object"
}
has() { check "$1 $2 should hold: $3" holds "$1" "$2" "$3"; }
does_not_hold() { ! holds "$1" "$2" "$3" && [ -s "$work/object" ]; }
lacks() { check "$1 $2 should not hold: $3" does_not_hold "$1" "$2" "$3"; }
exists() { check "there should be a $1 ${2:-}" there "$@"; }
missing() { check "there should be no $1 ${2:-}" absent "$@"; }

# refused WORDS HELM-ARGUMENT…: Helm must refuse these values, and its message must hold these words.
refused() {
  local words=$1
  shift
  checks=$((checks + 1))
  if "$helm" template bytebase-operator "$chart" "$@" > /dev/null 2> "$work/said"; then
    fail "accepted: $*"
  elif ! grep -qF -- "$words" "$work/said"; then
    fail "refused $*, but without saying '$words'"
    cat "$work/said" >&2
  fi
}

# rules KIND NAME [FILE]: the rules of a role.
rules() { object "$@" | sed -n '/^rules:$/,/^[^ r-]/p' | grep -v '^---$' || true; }

# --- The chart

begin 'lint'
check 'helm lint' "$helm" lint --strict "$chart"

begin 'default values'
render
exists CustomResourceDefinition bytebaseclusters.bytebase.com
has CustomResourceDefinition bytebaseclusters.bytebase.com 'helm.sh/resource-policy: keep'
has CustomResourceDefinition bytebaseclusters.bytebase.com 'argocd.argoproj.io/sync-options: Prune=false,Delete=false'
has CustomResourceDefinition bytebaseclusters.bytebase.com 'kustomize.toolkit.fluxcd.io/prune: disabled'
exists ClusterRole operators-bytebase-operator
exists ClusterRole operators-bytebase-operator-view
exists ClusterRole operators-bytebase-operator-edit
has ClusterRoleBinding operators-bytebase-operator $'- kind: ServiceAccount\nname: bytebase-operator\nnamespace: operators'
has ServiceAccount bytebase-operator 'automountServiceAccountToken: false'
exists Role bytebase-operator-lease
has Role bytebase-operator-lease $'resourceNames:\n- bytebase-operator\nresources:\n- leases\nverbs:\n- get\n- watch\n- update'
exists Service bytebase-operator-metrics
missing ServiceMonitor
missing PrometheusRule
has PodDisruptionBudget bytebase-operator $'maxUnavailable: 1\nselector:\nmatchLabels:\napp.kubernetes.io/instance: bytebase-operator'
missing NetworkPolicy
missing ConfigMap
has Deployment bytebase-operator 'replicas: 2'
has Deployment bytebase-operator 'image: ghcr.io/bytebase-operator/bytebase-operator:'"$(sed -n 's/^appVersion: "\(.*\)"$/\1/p' "$chart/Chart.yaml")"
has Deployment bytebase-operator $'- args:\n- run\n- --http-address=0.0.0.0:8080\n- --lease-name=bytebase-operator\n- --license-guard-seconds=600'
has Deployment bytebase-operator $'fieldPath: metadata.name'
has Deployment bytebase-operator $'fieldPath: metadata.namespace'
has Deployment bytebase-operator $'name: LOG_FORMAT\nvalue: json'
has Deployment bytebase-operator $'name: MALLOC_ARENA_MAX\nvalue: "2"'
has Deployment bytebase-operator $'path: /livez\nport: http'
has Deployment bytebase-operator $'path: /readyz\nport: http'
has Deployment bytebase-operator $'allowPrivilegeEscalation: false\ncapabilities:\ndrop:\n- ALL\nreadOnlyRootFilesystem: true'
has Deployment bytebase-operator $'runAsNonRoot: true\nrunAsUser: 65532\nseccompProfile:\ntype: RuntimeDefault'
has Deployment bytebase-operator $'limits:\nmemory: 128Mi\nrequests:\ncpu: 20m\nmemory: 32Mi'
has Deployment bytebase-operator $'topologySpreadConstraints:\n- labelSelector:\nmatchLabels:\napp.kubernetes.io/instance: bytebase-operator'
# Without the variable the operator serves every namespace.
lacks Deployment bytebase-operator 'name: WATCH_NAMESPACES'
lacks Deployment bytebase-operator 'name: CLUSTER_LABELS'
lacks Deployment bytebase-operator 'name: LICENSE_PUBLIC_KEY_FILE'

begin 'namespaced mode'
render --set 'watchNamespaces={team-a,team-b}'
missing ClusterRole
missing ClusterRoleBinding
for namespace in team-a team-b; do
  check "a Role in $namespace" grep -q "^  namespace: $namespace\$" <(object Role operators-bytebase-operator)
  check "a RoleBinding in $namespace" grep -q "^  namespace: $namespace\$" <(object RoleBinding operators-bytebase-operator)
done
has RoleBinding operators-bytebase-operator $'- kind: ServiceAccount\nname: bytebase-operator\nnamespace: operators'
exists Role bytebase-operator-lease
has Deployment bytebase-operator $'name: WATCH_NAMESPACES\nvalue: team-a,team-b'
render --set 'watchNamespaces={team-a}'
rules Role operators-bytebase-operator > "$work/namespaced"
render
rules ClusterRole operators-bytebase-operator > "$work/clusterwide"
check 'the cluster role has rules' test -s "$work/clusterwide"
check 'both modes grant the same' diff "$work/clusterwide" "$work/namespaced"

begin 'labels of clusters'
render --set 'clusterLabels.example\.com/shard=a,clusterLabels.tier=gold'
has Deployment bytebase-operator $'name: CLUSTER_LABELS\nvalue: example.com/shard=a,tier=gold'

begin 'license key'
key=$'-----BEGIN PUBLIC KEY-----\nbm90IGEga2V5\n-----END PUBLIC KEY-----'
printf '%s\n' "$key" > "$work/key.pem"
render --set-file "license.publicKey=$work/key.pem"
has ConfigMap bytebase-operator-license-key "$key"
has Deployment bytebase-operator $'name: LICENSE_PUBLIC_KEY_FILE\nvalue: /etc/bytebase-operator/license/public-key.pem'
has Deployment bytebase-operator $'mountPath: /etc/bytebase-operator/license\nname: license-key\nreadOnly: true'
has Deployment bytebase-operator $'configMap:\nname: bytebase-operator-license-key'
has Deployment bytebase-operator "checksum/license-key: $(printf '%s' "$key" | sha256sum | cut -d ' ' -f 1)"

begin 'image'
digest=sha256:$(printf 'a%.0s' {1..64})
render --set image.repository=registry.example.com/op,image.tag=1.2.3,image.pullPolicy=Never,imagePullSecrets[0].name=pull
has Deployment bytebase-operator 'image: registry.example.com/op:1.2.3'
has Deployment bytebase-operator 'imagePullPolicy: Never'
has Deployment bytebase-operator $'imagePullSecrets:\n- name: pull'
render --set "image.tag=1.2.3,image.digest=$digest"
has Deployment bytebase-operator "image: ghcr.io/bytebase-operator/bytebase-operator@$digest"

begin 'everything set'
cat > "$work/all.yaml" <<'END'
replicaCount: 3
licenseGuardSeconds: 86400
logFormat: text
logFilter: info,bytebase_operator=debug
bindAddress: "[::]"
priorityClassName: system-cluster-critical
nodeSelector: { disk: ssd }
tolerations: [{ key: dedicated, operator: Exists }]
affinity: { nodeAffinity: { preferredDuringSchedulingIgnoredDuringExecution: [] } }
topologySpreadConstraints: []
podAnnotations: { example.com/note: here }
# The chart's own labels win: one that the selector needs cannot be changed by accident.
podLabels: { example.com/team: db, app.kubernetes.io/name: other }
commonLabels: { example.com/owner: me }
podSecurityContext: { runAsUser: null }
env: [{ name: OPERATOR_IMAGE, value: "registry.example.com/mirror/bytebase-operator:1" }]
serviceAccount: { name: robot, annotations: { example.com/role: none } }
rbac: { aggregateToUserRoles: false }
podDisruptionBudget: { enabled: true, maxUnavailable: 50% }
metrics:
  service: { port: 9090, annotations: { example.com/scrape: "yes" } }
  serviceMonitor: { enabled: true, interval: 1m, scrapeTimeout: 20s, labels: { release: prometheus } }
  prometheusRule: { enabled: true, labels: { release: prometheus } }
END
render --values "$work/all.yaml"
has Deployment bytebase-operator 'replicas: 3'
has Deployment bytebase-operator $'- --http-address=[::]:8080'
has Deployment bytebase-operator $'- --license-guard-seconds=86400'
has Deployment bytebase-operator $'name: LOG_FILTER\nvalue: info,bytebase_operator=debug'
has Deployment bytebase-operator $'name: LOG_FORMAT\nvalue: text'
has Deployment bytebase-operator 'priorityClassName: system-cluster-critical'
has Deployment bytebase-operator $'nodeSelector:\ndisk: ssd'
has Deployment bytebase-operator $'tolerations:\n- key: dedicated\noperator: Exists'
has Deployment bytebase-operator 'preferredDuringSchedulingIgnoredDuringExecution: []'
has Deployment bytebase-operator 'example.com/note: here'
has Deployment bytebase-operator 'example.com/team: db'
has Deployment bytebase-operator 'example.com/owner: me'
has Deployment bytebase-operator $'name: OPERATOR_IMAGE\nvalue: registry.example.com/mirror/bytebase-operator:1'
has Deployment bytebase-operator 'serviceAccountName: robot'
lacks Deployment bytebase-operator 'topologySpreadConstraints:'
lacks Deployment bytebase-operator 'app.kubernetes.io/name: other'
lacks Deployment bytebase-operator 'runAsUser: 65532'
has ServiceAccount robot 'example.com/role: none'
has ClusterRoleBinding operators-bytebase-operator $'- kind: ServiceAccount\nname: robot\nnamespace: operators'
missing ClusterRole operators-bytebase-operator-view
has PodDisruptionBudget bytebase-operator 'maxUnavailable: 50%'
has Service bytebase-operator-metrics $'port: 9090\nprotocol: TCP\ntargetPort: http'
has Service bytebase-operator-metrics 'example.com/scrape: "yes"'
has ServiceMonitor bytebase-operator $'interval: 1m\npath: /metrics\nport: metrics\nscrapeTimeout: 20s'
has ServiceMonitor bytebase-operator 'honorLabels: true'
has ServiceMonitor bytebase-operator 'release: prometheus'
has PrometheusRule bytebase-operator 'release: prometheus'
has PrometheusRule bytebase-operator 'alert: BytebaseNotReady'
has PrometheusRule bytebase-operator 'alert: BytebaseDatabaseNotReady'
has PrometheusRule bytebase-operator 'sum by (namespace, service) (bytebase_operator_leader) == 0'
# Prometheus' own templates are passed on as they are.
has PrometheusRule bytebase-operator 'summary: Bytebase {{ $labels.namespace }}/{{ $labels.name }} is not Ready'

begin 'alerts for several Kubernetes clusters'
render --set 'metrics.prometheusRule.enabled=true,metrics.prometheusRule.aggregationLabels={region,cluster}'
has PrometheusRule bytebase-operator 'sum by (region, cluster, namespace, service) (bytebase_operator_leader) == 0'
has PrometheusRule bytebase-operator 'and on (region, cluster) max by (region, cluster) (bytebase_operator_leader) == 1'
groupings() { object PrometheusRule | grep -oE '(by|on) \([^)]*\)|max\(' > "$work/groupings" && ! grep -vE '^(by|on) \(region, cluster[,)]' "$work/groupings"; }
check 'a rule does not group by these labels' groupings

begin 'network policy'
render --set networkPolicy.enabled=true
has NetworkPolicy bytebase-operator $'podSelector:\nmatchLabels:\napp.kubernetes.io/instance: bytebase-operator\napp.kubernetes.io/name: bytebase-operator\npolicyTypes:\n- Ingress\n- Egress'
# Every address of an API server and of a database, unless they are named.
has NetworkPolicy bytebase-operator $'egress:\n- ports:\n- port: 443\nprotocol: TCP\n- port: 6443\nprotocol: TCP\n- ports:\n- port: 53\nprotocol: UDP\n- port: 53\nprotocol: TCP\n- ports:\n- port: 5432\nprotocol: TCP\n- ports:\n- port: 8080'
has NetworkPolicy bytebase-operator $'- port: 8080\nprotocol: TCP\nto:\n- namespaceSelector: {}\npodSelector:\nmatchLabels:\napp.kubernetes.io/managed-by: bytebase-operator'
has NetworkPolicy bytebase-operator $'ingress:\n- ports:\n- port: http\nprotocol: TCP\npodSelector:'
cat > "$work/policy.yaml" <<'END'
watchNamespaces: [team-a, team-b]
networkPolicy:
  enabled: true
  metricsFrom: [{ namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: monitoring } } }]
  apiServer: { ports: [16443], to: [{ ipBlock: { cidr: 192.0.2.1/32 } }] }
  dns: { to: [{ ipBlock: { cidr: 203.0.113.10/32 } }] }
  databases: { ports: [5432, 6432], to: [{ ipBlock: { cidr: 198.51.100.0/24 } }] }
  extraEgress: [{ ports: [{ port: 3128 }] }]
END
render --values "$work/policy.yaml"
has NetworkPolicy bytebase-operator $'- port: 16443\nprotocol: TCP\nto:\n- ipBlock:\ncidr: 192.0.2.1/32'
has NetworkPolicy bytebase-operator $'- port: 53\nprotocol: UDP\n- port: 53\nprotocol: TCP\nto:\n- ipBlock:\ncidr: 203.0.113.10/32'
has NetworkPolicy bytebase-operator $'- port: 5432\nprotocol: TCP\n- port: 6432\nprotocol: TCP\nto:\n- ipBlock:\ncidr: 198.51.100.0/24'
has NetworkPolicy bytebase-operator $'- namespaceSelector:\nmatchExpressions:\n- key: kubernetes.io/metadata.name\noperator: In\nvalues:\n- team-a\n- team-b\npodSelector:'
has NetworkPolicy bytebase-operator $'- ports:\n- port: 3128'
has NetworkPolicy bytebase-operator $'ingress:\n- from:\n- namespaceSelector:\nmatchLabels:\nkubernetes.io/metadata.name: monitoring\nports:\n- port: http'

# As with `helm upgrade --reuse-values` from a chart without these values.
render --set networkPolicy.enabled=true,networkPolicy.dns=null
has NetworkPolicy bytebase-operator $'- port: 53\nprotocol: UDP\n- port: 53\nprotocol: TCP\n- ports:'
render --set networkPolicy=null
missing NetworkPolicy

begin 'switched off'
render --set crds.install=false,rbac.create=false,serviceAccount.create=false,serviceAccount.name=mine,metrics.service.enabled=false,podDisruptionBudget.enabled=false
for kind in CustomResourceDefinition ClusterRole ClusterRoleBinding Role RoleBinding ServiceAccount Service PodDisruptionBudget; do
  missing "$kind"
done
has Deployment bytebase-operator 'serviceAccountName: mine'

begin 'names'
render --set fullnameOverride=other
has Deployment other '- --lease-name=other'
has Role other-lease $'resourceNames:\n- other'

begin 'bad values'
refused 'replicaCont' --set replicaCont=3
refused 'logFormat' --set logFormat=xml
refused 'watchNamespaces' --set 'watchNamespaces={Team_A}'
refused 'watchNamespaces' --set watchNamespaces=team-a
refused 'clusterLabels' --set clusterLabels=a
refused 'publicKey' --set license.publicKey=secret
refused 'digest' --set image.digest=abc
refused 'licenseGuardSeconds' --set licenseGuardSeconds=-1
refused 'installed' --set crds.installed=true
refused 'bindAddress' --set bindAddress=::
refused 'metrics.service.enabled' --set metrics.service.enabled=false,metrics.serviceMonitor.enabled=true
refused 'serviceAccount.name' --set serviceAccount.create=false
refused 'aggregationLabels' --set 'metrics.prometheusRule.aggregationLabels={name}'
refused 'ports' --set-json 'networkPolicy.databases.ports=[]'
refused 'ports' --set 'networkPolicy.apiServer.ports={https}'

begin 'values'
"$repository/charts/render-readme.sh" > "$work/readme"
check 'charts/bytebase-operator/README.md is out of date: run make generate' diff "$chart/README.md" "$work/readme"
# Each value that the page lists, misspelt: one refusal names all of them.
values=$(sed -n 's/^| `\([A-Za-z.]*\)` |.*/\1/p' "$work/readme")
check 'the page lists the values' test "$(wc -l <<< "$values")" -gt 50
misspelt=$(sed 's/$/x=1/' <<< "$values" | paste -sd ,)
"$helm" template bytebase-operator "$chart" --set "$misspelt" > /dev/null 2> "$work/refused" || true
for value in $values; do
  key=${value##*.}
  parent=${value%"$key"}
  parent=${parent:+/${parent%.}}
  check "${value}x is accepted" grep -qE "^ *- at '${parent//.//}': .*'${key}x'" "$work/refused"
done

# --- Rights

begin 'rights'
render
rules ClusterRole operators-bytebase-operator > "$work/rules"
check 'the rules were found' grep -q '^  - bytebaseclusters$' "$work/rules"
no_wildcard() { ! grep -nE "^ *- *[\"']?\*[\"']?\$" "$1"; }
for kind in ClusterRole Role; do
  object "$kind" > "$work/roles"
  check "a $kind has a wildcard" no_wildcard "$work/roles"
done
for source in _rules.tpl rbac-users.yaml; do
  check "$source: a rule without a comment on the line above it" awk '
    /^ *- apiGroups:/ { rules++; if (before !~ /^ *#/) { print FILENAME ":" FNR ": " $0; bad = 1 } }
    { before = $0 }
    END { exit bad || rules == 0 }' "$chart/templates/$source"
done
check 'a rule is written outside the two commented files' test -z \
  "$(grep -l 'apiGroups:' "$chart"/templates/* | grep -v -e '/_rules.tpl$' -e '/rbac-users.yaml$')"

# --- Kustomize

begin 'config'
check 'charts/render-config.sh' "$repository/charts/render-config.sh" "$work/config"
for file in rbac/rbac.yaml manager/manager.yaml; do
  check "config/$file is out of date: run make generate" diff "$repository/config/$file" "$work/config/$file"
done
check 'kustomize of config/default' "$kubectl" kustomize "$repository/config/default" --output "$work/default"
check 'kustomize of config/samples' "$kubectl" kustomize "$repository/config/samples" --output "$work/samples"
for kind in Namespace CustomResourceDefinition ServiceAccount ClusterRole Role Deployment PodDisruptionBudget; do
  check "config/default has no $kind" there "$kind" '' "$work/default"
done
rules ClusterRole bytebase-system-bytebase-operator "$work/default" > "$work/kustomized"
check 'chart and config grant different rights' diff "$work/rules" "$work/kustomized"
check 'config still speaks of Helm' test -z "$(grep -n 'helm' "$work/default" || true)"

begin 'crds'
check 'the chart and crds/ hold different CRDs: run make generate' diff "$repository/crds/bytebaseclusters.bytebase.com.yaml" "$chart/files/crd.yaml"

begin 'samples'
for sample in "$repository"/config/samples/*.yaml; do
  name=$(basename "$sample")
  [ "$name" = kustomization.yaml ] && continue
  check "$name is not listed in config/samples/kustomization.yaml" grep -qx "  - $name" "$repository/config/samples/kustomization.yaml"
  check "$name has no BytebaseCluster" grep -q '^kind: BytebaseCluster$' "$sample"
done

if ((failures > 0)); then
  echo "charts/test.sh: $failures of $checks checks failed" >&2
  exit 1
fi
echo "charts/test.sh: $checks checks passed"
