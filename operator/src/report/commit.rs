//! How a status is written: in place of the one that it was decided on, and of no other.

use super::Error;
use super::memory::{Memory, WrittenStatus};
use crate::api::{BytebaseCluster, BytebaseClusterStatus};
use crate::apply::{FIELD_MANAGER, Writer};
use crate::kubernetes::guarded::Parts;
use crate::kubernetes::{Guarded, Kind};
use crate::process::metrics::WriteVerb;
use kube::api::{GetParams, Patch, PatchParams};
use kube::core::Request;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde::de::Error as _;
use serde_json::json;
use serde_json::value::RawValue;

/// How the API server answers where there is no object of the name.
const NOT_FOUND: u16 = 404;
/// How it answers where a precondition of a JSON patch does not hold, and where the schema refuses
/// what would come of it.
const INVALID: u16 = 422;

/// Writes a status in place of `previous`, which it was decided on, and remembers it. Where another
/// one stands, that one is remembered, and nothing is written.
pub(super) async fn commit(
    writer: &Writer,
    cluster: &BytebaseCluster,
    previous: &BytebaseClusterStatus,
    status: BytebaseClusterStatus,
    memory: &mut Memory,
) -> Result<(), Error> {
    let client = &writer.client;
    let before = cluster.resource_version();
    let mut base = memory.base(cluster);
    let mut is_repeated = false;
    let after = loop {
        // Before each try: this process may have stood still since the one before.
        writer.leadership.check()?;
        let refused = match write(client, cluster, base.as_deref(), &status).await {
            Ok(after) => break after,
            Err(kube::Error::Api(refused)) if [NOT_FOUND, INVALID].contains(&refused.code) => {
                refused
            }
            Err(error) => return Err(Error::Status(error)),
        };
        let live = Live::read(client, cluster).await.map_err(Error::Status)?;
        let live = live.filter(|live| live.uid == cluster.metadata.uid);
        let live = live.ok_or(Error::Gone)?;
        if live.version == base {
            return Err(Error::Status(kube::Error::Api(refused)));
        }
        if is_repeated || !live.has(previous) {
            memory.written = Some(WrittenStatus {
                before,
                after: live.version,
                status: live.status,
                is_own: false,
            });
            // The status is overdue, so the next reconcile does not leave it to another one.
            memory.status_due = true;
            return Err(Error::Outdated);
        }
        // Only the spec or the metadata have changed, perhaps into what cannot be read, so that the
        // cache stays as it was.
        base = live.version;
        is_repeated = true;
    };
    writer
        .metrics
        .wrote(WriteVerb::PatchStatus, Kind::BytebaseCluster);
    memory.written = Some(WrittenStatus {
        before,
        after,
        status,
        is_own: true,
    });
    Ok(())
}

/// Writes status as a whole: what it leaves out goes, whoever wrote it. A server-side apply would
/// keep each field that another client has written as well, such as the tool that restores a
/// backup, and the next decisions would rest on it. Returns the `resourceVersion` of the cluster
/// with it.
async fn write(
    client: &Client,
    cluster: &BytebaseCluster,
    base: Option<&str>,
    status: &BytebaseClusterStatus,
) -> Result<Option<String>, kube::Error> {
    let namespace = cluster.namespace().unwrap_or_default();
    // The answer repeats the spec, which may be one that cannot be read.
    let api: Api<Guarded<BytebaseCluster>> = Api::namespaced(client.clone(), &namespace);
    let patch = json!([
        // Never the successor of the cluster that was decided on.
        {"op": "test", "path": "/metadata/uid", "value": cluster.uid()},
        // Nor one whose status has changed since: what a later decision rests on would go back.
        {"op": "test", "path": "/metadata/resourceVersion", "value": base},
        {"op": "add", "path": "/status", "value": status},
    ]);
    let patch = serde_json::from_value(patch).map_err(kube::Error::SerdeError)?;
    let patch = Patch::<()>::Json(patch);
    let parameters = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let name = cluster.name_any();
    let written = api.patch_status(&name, &parameters, &patch).await?;
    Ok(written.meta().resource_version.clone())
}

/// A cluster as it is stored, without its spec, which may be one that cannot be read.
struct Live {
    uid: Option<String>,
    version: Option<String>,
    status: BytebaseClusterStatus,
}

impl Live {
    /// Reads it. `None`: there is none.
    async fn read(client: &Client, cluster: &BytebaseCluster) -> Result<Option<Self>, kube::Error> {
        let namespace = cluster.namespace().unwrap_or_default();
        let path = BytebaseCluster::url_path(&(), Some(&namespace));
        let request = Request::new(path).get(&cluster.name_any(), &GetParams::default());
        let request = request.map_err(kube::Error::BuildRequest)?;
        match client.request_text(request).await {
            Ok(json) => {
                let no_metadata = || serde_json::Error::custom("an object has no metadata");
                let live = Self::of(&json).ok_or_else(no_metadata);
                live.map(Some).map_err(kube::Error::SerdeError)
            }
            Err(kube::Error::Api(refused)) if refused.code == NOT_FOUND => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn of(json: &str) -> Option<Self> {
        let parts = Parts::of(json)?;
        let status = parts.status.map(RawValue::get);
        let status = status.and_then(|json| serde_json::from_str(json).ok());
        let metadata = parts.metadata()?;
        Some(Self {
            uid: metadata.uid,
            version: metadata.resource_version,
            status: status.unwrap_or_default(),
        })
    }

    /// Whether this status stands. In memory its times have parts of a second, which are not
    /// stored.
    fn has(&self, status: &BytebaseClusterStatus) -> bool {
        let [live, status] = [&self.status, status].map(serde_json::to_value);
        matches!((live, status), (Ok(live), Ok(status)) if live == status)
    }
}
