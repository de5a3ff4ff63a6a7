//! TLS with a server that must prove what `sslmode` asks for, by the authorities that are given and
//! no others.
//!
//! Chains are verified by webpki, and rules of Go's are added, by which the driver verifies: an
//! authority that is not valid now, or whose own certificate does not allow it, vouches for no
//! server; a certificate that is itself in the bundle needs no other; and one of version 1, which
//! webpki cannot read, counts if an authority of the bundle signed it, or one below such an
//! authority that the server sends along.

use crate::error::Error;
use crate::wire::Transport;
use bytebase_contract::ca_bundle::{CaBundle, CaBundleError};
use bytebase_contract::certificate::Certificate;
use bytebase_contract::pg_url::Proof;
use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ResolvesClientCert, Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name,
};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature,
    verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime,
};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, InconsistentKeys, RootCertStore,
    SignatureScheme,
};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use webpki::RawPublicKeyEntity;

/// What a client sends to ask for TLS: its length, and a version that there is not.
const REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Signatures that are checked for one certificate of version 1 at most, as many as Go checks.
const MAX_SIGNATURES: u32 = 100;

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

/// Who vouches for a server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Authorities {
    roots: Arc<RootCertStore>,
    /// Those of them that others may stand below.
    roots_of_others: Arc<RootCertStore>,
    given: Arc<[CertificateDer<'static>]>,
}

impl Authorities {
    /// Exactly these, as far as they are valid at `now`.
    pub fn given(certificates: &[CertificateDer<'static>], now: Timestamp) -> Self {
        let is_valid = |der: &&CertificateDer<'static>| {
            // What cannot be read here is for webpki to judge.
            Certificate::parse(der).is_none_or(|certificate| certificate.is_valid_at(now))
        };
        let given: Arc<[_]> = certificates.iter().filter(is_valid).cloned().collect();
        let roots = |of_others: bool| {
            let may_vouch = |certificate: Certificate<'_>| {
                certificate.may_vouch_for_servers()
                    && (!of_others || certificate.may_stand_above(1))
            };
            let able = given
                .iter()
                .filter(|der| Certificate::parse(der).is_none_or(may_vouch));
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(able.cloned());
            Arc::new(roots)
        };
        Self {
            roots: roots(false),
            roots_of_others: roots(true),
            given,
        }
    }

    /// These, which need no copy in each connection.
    pub fn known(anchors: impl IntoIterator<Item = TrustAnchor<'static>>) -> Self {
        let roots: Arc<RootCertStore> = Arc::new(anchors.into_iter().collect());
        Self {
            roots_of_others: Arc::clone(&roots),
            roots,
            given: Arc::default(),
        }
    }

    /// No authority, for where nothing is to be proven.
    pub fn none() -> Self {
        Self::known([])
    }
}

/// What the client proves itself by, to a server that asks for it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClientCertificate(Arc<CertifiedKey>);

/// Why a client certificate cannot be used. Nothing of it is quoted: it may be a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientCertificateError {
    /// There is no certificate.
    #[error("the file that sslcert names {0}")]
    NoCertificate(CaBundleError),
    /// There is no key.
    #[error(
        "the file that sslkey names holds no private key that can be read (PEM, not encrypted, as PKCS#8, PKCS#1 or SEC1)"
    )]
    NoKey,
    /// There is one that TLS has no use for.
    #[error("the private key that sslkey names is of a kind that is not known")]
    UnknownKey,
    /// There is one, of another certificate.
    #[error("the private key that sslkey names is not that of the certificate that sslcert names")]
    OtherKey,
}

impl ClientCertificate {
    /// From what stands in the files that `sslcert` and `sslkey` name.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, ClientCertificateError> {
        let chain = CaBundle::parse(certificates).map_err(ClientCertificateError::NoCertificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| ClientCertificateError::NoKey)?;
        let key = PROVIDER.key_provider.load_private_key(key);
        let key = key.map_err(|_| ClientCertificateError::UnknownKey)?;
        let certified = CertifiedKey::new(chain.certificates().to_vec(), key);
        let mismatch = rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch);
        // A certificate that cannot be read here, as one of version 1, is for the server to judge.
        if certified.keys_match() == Err(mismatch) {
            return Err(ClientCertificateError::OtherKey);
        }
        Ok(Self(Arc::new(certified)))
    }
}

