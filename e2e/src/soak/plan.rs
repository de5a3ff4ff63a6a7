//! What is done, drawn from a seed, and what should come of it. Pure: the same seed makes the same
//! rounds.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use std::fmt;
use std::time::Duration;

/// Versions that a cluster goes through, upwards only: a schema never goes back.
pub const VERSIONS: [&str; 4] = ["3.20.0", "3.20.1", "3.21.1", "3.22.0"];
/// Wanted replicas that users ask for.
const SIZES: [i32; 4] = [0, 1, 2, 3];
/// How long a refused database is cut off: for some readings, or for longer than the two minutes
/// after which a first replica starts on a database that was never read.
const CUTS: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(135)];

/// Name of a cluster.
pub fn cluster_name(index: usize) -> String {
    format!("soak-{index}")
}

/// What is known of a cluster from what was done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    pub replicas: i32,
    /// Whether the license in force allows several.
    pub ha: bool,
    /// Index into [`VERSIONS`].
    pub version: usize,
    /// Counts edits that cause a rollout.
    pub edits: u32,
    /// Counts passwords.
    pub passwords: u32,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            replicas: 3,
            ha: true,
            version: 0,
            edits: 0,
            passwords: 0,
        }
    }
}

impl Model {
    /// Replicas that should run in the end.
    pub fn target(&self) -> i32 {
        if self.ha {
            self.replicas
        } else {
            self.replicas.min(1)
        }
    }

    /// The phase it should come to.
    pub fn phase(&self) -> &'static str {
        match (self.replicas, self.target()) {
            (0, _) => "Stopped",
            (wanted, target) if wanted == target => "Ready",
            _ => "Limited",
        }
    }
}

/// Something done to one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// An edit that causes a rollout.
    Edit,
    Scale(i32),
    Upgrade,
    RotatePassword,
    /// The same, and another size a moment later, as if both were of one commit.
    RotateAndScale(i32),
    /// The license is exchanged for one without HA.
    LoseHa,
    /// The license is exchanged for one that is about to end.
    Expire,
    RegainHa,
    /// Paused, edited, found unchanged, resumed.
    PauseAndResume,
    /// An owned object is edited by another party.
    EditOwned,
    /// An owned object is deleted.
    DeleteOwned,
    /// The process of a replica is killed.
    KillReplica(usize),
    /// A replica stands still for longer than its heartbeat counts.
    FreezeReplica(usize),
    /// A pod is deleted by hand.
    DeletePod(usize),
    /// All sessions of its database are ended.
    CutConnections,
    /// An empty database takes the place of its own under the same name, and its pods are deleted.
    SwapDatabase,
    /// Stopped, its database is refused; it is to start again, and the database is cut off for so
    /// long.
    CutOffRefused(Duration),
    /// Stopped, a replica of another Bytebase is active on its database; it is to start again.
    StartBesideForeign,
}

/// Something that strikes all clusters at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disaster {
    KillLeader,
    /// For longer than its lease.
    FreezeLeader,
    KillApiServer,
    StopDatabase,
    KillEtcd,
}

/// One round: actions on different clusters, a pause, perhaps a disaster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    pub actions: Vec<(usize, Action)>,
    /// Milliseconds between the actions and the disaster.
    pub pause: u64,
    pub disaster: Option<Disaster>,
}

impl fmt::Display for Round {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (cluster, action) in &self.actions {
            write!(formatter, "{action:?} on {cluster}, ")?;
        }
        match self.disaster {
            Some(disaster) => write!(formatter, "{disaster:?} after {} ms", self.pause),
            None => formatter.write_str("no disaster"),
        }
    }
}

impl Round {
    /// Draws the next round.
    pub fn draw(rng: &mut StdRng, models: &[Model]) -> Self {
        let struck = rng.random_range(1..=2.min(models.len()));
        let mut indices: Vec<_> = (0..models.len()).collect();
        let mut actions = Vec::new();
        for _ in 0..struck {
            let index = indices.swap_remove(rng.random_range(0..indices.len()));
            if let Some(model) = models.get(index) {
                actions.push((index, draw_action(rng, model)));
            }
        }
        let disasters = [
            Disaster::KillLeader,
            Disaster::FreezeLeader,
            Disaster::KillApiServer,
            Disaster::StopDatabase,
            Disaster::KillEtcd,
        ];
        Self {
            actions,
            pause: rng.random_range(0..4000),
            disaster: disasters
                .choose(rng)
                .copied()
                .filter(|_| rng.random_bool(0.4)),
        }
    }

