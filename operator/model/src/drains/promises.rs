//! What must hold for drains in every state, in words.

/// What must follow from every state in a world that behaves from then on.
pub const ENDS_SOON: &str = "every drain ends soon once the world behaves and no new work comes, whatever tasks of ended processes are left";
/// The same, while work comes faster than it is done.
pub const ENDS: &str = "every drain ends once the world behaves, also where new work keeps coming";

/// What must follow from every state in which a hook is asked, even if no task ever ends.
pub const OBEYS: &str = "a drain whose hook is asked to let its replica end, and reaches the database, ends soon, whatever tasks run, once no migration does";

/// A promise of the hooks'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Promise {
    /// Running tasks are finished.
    Finished,
    /// The queue is free as long as it was held.
    Free,
    /// A hold does not outlive its time.
    HoldEnds,
    /// The time-out.
    TimeOut,
}

impl Promise {
    /// What is promised.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Finished => {
                "before the time-out no pod ends whose replica runs a task or migrates the schema, unless its hook was killed, was asked to let it end while it did not migrate, or had no answer of the database for two minutes or found no tables in it, the replica had no session for one where the login of its hook led or hung as long, or the task was claimed after the last reading of the hook, which had seen for twelve seconds that work could be claimed and was not"
            }
            Self::Free => {
                "all hooks together hold the queue for no longer than the limit, and then leave it free for as long, but for the moment of a last reading"
            }
            Self::HoldEnds => {
                "no hold outlives the time that the server was given for it, whatever becomes of its holder"
            }
            Self::TimeOut => "every drain ends by its time-out, whatever happens",
        }
    }
}
