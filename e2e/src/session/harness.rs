//! Everything the scenarios share: one cluster, one PostgreSQL server, and the means to reach them.

use crate::cluster::Cluster;
use crate::cluster::audit;
use crate::cluster::engine::{Engine, NETWORK};
use crate::cluster::helm::Helm;
use crate::cluster::kubectl::Kubectl;
use crate::cluster::selfcheck;
use crate::images::archive::digest_file;
use crate::images::{self, BytebaseImage};
use crate::machine::Machine;
use crate::machine::tools::{Tools, repository};
use crate::postgres::Server;
use crate::scenario::license::LicenseKey;
use crate::session::reaper::Reaper;
use crate::session::state::{Ownership, Purpose, State};
use crate::session::teardown::teardown;
use crate::{times, wait};
use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use std::fs;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// After this time a step says that it has begun, and then every so often that it goes on.
const FIRST_SIGN: Duration = Duration::from_secs(3);
const NEXT_SIGN: Duration = Duration::from_secs(20);

/// The right to use a cluster, from before it is made until after it is gone.
#[derive(Debug)]
pub struct Session {
    tools: Tools,
    state: State,
    purpose: Purpose,
    reaper: Option<Reaper>,
    _ownership: Ownership,
}

/// A cluster and a PostgreSQL server that work.
#[derive(Clone)]
pub struct Harness {
    pub engine: Arc<Engine>,
    pub cluster: Cluster,
    pub postgres: Server,
    pub client: Client,
    pub kubectl: Kubectl,
    pub helm: Helm,
    pub license: LicenseKey,
    pub bytebase: BytebaseImage,
    pub state: State,
    /// Held by a scenario that needs kinds that Kubernetes does not bring to be there, or not to
    /// be.
    pub optional_kinds: Arc<Mutex<()>>,
}

impl Session {
    /// Waits for its turn. Unless `keep`, whatever an earlier run left is removed first, and a
    /// reaper watches over this one.
    pub async fn begin(purpose: Purpose, keep: bool) -> Result<Self> {
        let tools = Tools::load()?;
        let state = State::open(purpose, &tools.cache)?;
        let ownership = state.own(|| {
            println!(
                "cluster {} is in use by another run; waiting for it to end",
                state.cluster
            );
        })?;
        let reaper = if keep {
            None
        } else {
            teardown(&state, &tools)
                .await
                .context("cleaning up after an earlier run")?;
            Some(Reaper::start(&state, purpose)?)
        };
        Ok(Self {
            tools,
            state,
            purpose,
            reaper,
            _ownership: ownership,
        })
    }

    /// Where this cluster keeps its files.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Makes the cluster and the server, or finds them, and proves that they work.
    pub async fn up(&self) -> Result<Harness> {
        let machine = Machine::inspect()?;
        if let Some(remark) = machine.remark() {
            println!("note: {remark}");
        }
        let Self { tools, state, .. } = self;
        let engine = step("Docker engine", Engine::open(state.cache(), machine)).await?;
        let engine = Arc::new(engine);
        let cluster = Cluster::new(state, tools, Arc::clone(&engine));
        let record = state.record()?;
        let fresh = !record.cluster || record.unfinished || !cluster.runs().await;
        if fresh {
            let archive = tools.node_archive.as_deref();
            let image = &tools.node_image;
            step("node image", engine.ensure_node_image(image, archive)).await?;
            state.update(|record| {
                record.cluster = true;
                record.unfinished = true;
                record.images = None;
            })?;
            let made = async {
                cluster.delete(&state.kubeconfig()).await?;
                let policy = state.path("audit-policy.yaml");
                fs::write(&policy, audit::POLICY)?;
                // A measurement is not burdened with a record that no one reads.
                let policy = (self.purpose != Purpose::Bench).then_some(policy.as_path());
                cluster.create(image, &state.kubeconfig(), policy).await
            };
            step("cluster", made).await?;
        }
        let gateway = engine.gateway(NETWORK).await?;
        let postgres = step("PostgreSQL", Server::open(state, machine, &gateway)).await?;
        let harness = Harness {
            client: client(state).await?,
            kubectl: Kubectl::new(tools.kubectl.clone(), state.kubeconfig()),
            helm: Helm::new(tools.helm.clone(), state.kubeconfig(), state.path("helm")),
            license: LicenseKey::open(&state.cache().join("license"))?,
            bytebase: BytebaseImage::from_environment()?,
            optional_kinds: Arc::default(),
            state: state.clone(),
            engine,
            cluster,
            postgres,
        };
        if fresh {
            step("probe image", harness.load_probe()).await?;
            step(
                "Services, DNS and PostgreSQL from a pod",
                selfcheck::network(
                    &harness.kubectl,
                    &harness.client,
                    &harness.postgres.address(),
                ),
            )
            .await?;
            state.update(|record| record.unfinished = false)?;
        }
        Ok(harness)
    }

