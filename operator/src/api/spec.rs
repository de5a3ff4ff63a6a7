//! `spec`: every field a user may write. Doc comments become the CRD's descriptions and the
//! reference page.

#![allow(
    dead_code,
    reason = "the generator of the schema makes a copy of the spec, of which no one reads the field that it skips"
)]

use super::read::UnreadableField;
use super::status::BytebaseClusterStatus;
use k8s_openapi::api::core::v1::{
    Affinity, EnvVar, LocalObjectReference, ResourceRequirements, Toleration,
    TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Most replicas that a cluster may have.
pub const MOST_REPLICAS: i32 = 50;

/// A highly available Bytebase: several replicas that share one PostgreSQL metadata database, one
/// external URL and one license.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "bytebase.com",
    version = "v1alpha1",
    kind = "BytebaseCluster",
    plural = "bytebaseclusters",
    shortname = "bbc",
    category = "all",
    namespaced,
    status = "BytebaseClusterStatus",
    derive = "PartialEq",
    doc = "A highly available Bytebase: several replicas that share one PostgreSQL metadata database, one external URL and one license.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "Where the cluster stands, in one word"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", description = "As many replicas as may run are Ready and send heartbeats"),
    printcolumn(name = "Active", type_ = "integer", json_path = ".status.activeReplicas", description = "Replicas of this cluster whose heartbeat is fresh"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".spec.replicas", description = "Wanted replicas"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version", description = "Version that serves"),
    printcolumn(name = "Rollout", type_ = "string", json_path = ".status.rollout.waitingFor", description = "What the rollout that is under way waits for, in one word"),
    printcolumn(name = "HA", type_ = "string", json_path = ".status.conditions[?(@.type==\"HALicensed\")].status", description = "The stored license allows more than one replica"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = 1, description = "Why it is Ready, or is not"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url", priority = 1, description = "External URL"),
    validation = Rule::new("self.metadata.name.size() <= 52").message("the name may have at most 52 characters: Kubernetes appends a revision hash of up to 11 to it in a label of at most 63"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("the name must start with a letter and hold only lower-case letters, digits and '-': it names Services")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.image) || !has(self.image.digest) || self.version != 'latest'").message("version must say what the digest holds: 'latest' says nothing about it"),
)]
pub struct BytebaseClusterSpec {
    /// Bytebase version, which is also the image tag unless `image.tag` names another: `3.21.1`.
    /// 3.17.0 or later. `latest` is accepted with a warning: no one
    /// can know what it runs before the metadata schema shows it.
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = "^[A-Za-z0-9_][A-Za-z0-9._-]*$")
    )]
    pub version: String,

    /// The image of Bytebase. Default: the public one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSpec>,

    /// Wanted replicas. Default 2. More than one run only while the license stored in the metadata
    /// database allows HA. 0 stops the cluster and keeps its data.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = MOST_REPLICAS))]
    pub replicas: i32,

    /// The one URL at which Bytebase is reached: `https://bytebase.example.com`. Every replica is
    /// started with it. Scheme http or https, a host, an optional port; no user, query or fragment.
    #[serde(rename = "externalURL")]
    #[schemars(length(min = 1, max = 2048))]
    pub external_url: String,

    /// The PostgreSQL metadata database that all replicas share.
    pub database: DatabaseSpec,

    /// The license to check and, with `admin` credentials, to install.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<LicenseSpec>,

    /// A workspace admin's login, which lets the operator install the license over Bytebase's API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<AdminSpec>,

    /// The Service that clients and the Ingress use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceSpec>,

    /// The Ingress. Made by default; not made with `enabled: false`, or where `gateway` is given
    /// and `ingress` is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<IngressSpec>,

    /// An HTTPRoute of the Gateway API, in place of the Ingress or beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewaySpec>,

    /// Compute resources of the Bytebase container. A memory limit also sets `GOMEMLIMIT` to 90 %
    /// of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Labels that a node must have to run a pod of the cluster.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub node_selector: BTreeMap<String, String>,

    /// Taints the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,

    /// Scheduling affinity of the pods. `topologySpreadConstraints` and its default still apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// How the replicas spread. Default: over nodes and over zones, as far as possible. An empty
    /// list turns the default off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,

    /// Priority class of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub priority_class_name: Option<String>,

    /// The pods' ServiceAccount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccountSpec>,

    /// The user and the groups that the pods run as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<SecurityContextSpec>,

    /// More environment variables of the Bytebase container. Names that the operator sets itself
    /// (`PG_URL`, `PGAPPNAME`, `PGUSER`, `PGPASSWORD`) and those that would change connections to
    /// users' databases as well (`PGHOST`, `PGPORT`, `PGDATABASE`, `PGSSLMODE`, `PGSSLROOTCERT`,
    /// `PGTARGETSESSIONATTRS`) are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub env: Vec<EnvVar>,

    /// More volumes of the pods. Names that start with `bytebase-` are the operator's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub volumes: Vec<Volume>,

    /// More mounts in the Bytebase container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub volume_mounts: Vec<VolumeMount>,

    /// More labels on the pods. The labels that the operator itself sets
    /// (`app.kubernetes.io/name`, `app.kubernetes.io/instance`, `app.kubernetes.io/managed-by`, and
    /// all of `bytebase.com`) are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub pod_labels: BTreeMap<String, String>,

    /// More annotations on the pods. Keys of `bytebase.com` are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub pod_annotations: BTreeMap<String, String>,

    /// Last resort: a strategic-merge overlay on the finished pod template. What it breaks is
    /// reported on `ConfigurationValid`; selector labels, the image of Bytebase, its
    /// arguments and `PG_URL` cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<RawPodTemplate>,

    /// How changes reach the replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutSpec>,

    /// The PodDisruptionBudget of the pods, by which drains of nodes take one pod at a time. Made
    /// unless `enabled: false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disruption_budget: Option<DisruptionBudgetSpec>,

    /// A NetworkPolicy for the replicas. None unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicySpec>,

    /// How Prometheus finds the replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitoring: Option<MonitoringSpec>,

    /// More labels on every object that the operator makes for the cluster, such as its Service and
    /// its StatefulSet. Pods get those of `podLabels`. The labels that the operator itself sets
    /// (`app.kubernetes.io/name`, `app.kubernetes.io/instance`, `app.kubernetes.io/managed-by`, and
    /// all of `bytebase.com`) are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,

    /// More annotations on every object that the operator makes for the cluster. Pods get those of
    /// `podAnnotations`. What is set for one object (`service.annotations`, `ingress.annotations`
    /// and its preset) wins over this. Keys of `bytebase.com` are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,

    /// If true, the operator observes and reports and changes nothing: no rollout, no scaling, and
    /// the license gate does not go down to one replica either.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,

    /// Fields that could not be read, for the operator itself; no user writes it.
    #[serde(skip)]
    pub unreadable: Vec<UnreadableField>,
}

