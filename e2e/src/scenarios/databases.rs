//! Metadata databases of every kind but the plain one: what stands behind PG_URL, and how it is
//! written.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::certificates::Authority;

use super::support::{self, DATABASE_SECRET, NAME};
use crate::postgres::companions::PoolMode;
use crate::scenario::sandbox::{OperatorOptions, Sandbox};
use crate::scenario::{Scenario, stand_in};
use crate::wait;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "standby",
        "A standby holds back the first pod; a list with its primary and target_session_attrs passes every check.",
        |sandbox| Box::pin(standby(sandbox)),
    ),
    Scenario::new(
        "name-moves",
        "A name that leads to a standby and then to the primary is followed, whatever session is open.",
        |sandbox| Box::pin(moved_name(sandbox)),
    ),
    Scenario::new(
        "database-read-only",
        "A database that takes no writes holds back the first pod until it does.",
        |sandbox| Box::pin(read_only(sandbox)),
    ),
    Scenario::new(
        "rights-lost",
        "A role that lost a table of Bytebase's keeps its replica, and no other one is started.",
        |sandbox| Box::pin(rights_lost(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
    Scenario::new(
        "transaction-pooler",
        "PgBouncer in transaction mode holds back the first pod; in session mode the pod starts.",
        |sandbox| Box::pin(transaction_pooler(sandbox)),
    ),
    Scenario::new(
        "database-missing",
        "A database that is not there holds back the first pod until it is made.",
        |sandbox| Box::pin(missing(sandbox)),
    ),
    Scenario::new(
        "rights-missing",
        "For a role that may not create tables, the condition says which GRANT it lacks.",
        |sandbox| Box::pin(rights_missing(sandbox)),
    ),
    Scenario::new(
        "wrong-encoding",
        "A database that is not UTF-8 holds back the first pod.",
        |sandbox| Box::pin(wrong_encoding(sandbox)),
    ),
    Scenario::new(
        "connection-budget",
        "More replicas than the server has connections for are reported, with the numbers.",
        |sandbox| Box::pin(connection_budget(sandbox)),
    )
    .stand_in_only(stand_in::INDEPENDENT),
    Scenario::new(
        "database-tls",
        "The CA from a Secret or a ConfigMap; a wrong CA and a wrong name are reported.",
        |sandbox| Box::pin(tls(sandbox)),
    )
    .takes(200),
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
        "black-hole",
        "Databases that never answer delay no other cluster.",
        |sandbox| Box::pin(black_hole(sandbox)),
    )
    .stand_in_only(stand_in::TIMES),
    Scenario::new(
        "foreign-bytebase",
        "A Bytebase that belongs to no cluster sends heartbeats to the database, and is reported until it ends.",
        |sandbox| Box::pin(foreign_bytebase(sandbox)),
    ),
];

/// Long enough for a pod to be made by an operator that should not.
const PAUSE: Duration = Duration::from_secs(4);
/// Where pods find the CA.
const CA_PATH: &str = "/etc/bytebase/database-ca/ca.crt";

// === What stands behind PG_URL ===

async fn standby(sandbox: Sandbox) -> Result<()> {
    let (host, primary) = (
        sandbox.database().host().to_owned(),
        sandbox.database().port(),
    );
    let standby = sandbox
        .harness()
        .postgres
        .start_standby(sandbox.namespace())
        .await?;
    let only = sandbox
        .database()
        .url_at(&format!("{host}:{standby}"), "sslmode=disable");
    start_with(&sandbox, &support::minimal(&sandbox, 1), &only).await?;
    let reported = sandbox
        .wait_condition(NAME, "DatabaseReady", "False", "DatabaseIsStandby")
        .await?;
    support::says(
        &reported,
        &[&standby.to_string(), "target_session_attrs=read-write"],
    )?;
    no_pods(&sandbox).await?;

    // As the message says. The standby stands first, so that the choice is made and not met by
    // chance.
    let both = sandbox.database().url_at(
        &format!("{host}:{standby},{host}:{primary}"),
        "sslmode=disable&target_session_attrs=read-write",
    );
    set_url(&sandbox, &both).await?;
    support::well(&sandbox).await
}

/// The name in PG_URL leads to a standby, and then to the primary, while the operator has a session
/// open where it led before.
async fn moved_name(sandbox: Sandbox) -> Result<()> {
    let standby = sandbox
        .harness()
        .postgres
        .start_standby(sandbox.namespace())
        .await?;
    let name = format!("moved.{}.svc:5432", sandbox.namespace());
    let url = sandbox.database().url_at(&name, "sslmode=disable");
    lead("moved", &sandbox, standby).await?;
    start_with(&sandbox, &support::minimal(&sandbox, 1), &url).await?;
    sandbox
        .wait_condition(NAME, "DatabaseReady", "False", "DatabaseIsStandby")
        .await?;
    no_pods(&sandbox).await?;
    lead("moved", &sandbox, sandbox.database().port()).await?;
    support::well(&sandbox).await
}

/// Has a Service lead to this port of the database server.
async fn lead(name: &str, sandbox: &Sandbox, port: u16) -> Result<()> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"ports": [{"name": "postgres", "port": 5432}]},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "postgres", "port": port}],
        "endpoints": [{"addresses": [sandbox.database().host()]}],
    });
    sandbox.apply_yaml(&service.to_string()).await?;
    sandbox.apply_yaml(&slice.to_string()).await
}

