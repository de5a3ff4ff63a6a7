//! The one list of Kubernetes kinds that the operator watches or writes, with what is true of each.
//!
//! Pure: names and facts. Caches, watches, metrics, pruning and the order of writes follow from
//! this list, so a new kind that a cluster owns is one line here, one builder in `desired` with its
//! golden file, and the operator's rights on it. Of one that lets users in from outside it is also
//! observed whether its object stands.

use strum::IntoEnumIterator as _;

/// What is true of a kind.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Copy)]
struct Facts {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    /// Name of the kind, where it is not spelled like its variant.
    name: Option<&'static str>,
    is_owned: bool,
    is_prunable: bool,
    exposes: bool,
    is_needed_by_pods: bool,
    optional: Option<Optional>,
}

/// A kind that Kubernetes itself does not bring.
#[derive(Clone, Copy)]
struct Optional {
    /// The field of a `BytebaseCluster` that asks for it.
    field: &'static str,
    /// Whose definitions bring it.
    brought_by: &'static str,
}

/// A kind of which a cluster owns nothing, unless more is said of it.
const fn of(group: &'static str, version: &'static str, plural: &'static str) -> Facts {
    Facts {
        group,
        version,
        plural,
        name: None,
        is_owned: false,
        is_prunable: false,
        exposes: false,
        is_needed_by_pods: false,
        optional: None,
    }
}

impl Facts {
    const fn named(self, name: &'static str) -> Self {
        Self {
            name: Some(name),
            ..self
        }
    }

    /// A cluster has objects of it.
    const fn owned(self) -> Self {
        Self {
            is_owned: true,
            ..self
        }
    }

    /// The spec can do without it, so the operator deletes its own where it is no longer wanted.
    const fn prunable(self) -> Self {
        Self {
            is_prunable: true,
            ..self
        }
    }

    /// It lets users in from outside.
    const fn exposes(self) -> Self {
        Self {
            exposes: true,
            ..self
        }
    }

    /// A pod is made from it, or cannot be made without it.
    const fn needed_by_pods(self) -> Self {
        Self {
            is_needed_by_pods: true,
            ..self
        }
    }

    /// A Kubernetes cluster may well lack it.
    const fn optional(self, field: &'static str, brought_by: &'static str) -> Self {
        Self {
            optional: Some(Optional { field, brought_by }),
            ..self
        }
    }
}

macro_rules! kinds {
    ($($variant:ident: $facts:expr;)*) => {
        /// A kind that the operator watches or writes. Owned kinds are ordered as they are
        /// applied.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, strum::EnumIter,
            strum::IntoStaticStr,
        )]
        #[expect(missing_docs, reason = "each is the kind it is named after")]
        pub enum Kind {
            $($variant,)*
        }

        impl Kind {
            const fn facts(self) -> Facts {
                match self {
                    $(Self::$variant => $facts,)*
                }
            }
        }
    };
}

kinds! {
    BytebaseCluster: of("bytebase.com", "v1alpha1", "bytebaseclusters");
    ConfigMap: of("", "v1", "configmaps");
    Event: of("events.k8s.io", "v1", "events");
    Lease: of("coordination.k8s.io", "v1", "leases");
    Pod: of("", "v1", "pods");
    Secret: of("", "v1", "secrets");
    // What pods need comes before the pods, what lets users in comes last.
    ServiceAccount: of("", "v1", "serviceaccounts").owned().prunable().needed_by_pods();
    NetworkPolicy: of("networking.k8s.io", "v1", "networkpolicies").owned().prunable();
    Service: of("", "v1", "services").owned();
    StatefulSet: of("apps", "v1", "statefulsets").owned().needed_by_pods();
    PodDisruptionBudget: of("policy", "v1", "poddisruptionbudgets").owned().prunable();
    ServiceMonitor: of("monitoring.coreos.com", "v1", "servicemonitors").owned().prunable()
        .optional("spec.monitoring.serviceMonitor", "the Prometheus operator");
    Ingress: of("networking.k8s.io", "v1", "ingresses").owned().prunable().exposes();
    HttpRoute: of("gateway.networking.k8s.io", "v1", "httproutes").named("HTTPRoute")
        .owned().prunable().exposes().optional("spec.gateway", "the Gateway API");
}

impl Kind {
    /// Kinds of which a cluster has objects, in the order in which they are applied.
    pub fn owned() -> impl DoubleEndedIterator<Item = Self> {
        Self::iter().filter(|kind| kind.facts().is_owned)
    }

