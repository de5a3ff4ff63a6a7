//! The login to the metadata database: refused, changed, rotated, and written in every form.

use super::drains::{done_then_ended, running_task};
use super::support::{self, DATABASE_SECRET, Lives, NAME};
use crate::postgres::{CERTIFIED, Database};
use crate::scenario::sandbox::{OperatorOptions, PATIENCE, Sandbox, condition};
use crate::scenario::{Scenario, stand_in};
use crate::wait;
use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use std::time::Duration;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "bad-rotation",
        "A login that does not work reaches no replica, also after a restart of the operator.",
        |sandbox| Box::pin(bad_rotation(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
    Scenario::new(
        "wrong-database-password",
        "A wrong password in the Secret is reported and replaces no running replica.",
        |sandbox| Box::pin(wrong_password(sandbox)),
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
        "database-moves",
        "Replicas keep running on their database while another one is refused, and move to one without a license one at a time.",
        |sandbox| Box::pin(database_moves(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(150),
    Scenario::new(
        "keyword-form",
        "PG_URL in keyword form, with a password full of quotes and backslashes.",
        |sandbox| Box::pin(keyword_form(sandbox)),
    ),
    Scenario::new(
        "cloud-iam",
        "A login the operator cannot do is Unknown and one replica, until it gets one of its own.",
        |sandbox| Box::pin(cloud_iam(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
    Scenario::new(
        "monitor-role",
        "The operator reads everything with a role that may only read, in the schemas that the role of Bytebase uses.",
        |sandbox| Box::pin(monitor_role(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
    Scenario::new(
        "client-certificate",
        "Where the server asks for a client's certificate, a replica and its drain hook log in with the one in their pod, and the operator with a login of its own.",
        |sandbox| Box::pin(client_certificate(sandbox)),
    )
    .stand_in_only(stand_in::INDEPENDENT)
    .takes(60),
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
    held_back(&sandbox, &before).await?;
    support::put_database_secret_back(&sandbox, &before).await?;
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
        held_back(&sandbox, &before).await?;
    }
    support::put_database_secret_back(&sandbox, &before).await?;
    Ok(())
}

/// What is read in a database that no replica uses yet, such as that it stores no license, ends
/// none of them.
async fn database_moves(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 3).await?;
    let before = support::lives(&sandbox).await?;
    let postgres = &sandbox.harness().postgres;
    let name = format!("{}_next", sandbox.database().name);
    let next = postgres.create_database(&name).await?;
    sandbox.plant_random("the password of the other database", &next.password);
    postgres
        .execute_in(&name, "CREATE TABLE invoices (id int)")
        .await?;
    let url = next.url();
    sandbox
        .create_secret(DATABASE_SECRET, &[("PG_URL", &url)])
        .await?;
    sandbox
        .wait_condition(NAME, "DatabaseReady", "False", "DatabaseForeignTables")
        .await?;
    let seen = || async {
        let status = sandbox.status(NAME).await?;
        let held = status["rollout"]["waitingFor"].clone();
        let licensed = condition(&status["conditions"], "HALicensed");
        let licensed = licensed.map(|licensed| licensed["status"].clone());
        Ok((support::lives(&sandbox).await?, held, licensed))
    };
    wait::throughout(
        "the replicas, which run on another database than the one that is refused",
        Duration::from_secs(10),
        seen,
        |(lives, held, licensed)| {
            *lives == before && held == "Login" && *licensed == Some(json!("Unknown"))
        },
    )
    .await?;

    // Empty, it passes every check, and stores no license either.
    postgres.execute_in(&name, "DROP TABLE invoices").await?;
    let pods = || support::pods(&sandbox);
    let ready = |pods: &[Pod]| pods.iter().filter(|pod| support::is_ready(pod)).count();
    let ends = |pods: &[Pod]| {
        let ending = |pod: &&Pod| pod.metadata.deletion_timestamp.is_some();
        pods.iter().filter(ending).count()
    };
    let is_left = |pod: &Pod| {
        let life = before.get(&pod.name_any());
        life.is_some_and(|life| Some(&life.0) == pod.metadata.uid.as_ref())
    };
    wait::until_while(
        "one replica that has not moved yet",
        2 * PATIENCE,
        pods,
        |pods| {
            ensure!(ends(pods) <= 1, "two replicas end at the same time");
            let only_ends = matches!(&pods[..], [_]);
            ensure!(ready(pods) >= 1 || only_ends, "no replica is Ready");
            Ok(())
        },
        // It may be ending already, to move as well.
        |pods: &Vec<Pod>| matches!(&pods[..], [pod] if is_left(pod)),
    )
    .await?;
    // There the operator signs up and installs the license, so that all of them may run again.
    let moved = || async {
        let status = sandbox.status(NAME).await?;
        let endpoint = status["database"]["endpoint"].as_str().unwrap_or_default();
        Ok((endpoint.to_owned(), status["activeReplicas"].clone()))
    };
    let path = format!("/{name}");
    wait::until(
        "three replicas on the other database",
        2 * PATIENCE,
        moved,
        |(endpoint, active)| endpoint.ends_with(&path) && *active == 3,
    )
    .await?;
    support::rolled_out(&sandbox).await
}

/// The rollout waits for the new login, and no replica ends. Without that wait it would be held for
/// two minutes all the same, by the one for the Secret to come into the pods.
async fn held_back(sandbox: &Sandbox, before: &Lives) -> Result<()> {
    let seen = || async {
        let waits_for = sandbox.status(NAME).await?["rollout"]["waitingFor"].clone();
        Ok((waits_for, support::lives(sandbox).await?))
    };
    let waits = |(waits_for, _): &(Value, Lives)| waits_for == "Login";
    wait::until("the login to be held back", PATIENCE, seen, waits).await?;
    wait::throughout(
        "a login that is held back from the same replicas",
        Duration::from_secs(10),
        seen,
        |seen| waits(seen) && seen.1 == *before,
    )
    .await
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
    "a-rotated-password-no-one-may-see".clone_into(&mut database.password);
    let Database { name, password, .. } = &database;
    sandbox.plant("rotated password", password);
    let statement = format!("ALTER ROLE \"{name}\" PASSWORD '{password}'");
    sqlx::query(sqlx::AssertSqlSafe(statement))
        .execute(sandbox.harness().postgres.admin())
        .await?;
    Ok(database)
}

async fn keyword_form(sandbox: Sandbox) -> Result<()> {
    let database = sandbox.database();
    let role = &database.name;
    let hostile = "it's a \\ = / @ ? & % # \"password\" no one may see";
    sandbox.plant("hostile password", hostile);
    let statement = format!(
        "ALTER ROLE {role} PASSWORD '{}'",
        hostile.replace('\'', "''")
    );
    sandbox
        .harness()
        .postgres
        .execute_in("postgres", &statement)
        .await?;
    let quoted = hostile.replace('\\', "\\\\").replace('\'', "\\'");
    let url = format!(
        "host={} port={} user={role} password='{quoted}' dbname={role} sslmode=disable",
        database.host(),
        database.port(),
    );
    support::start_with(&sandbox, &support::minimal(&sandbox, 1), &url).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

/// A login that only the pods can do. The stand-in can't, so conditions are all there is to see.
async fn cloud_iam(sandbox: Sandbox) -> Result<()> {
    // The monitoring login below leads to the same database, under the name that it has here.
    let name = &sandbox.database().name;
    let mut cluster = support::licensed(&sandbox, 2);
    cluster["spec"]["database"] = json!({
        "url": format!("postgres://{name}@meta.cluster-x.eu-west-1.rds.amazonaws.com:5432/{name}?sslmode=verify-full&bytebase_aws_rds_iam=true&bytebase_aws_region=eu-west-1"),
    });
    let options = OperatorOptions {
        // A license that the operator can't verify counts for nothing where the stored one can't be
        // read.
        verify_licenses: false,
        ..OperatorOptions::default()
    };
    sandbox.install_operator(&options).await?;
    support::secrets(&sandbox).await?;
    sandbox.apply_yaml(&cluster.to_string()).await?;
    let reported = sandbox
        .wait_condition(NAME, "DatabaseReady", "Unknown", "DatabaseCannotRead")
        .await?;
    support::says(&reported, &["database.monitorSecretRef"])?;
    let reported = sandbox
        .wait_condition(NAME, "HALicensed", "Unknown", "")
        .await?;
    support::says(&reported, &["monitorSecretRef", "Warn"])?;
    sandbox
        .wait_status(NAME, "one replica wanted", |status| {
            status["targetReplicas"] == 1
        })
        .await?;
    support::wait_pods(&sandbox, 1).await?;
    let status = sandbox.status(NAME).await?;
    ensure!(
        status["phase"] != "Ready" && status["activeReplicas"].is_null(),
        "{status}"
    );

    // A user who knows that the license includes HA says so.
    support::patch_spec(&sandbox, json!({"license": {"enforcement": "Warn"}})).await?;
    sandbox
        .wait_condition(NAME, "HALicensed", "Unknown", "LicenseNotEnforced")
        .await?;
    sandbox
        .wait_status(NAME, "both replicas wanted", |status| {
            status["targetReplicas"] == 2
        })
        .await?;

    // A login of the operator's own: now the operator reads the database, down to the heartbeats
    // that are missing.
    sandbox
        .create_secret("monitor", &[("PG_URL", &sandbox.database().url())])
        .await?;
    let change = json!({
        "database": {"monitorSecretRef": {"name": "monitor", "key": "PG_URL"}},
        "license": {"enforcement": "Enforce"},
    });
    support::patch_spec(&sandbox, change).await?;
    sandbox
        .wait_condition(NAME, "DatabaseReady", "True", "DatabaseChecksPassed")
        .await?;
    sandbox
        .wait_condition(NAME, "HALicensed", "False", "AwaitingFirstSignUp")
        .await?;
    sandbox
        .wait_status(NAME, "a missing heartbeat", |status| {
            status["activeReplicas"] == 0 && status["replicaStatuses"][0]["heartbeat"] == "Missing"
        })
        .await?;
    Ok(())
}

/// The files that `sslcert` and `sslkey` name are in the pod alone. A drain hook that could not log
/// in would let the pod go two minutes after it began.
async fn client_certificate(sandbox: Sandbox) -> Result<()> {
    let (postgres, database) = (&sandbox.harness().postgres, sandbox.database());
    let name = &database.name;
    let role = format!("{name}_certified");
    let password = "password-beside-a-certificate-no-one-may-see";
    sandbox.plant("password beside a certificate", password);
    // The scenario and the operator go on as the owner of the database, without a certificate.
    let prepare = format!(
        "DO $$ BEGIN CREATE ROLE {CERTIFIED}; EXCEPTION WHEN duplicate_object THEN NULL; END $$; \
         CREATE ROLE {role} LOGIN PASSWORD '{password}' IN ROLE {CERTIFIED}; \
         GRANT USAGE, CREATE ON SCHEMA public TO {role}; \
         ALTER DEFAULT PRIVILEGES FOR ROLE {role} GRANT ALL ON TABLES TO {name}; \
         ALTER DEFAULT PRIVILEGES FOR ROLE {role} GRANT ALL ON SEQUENCES TO {name}; \
         GRANT pg_monitor TO {name}"
    );
    postgres.execute_in(name, &prepare).await?;
    let client = postgres.certificates()?.client()?;
    let files = [
        ("tls.crt", client.certificate.as_str()),
        ("tls.key", &client.key),
    ];
    sandbox.create_secret("client", &files).await?;
    sandbox
        .create_secret("monitor", &[("PG_URL", &database.url())])
        .await?;
    let mut cluster = support::minimal(&sandbox, 1);
    let spec = &mut cluster["spec"];
    spec["rollout"]["drainTimeoutSeconds"] = json!(120);
    spec["volumes"] = json!([{"name": "client", "secret": {"secretName": "client"}}]);
    spec["volumeMounts"] = json!([{"name": "client", "mountPath": "/etc/client"}]);
    let url = format!(
        "postgres://{role}:{password}@{}:{}/{name}?sslmode=require&sslcert=/etc/client/tls.crt&sslkey=/etc/client/tls.key",
        database.host(),
        database.port(),
    );
    support::start_with(&sandbox, &cluster, &url).await?;
    let reported = sandbox
        .wait_condition(
            NAME,
            "DatabaseReady",
            "Unknown",
            "DatabaseAuthenticationFailed",
        )
        .await?;
    support::says(&reported, &["certificate"])?;
    let monitor = json!({"monitorSecretRef": {"name": "monitor", "key": "PG_URL"}});
    support::patch_spec(&sandbox, json!({"database": monitor})).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let (task, pod) = running_task(&sandbox, 20).await?;
    sandbox
        .kubectl(&["delete", "pod", &pod.name_any(), "--wait=false"])
        .await?;
    done_then_ended(&sandbox, task, &pod).await
}

async fn monitor_role(sandbox: Sandbox) -> Result<()> {
    let monitor = format!("{}_monitor", sandbox.database().name);
    let password = "password-of-a-monitor-no-one-may-see";
    let create = format!(
        "CREATE ROLE {monitor} LOGIN PASSWORD '{password}'; GRANT pg_read_all_data, pg_monitor TO {monitor}"
    );
    let postgres = &sandbox.harness().postgres;
    postgres.execute_in("postgres", &create).await?;
    // Bytebase's tables are in a schema of its role's search path, which is not in the monitor's.
    let name = &sandbox.database().name;
    let elsewhere =
        format!("CREATE SCHEMA bb AUTHORIZATION {name}; ALTER ROLE {name} SET search_path = bb");
    postgres.execute_in(name, &elsewhere).await?;
    sandbox.plant("password of the monitor", password);
    let url = support::url_of(sandbox.database(), &monitor, password);
    sandbox
        .create_secret("monitor", &[("PG_URL", &url)])
        .await?;
    let mut cluster = support::licensed(&sandbox, 2);
    cluster["spec"]["database"]["monitorSecretRef"] = json!({"name": "monitor", "key": "PG_URL"});
    support::start(&sandbox, &cluster).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let status = sandbox.status(NAME).await?;
    ensure!(status["activeReplicas"] == 2, "{status}");
    let fresh = status["replicaStatuses"]
        .as_array()
        .is_some_and(|list| list.iter().all(|replica| replica["heartbeat"] == "Fresh"));
    ensure!(fresh, "{}", status["replicaStatuses"]);
    // No session of the operator uses the login that the replicas have.
    let owners: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND usename = $1 AND application_name = 'bytebase-operator'",
    )
    .bind(&sandbox.database().name)
    .fetch_one(sandbox.harness().postgres.admin())
    .await?;
    ensure!(owners == 0, "the operator logs in as Bytebase's role");
    Ok(())
}
