//! Taking down what a cluster consists of, from the record alone: whoever calls it (the runner at
//! its end, the reaper after a crash, the next run) needs to know nothing else.

use crate::cluster::Cluster;
use crate::cluster::engine::Engine;
use crate::machine::Machine;
use crate::machine::tools::Tools;
use crate::postgres;
use crate::postgres::companions;
use crate::session::state::State;
use anyhow::{Context, Result};
use std::sync::Arc;

/// Removes the cluster, PostgreSQL and, if no other process uses it, the engine we started. What is
/// gone already is no error; what cannot be removed is, after everything else was tried.
pub async fn teardown(state: &State, tools: &Tools) -> Result<()> {
    let companions = companions::remove(state, |_| true).await;
    let companions = companions.context("what stands beside PostgreSQL");
    let database = postgres::remove(state).await.context("PostgreSQL");
    let cluster = remove_cluster(state, tools).await.context("cluster");
    companions.and(database).and(cluster)
}

async fn remove_cluster(state: &State, tools: &Tools) -> Result<()> {
    let recorded = state.record()?.cluster;
    if !recorded && !Engine::left_behind(state.cache()) {
        return Ok(());
    }
    let engine = Arc::new(Engine::open(state.cache(), Machine::inspect()?).await?);
    if recorded {
        let cluster = Cluster::new(state, tools, Arc::clone(&engine));
        cluster.delete(&state.kubeconfig()).await?;
        state.update(|record| {
            record.cluster = false;
            record.images = None;
        })?;
    }
    engine.close().await
}