    /// The kind as a label of metrics, such as `HttpRoute`; the names of metrics are public.
    pub fn metric_label(self) -> &'static str {
        self.into()
    }

    /// The kind as Kubernetes spells it, such as `HTTPRoute`.
    pub fn name(self) -> &'static str {
        self.facts().name.unwrap_or(self.into())
    }

    /// API group; empty for the core group.
    pub const fn group(self) -> &'static str {
        self.facts().group
    }

    /// Version of the API, such as `v1`.
    pub const fn version(self) -> &'static str {
        self.facts().version
    }

    /// Group and version as an object carries them, such as `apps/v1`.
    pub fn api_version(self) -> String {
        match self.facts() {
            Facts {
                group: "", version, ..
            } => version.to_owned(),
            Facts { group, version, .. } => format!("{group}/{version}"),
        }
    }

    /// Name of the resource in the API, such as `statefulsets`.
    pub const fn plural(self) -> &'static str {
        self.facts().plural
    }

    /// Whether the operator deletes its object where the spec no longer wants one.
    pub const fn is_prunable(self) -> bool {
        self.facts().is_prunable
    }

    /// Whether it lets users in from outside.
    pub const fn exposes(self) -> bool {
        self.facts().exposes
    }

    /// Whether a pod is made from it, or cannot be made without it.
    pub const fn is_needed_by_pods(self) -> bool {
        self.facts().is_needed_by_pods
    }

    /// Whether its objects are to stand before the StatefulSet is written: it comes before that one
    /// in the order in which kinds are applied.
    pub fn comes_before_pods(self) -> bool {
        self < Self::StatefulSet
    }

    /// Whether a Kubernetes cluster may well lack the kind.
    pub const fn is_optional(self) -> bool {
        self.facts().optional.is_some()
    }

    /// Whose definitions bring the kind, where Kubernetes itself does not.
    pub fn brought_by(self) -> Option<&'static str> {
        self.facts().optional.map(|optional| optional.brought_by)
    }

    /// The field of a `BytebaseCluster` that asks for a kind which Kubernetes itself does not
    /// bring.
    pub fn asked_for_by(self) -> Option<&'static str> {
        self.facts().optional.map(|optional| optional.field)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::Resource;

    #[test]
    fn kinds_are_named_as_kubernetes_and_as_metrics_name_them() {
        let route = Kind::HttpRoute;
        assert_eq!(
            (route.name(), route.metric_label()),
            ("HTTPRoute", "HttpRoute")
        );
        assert_eq!(route.api_version(), "gateway.networking.k8s.io/v1");
        assert_eq!(Kind::Pod.api_version(), "v1");
        assert_eq!(Kind::Pod.to_string(), "Pod");
    }

    #[test]
    fn the_types_of_the_client_are_called_the_same() {
        fn is<K: Resource<DynamicType = ()>>(kind: Kind) {
            assert_eq!(K::kind(&()), kind.name());
            assert_eq!(K::api_version(&()), kind.api_version());
            assert_eq!(K::plural(&()), kind.plural());
        }
        is::<crate::api::BytebaseCluster>(Kind::BytebaseCluster);
        is::<k8s_openapi::api::core::v1::ConfigMap>(Kind::ConfigMap);
        is::<k8s_openapi::api::events::v1::Event>(Kind::Event);
        is::<k8s_openapi::api::coordination::v1::Lease>(Kind::Lease);
        is::<k8s_openapi::api::core::v1::Pod>(Kind::Pod);
        is::<k8s_openapi::api::core::v1::Secret>(Kind::Secret);
        is::<k8s_openapi::api::core::v1::ServiceAccount>(Kind::ServiceAccount);
        is::<k8s_openapi::api::networking::v1::NetworkPolicy>(Kind::NetworkPolicy);
        is::<k8s_openapi::api::core::v1::Service>(Kind::Service);
        is::<k8s_openapi::api::apps::v1::StatefulSet>(Kind::StatefulSet);
        is::<k8s_openapi::api::policy::v1::PodDisruptionBudget>(Kind::PodDisruptionBudget);
        is::<k8s_openapi::api::networking::v1::Ingress>(Kind::Ingress);
    }

    #[test]
    fn what_pods_need_is_applied_no_later_than_they() {
        let needed: Vec<_> = Kind::iter()
            .filter(|kind| kind.is_needed_by_pods())
            .collect();
        assert_eq!(needed, [Kind::ServiceAccount, Kind::StatefulSet]);
        assert!(needed.iter().all(|kind| *kind <= Kind::StatefulSet));
    }

    #[test]
    fn what_lets_users_in_does_not_come_before_the_pods() {
        let before: Vec<_> = Kind::owned()
            .filter(|kind| kind.comes_before_pods())
            .collect();
        let expected = [Kind::ServiceAccount, Kind::NetworkPolicy, Kind::Service];
        assert_eq!(before, expected);
    }

    /// What was left without an owner is pruned as well: nothing that holds data may be.
    #[test]
    fn what_is_pruned_is_made_again_as_it_was() {
        let pruned: Vec<_> = Kind::iter().filter(|kind| kind.is_prunable()).collect();
        let expected = [
            Kind::ServiceAccount,
            Kind::NetworkPolicy,
            Kind::PodDisruptionBudget,
            Kind::ServiceMonitor,
            Kind::Ingress,
            Kind::HttpRoute,
        ];
        assert_eq!(pruned, expected);
    }

    #[test]
    fn only_what_a_cluster_owns_is_pruned_exposes_is_needed_or_is_optional() {
        for kind in Kind::iter() {
            let Facts {
                is_owned,
                is_prunable,
                exposes,
                is_needed_by_pods,
                optional,
                ..
            } = kind.facts();
            let of_owned = is_prunable || exposes || is_needed_by_pods || optional.is_some();
            assert!(is_owned || !of_owned, "{kind}");
        }
    }
}
