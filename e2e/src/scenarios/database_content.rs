//! What the metadata database holds, and what its role may do there, before a replica is started.

use super::database_server::lead;
use super::support::{self, DATABASE_SECRET, Lives, NAME};
use crate::postgres::Database;
use crate::scenario::sandbox::{OperatorOptions, PATIENCE, Sandbox, condition};
use crate::scenario::{Scenario, stand_in};
use crate::wait;
use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde_json::{Value, json};
use std::time::Duration;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "before-the-first-pod",
        "A refused password holds back the first pod, a database that was never read does for two minutes; a first replica that never served is taken back once other tables are found there.",
        |sandbox| Box::pin(before_the_first_pod(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(200),
    Scenario::new(
        "database-refused",
        "Another application's tables, a database that is not there, takes no writes or is not UTF-8, and a role that may not create tables hold back the first pod of five clusters until each is put right, and each message says what is wrong.",
        |sandbox| Box::pin(refused(sandbox)),
    )
    .takes(70),
    Scenario::new(
        "database-shared",
        "Of two clusters on one database the older runs and the younger waits.",
        |sandbox| Box::pin(shared_by_two(sandbox)),
    ),
    Scenario::new(
        "database-kept",
        "A cluster that has served keeps its database from an older one that has not, also while it is stopped and its spec names another place, until that is read as another database.",
        |sandbox| Box::pin(kept_by_the_younger(sandbox)),
    )
    .takes(220),
    Scenario::new(
        "rights-lost",
        "A role that lost sight of Bytebase's tables, the right to create tables, or one of the tables, keeps its replicas: no upgrade begins.",
        |sandbox| Box::pin(rights_lost(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(130),
    Scenario::new(
        "foreign-bytebase",
        "A Bytebase that belongs to no cluster sends heartbeats to the database, and is reported until it ends; until then no replica is added, also after an outage.",
        |sandbox| Box::pin(foreign_bytebase(sandbox)),
    )
    .takes(170),
];

/// PostgreSQL has another, and nothing else of ours listens at the gateway's low ports.
const CLOSED_PORT: u16 = 1;

/// Definite failures hold back the first pod; a database that cannot be reached and was never read
/// does so for two minutes, and then only the second.
async fn before_the_first_pod(sandbox: Sandbox) -> Result<()> {
    let right = sandbox.database().url();
    let wrong = right.replace(&sandbox.database().password, "not-the-password-of-anybody");
    let mut cluster = support::licensed(&sandbox, 2);
    // No replica comes up, whatever it can reach, before the spec says otherwise.
    let version = cluster["spec"]["version"].clone();
    cluster["spec"]["env"] = json!([{"name": "BYTEBASE_STUB_FAILING_VERSION", "value": version}]);
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

    blind_start(&sandbox).await?;
    // A port that was cut off, with another application's tables behind it.
    support::execute(&sandbox, "CREATE TABLE invoices (id int)").await?;
    lead("database", &sandbox, sandbox.database().port()).await?;
    sandbox
        .wait_condition(NAME, "DatabaseReady", "False", "DatabaseForeignTables")
        .await?;
    support::wait_pods(&sandbox, 0).await?;
    let unread = &sandbox.status(NAME).await?["database"]["unreadSince"];
    ensure!(
        unread.is_null(),
        "unread since {unread}, although it was read"
    );

    support::execute(&sandbox, "DROP TABLE invoices").await?;
    support::patch_spec(&sandbox, json!({"env": null})).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    ensure!(support::pods(&sandbox).await?.len() == 2);
    Ok(())
}

/// By a name that leads to a port at which nothing listens: the first replica, and no second,
/// starts after two minutes of trying.
async fn blind_start(sandbox: &Sandbox) -> Result<()> {
    let name = format!("database.{}.svc:5432", sandbox.namespace());
    let url = sandbox.database().url_at(&name, "sslmode=disable");
    lead("database", sandbox, CLOSED_PORT).await?;
    let asked = Timestamp::now();
    support::set_url(sandbox, &url).await?;
    sandbox
        .wait_condition(NAME, "DatabaseReady", "Unknown", "DatabaseUnreachable")
        .await?;
    let since = sandbox.status(NAME).await?["database"]["unreadSince"].clone();
    let since: Timestamp = since.as_str().context("unreadSince is absent")?.parse()?;
    // By another clock, and without its fractions of a second.
    let early = SignedDuration::from_secs(2);
    ensure!(
        since >= asked - early,
        "unread since {since}, and the name is in use since {asked}"
    );
    let pods = || support::pods(sandbox);
    let patience = Duration::from_mins(3);
    let pods = wait::until("one pod", patience, pods, |pods| !pods.is_empty()).await?;
    let made = pods.first().and_then(ResourceExt::creation_timestamp);
    let made = made.context("a pod without a time")?.0;
    ensure!(
        made >= since + SignedDuration::from_mins(2) - early,
        "a pod was made at {made}, and the database has been tried since {since}"
    );
    let count = || async { Ok(support::pods(sandbox).await?.len()) };
    wait::throughout("one pod", Duration::from_secs(5), count, |count| {
        *count == 1
    })
    .await
}

/// Five clusters of one operator, each with a database of its own that is refused for another
/// reason.
async fn refused(sandbox: Sandbox) -> Result<()> {
    sandbox
        .install_operator(&OperatorOptions::default())
        .await?;
    tokio::try_join!(
        foreign_tables(&sandbox),
        read_only(&sandbox),
        missing(&sandbox),
        rights_missing(&sandbox),
        wrong_encoding(&sandbox),
    )?;
    Ok(())
}

async fn foreign_tables(sandbox: &Sandbox) -> Result<()> {
    let subject = Refused::new(sandbox, "tables").await?;
    let owner = format!("SET ROLE {}", subject.database.name);
    let create = format!("{owner}; CREATE TABLE invoices (id int)");
    subject.execute(&create).await?;
    let url = subject.database.url();
    subject
        .is_held_back(&url, "DatabaseForeignTables", &["invoices"])
        .await?;
    subject
        .execute(&format!("{owner}; DROP TABLE invoices"))
        .await?;
    subject.comes_up().await
}

/// What hosted PostgreSQL does when its disk is full.
async fn read_only(sandbox: &Sandbox) -> Result<()> {
    let subject = Refused::new(sandbox, "frozen").await?;
    let setting = "default_transaction_read_only";
    let name = &subject.database.name;
    let postgres = &sandbox.harness().postgres;
    let frozen = format!("ALTER DATABASE {name} SET {setting} = on");
    postgres.execute_in("postgres", &frozen).await?;
    let url = subject.database.url();
    subject
        .is_held_back(&url, "DatabaseReadOnly", &[setting])
        .await?;
    let thawed = format!("ALTER DATABASE {name} RESET {setting}");
    postgres.execute_in("postgres", &thawed).await?;
    subject.comes_up().await
}

async fn missing(sandbox: &Sandbox) -> Result<()> {
    let subject = Refused::new(sandbox, "missing").await?;
    let role = &subject.database.name;
    let later = format!("{role}_later");
    let url = subject
        .database
        .url()
        .replace(&format!("/{role}?"), &format!("/{later}?"));
    subject
        .is_held_back(&url, "DatabaseMissing", &[&later, role])
        .await?;
    let create = format!("CREATE DATABASE {later} OWNER {role}");
    let postgres = &sandbox.harness().postgres;
    postgres.execute_in("postgres", &create).await?;
    subject.comes_up().await
}

async fn rights_missing(sandbox: &Sandbox) -> Result<()> {
    let subject = Refused::new(sandbox, "rights").await?;
    let guest = format!("{}_guest", subject.database.name);
    let password = "password-of-a-guest-no-one-may-see";
    // Before PostgreSQL 15 every role may create tables.
    let prepare = format!(
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC; CREATE ROLE {guest} LOGIN PASSWORD '{password}'"
    );
    subject.execute(&prepare).await?;
    sandbox.plant("password of the guest", password);
    let url = support::url_of(&subject.database, &guest, password);
    let words = ["GRANT CREATE ON SCHEMA public"];
    subject
        .is_held_back(&url, "DatabasePermissionDenied", &words)
        .await?;
    let grant = format!("GRANT USAGE, CREATE ON SCHEMA public TO {guest}");
    subject.execute(&grant).await?;
    subject.comes_up().await
}

async fn wrong_encoding(sandbox: &Sandbox) -> Result<()> {
    let subject = Refused::new(sandbox, "encoding").await?;
    let role = &subject.database.name;
    let ascii = format!("{role}_ascii");
    let create = format!(
        "CREATE DATABASE {ascii} OWNER {role} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"
    );
    let postgres = &sandbox.harness().postgres;
    postgres.execute_in("postgres", &create).await?;
    let right = subject.database.url();
    let url = right.replace(&format!("/{role}?"), &format!("/{ascii}?"));
    subject
        .is_held_back(&url, "DatabaseEncoding", &["SQL_ASCII", "UTF8"])
        .await?;
    subject.set_url(&right).await?;
    subject.comes_up().await
}

/// A cluster whose database is refused, and then not any more. The Secret has the cluster's name.
struct Refused<'sandbox> {
    sandbox: &'sandbox Sandbox,
    name: &'static str,
    database: Database,
}

impl<'sandbox> Refused<'sandbox> {
    /// Makes the database, and no cluster yet.
    async fn new(sandbox: &'sandbox Sandbox, name: &'static str) -> Result<Self> {
        let database = format!("{}_{name}", sandbox.database().name);
        let postgres = &sandbox.harness().postgres;
        let database = postgres.create_database(&database).await?;
        sandbox.plant_random(&format!("password of {name}"), &database.password);
        Ok(Self {
            sandbox,
            name,
            database,
        })
    }

    /// Runs statements in the database, as the server's administrator.
    async fn execute(&self, statements: &str) -> Result<()> {
        let postgres = &self.sandbox.harness().postgres;
        postgres.execute_in(&self.database.name, statements).await
    }

    async fn set_url(&self, url: &str) -> Result<()> {
        let data = [("PG_URL", url)];
        self.sandbox.create_secret(self.name, &data).await
    }

    /// The cluster is made, refused for this reason with these words, and no pod comes.
    async fn is_held_back(&self, url: &str, reason: &str, words: &[&str]) -> Result<()> {
        let Self { sandbox, name, .. } = self;
        self.set_url(url).await?;
        let mut cluster = support::minimal(sandbox, 1);
        cluster["metadata"]["name"] = json!(name);
        cluster["spec"]["ingress"] = json!({"enabled": false});
        cluster["spec"]["database"]["urlSecretRef"]["name"] = json!(name);
        sandbox.apply_yaml(&cluster.to_string()).await?;
        let reported = sandbox
            .wait_condition(name, "DatabaseReady", "False", reason)
            .await?;
        support::says(&reported, words).with_context(|| reason.to_owned())?;
        let selector = format!("bytebase.com/cluster={name}");
        let pods = || sandbox.pods(&selector);
        let what = format!("no pod of {name}");
        wait::throughout(&what, support::PAUSE, pods, Vec::is_empty).await
    }

    /// The database has passed every check, and the replica is active.
    async fn comes_up(&self) -> Result<()> {
        let Self { sandbox, name, .. } = self;
        let passed = "DatabaseChecksPassed";
        sandbox
            // A changed Secret is given two minutes to reach the pods.
            .wait_condition_for(2 * PATIENCE, name, "DatabaseReady", "True", passed)
            .await?;
        sandbox
            .wait_condition(name, "Ready", "True", "AllReplicasActive")
            .await?;
        Ok(())
    }
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
    let pods = || sandbox.pods("bytebase.com/cluster=second");
    wait::throughout("no pod of the second", support::PAUSE, pods, Vec::is_empty).await?;
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

/// The older one is stopped while the younger one comes up.
async fn kept_by_the_younger(sandbox: Sandbox) -> Result<()> {
    let mut older = support::second(&sandbox);
    older["spec"]["replicas"] = json!(0);
    support::start(&sandbox, &older).await?;
    sandbox
        .wait_condition("second", "Ready", "True", "ScaledToZero")
        .await?;
    // The API server says in whole seconds when an object was made.
    tokio::time::sleep(Duration::from_secs(2)).await;
    sandbox
        .apply_yaml(&support::minimal(&sandbox, 1).to_string())
        .await?;
    support::well(&sandbox).await?;
    let wanted = json!({"spec": {"replicas": 1}}).to_string();
    let patch = [
        "patch",
        "bytebasecluster",
        "second",
        "--type=merge",
        "--patch",
    ];
    sandbox.kubectl(&[&patch[..], &[&wanted]].concat()).await?;
    let shared = || sandbox.wait_condition("second", "DatabaseReady", "False", "DatabaseShared");
    shared().await?;
    // The younger one is held by nothing.
    support::patch_spec(&sandbox, json!({"podLabels": {"changed": "since"}})).await?;
    support::rolled_out(&sandbox).await?;
    support::patch_spec(&sandbox, json!({"replicas": 0})).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "ScaledToZero")
        .await?;
    let pods = || sandbox.pods("bytebase.com/cluster=second");
    let none = |pods: &Vec<_>| pods.is_empty();
    wait::throughout("no pod of the older one", support::PAUSE, pods, none).await?;
    held_since(&sandbox, "is stopped").await?;

    // A place that cannot be read may be another name of the same database, as the next one is.
    lead("gone", &sandbox, CLOSED_PORT).await?;
    lead("alias", &sandbox, sandbox.database().port()).await?;
    let at = |host: &str| {
        let server = format!("{host}.{}.svc:5432", sandbox.namespace());
        sandbox.database().url_at(&server, "sslmode=disable")
    };
    name_database(&sandbox, "gone", &at("gone")).await?;
    sandbox
        .wait_condition(NAME, "DatabaseReady", "Unknown", "DatabaseUnreachable")
        .await?;
    held_since(&sandbox, "names another place").await?;
    name_database(&sandbox, "alias", &at("alias")).await?;
    held_since(&sandbox, "is stopped").await?;
    wait::throughout("no pod of the older one", support::PAUSE, pods, none).await?;
    let name = &sandbox.database().name;
    let another = sandbox
        .database()
        .url()
        .replace(&format!("/{name}?"), "/postgres?");
    name_database(&sandbox, "another", &another).await?;
    sandbox
        .wait_condition("second", "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

/// Has the younger one name a database by a Secret of its own.
async fn name_database(sandbox: &Sandbox, secret: &str, url: &str) -> Result<()> {
    sandbox.create_secret(secret, &[("PG_URL", url)]).await?;
    let database = json!({"urlSecretRef": {"name": secret, "key": "PG_URL"}});
    support::patch_spec(sandbox, json!({"database": database})).await
}

/// Waits until the older one is refused the database with these words.
async fn held_since(sandbox: &Sandbox, words: &str) -> Result<()> {
    let is_held = |status: &Value| {
        condition(&status["conditions"], "DatabaseReady").is_some_and(|now| {
            now["reason"] == "DatabaseShared" && support::says(now, &[words]).is_ok()
        })
    };
    sandbox.wait_status("second", words, is_held).await?;
    Ok(())
}

/// Rights without which the next migration would fail: to create tables, and to change Bytebase's
/// own.
async fn rights_lost(sandbox: Sandbox) -> Result<()> {
    let mut cluster = support::licensed(&sandbox, 2);
    cluster["spec"]["version"] = json!("3.20.0");
    support::start(&sandbox, &cluster).await?;
    support::well(&sandbox).await?;
    out_of_sight(&sandbox).await?;
    let postgres = &sandbox.harness().postgres;
    let name = &sandbox.database().name;
    let revoke = "REVOKE CREATE ON SCHEMA public FROM PUBLIC, pg_database_owner";
    postgres.execute_in(name, revoke).await?;
    let reported = sandbox
        .wait_condition(NAME, "DatabaseReady", "False", "DatabasePermissionDenied")
        .await?;
    support::says(&reported, &["may no longer create tables"])?;
    let before = support::lives(&sandbox).await?;
    support::patch_spec(&sandbox, json!({"version": "3.21.1"})).await?;
    // The operator has seen the new version.
    sandbox
        .wait_condition(NAME, "DatabaseReady", "False", "DatabasePermissionDenied")
        .await?;
    untouched(&sandbox, &before).await?;

    let owner = |owner: &str| format!("ALTER TABLE setting OWNER TO {owner}");
    let shared = format!("GRANT ALL ON setting TO {name}");
    let grant = format!("GRANT CREATE ON SCHEMA public TO {name}");
    for statement in [owner("postgres"), shared, grant] {
        postgres.execute_in(name, &statement).await?;
    }
    sandbox
        .wait_status(NAME, "the table to be named", |status| {
            condition(&status["conditions"], "DatabaseReady")
                .is_some_and(|now| support::says(now, &["the table setting"]).is_ok())
        })
        .await?;
    untouched(&sandbox, &before).await?;

    postgres.execute_in(name, &owner(name)).await?;
    support::well(&sandbox).await?;
    support::rolled_out(&sandbox).await
}

/// The role is led to another schema: no table of Bytebase's is seen, and what they hold is
/// unknown, not nothing.
async fn out_of_sight(sandbox: &Sandbox) -> Result<()> {
    let postgres = &sandbox.harness().postgres;
    let name = &sandbox.database().name;
    let before = support::lives(sandbox).await?;
    for statement in [
        format!("CREATE SCHEMA elsewhere AUTHORIZATION {name}"),
        // Replicas and operator keep the sessions that they have.
        format!("ALTER ROLE {name} SET search_path = elsewhere"),
    ] {
        postgres.execute_in(name, &statement).await?;
    }
    sandbox
        .wait_condition(NAME, "DatabaseReady", "Unknown", "DatabaseSchemaUnknown")
        .await?;
    sandbox
        .wait_condition(NAME, "HALicensed", "Unknown", "")
        .await?;
    untouched(sandbox, &before).await?;
    let back = format!("ALTER ROLE {name} RESET search_path");
    postgres.execute_in(name, &back).await?;
    // A replica may have opened one meanwhile. The operator is to see by itself what has changed.
    let end = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid() AND application_name <> 'bytebase-operator'"
    );
    postgres.execute_in(name, &end).await?;
    support::well(sandbox).await?;
    untouched(sandbox, &before).await
}

/// Every replica runs on as it did.
async fn untouched(sandbox: &Sandbox, before: &Lives) -> Result<()> {
    let lives = || support::lives(sandbox);
    wait::throughout("the replicas", support::PAUSE, lives, |now| now == before).await
}

/// Another Bytebase on the same database, which belongs to no `BytebaseCluster`.
async fn foreign_bytebase(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 1).await?;
    let image = &sandbox.harness().bytebase;
    let environment = json!([
        {"name": "PG_URL", "valueFrom": {"secretKeyRef": {"name": DATABASE_SECRET, "key": "PG_URL"}}},
        {"name": "PGAPPNAME", "value": "foreign"},
    ]);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "foreign"},
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
    support::says(
        &reported,
        &["1 replica that does not belong to this cluster"],
    )?;
    support::wait_warning(&sandbox, "ForeignReplica").await?;
    // The cluster's own replica is not blamed for it.
    let status = sandbox.status(NAME).await?;
    ensure!(
        status["activeReplicas"] == 1 && status["replicaStatuses"][0]["heartbeat"] == "Fresh",
        "{status}"
    );
    // Only Bytebase can sign a license that the real one takes.
    let is_licensed = sandbox.harness().bytebase.stand_in;
    if is_licensed {
        held_to_one(&sandbox).await?;
    }
    sandbox
        .kubectl(&["delete", "pod", "foreign", "--grace-period=5"])
        .await?;
    if is_licensed {
        support::wait_pods(&sandbox, 3).await?;
        sandbox
            .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
            .await?;
    }
    sandbox
        .wait_condition(NAME, "ReplicasHealthy", "True", "AllReplicasHealthy")
        .await?;
    Ok(())
}

/// Beside a foreign replica a cluster that wants three keeps its one, also while the database is
/// cut off and after that.
async fn held_to_one(sandbox: &Sandbox) -> Result<()> {
    support::patch_spec(sandbox, json!({"replicas": 3})).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "HeldBackByDatabase")
        .await?;
    let sample = || async {
        let healthy = support::condition_now(sandbox, "ReplicasHealthy").await?;
        Ok((support::pods(sandbox).await?.len(), healthy))
    };
    let one = |(pods, _): &(usize, Value)| {
        ensure!(*pods == 1, "{pods} pods beside a foreign replica");
        Ok(())
    };
    let unread = |(_, healthy): &(usize, Value)| healthy["reason"] == "HeartbeatsUnknown";
    let foreign = |(_, healthy): &(usize, Value)| healthy["reason"] == "ForeignReplica";
    let shown = || support::metric(sandbox, "bytebase_cluster_replicas_foreign");
    let is_one = |shown: &Option<f64>| *shown == Some(1.0);
    wait::until(
        "one foreign replica in the metrics",
        PATIENCE,
        shown,
        is_one,
    )
    .await?;
    support::cut_off(sandbox).await?;
    wait::until_while("unread heartbeats", PATIENCE, sample, one, unread).await?;
    let shown = shown().await?;
    ensure!(
        shown.is_none(),
        "the metrics count {shown:?} foreign replicas that cannot be read"
    );
    let postgres = &sandbox.harness().postgres;
    postgres.allow_connections(sandbox.database(), true).await?;
    wait::until_while("a foreign replica again", PATIENCE, sample, one, foreign).await?;
    let pods = || support::pods(sandbox);
    wait::throughout("one pod", support::PAUSE, pods, |pods| pods.len() == 1).await
}

// === Words ===
