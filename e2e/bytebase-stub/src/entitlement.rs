//! What the stored license allows now, and whether more replicas are active than that.
//!
//! The limit rests on the license and the heartbeats, never on `--ha`.

use crate::{
    knobs::Knobs,
    license::{License, Verifier},
};
use jiff::Timestamp;
use parking_lot::Mutex;
use sqlx::PgConnection;
use std::time::{Duration, Instant};

/// The license and the number of replicas, both as fresh as Bytebase keeps them.
///
/// Questions go through the caller's session, so that a round of background work needs only one.
pub struct Entitlement {
    verifier: Verifier,
    license_cache: Option<Duration>,
    active_cache: Duration,
    active_window: Duration,
    license: Mutex<Option<Cached<License>>>,
    active: Mutex<Option<Cached<i64>>>,
}

struct Cached<T> {
    at: Instant,
    value: T,
}

impl Entitlement {
    /// Without `ha` this process takes itself for the only one, and never asks again: what it read
    /// first stays.
    pub fn new(verifier: Verifier, knobs: &Knobs, ha: bool) -> Self {
        Self {
            verifier,
            license_cache: ha.then_some(knobs.license_cache),
            active_cache: knobs.active_cache,
            active_window: knobs.active_window,
            license: Mutex::default(),
            active: Mutex::default(),
        }
    }

    /// Verifies licenses.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// The license in force. Invalid, expired and none are all the free plan.
    pub async fn license(&self, session: &mut PgConnection) -> sqlx::Result<License> {
        let now = Timestamp::now();
        let fresh = read(&self.license, self.license_cache);
        if let Some(license) = fresh {
            return Ok(license.at(now));
        }
        let license = self.stored_license(session, now).await?;
        write(&self.license, license.clone());
        Ok(license)
    }

    /// The next question goes to the database. Only the replica that stored a license calls this;
    /// the others trust what they read before for as long as they ever do.
    pub fn forget(&self) {
        *self.license.lock() = None;
    }

    /// Replicas with a fresh heartbeat.
    pub async fn active_replicas(&self, session: &mut PgConnection) -> sqlx::Result<i64> {
        if let Some(count) = read(&self.active, Some(self.active_cache)) {
            return Ok(count);
        }
        let count = sqlx::query_scalar(
            "SELECT count(*) FROM replica_heartbeat WHERE last_heartbeat >= now() - make_interval(secs => $1)",
        )
        .bind(self.active_window.as_secs_f64())
        .fetch_one(session)
        .await?;
        write(&self.active, count);
        Ok(count)
    }

    /// Whether background work must rest because the license does not allow several replicas.
    pub async fn is_restricted(&self, session: &mut PgConnection) -> sqlx::Result<bool> {
        Ok(self.active_replicas(session).await? > 1 && !self.license(session).await?.ha)
    }

    async fn stored_license(
        &self,
        session: &mut PgConnection,
        now: Timestamp,
    ) -> sqlx::Result<License> {
        let stored: Option<(String, Option<String>)> = sqlx::query_as(
            "SELECT w.resource_id, s.value->>'license' FROM workspace w
             JOIN setting s ON s.workspace = w.resource_id AND s.name = 'SYSTEM' WHERE NOT w.deleted",
        )
        .fetch_optional(session)
        .await?;
        let Some((workspace, Some(token))) = stored else {
            return Ok(License::free());
        };
        Ok(self.verifier.verify(&token, &workspace, now).unwrap_or_else(|error| {
            if !token.is_empty() {
                tracing::warn!(%error, "the stored license does not hold, falling back to the free plan");
            }
            License::free()
        }))
    }
}

fn read<T: Clone>(cache: &Mutex<Option<Cached<T>>>, life: Option<Duration>) -> Option<T> {
    let cache = cache.lock();
    cache
        .as_ref()
        .filter(|cached| life.is_none_or(|life| cached.at.elapsed() < life))
        .map(|cached| cached.value.clone())
}

fn write<T>(cache: &Mutex<Option<Cached<T>>>, value: T) {
    *cache.lock() = Some(Cached {
        at: Instant::now(),
        value,
    });
}
