//! Has the checker visit a world.

use anyhow::{Result, bail, ensure};
use stateright::{Checker as _, HasDiscoveries, Model, Path, Property};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

/// Threads of the checker.
const THREADS: usize = 2;

/// One property for each promise. A condition is a function that carries nothing along, so each has
/// its own.
macro_rules! keeps {
    ($($promise:ident),*) => {{
        // A promise that is not in this list does not compile: it would never be checked.
        let _: fn(Promise) = |promise| match promise { $(Promise::$promise => {})* };
        vec![$(Property::always(Promise::$promise.text(), |_: &Self, world: &World| {
            world.ghost.broken != Some(Promise::$promise)
        })),*]
    }};
}
pub(crate) use keeps;

/// Visits every state, and says how many there are.
pub fn every_state<M>(name: &str, model: M) -> Result<usize>
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq,
{
    let begun = Instant::now();
    let checker = model
        .checker()
        .threads(THREADS)
        .finish_when(HasDiscoveries::Any)
        .spawn_bfs()
        .join();
    if let Some((property, path)) = checker.discoveries().into_iter().next() {
        bail!("{name}: not true that {property}:\n{}", describe(path));
    }
    let states = checker.unique_state_count();
    println!(
        "model: {name}: {states} states, {:.1} s",
        begun.elapsed().as_secs_f32()
    );
    Ok(states)
}

/// Visits states until a planted bug is found, by the property that it breaks.
pub fn until_found<M>(bug: &str, model: M, property: &'static str) -> Result<()>
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq,
{
    let begun = Instant::now();
    let checker = model
        .checker()
        .threads(THREADS)
        .finish_when(HasDiscoveries::AnyOf(BTreeSet::from([property])))
        .spawn_bfs()
        .join();
    let mut discoveries = checker.discoveries();
    let Some(path) = discoveries.remove(property) else {
        bail!("{bug} was planted and not found");
    };
    println!(
        "model: {bug} found after {} steps, {:.1} s",
        path.into_actions().len(),
        begun.elapsed().as_secs_f32()
    );
    Ok(())
}

/// A property that no planted bug breaks may be one that nothing can break. `broken`: those that
/// one of the bugs breaks.
pub fn all_can_be_broken<M: Model>(
    model: &M,
    broken: impl IntoIterator<Item = &'static str>,
) -> Result<()> {
    let broken: BTreeSet<_> = broken.into_iter().collect();
    for Property { name, .. } in model.properties() {
        ensure!(broken.contains(name), "no planted bug breaks that {name}");
    }
    Ok(())
}

/// How the last state came about, and what it is.
pub fn describe<S, A>(path: Path<S, A>) -> String
where
    S: Clone + Debug + PartialEq,
    A: Debug + PartialEq,
{
    let last = path.last_state().clone();
    let actions = path.into_actions();
    format!("{actions:?}\n{last:?}")
}

/// The same up to the first state that is wrong, with the state before it: a walk goes on from
/// there.
pub fn describe_until<S, A>(path: Path<S, A>, is_wrong: impl Fn(&S) -> bool) -> String
where
    S: Debug + PartialEq,
    A: Debug + PartialEq,
{
    let (mut before, mut actions) = (None, Vec::new());
    for (state, action) in path.into_vec() {
        if is_wrong(&state) || action.is_none() {
            return format!("{actions:?}\n{before:?}\n{state:?}");
        }
        actions.extend(action);
        before = Some(state);
    }
    format!("{actions:?}")
}