fn default_replicas() -> i32 {
    2
}

fn default_true() -> bool {
    true
}

/// The image of the replicas.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ImageSpec {
    /// Repository without tag. Default `docker.io/bytebase/bytebase`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub repository: Option<String>,
    /// Tag, where it differs from `version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub tag: Option<String>,
    /// Digest, `sha256:` and 64 hexadecimal digits. Wins over the tag; tags of Bytebase are
    /// rebuilt in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 71, max = 71))]
    pub digest: Option<String>,
    /// When the kubelet pulls the image. Default `IfNotPresent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,
    /// Secrets with registry credentials, in the cluster's namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub pull_secrets: Vec<LocalObjectReference>,
}

/// When the kubelet pulls an image.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, strum::AsRefStr,
)]
// The description of an optional field's type would take the place of the field's own.
#[schemars(description = "")]
pub enum PullPolicy {
    /// At every start.
    Always,
    /// Only if the node lacks it.
    IfNotPresent,
    /// Never.
    Never,
}

/// One key of a Secret in the cluster's namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret whose value is used.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

impl fmt::Display for SecretKeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {}, key {}", self.name, self.key)
    }
}

/// One key of a ConfigMap in the cluster's namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigMapKeyRef {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the ConfigMap whose value is used.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

impl fmt::Display for ConfigMapKeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigMap {}, key {}", self.name, self.key)
    }
}

