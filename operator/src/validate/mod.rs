//! From what a user wrote, and the Secrets it names, to a [`ValidCluster`] that the builders accept
//! — or every problem at once.
//!
//! Pure: what was fetched comes in as [`References`]. Every rule that admission checks is checked
//! here again, so that nothing rests on admission.

mod database;
mod exposure;
mod pods;
mod references;
#[cfg(test)]
mod tests;

pub use database::{CaSource, UrlSource, ValidDatabase};
pub use exposure::{ValidIngress, ValidRoute};
pub use pods::LEAKING_ENV;
pub use references::{Fetched, References, wanted_references};

use crate::api::spec::{AdminSpec, Enforcement, ImageSpec, LicenseSpec};
use crate::api::status::SignatureState;
use crate::api::{BytebaseCluster, BytebaseClusterSpec, Reason};
use crate::contract::external_url::ExternalUrl;
use crate::contract::license::{License, LicenseError, LicenseKey};
use crate::contract::version::{ImageDigest, ImageTag, Version};
use crate::kubernetes::Kind;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource as _, ResourceExt as _};
use secrecy::{ExposeSecret as _, SecretString};

const DEFAULT_REPOSITORY: &str = "docker.io/bytebase/bytebase";

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field, such as `spec.database.urlSecretRef`.
    pub field: String,
    /// `InvalidSpec`, `ReferenceMissing` or `InvalidSecret`.
    pub reason: Reason,
    /// What is wrong and what to do; never a secret.
    pub message: String,
    /// Whether Bytebase could not run with it. A blocking problem changes nothing that runs; any
    /// other is only reported.
    pub blocking: bool,
}

impl Problem {
    fn blocking(field: impl Into<String>, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason,
            message: message.into(),
            blocking: true,
        }
    }

    fn reported(field: impl Into<String>, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            blocking: false,
            ..Self::blocking(field, reason, message)
        }
    }

    /// A kind that the spec asks for and this Kubernetes cluster lacks.
    pub fn kind_not_installed(kind: Kind) -> Self {
        let (plural, group) = (kind.plural(), kind.group());
        let brought_by = kind.brought_by().unwrap_or("whoever brings it");
        Self::reported(
            kind.asked_for_by().unwrap_or("spec"),
            Reason::KindNotInstalled,
            format!(
                "this Kubernetes cluster has no {plural}.{group}: install the definitions of {brought_by}, or take the field out"
            ),
        )
    }

    /// A problem of the merged pod template, found while building it.
    pub fn pod_template(message: impl Into<String>) -> Self {
        Self::blocking("spec.podTemplate", Reason::InvalidSpec, message)
    }
}

/// What `validate` says.
#[derive(Debug)]
pub struct Validation {
    /// The cluster, if nothing blocks.
    pub cluster: Option<ValidCluster>,
    /// Every problem, blocking or not.
    pub problems: Vec<Problem>,
    /// Remarks on what is accepted.
    pub warnings: Vec<String>,
}

/// A cluster that can be built: every value is of a type that Bytebase and Kubernetes accept.
#[derive(Clone, Debug)]
pub struct ValidCluster {
    /// Who and where.
    pub identity: Identity,
    /// What to run.
    pub image: Image,
    /// Wanted replicas.
    pub replicas: i32,
    /// The one URL.
    pub url: ExternalUrl,
    /// The metadata database.
    pub database: ValidDatabase,
    /// The license from the Secret.
    pub license: ValidLicense,
    /// The admin's login, if it could be read.
    pub admin: Option<ValidAdmin>,
    /// The Ingress, if wanted.
    pub ingress: Option<ValidIngress>,
    /// The HTTPRoute, if wanted.
    pub route: Option<ValidRoute>,
    /// Checksum of every secret value that a replica reads at its start; a change rolls the pods.
    pub checksum: String,
    /// Fields that pass through to the pods unchanged.
    pub spec: BytebaseClusterSpec,
}

/// Name, namespace and uid of the custom resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// Also the name of its objects.
    pub name: String,
    /// Namespace of it and its objects.
    pub namespace: String,
    /// The owner reference its objects carry.
    pub owner: OwnerReference,
}

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Full reference with tag or digest.
    pub reference: String,
    /// Version, where `spec.version` tells one.
    pub version: Option<Version>,
    /// `spec.version` as written.
    pub label: String,
}

/// The license from the Secret and what to do about licenses.
#[derive(Clone, Debug)]
pub struct ValidLicense {
    /// Enforce or warn.
    pub enforcement: Enforcement,
    /// The license in the Secret: decoded, or why not.
    pub secret: Option<SecretLicense>,
}