impl ResolvesClientCert for ClientCertificate {
    /// As the driver, it shows no certificate to a server that names its authorities where none of
    /// them issued it: such a server would refuse it, and may do without.
    fn resolve(&self, authorities: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let is_known = |der: &CertificateDer<'_>| {
            let certificate = Certificate::parse(der);
            certificate.is_some_and(|certificate| authorities.contains(&certificate.issuer))
        };
        let is_shown = authorities.is_empty() || self.0.cert.iter().any(is_known);
        is_shown.then(|| Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Asks a server for TLS, and sets it up. The second value says whether the server showed a
/// certificate of version 1.
pub(crate) async fn start(
    mut stream: TcpStream,
    host: &str,
    proof: Proof,
    authorities: &Authorities,
    certificate: Option<&ClientCertificate>,
    announces_name: bool,
) -> Result<(impl Transport + use<>, bool), Error> {
    stream.write_all(&REQUEST).await.map_err(Error::Network)?;
    // A single byte is read, so that nothing that came in clear text is taken for encrypted.
    if stream.read_u8().await.map_err(Error::Network)? != b'S' {
        return Err(Error::NoTls);
    }
    let name = match ServerName::try_from(host.to_owned()) {
        Ok(name) => name,
        Err(_) if proof == Proof::ChainAndName => {
            return Err(Error::Tls(CertificateError::NotValidForName.into()));
        }
        // Nothing depends on it, and an address is not announced.
        Err(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED).into(),
    };
    let config = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_safe_default_protocol_versions()
        .map_err(Error::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier {
            proof,
            authorities: authorities.clone(),
        }));
    let mut config = match certificate {
        Some(certificate) => config.with_client_cert_resolver(Arc::new(certificate.clone())),
        None => config.with_no_client_auth(),
    };
    config.enable_sni = announces_name;
    // Each session is a new one.
    config.resumption = Resumption::disabled();
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    // Boxed: it is large, and would be part of every login in progress.
    let connected = Box::pin(connecting).await.map_err(|error| {
        // rustls reports its own errors through those of the stream.
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        match cause {
            Some(cause) => Error::Tls(rustls::Error::clone(cause)),
            None => Error::Network(error),
        }
    })?;
    let shown = connected.get_ref().1.peer_certificates();
    let server = shown.and_then(|chain| chain.first());
    let is_version_1 = server.and_then(version_1).is_some();
    Ok((connected, is_version_1))
}

#[derive(Debug)]
struct Verifier {
    proof: Proof,
    authorities: Authorities,
}

impl Verifier {
    fn algorithms() -> WebPkiSupportedAlgorithms {
        PROVIDER.signature_verification_algorithms
    }

    fn verify_chain(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let Authorities {
            roots,
            roots_of_others,
            given,
        } = &self.authorities;
        if given.contains(certificate) {
            let read = Certificate::parse(certificate);
            return if read.is_none_or(|certificate| certificate.is_for_servers()) {
                Ok(())
            } else {
                Err(CertificateError::InvalidPurpose.into())
            };
        }
        if let Some(old) = version_1(certificate) {
            return self
                .verify_version_1(&old, intermediates, now)
                .map_err(Into::into);
        }
        let certificate = ParsedCertificate::try_from(certificate)?;
        let verify = |roots: &RootCertStore, intermediates: &[CertificateDer<'_>]| {
            let algorithms = Self::algorithms().all;
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                roots,
                intermediates,
                now,
                algorithms,
            )
        };
        let unknown = rustls::Error::from(CertificateError::UnknownIssuer);
        verify(roots, &[]).or_else(|directly| {
            verify(roots_of_others, intermediates).map_err(|by_others| {
                // Then what is wrong with the direct way says more.
                if by_others == unknown {
                    directly
                } else {
                    by_others
                }
            })
        })
    }

    /// By an authority of the bundle, or by those that the server sends along, of which the last
    /// one was signed by an authority of the bundle. Names, which those may be limited to, it has
    /// none.
    fn verify_version_1(
        &self,
        certificate: &Certificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let now = i64::try_from(now.as_secs()).ok();
        let now = now.and_then(|now| Timestamp::from_second(now).ok());
        let now = now.ok_or(CertificateError::BadEncoding)?;
        if now > certificate.until {
            return Err(CertificateError::Expired);
        }
        if now < certificate.from {
            return Err(CertificateError::NotValidYet);
        }
        let given = self.authorities.given.iter();
        let roots: Vec<_> = given
            .filter_map(|der| Certificate::parse(der))
            .filter(Certificate::may_vouch_for_servers)
            .collect();
        let sent = intermediates.iter();
        let between = sent
            .filter_map(|der| Certificate::parse(der))
            // One of an older version cannot say that it is an authority.
            .filter(|sent| sent.version == 3 && sent.may_vouch_for_servers())
            .filter(|sent| sent.is_valid_at(now))
            .collect();
        leads_to_a_root(*certificate, &roots, between)
    }