    /// What the clusters should come to.
    pub fn apply(&self, models: &mut [Model]) {
        for (index, action) in &self.actions {
            if let Some(model) = models.get_mut(*index) {
                match action {
                    Action::Edit | Action::PauseAndResume => model.edits += 1,
                    Action::Scale(size) => model.replicas = *size,
                    Action::CutOffRefused(_) | Action::StartBesideForeign => model.replicas = 1,
                    Action::Upgrade => model.version += 1,
                    Action::RotatePassword => model.passwords += 1,
                    Action::RotateAndScale(size) => {
                        model.passwords += 1;
                        model.replicas = *size;
                    }
                    Action::LoseHa | Action::Expire => model.ha = false,
                    Action::RegainHa => model.ha = true,
                    Action::EditOwned
                    | Action::DeleteOwned
                    | Action::KillReplica(_)
                    | Action::FreezeReplica(_)
                    | Action::DeletePod(_)
                    | Action::SwapDatabase
                    | Action::CutConnections => {}
                }
            }
        }
    }

    /// Whether pods of this cluster may be down for another reason than the operator's hand. What
    /// strikes the operator alone, the databases or Kubernetes takes no pod down.
    pub fn disturbs(&self, cluster: usize) -> bool {
        self.actions.iter().any(|(index, action)| {
            *index == cluster
                && matches!(
                    action,
                    Action::KillReplica(_)
                        | Action::FreezeReplica(_)
                        | Action::DeletePod(_)
                        | Action::SwapDatabase
                )
        })
    }

    /// Whether the disaster ends the sessions of this cluster's replicas while the password that
    /// they were started with is no longer right: those that are there then may lose the tasks that
    /// they run.
    pub fn locks_out(&self, cluster: usize) -> bool {
        let rotates =
            |action: &Action| matches!(action, Action::RotatePassword | Action::RotateAndScale(_));
        self.disaster == Some(Disaster::StopDatabase)
            && self
                .actions
                .iter()
                .any(|(index, action)| *index == cluster && rotates(action))
    }
}

