//! The pod template that should stand.
//!
//! An upgrade of the operator brings another image of the drain hook, and perhaps more defaults,
//! and must replace no pod. So what the operator adds stays as it stands in the StatefulSet until
//! the template changes for another reason, which is known from a digest of everything else that
//! the StatefulSet carries.

use super::CONTAINER;
use super::drain::{grace, image_in, program, starts_hook};
use super::drift;
use super::pod_template::{Additions, LATEST_DEFAULTS, defaults_in, pod_template};
use crate::validate::{DrainTerms, SHUTDOWN_SECONDS, ValidCluster, ValidDrain, ValidRollout};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Annotation of the StatefulSet: digest of its template without what the operator adds.
pub const TEMPLATE_ANNOTATION: &str = "bytebase.com/template-digest";

/// What the present StatefulSet says of its template.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing<'a> {
    /// The template as the API server holds it; `None` where there is no StatefulSet.
    pub live: Option<&'a Value>,
    /// What the operator added to its template.
    pub additions: Additions<'a>,
    /// Its [`TEMPLATE_ANNOTATION`]; `None` where an older operator wrote it.
    pub digest: Option<&'a str>,
}

/// A pod template and the digest that goes with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// The template.
    pub value: Value,
    /// Digest of everything but what the operator adds. `None`: of a template that an older
    /// operator wrote and that must not change now.
    pub digest: Option<String>,
}

/// The template that should stand. `own`: the operator's own image, if it knows it.
pub fn template(
    cluster: &ValidCluster,
    own: Option<&str>,
    standing: Standing<'_>,
) -> Result<Template, String> {
    let terms = match &cluster.rollout.drain {
        ValidDrain::Enabled(terms) => Some(terms),
        ValidDrain::Disabled => None,
    };
    let plain = pod_template(cluster, Additions::default())?;
    let digest = digest(&plain, terms);
    // One that an older operator made has changed only if more than the additions would change,
    // which is not known: it gets them with its next change.
    let is_same =
        standing.live.is_some() && standing.digest.is_none_or(|standing| standing == digest);
    let before = standing.additions;
    let drain_image = terms.and_then(|terms| {
        let new = terms.image.as_deref().or(own);
        match (is_same, before.drain_image) {
            _ if terms.image.is_some() => new,
            (true, Some(image)) => Some(image),
            (true, None) if !terms.is_asked_for => None,
            // Without an image of its own the operator keeps the one that is there.
            (_, standing) => new.or(standing),
        }
    });
    // The image that the spec names is part of the digest. The one that stands may differ from it
    // all the same, where a webhook has pods take it from a mirror: that is no change.
    let changes = !is_same
        || drain_image.is_some() != before.drain_image.is_some()
        || (standing.digest.is_none() && drain_image != before.drain_image);
    if let Some(live) = standing.live
        && !changes
        && before.defaults > LATEST_DEFAULTS
    {
        // A newer operator made it. What that added this one does not know; all else is what this
        // one makes of the spec, whatever is added to it, and no other party is to change that.
        let added = Additions {
            drain_image,
            defaults: LATEST_DEFAULTS,
        };
        let known = drift::common(&plain, &pod_template(cluster, added)?);
        return Ok(Template {
            value: drift::undone(live, &known)?,
            digest: Some(digest),
        });
    }
    let additions = Additions {
        drain_image,
        defaults: if changes {
            LATEST_DEFAULTS
        } else {
            before.defaults
        },
    };
    Ok(Template {
        value: pod_template(cluster, additions)?,
        digest: Some(digest),
    })
}