    /// That the server holds the key of its certificate of version 1.
    fn verify_key_of_version_1(
        certificate: &Certificate<'_>,
        message: &[u8],
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = SubjectPublicKeyInfoDer::from(certificate.public_key);
        let key = RawPublicKeyEntity::try_from(&key);
        let key = key.map_err(|_| CertificateError::BadEncoding)?;
        let algorithms = Self::algorithms();
        let mut algorithms = algorithms
            .mapping
            .iter()
            .filter(|(scheme, _)| *scheme == signed.scheme)
            .flat_map(|(_, algorithms)| algorithms.iter());
        if algorithms.any(|algorithm| {
            key.verify_signature(*algorithm, message, signed.signature())
                .is_ok()
        }) {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(CertificateError::BadSignature.into())
        }
    }
}

/// Whether a chain of signatures leads from this certificate to one of `roots`, directly or by some
/// of `between`. The shortest chains are tried first: no certificate allows a longer one and
/// forbids a shorter one.
fn leads_to_a_root<'a>(
    certificate: Certificate<'a>,
    roots: &[Certificate<'a>],
    mut between: Vec<Certificate<'a>>,
) -> Result<(), CertificateError> {
    let mut fault = CertificateError::UnknownIssuer;
    let mut signatures = 0..MAX_SIGNATURES;
    let mut reached = vec![certificate];
    // How many of those stand between the first one and what is reached next.
    let mut below: u8 = 0;
    while !reached.is_empty() {
        for root in roots.iter().filter(|root| root.may_stand_above(below)) {
            for subject in &reached {
                if root.subject != subject.issuer || signatures.next().is_none() {
                    continue;
                }
                if is_signed_by(subject, root) {
                    return Ok(());
                }
                fault = CertificateError::BadSignature;
            }
        }
        let (next, rest): (Vec<_>, Vec<_>) = between.into_iter().partition(|authority| {
            authority.may_stand_above(below)
                && reached.iter().any(|subject| {
                    authority.subject == subject.issuer
                        && signatures.next().is_some()
                        && is_signed_by(subject, authority)
                })
        });
        (reached, between) = (next, rest);
        below = below.saturating_add(1);
    }
    Err(fault)
}

fn is_signed_by(certificate: &Certificate<'_>, authority: &Certificate<'_>) -> bool {
    let algorithms = Verifier::algorithms().all.iter();
    let mut algorithms = algorithms
        .filter(|algorithm| algorithm.signature_alg_id().as_ref() == certificate.algorithm);
    let key = SubjectPublicKeyInfoDer::from(authority.public_key);
    RawPublicKeyEntity::try_from(&key).is_ok_and(|key| {
        algorithms.any(|algorithm| {
            key.verify_signature(*algorithm, certificate.signed, certificate.signature)
                .is_ok()
        })
    })
}

