//! The metadata database, read the way an administrator would read it: log in, read, and never
//! write.
//!
//! One task per cluster ([`probe`]) keeps one connection ([`connect`]), runs one read-only round
//! trip on it ([`queries`]: what is asked is in [`query`], what the answer means in [`facts`]), now
//! and then a second one ([`abandoned`]), and keeps what is known by them ([`known`]); errors
//! become one of a fixed list of failures ([`classify`]). The rest of the operator only ever asks
//! for the latest outcome, so that no reconcile waits for a database.

pub(crate) mod abandoned;
pub(crate) mod classify;
pub(crate) mod connect;
pub(crate) mod digest;
mod facts;
mod known;
pub mod monitor;
pub(crate) mod pooler;
pub mod probe;
pub(crate) mod queries;
mod query;

use crate::contract::ca_bundle::CaBundle;
use crate::contract::pg_url::PgUrl;
use crate::observation::DatabaseFacts;
use crate::validate::ValidDatabase;
use bytebase_login::plan::Reach;
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};

/// Where a probe connects and as whom.
#[derive(Clone)]
pub struct Access {
    /// The connection string.
    pub url: PgUrl,
    /// CA bundle that the `BytebaseCluster` names, for a connection string that names its file. The
    /// operator does not open that file.
    pub ca: Option<CaBundle>,
    /// How far the connection string may lead. To other machines only, unless a test says
    /// otherwise.
    pub reach: Reach,
    /// Whose login this is.
    pub login: WhoseLogin,
    /// The login that Bytebase uses, where this is another one and the operator can try it.
    pub trial: Option<Box<Access>>,
    /// Digest of everything above; a changed one restarts the probe.
    pub fingerprint: [u8; 32],
}

impl Access {
    /// The access to the database of a cluster; `None` if the operator can never log in.
    pub fn of(database: &ValidDatabase) -> Option<Self> {
        let url = database.operator.as_ref()?;
        let ca = database.ca.as_ref().map(|(_, bundle)| bundle);
        let pem = ca.map(CaBundle::to_pem);
        let login = if database.monitored {
            WhoseLogin::Monitor(monitor::Watched::of(&database.replicas, url))
        } else {
            WhoseLogin::Bytebase
        };
        let trial = database.monitored && database.is_open_to_the_operator();
        let trial = trial.then(|| {
            Box::new(Self {
                url: database.replicas.clone(),
                ca: ca.cloned(),
                reach: Reach::OtherMachines,
                login: WhoseLogin::Bytebase,
                trial: None,
                // It is part of the other one's.
                fingerprint: [0; 32],
            })
        });
        let mut digest = Sha256::new();
        for part in [
            url.to_uri().expose_secret().as_bytes(),
            // A monitoring login reads where this one would.
            database.replicas.to_uri().expose_secret().as_bytes(),
            pem.as_deref().unwrap_or_default().as_bytes(),
            format!("{login:?}").as_bytes(),
        ] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        Some(Self {
            url: url.clone(),
            ca: ca.cloned(),
            reach: Reach::OtherMachines,
            login,
            trial,
            fingerprint: digest.finalize().into(),
        })
    }
}

/// Whose login an [`Access`] carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhoseLogin {
    /// The one Bytebase itself uses: what is refused here is refused to Bytebase.
    Bytebase,
    /// A login of the operator's own (`database.monitorSecretRef`): a refusal of it says nothing
    /// about Bytebase, so a failure is
    /// [`FailureClass::Unknown`](crate::observation::FailureClass::Unknown), unless it is one of
    /// the place and Bytebase's login leads to the same.
    Monitor(monitor::Watched),
}

impl WhoseLogin {
    /// Whether what the server itself is (its place, a pooler before it) holds for Bytebase as
    /// well.
    pub fn shares_the_place(&self) -> bool {
        match self {
            Self::Bytebase => true,
            Self::Monitor(watched) => watched.same_place,
        }
    }

    /// Why what was read says nothing of Bytebase's database, if that is so, and what to do.
    fn distrust(&self, facts: &DatabaseFacts, database: &str, knows_role: bool) -> Option<String> {
        match self {
            Self::Bytebase => None,
            Self::Monitor(watched) => watched.distrust(facts, database, knows_role),
        }
    }
}