/// Where the metadata database is: exactly one of `urlSecretRef`, `url` or `host`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.urlSecretRef), has(self.url), has(self.host)].filter(x, x).size() == 1").message("exactly one of urlSecretRef, url and host must be set"),
    validation = Rule::new("has(self.host) || !(has(self.port) || has(self.name) || has(self.userSecretRef) || has(self.passwordSecretRef) || has(self.params))").message("port, name, userSecretRef, passwordSecretRef and params belong to the form with host"),
    validation = Rule::new("!has(self.host) || (has(self.name) && has(self.userSecretRef))").message("the form with host needs name and userSecretRef"),
    validation = Rule::new("!(has(self.caSecretRef) && has(self.caConfigMapRef))").message("only one of caSecretRef and caConfigMapRef may be set"),
)]
pub struct DatabaseSpec {
    /// Secret key that holds the whole connection string:
    /// `postgres://user:password@host:5432/database?sslmode=require`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_secret_ref: Option<SecretKeyRef>,
    /// `PG_URL` itself, for cloud IAM logins, which hold no password. Refused when it holds one. A
    /// Cloud SQL login needs no host: the name of the instance stands in for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub url: Option<String>,
    /// Host name or address of the server: the form in parts, in which nothing needs
    /// percent-encoding. `localhost`, and the directory of a Unix socket, are a proxy in the pod:
    /// the operator then needs `monitorSecretRef` to read the database, and the proxy must be an
    /// init container with `restartPolicy: Always`, or it ends before running tasks are finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub host: Option<String>,
    /// TCP port of the server, in the form with `host`. Default 5432.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// Name of the database, in the form with `host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub name: Option<String>,
    /// Secret key that holds the name of the PostgreSQL role, in the form with `host`, without a
    /// line break at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_secret_ref: Option<SecretKeyRef>,
    /// Secret key that holds the password of the PostgreSQL role, in the form with `host`, as it
    /// is, without a line break at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<SecretKeyRef>,
    /// Connection parameters such as `sslmode`, in the form with `host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 32))]
    pub params: Option<BTreeMap<String, String>>,
    /// Secret key that holds the CA bundle (PEM) for TLS to the database, Bytebase's and the
    /// operator's own. Mounted at `/etc/bytebase/database-ca/ca.crt`, the file that `sslrootcert`
    /// must name for it to count; with `host` it does so by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
    /// ConfigMap key (`data` or `binaryData`) that holds the CA bundle (PEM) for TLS to the
    /// database, in place of `caSecretRef`. Mounted at `/etc/bytebase/database-ca/ca.crt`, the file
    /// that `sslrootcert` must name for it to count; with `host` it does so by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_config_map_ref: Option<ConfigMapKeyRef>,
    /// Secret key that holds another connection string to the same database, for the operator's
    /// reads: a role with `pg_read_all_data` and `pg_monitor` is enough. It must lead to the
    /// primary. Needed for cloud IAM logins, which the operator cannot perform, and for a proxy in
    /// the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor_secret_ref: Option<SecretKeyRef>,
}

/// The license.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LicenseSpec {
    /// Secret key that holds the license. It is checked, and installed when `admin` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
    /// `Enforce`, the default, runs more than one replica only while the license allows it. `Warn`
    /// runs what is wanted and only warns: without an HA license Bytebase then fails every queued
    /// task after ten minutes.
    #[serde(default)]
    pub enforcement: Enforcement,
}

/// What the license gate does.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// Hold back every replica but one until the license allows more.
    #[default]
    Enforce,
    /// Report only.
    Warn,
}

/// A workspace admin's login.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AdminSpec {
    /// Secret with the keys `email` and `password`.
    pub credentials_secret_ref: LocalSecretRef,
    /// Sign up with the credentials in `credentialsSecretRef` as the first admin, if no one has
    /// signed up yet. Until then the operator makes nothing that lets users in from outside
    /// (Ingress, HTTPRoute, node port, load balancer): whoever signs up first becomes the admin.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub create_first: bool,
}

