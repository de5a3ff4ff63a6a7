//! The demo: a cluster of its own with PostgreSQL beside it, the operator from its chart, and three
//! replicas, left running for a person to try.

mod objects;
mod watch;

use crate::postgres::Database;
use crate::scenario::collect;
use crate::session::harness::{Harness, Session, step};
use crate::session::state::Purpose;
use crate::times;
use anyhow::{Context, Result};
use kube::api::DynamicObject;
use objects::{ADMIN_EMAIL, Applied, NAME, NAMESPACE, OPERATOR_NAMESPACE, PORT, RELEASE};
use sqlx::{Connection, PgConnection};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};
use watch::{Goal, follow, say};

/// Three stand-ins take well under a minute. The real image migrates a schema first.
const STAND_IN_PATIENCE: Duration = Duration::from_mins(4);
const REAL_PATIENCE: Duration = Duration::from_mins(12);

/// Brings the demo up and leaves it running.
pub async fn up() -> Result<()> {
    let start = Instant::now();
    let session = Session::begin(Purpose::Demo, true).await?;
    let harness = session.up().await?;
    objects::check_kind_of_demo(&harness).await?;
    println!("{}", introduction(&harness));
    let shown = show(&harness, start).await;
    if shown.is_err() {
        println!("\n{}\n\n{}\n", times::table(), digest(&harness).await);
        println!(
            "Everything is left as it is: see more, run `make demo` again, or take it down with `make demo-down`.\n{}",
            indent(&environment(&harness))
        );
    }
    // The lock is let go in either case.
    let left = session.leave().await;
    shown.and(left)
}

/// Takes the demo down.
pub async fn down() -> Result<()> {
    Session::begin(Purpose::Demo, true).await?.end().await?;
    println!("the demo is down");
    Ok(())
}

/// How a person gets at a cluster.
pub fn hints(harness: &Harness) -> String {
    let mut lines = vec![format!(
        "export KUBECONFIG={}",
        harness.state.kubeconfig().display()
    )];
    if let Some(host) = harness.engine.host() {
        lines.push(format!("export DOCKER_HOST={host}"));
    }
    lines.join("\n")
}

/// What is going to run, and why it is that.
fn introduction(harness: &Harness) -> String {
    let image = harness.bytebase.name();
    let licensed = objects::own_license().is_some();
    let text = match (harness.bytebase.stand_in, licensed) {
        (true, ignored) => format!(
            "What runs here is not Bytebase but a stand-in that behaves like it towards Kubernetes and PostgreSQL.\n\
             More than one replica needs a license that includes HA, and such a license cannot be shipped: the\n\
             stand-in accepts one that the demo signs with a key of its own.\n\
             The real one: BYTEBASE_IMAGE=bytebase/bytebase:{} BYTEBASE_LICENSE=… make demo{}",
            harness.bytebase.tag,
            if ignored {
                "\n(BYTEBASE_LICENSE is set and not used: it says nothing to the stand-in.)"
            } else {
                ""
            }
        ),
        (false, true) => format!(
            "This runs {image} with your license. Only Bytebase has the key its signature could be checked with,\n\
             so the operator reports it as unverified; Bytebase itself checks it."
        ),
        (false, false) => format!(
            "This runs {image} without a license: one replica will run, and the condition HALicensed will say why.\n\
             With one that includes HA, three: BYTEBASE_LICENSE=… make demo"
        ),
    };
    format!("\n{text}\n")
}

async fn show(harness: &Harness, start: Instant) -> Result<()> {
    let build = harness.load_images().await?;
    let install = objects::install_operator(harness, &build);
    step("operator, by its Helm chart", install).await?;
    let applied = step("BytebaseCluster and its Secrets", objects::apply(harness)).await?;
    println!(
        "\nWhat happens to bytebasecluster/{NAME} in namespace {NAMESPACE}, change by change:\n"
    );
    let patience = if harness.bytebase.stand_in {
        STAND_IN_PATIENCE
    } else {
        REAL_PATIENCE
    };
    let clusters = objects::clusters(harness);
    let cluster = follow(&clusters, NAME, applied.goal, start, patience)
        .await
        .context("the demo did not come up")?;
    match applied.goal {
        Goal::Serving(count) => say(
            start,
            &format!("done: {count} replicas are Ready and send heartbeats"),
        ),
        Goal::Limited => {
            let why = watch::license_message(&cluster.data["status"]);
            say(
                start,
                &format!("done: one replica is Ready and sends heartbeats. Why not more: {why}"),
            );
        }
    }
    // Above what is to be read at leisure, and what is to be copied.
    println!("\n{}", times::table());
    println!("\n{}", summary(harness, &cluster, &applied.database).await?);
    println!("{}", closing(harness, &applied));
    Ok(())
}

/// What `kubectl` shows, and what the database says of the heartbeats.
async fn summary(
    harness: &Harness,
    cluster: &DynamicObject,
    database: &Database,
) -> Result<String> {
    let mut text = String::new();
    for kinds in [
        "bytebaseclusters",
        "statefulsets,pods,services,poddisruptionbudgets",
    ] {
        let get = ["--namespace", NAMESPACE, "get", kinds];
        let printed = harness.kubectl.run(&get).await?;
        let _ = writeln!(
            text,
            "$ kubectl {}\n{}\n",
            get.join(" "),
            printed.trim_end()
        );
    }
    let ages = heartbeats(database).await?;
    let _ = writeln!(
        text,
        "Replicas, by status.replicaStatuses, and their heartbeats, by the clock of the database:"
    );
    for replica in watch::replicas(cluster, &ages) {
        let _ = writeln!(text, "  {replica}");
    }
    Ok(text)
}

