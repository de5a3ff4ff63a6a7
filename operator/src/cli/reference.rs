//! `bytebase-operator reference`: the page `docs/reference.md`, made from the CRD and the enums of
//! conditions and reasons, so that it cannot say anything else than the code.

use crate::api::{ConditionType, Reason};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use std::fmt::Write as _;
use strum::{EnumMessage as _, IntoEnumIterator as _};

/// Kubernetes' own types. Their fields are documented by Kubernetes; one row with a link stands for
/// each.
const KUBERNETES_TYPES: [(&str, &str, &str); 10] = [
    (
        "spec.image.pullSecrets",
        "LocalObjectReference",
        "localobjectreference-v1-core",
    ),
    (
        "spec.resources",
        "ResourceRequirements",
        "resourcerequirements-v1-core",
    ),
    ("spec.tolerations", "Toleration", "toleration-v1-core"),
    ("spec.affinity", "Affinity", "affinity-v1-core"),
    (
        "spec.topologySpreadConstraints",
        "TopologySpreadConstraint",
        "topologyspreadconstraint-v1-core",
    ),
    ("spec.env", "EnvVar", "envvar-v1-core"),
    ("spec.volumes", "Volume", "volume-v1-core"),
    ("spec.volumeMounts", "VolumeMount", "volumemount-v1-core"),
    (
        "spec.podTemplate",
        "PodTemplateSpec",
        "podtemplatespec-v1-core",
    ),
    ("status.conditions", "Condition", "condition-v1-meta"),
];

/// The Kubernetes release whose API pages are linked: the one the types are built from.
const KUBERNETES_API: &str = "https://kubernetes.io/docs/reference/generated/kubernetes-api/v1.33/";

/// The page on what to do about each reason, as seen from this one.
const TROUBLESHOOTING: &str = "troubleshooting.md";

/// The whole page, ending with a line break. The same input always makes the same text.
pub fn reference(crd: &CustomResourceDefinition) -> String {
    let mut page = String::new();
    head(&mut page, crd);
    for version in &crd.spec.versions {
        let Some(schema) = version
            .schema
            .as_ref()
            .and_then(|validation| validation.open_api_v3_schema.as_ref())
        else {
            continue;
        };
        for part in ["spec", "status"] {
            if let Some(schema) = property(schema, part) {
                let _ = write!(page, "\n## {part}\n");
                table(&mut page, part, schema);
            }
        }
        rules(&mut page, schema);
        columns(
            &mut page,
            version
                .additional_printer_columns
                .as_deref()
                .unwrap_or_default(),
        );
    }
    conditions(&mut page);
    page
}

