//! Many clusters: how long, how much memory, and how quiet.

use super::bare::{self, Extent, Template};
use super::fleet::Fleet;
use super::metrics::Requests;
use super::process::{Operator, Progress};
use super::table::Table;
use super::{Arguments, say, seconds};
use crate::session::harness::Harness;
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::time::sleep;

/// Long enough for what has begun to end: the queue's 250 ms, status, a reading.
const SETTLING: Duration = Duration::from_secs(15);
/// Edits whose latency is compared.
const EDITS: usize = 20;
/// Hand-overs of which the slowest counts.
const HAND_OVERS: u16 = 10;
/// In which the requests of a storm are counted.
const LAST_MINUTE: Duration = Duration::from_mins(1);
/// Between two questions for how many clusters have a status.
const STATUS_LOOK: Duration = Duration::from_millis(500);
/// Between two for how many reconciles have ended, while the metrics still show nothing of any
/// cluster.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// Times that each bare loop is run, and the operator beside it: seconds vary by a fifth from one
/// to the next.
const ROUNDS: usize = 3;
/// Longest that a restarted operator may take.
const PATIENCE: Duration = Duration::from_mins(5);

/// All of it.
pub async fn measure(harness: &Harness, arguments: &Arguments, table: &mut Table) -> Result<()> {
    let idle = idle(harness, table).await?;
    leadership(harness, table).await?;
    // Before the API server has to carry what growth leaves behind.
    with_databases(harness, arguments, table).await?;
    storm(harness, arguments, table).await?;
    growth(harness, arguments, idle, table).await
}

async fn idle(harness: &Harness, table: &mut Table) -> Result<f64> {
    say("an operator with nothing to do");
    Fleet::prepare(harness, "idle", 0, false).await?;
    let operator = Operator::start(harness, "idle", "idle").await?;
    sleep(SETTLING).await;
    let memory = operator.memory()?;
    table.row("memory, idle", memory.to_string(), "≤ 12 MB");
    operator.end(Signal::TERM).await?;
    Ok(memory.resident)
}

