//! The observer: reads pods and databases on its own clock, and enters what it sees into
//! the books.

use super::Subject;
use super::books::{Books, PodSeen, Sample};
use super::disturbances::{Disturbances, Shared};
use super::plan::Model;
use anyhow::{Result, ensure};
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use parking_lot::Mutex;
use serde_json::Value;
use sqlx::PgPool;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Between two samples.
const INTERVAL: Duration = Duration::from_millis(500);
/// A license counts until so long before its end.
const GUARD: SignedDuration = SignedDuration::from_mins(10);
/// Longest that either part of a sample may take; while something is struck, nothing answers.
const PATIENCE: Duration = Duration::from_secs(5);
/// Any other replica fails the tasks of one that has sent no heartbeat for a minute. Where no other
/// works, they would stay RUNNING for ever. The database may be away for some of that time.
const DEAD_AFTER: Duration = Duration::from_secs(75);
/// How the stand-in begins why a task failed that its own replica reports as failed.
const OF_THE_TARGET: &str = "the target database: ";
/// How it begins why a task failed that other replicas have given up. Its owner goes on with it
/// where it lives, and writes the end over that.
const ABANDONED: &str = "Task run abandoned";

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
    /// Each cluster at its own pace: one whose database does not answer makes samples of the others
    /// no rarer.
    async fn watch(self, books: Arc<Mutex<Books>>) {
        let clusters = self.subjects.iter().enumerate();
        let watched = clusters.map(|(index, subject)| self.watch_one(index, subject, &books));
        join_all(watched).await;
    }

    async fn watch_one(&self, index: usize, subject: &Subject, books: &Mutex<Books>) {
        let mut last = Instant::now();
        let mut license = None;
        loop {
            let before = self.shared.lock().clone();
            let pods = timeout(PATIENCE, self.see(&subject.name)).await;
            let reading = timeout(PATIENCE, read(&subject.pool)).await;
            // What was noted while the sample was taken counts as well.
            let after = self.shared.lock().clone();
            let passed = last.elapsed();
            last = Instant::now();
            let is_excused = before.hides(index) || after.hides(index);
            if let Ok(Ok(pods)) = pods {
                let reading = reading.ok().and_then(Result::ok);
                if let Some(reading) = &reading {
                    license.clone_from(&reading.license);
                }
                let is_read = reading.is_some();
                let sample = Sample {
                    hold_limit: subject.hold_limit,
                    passed,
                    ..sample(index, pods, reading, license.as_deref(), &before, &after)
                };
                let mut books = books.lock();
                if is_read {
                    books.enter(index, &sample);
                } else {
                    books.enter_unread(index, &sample, is_excused);
                }
            } else {
                books.lock().enter_blind(index, passed, is_excused);
            }
            sleep(INTERVAL).await;
        }
    }

    async fn see(&self, name: &str) -> Result<Vec<PodSeen>> {
        let selector = format!("bytebase.com/cluster={name}");
        let parameters = ListParams::default().labels(&selector);
        let pods = self.pods.list(&parameters).await?;
        Ok(pods.iter().map(seen).collect())
    }
}

/// What the database says.
#[derive(Default)]
struct Reading {
    /// The stored license, if there is one. There is none either where no one has signed up, as in
    /// a database that was put in the place of another.
    license: Option<String>,
    active: i64,
    held: bool,
    /// Queued task runs that failed although no replica had begun them.
    given_up: Vec<i64>,
    /// Task runs that failed, or that no one runs any more.
    failed: Vec<Failed>,
}

struct Failed {
    id: i64,
    owner: String,
    /// When its replica reported that it could not go on at a users' database; `None` for every
    /// other end.
    at_target: Option<Timestamp>,
}

async fn read(pool: &PgPool) -> Result<Reading> {
    // Read as Bytebase stores it; that the token is genuine is not this observer's business.
    let license: Option<String> = sqlx::query_scalar(
        "SELECT s.value->>'license' FROM workspace w JOIN setting s ON s.workspace = w.resource_id AND s.name = 'SYSTEM' WHERE NOT w.deleted",
    )
    .fetch_optional(pool)
    .await?
    .flatten();
    // A replica sends a heartbeat every ten seconds; the row of one that ended stays.
    let active = sqlx::query_scalar(
        "SELECT count(*) FROM replica_heartbeat WHERE last_heartbeat > now() - interval '15 seconds'",
    )
    .fetch_one(pool)
    .await?;
    // In milliseconds, which every task takes longer than.
    let failed: Vec<(i64, String, Option<i64>)> = sqlx::query_as(
        "SELECT t.id, t.replica_id,
                CASE WHEN starts_with(t.result->>'detail', $2) THEN (extract(epoch FROM t.updated_at) * 1000)::bigint END
         FROM task_run t LEFT JOIN replica_heartbeat h USING (replica_id)
         WHERE t.replica_id IS NOT NULL
         AND CASE WHEN t.status = 'RUNNING' THEN h.last_heartbeat < now() - make_interval(secs => $1)
             WHEN starts_with(t.result->>'detail', $3) THEN h.last_heartbeat IS NULL OR h.last_heartbeat < now() - make_interval(secs => $1)
             ELSE t.status IN ('FAILED', 'CANCELED') END",
    )
    .bind(DEAD_AFTER.as_secs_f64())
    .bind(OF_THE_TARGET)
    .bind(ABANDONED)
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
        let at_target = milliseconds.map(Timestamp::from_millisecond).transpose()?;
        Ok(Failed {
            id,
            owner,
            at_target,
        })
    });
    Ok(Reading {
        license,
        active,
        held,
        given_up,
        failed: failed.collect::<Result<_>>()?,
    })
}