/// A license in a Secret.
#[derive(Clone, Debug)]
pub struct SecretLicense {
    /// The token, without blanks.
    pub token: SecretString,
    /// Its claims.
    pub license: License,
    /// What is known of its signature.
    pub signature: SignatureState,
}

/// The admin's login.
#[derive(Clone, Debug)]
pub struct ValidAdmin {
    /// Email.
    pub email: String,
    /// Password.
    pub password: SecretString,
    /// Make the first admin.
    pub create_first: bool,
}

/// Collects what is found on the way.
#[derive(Default)]
struct Findings {
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Findings {
    fn invalid(&mut self, field: &str, message: impl Into<String>) {
        self.problems
            .push(Problem::blocking(field, Reason::InvalidSpec, message));
    }

    /// A duration as Gateway API and Prometheus both write it: `30s`, `1h30m`.
    fn duration(&mut self, field: &str, text: Option<&str>) {
        if text.is_some_and(|text| !is_duration(text)) {
            self.invalid(
                field,
                "must be a duration such as 30s or 1h30m: numbers, each with h, m, s or ms",
            );
        }
    }

    fn warn(&mut self, message: impl Into<String>) {
        self.warnings.push(message.into());
    }

    /// Keeps what a field was parsed to, or notes why it could not be.
    fn parsed<T>(&mut self, field: &str, result: Result<T, impl std::error::Error>) -> Option<T> {
        result
            .map_err(|error| self.invalid(field, error.to_string()))
            .ok()
    }

    /// Keeps the value, or notes the problem.
    fn keep<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.problems.push(problem)).ok()
    }
}

/// Checks one cluster. `key` verifies the signature of licenses, where the operator was given one.
pub fn validate(
    cluster: &BytebaseCluster,
    references: &References,
    key: Option<&LicenseKey>,
) -> Validation {
    let mut findings = Findings::default();
    let spec = &cluster.spec;
    let identity = identity(cluster, &mut findings);
    let image = image(&spec.version, spec.image.as_ref(), &mut findings);
    if !(0..=50).contains(&spec.replicas) {
        findings.invalid("spec.replicas", "must be between 0 and 50");
    }
    let url = match ExternalUrl::parse(&spec.external_url) {
        Ok(url) => {
            if let Some(warning) = url.warning() {
                findings.warn(format!("spec.externalURL: {warning}"));
            }
            Some(url)
        }
        Err(error) => {
            findings.invalid("spec.externalURL", error.to_string());
            None
        }
    };
    let version = image.as_ref().and_then(|image| image.version);
    let database = database::validate(&spec.database, version, references, &mut findings);
    let license = license(spec.license.as_ref(), references, key, &mut findings);
    let admin = spec
        .admin
        .as_ref()
        .and_then(|admin| findings_admin(admin, references, &mut findings));
    let ingress = exposure::ingress(spec, url.as_ref(), &mut findings);
    let route = exposure::route(spec, url.as_ref(), &mut findings);
    pods::validate(spec, &mut findings);

    let Findings { problems, warnings } = findings;
    let blocked = problems.iter().any(|problem| problem.blocking);
    let cluster = match (identity, image, url, database) {
        (Some(identity), Some(image), Some(url), Some(database)) if !blocked => {
            Some(ValidCluster {
                identity,
                image,
                replicas: spec.replicas,
                url,
                checksum: database.checksum.clone(),
                database,
                license,
                admin,
                ingress,
                route,
                spec: spec.clone(),
            })
        }
        _ => None,
    };
    Validation {
        cluster,
        problems,
        warnings,
    }
}

fn identity(cluster: &BytebaseCluster, findings: &mut Findings) -> Option<Identity> {
    let name = cluster.name_any();
    if name.len() > 52 {
        findings.invalid(
            "metadata.name",
            "may have at most 52 characters: make the cluster anew under a shorter name",
        );
    }
    let well_formed = name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !well_formed {
        findings.invalid("metadata.name", "must start with a letter and hold only lower-case letters, digits and '-', since it names Services: make the cluster anew under another name");
    }
    let (Some(namespace), Some(owner)) = (cluster.namespace(), cluster.controller_owner_ref(&()))
    else {
        findings.invalid(
            "metadata",
            "has no namespace or uid: it was not read from an API server",
        );
        return None;
    };
    Some(Identity {
        name,
        namespace,
        owner,
    })
}

