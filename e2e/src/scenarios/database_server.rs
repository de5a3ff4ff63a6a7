//! The server behind `PG_URL`: a standby, a pooler, one that moves, stops or never answers.

use super::support::{self, DATABASE_SECRET, NAME};
use crate::postgres::companions::PoolMode;
use crate::scenario::sandbox::Sandbox;
use crate::scenario::{Lane, Scenario, stand_in};
use crate::wait;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use testkit::certificates::Authority;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

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
        "transaction-pooler",
        "PgBouncer in transaction mode holds back the first pod; in session mode the pod starts.",
        |sandbox| Box::pin(transaction_pooler(sandbox)),
    ),
    Scenario::new(
        "database-tls",
        "The CA from a Secret or a ConfigMap; a wrong CA and a wrong name are reported.",
        |sandbox| Box::pin(tls(sandbox)),
    )
    .takes(200),
    Scenario::new(
        "database-stopped",
        "PostgreSQL stopped and back: heartbeats are Unknown meanwhile, and no pod restarts.",
        |sandbox| Box::pin(stopped_and_back(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(90)
    .lane(Lane::Alone),
    Scenario::new(
        "black-hole",
        "Ten clusters whose database servers swallow every packet delay neither an edit nor the start of another.",
        |sandbox| Box::pin(black_hole(sandbox)),
    )
    .stand_in_only(stand_in::TIMES)
    .takes(60),
    Scenario::new(
        "connection-budget",
        "More replicas than the server has connections for are reported, with the numbers.",
        |sandbox| Box::pin(connection_budget(sandbox)),
    )
    .stand_in_only(stand_in::INDEPENDENT),
];

/// Where pods find the CA.
const CA_PATH: &str = "/etc/bytebase/database-ca/ca.crt";

// === What stands behind PG_URL ===

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
    support::start_with(&sandbox, &support::minimal(&sandbox, 1), &only).await?;
    let reported = sandbox
        .wait_condition(NAME, "DatabaseReady", "False", "DatabaseIsStandby")
        .await?;
    support::says(
        &reported,
        &[&standby.to_string(), "target_session_attrs=read-write"],
    )?;
    support::no_pods(&sandbox).await?;

    // As the message says. The standby stands first, so that the choice is made and not met by
    // chance.
    let both = sandbox.database().url_at(
        &format!("{host}:{standby},{host}:{primary}"),
        "sslmode=disable&target_session_attrs=read-write",
    );
    support::set_url(&sandbox, &both).await?;
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
    let url = sandbox.database().url_at("moved:5432", "sslmode=disable");
    lead("moved", &sandbox, standby).await?;
    support::start_with(&sandbox, &support::minimal(&sandbox, 1), &url).await?;
    sandbox
        .wait_condition(NAME, "DatabaseReady", "False", "DatabaseIsStandby")
        .await?;
    support::no_pods(&sandbox).await?;
    lead("moved", &sandbox, sandbox.database().port()).await?;
    support::well(&sandbox).await
}

/// Has a Service lead to this port of the database server.
pub async fn lead(name: &str, sandbox: &Sandbox, port: u16) -> Result<()> {
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
    support::start_with(&sandbox, &support::minimal(&sandbox, 1), transaction).await?;
    let reported = sandbox
        .wait_condition(NAME, "DatabaseReady", "False", "DatabaseTransactionPooler")
        .await?;
    support::says(&reported, &["session mode"])?;
    support::no_pods(&sandbox).await?;
    support::set_url(&sandbox, session).await?;
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

/// Clusters whose servers do not answer: more than the operator has log in at a time.
const LOST: usize = 10;

/// A port to which packets go and from which none come back: Linux drops those that ask for one
/// connection more than a listener has room for.
struct BlackHole {
    address: SocketAddr,
    _full: (TcpListener, Vec<TcpStream>),
}

impl BlackHole {
    async fn open(host: &str) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(host.parse()?, 0))?;
        let listener = socket.listen(1)?;
        let address = listener.local_addr()?;
        let mut waiting = Vec::new();
        let patience = Duration::from_millis(500);
        while let Ok(connected) = timeout(patience, TcpStream::connect(address)).await {
            waiting.push(connected?);
            ensure!(waiting.len() < 10, "the port takes connections");
        }
        Ok(Self {
            address,
            _full: (listener, waiting),
        })
    }
}

/// The databases of ten clusters answer nothing; the others of the same operator do not notice.
async fn black_hole(sandbox: Sandbox) -> Result<()> {
    let database = sandbox.database();
    let alone = Instant::now();
    support::start(&sandbox, &named(&sandbox, "before", DATABASE_SECRET)).await?;
    sandbox
        .wait_condition("before", "Ready", "True", "AllReplicasActive")
        .await?;
    let alone = alone.elapsed();

    let hole = BlackHole::open(database.host()).await?;
    let address = hole.address.to_string();
    let lost: Vec<_> = (0..LOST).map(|index| format!("lost-{index}")).collect();
    let cluster = |name: &String| {
        let mut cluster = named(&sandbox, name, "");
        // Each of its own: of several on one database only the oldest would wait for an answer.
        let url = format!("postgres://bytebase@{address}/{name}?sslmode=disable");
        cluster["spec"]["database"] = json!({"url": url});
        cluster
    };
    let all: Vec<_> = lost.iter().map(cluster).collect();
    let all = json!({"apiVersion": "v1", "kind": "List", "items": all});
    sandbox.apply_yaml(&all.to_string()).await?;
    let edit = support::edit_takes(&sandbox, "before").await?;
    // A login without an answer ends after five seconds.
    ensure!(edit < Duration::from_secs(4), "the edit took {edit:?}");
    for name in &lost {
        let reported = sandbox
            .wait_condition(name, "DatabaseReady", "Unknown", "DatabaseUnreachable")
            .await?;
        support::says(&reported, &[&address])?;
    }

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
    for name in &lost {
        let status = sandbox.status(name).await?;
        ensure!(status["phase"] != "Ready", "{name}: {status}");
    }
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
    support::start_with(&sandbox, &cluster, &verified).await?;
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
    support::set_url(&sandbox, &other("verify-full")).await?;
    let reported = tls_failed(&sandbox).await?;
    support::says(&reported, &[&name, "verify-ca"])?;
    support::set_url(&sandbox, &other("verify-ca")).await?;
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

/// A cluster of one replica under another name, with another Secret, and without the Ingress they
/// would share.
fn named(sandbox: &Sandbox, name: &str, secret: &str) -> Value {
    let mut cluster = support::minimal(sandbox, 1);
    cluster["metadata"]["name"] = json!(name);
    cluster["spec"]["database"]["urlSecretRef"]["name"] = json!(secret);
    cluster["spec"]["ingress"] = json!({"enabled": false});
    cluster
}