/// The condition under which a reason is explained. It may stand on others too: `Ready` and
/// `Stalled` repeat the reason of what holds them back.
///
/// Exhaustive on purpose: a new reason does not compile before it has a place on the page.
pub fn home(reason: Reason) -> ConditionType {
    use Reason as R;
    match reason {
        R::AllReplicasActive
        | R::ReplicasNotReady
        | R::HeldBackByLicense
        | R::HeldBackByDatabase
        | R::HeldBackByVersion
        | R::ScaledToZero
        | R::HeartbeatsUnknown
        | R::InvalidConfiguration => ConditionType::Ready,
        R::Settled | R::Progressing | R::Paused => ConditionType::Reconciling,
        R::NotStalled
        | R::ApplyFailed
        | R::Forbidden
        | R::ChangedBack
        | R::NameTaken
        | R::CannotWatch => ConditionType::Stalled,
        R::Valid
        | R::ValidWithWarnings
        | R::CertificateEndsSoon
        | R::InvalidSpec
        | R::ReferenceMissing
        | R::InvalidSecret
        | R::KindNotInstalled => ConditionType::ConfigurationValid,
        R::DatabaseChecksPassed
        | R::DatabaseNotProbed
        | R::DatabaseCannotRead
        | R::DatabaseUnreachable
        | R::DatabaseAuthenticationFailed
        | R::DatabaseMissing
        | R::DatabasePermissionDenied
        | R::DatabaseTooManyConnections
        | R::DatabaseServerNotReady
        | R::DatabaseTlsFailed
        | R::DatabaseParameterRefused
        | R::DatabaseMonitorElsewhere
        | R::DatabaseProbeFailed
        | R::DatabaseNotPostgres
        | R::DatabaseTooOld
        | R::DatabaseIsStandby
        | R::DatabaseReadOnly
        | R::DatabaseEncoding
        | R::DatabaseForeignTables
        | R::DatabaseTransactionPooler
        | R::DatabaseConnectionBudget
        | R::DatabaseShared
        | R::DatabaseInUse
        | R::DatabaseSchemaUnknown => ConditionType::DatabaseReady,
        R::LicenseAllowsHa
        | R::LicenseEndsSoon
        | R::SecretLicenseAllowsHa
        | R::AwaitingFirstSignUp
        | R::LicenseMissing
        | R::LicenseNotInstalled
        | R::LicenseWithoutHa
        | R::LicenseExpiring
        | R::LicenseExpired
        | R::LicenseNotYetValid
        | R::LicenseOtherWorkspace
        | R::LicenseInvalid
        | R::LicenseUnknown
        | R::LicenseInstallFailed
        | R::LicenseNotEnforced => ConditionType::HaLicensed,
        R::AllReplicasHealthy
        | R::ReplicaNotReady
        | R::ReplicaCrashing
        | R::ImagePullFailed
        | R::Unschedulable
        | R::NodeSilent
        | R::HeartbeatStale
        | R::HeartbeatMissing
        | R::ForeignReplica
        | R::PodCreationFailed
        | R::NoReplicas => ConditionType::ReplicasHealthy,
        R::RolloutDone
        | R::RolloutProgressing
        | R::RolloutWaiting
        | R::RolloutStalled
        | R::DowngradeRefused
        | R::QueueHeld
        | R::QueueFree => ConditionType::RolloutComplete,
        R::IngressReady
        | R::IngressPending
        | R::IngressDisabled
        | R::AwaitingFirstAdmin
        | R::IngressFailed
        | R::RouteAccepted
        | R::RoutePending
        | R::RouteRefused => ConditionType::Exposed,
    }
}

// === Sections ===

fn head(page: &mut String, crd: &CustomResourceDefinition) {
    let names = &crd.spec.names;
    let versions: Vec<&str> = crd
        .spec
        .versions
        .iter()
        .map(|version| version.name.as_str())
        .collect();
    let short_names = names.short_names.as_deref().unwrap_or_default().join(", ");
    let _ = write!(
        page,
        "<!-- Generated by `bytebase-operator reference`. Do not edit: run `make generate`. -->\n\n\
         # Reference: {kind}\n\n\
         | | |\n|---|---|\n\
         | API group and version | `{group}/{versions}` |\n\
         | Kind | `{kind}` |\n\
         | Resource | `{plural}` |\n\
         | Short name | `{short_names}` |\n\
         | Scope | {scope} |\n\n\
         A field named with `[]` belongs to each item of a list. `*` marks a field that must be set where its parent is. Ready-made objects are in\n\
         [config/samples](../config/samples).\n",
        kind = names.kind,
        group = crd.spec.group,
        versions = versions.join(", "),
        plural = names.plural,
        scope = crd.spec.scope,
    );
}

fn table(page: &mut String, path: &str, schema: &JSONSchemaProps) {
    if let Some(text) = &schema.description {
        let _ = write!(page, "\n{}\n", one_line(text));
    }
    page.push_str("\n| Field | Type | Default | Allowed | Description |\n|---|---|---|---|---|\n");
    children(page, path, path, schema);
}

