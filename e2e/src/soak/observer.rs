//! The observer: reads pods and databases on its own clock, and enters what it sees into
//! the books.

use super::books::{Books, PodSeen, Sample};
use super::disturbances::{Disturbances, Shared};
use super::plan::{Model, cluster_name};
use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::Value;
use sqlx::PgPool;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Between two samples.
const INTERVAL: Duration = Duration::from_millis(500);
/// A license counts until so long before its end.
const GUARD: SignedDuration = SignedDuration::from_mins(10);
/// Longest a sample may take; while something is struck, nothing answers.
const PATIENCE: Duration = Duration::from_secs(5);

/// The task that takes the samples.
pub struct Observer {
    task: JoinHandle<Books>,
    shared: Shared,
}

impl Observer {
    /// Begins to take samples.
    pub fn start(pods: Api<Pod>, pools: Vec<PgPool>, shared: Shared) -> Self {
        let sampler = Sampler {
            pods,
            pools,
            shared: shared.clone(),
        };
        Self {
            task: tokio::spawn(sampler.watch()),
            shared,
        }
    }

    /// Ends it and hands over the books.
    pub async fn end(self) -> Result<Books> {
        self.shared.lock().over = true;
        self.task.await.context("the observer broke off")
    }
}

struct Sampler {
    pods: Api<Pod>,
    pools: Vec<PgPool>,
    shared: Shared,
}

impl Sampler {
    async fn watch(self) -> Books {
        let mut books = Books::default();
        let mut last = vec![Instant::now(); self.pools.len()];
        loop {
            for (index, last) in last.iter_mut().enumerate() {
                let disturbances = self.shared.lock().clone();
                if disturbances.over {
                    return books;
                }
                let seen = timeout(PATIENCE, self.see(index)).await;
                let Ok(Ok(Seen {
                    pods,
                    active,
                    ha,
                    ended,
                    held,
                    given_up,
                    failed,
                })) = seen
                else {
                    // Of what the observer did not see, the books say nothing.
                    books.blind += 1;
                    *last = Instant::now();
                    continue;
                };
                // What was noted while the sample was taken counts as well.
                let now = self.shared.lock().clone();
                let both = |of: &Disturbances| of.disturbed.contains(&index);
                let unexplained = failed
                    .into_iter()
                    .filter(|(_, _, last_heartbeat)| !now.explains(index, *last_heartbeat))
                    .map(|(id, owner, _)| (id, owner));
                let sample = Sample {
                    lost: unexplained.collect(),
                    given_up,
                    held,
                    pods,
                    active,
                    ha,
                    ended,
                    target: now.models.get(index).map_or(0, Model::target),
                    disturbed: both(&disturbances) || both(&now),
                    struck: disturbances.struck || now.struck,
                    refused: disturbances.refused.contains(&index) && now.refused.contains(&index),
                    deleted: now.deleted,
                    passed: last.elapsed(),
                };
                *last = Instant::now();
                books.enter(index, &sample);
            }
            sleep(INTERVAL).await;
        }
    }