    /// Leaves everything as it is.
    pub async fn leave(mut self) -> Result<()> {
        match self.reaper.take() {
            Some(reaper) => reaper.dismiss().await,
            None => Ok(()),
        }
    }

    /// Takes everything down.
    pub async fn end(mut self) -> Result<()> {
        teardown(&self.state, &self.tools).await?;
        match self.reaper.take() {
            Some(reaper) => reaper.dismiss().await,
            None => Ok(()),
        }
    }
}

impl Harness {
    /// Builds the product's images and puts them into the node's store if they are new there, and
    /// applies the custom resource definitions.
    pub async fn load_product(&self) -> Result<()> {
        self.load_images().await?;
        step("custom resource definitions", self.apply_definitions()).await
    }

    /// Builds the product's images and puts them into the node's store if they are new there.
    /// Returns their checksum.
    pub async fn load_images(&self) -> Result<String> {
        let archive = self.state.path("product.tar");
        let public_key = self.license.public_pem();
        let build = images::write_product(&archive, public_key, self.bytebase.stand_in);
        step("product images", build).await?;
        let (digest, _) = digest_file(&archive)?;
        if self.state.record()?.images.as_ref() != Some(&digest) {
            step("loading them", self.cluster.load(&archive)).await?;
            self.state
                .update(|record| record.images = Some(digest.clone()))?;
        }
        if !self.bytebase.stand_in {
            step("Bytebase image", self.load_bytebase()).await?;
        }
        Ok(digest)
    }

    async fn load_probe(&self) -> Result<()> {
        let archive = self.state.path("probe.tar");
        images::write_probe(&archive).await?;
        self.cluster.load(&archive).await
    }

    /// The real image goes from the engine to the node, so that every pod finds it there.
    async fn load_bytebase(&self) -> Result<()> {
        let name = self.bytebase.name();
        if self
            .engine
            .docker(&["image", "inspect", &name])
            .run()
            .await
            .is_err()
        {
            self.engine
                .docker(&["pull", &name])
                .limit(Duration::from_mins(15))
                .run()
                .await?;
        }
        let archive = self.state.path("bytebase.tar");
        let path = archive.display().to_string();
        self.engine
            .docker(&["save", "--output", &path, &name])
            .run()
            .await?;
        self.cluster.load(&archive).await?;
        Ok(fs::remove_file(archive)?)
    }

    /// Applies the custom resource definitions, and takes back what others have set in them.
    pub async fn apply_definitions(&self) -> Result<()> {
        let folder = repository().join("crds").display().to_string();
        self.kubectl
            .run(&["apply", "--server-side", "--force-conflicts", "-f", &folder])
            .await?;
        self.wait_for_definitions().await
    }

    /// Waits until the API server serves every definition that was applied.
    pub async fn wait_for_definitions(&self) -> Result<()> {
        // `kubectl wait` fails on an object that has no status yet, which a fresh definition has
        // not.
        let path = r#"jsonpath={.items[*].status.conditions[?(@.type=="Established")].status}"#;
        let arguments = ["get", "crd", "-o", path];
        wait::until(
            "established definitions",
            Duration::from_mins(1),
            || self.kubectl.run(&arguments),
            |states| {
                !states.trim().is_empty() && states.split_whitespace().all(|state| state == "True")
            },
        )
        .await?;
        Ok(())
    }
}

/// Does something that takes its time, and says how long it took; now and then also that it is not
/// over yet.
pub async fn step<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let start = Instant::now();
    let mut work = pin!(work);
    let mut patience = FIRST_SIGN;
    let result = loop {
        match timeout(patience, &mut work).await {
            Ok(result) => break result.with_context(|| what.to_owned())?,
            Err(_) if patience == FIRST_SIGN => println!("{what} …"),
            Err(_) => println!("  … {what}: {} s", start.elapsed().as_secs()),
        }
        patience = NEXT_SIGN;
    };
    println!("{what}: {:.1} s", start.elapsed().as_secs_f32());
    times::note(what, start.elapsed());
    Ok(result)
}

async fn client(state: &State) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(state.kubeconfig())?;
    let configuration =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(configuration)?)
}
