//! Looking up names, without letting names that do not answer take every thread.
//!
//! The resolver of the system cannot be interrupted: a lookup that is given up holds its thread
//! until the resolver gives up too, which takes it half a minute and more. These threads are
//! tokio's, of which there are 512, and everything else in the process that blocks needs them too,
//! such as the password exchange. So at most `ALL` look up at a time, at most `GROUP` for all those
//! of one group, and at most `OWN` for one who logs in again and again.

use crate::ATTEMPT;
use crate::error::Error;
use crate::search::Search;
use bytebase_contract::pg_url::HostPort;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::fs;
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

/// How the resolver of the system is configured, which stays as it is for the life of a pod.
static RESOLV_CONF: LazyLock<String> =
    LazyLock::new(|| fs::read_to_string("/etc/resolv.conf").unwrap_or_default());

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

/// The resolver of the system, which completes names as other pods would where that is known.
pub(crate) struct System(Option<Arc<Search>>);

impl Names for System {
    async fn look_up(&self, at: &HostPort, turn: Turn) -> io::Result<Vec<SocketAddr>> {
        let search = self.0.as_ref();
        let names = search.map_or_else(|| vec![at.host.clone()], |search| search.names(&at.host));
        let port = at.port;
        let found = spawn_blocking(move || {
            let found = first_found(&names, |name| {
                (name, port).to_socket_addrs().map(Iterator::collect)
            });
            drop(turn);
            found
        });
        found.await.map_err(io::Error::other)?
    }
}

/// The addresses of the first of these names that has some, and otherwise what came of the last
/// one. After a name that fails the next one counts, whatever it failed by: so it is in Bytebase.
/// Those who asked have given up after [`ATTEMPT`], so no other lookup begins after that.
fn first_found(
    names: &[String],
    look_up: impl Fn(&str) -> io::Result<Vec<SocketAddr>>,
) -> io::Result<Vec<SocketAddr>> {
    let begun = std::time::Instant::now();
    let mut found = Ok(Vec::new());
    for name in names {
        found = look_up(name);
        let has_some = found.as_ref().is_ok_and(|addresses| !addresses.is_empty());
        if has_some || begun.elapsed() >= ATTEMPT {
            break;
        }
    }
    found
}

/// The lookups of one who logs in again and again; clones share them. They outlive the logins that
/// began them.
#[derive(Clone)]
pub struct Lookups {
    all: Arc<Semaphore>,
    group: Arc<Semaphore>,
    own: Arc<Own>,
    /// How the pods search for which names are looked up. `None`: as this process does.
    search: Option<Arc<Search>>,
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
            search: None,
        }
    }
}

impl Lookups {
    /// Of one for the pods of a namespace: a name leads where it leads in these pods. The
    /// namespace is a group, which is forgotten once none of its own is left and no lookup that
    /// one of them began.
    pub fn of(namespace: &str) -> Self {
        let mut groups = GROUPS.lock();
        let known = groups.get(namespace).and_then(Weak::upgrade);
        let shared = known.unwrap_or_else(|| {
            groups.retain(|_, group| group.strong_count() > 0);
            let shared = Arc::new(Semaphore::new(GROUP));
            groups.insert(namespace.to_owned(), Arc::downgrade(&shared));
            shared
        });
        Self {
            group: shared,
            search: Search::of_pods(namespace, &RESOLV_CONF).map(Arc::new),
            ..Self::default()
        }
    }

    /// The resolver of the system, for these lookups.
    pub(crate) fn system(&self) -> System {
        System(self.search.clone())
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

    #[test]
    fn the_first_name_that_has_addresses_counts_and_none_after_it_is_looked_up() {
        let address = SocketAddr::from(([10, 0, 0, 1], 5432));
        let names = ["here.apps.", "here.", "here.again."].map(str::to_owned);
        let asked = Mutex::new(Vec::new());
        let found = first_found(&names, |name| {
            asked.lock().push(name.to_owned());
            match name {
                "here.apps." => Err(io::ErrorKind::NotFound.into()),
                _ => Ok(vec![address]),
            }
        });
        assert_eq!(found.unwrap(), [address]);
        assert_eq!(*asked.lock(), names[..2]);
        let missing = first_found(&names, |_| Err(io::ErrorKind::NotFound.into()));
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn the_resolver_of_the_system_gives_its_turn_back() {
        let lookups = Lookups::default();
        let at = HostPort {
            host: "localhost".to_owned(),
            port: 5432,
        };
        let found = lookups.find(&at, LIMIT, &lookups.system()).await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback()));
        let permit = timeout(LIMIT, lookups.permit("localhost"));
        drop(permit.await.unwrap());
    }
}