/// A Secret in the cluster's namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalSecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The client Service.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.loadBalancerClass) || (has(self.loadBalancerSourceRanges) && self.loadBalancerSourceRanges.size() > 0)) || (has(self.type) && self.type == 'LoadBalancer')").message("loadBalancerClass and loadBalancerSourceRanges belong to a Service of type LoadBalancer"),
    validation = Rule::new("!has(self.externalTrafficPolicy) || (has(self.type) && self.type != 'ClusterIP')").message("externalTrafficPolicy belongs to a Service of type NodePort or LoadBalancer"),
    validation = Rule::new("!has(self.ipFamilies) || self.ipFamilies.size() < 2 || (has(self.ipFamilyPolicy) && self.ipFamilyPolicy != 'SingleStack')").message("two ipFamilies need the ipFamilyPolicy PreferDualStack or RequireDualStack"),
    validation = Rule::new("!has(self.ipFamilies) || self.ipFamilies.size() != 1 || !has(self.ipFamilyPolicy) || self.ipFamilyPolicy == 'SingleStack'").message("an ipFamilyPolicy that asks for two families needs both in ipFamilies, or none"),
    validation = Rule::new("!has(self.ipFamilies) || self.ipFamilies.size() != 2 || self.ipFamilies[0] != self.ipFamilies[1]").message("ipFamilies has the same family twice"),
)]
pub struct ServiceSpec {
    /// Type of the Service. Default `ClusterIP`.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "type")]
    pub type_: Option<ServiceType>,
    /// Port of the Service. Default 80.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// Annotations of the Service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
    /// Who makes the load balancer, such as `service.k8s.aws/nlb`, with `type: LoadBalancer` only.
    /// Default: the cloud's own. Kubernetes refuses to add, change or remove the class of a Service
    /// that is a load balancer already: set another `type` first, or delete the Service and let the
    /// operator make it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 317))]
    pub load_balancer_class: Option<String>,
    /// Ranges of addresses that the load balancer lets in, such as `192.0.2.0/24`, with
    /// `type: LoadBalancer` only. Default: all addresses. Not every implementation honours them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 64)))]
    pub load_balancer_source_ranges: Vec<String>,
    /// Which replicas get what comes to the Service from outside: those anywhere (`Cluster`), or
    /// only those on the node that it came to (`Local`), which keeps the client's address. With
    /// `type: NodePort` or `LoadBalancer` only. Default: Kubernetes' own, `Cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<TrafficPolicy>,
    /// Which replicas get what comes to the Service from inside the Kubernetes cluster: those
    /// anywhere (`Cluster`), or only those on the caller's node (`Local`), where a node without a
    /// replica does not answer. Default: Kubernetes' own, `Cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<TrafficPolicy>,
    /// IP families of the Service, the first one first. One makes it `SingleStack`; two need an
    /// `ipFamilyPolicy` that asks for two. Default: those that the Service has. Kubernetes refuses
    /// to change the first family of a Service that exists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub ip_families: Vec<IpFamily>,
    /// Whether the Service has one IP family or two. Taken out again, the Service keeps what it
    /// has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_family_policy: Option<IpFamilyPolicy>,
}

/// Which replicas get the traffic of a Service.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, strum::AsRefStr,
)]
// The description of an optional field's type would take the place of the field's own.
#[schemars(description = "")]
pub enum TrafficPolicy {
    /// All of them.
    Cluster,
    /// Those on the node that the traffic came to.
    Local,
}

/// A version of the Internet Protocol.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, strum::AsRefStr,
)]
pub enum IpFamily {
    /// Version 4.
    IPv4,
    /// Version 6.
    IPv6,
}

impl IpFamily {
    /// The one that this is not.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::IPv4 => Self::IPv6,
            Self::IPv6 => Self::IPv4,
        }
    }
}

/// Whether the Service has one IP family, or two. `PreferDualStack` makes do with one where the
/// Kubernetes cluster has no other. Taken out again, the Service keeps what it has.
#[expect(clippy::enum_variant_names, reason = "Kubernetes' own words")]
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, strum::AsRefStr,
)]
pub enum IpFamilyPolicy {
    /// One.
    SingleStack,
    /// Two, where the Kubernetes cluster has two.
    PreferDualStack,
    /// Two.
    RequireDualStack,
}

/// Type of a Service.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, strum::AsRefStr,
)]
// The description of an optional field's type would take the place of the field's own.
#[schemars(description = "")]
pub enum ServiceType {
    /// Inside the Kubernetes cluster.
    ClusterIP,
    /// A port on every node.
    NodePort,
    /// A cloud load balancer.
    LoadBalancer,
}