/// What hosted PostgreSQL does when its disk is full.
async fn read_only(sandbox: Sandbox) -> Result<()> {
    let postgres = &sandbox.harness().postgres;
    let name = &sandbox.database().name;
    let frozen = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    postgres.execute_in("postgres", &frozen).await?;
    let url = sandbox.database().url();
    start_with(&sandbox, &support::minimal(&sandbox, 1), &url).await?;
    let reported = sandbox
        .wait_condition(NAME, "DatabaseReady", "False", "DatabaseReadOnly")
        .await?;
    support::says(&reported, &["default_transaction_read_only"])?;
    no_pods(&sandbox).await?;
    let thawed = format!("ALTER DATABASE {name} RESET default_transaction_read_only");
    postgres.execute_in("postgres", &thawed).await?;
    support::well(&sandbox).await
}

/// Tables of Bytebase's that its role does not own any more: the next migration would fail.
async fn rights_lost(sandbox: Sandbox) -> Result<()> {
    let mut cluster = support::licensed(&sandbox, 1);
    cluster["spec"]["version"] = json!("3.20.0");
    support::start(&sandbox, &cluster).await?;
    sandbox.wait_condition(NAME, "Ready", "True", "").await?;
    let postgres = &sandbox.harness().postgres;
    let name = &sandbox.database().name;
    let owner = |owner: &str| format!("ALTER TABLE setting OWNER TO {owner}");
    let shared = format!("GRANT ALL ON setting TO {name}");
    postgres.execute_in(name, &owner("postgres")).await?;
    postgres.execute_in(name, &shared).await?;
    sandbox
        .wait_condition(NAME, "DatabaseReady", "False", "DatabasePermissionDenied")
        .await?;
    let before = support::lives(&sandbox).await?;
    support::patch_spec(&sandbox, json!({"version": "3.21.1"})).await?;
    wait::throughout(
        "the running replica",
        PAUSE,
        || support::lives(&sandbox),
        |lives| *lives == before,
    )
    .await?;
    postgres.execute_in(name, &owner(name)).await?;
    support::well(&sandbox).await?;
    support::rolled_out(&sandbox).await
}

