{{/*
Every right the operator has where it serves BytebaseClusters, once: the ClusterRole and the Roles of namespaced mode both take it from here.
A comment above each rule names the calls that need it. No rule names a resource or verb that nothing uses.
*/}}
{{- define "bytebase-operator.rules" -}}
# The watch whose cache every reconcile begins with. `get` reads the status that stands where the API server did not take one, since the cluster
# has changed after the decision.
- apiGroups: [bytebase.com]
  resources: [bytebaseclusters]
  verbs: [get, list, watch]
# The end of a reconcile: the status, if it differs.
- apiGroups: [bytebase.com]
  resources: [bytebaseclusters/status]
  verbs: [patch]
# No call of its own: where the admission plug-in OwnerReferencesPermissionEnforcement is on, the API server asks for this before it lets an
# owned object name its BytebaseCluster with blockOwnerDeletion.
- apiGroups: [bytebase.com]
  resources: [bytebaseclusters/finalizers]
  verbs: [update]
# The replicas: watched, and applied (server-side apply is a patch, and a create where there is nothing yet). `get` reads an object that
# stands in the way of a new one, because the watch does not show it: it belongs to another party, or has lost the operator's labels. It also reads what is there of a kind below whose watch is refused.
# `delete` is no call of its own: the same plug-in asks for it before it lets an object that was left behind have an owner again. The operator deletes none: that is left to Kubernetes' garbage collection.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
# The client Service and the headless Service, likewise.
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
# The pods' ServiceAccount: applied, and deleted when `serviceAccount.name` names another.
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
# The Ingress: applied, and deleted when `ingress.enabled` is false.
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [get, list, watch, create, patch, delete]
# The HTTPRoute: applied, and deleted when `gateway` is taken out. Where the Gateway API is not installed, the watch finds nothing.
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, watch, create, patch, delete]
# The NetworkPolicy: applied, and deleted when `networkPolicy` is taken out.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# The ServiceMonitor of the replicas, likewise; where the Prometheus operator is not installed, the watch finds nothing.
- apiGroups: [monitoring.coreos.com]
  resources: [servicemonitors]
  verbs: [get, list, watch, create, patch, delete]
# The PodDisruptionBudget: applied, and deleted when `disruptionBudget.enabled` is false.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# Health and rollouts: which pods are there, Ready, and of which revision. Pods are never created or patched.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# The head of a replica's log, for the id under which it sends heartbeats. Of one that is not up, the last lines as well, for why.
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# Rollouts: one pod at a time, by an eviction, which respects the PodDisruptionBudget.
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
# The Secrets a spec names (connection string, license, admin's login, CA). `get` reads a value when it is needed and is not known; `list` and `watch` ask for
# metadata only, to learn that one changed. RBAC cannot express "metadata only": docs/security.md says what that means.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch]
# The CA bundle of `database.caConfigMapRef`: read, and watched for changes.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch]
# Why a pod that should be there could not be made: a quota, pod security, a webhook. Why one that is there does not start: a volume that cannot be
# attached or mounted, a network without an address. The operator watches events about StatefulSets, and those of pods with the reasons
# FailedAttachVolume, FailedMapVolume, FailedMount and FailedCreatePodSandBox.
- apiGroups: [""]
  resources: [events]
  verbs: [list, watch]
# What happened, for `kubectl describe`.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}

{{/* Leader election, in the operator's own namespace. */}}
{{- define "bytebase-operator.leaseRules" -}}
# The image of the operator's own pod, at its start: replicas copy the drain hook from it.
- apiGroups: [""]
  resources: [pods]
  verbs: [get]
# The first operator pod ever makes the Lease. A name cannot be demanded of an object that is yet to be made.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
# Every pod reads this one Lease; the leader renews it, and gives it back when it ends, which the others learn from a watch.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "bytebase-operator.fullname" . }}]
  verbs: [get, watch, update]
{{- end }}
