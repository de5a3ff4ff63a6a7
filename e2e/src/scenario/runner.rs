//! Running the scenarios of one cluster, so many at a time, with a line for each.

use crate::postgres::companions;
use crate::scenario::collect;
use crate::scenario::leaks;
use crate::scenario::sandbox::{LABEL, Sandbox};
use crate::scenario::{Lane, Scenario};
use crate::scenarios::all;
use crate::session::harness::Harness;
use crate::times;
use crate::wait;
use anyhow::{Context, Result, anyhow, bail};
use futures::{FutureExt, StreamExt, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::DeleteParams;
use std::fmt;
use std::io::IsTerminal;
use std::iter::Sum;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Removing a release, a namespace and a database takes seconds, unless something hangs.
const CLEANUP_LIMIT: Duration = Duration::from_mins(1);

/// Until the operator's logs are followed again, after the API server was away.
const LOG_PATIENCE: Duration = Duration::from_secs(20);

/// What came of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |sum, tally| Self {
            passed: sum.passed + tally.passed,
            failed: sum.failed + tally.failed,
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// The scenarios of these names; all of them if there is none.
pub fn select(names: &[String]) -> Result<Vec<Scenario>> {
    let all = all();
    let unknown: Vec<_> = names
        .iter()
        .filter(|name| !all.iter().any(|scenario| scenario.name == **name))
        .map(String::as_str)
        .collect();
    if !unknown.is_empty() {
        bail!(
            "no such scenario: {} (`e2e test --list` names them)",
            unknown.join(", ")
        );
    }
    let wanted =
        |scenario: &Scenario| names.is_empty() || names.iter().any(|name| name == scenario.name);
    Ok(all.into_iter().filter(wanted).collect())
}

/// Names and sentences, a line each.
pub fn list() -> String {
    let lines: Vec<_> = all()
        .iter()
        .map(|scenario| {
            let alone = match scenario.lane {
                Lane::Shared => "",
                Lane::ControlPlane | Lane::Alone => " (alone on a cluster)",
            };
            format!("{:<32} {}{alone}", scenario.name, scenario.about)
        })
        .collect();
    lines.join("\n")
}

/// Those that can run, on the stand-in or on the real Bytebase; a line for each that cannot.
pub fn fit(scenarios: Vec<Scenario>, on_stand_in: bool) -> Vec<Scenario> {
    let fits = |scenario: &Scenario| match scenario.stand_in {
        Some(why) if !on_stand_in => {
            println!("SKIP {}: {why}", scenario.name);
            false
        }
        _ => true,
    };
    scenarios.into_iter().filter(fits).collect()
}

/// Runs the scenarios, `jobs` at a time. With `keep` the namespace of a scenario that failed is
/// left for inspection.
pub async fn run(
    harness: &Harness,
    scenarios: &[Scenario],
    jobs: usize,
    keep: bool,
) -> Result<Tally> {
    sweep(harness).await?;
    let mut results = stream::iter(scenarios.iter().copied())
        .map(|scenario| run_and_heal(harness, scenario, keep))
        .buffer_unordered(jobs.max(1));
    let mut tally = Tally::default();
    while let Some(passed) = results.next().await {
        if passed? {
            tally.passed += 1;
        } else {
            tally.failed += 1;
        }
    }
    Ok(tally)
}

/// Runs one scenario. What it broke and did not repair, since it failed, must not fail the next.
async fn run_and_heal(harness: &Harness, scenario: Scenario, keep: bool) -> Result<bool> {
    let passed = run_one(harness, scenario, keep).await;
    if scenario.lane != Lane::Shared && !passed {
        let postgres = harness.postgres.heal().await;
        postgres.context("bringing PostgreSQL back")?;
        let node = harness.cluster.heal().await;
        node.context("bringing the node back")?;
    }
    Ok(passed)
}

/// Runs one scenario, says how it went, and tidies up after it.
async fn run_one(harness: &Harness, scenario: Scenario, keep: bool) -> bool {
    let start = Instant::now();
    let sandbox = match Sandbox::create(harness.clone(), scenario.name).await {
        Ok(sandbox) => sandbox,
        Err(error) => {
            report(
                &scenario,
                start,
                &Err(error.context("making the sandbox")),
                "",
            );
            return false;
        }
    };
    let result = body(&scenario, sandbox.clone()).await;
    // Looked for even after a failure: a leak is worth knowing in any case.
    let leaks = check_leaks(&sandbox).await;
    let result = match (result, leaks) {
        (Err(error), Err(leak)) => Err(error.context(format!("{leak:#}; and"))),
        (Ok(()), leaks) => leaks,
        (result, Ok(())) => result,
    };
    let mut digest = String::new();
    if result.is_err() {
        digest = collect::after_failure(&sandbox).await;
    }
    report(&scenario, start, &result, &digest);
    let Scenario { name, seconds, .. } = scenario;
    times::note(format!("{name} (expected: {seconds} s)"), start.elapsed());
    let passed = result.is_ok();
    if passed || !keep {
        let removed = timeout(CLEANUP_LIMIT, remove(&sandbox, keep)).await;
        let removed =
            removed.unwrap_or_else(|_| Err(anyhow!("took longer than {CLEANUP_LIMIT:?}")));
        if let Err(error) = removed {
            // The whole cluster goes soon; the scenario has had its say.
            println!("note: tidying up after {}: {error:#}", scenario.name);
        }
    }
    passed
}

/// The scenario's own code, bounded in time; a panic is a failure of this scenario only.
async fn body(scenario: &Scenario, sandbox: Sandbox) -> Result<()> {
    let caught = AssertUnwindSafe((scenario.run)(sandbox)).catch_unwind();
    match timeout(scenario.limit, caught).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("of an unknown kind");
            Err(anyhow!("panic: {text}"))
        }
        Err(_) => Err(anyhow!("took longer than {:?}", scenario.limit)),
    }
}

