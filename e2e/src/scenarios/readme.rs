//! The README's five minutes, by its own commands.

use super::install::{definition_as_before, uninstall};
use crate::images::{OPERATOR_REPOSITORY, TAG};
use crate::machine::command::Call;
use crate::machine::tools::repository;
use crate::scenario::license::License;
use crate::scenario::sandbox::{PATIENCE, Sandbox};
use crate::scenario::{Lane, Scenario, stand_in};
use crate::session::harness::Harness;
use crate::wait;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use std::time::Duration;

/// The scenario of this file.
pub const SCENARIOS: &[Scenario] = &[Scenario::new(
    "readme",
    "The README's own commands lead from an empty database to three replicas.",
    |sandbox| Box::pin(five_minutes(sandbox)),
)
.stand_in_only(stand_in::LICENSE)
.takes(110)
.lane(Lane::Alone)];

const HEADING: &str = "## Five minutes with a Kubernetes cluster of your own";
/// The names that the README gives.
const OPERATOR: (&str, &str) = ("bytebase-operator", "bytebase-system");
const NAMESPACE: &str = "bytebase";
const DATABASE: &str = "bytebase";
const PASSWORD: &str = "a-readers-password-in-no-output";
/// The registry that a reader has, and these tests have not.
const REGISTRY: &str = "registry.example.com/";

/// What stands between the fences of one code block: its language, and its lines without the
/// indentation of the list around it.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    language: String,
    lines: Vec<String>,
}

async fn five_minutes(sandbox: Sandbox) -> Result<()> {
    let readme = fs::read_to_string(repository().join("README.md"))?;
    let blocks = blocks(section(&readme, HEADING)?);
    clean_up(sandbox.harness()).await?;
    let result = follow(&sandbox, &blocks).await;
    let cleaned = clean_up(sandbox.harness()).await;
    result
        .and(cleaned)
        .and(definition_as_before(sandbox.harness()).await)
}

async fn follow(sandbox: &Sandbox, blocks: &[Block]) -> Result<()> {
    let harness = sandbox.harness();
    sandbox.plant("a reader's password", PASSWORD);
    for block in blocks.iter().filter(|block| block.language == "sql") {
        for statement in &block.lines {
            let statement = statement.replace('…', PASSWORD);
            harness.postgres.execute_in("postgres", &statement).await?;
        }
    }
    let key = sandbox.folder().join("license-key.pem");
    fs::write(&key, harness.license.public_pem())?;
    let adapt = Adapt {
        server: harness.postgres.address(),
        key: key.canonicalize()?.display().to_string(),
    };
    let consoles = blocks.iter().filter(|block| block.language == "console");
    let commands: Vec<String> = consoles.flat_map(commands).collect();
    let (last, before) = commands.split_last().context("no command")?;
    for command in before {
        if let Some(command) = adapt.command(command) {
            run(harness, &command).await?;
        }
    }
    sign_up(harness).await?;
    run(harness, last).await?;
    let ready = run(harness, "kubectl --namespace bytebase get pods").await?;
    let ready = ready.lines().filter(|line| line.contains("1/1")).count();
    ensure!(ready == 3, "{ready} of 3 replicas are Ready");
    Ok(())
}

/// What differs from a reader's surroundings.
struct Adapt {
    /// The server that a reader writes as `HOST:5432`.
    server: String,
    /// The file with the key that verifies the tests' licenses.
    key: String,
}

impl Adapt {
    /// The command to run; `None` for those that need a registry.
    fn command(&self, command: &str) -> Option<String> {
        if command.starts_with("make image ") || command.starts_with("docker push ") {
            return None;
        }
        let operator = OPERATOR_REPOSITORY.trim_end_matches(OPERATOR.0);
        let mut command = command
            .replace(REGISTRY, operator)
            .replace("image.tag=dev", &format!("image.tag={TAG}"))
            .replace("PASSWORD@HOST:5432", &format!("{PASSWORD}@{}", self.server))
            // The tests' server speaks TLS in the scenarios about TLS alone.
            .replace("sslmode=require", "sslmode=disable");
        if command.starts_with("helm install ") {
            // The stand-in's licenses have a key of their own, and the definition is there.
            command.push_str(
                " --wait --take-ownership --force-conflicts --set-file license.publicKey=",
            );
            command.push_str(&self.key);
        }
        Some(command)
    }
}

/// Runs a command as a reader does, at the root of a checkout. Returns what it prints.
async fn run(harness: &Harness, command: &str) -> Result<String> {
    let tools = [harness.kubectl.folder(), harness.helm.folder()];
    let path = std::env::var_os("PATH").context("no PATH")?;
    let tools = tools.into_iter().map(ToOwned::to_owned);
    let path = std::env::join_paths(tools.chain(std::env::split_paths(&path)))?;
    let call = Call::new("bash", &["-euo", "pipefail", "-c", command])
        .folder(repository())
        .env("PATH", path)
        .limit(Duration::from_mins(11));
    harness.helm.environment(call).run().await
}

