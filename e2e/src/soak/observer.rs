//! The observer: reads pods and databases on its own clock, and enters what it sees into
//! the books.

use super::Subject;
use super::books::{Books, PodSeen, Sample};
use super::disturbances::{Disturbances, Shared};
use super::plan::Model;
use anyhow::{Result, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use parking_lot::Mutex;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Between two samples.
const INTERVAL: Duration = Duration::from_millis(500);
/// A license counts until so long before its end.
const GUARD: SignedDuration = SignedDuration::from_mins(10);
/// Longest a sample may take; while something is struck, nothing answers.
const PATIENCE: Duration = Duration::from_secs(5);
/// Any other replica fails the tasks of one that has sent no heartbeat for a minute. Where no other
/// works, they would stay RUNNING for ever. The database may be away for some of that time.
const DEAD_AFTER: Duration = Duration::from_secs(75);
/// How the stand-in begins why a task failed that its own replica reports as failed: the users'
/// databases go with the server as well.
const OF_THE_TARGET: &str = "the target database: ";

/// The task that takes the samples.
pub struct Observer {
    task: JoinHandle<()>,
    books: Arc<Mutex<Books>>,
}

impl Observer {
    /// Begins to take samples.
    pub fn start(pods: Api<Pod>, subjects: Vec<Subject>, shared: Shared) -> Self {
        let books = Arc::default();
        let sampler = Sampler {
            pods,
            subjects,
            shared,
        };
        Self {
            task: tokio::spawn(sampler.watch(Arc::clone(&books))),
            books,
        }
    }

    /// Ends it and hands over the books.
    pub fn end(self) -> Result<Books> {
        ensure!(!self.task.is_finished(), "the observer broke off");
        Ok(std::mem::take(&mut *self.books.lock()))
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Sampler {
    pods: Api<Pod>,
    subjects: Vec<Subject>,
    shared: Shared,
}

impl Sampler {
    async fn watch(self, books: Arc<Mutex<Books>>) {
        let mut last = vec![Instant::now(); self.subjects.len()];
        loop {
            for (index, (subject, last)) in self.subjects.iter().zip(&mut last).enumerate() {
                let disturbances = self.shared.lock().clone();
                let seen = timeout(PATIENCE, self.see(subject)).await;
                // What was noted while the sample was taken counts as well.
                let now = self.shared.lock().clone();
                let passed = last.elapsed();
                *last = Instant::now();
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
                    let is_excused = disturbances.hides(index) || now.hides(index);
                    books.lock().enter_blind(index, passed, is_excused);
                    continue;
                };
                let both = |of: &Disturbances| of.disturbed.contains(&index);
                let unexplained = failed
                    .into_iter()
                    .filter(|(_, owner, last_heartbeat)| {
                        !now.explains(index, owner, *last_heartbeat)
                    })
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
                    passed,
                };
                books.lock().enter(index, &sample);
            }
            sleep(INTERVAL).await;
        }
    }

    async fn see(&self, subject: &Subject) -> Result<Seen> {
        let Subject { name, pool, .. } = subject;
        let selector = format!("bytebase.com/cluster={name}");
        let pods = self
            .pods
            .list(&ListParams::default().labels(&selector))
            .await?;
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
             WHERE t.replica_id IS NOT NULL AND NOT starts_with(coalesce(t.result->>'detail', ''), $2)
             AND (t.status IN ('FAILED', 'CANCELED') OR (t.status = 'RUNNING' AND h.last_heartbeat < now() - make_interval(secs => $1)))",
        )
        .bind(DEAD_AFTER.as_secs_f64())
        .bind(OF_THE_TARGET)
        .fetch_all(pool)
        .await?;
        // Of no replica: queued work that Bytebase itself failed.
        let given_up = sqlx::query_scalar(
            "SELECT id FROM task_run WHERE status = 'FAILED' AND replica_id IS NULL",
        )
        .fetch_all(pool)
        .await?;
        // A replica that promotes work holds it alone, for a moment.
        let held = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database JOIN pg_stat_activity a USING (pid)
             WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.classid = 0 AND l.objid = 1001 AND l.objsubid = 1 AND l.granted
             AND (l.mode = 'ShareLock' OR a.xact_start IS NULL OR a.xact_start < clock_timestamp() - interval '2 seconds'))",
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
    /// Task runs that failed, or that no one runs any more: id, owner, and the owner's last
    /// heartbeat.
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