/// Seconds since each replica's last heartbeat, by its id.
async fn heartbeats(database: &Database) -> Result<BTreeMap<String, f64>> {
    let mut connection = PgConnection::connect(&database.local_url()).await?;
    let rows: Vec<(String, f64)> = sqlx::query_as(
        "SELECT replica_id::text, extract(epoch FROM now() - last_heartbeat)::float8 FROM replica_heartbeat",
    )
    .fetch_all(&mut connection)
    .await?;
    connection.close().await?;
    Ok(rows.into_iter().collect())
}

fn closing(harness: &Harness, applied: &Applied) -> String {
    let postgres = harness.postgres.address();
    let password = &applied.admin_password;
    let key = if harness.bytebase.stand_in {
        ", with the key the demo's license is signed with"
    } else {
        ""
    };
    let reach = if harness.bytebase.stand_in {
        format!(
            "then, from another terminal (the stand-in has Bytebase's API and no pages):\n    \
             curl http://localhost:{PORT}/healthz\n    \
             curl --header 'Content-Type: application/json' http://localhost:{PORT}/v1/auth/login \\\n      \
             --data '{{\"email\": \"{ADMIN_EMAIL}\", \"password\": \"{password}\"}}'"
        )
    } else {
        format!("then open http://localhost:{PORT} and log in.")
    };
    let license = match applied.goal {
        Goal::Serving(_) => ", bytebase-license",
        Goal::Limited => "",
    };
    format!(
        "\
What was made
  namespace {OPERATOR_NAMESPACE}: the operator, two pods of which one leads (Helm release {RELEASE}{key})
  namespace {NAMESPACE}: BytebaseCluster {NAME} and what the operator made of it;
    Secrets bytebase-database (PG_URL), bytebase-admin{license}
  beside the cluster: PostgreSQL at {postgres}, database {NAME}

The admin, whom the operator signed up first
  email     {ADMIN_EMAIL}
  password  {password}

Set this once in your shell
{environment}

Reach it
  kubectl --namespace {NAMESPACE} port-forward service/{NAME} {PORT}:80
  {reach}

See more
  kubectl --namespace {NAMESPACE} describe bytebasecluster {NAME}
  kubectl --namespace {OPERATOR_NAMESPACE} logs --selector app.kubernetes.io/name=bytebase-operator --tail 20

Try something, and watch it with `kubectl --namespace {NAMESPACE} get bytebaseclusters --watch`
  kubectl --namespace {NAMESPACE} delete pod {NAME}-0
  kubectl --namespace {NAMESPACE} scale bytebasecluster {NAME} --replicas 2
  kubectl --namespace {NAMESPACE} delete service {NAME}

It stays up until `make demo-down`.",
        environment = indent(&environment(harness)),
    )
}

/// What makes the commands above work in a person's shell.
fn environment(harness: &Harness) -> String {
    format!(
        "{}\nexport PATH={}:$PATH",
        hints(harness),
        harness.kubectl.folder().display()
    )
}

fn indent(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(|line| format!("  {line}")).collect();
    lines.join("\n")
}

/// What helps when the demo did not come up. What cannot be had is said in its place.
async fn digest(harness: &Harness) -> String {
    let conditions = async {
        let cluster = objects::clusters(harness).get(NAME).await?;
        let status = &cluster.data["status"];
        let list = status["conditions"].as_array().into_iter().flatten();
        let lines: Vec<_> = list.map(collect::one_line).collect();
        Ok(format!("phase {}\n{}", status["phase"], lines.join("\n")))
    };
    let run = |arguments: &'static [&'static str]| harness.kubectl.run(arguments);
    let parts: [(&str, Result<String>); 5] = [
        ("Conditions", conditions.await),
        (
            "Pods",
            run(&["--namespace", NAMESPACE, "get", "pods", "--output", "wide"]).await,
        ),
        (
            "Warnings",
            run(&["--namespace", NAMESPACE, "events", "--types", "Warning"])
                .await
                .map(|text| crate::machine::command::tail(&text, 10)),
        ),
        (
            "Operator's pods",
            run(&[
                "--namespace",
                OPERATOR_NAMESPACE,
                "get",
                "pods",
                "--output",
                "wide",
            ])
            .await,
        ),
        (
            "Operator's log",
            run(&[
                "--namespace",
                OPERATOR_NAMESPACE,
                "logs",
                "--selector",
                "app.kubernetes.io/name=bytebase-operator",
                "--tail",
                "12",
                "--prefix",
            ])
            .await,
        ),
    ];
    let mut text = String::new();
    for (title, part) in parts {
        let part = part.unwrap_or_else(|error| format!("not to be had: {error:#}"));
        let _ = writeln!(text, "{title}:\n{}", indent(part.trim_end()));
    }
    text.trim_end().to_owned()
}