/// The Ingress.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct IngressSpec {
    /// Whether there is an Ingress.
    #[serde(default = "default_true")]
    pub enabled: bool,
    /// Ingress class. Default: that of the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class_name: Option<String>,
    /// Host to serve. Default: that of `externalURL`. Another one is refused unless
    /// `allowHostMismatch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub host: Option<String>,
    /// Accept a host that differs from that of `externalURL` (a proxy in front rewrites it).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_host_mismatch: bool,
    /// Name of the Secret (kubernetes.io/tls) with the certificate for the host. Absent: the
    /// Ingress has no TLS section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub tls_secret_name: Option<String>,
    /// Settings that Bytebase needs (WebSocket time-outs, body size, unbuffered streams, session
    /// affinity), as annotations of one ingress controller. `aws-alb` and `gce` also keep
    /// `/metrics` and `/debug` private in a way that these two accept; for `gce`, time-outs and
    /// affinity are to be set in a BackendConfig.
    #[serde(default)]
    pub preset: IngressPreset,
    /// More annotations of the Ingress. They win over those of `preset`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
}

impl Default for IngressSpec {
    fn default() -> Self {
        Self {
            enabled: true,
            class_name: None,
            host: None,
            allow_host_mismatch: false,
            tls_secret_name: None,
            preset: IngressPreset::default(),
            annotations: BTreeMap::new(),
        }
    }
}

/// The ingress controller whose annotations the Ingress gets.
#[derive(
    Serialize,
    Deserialize,
    JsonSchema,
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    strum::EnumIter,
    strum::AsRefStr,
)]
#[serde(rename_all = "kebab-case")]
pub enum IngressPreset {
    /// None: the controller's defaults, or your own annotations.
    #[default]
    None,
    /// ingress-nginx.
    IngressNginx,
    /// Traefik.
    Traefik,
    /// HAProxy Ingress.
    Haproxy,
    /// AWS Load Balancer Controller.
    AwsAlb,
    /// GKE's own.
    Gce,
}

/// An HTTPRoute (`gateway.networking.k8s.io/v1`), for Kubernetes clusters with the Gateway API.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// Gateways (or listeners of them) that the HTTPRoute attaches to.
    #[schemars(length(min = 1, max = 8))]
    pub parent_refs: Vec<GatewayParentRef>,
    /// Host to serve. Default: that of `externalURL`. Another one is refused unless
    /// `allowHostMismatch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub host: Option<String>,
    /// Accept a host that differs from that of `externalURL` (a proxy in front rewrites it).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_host_mismatch: bool,
    /// Longest time a request may take, such as `1h` (`0s`: no limit). Default: the controller's
    /// own, which often cuts WebSockets and streams: set `1h` then. Some controllers refuse the
    /// field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub request_timeout: Option<String>,
    /// Annotations of the HTTPRoute.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
}

/// A Gateway, or one listener of it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GatewayParentRef {
    /// Name of the Gateway.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Namespace of the Gateway. Default: that of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Name of one listener of the Gateway. Default: all that fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
}

/// The pods' ServiceAccount. It gets no rights and no token.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountSpec {
    /// Name of an existing ServiceAccount. Default: the operator makes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// Annotations of the ServiceAccount that the operator makes, for workload identity.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
}

/// The user and the groups that the pods run as.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecurityContextSpec {
    /// User, group and group of the files. `Fixed`, the default, is 113 for all three, as
    /// Bytebase's image has it. `Platform` leaves them out, for a platform that gives each
    /// namespace numbers of its own and refuses others, as OpenShift does. Where nothing sets any,
    /// the pods do not start: the image's own user is root, which they may not be. A change of this
    /// field replaces all pods.
    #[serde(default)]
    pub user_and_group: UserAndGroup,
}

/// Who chooses the user and the groups of the pods.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserAndGroup {
    /// The operator: 113.
    #[default]
    Fixed,
    /// The platform, when it admits a pod.
    Platform,
}