/// Without databases, so that only the operator and the API server grow.
async fn growth(
    harness: &Harness,
    arguments: &Arguments,
    idle: f64,
    table: &mut Table,
) -> Result<()> {
    let mut first: Option<(f64, f64)> = None;
    for &size in &arguments.growth {
        say(&format!("{size} clusters without database connections"));
        let namespace = format!("growth-{size}");
        let fleet = Fleet::prepare(harness, &namespace, size, false).await?;
        let operator = Operator::start(harness, &namespace, &namespace).await?;
        let took = fleet.apply().await?;
        sleep(SETTLING).await;
        let memory = operator.memory()?;
        let each = (
            took.as_secs_f64() * 1000.0 / count(size),
            (memory.resident - idle) * 1024.0 / count(size),
        );
        let (time, space) = first.get_or_insert(each);
        table.row(
            &format!("{size} clusters, no database connections: time; memory"),
            format!(
                "{:.1} ms each (× {:.2}); {memory}, {:.0} KB each (× {:.2})",
                each.0,
                each.0 / *time,
                each.1,
                each.1 / *space
            ),
            if size == 1000 {
                "× ≤ 1.2; ≤ 50 MB"
            } else {
                "× ≤ 1.2"
            },
        );
        operator.end(Signal::TERM).await?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand")]
fn count(size: usize) -> f64 {
    size as f64
}

/// Two operators: how long until the other one acts.
async fn leadership(harness: &Harness, table: &mut Table) -> Result<()> {
    say("a leader that is killed, and one that is asked to end");
    let fleet = Fleet::prepare(harness, "leaders", 3, false).await?;
    let first = Operator::start(harness, "leaders", "leader-1").await?;
    fleet.apply().await?;
    let second = Operator::start(harness, "leaders", "leader-2").await?;
    sleep(SETTLING).await;
    first.signal(Signal::KILL)?;
    let took = fleet.edit(0, 8001).await?;
    table.row("leader killed → standby acts", seconds(took), "≤ 17 s");
    first.end(Signal::KILL).await.ok();
    let mut leader = second;
    let mut times = Vec::new();
    for port in 8002..8002 + HAND_OVERS {
        let standby = Operator::start(harness, "leaders", &format!("leader-{port}")).await?;
        sleep(SETTLING).await;
        leader.signal(Signal::TERM)?;
        times.push(fleet.edit(0, port).await?);
        leader.end(Signal::TERM).await.ok();
        leader = standby;
    }
    let worst = times.iter().max().copied().unwrap_or_default();
    table.row(
        &format!("leader asked to end → standby acts: median; worst of {HAND_OVERS}"),
        format!("{}; {}", seconds(median(times)?), seconds(worst)),
        "–; ≤ 0.5 s",
    );
    leader.end(Signal::TERM).await
}

/// Clusters with replicas of which no pod can be made: the controller that makes them is parked,
/// and what it would report of a quota that is used up is written in its place. What joins them
/// wants replicas as well, and is compared with the same among clusters at rest.
async fn storm(harness: &Harness, arguments: &Arguments, table: &mut Table) -> Result<()> {
    let size = arguments.clusters;
    say(&format!("{size} clusters that want no replica"));
    let calm = Fleet::prepare(harness, "calm", size, false).await?;
    let operator = Operator::start(harness, "calm", "calm").await?;
    calm.apply().await?;
    sleep(SETTLING * 2).await;
    let usual = joins(&calm.wanting(3)).await?;
    operator.end(Signal::TERM).await?;

    say(&format!("{size} clusters whose pods cannot be made"));
    let fleet = Fleet::prepare(harness, "storm", size, false).await?;
    let fleet = fleet.wanting(3);
    let operator = Operator::start(harness, "storm", "storm").await?;
    fleet.apply().await?;
    fleet.refuse_pods().await?;
    // Past the moment at which each of them is late.
    sleep(Duration::from_secs(arguments.quiet).saturating_sub(LAST_MINUTE)).await;
    let before = Requests::read(harness).await?;
    sleep(LAST_MINUTE).await;
    let requests = Requests::read(harness).await?.since(&before);
    let sum: f64 = requests.values().sum();
    table.row(
        &format!(
            "{size} clusters whose pods cannot be made: requests a second, after {} s",
            arguments.quiet
        ),
        format!(
            "{:.1} ({})",
            sum / LAST_MINUTE.as_secs_f64(),
            shown(&requests)
        ),
        "≤ 2",
    );
    table.row(
        "objects of a new cluster among them, ÷ the same among as many that want no replica",
        ratio(joins(&fleet).await?, usual),
        "≤ 1.1",
    );
    operator.end(Signal::TERM).await
}

/// How long one more cluster takes to get its objects.
async fn joins(fleet: &Fleet<'_>) -> Result<Duration> {
    let mut times = Vec::new();
    for index in fleet.size..fleet.size + EDITS {
        times.push(fleet.join(index).await?);
    }
    median(times)
}

async fn with_databases(harness: &Harness, arguments: &Arguments, table: &mut Table) -> Result<()> {
    let size = arguments.clusters;
    say(&format!("{size} databases on one PostgreSQL"));
    let sessions = size + 300;
    harness
        .postgres
        .execute_in(
            "postgres",
            &format!("ALTER SYSTEM SET max_connections = {sessions}"),
        )
        .await?;
    harness.postgres.stop().await?;
    harness.postgres.start().await?;
    let fleet = Fleet::prepare(harness, "fleet", size, true).await?;
    let loops = bare_loops(harness, &fleet, table).await?;
    let operator = apply(&fleet, loops, table).await?;
    table.row(
        &format!("memory, {size} clusters that want no replica, each with a database"),
        memory(&operator)?,
        "–",
    );
    quiet(harness, &operator, arguments, table).await?;
    operator.end(Signal::TERM).await?;
    let operator = restart(harness, size, table).await?;
    black_hole(harness, &fleet, table).await?;
    kept_sessions(fleet, &operator, table).await?;
    operator.end(Signal::TERM).await
}

/// The same clusters, each of which wants a replica now: only then does the session stay open from
/// one reading to the next. No controller makes the replicas, so readings follow one another as
/// they do in a rollout of all clusters at once.
async fn kept_sessions(fleet: Fleet<'_>, operator: &Operator, table: &mut Table) -> Result<()> {
    let size = fleet.size;
    say(&format!("{size} clusters that keep their sessions"));
    let fleet = fleet.wanting(1);
    fleet.apply().await?;
    let start = Instant::now();
    let mut open = fleet.open_sessions().await?;
    while open < count(size) && start.elapsed() < PATIENCE {
        sleep(STATUS_LOOK).await;
        open = fleet.open_sessions().await?;
    }
    table.row(
        &format!("memory, {size} database connections"),
        format!("{} with {open:.0} of them open", memory(operator)?),
        "≤ 100 MB",
    );
    Ok(())
}

fn memory(operator: &Operator) -> Result<String> {
    let (now, most) = (operator.memory()?, operator.peak_memory()?);
    Ok(format!("{now}, at most {most:.1} MB"))
}

/// Waits until so many clusters have a status.
async fn wait_until_settled(operator: &Operator, clusters: usize) -> Result<()> {
    let start = Instant::now();
    // Of many clusters the metrics are many lines: reading them often would be what is measured.
    while operator.progress().await?.shown < count(clusters) {
        ensure!(start.elapsed() < PATIENCE, "a status took too long");
        sleep(STATUS_LOOK).await;
    }
    Ok(())
}

/// How long bare loops take to write what the operator is going to write, while no operator works.
async fn bare_loops(
    harness: &Harness,
    fleet: &Fleet<'_>,
    table: &mut Table,
) -> Result<[Duration; 2]> {
    let origin = Fleet::prepare(harness, "origin", 1, true).await?;
    harness.postgres.log_statements(origin.database()?).await?;
    let operator = Operator::start(harness, "origin", "origin").await?;
    origin.apply().await?;
    // Its objects are there before its database has been read, and so before its status and event.
    wait_until_settled(&operator, 1).await?;
    // What else a new cluster makes the operator do, and less than until the reading after the
    // first.
    sleep(SETTLING).await;
    table.row(
        "a new cluster: logins to its database; reconciles",
        format!(
            "{:.0}; {:.0}",
            origin.logins().await?,
            operator.progress().await?.reconciles
        ),
        "1; –",
    );
    operator.end(Signal::TERM).await?;
    let template = Template::of(&origin).await?;
    say(
        "the objects of as many clusters by bare loops, with and without the clusters themselves, a reading of each database, status and events",
    );
    let (mut bare, mut least) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let measure = async |name, extent| {
            bare::measure(fleet, &template, &format!("{name}-{round}"), extent).await
        };
        bare.push(measure("bare", Extent::Children).await?);
        least.push(measure("least", Extent::Everything).await?);
    }
    Ok([median(bare)?, median(least)?])
}

/// What came of the clusters of a fleet once they were applied.
struct Arrival {
    /// Until all had their objects.
    objects: Duration,
    /// Until all had a status as well.
    reported: Duration,
    /// Processor time that the operator had used by then, in seconds.
    used: f64,
    /// What the API server had served when all was at rest.
    requests: BTreeMap<String, f64>,
    /// Reconciles until then.
    reconciles: f64,
}

/// Starts an operator, applies the clusters, and leaves the operator at rest.
async fn arrive(fleet: &Fleet<'_>, round: usize) -> Result<(Operator, Arrival)> {
    let (harness, size) = (fleet.harness, fleet.size);
    let operator = Operator::start(harness, &fleet.namespace, &format!("fleet-{round}")).await?;
    say(&format!("{size} clusters applied"));
    let before = Requests::read(harness).await?;
    let start = Instant::now();
    let objects = fleet.apply().await?;
    wait_until_settled(&operator, size).await?;
    let reported = start.elapsed();
    let used = operator.processor_time()?;
    sleep(SETTLING * 2).await;
    let arrival = Arrival {
        objects,
        reported,
        used,
        requests: Requests::read(harness).await?.since(&before),
        reconciles: operator.progress().await?.reconciles,
    };
    Ok((operator, arrival))
}

/// Applies the clusters as often as the loops were run, compares, and leaves the last operator at
/// rest. Times are medians; what is counted is that of the last time.
async fn apply(
    fleet: &Fleet<'_>,
    [bare, least]: [Duration; 2],
    table: &mut Table,
) -> Result<Operator> {
    let size = fleet.size;
    let (mut operator, mut arrival) = arrive(fleet, 0).await?;
    let (mut objects, mut reported) = (vec![arrival.objects], vec![arrival.reported]);
    for round in 1..ROUNDS {
        operator.end(Signal::TERM).await?;
        fleet.clear(&fleet.namespace).await?;
        (operator, arrival) = arrive(fleet, round).await?;
        objects.push(arrival.objects);
        reported.push(arrival.reported);
    }
    let Arrival {
        used,
        requests,
        reconciles,
        ..
    } = arrival;
    table.row(
        &format!(
            "{size} clusters applied → all have their objects and a status, ÷ a loop that writes just that"
        ),
        format!(
            "{} ({used:.1} s of processor time)",
            ratio(median(reported)?, least)
        ),
        "≤ 1.2",
    );
    table.row(
        "… → all objects exist, ÷ a loop that writes these alone",
        ratio(median(objects)?, bare),
        "–",
    );
    table.row(
        "reconciles for each of them",
        format!("{:.2}", reconciles / count(size)),
        "–",
    );
    let secrets = requests.get("GET secrets").copied().unwrap_or_default();
    table.row(
        "reads of Secrets for each of them",
        format!("{:.2}", secrets / count(size)),
        "1",
    );
    // The clusters are written by whoever wants them, and listings count what has come.
    let each: Vec<_> = requests
        .iter()
        .filter(|(what, _)| *what != "APPLY bytebaseclusters" && !what.starts_with("LIST"))
        .map(|(what, requests)| format!("{:.1} {what}", requests / count(size)))
        .collect();
    table.row(
        "the operator's requests for each of them",
        each.join(", "),
        "–",
    );
    Ok(operator)
}

async fn quiet(
    harness: &Harness,
    operator: &Operator,
    arguments: &Arguments,
    table: &mut Table,
) -> Result<()> {
    say(&format!("{} s of quiet", arguments.quiet));
    let before = Requests::read(harness).await?;
    let (written, used) = (operator.writes().await?, operator.processor_time()?);
    sleep(Duration::from_secs(arguments.quiet)).await;
    let requests = Requests::read(harness).await?.since(&before);
    let written = operator.writes().await? - written;
    let used = operator.processor_time()? - used;
    let each = used * 1_000_000.0
        / count(arguments.clusters)
        / Duration::from_secs(arguments.quiet).as_secs_f64();
    table.row(
        &format!("{} quiet seconds: writes; other requests", arguments.quiet),
        format!("{written:.0}; {}", shown(&requests)),
        "0; none but for kinds that are not installed",
    );
    table.row(
        "processor time while quiet",
        format!("{each:.0} µs per cluster and second ({used:.1} s in all)"),
        "–",
    );
    Ok(())
}

fn shown(requests: &BTreeMap<String, f64>) -> String {
    if requests.is_empty() {
        return "none".to_owned();
    }
    let list: Vec<_> = requests
        .iter()
        .map(|(what, count)| format!("{count:.0} {what}"))
        .collect();
    list.join(", ")
}

async fn restart(harness: &Harness, size: usize, table: &mut Table) -> Result<Operator> {
    say("a restart");
    let start = Instant::now();
    let operator = Operator::start(harness, "fleet", "fleet-again").await?;
    let full = start.elapsed();
    let reaches = async |pause, is_reached: fn(&Progress, f64) -> bool| {
        while !is_reached(&operator.progress().await?, count(size)) {
            ensure!(start.elapsed() < PATIENCE, "a restart took too long");
            sleep(pause).await;
        }
        anyhow::Ok(start.elapsed().saturating_sub(full))
    };
    // A reconcile that is not its cluster's first follows a reading, as nothing else happens.
    let reconciled = reaches(FIRST_LOOK, |progress, clusters| {
        progress.reconciles - progress.readings >= clusters || progress.shown >= clusters
    });
    let reconciled = reconciled.await?;
    let read = reaches(STATUS_LOOK, |progress, clusters| {
        progress.good_readings >= clusters && progress.shown >= clusters
    });
    let read = read.await?;
    sleep(SETTLING * 2).await;
    table.row(
        "restart: caches full; then all reconciled; all reconciled with a reading of their database; writes",
        format!(
            "{}; {}; {}; {:.0}",
            seconds(full),
            seconds(reconciled),
            seconds(read),
            operator.writes().await?
        ),
        "–; ≤ 5 s; –; 0",
    );
    Ok(operator)
}

/// The latency of others with and without a database that swallows everything.
async fn black_hole(harness: &Harness, fleet: &Fleet<'_>, table: &mut Table) -> Result<()> {
    say("a black hole among the databases");
    let before = edits(fleet, 9001).await?;
    let address = harness.postgres.address();
    let host = address
        .rsplit_once(':')
        .map_or(address.as_str(), |(host, _)| host);
    let silent = TcpListener::bind((host, 0)).await?;
    fleet
        .add_black_hole(&silent.local_addr()?.to_string())
        .await?;
    sleep(SETTLING).await;
    let during = edits(fleet, 9002).await?;
    table.row(
        "edit → effect on another cluster, one database black-holed ÷ none",
        ratio(during, before),
        "1.0",
    );
    Ok(())
}

async fn edits(fleet: &Fleet<'_>, port: u16) -> Result<Duration> {
    let mut times = Vec::new();
    for index in 0..EDITS.min(fleet.size) {
        times.push(fleet.edit(index, port).await?);
    }
    median(times)
}

fn ratio(a: Duration, b: Duration) -> String {
    let ratio = a.as_secs_f64() / b.as_secs_f64();
    format!("{} ÷ {} = {ratio:.2}", seconds(a), seconds(b))
}

fn median(mut times: Vec<Duration>) -> Result<Duration> {
    times.sort();
    times
        .get(times.len() / 2)
        .copied()
        .context("nothing to compare")
}
