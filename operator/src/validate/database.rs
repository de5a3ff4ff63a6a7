//! The metadata database of a cluster: how replicas get `PG_URL`, and how the operator itself
//! connects.

use super::references::login_text;
use super::reminders;
use super::{Diagnostics, Problem, References};
use crate::api::Reason;
use crate::api::spec::{ConfigMapKeyRef, DatabaseSpec, SecretKeyRef};
use crate::contract::ca_bundle::{CaBundle, Trust};
use crate::contract::pg_url::{DEFAULT_PORT, PgParts, PgUrl, Proof, Protection, SslMode};
use crate::contract::version::Version;
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// Where the CA bundle is mounted in the pods.
pub const CA_PATH: &str = "/etc/bytebase/database-ca/ca.crt";
/// The directory of it.
pub const CA_DIRECTORY: &str = "/etc/bytebase/database-ca";

const SECOND: SignedDuration = SignedDuration::from_secs(1);

/// The metadata database.
#[derive(Clone, Debug)]
pub struct ValidDatabase {
    /// How a replica gets its `PG_URL`.
    pub source: UrlSource,
    /// What the replicas connect to.
    pub replicas: PgUrl,
    /// What the operator connects to; `None` when it can never log in itself.
    pub operator: Option<PgUrl>,
    /// `operator` comes from `database.monitorSecretRef`, so the rights of its role say nothing
    /// about Bytebase's.
    pub monitored: bool,
    /// The Secret of that login, for the drain hook, where it cannot log in as Bytebase does.
    pub monitor: Option<SecretKeyRef>,
    /// CA bundle: where the pods mount it from, and its certificates for the operator.
    pub ca: Option<(CaSource, CaBundle)>,
    /// Checksum of every secret value that a replica reads at its start; a change starts a rollout.
    pub checksum: String,
}

/// How a replica gets its `PG_URL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UrlSource {
    /// From a Secret, whole.
    Secret(SecretKeyRef),
    /// From the spec.
    Inline(String),
    /// In parts: a URL without user and password, which come from `PGUSER` and `PGPASSWORD`.
    Parts {
        /// The URL without user and password.
        url: String,
        /// `PGUSER`.
        user: SecretKeyRef,
        /// `PGPASSWORD`.
        password: Option<SecretKeyRef>,
    },
}

/// Where the CA bundle comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaSource {
    /// A Secret key.
    Secret(SecretKeyRef),
    /// A ConfigMap key.
    ConfigMap(ConfigMapKeyRef),
}

impl fmt::Display for CaSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(reference) => reference.fmt(f),
            Self::ConfigMap(reference) => reference.fmt(f),
        }
    }
}

pub(super) fn validate(
    spec: &DatabaseSpec,
    version: Option<Version>,
    references: &References,
    now: Timestamp,
    diagnostics: &mut Diagnostics,
) -> Option<ValidDatabase> {
    let mut checksum = Checksum::default();
    let ca = ca(spec, references, &mut checksum, diagnostics);
    let forms = [
        spec.url_secret_ref.is_some(),
        spec.url.is_some(),
        spec.host.is_some(),
    ];
    if forms.iter().filter(|set| **set).count() != 1 {
        diagnostics.invalid(
            "spec.database",
            "exactly one of urlSecretRef, url and host must be set",
        );
        return None;
    }
    if spec.host.is_none()
        && (spec.port.is_some()
            || spec.name.is_some()
            || spec.user_secret_ref.is_some()
            || spec.password_secret_ref.is_some()
            || spec.params.is_some())
    {
        diagnostics.invalid("spec.database", "port, name, userSecretRef, passwordSecretRef and params belong to the form with host: leave them out");
    }
    let (source, replicas, field) = if let Some(reference) = &spec.url_secret_ref {
        let field = "spec.database.urlSecretRef";
        let text = diagnostics.keep(references.secret_text(field, reference))?;
        checksum.add("url", text.expose_secret().as_bytes());
        let where_ = reference.to_string();
        let url = diagnostics.keep(parse(
            field,
            Reason::InvalidSecret,
            &where_,
            text.expose_secret(),
        ))?;
        (UrlSource::Secret(reference.clone()), url, field)
    } else if let Some(text) = &spec.url {
        let field = "spec.database.url";
        let url = diagnostics.keep(parse(field, Reason::InvalidSpec, "the value", text))?;
        if url.has_password() {
            diagnostics.invalid(field, "holds a password, which everyone who may read this object sees: put the URL into a Secret and name it in database.urlSecretRef");
            return None;
        }
        (UrlSource::Inline(text.clone()), url, field)
    } else {
        let (source, url) = parts(spec, ca.is_some(), references, &mut checksum, diagnostics)?;
        (source, url, "spec.database")
    };
    check_url(field, &replicas, version, ca.is_some(), diagnostics);
    if let Some((source, bundle)) = &ca {
        check_trust(source, bundle, &replicas, now, diagnostics);
    }
    let operator = operator_url(spec, &replicas, references, ca.is_some(), diagnostics);
    Some(ValidDatabase {
        source,
        monitored: spec.monitor_secret_ref.is_some(),
        monitor: spec.monitor_secret_ref.clone(),
        operator,
        replicas,
        ca,
        checksum: checksum.finish(),
    })
}

