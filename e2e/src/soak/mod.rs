//! `make soak`: faults and user actions at random from a seed, on several clusters at once, while
//! an observer that shares no code with the operator keeps the books. After each round every
//! cluster must come back to what its spec and license demand.

pub(crate) mod act;
mod books;
pub(crate) mod disturbances;
pub(crate) mod load;
pub(crate) mod observer;
pub(crate) mod plan;

use crate::postgres::Database;
use crate::scenario::collect;
use crate::scenario::leaks;
use crate::scenario::sandbox::{OperatorOptions, Sandbox};
use crate::session::harness::Session;
use crate::session::state::Purpose;
use act::Stage;
use anyhow::{Result, bail};
use load::Load;
use observer::Observer;
use plan::{Model, Round};
use rand::SeedableRng;
use rand::rngs::StdRng;
use sqlx::PgPool;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Replicas fail the tasks of one that has been gone for a minute, and check for them each minute.
const FAILS_AFTER: Duration = Duration::from_secs(135);

/// A cluster that is given tasks and is observed.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub name: String,
    /// Its metadata database.
    pub pool: PgPool,
    /// The database that its users' migrations are for.
    pub target: Database,
    /// `holdLimitSeconds` of the cluster.
    pub hold_limit: Duration,
}

impl Subject {
    /// Makes the users' database.
    pub async fn new(
        sandbox: &Sandbox,
        name: String,
        metadata: &Database,
        pool: PgPool,
    ) -> Result<Self> {
        let target = format!("{}_target", metadata.name);
        let target = sandbox.harness().postgres.create_database(&target).await?;
        sandbox.plant_random("password of the users' database", &target.password);
        Ok(Self {
            name,
            pool,
            target,
            hold_limit: Duration::from_secs(load::HOLD_LIMIT.into()),
        })
    }
}

/// How long, how many, and which.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Rounds begin until so many minutes are over
    #[arg(long, env = "MINUTES", default_value_t = 10)]
    pub minutes: u64,
    /// Clusters at a time
    #[arg(long, env = "CLUSTERS", default_value_t = 3)]
    pub clusters: usize,
    /// Tasks that each cluster is given, per minute: three clusters get one a second in all
    #[arg(long, env = "TASKS", default_value_t = 20)]
    pub tasks: u32,
    /// Seed of an earlier run, to have the same rounds again
    #[arg(long, env = "SEED")]
    pub seed: Option<u64>,
}

/// Makes a cluster of its own, shakes it, and takes it down. An error if any book is not clean.
pub async fn run(arguments: &Arguments) -> Result<()> {
    let seed = arguments.seed.unwrap_or_else(rand::random);
    println!("soak: SEED={seed}");
    let session = Session::begin(Purpose::Soak, false).await?;
    let result = async {
        let harness = session.up().await?;
        harness.load_product().await?;
        let sandbox = Sandbox::create(harness, "soak").await?;
        let result = shake(&sandbox, arguments, seed).await;
        if let Err(error) = &result {
            println!("soak: {error:#}");
            println!("{}", collect::after_failure(&sandbox).await);
            println!("soak: more in {}", sandbox.folder().display());
        }
        result
    }
    .await;
    session.end().await?;
    result
}

async fn shake(sandbox: &Sandbox, arguments: &Arguments, seed: u64) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut models = vec![Model::default(); arguments.clusters];
    let options = OperatorOptions {
        replicas: 2,
        ..OperatorOptions::default()
    };
    sandbox.install_operator(&options).await?;
    let mut stage = Stage::set(sandbox, &models).await?;
    stage.wait_settled(&models).await?;
    let foreign = stage.plant_foreign().await?;
    let observer = Observer::start(
        sandbox.api(),
        stage.subjects.clone(),
        stage.disturbances.clone(),
    );
    let load = Load::start(stage.subjects.clone(), arguments.tasks, seed);
    let start = Instant::now();
    let mut rounds = 0;
    let mut shaken = Ok(());
    while start.elapsed() < Duration::from_secs(arguments.minutes * 60) {
        let round = Round::draw(&mut rng, &models);
        rounds += 1;
        println!(
            "soak: {:>4} s  round {rounds}: {round}",
            start.elapsed().as_secs()
        );
        round.apply(&mut models);
        shaken = stage.carry_out(&round, &models).await;
        if shaken.is_err() {
            break;
        }
    }
    let given = load.end().await?;
    // The tasks of a replica that is gone fail a minute later.
    sleep(FAILS_AFTER).await;
    let mut books = observer.end()?;
    books.foreign_touched = stage.touched(&foreign).await?;
    let places = collect::public_places(sandbox).await?;
    books.secrets = leaks::find(&sandbox.planted(), &places);
    let tasks: u64 = given.iter().map(|tally| tally.given).sum();
    println!(
        "soak: {rounds} rounds and {tasks} tasks in {} s, SEED={seed}",
        start.elapsed().as_secs()
    );
    for tally in &given {
        println!("soak: {tally}");
    }
    println!("{books}");
    shaken?;
    if arguments.tasks > 0 {
        load::all_took_some(&given)?;
    }
    if !books.clean() {
        bail!("the books are not clean: SEED={seed} replays it");
    }
    Ok(())
}