/// What there is to say of a template whose pods cannot finish their tasks as they are to. `own`:
/// the operator's own image, if it knows it. `standing`: the digest of the template that stands.
pub fn warning(
    cluster: &ValidCluster,
    own: Option<&str>,
    standing: Option<&str>,
    template: &Template,
) -> Option<String> {
    let template = &template.value;
    let ValidDrain::Enabled(terms) = &cluster.rollout.drain else {
        return cut_short(&cluster.rollout, template);
    };
    if image_in(template).is_none() {
        let why = match (own, standing) {
            (None, _) => {
                "the pods get no drain hook, since the operator does not know the image that it runs from: grant it get on its own pod, set its environment variable OPERATOR_IMAGE, or set spec.rollout.drainImage"
            }
            // It was made while the image was not known, or by an older operator, and stays as it
            // is.
            (Some(_), Some(_)) => {
                "the pods have no drain hook, so one that is to end cancels the tasks that it runs: the hook comes with their next change, or at once with spec.rollout.drain Enabled"
            }
            // The digest comes with the next write of the StatefulSet.
            (Some(_), None) => return None,
        };
        return Some(format!("spec.rollout.drain: {why}"));
    }
    if !starts_hook(&template["spec"]["containers"]) {
        return Some(format!(
            "spec.podTemplate: the container {CONTAINER} has a lifecycle of its own, which does not start the drain hook, so its running tasks are not waited for: take the lifecycle out, or have preStop run {} as it would be without it",
            program()
        ));
    }
    let database = &cluster.database;
    if database.replicas.iam.is_some() && database.monitor.is_none() {
        return Some(
            "spec.database: the drain hook cannot log in by cloud IAM, so a replica that ends waits for spec.rollout.preStopSeconds only, and its running tasks are cancelled then: set database.monitorSecretRef, by which the hook sees them".to_owned(),
        );
    }
    if database.replicas.is_inside_the_pod() && ends_beside_bytebase(&template["spec"]) {
        return Some(
            "spec.database: the host is in the pod itself, and no init container of spec.podTemplate has restartPolicy Always. If the proxy to the database is a container beside Bytebase, Kubernetes ends it at the moment at which it asks the pod to end, so the drain hook sees no running tasks, and they are cancelled: make the proxy an init container with restartPolicy Always, which ends after Bytebase".to_owned(),
        );
    }
    let needed = grace(&cluster.rollout, terms);
    let grace = template["spec"]["terminationGracePeriodSeconds"].as_i64()?;
    (grace < needed).then(|| {
        format!(
            "spec.podTemplate: terminationGracePeriodSeconds is {grace}, so Kubernetes ends a replica after that time, and cancels its running tasks, although its drain may take {needed} s: take the field out, or shorten spec.rollout.drainTimeoutSeconds"
        )
    })
}

/// Whether a pod of this spec has other containers than Bytebase's, none of which outlives it.
fn ends_beside_bytebase(spec: &Value) -> bool {
    let list = |name: &str| spec[name].as_array().into_iter().flatten();
    let outlives = |container: &Value| container["restartPolicy"] == "Always";
    list("containers").any(|container| container["name"] != CONTAINER)
        && !list("initContainers").any(outlives)
}

/// The overlay leaves a replica that does not drain too little time to end.
fn cut_short(rollout: &ValidRollout, template: &Value) -> Option<String> {
    let pause = rollout.pre_stop_seconds;
    let grace = template["spec"]["terminationGracePeriodSeconds"].as_i64()?;
    // Of a short field another remark speaks.
    let is_overlaid = grace < pause + rollout.termination_grace_seconds;
    (is_overlaid && grace < pause + SHUTDOWN_SECONDS).then(|| {
        format!(
            "spec.podTemplate: terminationGracePeriodSeconds is {grace}, and a replica takes up to {} s to end (preStopSeconds, and {SHUTDOWN_SECONDS} s that Bytebase gives open requests), so Kubernetes may end it before they are answered: take the field out",
            pause + SHUTDOWN_SECONDS
        )
    })
}

fn digest(without: &Value, terms: Option<&DrainTerms>) -> String {
    let terms = terms.map(|terms| {
        let DrainTerms {
            is_asked_for: _,
            timeout_seconds,
            hold_limit_seconds,
            image,
        } = terms;
        json!([timeout_seconds, hold_limit_seconds, image])
    });
    let text = json!([without, terms]).to_string();
    hex::encode(&Sha256::digest(text)[..16])
}

/// What the operator added to a template.
pub fn additions_in(template: &Value) -> Additions<'_> {
    Additions {
        drain_image: image_in(template),
        defaults: defaults_in(template),
    }
}