/// One row for each field, its own fields right after it.
fn children(page: &mut String, root: &str, path: &str, schema: &JSONSchemaProps) {
    let required = schema.required.as_deref().unwrap_or_default();
    for (name, field) in schema.properties.iter().flatten() {
        let path = format!("{path}.{name}");
        // Within a table the leading `spec.` says nothing.
        let shown = path
            .strip_prefix(root)
            .and_then(|rest| rest.strip_prefix('.'))
            .unwrap_or(&path);
        let star = if required.contains(name) { " *" } else { "" };
        let native = KUBERNETES_TYPES
            .iter()
            .find(|(native, _, _)| *native == path);
        let kind = match native {
            Some((_, kind, anchor)) => format!(
                "[{kind}]({KUBERNETES_API}#{anchor}){}",
                if items(field).is_some() { "[]" } else { "" }
            ),
            None => type_name(field),
        };
        let default = field
            .default
            .as_ref()
            .map(|value| code(&value.0.to_string()))
            .unwrap_or_default();
        let description = field
            .description
            .as_deref()
            .map(one_line)
            .unwrap_or_default();
        let _ = writeln!(
            page,
            "| `{shown}`{star} | {kind} | {default} | {} | {} |",
            cell(&limits(field)),
            cell(&description)
        );
        if native.is_some() {
            continue;
        }
        children(page, root, &path, field);
        if let Some(item) = items(field) {
            children(page, root, &format!("{path}[]"), item);
        }
    }
}

/// The rules that span fields: CEL, by the messages a user would be shown.
fn rules(page: &mut String, schema: &JSONSchemaProps) {
    let mut lines = String::new();
    collect_rules(&mut lines, "", schema);
    if !lines.is_empty() {
        let _ = write!(
            page,
            "\n## Rules across fields\n\nThe API server refuses an object that breaks one of these. The operator checks them again, with all others.\n\n{lines}"
        );
    }
}

fn collect_rules(lines: &mut String, path: &str, schema: &JSONSchemaProps) {
    if KUBERNETES_TYPES
        .iter()
        .any(|(native, _, _)| *native == path)
    {
        return;
    }
    for rule in schema.x_kubernetes_validations.iter().flatten() {
        let place = if path.is_empty() {
            "the whole object".to_owned()
        } else {
            code(path)
        };
        let _ = writeln!(
            lines,
            "- {place}: {}",
            one_line(rule.message.as_deref().unwrap_or(&rule.rule))
        );
    }
    for (name, field) in schema.properties.iter().flatten() {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        collect_rules(lines, &path, field);
        if let Some(item) = items(field) {
            collect_rules(lines, &format!("{path}[]"), item);
        }
    }
}

fn columns(
    page: &mut String,
    columns: &[k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition],
) {
    if columns.is_empty() {
        return;
    }
    page.push_str("\n## Columns of `kubectl get`\n\n| Column | Shown | Meaning |\n|---|---|---|\n");
    for column in columns {
        let shown = if column.priority.unwrap_or(0) == 0 {
            "always"
        } else {
            "with `-o wide`"
        };
        let meaning = column
            .description
            .as_deref()
            .map_or_else(|| code(&column.json_path), one_line);
        let _ = writeln!(page, "| {} | {shown} | {} |", column.name, cell(&meaning));
    }
}

fn conditions(page: &mut String) {
    let _ = write!(
        page,
        "\n## Conditions\n\n\
         Each condition is `True`, `False` or `Unknown`, with a reason from the lists below and a message that says what is wrong, where, and what to do.\n\
         `Unknown` is an answer: the operator could not tell, and did nothing that would need to know. A reason is listed where it arises; `Ready`,\n\
         `Reconciling` and `Stalled` also repeat the reason of what they wait for. What to do about each is in [{TROUBLESHOOTING}]({TROUBLESHOOTING}).\n",
    );
    for condition in ConditionType::iter() {
        let _ = write!(
            page,
            "\n### {condition}\n\n{}\n\n| Reason | Meaning |\n|---|---|\n",
            documentation(condition.get_documentation())
        );
        for reason in Reason::iter().filter(|reason| home(*reason) == condition) {
            let anchor = reason.as_ref().to_lowercase();
            let meaning = cell(&documentation(reason.get_documentation()));
            let _ = writeln!(
                page,
                "| [`{reason}`]({TROUBLESHOOTING}#{anchor}) | {meaning} |"
            );
        }
    }
}

