//! The certificate authorities that the database library (sqlx) trusts beside those that it is given.
//!
//! It takes them from a crate of this name, which lists Mozilla's, and has no switch for it. So
//! whoever held a certificate of one of these would pass for a server that is to be verified by a
//! given CA. PostgreSQL clients, Bytebase's among them, trust a given CA only. This crate takes the
//! place of that one: it lists nobody, except to a login that asks for the public authorities.
//!
//! They could be given to the library as any other CA, but then each connection would hold a copy of
//! all of them (measured: 190 KiB, three times the rest).

use rustls::RootCertStore;
use rustls::pki_types::{Der, TrustAnchor};
use std::slice;
use std::sync::LazyLock;

tokio::task_local! {
    static ASKED_FOR: ();
}

/// Who is trusted without having been given.
pub static TLS_SERVER_ROOTS: Roots = Roots(());

/// See [`TLS_SERVER_ROOTS`].
pub struct Roots(());

#[expect(
    clippy::iter_without_into_iter,
    reason = "the library calls this and nothing else"
)]
impl Roots {
    /// The public authorities in a login that asks for them, else none.
    pub fn iter(&self) -> slice::Iter<'static, TrustAnchor<'static>> {
        let asked_for = ASKED_FOR.try_with(|()| ()).is_ok();
        if asked_for {
            public().iter()
        } else {
            [].iter()
        }
    }
}

/// Has a login trust the public authorities, as Mozilla lists them.
pub async fn trusting_public<T>(login: impl Future<Output = T>) -> T {
    ASKED_FOR.scope((), login).await
}

/// Each borrows from what is read once, so that a copy of the list holds no copy of them.
fn public() -> &'static [TrustAnchor<'static>] {
    static READ: LazyLock<RootCertStore> = LazyLock::new(|| {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
        store
    });
    static BORROWED: LazyLock<Vec<TrustAnchor<'static>>> = LazyLock::new(|| {
        let borrowed = READ.roots.iter().map(|anchor| TrustAnchor {
            subject: Der::from_slice(&anchor.subject),
            subject_public_key_info: Der::from_slice(&anchor.subject_public_key_info),
            name_constraints: anchor.name_constraints.as_deref().map(Der::from_slice),
        });
        borrowed.collect()
    });
    &BORROWED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_public_authorities_are_listed_to_who_asks_for_them() {
        let listed = || TLS_SERVER_ROOTS.iter().count();
        assert_eq!(listed(), 0);
        let all = webpki_root_certs::TLS_SERVER_ROOT_CERTS.len();
        assert!(all > 100);
        assert_eq!(trusting_public(async { listed() }).await, all);
        let together = tokio::join!(trusting_public(async { listed() }), async { listed() });
        assert_eq!(together, (all, 0));
        assert_eq!(listed(), 0);
    }
}
