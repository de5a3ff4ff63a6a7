//! The API server's own record of who called what. It says what the operator did, which of its
//! pods did it, and what it was refused; nothing that the operator says of itself is needed for
//! that.

use crate::cluster::{AUDIT_LOG, Cluster};
use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Deserialize;

/// Every call of a workload's service account, without bodies. Kubernetes' own parts are left out.
pub const POLICY: &str = r#"apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    userGroups: ["system:serviceaccounts:kube-system", "system:serviceaccounts:local-path-storage"]
  - level: Metadata
    userGroups: ["system:serviceaccounts"]
"#;

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The pod that called.
    pub pod: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`.
    pub verb: String,
    /// Empty for the core group.
    pub group: String,
    /// With the subresource, if any: `pods/log`.
    pub resource: String,
    pub namespace: String,
    pub name: String,
    /// Status of the answer.
    pub code: u16,
    /// The authoriser refused it. Others answer 403 as well: admission, or a definition that is
    /// being removed.
    pub forbidden: bool,
    /// When the API server received it.
    pub at: Timestamp,
}

impl Call {
    /// Whether it may have changed anything.
    pub fn writes(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

/// The calls of a namespace's service accounts, as far as the record has been read: some scenarios
/// ask several times a second, and the record of a whole run is long.
#[derive(Debug, Default)]
pub struct Calls {
    /// Bytes of the record.
    read_to: u64,
    calls: Vec<Call>,
}

impl Calls {
    /// What the service accounts of this namespace have called so far, in order. Calls that name no
    /// resource (`/version`) are listed as such: with an empty resource.
    pub async fn read(&mut self, cluster: &Cluster, namespace: &str) -> Result<&[Call]> {
        let script = since(AUDIT_LOG, namespace, self.read_to);
        self.take(&cluster.on_node(&script).await?)?;
        Ok(&self.calls)
    }

    /// Takes what [`since`] has printed.
    fn take(&mut self, printed: &str) -> Result<()> {
        let (end, lines) = printed
            .split_once('\n')
            .context("the API server's record has no length")?;
        let calls = lines.lines().map(parse).collect::<Result<Vec<_>>>()?;
        self.read_to = end.parse().context("the API server's record")?;
        self.calls.extend(calls);
        Ok(())
    }
}

/// A script that prints how long the record is, and the namespace's lines of it from this byte on.
/// While the last line is being written, it waits for its end.
fn since(log: &str, namespace: &str, from: u64) -> String {
    format!(
        "[ -e {log} ] || {{ echo 0; exit 0; }}\n\
         while end=$(stat -c %s {log}); [ -n \"$(tail -c +$end {log} | head -c 1)\" ]; do sleep 0.1; done\n\
         echo $end\n\
         tail -c +{first} {log} | head -c $((end - {from})) | \
         grep -F '\"username\":\"system:serviceaccount:{namespace}:' || true\n",
        first = from + 1,
    )
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    verb: String,
    user: User,
    #[serde(default)]
    object_ref: ObjectRef,
    #[serde(default)]
    response_status: ResponseStatus,
    #[serde(default)]
    annotations: Annotations,
    request_received_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    extra: Extra,
}

#[derive(Default, Deserialize)]
struct Extra {
    #[serde(default, rename = "authentication.kubernetes.io/pod-name")]
    pod: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ObjectRef {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
struct Annotations {
    #[serde(default, rename = "authorization.k8s.io/decision")]
    decision: String,
}

#[derive(Default, Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: u16,
}

fn parse(line: &str) -> Result<Call> {
    let event: Event = serde_json::from_str(line).context("a line of the API server's record")?;
    let object = event.object_ref;
    let resource = if object.subresource.is_empty() {
        object.resource
    } else {
        format!("{}/{}", object.resource, object.subresource)
    };
    Ok(Call {
        pod: event.user.extra.pod.into_iter().next().unwrap_or_default(),
        verb: event.verb,
        group: object.api_group,
        resource,
        namespace: object.namespace,
        name: object.name,
        code: event.response_status.code,
        forbidden: event.annotations.decision == "forbid",
        at: event.request_received_timestamp,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_a_call() -> Result<()> {
        let line = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"x","stage":"ResponseComplete","requestURI":"/apis/policy/v1/…","verb":"create","user":{"username":"system:serviceaccount:ns:operator","extra":{"authentication.kubernetes.io/pod-name":["operator-0"]}},"objectRef":{"resource":"pods","namespace":"ns","name":"demo-0","apiVersion":"v1","subresource":"eviction"},"responseStatus":{"metadata":{},"code":201},"requestReceivedTimestamp":"2026-11-24T14:00:00.123456Z","annotations":{"authorization.k8s.io/decision":"forbid"}}"#;
        let call = parse(line)?;
        assert_eq!(call.pod, "operator-0");
        assert_eq!(
            (call.verb.as_str(), call.resource.as_str()),
            ("create", "pods/eviction")
        );
        assert_eq!(call.code, 201);
        assert!(call.writes() && call.forbidden);
        let other = r#"{"verb":"get","user":{"username":"x"},"requestReceivedTimestamp":"2026-11-24T14:00:00Z"}"#;
        let other = parse(other)?;
        assert!(other.resource.is_empty() && !other.writes() && !other.forbidden);
        Ok(())
    }

    #[tokio::test]
    async fn a_call_is_read_once() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("audit.log").display().to_string();
        let line = |namespace: &str, verb: &str| {
            format!(
                r#"{{"verb":"{verb}","user":{{"username":"system:serviceaccount:{namespace}:operator"}},"requestReceivedTimestamp":"2026-11-24T14:00:00Z"}}"#
            )
        };
        let mut calls = Calls::default();
        let mut text = String::new();
        for (more, all) in [
            (vec![], vec![]),
            (vec![("ns", "get"), ("other", "list")], vec!["get"]),
            (vec![], vec!["get"]),
            (vec![("other", "list")], vec!["get"]),
            (
                vec![("ns", "patch"), ("ns", "watch")],
                vec!["get", "patch", "watch"],
            ),
        ] {
            for (namespace, verb) in more {
                text.push_str(&line(namespace, verb));
                text.push('\n');
            }
            if !text.is_empty() {
                std::fs::write(&log, &text)?;
            }
            let script = since(&log, "ns", calls.read_to);
            let printed = crate::machine::command::Call::new("sh", &["-euc", &script]);
            calls.take(&printed.run().await?)?;
            let verbs: Vec<_> = calls.calls.iter().map(|call| call.verb.as_str()).collect();
            assert_eq!(verbs, all);
            assert_eq!(usize::try_from(calls.read_to)?, text.len());
        }
        Ok(())
    }

    #[test]
    fn the_policy_is_yaml() -> Result<()> {
        let policy: serde_json::Value = serde_yaml::from_str(POLICY)?;
        assert_eq!(policy["rules"].as_array().map(Vec::len), Some(2));
        Ok(())
    }
}