// === Cells ===

fn property<'a>(schema: &'a JSONSchemaProps, name: &str) -> Option<&'a JSONSchemaProps> {
    schema.properties.as_ref()?.get(name)
}

fn items(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match schema.items.as_ref()? {
        JSONSchemaPropsOrArray::Schema(item) => Some(item),
        JSONSchemaPropsOrArray::Schemas(_) => None,
    }
}

fn type_name(schema: &JSONSchemaProps) -> String {
    if schema.x_kubernetes_int_or_string == Some(true) {
        return "integer or string".to_owned();
    }
    match schema.type_.as_deref() {
        Some("array") => items(schema).map_or_else(
            || "list".to_owned(),
            |item| format!("{}[]", type_name(item)),
        ),
        Some("object") => match &schema.additional_properties {
            Some(JSONSchemaPropsOrBool::Schema(value)) => format!("map of {}", type_name(value)),
            _ => "object".to_owned(),
        },
        Some("string") if schema.format.as_deref() == Some("date-time") => "time".to_owned(),
        Some(name) => name.to_owned(),
        None => "any".to_owned(),
    }
}

fn limits(schema: &JSONSchemaProps) -> String {
    let mut limits = Vec::new();
    if let Some(values) = &schema.enum_ {
        // A nullable enum lists `null`, which nobody writes.
        let values: Vec<String> = values
            .iter()
            .filter_map(|value| value.0.as_str().map(code))
            .collect();
        limits.push(values.join(", "));
    }
    range(&mut limits, "", schema.minimum, schema.maximum);
    range(
        &mut limits,
        " characters",
        schema.min_length,
        schema.max_length,
    );
    range(&mut limits, " items", schema.min_items, schema.max_items);
    range(
        &mut limits,
        " entries",
        schema.min_properties,
        schema.max_properties,
    );
    if let Some(pattern) = &schema.pattern {
        limits.push(code(pattern));
    }
    limits.join("; ")
}

