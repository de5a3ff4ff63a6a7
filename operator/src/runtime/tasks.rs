//! Tasks that the process cannot do without.

use futures::FutureExt as _;
use std::panic::AssertUnwindSafe;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Starts tasks that are never to end. One that ends, of a panic or by itself, would leave a cache
/// that seems complete and is frozen: the process is to end with it and to start from nothing.
#[derive(Clone)]
pub struct Essential(UnboundedSender<String>);

impl Essential {
    /// A starter, and where the names of tasks that ended come out.
    pub fn new() -> (Self, UnboundedReceiver<String>) {
        let (ended, names) = unbounded_channel();
        (Self(ended), names)
    }

    /// Starts a task.
    pub fn spawn(&self, name: String, task: impl Future<Output = ()> + Send + 'static) {
        let ended = self.0.clone();
        tokio::spawn(async move {
            // The panic itself has been printed by the time it arrives here.
            let _ = AssertUnwindSafe(task).catch_unwind().await;
            // At shutdown no one waits for it.
            let _ = ended.send(name);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_or_panics_is_named_and_one_that_runs_is_not() {
        let (essential, mut ended) = Essential::new();
        essential.spawn("runs".to_owned(), std::future::pending());
        essential.spawn("ends".to_owned(), async {});
        essential.spawn("panics".to_owned(), async { panic!("planted") });
        let mut names = vec![ended.recv().await, ended.recv().await];
        names.sort();
        let expected = ["ends", "panics"].map(|name| Some(name.to_owned()));
        assert_eq!(names, expected);
        assert!(ended.try_recv().is_err());
    }
}