fn draw_action(rng: &mut StdRng, model: &Model) -> Action {
    let mut possible = vec![
        Action::Edit,
        Action::RotatePassword,
        Action::PauseAndResume,
        Action::EditOwned,
        Action::DeleteOwned,
        Action::CutConnections,
    ];
    let others: Vec<_> = SIZES
        .into_iter()
        .filter(|size| *size != model.replicas)
        .collect();
    possible.extend(others.choose(rng).map(|size| Action::Scale(*size)));
    let rotated = others.choose(rng).map(|size| Action::RotateAndScale(*size));
    possible.extend(rotated);
    if model.version + 1 < VERSIONS.len() {
        possible.push(Action::Upgrade);
    }
    if model.replicas == 0 {
        possible.extend(CUTS.choose(rng).map(|cut| Action::CutOffRefused(*cut)));
        possible.push(Action::StartBesideForeign);
    }
    // The license is installed by a replica, so one must run for it to change hands.
    if model.replicas > 0 {
        possible.extend(if model.ha {
            &[Action::LoseHa, Action::Expire][..]
        } else {
            &[Action::RegainHa][..]
        });
    }
    if let Ok(running) = usize::try_from(model.target())
        && running > 0
    {
        let which = rng.random_range(0..running);
        possible.extend([
            Action::KillReplica(which),
            Action::FreezeReplica(which),
            Action::DeletePod(which),
            Action::SwapDatabase,
        ]);
    }
    possible.choose(rng).copied().unwrap_or(Action::Edit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::collections::BTreeSet;

    fn rounds(seed: u64, count: usize) -> Vec<Round> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut models = vec![Model::default(); 3];
        (0..count)
            .map(|_| {
                let round = Round::draw(&mut rng, &models);
                round.apply(&mut models);
                round
            })
            .collect()
    }

    #[test]
    fn a_seed_makes_the_same_rounds_and_another_makes_others() {
        assert_eq!(rounds(7, 50), rounds(7, 50));
        assert_ne!(rounds(7, 50), rounds(8, 50));
    }

    #[test]
    fn everything_is_drawn_and_nothing_impossible() {
        let (mut kinds, mut cuts) = (BTreeSet::new(), BTreeSet::new());
        for seed in 0..200 {
            let mut models = vec![Model::default(); 3];
            for round in rounds(seed, 30) {
                for (index, action) in &round.actions {
                    let model = &models[*index];
                    let running = usize::try_from(model.target()).unwrap_or(0);
                    let text = format!("{action:?}");
                    kinds.insert(text.split('(').next().unwrap_or_default().to_owned());
                    match action {
                        Action::KillReplica(which)
                        | Action::FreezeReplica(which)
                        | Action::DeletePod(which) => assert!(*which < running),
                        Action::LoseHa | Action::Expire => {
                            assert!(model.ha && model.replicas > 0);
                        }
                        Action::RegainHa => assert!(!model.ha && model.replicas > 0),
                        Action::Scale(size) | Action::RotateAndScale(size) => {
                            assert_ne!(*size, model.replicas);
                        }
                        Action::CutOffRefused(cut) => {
                            cuts.insert(*cut);
                            assert_eq!(model.replicas, 0);
                        }
                        Action::StartBesideForeign => {
                            assert_eq!(model.replicas, 0);
                        }
                        _ => {}
                    }
                }
                kinds.extend(round.disaster.map(|disaster| format!("{disaster:?}")));
                let mut struck: Vec<_> = round.actions.iter().map(|(index, _)| index).collect();
                struck.dedup();
                assert_eq!(struck.len(), round.actions.len(), "one action a cluster");
                round.apply(&mut models);
                assert!(models.iter().all(|model| model.version < VERSIONS.len()));
            }
        }
        assert_eq!(kinds.len(), 18 + 5, "{kinds:?}");
        assert!(cuts.iter().eq(&CUTS), "{cuts:?}");
    }

    #[test]
    fn what_takes_no_pod_down_is_no_excuse_for_two_that_are() {
        let round = |action, disaster| Round {
            actions: vec![(1, action)],
            pause: 0,
            disaster,
        };
        for disaster in [
            Disaster::KillLeader,
            Disaster::FreezeLeader,
            Disaster::KillApiServer,
            Disaster::KillEtcd,
            Disaster::StopDatabase,
        ] {
            assert!(!round(Action::Edit, Some(disaster)).disturbs(1));
        }
        assert!(!round(Action::DeleteOwned, None).disturbs(1));
        let killed = round(Action::KillReplica(0), None);
        assert!(killed.disturbs(1) && !killed.disturbs(0));
    }

    #[test]
    fn a_password_that_is_rotated_locks_out_only_who_has_lost_the_sessions() {
        let round = |disaster| Round {
            actions: vec![(1, Action::RotatePassword)],
            pause: 0,
            disaster,
        };
        assert!(!round(None).locks_out(1));
        assert!(!round(Some(Disaster::KillLeader)).locks_out(1));
        let stopped = round(Some(Disaster::StopDatabase));
        assert!(stopped.locks_out(1) && !stopped.locks_out(0));
    }

    #[test]
    fn phases_follow_from_size_and_license() {
        let model = |replicas, ha| Model {
            replicas,
            ha,
            ..Model::default()
        };
        for (replicas, ha, expected) in [
            (0, true, (0, "Stopped")),
            (0, false, (0, "Stopped")),
            (1, false, (1, "Ready")),
            (3, false, (1, "Limited")),
            (3, true, (3, "Ready")),
        ] {
            let model = model(replicas, ha);
            assert_eq!((model.target(), model.phase()), expected);
        }
    }
}