async fn transaction_pooler(sandbox: Sandbox) -> Result<()> {
    let postgres = &sandbox.harness().postgres;
    let database = sandbox.database();
    let host = database.host();
    let mut urls = Vec::new();
    for mode in [PoolMode::Transaction, PoolMode::Session] {
        let port = postgres
            .start_pooler(sandbox.namespace(), mode, database)
            .await?;
        urls.push(database.url_at(&format!("{host}:{port}"), "sslmode=disable"));
    }
    let [transaction, session] = urls.as_slice() else {
        unreachable!("there are two modes");
    };
    start_with(&sandbox, &support::minimal(&sandbox, 1), transaction).await?;
    let reported = sandbox
        .wait_condition(NAME, "DatabaseReady", "False", "DatabaseTransactionPooler")
        .await?;
    support::says(&reported, &["session mode"])?;
    no_pods(&sandbox).await?;
    set_url(&sandbox, session).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

async fn missing(sandbox: Sandbox) -> Result<()> {
    let database = sandbox.database();
    let role = &database.name;
    let later = format!("{role}_later");
    let url = database
        .url()
        .replace(&format!("/{role}?"), &format!("/{later}?"));
    start_with(&sandbox, &support::minimal(&sandbox, 1), &url).await?;
    let reported = sandbox
        .wait_condition(NAME, "DatabaseReady", "False", "DatabaseMissing")
        .await?;
    support::says(&reported, &[&later, role])?;
    no_pods(&sandbox).await?;
    let create = format!("CREATE DATABASE {later} OWNER {role}");
    sandbox
        .harness()
        .postgres
        .execute_in("postgres", &create)
        .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

async fn rights_missing(sandbox: Sandbox) -> Result<()> {
    let postgres = &sandbox.harness().postgres;
    let database = sandbox.database();
    let name = &database.name;
    let guest = format!("{name}_guest");
    let password = "password-of-a-guest-nobody-may-see";
    // Before PostgreSQL 15 every role may create tables.
    let prepare = format!(
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC; CREATE ROLE {guest} LOGIN PASSWORD '{password}'"
    );
    postgres.execute_in(name, &prepare).await?;
    sandbox.plant("password of the guest", password);
    let url = login(&sandbox, &guest, password);
    start_with(&sandbox, &support::minimal(&sandbox, 1), &url).await?;
    let reported = sandbox
        .wait_condition(NAME, "DatabaseReady", "False", "DatabasePermissionDenied")
        .await?;
    support::says(&reported, &["GRANT CREATE ON SCHEMA public"])?;
    no_pods(&sandbox).await?;
    let grant = format!("GRANT USAGE, CREATE ON SCHEMA public TO {guest}");
    postgres.execute_in(name, &grant).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

async fn wrong_encoding(sandbox: Sandbox) -> Result<()> {
    let database = sandbox.database();
    let role = &database.name;
    let ascii = format!("{role}_ascii");
    let create = format!(
        "CREATE DATABASE {ascii} OWNER {role} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"
    );
    sandbox
        .harness()
        .postgres
        .execute_in("postgres", &create)
        .await?;
    let url = database
        .url()
        .replace(&format!("/{role}?"), &format!("/{ascii}?"));
    start_with(&sandbox, &support::minimal(&sandbox, 1), &url).await?;
    let reported = sandbox
        .wait_condition(NAME, "DatabaseReady", "False", "DatabaseEncoding")
        .await?;
    support::says(&reported, &["SQL_ASCII", "UTF8"])?;
    no_pods(&sandbox).await?;
    set_url(&sandbox, &database.url()).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

/// A budget beyond the server's is reported with the numbers and ends no replica.
async fn connection_budget(sandbox: Sandbox) -> Result<()> {
    support::start(&sandbox, &support::minimal(&sandbox, 50)).await?;
    let reported = sandbox
        .wait_condition(NAME, "DatabaseReady", "True", "DatabaseConnectionBudget")
        .await?;
    let limit: String = sqlx::query_scalar("SHOW max_connections")
        .fetch_one(sandbox.harness().postgres.admin())
        .await?;
    // 50 for each of 50 replicas and one more during a rollout.
    support::says(&reported, &["50 replicas", "2550", "max_connections"])?;
    let status = sandbox
        .wait_status(NAME, "one active replica", |status| {
            status["activeReplicas"] == 1
        })
        .await?;
    let database = &status["database"];
    ensure!(
        database["connectionBudget"] == 2550
            && database["maxConnections"] == limit.parse::<i64>()?,
        "{database}"
    );
    ensure!(support::pods(&sandbox).await?.len() == 1);
    // Within the budget it is no longer mentioned.
    support::patch_spec(&sandbox, json!({"replicas": 1})).await?;
    support::well(&sandbox).await
}

/// The first cluster's database answers nothing; the next one of the same operator does not notice.
async fn black_hole(sandbox: Sandbox) -> Result<()> {
    let database = sandbox.database();
    let alone = Instant::now();
    support::start(&sandbox, &named(&sandbox, "before", DATABASE_SECRET)).await?;
    sandbox
        .wait_condition("before", "Ready", "True", "AllReplicasActive")
        .await?;
    let alone = alone.elapsed();

    // TEST-NET-1 leads nowhere.
    let lost = database.url_at("192.0.2.1:5432", "sslmode=disable");
    sandbox.create_secret("lost", &[("PG_URL", &lost)]).await?;
    for name in ["lost-a", "lost-b", "lost-c"] {
        sandbox
            .apply_yaml(&named(&sandbox, name, "lost").to_string())
            .await?;
    }
    let reported = sandbox
        .wait_condition("lost-a", "DatabaseReady", "Unknown", "DatabaseUnreachable")
        .await?;
    support::says(&reported, &["192.0.2.1:5432"])?;

    let (role, after) = (&database.name, format!("{}_after", database.name));
    sandbox
        .harness()
        .postgres
        .execute_in("postgres", &format!("CREATE DATABASE {after} OWNER {role}"))
        .await?;
    let url = database
        .url()
        .replace(&format!("/{role}?"), &format!("/{after}?"));
    sandbox.create_secret("after", &[("PG_URL", &url)]).await?;
    let among_lost = Instant::now();
    sandbox
        .apply_yaml(&named(&sandbox, "after", "after").to_string())
        .await?;
    sandbox
        .wait_condition("after", "Ready", "True", "AllReplicasActive")
        .await?;
    let among_lost = among_lost.elapsed();
    // The first time holds the operator's own start as well; the margin is for scenarios that run
    // beside this one.
    ensure!(
        among_lost < alone + Duration::from_secs(10),
        "alone {alone:?}, among black holes {among_lost:?}"
    );
    let lost = sandbox.status("lost-c").await?;
    ensure!(lost["phase"] != "Ready", "{lost}");
    Ok(())
}

// === TLS ===

async fn tls(sandbox: Sandbox) -> Result<()> {
    let authority = sandbox.harness().postgres.certificates()?.authority()?;
    let other_authority = Authority::new("another CA").certificate();
    let server = format!(
        "{}:{}",
        sandbox.database().host(),
        sandbox.database().port()
    );
    let verified = sandbox.database().url_at(
        &server,
        &format!("sslmode=verify-full&sslrootcert={CA_PATH}"),
    );
    let mut cluster = support::minimal(&sandbox, 1);
    cluster["spec"]["database"]["caSecretRef"] = json!({"name": "ca", "key": "ca.crt"});
    sandbox
        .create_harmless_secret("ca", &[("ca.crt", &other_authority)])
        .await?;
    start_with(&sandbox, &cluster, &verified).await?;
    let reported = tls_failed(&sandbox).await?;
    support::says(&reported, &["caSecretRef"])?;

    sandbox
        .create_harmless_secret("ca", &[("ca.crt", &authority)])
        .await?;
    settled(&sandbox).await.context("the CA from a Secret")?;

    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca-bundle"},
        "data": {"bundle.pem": authority},
    });
    sandbox.apply_yaml(&map.to_string()).await?;
    let reference = json!({
        "caSecretRef": null,
        "caConfigMapRef": {"name": "ca-bundle", "key": "bundle.pem"},
    });
    support::patch_spec(&sandbox, json!({"database": reference})).await?;
    settled(&sandbox).await.context("the CA from a ConfigMap")?;

    // The same server by a name that its certificate is not for.
    let name = alias(&sandbox).await?;
    let other = |mode: &str| {
        sandbox.database().url_at(
            &format!("{name}:{}", sandbox.database().port()),
            &format!("sslmode={mode}&sslrootcert={CA_PATH}"),
        )
    };
    set_url(&sandbox, &other("verify-full")).await?;
    let reported = tls_failed(&sandbox).await?;
    support::says(&reported, &[&name, "verify-ca"])?;
    set_url(&sandbox, &other("verify-ca")).await?;
    settled(&sandbox)
        .await
        .context("verify-ca by another name")?;
    let encrypted: bool = sqlx::query_scalar(
        "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE datname = $1",
    )
    .bind(&sandbox.database().name)
    .fetch_one(sandbox.harness().postgres.admin())
    .await?;
    ensure!(encrypted, "a session is in clear text");
    Ok(())
}

async fn tls_failed(sandbox: &Sandbox) -> Result<Value> {
    sandbox
        .wait_condition(NAME, "DatabaseReady", "Unknown", "DatabaseTlsFailed")
        .await
}

/// The database is read and every replica is of the newest revision and active.
async fn settled(sandbox: &Sandbox) -> Result<()> {
    sandbox
        .wait_condition(NAME, "DatabaseReady", "True", "DatabaseChecksPassed")
        .await?;
    support::rolled_out(sandbox).await
}

/// Makes another name for the server in this namespace and returns it.
async fn alias(sandbox: &Sandbox) -> Result<String> {
    let (host, port) = (sandbox.database().host(), sandbox.database().port());
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "database"},
        "spec": {"clusterIP": "None", "ports": [{"port": port}]},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "database", "labels": {"kubernetes.io/service-name": "database"}},
        "addressType": "IPv4",
        "ports": [{"port": port}],
        "endpoints": [{"addresses": [host]}],
    });
    sandbox.apply_yaml(&service.to_string()).await?;
    sandbox.apply_yaml(&slice.to_string()).await?;
    Ok(format!("database.{}.svc", sandbox.namespace()))
}