    async fn see(&self, index: usize) -> Result<Seen> {
        let selector = format!("bytebase.com/cluster={}", cluster_name(index));
        let pods = self
            .pods
            .list(&ListParams::default().labels(&selector))
            .await?;
        let pool = self.pools.get(index).context("no such cluster")?;
        // Read as Bytebase stores it; that the token is genuine is not this observer's business.
        let license: Option<String> = sqlx::query_scalar(
            "SELECT s.value->>'license' FROM workspace w JOIN setting s ON s.workspace = w.resource_id AND s.name = 'SYSTEM' WHERE NOT w.deleted",
        )
        .fetch_optional(pool)
        .await?
        .flatten();
        // None is stored either where no one has signed up, as in a database that was put in the
        // place of another.
        let allows = |at| {
            let token = license.as_deref();
            token.is_some_and(|token| allows_several(token, at))
        };
        let now = Timestamp::now();
        // It counts until so long before its end.
        let (ha, ended) = (allows(now + GUARD), !allows(now));
        // A replica sends a heartbeat every ten seconds; the row of one that ended stays.
        let active = sqlx::query_scalar(
            "SELECT count(*) FROM replica_heartbeat WHERE last_heartbeat > now() - interval '15 seconds'",
        )
        .fetch_one(pool)
        .await?;
        // In milliseconds, which every task takes longer than.
        let failed: Vec<(i64, String, i64)> = sqlx::query_as(
            "SELECT t.id, t.replica_id, (extract(epoch FROM coalesce(h.last_heartbeat, t.updated_at)) * 1000)::bigint
             FROM task_run t LEFT JOIN replica_heartbeat h USING (replica_id)
             WHERE t.status IN ('FAILED', 'CANCELED') AND t.replica_id IS NOT NULL",
        )
        .fetch_all(pool)
        .await?;
        // Of no replica: queued work that Bytebase itself failed.
        let given_up = sqlx::query_scalar(
            "SELECT id FROM task_run WHERE status = 'FAILED' AND replica_id IS NULL",
        )
        .fetch_all(pool)
        .await?;
        let held = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.objid = 1001 AND l.mode = 'ShareLock' AND l.granted)",
        )
        .fetch_one(pool)
        .await?;
        let failed = failed.into_iter().map(|(id, owner, milliseconds)| {
            Ok((id, owner, Timestamp::from_millisecond(milliseconds)?))
        });
        Ok(Seen {
            pods: pods.iter().map(seen).collect(),
            active,
            ha,
            ended,
            held,
            given_up,
            failed: failed.collect::<Result<_>>()?,
        })
    }
}

/// What one sample brought.
struct Seen {
    pods: Vec<PodSeen>,
    active: i64,
    ha: bool,
    ended: bool,
    held: bool,
    /// Queued task runs that failed although no replica had begun them.
    given_up: Vec<i64>,
    /// Task runs that failed: id, owner, and the owner's last heartbeat.
    failed: Vec<(i64, String, Timestamp)>,
}

fn seen(pod: &Pod) -> PodSeen {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let ready = conditions.and_then(|list| {
        list.iter()
            .find(|condition| condition.type_ == "Ready" && condition.status == "True")
    });
    let metadata = &pod.metadata;
    // Kubernetes writes down when the pod will be gone at the latest.
    let grace = SignedDuration::from_secs(metadata.deletion_grace_period_seconds.unwrap_or(0));
    let ending_since = metadata
        .deletion_timestamp
        .as_ref()
        .map(|time| time.0 - grace);
    PodSeen {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        ready: ready.is_some(),
        ending: ending_since.is_some(),
        ready_since: ready
            .and_then(|condition| condition.last_transition_time.as_ref())
            .map(|time| time.0),
        ending_since,
    }
}

/// Whether a token has the claim `ha` and has not ended at this time.
fn allows_several(token: &str, at: Timestamp) -> bool {
    let claims = token.split('.').nth(1).unwrap_or_default();
    let standard = claims.replace('-', "+").replace('_', "/");
    let padded = format!("{standard}{}", "=".repeat((4 - standard.len() % 4) % 4));
    serde_json::from_value::<k8s_openapi::ByteString>(Value::String(padded))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes.0).ok())
        .is_some_and(|claims| {
            claims["ha"] == true
                && claims["exp"]
                    .as_i64()
                    .is_none_or(|end| end > at.as_second())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_claim_is_read_from_the_token() {
        // {"ha":true,"x":"?>"} and {"ha":false}, in the alphabet of URLs.
        let now = Timestamp::from_second(1000).expect("a time");
        assert!(allows_several("e30.eyJoYSI6dHJ1ZSwieCI6Ij8-In0.x", now));
        assert!(!allows_several("e30.eyJoYSI6ZmFsc2V9.x", now));
        assert!(!allows_several("nonsense", now));
        // {"ha":true,"exp":1600}
        let token = "e30.eyJoYSI6dHJ1ZSwiZXhwIjoxNjAwfQ.x";
        for (at, allows) in [(1599, true), (1600, false)] {
            let at = Timestamp::from_second(at).expect("a time");
            assert_eq!(allows_several(token, at), allows);
        }
    }
}
