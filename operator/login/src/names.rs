//! Looking up names, without letting names that do not answer take every thread.
//!
//! The resolver of the system cannot be interrupted: a lookup that is given up holds its thread
//! until the resolver gives up too, which takes it half a minute and more. These threads are
//! tokio's, of which there are 512, and everything else in the process that blocks needs them too,
//! such as the password exchange. So at most `ALL` look up at a time, at most `GROUP` for all those
//! of one group, and at most `OWN` for one who logs in again and again.

use crate::error::Error;
use bytebase_contract::pg_url::HostPort;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

/// Lookups at a time in this process, those that were given up included.
const ALL: usize = 64;

/// Of those, for one group, such as the clusters of one namespace: whoever names many servers that
/// are not found must leave lookups to others.
const GROUP: usize = 8;

/// Of those, for one [`Lookups`]: names that do not answer must not keep another server of the same
/// connection string from being found.
const OWN: usize = 4;

static SHARED: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(ALL)));

/// The lookups of the groups that have some, or may have.
static GROUPS: LazyLock<Mutex<HashMap<String, Weak<Semaphore>>>> = LazyLock::new(Mutex::default);

/// Who knows where a name leads to.
pub trait Names: Sync {
    /// The addresses of a host, in the order in which they are to be tried. `turn` is to be held
    /// until nothing goes on any more, even if the answer is not waited for.
    fn look_up(
        &self,
        at: &HostPort,
        turn: Turn,
    ) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;
}

/// The resolver of the system.
pub(crate) struct System;

impl Names for System {
    async fn look_up(&self, at: &HostPort, turn: Turn) -> io::Result<Vec<SocketAddr>> {
        let (host, port) = (at.host.clone(), at.port);
        let found = spawn_blocking(move || {
            let found = (host.as_str(), port).to_socket_addrs();
            drop(turn);
            found.map(Iterator::collect)
        });
        found.await.map_err(io::Error::other)?
    }
}

/// The lookups of one who logs in again and again; clones share them. They outlive the logins that
/// began them.
#[derive(Clone)]
pub struct Lookups {
    all: Arc<Semaphore>,
    group: Arc<Semaphore>,
    own: Arc<Own>,
}

#[derive(Default)]
struct Own {
    hosts: Mutex<BTreeSet<String>>,
    ended: Notify,
}

/// A lookup that may go on as long as this is held.
pub struct Turn {
    _lookup: LookupPermit,
    /// Of the group and of all.
    _permits: [OwnedSemaphorePermit; 2],
}

/// A host among those that one who logs in has looked up.
struct LookupPermit {
    host: String,
    own: Arc<Own>,
}

impl Default for Lookups {
    fn default() -> Self {
        Self {
            all: Arc::clone(&SHARED),
            group: Arc::new(Semaphore::new(GROUP)),
            own: Arc::default(),
        }
    }
}

impl Lookups {
    /// Of one who belongs to a group. A group is forgotten once none of its own is left and no
    /// lookup that one of them began.
    pub fn of(group: &str) -> Self {
        let mut groups = GROUPS.lock();
        let known = groups.get(group).and_then(Weak::upgrade);
        let shared = known.unwrap_or_else(|| {
            groups.retain(|_, group| group.strong_count() > 0);
            let shared = Arc::new(Semaphore::new(GROUP));
            groups.insert(group.to_owned(), Arc::downgrade(&shared));
            shared
        });
        Self {
            group: shared,
            ..Self::default()
        }
    }

    /// The addresses of a host, within `limit`. One that is an address is not looked up, and waits
    /// for nothing.
    pub(crate) async fn find(
        &self,
        at: &HostPort,
        limit: Duration,
        names: &impl Names,
    ) -> Result<Vec<SocketAddr>, Error> {
        if let Ok(address) = at.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, at.port)]);
        }
        let end = Instant::now() + limit;
        let in_vain = |_| Error::TimedOut(limit);
        let lookup = timeout_at(end, self.permit(&at.host))
            .await
            .map_err(in_vain)?;
        let group = within(end, &self.group).await?;
        let all = within(end, &self.all).await?;
        let turn = Turn {
            _lookup: lookup,
            _permits: [group, all],
        };
        let found = timeout_at(end, names.look_up(at, turn)).await;
        found.map_err(in_vain)?.map_err(Error::Name)
    }

    /// Waits until no lookup of the same host goes on, nor too many of others.
    async fn permit(&self, host: &str) -> LookupPermit {
        loop {
            // From here on an end is noticed, whatever happens before it is waited for.
            let ended = self.own.ended.notified();
            if self.own.begin(host) {
                return LookupPermit {
                    host: host.to_owned(),
                    own: Arc::clone(&self.own),
                };
            }
            ended.await;
        }
    }
}