/// What a reader does in the browser: sign up as the first admin and install a license.
async fn sign_up(harness: &Harness) -> Result<()> {
    let condition = r#"--for=jsonpath={.status.conditions[?(@.type=="HALicensed")].reason}=AwaitingFirstSignUp"#;
    let pod = "pod/bytebase-0";
    let timeout = format!("--timeout={}s", PATIENCE.as_secs());
    for (what, until) in [
        ("bytebasecluster/bytebase", condition),
        (pod, "--for=condition=Ready"),
    ] {
        let wait = ["--namespace", NAMESPACE, "wait", what, until, &timeout];
        wait::until(what, PATIENCE, || harness.kubectl.run(&wait), |_| true).await?;
    }
    let forward = harness.kubectl.port_forward(NAMESPACE, pod, 8080).await?;
    let account = json!({"email": "admin@example.com", "password": PASSWORD, "title": "Admin"});
    let call = async |method: &str, path: &str, token: &str, body: &serde_json::Value| {
        let (url, authorization) = (
            format!("http://{}/v1/{path}", forward.address),
            format!("Authorization: Bearer {token}"),
        );
        let json = "Content-Type: application/json";
        let arguments = [
            "-sSf",
            "-X",
            method,
            &url,
            "-H",
            json,
            "-H",
            &authorization,
            "--data",
            "@-",
        ];
        let answer = Call::new("curl", &arguments);
        answer.input(body.to_string()).run().await
    };
    call("POST", "auth/signup", "", &account).await?;
    let login = call("POST", "auth/login", "", &account).await?;
    let login: serde_json::Value = serde_json::from_str(&login)?;
    let token = login["token"].as_str().context("no token")?;
    let license = json!({"license": harness.license.sign(&License::default())});
    call("PATCH", "subscription/license", token, &license).await?;
    Ok(())
}

/// Removes what following the README makes, also that of an earlier run. The pods go before their
/// namespace does: Kubernetes comes back to a namespace only minutes later whose pods had an hour
/// to end, however soon they did.
async fn clean_up(harness: &Harness) -> Result<()> {
    let (release, namespace) = OPERATOR;
    let kubectl = &harness.kubectl;
    let delete = ["delete", "--ignore-not-found", "--timeout=120s"];
    let clusters = [
        "--namespace",
        NAMESPACE,
        "--all",
        "--cascade=foreground",
        "bytebaseclusters",
    ];
    kubectl.run(&[&delete[..], &clusters].concat()).await?;
    uninstall(harness, release, namespace).await?;
    let namespaces = ["namespace", NAMESPACE, namespace];
    kubectl.run(&[&delete[..], &namespaces].concat()).await?;
    for statement in [
        format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"),
        format!("DROP ROLE IF EXISTS {DATABASE}"),
    ] {
        harness.postgres.execute_in("postgres", &statement).await?;
    }
    Ok(())
}

/// The text between a heading and the next one of its level.
fn section<'a>(page: &'a str, heading: &str) -> Result<&'a str> {
    let (_, after) = page
        .split_once(&format!("\n{heading}\n"))
        .with_context(|| format!("no heading {heading:?}"))?;
    Ok(after.split("\n## ").next().unwrap_or(after))
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut inside: Option<usize> = None;
    for line in text.lines() {
        let unindented = line.trim_start();
        match (unindented.strip_prefix("```"), inside) {
            (Some(language), None) => {
                inside = Some(line.len() - unindented.len());
                blocks.push(Block {
                    language: language.to_owned(),
                    lines: Vec::new(),
                });
            }
            (Some(_), Some(_)) => inside = None,
            (None, Some(indentation)) => {
                let line = line.get(indentation..).unwrap_or_default().to_owned();
                if let Some(block) = blocks.last_mut() {
                    block.lines.push(line);
                }
            }
            (None, None) => {}
        }
    }
    blocks
}

/// The commands of a console: each begins at a prompt and goes on to the next one.
fn commands(console: &Block) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    for line in &console.lines {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push(command.to_owned()),
            (None, Some(command)) => {
                command.push('\n');
                command.push_str(line);
            }
            (None, None) => {}
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_of_the_readme_are_found_and_adapted() {
        let readme = include_str!("../../../README.md");
        let found = blocks(section(readme, HEADING).unwrap());
        assert_eq!(found[0].language, "sql");
        assert!(found[0].lines.iter().all(|line| line.ends_with(';')));
        let consoles = found.iter().filter(|block| block.language == "console");
        let commands: Vec<_> = consoles.flat_map(commands).collect();
        let firsts: Vec<_> = commands
            .iter()
            .map(|command| command.split(' ').next().unwrap())
            .collect();
        let kubectl = ["kubectl"; 6];
        assert_eq!(firsts[..3], ["make", "docker", "helm"]);
        assert_eq!(firsts[3..], kubectl);
        let adapt = Adapt {
            server: "10.0.0.1:5432".to_owned(),
            key: "/key".to_owned(),
        };
        let adapted: Vec<_> = commands
            .iter()
            .filter_map(|command| adapt.command(command))
            .collect();
        assert_eq!(adapted.len(), 7);
        let all = adapted.join("\n");
        for gone in [REGISTRY, "=dev", "HOST"] {
            assert!(!all.contains(gone), "{gone} is left in {all}");
        }
        for there in [
            "image.repository=localhost/bytebase-operator",
            "@10.0.0.1:5432/bytebase?",
            "\nEND",
        ] {
            assert!(all.contains(there), "{there} is not in {all}");
        }
    }
}