fn version_1<'a>(certificate: &'a CertificateDer<'_>) -> Option<Certificate<'a>> {
    Certificate::parse(certificate).filter(|certificate| certificate.version == 1)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.proof != Proof::Nothing {
            self.verify_chain(certificate, intermediates, now)?;
        }
        if self.proof == Proof::ChainAndName {
            // Names are an extension, which version 1 does not have.
            if version_1(certificate).is_some() {
                return Err(CertificateError::NotValidForName.into());
            }
            verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // Where any certificate will do, it does not matter who holds its key.
        if self.proof == Proof::Nothing {
            return Ok(HandshakeSignatureValid::assertion());
        }
        match version_1(certificate) {
            Some(old) => Self::verify_key_of_version_1(&old, message, signed),
            None => verify_tls12_signature(message, certificate, signed, &Self::algorithms()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.proof == Proof::Nothing {
            return Ok(HandshakeSignatureValid::assertion());
        }
        match version_1(certificate) {
            Some(old) => Self::verify_key_of_version_1(&old, message, signed),
            None => verify_tls13_signature(message, certificate, signed, &Self::algorithms()),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::algorithms().supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::certificates::{Authority, Limit};

    fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(pem.as_bytes())
            .map(Result::unwrap)
            .collect()
    }

    fn given(pem: &str) -> Authorities {
        Authorities::given(&certificates(pem), Timestamp::now())
    }

    fn anchor(authority: &Authority) -> TrustAnchor<'static> {
        let certificates = certificates(&authority.certificate());
        let anchor = webpki::anchor_from_trusted_cert(&certificates[0]);
        anchor.unwrap().to_owned()
    }

    /// What comes of a server that shows these certificates, its own first.
    fn verify(authorities: &Authorities, shown: &str) -> Result<(), rustls::Error> {
        let verifier = Verifier {
            proof: Proof::Chain,
            authorities: authorities.clone(),
        };
        let shown = certificates(shown);
        verifier.verify_chain(&shown[0], &shown[1..], UnixTime::now())
    }

    fn unknown() -> Result<(), rustls::Error> {
        Err(CertificateError::UnknownIssuer.into())
    }

    #[test]
    fn authorities_that_are_given_take_the_place_of_all_others() {
        let [public, own] = ["public", "own"].map(Authority::new);
        let known = Authorities::known([anchor(&public)]);
        let only = given(&own.certificate());
        assert_eq!(only.roots.roots, [anchor(&own)]);
        assert_eq!(only.roots_of_others.roots, [anchor(&own)]);
        for (authorities, trusted, other) in [(&known, &public, &own), (&only, &own, &public)] {
            for certify in [Authority::certify, Authority::certify_below] {
                let shown = certify(trusted, &["localhost"]).certificate;
                assert_eq!(verify(authorities, &shown), Ok(()));
                let shown = certify(other, &["localhost"]).certificate;
                assert_eq!(verify(authorities, &shown), unknown());
            }
        }
        // Where the time of what is given is over, nothing is in its place either.
        let none = given(&own.expired());
        assert!(none.roots.is_empty() && none.roots_of_others.is_empty());
    }

    #[test]
    fn a_certificate_of_version_1_may_stand_below_an_authority_that_the_server_sends() {
        let [root, other] = ["root", "other"].map(Authority::new);
        let bundle = given(&root.certificate());
        let below = root.below("below");
        let lowest = below.below("lowest");
        let leaf = |authority: &Authority| authority.certify_version_1("localhost").certificate;
        let chain = |parts: &[String]| parts.concat();
        let whole = chain(&[leaf(&lowest), below.certificate(), lowest.certificate()]);
        for (shown, expected) in [
            (leaf(&root), Ok(())),
            (chain(&[leaf(&below), below.certificate()]), Ok(())),
            (whole.clone(), Ok(())),
            // The one that signed it is not there, or none that vouches for that one.
            (leaf(&below), unknown()),
            (chain(&[leaf(&lowest), lowest.certificate()]), unknown()),
            (
                chain(&[leaf(&below), root.expired_below(&below)]),
                unknown(),
            ),
            (chain(&[leaf(&other), other.certificate()]), unknown()),
        ] {
            assert_eq!(verify(&bundle, &shown), expected, "{shown}");
        }
        for limit in [
            Limit::NoAuthority,
            Limit::NoSigning,
            Limit::ForClients,
            Limit::NoneBelow,
        ] {
            let may_sign = matches!(limit, Limit::NoneBelow);
            let limited = root.limited_below("limited", limit);
            let shown = chain(&[leaf(&limited), limited.certificate()]);
            assert_eq!(verify(&bundle, &shown).is_ok(), may_sign, "{limit:?}");
            let under = limited.below("under");
            let shown = chain(&[leaf(&under), limited.certificate(), under.certificate()]);
            assert_eq!(verify(&bundle, &shown), unknown(), "{limit:?}");
            // What the root itself may not do, none below it may.
            let of_root = given(&root.limited(limit));
            assert!(verify(&of_root, &whole).is_err(), "{limit:?}");
        }
    }

    #[test]
    fn many_authorities_of_one_name_are_not_all_tried() {
        let root = Authority::new("root");
        let bundle = given(&root.certificate());
        let wanted = root.below("same");
        let mut shown = wanted.certify_version_1("localhost").certificate;
        let false_one = Authority::new("same").certificate();
        for _ in 0..MAX_SIGNATURES {
            shown.push_str(&false_one);
        }
        shown.push_str(&wanted.certificate());
        assert_eq!(verify(&bundle, &shown), unknown());
    }
}