// === How PG_URL is written ===

async fn keyword_form(sandbox: Sandbox) -> Result<()> {
    let database = sandbox.database();
    let role = &database.name;
    let hostile = "it's a \\ = / @ ? & % # \"password\" nobody may see";
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
    start_with(&sandbox, &support::minimal(&sandbox, 1), &url).await?;
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

    // A login of the operator's own: now the operator reads the database, down to the heartbeats that are missing.
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

async fn monitor_role(sandbox: Sandbox) -> Result<()> {
    let monitor = format!("{}_monitor", sandbox.database().name);
    let password = "password-of-a-monitor-nobody-may-see";
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
    let url = login(&sandbox, &monitor, password);
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

/// Another Bytebase on the same database, which belongs to no `BytebaseCluster`.
async fn foreign_bytebase(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 1).await?;
    let image = &sandbox.harness().bytebase;
    let environment = json!([
        {"name": "PG_URL", "valueFrom": {"secretKeyRef": {"name": DATABASE_SECRET, "key": "PG_URL"}}},
        {"name": "PGAPPNAME", "value": "stranger"},
    ]);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger"},
        "spec": {"containers": [{
            "name": "bytebase", "image": image.name(), "imagePullPolicy": "Never", "env": environment,
            "args": ["--port", "8080", "--data", "/var/opt/bytebase", "--external-url", "https://elsewhere.example.com", "--ha"],
            "volumeMounts": [{"name": "data", "mountPath": "/var/opt/bytebase"}],
        }], "volumes": [{"name": "data", "emptyDir": {}}]},
    });
    sandbox.apply_yaml(&pod.to_string()).await?;
    let reported = sandbox
        .wait_condition(NAME, "ReplicasHealthy", "False", "ForeignReplica")
        .await?;
    support::says(&reported, &["do not belong to this cluster", "1 of them"])?;
    support::wait_event(&sandbox, "ForeignReplica").await?;
    // The cluster's own replica is not blamed for it.
    let status = sandbox.status(NAME).await?;
    ensure!(
        status["activeReplicas"] == 1 && status["replicaStatuses"][0]["heartbeat"] == "Fresh",
        "{status}"
    );
    sandbox
        .kubectl(&["delete", "pod", "stranger", "--grace-period=5"])
        .await?;
    sandbox
        .wait_condition(NAME, "ReplicasHealthy", "True", "AllReplicasHealthy")
        .await?;
    Ok(())
}

