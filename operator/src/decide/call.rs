//! The next call to Bytebase's own API.

use super::health::Health;
use super::plan::{BytebaseCall, BytebaseRequest, Wanted};
use crate::decide::size::license::LicenseVerdict;
use crate::desired;
use crate::observation::{Observation, StoredLicense};
use crate::validate::ValidCluster;
use std::net::{IpAddr, SocketAddr};

/// The next call to Bytebase's API, once a replica answers.
pub(super) fn call(
    cluster: &ValidCluster,
    observation: &Observation,
    license: &LicenseVerdict,
    health: &Health<'_>,
) -> Wanted {
    if cluster.paused {
        return Wanted::NotNow;
    }
    let Some(admin) = &cluster.admin else {
        return Wanted::No;
    };
    let Some(login) = &admin.login else {
        return Wanted::NotNow;
    };
    let stored = observation.facts().and_then(|facts| facts.license.known());
    let (email, password) = (login.email.clone(), login.password.clone());
    let request = match stored {
        None => return Wanted::NotNow,
        Some(StoredLicense::NoWorkspace) if admin.create_first => {
            BytebaseRequest::CreateFirstAdmin { email, password }
        }
        Some(StoredLicense::NoWorkspace) => return Wanted::No,
        Some(StoredLicense::Absent { .. } | StoredLicense::Present { .. }) => {
            let secret = cluster.license.secret.as_ref();
            let Some(secret) = secret.filter(|_| license.installable) else {
                return Wanted::No;
            };
            BytebaseRequest::InstallLicense {
                email,
                password,
                token: secret.token.clone(),
            }
        }
    };
    let mut serving = health
        .replicas
        .iter()
        .filter(|replica| replica.ready_and_active());
    serving
        .find_map(|replica| replica.pod.ip.as_ref()?.parse::<IpAddr>().ok())
        .map_or(Wanted::NotNow, |replica| {
            Wanted::Call(BytebaseCall {
                replica: SocketAddr::new(replica, desired::PORT),
                request,
            })
        })
}
