//! Which names a host name may stand for in a pod. Pure.
//!
//! A resolver completes a name by the search list of the pod that it runs in, and the first domain
//! of that list is that of the pod's own namespace. The operator stands in another namespace than
//! Bytebase, where the same name may lead to another server, or to none.

use std::iter;

/// Kubernetes has a pod try a name with so many dots as it is before it completes it.
const NDOTS: usize = 5;

/// The search list of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search(Vec<String>);

impl Search {
    /// That of the pods of a namespace, by what another pod of the same Kubernetes has as
    /// `/etc/resolv.conf`. `None` where that is none of a pod, or does not say which domain that
    /// Kubernetes has.
    pub fn of_pods(namespace: &str, resolv_conf: &str) -> Option<Self> {
        // The last of several such lines counts.
        let mut domains: Vec<String> = resolv_conf.lines().rev().find_map(|line| {
            let mut words = line.split_whitespace();
            let is_list = words.next() == Some("search");
            is_list.then(|| {
                words
                    .map(|word| word.trim_end_matches('.').to_owned())
                    .collect()
            })
        })?;
        let [own, services, ..] = &*domains else {
            return None;
        };
        let (_, rest) = own.split_once('.')?;
        if rest != services || !services.starts_with("svc.") {
            return None;
        }
        domains[0] = format!("{namespace}.{services}");
        Some(Self(domains))
    }

    /// The names that a host may stand for, in the order in which a pod tries them. All are
    /// absolute, so that no other search list completes them, except what leads to the machine
    /// itself.
    pub(crate) fn names(&self, host: &str) -> Vec<String> {
        if host.ends_with('.') || host == "localhost" || host.ends_with(".localhost") {
            return vec![host.to_owned()];
        }
        let completed = self.0.iter().map(|domain| format!("{host}.{domain}."));
        let as_it_is = iter::once(format!("{host}."));
        if host.matches('.').count() < NDOTS {
            completed.chain(as_it_is).collect()
        } else {
            as_it_is.chain(completed).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a pod in the namespace of the operator.
    const OPERATORS: &str = "nameserver 10.96.0.10\n\
        search bytebase-system.svc.cluster.local svc.cluster.local cluster.local eu.compute.internal\n\
        options ndots:5\n";

    fn of_apps() -> Search {
        Search::of_pods("apps", OPERATORS).unwrap()
    }

    #[test]
    fn a_name_is_completed_as_in_the_namespace_of_its_pods_and_as_it_is_last() {
        assert_eq!(
            of_apps().names("postgres"),
            [
                "postgres.apps.svc.cluster.local.",
                "postgres.svc.cluster.local.",
                "postgres.cluster.local.",
                "postgres.eu.compute.internal.",
                "postgres.",
            ]
        );
        assert_eq!(
            of_apps().names("pg-0.pg")[..2],
            [
                "pg-0.pg.apps.svc.cluster.local.",
                "pg-0.pg.svc.cluster.local.",
            ]
        );
    }

    #[test]
    fn a_name_with_many_dots_is_tried_first_as_it_is() {
        let names = of_apps().names("db.a1.eu-west-1.rds.amazonaws.com");
        assert_eq!(names[0], "db.a1.eu-west-1.rds.amazonaws.com.");
        assert_eq!(
            names[1],
            "db.a1.eu-west-1.rds.amazonaws.com.apps.svc.cluster.local."
        );
        let names = of_apps().names("postgres.data.svc.cluster.local");
        assert_eq!(
            names.last().unwrap(),
            "postgres.data.svc.cluster.local.",
            "four dots"
        );
    }

    #[test]
    fn an_absolute_name_and_one_of_the_machine_are_not_completed() {
        for host in ["db.example.com.", "postgres.", "localhost", "db.localhost"] {
            assert_eq!(of_apps().names(host), [host]);
        }
    }

    #[test]
    fn only_the_search_list_of_a_pod_says_how_other_pods_search() {
        let other_domain =
            "search old.example\nsearch ops.svc.k8s.example. svc.k8s.example. k8s.example.\n";
        let search = Search::of_pods("apps", other_domain).unwrap();
        assert_eq!(search.names("db")[0], "db.apps.svc.k8s.example.");
        for elsewhere in [
            "",
            "nameserver 127.0.0.53\nsearch lan\n",
            "search eu.example.com example.com\n",
            "# search ops.svc.cluster.local svc.cluster.local\n",
            "search ops.svc.cluster.local\n",
            "search svc.cluster.local cluster.local\n",
        ] {
            assert_eq!(Search::of_pods("apps", elsewhere), None, "{elsewhere}");
        }
    }
}