/// How changes reach the replicas.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RolloutSpec {
    /// Seconds that a replica may take to be Ready and to send heartbeats. After that a rollout
    /// stops, and `Stalled` says so, as it does of a first start. Default 900.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 86400))]
    pub ready_timeout_seconds: Option<i32>,
    /// Seconds between a replica's removal from the Service and its SIGTERM. Default 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 300))]
    pub pre_stop_seconds: Option<i32>,
    /// Seconds that a replica has to end once it is sent SIGTERM, after the preStop pause and its
    /// drain. Bytebase gives open requests up to 10 seconds then, so fewer than 10 may cut them
    /// off. Default 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600))]
    pub termination_grace_seconds: Option<i32>,
    /// Whether a replica that is to end first finishes the tasks that it runs: Bytebase itself
    /// cancels a running migration at once. `Enabled` adds the hook that waits for them to the
    /// pods. Where this field is absent the hook is added with the next change of the pods for
    /// another reason. `Disabled` leaves it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// Longest time that a replica which is to end waits for the tasks that it runs, in seconds. A
    /// task that takes longer is cancelled. It counts towards the pod's grace period, which cluster
    /// autoscalers may cap. Choose at least twice `holdLimitSeconds`, and the time of your longest
    /// task on top, where new work arrives all the time. Default 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub drain_timeout_seconds: Option<i32>,
    /// Longest time that a draining replica keeps Bytebase from promoting new work, on all
    /// replicas, in seconds, if new work keeps coming to it. After that the queue is free for as
    /// long. Choose it longer than your longest usual task, where new work arrives all the time. 0
    /// never holds the queue. Default 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub hold_limit_seconds: Option<i32>,
    /// Image that the drain hook is copied from, for a registry of one's own. Default: the
    /// operator's own image, as it was when the pods last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub drain_image: Option<String>,
    /// In which order a change reaches the replicas. `Rolling` (the default) replaces one after the
    /// other while the others serve. `Maintenance` ends all, starts one, and starts the others when
    /// that one is Ready: Bytebase is not available meanwhile, and no replica of an old version
    /// runs on a schema that a new one has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<RolloutStrategy>,
    /// Seconds after which a replica is replaced that sends no heartbeat although its pod is Ready:
    /// it hangs, or is cut off from the database. One at a time, and only while another replica
    /// works. Absent: never, which leaves it to you.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 86400))]
    pub restart_stale_replicas_after_seconds: Option<i32>,
}

/// In which order a change reaches the replicas.
#[derive(
    Serialize,
    Deserialize,
    JsonSchema,
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    strum::AsRefStr,
    strum::EnumIter,
)]
// The description of an optional field's type would take the place of the field's own.
#[schemars(description = "")]
pub enum RolloutStrategy {
    /// One after the other.
    #[default]
    Rolling,
    /// All end, one starts, then the others.
    Maintenance,
}

/// Whether replicas finish their running tasks before they end.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, strum::AsRefStr,
)]
// The description of an optional field's type would take the place of the field's own.
#[schemars(description = "")]
pub enum Drain {
    /// They do.
    Enabled,
    /// They do not.
    Disabled,
}

/// The PodDisruptionBudget, which lets one replica go at a time.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DisruptionBudgetSpec {
    /// Whether there is a PodDisruptionBudget.
    #[serde(default = "default_true")]
    pub enabled: bool,
}

/// A NetworkPolicy: the replicas' HTTP port is all that can be reached, and only from where
/// `from` says.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// Whether there is a NetworkPolicy.
    #[serde(default = "default_true")]
    pub enabled: bool,
    /// What may reach the replicas, such as the ingress controller and Prometheus. Default:
    /// anything. Where `spec.admin` is given, the operator's namespace may as well. What the
    /// replicas reach is not limited: users' databases are anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub from: Vec<NetworkPolicyPeer>,
}

/// How Prometheus finds the replicas.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MonitoringSpec {
    /// A ServiceMonitor (`monitoring.coreos.com/v1`) for the replicas' own `/metrics`, for
    /// Kubernetes clusters with the Prometheus operator. None unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_monitor: Option<ServiceMonitorSpec>,
}

/// A ServiceMonitor.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceMonitorSpec {
    /// Whether there is a ServiceMonitor.
    #[serde(default = "default_true")]
    pub enabled: bool,
    /// How often to scrape, such as `30s`. Default: Prometheus' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // As the Prometheus operator's own.
    #[schemars(
        length(max = 64),
        regex(
            pattern = "^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$"
        )
    )]
    pub interval: Option<String>,
    /// Labels by which a Prometheus selects its ServiceMonitors, such as `release: prometheus`.
    /// The operator's own win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
}

/// A pod template as the user wrote it; checked after it is merged.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(transparent)]
pub struct RawPodTemplate(pub serde_json::Value);

impl JsonSchema for RawPodTemplate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RawPodTemplate".into()
    }

    // The typed schema of a pod template is over 300 KB, more than a client-side `kubectl apply`
    // can annotate.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
    }
}
