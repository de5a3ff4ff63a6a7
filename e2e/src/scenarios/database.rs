//! The metadata database in all its bad days.

use std::time::Duration;

use anyhow::{Result, ensure};
use kube::ResourceExt as _;

use super::support::{self, DATABASE_SECRET, NAME};
use crate::postgres::Database;
use crate::scenario::sandbox::{PATIENCE, Sandbox};
use crate::scenario::{Scenario, stand_in};
use crate::wait;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "bad-rotation",
        "A login that does not work reaches no replica, also after a restart of the operator.",
        |sandbox| Box::pin(bad_rotation(sandbox)),
    ),
    Scenario::new(
        "wrong-database-password",
        "A wrong password in the Secret is reported and replaces no running replica.",
        |sandbox| Box::pin(wrong_password(sandbox)),
    ),
    Scenario::new(
        "before-the-first-pod",
        "A refused password holds back the first pod, an unreachable database only the second.",
        |sandbox| Box::pin(before_the_first_pod(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
    Scenario::new(
        "foreign-tables",
        "Another application's tables hold back the first pod.",
        |sandbox| Box::pin(foreign_tables(sandbox)),
    ),
    Scenario::new(
        "database-shared",
        "Of two clusters on one database the older runs and the younger waits.",
        |sandbox| Box::pin(shared_by_two(sandbox)),
    ),
    Scenario::new(
        "secret-rotation",
        "A rotated password replaces the replicas one at a time.",
        |sandbox| Box::pin(rotation(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(150),
    Scenario::new(
        "secret-rotation-late",
        "A password that was changed in the database alone makes every replica stale; once it is in the Secret, all are replaced.",
        |sandbox| Box::pin(rotation_too_late(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
    Scenario::new(
        "database-stopped",
        "PostgreSQL stopped and back: heartbeats are Unknown meanwhile, and no pod restarts.",
        |sandbox| Box::pin(stopped_and_back(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .exclusive(),
];

/// Longer than a heartbeat counts as fresh.
const HEARTBEAT_COUNTS: Duration = Duration::from_secs(32);

async fn wrong_password(sandbox: Sandbox) -> Result<()> {
    support::start(&sandbox, &support::minimal(&sandbox, 1)).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let before = support::lives(&sandbox).await?;
    let right = sandbox.database().url();
    let wrong = right.replace(&sandbox.database().password, "not-the-password-of-anybody");
    ensure!(wrong != right, "the URL holds no password");
    sandbox
        .create_secret(DATABASE_SECRET, &[("PG_URL", &wrong)])
        .await?;
    let reported = sandbox
        .wait_condition(
            NAME,
            "DatabaseReady",
            "False",
            "DatabaseAuthenticationFailed",
        )
        .await?;
    support::says(&reported, &[sandbox.database().host()])?;
    // A replica that runs is not replaced by one that is known to fail.
    wait::throughout(
        "the running replica",
        Duration::from_secs(8),
        || support::lives(&sandbox),
        |lives| *lives == before,
    )
    .await?;
    sandbox.create_database_secret(DATABASE_SECRET).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    ensure!(
        support::lives(&sandbox).await? == before,
        "correcting the Secret ended a replica"
    );
    Ok(())
}

/// A login that does not work reaches no replica, whether the server refuses it or cannot be
/// reached, also by a new operator process.
async fn bad_rotation(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    let before = support::lives(&sandbox).await?;
    let right = sandbox.database().url();
    let place = format!("@{}:", sandbox.database().host());
    for (bad, status) in [
        (
            right.replace(&sandbox.database().password, "not-the-password-of-anybody"),
            "False",
        ),
        // TEST-NET-1 leads nowhere.
        (right.replace(&place, "@192.0.2.1:"), "Unknown"),
    ] {
        ensure!(bad != right, "the URL is not the one that is expected");
        sandbox
            .create_secret(DATABASE_SECRET, &[("PG_URL", &bad)])
            .await?;
        sandbox
            .wait_condition(NAME, "DatabaseReady", status, "")
            .await?;
        support::restart_operator(&sandbox).await?;
        sandbox
            .wait_status(NAME, "the login to be held back", |status| {
                status["rollout"]["waitingFor"] == "Login"
            })
            .await?;
        wait::throughout(
            "the running replicas",
            Duration::from_secs(10),
            || support::lives(&sandbox),
            |lives| *lives == before,
        )
        .await?;
    }
    sandbox.create_database_secret(DATABASE_SECRET).await?;
    sandbox.wait_condition(NAME, "Ready", "True", "").await?;
    ensure!(
        support::lives(&sandbox).await? == before,
        "correcting the Secret ended a replica"
    );
    Ok(())
}

/// Definite failures hold back the first pod; an unreachable database holds back only the second.
async fn before_the_first_pod(sandbox: Sandbox) -> Result<()> {
    let right = sandbox.database().url();
    let wrong = right.replace(&sandbox.database().password, "not-the-password-of-anybody");
    let cluster = support::licensed(&sandbox, 2);
    support::start(&sandbox, &support::minimal(&sandbox, 0)).await?;
    sandbox
        .create_secret(DATABASE_SECRET, &[("PG_URL", &wrong)])
        .await?;
    sandbox.apply_yaml(&cluster.to_string()).await?;
    sandbox
        .wait_condition(
            NAME,
            "DatabaseReady",
            "False",
            "DatabaseAuthenticationFailed",
        )
        .await?;
    let none = || async { Ok(support::pods(&sandbox).await?.len()) };
    wait::throughout("no pod", Duration::from_secs(5), none, |count| *count == 0).await?;

    // TEST-NET-1 leads nowhere.
    let nowhere = format!(
        "postgres://somebody:not-the-password-of-anybody@192.0.2.1:{}/none",
        sandbox.database().port()
    );
    sandbox
        .create_secret(DATABASE_SECRET, &[("PG_URL", &nowhere)])
        .await?;
    sandbox
        .wait_condition(NAME, "DatabaseReady", "Unknown", "DatabaseUnreachable")
        .await?;
    support::wait_pods(&sandbox, 1).await?;
    wait::throughout("one pod", Duration::from_secs(5), none, |count| *count == 1).await?;

    sandbox.create_database_secret(DATABASE_SECRET).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    ensure!(support::pods(&sandbox).await?.len() == 2);
    Ok(())
}

async fn foreign_tables(sandbox: Sandbox) -> Result<()> {
    support::execute(&sandbox, "CREATE TABLE invoices (id int)").await?;
    support::start(&sandbox, &support::minimal(&sandbox, 1)).await?;
    let reported = sandbox
        .wait_condition(NAME, "DatabaseReady", "False", "DatabaseForeignTables")
        .await?;
    support::says(&reported, &["invoices"])?;
    ensure!(
        support::pods(&sandbox).await?.is_empty(),
        "a pod was started on another application's tables"
    );
    support::execute(&sandbox, "DROP TABLE invoices").await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

async fn shared_by_two(sandbox: Sandbox) -> Result<()> {
    support::start(&sandbox, &support::minimal(&sandbox, 1)).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    sandbox
        .apply_yaml(&support::second(&sandbox).to_string())
        .await?;
    let reported = sandbox
        .wait_condition("second", "DatabaseReady", "False", "DatabaseShared")
        .await?;
    support::says(&reported, &[&format!("used by the BytebaseCluster {NAME}")])?;
    ensure!(
        sandbox
            .pods("bytebase.com/cluster=second")
            .await?
            .is_empty(),
        "the second cluster started on the first one's database"
    );
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    // When the first goes, the second may start.
    sandbox
        .kubectl(&["delete", "bytebasecluster", NAME])
        .await?;
    sandbox
        .wait_condition("second", "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

/// A database outage is no reason to restart a replica.
async fn stopped_and_back(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    let before = support::lives(&sandbox).await?;
    let postgres = sandbox.harness().postgres.clone();
    postgres.stop().await?;
    let down = async {
        sandbox
            .wait_condition(NAME, "DatabaseReady", "Unknown", "")
            .await?;
        sandbox
            .wait_condition(NAME, "Ready", "Unknown", "HeartbeatsUnknown")
            .await?;
        wait::throughout(
            "the same replicas",
            Duration::from_secs(20),
            || support::lives(&sandbox),
            |lives| *lives == before,
        )
        .await
    }
    .await;
    postgres.start().await?;
    down?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    ensure!(
        support::lives(&sandbox).await? == before,
        "a replica was ended or restarted"
    );
    Ok(())
}

async fn rotation(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    let before = support::lives(&sandbox).await?;
    let url = rotate_in_database(&sandbox).await?.url();
    sandbox
        .create_secret(DATABASE_SECRET, &[("PG_URL", &url)])
        .await?;
    sandbox
        .wait_status(NAME, "the Secret on its way into the pods", |status| {
            status["rollout"]["waitingFor"] == "SecretInPods"
        })
        .await?;
    // One at a time: never fewer than one pod is Ready, by Kubernetes' own word.
    let seen = || async {
        let pods = support::pods(&sandbox).await?;
        let ready = pods.iter().filter(|pod| support::is_ready(pod)).count();
        let replaced = pods.iter().filter(|pod| {
            let old = before.get(&pod.name_any());
            old.is_none_or(|old| Some(&old.0) != pod.metadata.uid.as_ref())
        });
        Ok((ready, replaced.count()))
    };
    let one_is_ready = |(ready, _): &(usize, usize)| {
        ensure!(*ready >= 1, "no replica is Ready during the rollout");
        Ok(())
    };
    wait::until_while(
        "both replicas replaced",
        // The Secret is given two minutes to reach the pods.
        2 * PATIENCE,
        seen,
        one_is_ready,
        |(ready, replaced)| *ready == 2 && *replaced == 2,
    )
    .await?;
    support::rolled_out(&sandbox).await
}

/// No replica can log in any more, so none sends heartbeats, and none could carry the load while
/// another is replaced.
async fn rotation_too_late(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    let before = support::lives(&sandbox).await?;
    let url = rotate_in_database(&sandbox).await?.url();
    let postgres = &sandbox.harness().postgres;
    postgres.disconnect(sandbox.database()).await?;
    sandbox
        .wait_condition(
            NAME,
            "DatabaseReady",
            "False",
            "DatabaseAuthenticationFailed",
        )
        .await?;
    // Until the last heartbeat of both is stale.
    tokio::time::sleep(HEARTBEAT_COUNTS).await;
    ensure!(
        support::lives(&sandbox).await? == before,
        "a replica was ended or restarted"
    );
    sandbox
        .create_secret(DATABASE_SECRET, &[("PG_URL", &url)])
        .await?;
    let replaced = || async {
        let now = support::lives(&sandbox).await?;
        let fresh = |(name, life): (&String, &_)| before.get(name).is_some_and(|old| old != life);
        Ok(now.len() == 2 && now.iter().all(fresh))
    };
    wait::until("both replicas replaced", PATIENCE, replaced, |done| *done).await?;
    support::rolled_out(&sandbox).await
}

/// Gives Bytebase's role another password; returns the database with it.
pub async fn rotate_in_database(sandbox: &Sandbox) -> Result<Database> {
    let mut database = sandbox.database().clone();
    "a-rotated-password-nobody-may-see".clone_into(&mut database.password);
    let Database { name, password, .. } = &database;
    sandbox.plant("rotated password", password);
    let statement = format!("ALTER ROLE \"{name}\" PASSWORD '{password}'");
    sqlx::query(sqlx::AssertSqlSafe(statement))
        .execute(sandbox.harness().postgres.admin())
        .await?;
    Ok(database)
}