fn image(version: &str, image: Option<&ImageSpec>, findings: &mut Findings) -> Option<Image> {
    let default = ImageSpec::default();
    let image = image.unwrap_or(&default);
    let repository = image.repository.as_deref().unwrap_or(DEFAULT_REPOSITORY);
    let well_formed = !repository.is_empty()
        && repository
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"./-_:".contains(&b))
        && !repository
            .rsplit('/')
            .next()
            .is_some_and(|last| last.contains(':'));
    if !well_formed {
        findings.invalid("spec.image.repository", "is not a repository: give registry and path without tag or digest, such as docker.io/bytebase/bytebase");
    }
    let label = findings.parsed("spec.version", ImageTag::parse(version));
    let tag = findings.parsed(
        "spec.image.tag",
        image.tag.as_deref().map(ImageTag::parse).transpose(),
    );
    let digest = findings.parsed(
        "spec.image.digest",
        image.digest.as_deref().map(ImageDigest::parse).transpose(),
    );
    let (label, tag, digest) = (label?, tag?, digest?);
    if !well_formed {
        return None;
    }
    let tag = tag.unwrap_or_else(|| label.clone());
    if digest.is_some() && version == "latest" {
        findings.invalid(
            "spec.version",
            "must say what the digest holds: latest tells nothing about it",
        );
    }
    if label.version().is_none() {
        findings.warn("spec.version: tells no version, so neither the floor for HA nor a downgrade can be checked: name a release such as 3.21.1");
    }
    let reference = match digest {
        Some(digest) => format!("{repository}@{}", digest.as_str()),
        None => format!("{repository}:{}", tag.as_str()),
    };
    Some(Image {
        reference,
        version: label.version(),
        label: version.to_owned(),
    })
}

/// The license Secret never blocks: Bytebase runs without it, with one replica.
fn license(
    spec: Option<&LicenseSpec>,
    references: &References,
    key: Option<&LicenseKey>,
    findings: &mut Findings,
) -> ValidLicense {
    let enforcement = spec.map(|license| license.enforcement).unwrap_or_default();
    let secret = spec
        .and_then(|license| license.secret_ref.as_ref())
        .and_then(|reference| {
            let field = "spec.license.secretRef";
            let text = match references.secret_text(field, reference) {
                Ok(text) => text,
                Err(problem) => {
                    findings.problems.push(Problem {
                        blocking: false,
                        ..problem
                    });
                    return None;
                }
            };
            match read_license(text.expose_secret(), key) {
                Ok(license) => Some(license),
                Err(error) => {
                    findings.problems.push(Problem::reported(
                        field,
                        Reason::InvalidSecret,
                        format!("Secret {}, key {}: {error}", reference.name, reference.key),
                    ));
                    None
                }
            }
        });
    ValidLicense {
        enforcement,
        secret,
    }
}

/// Decodes a license, and verifies it where there is a key.
pub fn read_license(text: &str, key: Option<&LicenseKey>) -> Result<SecretLicense, LicenseError> {
    let token: String = text.split_whitespace().collect();
    let (license, signature) = match key {
        Some(key) => (License::verify(&token, key)?, SignatureState::Verified),
        None => (License::decode(&token)?, SignatureState::Unverified),
    };
    Ok(SecretLicense {
        token: token.into(),
        license,
        signature,
    })
}

fn is_duration(text: &str) -> bool {
    let mut rest = text;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let unit = rest.get(digits..).unwrap_or_default();
        let Some(after) = ["ms", "h", "m", "s"]
            .iter()
            .find_map(|known| unit.strip_prefix(known))
            .filter(|_| (1..=5).contains(&digits))
        else {
            return false;
        };
        if after.is_empty() {
            return true;
        }
        rest = after;
    }
    false
}

fn findings_admin(
    admin: &AdminSpec,
    references: &References,
    findings: &mut Findings,
) -> Option<ValidAdmin> {
    let field = "spec.admin.credentialsSecretRef";
    let mut read = |key: &str| {
        let reference = crate::api::spec::SecretKeyRef {
            name: admin.credentials_secret_ref.name.clone(),
            key: key.to_owned(),
        };
        findings.keep(
            references
                .secret_text(field, &reference)
                .map_err(|problem| Problem {
                    blocking: false,
                    ..problem
                }),
        )
    };
    let email = read("email");
    let password = read("password");
    let (email, password) = (email?, password?);
    Some(ValidAdmin {
        email: email.expose_secret().trim().to_owned(),
        password,
        create_first: admin.create_first,
    })
}
