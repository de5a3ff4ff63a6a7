//! Certificate authorities of the tests' own, and what they sign.

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SigningKey as _, date_time_ymd,
};

/// A certificate authority.
pub struct Authority {
    name: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What the certificate of an authority does not allow it.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// It is none.
    NoAuthority,
    /// Its key signs no certificates.
    NoSigning,
    /// It vouches for clients and not for servers.
    ForClients,
    /// There is none below it.
    NoneBelow,
}

/// A certificate and its private key, both as PEM.
#[derive(Clone)]
pub struct Certified {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl Authority {
    /// A new one of this name. Its certificate is one for `localhost` as well, so that a server can
    /// present it as its own.
    pub fn new(name: &str) -> Self {
        let issuer = CertifiedIssuer::self_signed(authority(name), new_key());
        Self {
            name: name.to_owned(),
            issuer: issuer.expect("a certificate"),
        }
    }

    /// Its own certificate, as PEM.
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// Its own certificate with its key, for a server that presents that.
    pub fn own(&self) -> Certified {
        Certified {
            certificate: self.certificate(),
            key: self.issuer.key().serialize_pem(),
        }
    }

    /// The same authority, by its key, in a certificate whose time is over.
    pub fn expired(&self) -> String {
        let parameters = of_the_past(authority(&self.name));
        let certificate = parameters.self_signed(self.issuer.key());
        certificate.expect("a certificate").pem()
    }

    /// The same authority, by its key, in a certificate that does not allow it everything.
    pub fn limited(&self, limit: Limit) -> String {
        let parameters = limit.of(authority(&self.name));
        let certificate = parameters.self_signed(self.issuer.key());
        certificate.expect("a certificate").pem()
    }

    /// An authority of this name below this one.
    #[must_use]
    pub fn below(&self, name: &str) -> Self {
        self.vouch_for(name, authority(name))
    }

    /// One whose certificate does not allow it everything.
    #[must_use]
    pub fn limited_below(&self, name: &str, limit: Limit) -> Self {
        self.vouch_for(name, limit.of(authority(name)))
    }

    fn vouch_for(&self, name: &str, parameters: CertificateParams) -> Self {
        let issuer = CertifiedIssuer::signed_by(parameters, new_key(), &self.issuer);
        Self {
            name: name.to_owned(),
            issuer: issuer.expect("a certificate"),
        }
    }

    /// The certificate of an authority below this one, with a time that is over.
    pub fn expired_below(&self, below: &Self) -> String {
        let parameters = of_the_past(authority(&below.name));
        let certificate = parameters.signed_by(below.issuer.key(), &self.issuer);
        certificate.expect("a certificate").pem()
    }

    /// A certificate for a server, signed by an authority below this one, and the certificate of
    /// that one behind it.
    pub fn certify_below(&self, names: &[&str]) -> Certified {
        let below = self.below("below");
        let mut certified = below.certify(names);
        certified.certificate.push_str(&below.certificate());
        certified
    }

    /// The same of version 1.
    pub fn certify_version_1_below(&self, name: &str) -> Certified {
        let below = self.below("below");
        let mut certified = below.certify_version_1(name);
        certified.certificate.push_str(&below.certificate());
        certified
    }

    /// A certificate for a client, with these names all the same.
    pub fn certify_client(&self, names: &[&str]) -> Certified {
        let key = new_key();
        let mut parameters = for_names(names);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Certified {
            certificate: self.sign(&parameters, &key).pem(),
            key: key.serialize_pem(),
        }
    }

    /// A certificate for a server at these DNS names and addresses.
    pub fn certify(&self, names: &[&str]) -> Certified {
        let key = new_key();
        Certified {
            certificate: self.sign(&for_names(names), &key).pem(),
            key: key.serialize_pem(),
        }
    }

    /// A certificate for a client that logs in as this role.
    pub fn certify_role(&self, role: &str) -> Certified {
        let key = new_key();
        let mut parameters = for_names(&[]);
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, role);
        Certified {
            certificate: self.sign(&parameters, &key).pem(),
            key: key.serialize_pem(),
        }
    }

    /// A certificate of version 1, which has no room for names but the common one. Many scripts
    /// make such: `openssl x509 -req` did up to version 3.1, unless it was given extensions.
    pub fn certify_version_1(&self, name: &str) -> Certified {
        let key = new_key();
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, name);
        let der = without_version(self.sign(&parameters, &key).der(), self.issuer.key());
        Certified {
            certificate: pem::encode(&pem::Pem::new("CERTIFICATE", der)),
            key: key.serialize_pem(),
        }
    }

    fn sign(&self, parameters: &CertificateParams, key: &KeyPair) -> Certificate {
        let signed = parameters.signed_by(key, &self.issuer);
        signed.expect("a certificate")
    }
}

impl Limit {
    /// What it leaves of a certificate.
    fn of(self, mut parameters: CertificateParams) -> CertificateParams {
        match self {
            Self::NoAuthority => parameters.is_ca = IsCa::NoCa,
            Self::NoSigning => parameters.key_usages = vec![KeyUsagePurpose::CrlSign],
            Self::ForClients => {
                parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }
            Self::NoneBelow => parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
        }
        parameters
    }
}

fn of_the_past(mut parameters: CertificateParams) -> CertificateParams {
    parameters.not_before = date_time_ymd(2020, 1, 1);
    parameters.not_after = date_time_ymd(2021, 1, 1);
    parameters
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("a key pair")
}

fn for_names(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).expect("DNS names and addresses")
}

fn authority(name: &str) -> CertificateParams {
    let mut parameters = for_names(&["localhost"]);
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters
}

/// A certificate without extensions, signed again without its version: the standard says that it is
/// of version 1 then. No library makes one.
fn without_version(certificate: &[u8], key: &KeyPair) -> Vec<u8> {
    let (fields, algorithm) = yasna::parse_der(certificate, |reader| {
        reader.read_sequence(|parts| {
            let fields = parts.next().read_sequence(|fields| {
                fields.next().read_der()?;
                (0..6)
                    .map(|_| fields.next().read_der())
                    .collect::<Result<Vec<_>, _>>()
            })?;
            let algorithm = parts.next().read_der()?;
            parts.next().read_der()?;
            Ok((fields, algorithm))
        })
    })
    .expect("a certificate without extensions");
    let content = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            for field in &fields {
                writer.next().write_der(field);
            }
        });
    });
    let signature = key.sign(&content).expect("a signature");
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_der(&content);
            writer.next().write_der(&algorithm);
            writer
                .next()
                .write_bitvec_bytes(&signature, signature.len() * 8);
        });
    })
}