async fn check_leaks(sandbox: &Sandbox) -> Result<()> {
    // Nothing can be found in a log that was lost.
    let problems = || async { Ok(sandbox.operator_log_problems()) };
    let followed = wait::until(
        "all of the operator's logs",
        LOG_PATIENCE,
        problems,
        Vec::is_empty,
    )
    .await;
    let places = collect::public_places(sandbox)
        .await
        .context("collecting the places where secrets must not stand")?;
    let found = leaks::find(&sandbox.planted(), &places);
    if !found.is_empty() {
        bail!("secrets leaked: {}", found.join("; "));
    }
    followed.map(drop)
}

/// Removes what a scenario has made. The operator goes with its namespace, which has all of it, but
/// for its rights in another one that it watches; only a cluster that is kept must not keep
/// anything else.
async fn remove(sandbox: &Sandbox, keep: bool) -> Result<()> {
    let harness = sandbox.harness();
    let (namespace, postgres) = (sandbox.namespace(), &harness.postgres);
    if keep {
        uninstall(harness, namespace, sandbox.release()).await?;
    }
    delete_namespace(harness, namespace).await?;
    postgres.remove_companions(namespace).await?;
    postgres.drop_database(sandbox.database()).await
}

async fn uninstall(harness: &Harness, namespace: &str, release: &str) -> Result<()> {
    let arguments = [
        "uninstall",
        release,
        "--namespace",
        namespace,
        "--ignore-not-found",
    ];
    harness.helm.run(&arguments).await?;
    Ok(())
}

/// Removes what scenarios left on a cluster that was kept.
async fn sweep(harness: &Harness) -> Result<()> {
    let printed = harness
        .kubectl
        .run(&["get", "namespaces", "--selector", LABEL, "-o", "name"])
        .await?;
    for name in printed.lines() {
        let namespace = name.trim_start_matches("namespace/");
        uninstall(harness, namespace, namespace).await?;
        delete_namespace(harness, namespace).await?;
    }
    companions::remove(&harness.state, |_| true).await
}

async fn delete_namespace(harness: &Harness, namespace: &str) -> Result<()> {
    let namespaces = Api::<Namespace>::all(harness.client.clone());
    match namespaces.delete(namespace, &DeleteParams::default()).await {
        // It is gone already.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        deleted => deleted.map(|_| ()).context("deleting the namespace"),
    }
}

fn report(scenario: &Scenario, start: Instant, result: &Result<()>, digest: &str) {
    let (word, colour) = if result.is_ok() {
        ("PASS", "32")
    } else {
        ("FAIL", "31")
    };
    let word = if std::io::stdout().is_terminal() {
        format!("\x1b[{colour}m{word}\x1b[0m")
    } else {
        word.to_owned()
    };
    let mut text = format!(
        "{word} {} {:.1} s",
        scenario.name,
        start.elapsed().as_secs_f32()
    );
    if let Err(error) = result {
        let error = format!("{error:#}").replace('\n', "\n    ");
        text = format!("{text}\n  {}\n  {error}\n{digest}", scenario.about);
    }
    // One call, so that the lines of scenarios that end together do not mix.
    println!("{}", text.trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_selects_all_and_an_unknown_one_is_an_error() -> Result<()> {
        assert_eq!(select(&[])?.len(), all().len());
        assert_eq!(select(&["harness-freeze".to_owned()])?.len(), 1);
        assert!(select(&["no-such".to_owned()]).is_err());
        Ok(())
    }

    #[test]
    fn on_the_real_bytebase_what_needs_the_stand_in_does_not_run() {
        assert_eq!(fit(all(), true).len(), all().len());
        let real = fit(all(), false);
        assert!(!real.is_empty() && real.iter().all(|scenario| scenario.stand_in.is_none()));
    }

    #[test]
    fn the_closing_line_counts() {
        let tally = Tally {
            passed: 6,
            failed: 1,
        };
        assert_eq!(tally.to_string(), "6 passed, 1 failed");
    }

    #[test]
    fn the_list_names_every_scenario() {
        let list = list();
        assert!(all().iter().all(|scenario| list.contains(scenario.name)));
    }
}