impl ValidDatabase {
    /// Whether the operator reads at another place than where the replicas log in: what stands
    /// before the one says nothing of the other.
    pub fn is_read_elsewhere(&self) -> bool {
        let operator = self.operator.as_ref().filter(|_| self.monitored);
        operator.is_some_and(|operator| !operator.is_at_the_place_of(&self.replicas))
    }

    /// Whether the operator can log in as the replicas do: neither by cloud IAM nor through a proxy
    /// in the pod.
    pub fn is_open_to_the_operator(&self) -> bool {
        self.replicas.iam.is_none() && !self.replicas.is_inside_the_pod()
    }
}

fn parse(field: &str, reason: Reason, where_: &str, text: &str) -> Result<PgUrl, Problem> {
    PgUrl::parse(text)
        .map_err(|error| Problem::blocking(field, reason, format!("{where_}: {error}")))
}

fn parts(
    spec: &DatabaseSpec,
    has_ca: bool,
    references: &References,
    checksum: &mut Checksum,
    diagnostics: &mut Diagnostics,
) -> Option<(UrlSource, PgUrl)> {
    // Without a name the driver would take the user's, which is the Secret's to name.
    let name = spec.name.as_ref().filter(|name| !name.is_empty());
    let (Some(host), Some(name), Some(user_ref)) = (&spec.host, name, &spec.user_secret_ref) else {
        diagnostics.invalid(
            "spec.database",
            "the form with host needs name and userSecretRef",
        );
        return None;
    };
    let login = |field: &str, reference: &SecretKeyRef, is_name| {
        let text = references.secret_text(field, reference)?;
        login_text(field, reference, &text, is_name).map(|()| text)
    };
    let user = diagnostics.keep(login("spec.database.userSecretRef", user_ref, true));
    let password = match &spec.password_secret_ref {
        Some(reference) => {
            let field = "spec.database.passwordSecretRef";
            Some(diagnostics.keep(login(field, reference, false))?)
        }
        None => None,
    };
    let user = user?;
    checksum.add("user", user.expose_secret().as_bytes());
    checksum.add(
        "password",
        password
            .as_ref()
            .map_or(&[], |password| password.expose_secret().as_bytes()),
    );
    let mut params = spec.params.clone().unwrap_or_default();
    if has_ca {
        params
            .entry("sslrootcert".to_owned())
            .or_insert_with(|| CA_PATH.to_owned());
    }
    let port = spec.port.unwrap_or(i32::from(DEFAULT_PORT));
    let Ok(port) = u16::try_from(port) else {
        diagnostics.invalid("spec.database.port", "must be between 1 and 65535");
        return None;
    };
    let build = |user: String, password: Option<SecretString>| {
        PgUrl::from_parts(PgParts {
            host: host.clone(),
            port: Some(port),
            database: name.clone(),
            user,
            password,
            params: params.clone(),
        })
        .map_err(|error| Problem::blocking("spec.database", Reason::InvalidSpec, error.to_string()))
    };
    let url = diagnostics.keep(build(user.expose_secret().to_owned(), password))?;
    Some((
        UrlSource::Parts {
            url: url.to_uri_without_login(),
            user: user_ref.clone(),
            password: spec.password_secret_ref.clone(),
        },
        url,
    ))
}

