//! A changed login to the metadata database: password, role, host, database, CA.
//!
//! Pods that start with one that does not work fail, and pods that end while only the new one works
//! cannot see their tasks until Kubernetes has brought it to them. So the template with it is
//! written only when the server has accepted it, and when the running pods know it.

use crate::api::Reason;
use crate::api::status::{ChangedLogin, HeartbeatState, RolloutWait};
use crate::decide::database::{Allows, DatabaseVerdict, can_tell, is_first_start, was_refused};
use crate::decide::health::{Health, Replica};
use crate::decide::rollout::step::Wait;
use crate::desired::template::Template;
use crate::desired::{self, drain};
use crate::observation::{FailureClass, LoginTrial, Observation, PodLogin, ProbeFailure};
use crate::validate::ValidDatabase;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

/// Kubernetes brings a changed Secret into a running pod within a minute and a half.
const SECRET_REACHES_PODS: SignedDuration = SignedDuration::from_mins(2);
/// Enough to distinguish one change from the next, and too few to try passwords by.
const MARK_DIGITS: usize = 4;

/// What keeps a changed login from the replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// It is not known yet whether it works, or the running pods do not know it yet.
    Waits(Wait),
    /// The server refuses it.
    Refused(ProbeFailure),
}

/// The login by which the replicas are to log in, if they were started with another one; and since
/// when, by the clock of status.
pub fn changed(template: &Template, observation: &Observation) -> Option<ChangedLogin> {
    let set = observation.stateful_set.as_ref()?;
    let stands = desired::login(&set.template)?;
    let wanted = desired::login(&template.value)?;
    if stands == wanted {
        return None;
    }
    let (checksum, _) = wanted;
    let mark = checksum.chars().take(MARK_DIGITS).collect();
    let before = remembered(observation).filter(|before| before.mark == mark);
    let now = observation.now;
    let since = before.map_or(now, |before| before.since.0.min(now));
    let since = Time(since);
    Some(ChangedLogin { since, mark })
}

/// Whether a pod was started with other values than those of this template.
pub fn differs(login: &PodLogin, template: &Template) -> bool {
    let has = login.checksum.as_deref();
    has.is_some_and(|checksum| {
        desired::login(&template.value) != Some((checksum, login.url.as_deref()))
    })
}

/// Whether a pod was started with other values than those of the spec, where no template was made
/// of it: what the login holds beside a plain URL is compared.
pub fn is_of_another(login: &PodLogin, database: &ValidDatabase) -> bool {
    let has = login.checksum.as_ref();
    has.is_some_and(|checksum| *checksum != database.checksum)
}

/// The changed login as status has it.
pub fn remembered(observation: &Observation) -> Option<&ChangedLogin> {
    let database = observation.remembered.database.as_ref()?;
    database.changed_login.as_ref()
}

/// Whether the operator must log in as the replicas do beside its monitoring login: to try a
/// changed login, to learn once whether it could, or to find what stands before it where the
/// monitoring login does not show that: before the first replica starts, and as long as a pooler
/// there is refused. `wanted`: how many replicas.
pub fn is_to_be_tried(
    database: &ValidDatabase,
    wanted: i32,
    changes: bool,
    observation: &Observation,
) -> bool {
    let can_be_tried = database.monitored && database.is_open_to_the_operator();
    let elsewhere = database.is_read_elsewhere();
    let was_pooled = was_refused(observation, Reason::DatabaseTransactionPooler);
    let starts = elsewhere && is_first_start(observation);
    let is_unknown = observation.remembered.login.is_none();
    can_be_tried && ((elsewhere && was_pooled) || (wanted > 0 && (changes || starts || is_unknown)))
}

/// Decides it for a login that is [`changed`].
pub fn held(
    changed: &ChangedLogin,
    database: &ValidDatabase,
    template: &Template,
    verdict: &DatabaseVerdict,
    observation: &Observation,
    health: &Health<'_>,
) -> Option<Held> {
    if observation.pods.is_empty() {
        return None;
    }
    let wait = |message: &str| {
        let message = format!("the new login to the metadata database to be accepted: {message}");
        Some(Held::Waits(Wait::new(RolloutWait::Login, message)))
    };
    if verdict.allows <= Allows::Wait {
        return wait(&verdict.message);
    }
    if database.monitored && database.is_open_to_the_operator() {
        let trial = observation.facts().map(|facts| &facts.login);
        match trial {
            Some(Some(LoginTrial::Failed(failure))) if failure.class == FailureClass::Definite => {
                return Some(Held::Refused(failure.clone()));
            }
            Some(Some(LoginTrial::Failed(failure))) if can_tell(&observation.remembered) => {
                return wait(&failure.message);
            }
            Some(Some(_)) => {}
            Some(None) | None => return wait("it has not been tried yet"),
        }
    }
    secret_in_pods(changed, template, observation, health).map(Held::Waits)
}

/// A drain hook that is to log in by the Secret of now must have it in its pod, where none comes in
/// after the pod's end has begun.
pub fn secret_in_pods(
    changed: &ChangedLogin,
    template: &Template,
    observation: &Observation,
    health: &Health<'_>,
) -> Option<Wait> {
    let set = observation.stateful_set.as_ref()?;
    // A replica that never came up, or whose tasks others have been given, has nothing to finish.
    let is_gone =
        |replica: &Replica<'_>| replica.given_up || replica.heartbeat == HeartbeatState::Missing;
    if health.replicas.iter().all(is_gone) {
        return None;
    }
    let checksum = |template| desired::login(template).map(|(checksum, _)| checksum);
    if checksum(&set.template) == checksum(&template.value) {
        return None;
    }
    // What another Secret holds is brought into no pod that runs.
    let sources = |template: &Value| drain::login_sources(&template["spec"]["volumes"]);
    if sources(&set.template) != sources(&template.value) {
        return None;
    }
    if !drain::logs_in_by_volumes(&set.template) {
        return None;
    }
    let until = changed.since.0.checked_add(SECRET_REACHES_PODS).ok()?;
    let wait = Wait::new(
        RolloutWait::SecretInPods,
        "Kubernetes to bring the changed Secret or ConfigMap into the running pods, whose drain hooks log in by it",
    );
    (observation.now < until).then(|| wait.until(Some(until)))
}

/// Whether the drain hook of this pod may have no login that works: it knows the one that it was
/// started with, and the login of this template is in a Secret that Kubernetes does not bring it.
pub fn is_locked_out(login: &PodLogin, database: &ValidDatabase, template: &Value) -> bool {
    let checksum = desired::login(template).map(|(checksum, _)| checksum);
    // The checksum is not of a monitoring login, by which alone it sees anything there.
    let changed = database.replicas.iam.is_some() || login.checksum.as_deref() != checksum;
    changed && login.sources != drain::login_sources(&template["spec"]["volumes"])
}
