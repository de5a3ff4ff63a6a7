//! The image of the pod that this process runs in, from which the drain hook is copied into the
//! pods of the clusters: by whatever means the operator was installed, the kubelet could pull this
//! one.

use super::context::Context;
use super::tasks::Essential;
use crate::kubernetes::error_text::plain;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pause before the pod is read again while the API server does not answer.
const RETRY: Duration = Duration::from_secs(2);
/// The same where it refuses that, until an administrator grants it.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// Has the image read by a task, if the operator was not given one. What is returned is cancelled
/// once the image is known, or has been refused.
pub fn start(
    context: &Arc<Context>,
    essential: &Essential,
    namespace: String,
    pod_name: String,
) -> CancellationToken {
    let answered = CancellationToken::new();
    if context.settings().own_image.is_some() {
        answered.cancel();
        return answered;
    }
    let learn = learn(Arc::clone(context), namespace, pod_name, answered.clone());
    essential.spawn("reading of the operator's own pod".to_owned(), learn);
    answered
}

/// Reads the image until it is known. Never ends.
pub async fn learn(
    context: Arc<Context>,
    namespace: String,
    pod_name: String,
    answered: CancellationToken,
) {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    let mut was_refused = None;
    let pod = loop {
        let error = match api.get(&pod_name).await {
            Ok(pod) => break pod,
            Err(error) => error,
        };
        let is_refused =
            matches!(&error, kube::Error::Api(status) if matches!(status.code, 403 | 404));
        // Once, and not at each try.
        if was_refused.replace(is_refused) != Some(is_refused) {
            tracing::warn!(
                pod = %pod_name,
                namespace = %namespace,
                error = plain(&error),
                "the operator cannot read its own pod, whose image holds the drain hook for the replicas; it is tried again"
            );
        }
        if !is_refused {
            tokio::time::sleep(RETRY).await;
            continue;
        }
        if !answered.is_cancelled() {
            tracing::warn!(
                "until the operator can read its own pod, the pods of new clusters get no drain hook, so one that is to end cancels the tasks that it runs; grant the operator get on its own pod, or set OPERATOR_IMAGE"
            );
            answered.cancel();
        }
        tokio::time::sleep(ASK_AGAIN).await;
    };
    if let Some(image) = image_of(pod) {
        tracing::info!(image, "the image of the drain hook is known");
        context.learn_own_image(image);
    }
    answered.cancel();
    std::future::pending::<()>().await;
}

fn image_of(pod: Pod) -> Option<String> {
    let containers = pod.spec.map(|spec| spec.containers).unwrap_or_default();
    let own = containers
        .iter()
        .position(|container| container.name == "operator");
    containers.into_iter().nth(own.unwrap_or(0))?.image
}