fn check_url(
    field: &str,
    url: &PgUrl,
    version: Option<Version>,
    has_ca: bool,
    diagnostics: &mut Diagnostics,
) {
    if let (Some(minimum), Some(version)) = (url.minimum_version(), version)
        && version < minimum
    {
        diagnostics.invalid(
            field,
            format!(
                "this form of PG_URL needs Bytebase {minimum} or later, spec.version is {version}"
            ),
        );
    }
    if url
        .runtime_params
        .keys()
        .any(|name| name.eq_ignore_ascii_case("application_name"))
    {
        diagnostics.invalid(field, "sets application_name, which hides the pod's name by which the operator distinguishes replicas: leave it out");
    }
    let files = url.pod_file_parameters();
    if !files.is_empty() {
        diagnostics.warn(format!(
            "{field}: {} name files in the Bytebase pod: mount them with volumes and volumeMounts",
            files.join(", ")
        ));
    }
    if url.names_a_ca() && !(has_ca && names_the_mounted_ca(url)) {
        diagnostics.warn(format!("{field}: sslrootcert names a file in the Bytebase pod that the operator does not see, and Bytebase, which opens it whatever sslmode says, does not start without it: mount it with volumes and volumeMounts, or give the CA in database.caSecretRef or database.caConfigMapRef and set sslrootcert={CA_PATH}"));
    }
    if has_ca {
        warn_of_unnamed_ca(field, url, diagnostics);
    }
    let may_be_anyone = url.protections().iter().any(|protection| {
        matches!(
            protection,
            Protection::None | Protection::Tls(Proof::Nothing)
        )
    });
    if has_ca && may_be_anyone {
        diagnostics.warn(format!("{field}: a CA bundle is given but sslmode does not ask for verification: use verify-full"));
    }
}

fn names_the_mounted_ca(url: &PgUrl) -> bool {
    url.ssl_root_cert.as_deref() == Some(CA_PATH)
}

fn warn_of_unnamed_ca(field: &str, url: &PgUrl, diagnostics: &mut Diagnostics) {
    if !names_the_mounted_ca(url) {
        diagnostics.warn(format!("{field}: the CA bundle is mounted at {CA_PATH}, but the URL does not name it, so nothing is verified by it: add sslrootcert={CA_PATH}"));
    }
}

/// Whether Bytebase can trust any server by the bundle. One that it does not verify by is only
/// remarked on.
fn check_trust(
    source: &CaSource,
    bundle: &CaBundle,
    url: &PgUrl,
    now: Timestamp,
    diagnostics: &mut Diagnostics,
) {
    let field = match source {
        CaSource::Secret(_) => "spec.database.caSecretRef",
        CaSource::ConfigMap(_) => "spec.database.caConfigMapRef",
    };
    let verifies = names_the_mounted_ca(url) && url.verifies();
    let fault = match bundle.trust(now) {
        Trust::Valid { until: end } => {
            diagnostics.ca_ends = Timestamp::from_second(end.as_second()).ok();
            let first = bundle.first_end(now).filter(|first| *first < end);
            // A certificate is valid in its last second as well.
            let moments =
                |end: Timestamp| reminders::moments(end).chain(end.checked_add(SECOND).ok());
            let moments = moments(end).chain(first.into_iter().flat_map(moments));
            diagnostics.changes_at = moments.filter(|moment| *moment > now).min();
            if let Some(days) = reminders::passed(end, now) {
                diagnostics.ends_soon = Some(format!(
                    "{field}: the last valid certificate of the CA bundle ends within {days} ({end}), and from then on Bytebase refuses the database server: add the certificate that follows it to the bundle"
                ));
            } else if let Some((first, days)) =
                first.and_then(|first| Some((first, reminders::passed(first, now)?)))
            {
                diagnostics.warn(format!(
                    "{field}: a certificate of the CA bundle ends within {days} ({first}), another one is valid longer; from then on Bytebase refuses a database server whose certificate rests on the first: see that the server has one that rests on the other, and take the first out"
                ));
            }
            return;
        }
        Trust::Ended(end) => format!(
            "no certificate of the CA bundle is valid any more, the last one ended at {end}"
        ),
        Trust::NotYet(from) => {
            diagnostics.changes_at = Some(from);
            format!("no certificate of the CA bundle is valid yet, the first one is from {from} on")
        }
    };
    if verifies {
        diagnostics.problems.push(Problem::blocking(
            field,
            Reason::InvalidSecret,
            format!("{fault}, so Bytebase refuses the database server: put a valid certificate into the bundle"),
        ));
    } else {
        diagnostics.warn(format!("{field}: {fault}"));
    }
}