/// What is known at this moment. Where the database says nothing, the pods that are Ready stand for
/// active replicas, and the license is the one that was read last.
fn sample(
    cluster: usize,
    pods: Vec<PodSeen>,
    reading: Option<Reading>,
    license: Option<&str>,
    before: &Disturbances,
    after: &Disturbances,
) -> Sample {
    let now = Timestamp::now();
    let allows = |at| license.is_some_and(|token| allows_several(token, at));
    let model = after.models.get(cluster);
    // The operator may have read another license just before the database went away.
    let may_be_another = reading.is_none() && model.is_some_and(|model| !model.ha);
    let ready = pods.iter().filter(|pod| pod.ready).count();
    let reading = reading.unwrap_or_else(|| Reading {
        active: i64::try_from(ready).unwrap_or(i64::MAX),
        ..Reading::default()
    });
    let is_explained = |failed: &Failed| {
        let at_target = failed.at_target;
        after.losing.contains(&failed.owner) || at_target.is_some_and(|at| after.took_targets(at))
    };
    let lost = reading.failed.into_iter();
    let lost = lost.filter(|failed| !is_explained(failed));
    Sample {
        lost: lost.map(|failed| (failed.id, failed.owner)).collect(),
        given_up: reading.given_up,
        held: reading.held,
        pods,
        active: reading.active,
        // It counts until so long before its end.
        ha: allows(now + GUARD),
        ended: may_be_another || !allows(now),
        target: model.map_or(0, Model::target),
        disturbed: before.disturbed.contains(&cluster) || after.disturbed.contains(&cluster),
        struck: before.struck || after.struck,
        refused: before.refused.contains(&cluster) && after.refused.contains(&cluster),
        deleted: after.deleted.clone(),
        ..Sample::default()
    }
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

    fn ready(name: &str) -> PodSeen {
        PodSeen {
            name: name.to_owned(),
            uid: name.to_owned(),
            ready: true,
            ending: false,
            ready_since: None,
            ending_since: None,
        }
    }

    #[test]
    fn without_a_reading_the_pods_and_the_license_of_before_count() {
        // {"ha":true}
        let license = Some("e30.eyJoYSI6dHJ1ZX0.x");
        let noted = |ha| Disturbances {
            models: vec![Model {
                ha,
                ..Model::default()
            }],
            refused: [0].into(),
            ..Disturbances::default()
        };
        let pods = vec![ready("a-0"), ready("a-1")];
        for (ha, read, active, ended) in [
            (true, false, 2, false),
            (false, false, 2, true),
            (false, true, 0, false),
        ] {
            let (noted, reading) = (noted(ha), read.then(Reading::default));
            let seen = sample(0, pods.clone(), reading, license, &noted, &noted);
            assert_eq!((seen.active, seen.ended), (active, ended), "{ha} {read}");
            assert!(seen.refused && seen.ha);
        }
    }

    #[test]
    fn a_task_is_lost_unless_its_replica_or_its_database_was_struck() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let failed = |owner: &str, at_target| Failed {
            id: 1,
            owner: owner.to_owned(),
            at_target,
        };
        let noted = Disturbances {
            losing: ["struck".to_owned()].into(),
            outages: vec![(at(100), Some(at(200)))],
            ..Disturbances::default()
        };
        for (failed, is_lost) in [
            (failed("a", None), true),
            (failed("struck", None), false),
            (failed("a", Some(at(150))), false),
            (failed("a", Some(at(50))), true),
        ] {
            let reading = Some(Reading {
                failed: vec![failed],
                ..Reading::default()
            });
            let seen = sample(0, Vec::new(), reading, None, &noted, &noted);
            assert_eq!(!seen.lost.is_empty(), is_lost);
        }
    }
}