/// One of these lookups, once there is one.
async fn within(end: Instant, lookups: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Error> {
    let permit = timeout_at(end, Arc::clone(lookups).acquire_owned()).await;
    // It is never closed.
    permit.ok().and_then(Result::ok).ok_or(Error::Busy)
}

impl Own {
    fn begin(&self, host: &str) -> bool {
        let mut hosts = self.hosts.lock();
        hosts.len() < OWN && hosts.insert(host.to_owned())
    }
}

impl Drop for LookupPermit {
    fn drop(&mut self) {
        self.own.hosts.lock().remove(&self.host);
        self.own.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    const LIMIT: Duration = Duration::from_secs(5);

    /// Names that do not answer, except one; each lookup goes on after it was given up.
    #[derive(Default)]
    struct Silent(Mutex<Vec<Turn>>);

    impl Names for Silent {
        async fn look_up(&self, at: &HostPort, turn: Turn) -> io::Result<Vec<SocketAddr>> {
            if at.host == "answers" {
                return Ok(vec![SocketAddr::from(([10, 0, 0, 1], at.port))]);
            }
            self.0.lock().push(turn);
            std::future::pending().await
        }
    }

    impl Silent {
        fn going_on(&self) -> usize {
            self.0.lock().len()
        }

        async fn find(&self, lookups: &Lookups, host: &str) -> Result<Vec<SocketAddr>, Error> {
            let at = HostPort {
                host: host.to_owned(),
                port: 5432,
            };
            lookups.find(&at, LIMIT, self).await
        }
    }

    fn lookups(all: &Arc<Semaphore>) -> Lookups {
        Lookups {
            all: Arc::clone(all),
            ..Lookups::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_logs_in_has_few_lookups_however_often() {
        let silent = Silent::default();
        let lookups = lookups(&Arc::new(Semaphore::new(ALL)));
        for _ in 0..3 {
            let error = silent.find(&lookups, "silent").await.unwrap_err();
            assert!(matches!(error, Error::TimedOut(_)), "{error}");
            assert_eq!(silent.going_on(), 1, "the same name");
        }
        for number in 1..OWN {
            silent.find(&lookups, "answers").await.unwrap();
            let host = format!("silent-{number}");
            for _ in 0..3 {
                silent.find(&lookups, &host).await.unwrap_err();
                assert_eq!(silent.going_on(), number + 1);
            }
        }
        let error = silent.find(&lookups, "answers").await.unwrap_err();
        assert!(matches!(error, Error::TimedOut(_)), "{error}");
        silent.find(&lookups, "10.0.0.1").await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_that_ends_lets_the_next_begin() {
        let silent = Silent::default();
        let lookups = lookups(&Arc::new(Semaphore::new(ALL)));
        for number in 0..OWN {
            let host = format!("silent-{number}");
            silent.find(&lookups, &host).await.unwrap_err();
        }
        let started = Instant::now();
        let (found, ()) = tokio::join!(silent.find(&lookups, "answers"), async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            drop(silent.0.lock().pop());
        });
        found.unwrap();
        assert_eq!(started.elapsed().as_secs(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn all_together_have_some_and_others_hear_that_they_wait() {
        let silent = Silent::default();
        let all = Arc::new(Semaphore::new(3));
        for _ in 0..3 {
            silent.find(&lookups(&all), "silent").await.unwrap_err();
        }
        let another = lookups(&all);
        let error = silent.find(&another, "answers").await.unwrap_err();
        assert!(matches!(error, Error::Busy), "{error}");
        silent.find(&another, "10.0.0.1").await.unwrap();
        drop(silent.0.lock().pop());
        silent.find(&another, "answers").await.unwrap();
        silent.0.lock().clear();
        assert_eq!(all.available_permits(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_leaves_lookups_to_others_and_has_them_back_once_they_end() {
        let silent = Silent::default();
        let all = Arc::new(Semaphore::new(ALL));
        let of = |group| Lookups {
            all: Arc::clone(&all),
            ..Lookups::of(group)
        };
        // Each is gone before the next comes, and its lookup goes on.
        for number in 0..GROUP {
            let host = format!("silent-{number}");
            silent.find(&of("team"), &host).await.unwrap_err();
        }
        let error = silent.find(&of("team"), "answers").await.unwrap_err();
        assert!(matches!(error, Error::Busy), "{error}");
        silent.find(&of("other"), "answers").await.unwrap();
        silent.0.lock().pop();
        silent.find(&of("team"), "answers").await.unwrap();
        silent.0.lock().clear();
        of("third");
        assert!(!GROUPS.lock().contains_key("team"));
    }

    #[tokio::test]
    async fn the_resolver_of_the_system_gives_its_turn_back() {
        let lookups = Lookups::default();
        let at = HostPort {
            host: "localhost".to_owned(),
            port: 5432,
        };
        let found = lookups.find(&at, LIMIT, &System).await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback()));
        let permit = timeout(LIMIT, lookups.permit("localhost"));
        drop(permit.await.unwrap());
    }
}