fn operator_url(
    spec: &DatabaseSpec,
    replicas: &PgUrl,
    references: &References,
    has_ca: bool,
    diagnostics: &mut Diagnostics,
) -> Option<PgUrl> {
    let Some(reference) = &spec.monitor_secret_ref else {
        // A proxy inside the pod, which the operator is not in.
        return (replicas.iam.is_none() && !replicas.is_inside_the_pod()).then(|| replicas.clone());
    };
    let field = "spec.database.monitorSecretRef";
    let text = diagnostics.keep(references.secret_text(field, reference))?;
    let where_ = reference.to_string();
    let monitor = parse(field, Reason::InvalidSecret, &where_, text.expose_secret());
    let monitor = monitor.and_then(|monitor| {
        if !monitor.is_inside_the_pod() {
            return Ok(monitor);
        }
        let message = format!(
            "{where_} leads to a socket, or to a loopback or link-local address, which is another one for the operator: give the server's name or address"
        );
        Err(Problem::blocking(field, Reason::InvalidSecret, message))
    });
    let monitor = diagnostics.keep(monitor)?;
    // A login in clear text has no use for a CA.
    if has_ca && monitor.ssl_mode != SslMode::Disable {
        warn_of_unnamed_ca(field, &monitor, diagnostics);
    }
    Some(monitor)
}

fn ca(
    spec: &DatabaseSpec,
    references: &References,
    checksum: &mut Checksum,
    diagnostics: &mut Diagnostics,
) -> Option<(CaSource, CaBundle)> {
    let (field, source, bytes) = match (&spec.ca_secret_ref, &spec.ca_config_map_ref) {
        (Some(_), Some(_)) => {
            diagnostics.invalid(
                "spec.database",
                "only one of caSecretRef and caConfigMapRef may be set",
            );
            return None;
        }
        (None, None) => return None,
        (Some(reference), None) => {
            let field = "spec.database.caSecretRef";
            (
                field,
                CaSource::Secret(reference.clone()),
                diagnostics.keep(references.secret_bytes(field, reference))?,
            )
        }
        (None, Some(reference)) => {
            let field = "spec.database.caConfigMapRef";
            (
                field,
                CaSource::ConfigMap(reference.clone()),
                diagnostics.keep(references.config_map_bytes(field, reference))?,
            )
        }
    };
    let bundle = match CaBundle::parse(bytes.expose_secret()) {
        Ok(bundle) => bundle,
        Err(error) => {
            diagnostics.problems.push(Problem::blocking(
                field,
                Reason::InvalidSecret,
                format!("{source} {error}"),
            ));
            return None;
        }
    };
    if !bundle.skipped.is_empty() {
        let skipped = &bundle.skipped;
        diagnostics.warn(format!(
            "{field}: of the bundle {skipped}, and Bytebase and the operator pass over what is no certificate; a private key does not belong there"
        ));
    }
    checksum.add("ca", bytes.expose_secret());
    Some((source, bundle))
}

/// SHA-256 over named values; each is framed by its length, so that no two lists of values
/// are alike.
#[derive(Default)]
struct Checksum(Sha256);

impl Checksum {
    fn add(&mut self, name: &str, value: &[u8]) {
        self.0.update(name.as_bytes());
        self.0.update((value.len() as u64).to_be_bytes());
        self.0.update(value);
    }

    fn finish(self) -> String {
        hex::encode(self.0.finalize())
    }
}