// === Words ===

/// Brings up operator and cluster with this PG_URL in the Secret from the very beginning.
async fn start_with(sandbox: &Sandbox, cluster: &Value, url: &str) -> Result<()> {
    sandbox
        .install_operator(&OperatorOptions::default())
        .await?;
    support::secrets(sandbox).await?;
    set_url(sandbox, url).await?;
    sandbox.apply_yaml(&cluster.to_string()).await
}

async fn set_url(sandbox: &Sandbox, url: &str) -> Result<()> {
    sandbox
        .create_secret(DATABASE_SECRET, &[("PG_URL", url)])
        .await
}

async fn no_pods(sandbox: &Sandbox) -> Result<()> {
    wait::throughout("no pod", PAUSE, || support::pods(sandbox), Vec::is_empty).await
}

/// PG_URL of another role to the sandbox's database.
fn login(sandbox: &Sandbox, role: &str, password: &str) -> String {
    let database = sandbox.database();
    format!(
        "postgres://{role}:{password}@{}:{}/{}?sslmode=disable",
        database.host(),
        database.port(),
        database.name
    )
}

/// A cluster of one replica under another name, with another Secret, and without the Ingress they
/// would share.
fn named(sandbox: &Sandbox, name: &str, secret: &str) -> Value {
    let mut cluster = support::minimal(sandbox, 1);
    cluster["metadata"]["name"] = json!(name);
    cluster["spec"]["database"]["urlSecretRef"]["name"] = json!(secret);
    cluster["spec"]["ingress"] = json!({"enabled": false});
    cluster
}
