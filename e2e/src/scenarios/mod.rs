//! All scenarios, in the order they are started.

mod bring_up;
mod busy;
mod configuration;
mod control_plane;
mod database;
mod databases;
pub(crate) mod drains;
mod harness;
mod install;
mod licensing;
mod objects;
mod operator;
mod optional_kinds;
mod over_time;
mod refusals;
mod replicas;
mod rights;
mod rollouts;
mod spec_fields;
pub(crate) mod support;
mod tenants;

use std::time::Duration;

use crate::scenario::Scenario;

/// For several rollouts of busy replicas.
const LONG: Duration = Duration::from_mins(25);

/// The list. A new scenario is a function that takes a [`crate::scenario::sandbox::Sandbox`] and a line here.
pub const ALL: &[Scenario] = &[
    // The longest first: a long one that begins last would be waited for alone.
    Scenario::new(
        "operator-killed",
        "Killed at random moments, the operator takes up where it was.",
        |sandbox| Box::pin(operator::killed_at_random(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "rights-needed",
        "Without any one rule of its roles a call is refused, and the log says which.",
        |sandbox| Box::pin(rights::every_rule_is_needed(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "spec-fields",
        "Every field of the spec has its effect when set and changed, and leaves nothing when taken away.",
        |sandbox| Box::pin(spec_fields::all_fields(sandbox)),
    ),
    Scenario::new(
        "two-by-mistake",
        "Two operators on one namespace roll one replica at a time and do not fight.",
        |sandbox| Box::pin(operator::two_by_mistake(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "license-expiry",
        "Back to one replica before a license ends, loudly; three again with a new one.",
        |sandbox| Box::pin(licensing::expiry(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "license-ends-unread",
        "A license that ends while the database cannot be read ends all replicas but one in time.",
        |sandbox| Box::pin(over_time::license_ends_unread(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "license-ends-while-invalid",
        "A license that ends while the spec is invalid ends all replicas but one in time, and changes nothing else.",
        |sandbox| Box::pin(over_time::license_ends_while_invalid(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "shared-after-restart",
        "Whatever the operator reads first after a restart, the older of two clusters has the database.",
        |sandbox| Box::pin(over_time::shared_after_restart(sandbox)),
    ),
    Scenario::new(
        "refusal-outlives-outage",
        "A refused database that is cut off is still refused, also by a new operator process.",
        |sandbox| Box::pin(over_time::refusal_outlives_outage(sandbox)),
    ),
    Scenario::new(
        "take-over",
        "A Bytebase that runs already holds back the first replica, which starts by itself once it is stopped.",
        |sandbox| Box::pin(over_time::take_over(sandbox)),
    ),
    Scenario::new(
        "gate-keeps-what-serves",
        "Without its license a cluster keeps the replica that serves, whatever its number.",
        |sandbox| Box::pin(over_time::gate_keeps_what_serves(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "rotated-log",
        "A replica's id is known after the kubelet has thrown the head of its log away.",
        |sandbox| Box::pin(over_time::rotated_log(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "license-by-hand",
        "A call to Bytebase that failed is forgotten once somebody has installed a license by hand.",
        |sandbox| Box::pin(over_time::license_by_hand(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "swallowed-calls",
        "Ten clusters whose replicas take calls and never answer delay no edit of an eleventh.",
        |sandbox| Box::pin(over_time::swallowed_calls(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "made-again",
        "A cluster made again under its name is not held back by itself, and a deleted one leaves no session.",
        |sandbox| Box::pin(over_time::made_again(sandbox)),
    ),
    Scenario::new(
        "service-before-admin",
        "A Service of type NodePort is made only after the operator has signed up as the first admin.",
        |sandbox| Box::pin(over_time::service_before_admin(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "drain-without-operator",
        "A replica that is deleted or evicted while it runs a task finishes it first, with no operator at all.",
        |sandbox| Box::pin(drains::without_operator(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "drain-in-rollout",
        "A rollout waits for the task that a replica runs, says so, also after a restart of the operator, and goes on when it is done.",
        |sandbox| Box::pin(drains::rollout(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "maintenance",
        "An upgrade with the strategy Maintenance ends all replicas once they have finished their tasks, starts one, and then the rest.",
        |sandbox| Box::pin(drains::maintenance(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "queue-hold",
        "Where new work keeps coming to a replica that drains, its hook holds the queue and the status says so; no task is lost.",
        |sandbox| Box::pin(drains::queue_hold(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "drain-after-restart",
        "A container that has started again waits for no task of the process before it.",
        |sandbox| Box::pin(drains::after_restart(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "busy-through-changes",
        "Under a steady load no task is lost when version and password change and when the size goes from three to one and back.",
        |sandbox| Box::pin(busy::through_changes(sandbox)),
    ).stand_in_only().limit(LONG),
    Scenario::new(
        "busy-all-deleted",
        "Under a steady load, with no operator, all pods are deleted at once and no task is lost.",
        |sandbox| Box::pin(busy::all_deleted(sandbox)),
    ).stand_in_only().limit(LONG),
    Scenario::new(
        "drain-in-outage",
        "A drain outlives an outage of the database of 40 seconds.",
        |sandbox| Box::pin(busy::in_outage(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "drain-hook-killed",
        "A drain hook that is killed while it holds the queue leaves no hold behind.",
        |sandbox| Box::pin(busy::hook_killed(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "license-ends-in-rollout",
        "A license that ends in the middle of a rollout ends all replicas but one, and no running task.",
        |sandbox| Box::pin(busy::license_ends_in_rollout(sandbox)),
    ).stand_in_only().limit(LONG),
    Scenario::new(
        "stale-replica",
        "A replica that sends no heartbeat is replaced after the time of the user's choice, and no other is.",
        |sandbox| Box::pin(busy::stale_replica(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "bad-rotation",
        "A login that does not work reaches no replica, also after a restart of the operator.",
        |sandbox| Box::pin(database::bad_rotation(sandbox)),
    ),
    Scenario::new(
        "node-drain",
        "kubectl drain waits for the task that a replica on the node runs, and goes through.",
        |sandbox| Box::pin(busy::node_drained(sandbox)),
    ).stand_in_only().exclusive(),
    Scenario::new(
        "unreadable-cluster",
        "A cluster whose spec cannot be read is told so, and keeps a new operator process from serving no other.",
        |sandbox| Box::pin(tenants::unreadable(sandbox)),
    ),
    Scenario::new(
        "namespace-lost",
        "A watched namespace that is deleted holds back no cluster of another; one whose pods cannot be watched is reported as unknown.",
        |sandbox| Box::pin(tenants::namespace_lost(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "three-replicas",
        "From nothing to three replicas that beat, with a license the operator installs; then nothing is written any more.",
        |sandbox| Box::pin(bring_up::three_replicas(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "restricted-namespace",
        "A namespace under the restricted pod security standard takes the pods.",
        |sandbox| Box::pin(bring_up::restricted_namespace(sandbox)),
    ),
    Scenario::new(
        "database-in-parts",
        "The database in parts, with every reserved character in the password.",
        |sandbox| Box::pin(bring_up::in_parts(sandbox)),
    ),
    Scenario::new(
        "wrong-then-mended",
        "A wrong URL and a wrong PG_URL are told together and touch nothing; mended, all is well.",
        |sandbox| Box::pin(configuration::wrong_then_mended(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "missing-secret",
        "A Secret that is deleted is told of and ends nobody.",
        |sandbox| Box::pin(configuration::missing_secret(sandbox)),
    ),
    Scenario::new(
        "wrong-license",
        "A license Secret that is no license is told of, while the stored license counts on.",
        |sandbox| Box::pin(configuration::wrong_license(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "refused-at-admission",
        "Contradictions are refused by the API server, with words that help.",
        |sandbox| Box::pin(configuration::refused_at_admission(sandbox)),
    ),
    Scenario::new(
        "license-gate",
        "One replica without a license; with one that the operator installs, three.",
        |sandbox| Box::pin(licensing::gate(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "admin-before-exposure",
        "The Ingress is made only after the operator has signed up as the first admin.",
        |sandbox| Box::pin(licensing::admin_before_exposure(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "license-warn",
        "With enforcement Warn all replicas run, and the condition says what that costs.",
        |sandbox| Box::pin(licensing::warn(sandbox)),
    ),
    Scenario::new(
        "license-forms",
        "Every wrong license has its own reason, a pasted trial counts, and a deleted Secret ends nobody.",
        |sandbox| Box::pin(licensing::forms(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "license-expired-unseen",
        "A license that ended while no operator ran counts no more at the first look.",
        |sandbox| Box::pin(licensing::expired_unseen(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "wrong-admin-password",
        "A license that cannot be installed is told of, and installed once the login is right.",
        |sandbox| Box::pin(licensing::wrong_admin_password(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "wrong-database-password",
        "A wrong password in the Secret is told of and replaces no running replica.",
        |sandbox| Box::pin(database::wrong_password(sandbox)),
    ),
    Scenario::new(
        "before-the-first-pod",
        "A refused password holds back the first pod, an unreachable database only the second.",
        |sandbox| Box::pin(database::before_the_first_pod(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "foreign-tables",
        "Another application's tables hold back the first pod.",
        |sandbox| Box::pin(database::foreign_tables(sandbox)),
    ),
    Scenario::new(
        "database-shared",
        "Of two clusters on one database the older runs and the younger waits.",
        |sandbox| Box::pin(database::shared_by_two(sandbox)),
    ),
    Scenario::new(
        "standby",
        "A standby holds back the first pod; in a list with its primary and target_session_attrs all is well.",
        |sandbox| Box::pin(databases::standby(sandbox)),
    ),
    Scenario::new(
        "name-moves",
        "A name that leads to a standby and then to the primary is followed, whatever session is open.",
        |sandbox| Box::pin(databases::moved_name(sandbox)),
    ),
    Scenario::new(
        "database-read-only",
        "A database that takes no writes holds back the first pod until it does.",
        |sandbox| Box::pin(databases::read_only(sandbox)),
    ),
    Scenario::new(
        "rights-lost",
        "A role that lost a table of Bytebase's keeps its replica, and no other one is started.",
        |sandbox| Box::pin(databases::rights_lost(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "transaction-pooler",
        "PgBouncer in transaction mode holds back the first pod, in session mode it serves.",
        |sandbox| Box::pin(databases::transaction_pooler(sandbox)),
    ),
    Scenario::new(
        "database-missing",
        "A database that is not there holds back the first pod until it is made.",
        |sandbox| Box::pin(databases::missing(sandbox)),
    ),
    Scenario::new(
        "rights-missing",
        "A role that may not create tables is told the GRANT it lacks.",
        |sandbox| Box::pin(databases::rights_missing(sandbox)),
    ),
    Scenario::new(
        "wrong-encoding",
        "A database that is not UTF-8 holds back the first pod.",
        |sandbox| Box::pin(databases::wrong_encoding(sandbox)),
    ),
    Scenario::new(
        "connection-budget",
        "More replicas than the server has connections for are told of, with the numbers.",
        |sandbox| Box::pin(databases::connection_budget(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "database-tls",
        "The CA from a Secret or a ConfigMap; a wrong CA and a wrong name are told of.",
        |sandbox| Box::pin(databases::tls(sandbox)),
    ),
    Scenario::new(
        "keyword-form",
        "PG_URL in keyword form, with a password full of quotes and backslashes.",
        |sandbox| Box::pin(databases::keyword_form(sandbox)),
    ),
    Scenario::new(
        "cloud-iam",
        "A login the operator cannot do is Unknown and one replica, until it gets one of its own.",
        |sandbox| Box::pin(databases::cloud_iam(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "monitor-role",
        "The operator reads everything with a role that may only read, where the role of Bytebase looks.",
        |sandbox| Box::pin(databases::monitor_role(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "black-hole",
        "Databases that never answer delay no other cluster.",
        |sandbox| Box::pin(databases::black_hole(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "foreign-bytebase",
        "A Bytebase that no cluster knows of beats on the database, and is told of until it ends.",
        |sandbox| Box::pin(databases::stranger(sandbox)),
    ),
    Scenario::new(
        "secret-rotation",
        "A rotated password rolls the replicas one at a time.",
        |sandbox| Box::pin(database::rotation(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "secret-rotation-late",
        "A password that was changed in the database alone makes every replica stale; once it is in the Secret, all are replaced.",
        |sandbox| Box::pin(database::rotation_too_late(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "scale",
        "Up, down, to zero and back by the scale subresource.",
        |sandbox| Box::pin(replicas::scale(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "scale-down-stepwise",
        "Replicas leave one at a time.",
        |sandbox| Box::pin(replicas::scale_down_is_stepwise(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "replica-killed",
        "A replica killed with -9 comes back under a new id, and its old row is no stranger.",
        |sandbox| Box::pin(replicas::killed(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "replica-frozen",
        "A frozen replica is Stale in status, and is not replaced.",
        |sandbox| Box::pin(replicas::frozen(sandbox)),
    ).stand_in_only(),
    Scenario::new("replica-deleted", "A deleted pod comes back.", |sandbox| {
        Box::pin(replicas::deleted_pod(sandbox))
    }).stand_in_only(),
    Scenario::new(
        "image-change",
        "A new version rolls through one replica at a time; a downgrade is refused.",
        |sandbox| Box::pin(rollouts::image_change(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "bad-image",
        "An image that does not exist stops the roll at one replica; mended, it gets through.",
        |sandbox| Box::pin(rollouts::bad_image(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "budget",
        "A PodDisruptionBudget of somebody else holds a roll; status says so, and the roll goes on when it may.",
        |sandbox| Box::pin(rollouts::held_by_budget(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "paused",
        "A paused cluster is reported on and not changed.",
        |sandbox| Box::pin(rollouts::paused(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "drift",
        "Each owned object is put back when edited or deleted; foreign fields stay.",
        |sandbox| Box::pin(objects::drift(sandbox)),
    ),
    Scenario::new(
        "contested",
        "An object that somebody changes back each time is told of with who does it, and not written hot.",
        |sandbox| Box::pin(objects::contested(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "name-taken",
        "An object of the same name that is somebody else's is never touched.",
        |sandbox| Box::pin(objects::name_taken(sandbox)),
    ),
    Scenario::new(
        "deletion",
        "A deleted cluster takes everything of its own with it and nothing else.",
        |sandbox| Box::pin(objects::deletion(sandbox)),
    ),
    Scenario::new(
        "orphans",
        "What a cluster left behind when it was deleted with --cascade=orphan is its own again when it is made again; no replica ends.",
        |sandbox| Box::pin(objects::orphans(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "switches",
        "Ingress and PodDisruptionBudget come, change and go with the spec.",
        |sandbox| Box::pin(objects::switches(sandbox)),
    ),
    Scenario::new(
        "optional-kinds",
        "HTTPRoute, ServiceMonitor and NetworkPolicy: told of where the kind is lacking, made once it is there, gone with the spec.",
        |sandbox| Box::pin(optional_kinds::come_and_go(sandbox)),
    ),
    Scenario::new(
        "hostile-overlays",
        "A podTemplate that would make the pods something else is refused and touches nothing.",
        |sandbox| Box::pin(spec_fields::hostile_overlays(sandbox)),
    ),
    Scenario::new(
        "quota",
        "A quota that leaves no room for a pod is told of in its own words.",
        |sandbox| Box::pin(refusals::quota(sandbox)),
    ),
    Scenario::new(
        "pod-security",
        "Pods that the namespace's security level refuses are told of.",
        |sandbox| Box::pin(refusals::pod_security(sandbox)),
    ),
    Scenario::new(
        "webhook",
        "A policy that says no and a webhook that does not answer are named; the rest goes on.",
        |sandbox| Box::pin(refusals::webhook(sandbox)),
    ),
    Scenario::new(
        "rights-used",
        "The operator of one namespace calls all that it may and nothing else, and never leaves its namespace.",
        |sandbox| Box::pin(rights::every_verb_is_used(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "forbidden-kind",
        "Without the right to Ingresses the rest works, and the condition names the right.",
        |sandbox| Box::pin(objects::forbidden_kind(sandbox)),
    ),
    Scenario::new(
        "restart-writes-nothing",
        "A restart of the operator writes nothing and rolls nobody.",
        |sandbox| Box::pin(operator::restart_writes_nothing(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "leader-hand-over",
        "A standby takes over at once from a leader that ends, and in time from one that is killed.",
        |sandbox| Box::pin(operator::leader_hand_over(sandbox)),
    ),
    Scenario::new(
        "leader-frozen",
        "A leader that stood still for longer than its lease ends itself before it writes anything.",
        |sandbox| Box::pin(operator::leader_frozen(sandbox)),
    ),
    Scenario::new(
        "cluster-labels",
        "An installation with clusterLabels serves the clusters that carry them, and no others.",
        |sandbox| Box::pin(operator::shards(sandbox)),
    ),
    Scenario::new(
        "watches-cut",
        "What changes while the operator's connections are cut is found afterwards.",
        |sandbox| Box::pin(control_plane::watches_cut(sandbox)),
    ).stand_in_only(),
    Scenario::new(
        "database-stopped",
        "PostgreSQL stopped and back: heartbeats are Unknown meanwhile, and no pod restarts.",
        |sandbox| Box::pin(database::stopped_and_back(sandbox)),
    ).stand_in_only()
    .exclusive(),
    Scenario::new(
        "api-server-stopped",
        "A minute without the API server ends no replica, and the operator takes up its work.",
        |sandbox| Box::pin(control_plane::api_server_stopped(sandbox)),
    ).stand_in_only()
    .exclusive(),
    Scenario::new(
        "etcd-stopped",
        "etcd frozen, then stopped: no replica ends, and the operator takes up its work.",
        |sandbox| Box::pin(control_plane::etcd_stopped(sandbox)),
    ).stand_in_only()
    .exclusive(),
    Scenario::new(
        "kubelet-stopped",
        "A silent node is told of, its replicas still count as beating, and nobody is replaced.",
        |sandbox| Box::pin(control_plane::kubelet_stopped(sandbox)),
    ).stand_in_only()
    .exclusive(),
    Scenario::new(
        "gate-beside-silent-node",
        "Pods that cannot end, since their node is silent, do not hold up the license gate.",
        |sandbox| Box::pin(over_time::gate_beside_silent_node(sandbox)),
    ).stand_in_only()
    .exclusive(),
    Scenario::new(
        "install-helm",
        "The chart serves all namespaces; its upgrade rolls no replica, and its removal leaves what runs.",
        |sandbox| Box::pin(install::helm(sandbox)),
    )
    .exclusive(),
    Scenario::new(
        "install-kustomize",
        "An overlay over config/default installs an operator that works.",
        |sandbox| Box::pin(install::kustomize(sandbox)),
    )
    .exclusive(),
    Scenario::new(
        "install-plain-crds",
        "The definition is small enough for a plain kubectl apply, takes every sample and explains itself.",
        |sandbox| Box::pin(install::plain_crds(sandbox)),
    )
    .exclusive(),
    Scenario::new(
        "harness-network",
        "A pod reaches a Service by name, and PostgreSQL through the gateway.",
        |sandbox| Box::pin(harness::network(sandbox)),
    )
    .harness_only(),
    Scenario::new(
        "harness-leak",
        "A secret outside of a Secret is found, plain or encoded.",
        |sandbox| Box::pin(harness::leak(sandbox)),
    )
    .harness_only(),
    Scenario::new(
        "harness-operator-logs",
        "A release is installed, and what its pods log is kept when they are gone, and searched.",
        |sandbox| Box::pin(harness::operator_logs(sandbox)),
    )
    .harness_only(),
    Scenario::new(
        "harness-pod-faults",
        "The process of a pod can be frozen, thawed and killed, and the kubelet restarts it.",
        |sandbox| Box::pin(harness::pod_faults(sandbox)),
    )
    .harness_only(),
    Scenario::new(
        "harness-database-faults",
        "One scenario's database can be cut off without touching the others.",
        |sandbox| Box::pin(harness::database_faults(sandbox)),
    )
    .harness_only(),
    Scenario::new(
        "harness-freeze",
        "A frozen PostgreSQL answers nobody and goes on where it was; a stopped one starts again.",
        |sandbox| Box::pin(harness::freeze(sandbox)),
    )
    .harness_only()
    .exclusive(),
    Scenario::new(
        "harness-control-plane",
        "A component of the control plane can be parked, brought back and killed.",
        |sandbox| Box::pin(harness::control_plane(sandbox)),
    )
    .harness_only()
    .exclusive(),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_plain_and_unique_and_every_scenario_says_what_it_proves() {
        let mut names = BTreeSet::new();
        for scenario in ALL {
            let Scenario { name, about, .. } = scenario;
            assert!(names.insert(name), "{name} is there twice");
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'),
                "{name}"
            );
            assert!(about.ends_with('.'), "{name}: {about}");
        }
    }

    #[test]
    fn the_page_on_guarantees_names_scenarios_that_there_are() {
        let page = include_str!("../../../docs/guarantees.md");
        let rows = page.lines().filter(|line| line.starts_with("| "));
        let proofs = rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next());
        let mut names = proofs.flat_map(|proof| proof.split('`').skip(1).step_by(2));
        let unknown: Vec<_> = names
            .clone()
            .filter(|name| ALL.iter().all(|scenario| scenario.name != *name))
            .collect();
        assert_eq!(unknown, [""; 0]);
        assert!(names.any(|name| name == "maintenance"));
    }
}