fn range<N: std::fmt::Display>(
    limits: &mut Vec<String>,
    unit: &str,
    least: Option<N>,
    most: Option<N>,
) {
    match (least.map(|n| n.to_string()), most.map(|n| n.to_string())) {
        (Some(least), Some(most)) if least == most => limits.push(format!("{least}{unit}")),
        (Some(least), Some(most)) => limits.push(format!("{least} to {most}{unit}")),
        (Some(least), None) => limits.push(format!("at least {least}{unit}")),
        (None, Some(most)) => limits.push(format!("at most {most}{unit}")),
        (None, None) => {}
    }
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn documentation(text: Option<&'static str>) -> String {
    text.map(one_line).unwrap_or_default()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A bar would end the cell, even within code.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::crd;
    use std::collections::BTreeSet;

    /// The cells of the only row for a field of `spec` or `status`.
    fn row(page: &str, path: &str) -> Vec<String> {
        let (part, field) = path.split_once('.').unwrap_or(("", path));
        let (_, section) = page
            .split_once(&format!("\n## {part}\n"))
            .unwrap_or_default();
        let start = format!("| `{field}`");
        let rows: Vec<&str> = section
            .lines()
            .take_while(|line| !line.starts_with("## "))
            .filter(|line| line.starts_with(&start))
            .collect();
        assert_eq!(rows.len(), 1, "{path}: {rows:?}");
        rows[0]
            .trim_matches('|')
            .split(" | ")
            .map(|cell| cell.trim().to_owned())
            .collect()
    }

    #[test]
    fn a_row_tells_type_default_limits_and_description() {
        let page = reference(&crd());
        let replicas = row(&page, "spec.replicas");
        assert_eq!(replicas[1..4], ["integer", "`2`", "0 to 50"]);
        assert!(replicas[4].starts_with("Wanted replicas."), "{replicas:?}");
    }

    #[test]
    fn nested_fields_follow_their_parent_and_required_ones_are_marked() {
        let page = reference(&crd());
        assert_eq!(
            row(&page, "spec.database.urlSecretRef.key")[0],
            "`database.urlSecretRef.key` *"
        );
        assert_eq!(
            row(&page, "spec.license.enforcement")[1..4],
            ["string", "`\"Enforce\"`", "`Enforce`, `Warn`"]
        );
        assert_eq!(
            row(&page, "status.replicaStatuses[].pod")[0],
            "`replicaStatuses[].pod` *"
        );
        assert_eq!(row(&page, "spec.nodeSelector")[1], "map of string");
    }

    #[test]
    fn each_kubernetes_type_is_one_row_with_a_link() {
        let page = reference(&crd());
        for (path, kind, anchor) in KUBERNETES_TYPES {
            let (_, field) = path.split_once('.').unwrap_or(("", path));
            let link = format!("[{kind}]({KUBERNETES_API}#{anchor})");
            assert!(row(&page, path)[1].starts_with(&link), "{path}");
            assert!(
                !page.contains(&format!("| `{field}."))
                    && !page.contains(&format!("| `{field}[].")),
                "{path} is expanded"
            );
        }
    }

    #[test]
    fn every_table_row_has_as_many_cells_as_its_head() {
        let mut columns = 0;
        for line in reference(&crd()).lines() {
            if !line.starts_with('|') {
                columns = 0;
                continue;
            }
            let bars = line.replace("\\|", "").matches('|').count();
            if columns == 0 {
                columns = bars;
            }
            assert_eq!(bars, columns, "{line}");
        }
    }

    #[test]
    fn every_field_condition_and_reason_is_described() {
        let page = reference(&crd());
        assert!(
            !page.contains("|  |\n"),
            "a row ends without a description: {:?}",
            page.lines().find(|line| line.ends_with("|  |"))
        );
        for condition in ConditionType::iter() {
            assert!(condition.get_documentation().is_some(), "{condition}");
            assert!(
                page.contains(&format!("\n### {condition}\n")),
                "{condition}"
            );
        }
        for reason in Reason::iter() {
            assert!(reason.get_documentation().is_some(), "{reason}");
            assert_eq!(
                page.matches(&format!("[`{reason}`](")).count(),
                1,
                "{reason}"
            );
        }
    }

    #[test]
    fn the_troubleshooting_page_has_a_heading_for_every_reason_and_for_no_other() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/troubleshooting.md");
        let page = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let headings = |level: &str| -> Vec<String> {
            page.lines()
                .filter_map(|line| line.strip_prefix(level))
                .map(str::to_owned)
                .collect()
        };
        let reasons = headings("### ");
        let unique: BTreeSet<&String> = reasons.iter().collect();
        assert_eq!(
            unique.len(),
            reasons.len(),
            "a heading stands twice, so its link is ambiguous"
        );
        let wanted: BTreeSet<String> = Reason::iter().map(|reason| reason.to_string()).collect();
        let found: BTreeSet<String> = reasons.into_iter().collect();
        let missing: Vec<&String> = wanted.difference(&found).collect();
        let unknown: Vec<&String> = found.difference(&wanted).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "missing: {missing:?}; no such reason: {unknown:?}"
        );
        for condition in ConditionType::iter() {
            assert!(
                page.contains(&format!("\n## {condition}\n")),
                "no section for {condition}"
            );
        }
    }
}
