//! What is read in a connection string, beside what the driver reads there. Nothing is sent.

use super::{Driver, conclude};
use bytebase_contract::pg_url::{PgUrl, Proof, Protection};
use bytebase_login::plan::{self, Endpoint};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use testkit::certificates::Authority;

/// The texts of the tables in the contract's own tests, and why the driver is to read some of them
/// otherwise. No other text can stand in those tables.
const TEXTS: &str = include_str!("../../../contract/src/pg_url/texts.json");

impl Driver {
    /// What it reads; `None` if it does not take the text.
    fn read(&mut self, text: &str) -> Option<Value> {
        let answer = self.ask(&json!({"url": text, "parse_only": true}));
        let mut target = answer.get("target")?.clone();
        // The server then takes the name of the role.
        if target["database"] == "" {
            target["database"] = target["user"].clone();
        }
        Some(target)
    }
}

/// What the contract reads and which attempts the login then plans, in the words of the driver's
/// program; `None` if the contract does not take the text.
fn read(text: &str) -> Option<Value> {
    let url = PgUrl::parse(text).ok()?;
    let endpoints: Vec<Vec<Endpoint>> = url
        .hosts
        .iter()
        .map(|at| {
            vec![if plan::is_socket(&at.host) {
                Endpoint::socket(at)
            } else {
                // Whatever a resolver would say.
                Endpoint::Tcp(SocketAddr::from(([192, 0, 2, 1], at.port)))
            }]
        })
        .collect();
    let attempts: Vec<Value> = plan::attempts(&endpoints, url.protections())
        .iter()
        .map(|planned| attempt(&url, planned.host, planned.protection))
        .collect();
    let password = url
        .password
        .as_ref()
        .map_or("", ExposeSecret::expose_secret);
    let attrs: &str = url.target_session_attrs.as_ref();
    Some(json!({
        "attempts": attempts,
        "user": url.user,
        "password": password,
        "database": url.database,
        "attrs": attrs,
        "timeout": url.connect_timeout().unwrap_or_default().as_secs(),
        "params": url.runtime_params,
    }))
}

fn attempt(url: &PgUrl, host: usize, protection: Protection) -> Value {
    let at = &url.hosts[host];
    let tls = match protection {
        Protection::None => "none",
        Protection::Tls(Proof::Nothing) => "nothing",
        Protection::Tls(Proof::Chain) => "chain",
        Protection::Tls(Proof::ChainAndName) => "chain-and-name",
    };
    // Neither an address nor the dot at the end of a name is announced.
    let is_name = at.host.parse::<IpAddr>().is_err();
    let announced = if protection != Protection::None && is_name && url.announces_name() {
        at.host.strip_suffix('.').unwrap_or(&at.host)
    } else {
        ""
    };
    json!({"host": at.host, "port": at.port, "tls": tls, "announced": announced})
}

struct Readings {
    driver: Driver,
    read: usize,
    refused: usize,
    exceptions: usize,
    /// What is to be printed: each reason with its texts.
    reasons: String,
    faults: Vec<String>,
}

impl Readings {
    fn agree(&mut self, text: &str) {
        let (ours, theirs) = (read(text), self.driver.read(text));
        if ours != theirs {
            self.faults.push(format!(
                "{text:?}\n  contract: {ours:?}\n  driver:   {theirs:?}"
            ));
        } else if ours.is_some() {
            self.read += 1;
        } else {
            self.refused += 1;
        }
    }

    /// They differ, on purpose.
    fn differ(&mut self, why: &str, texts: &[String]) {
        let _ = writeln!(self.reasons, "  on purpose: {why}:");
        for text in texts {
            let (ours, theirs) = (read(text), self.driver.read(text));
            if ours == theirs {
                self.faults
                    .push(format!("{text:?}\n  is no exception any more: {ours:?}"));
                continue;
            }
            self.exceptions += 1;
            let shown: String = text.chars().take(100).collect();
            let _ = writeln!(self.reasons, "    {shown:?}");
        }
    }

    fn report(self) {
        let Self {
            read,
            refused,
            exceptions,
            reasons,
            faults,
            ..
        } = self;
        let report = format!(
            "contract and driver: {} texts; {read} are read the same, {refused} refused by both, {exceptions} differ on purpose, {} by mistake\n{reasons}",
            read + refused + exceptions + faults.len(),
            faults.len(),
        );
        conclude(report, &faults);
    }
}

/// The text with files of ours in place of those of a pod, since the driver opens some when it
/// reads their names.
fn in_place(text: &str, files: &Path) -> String {
    let mut text = text.to_owned();
    for name in ["sslrootcert", "sslcert", "sslkey"] {
        let ours = format!("{name}={}/", files.display());
        text = text.replace(&format!("{name}=/"), &ours);
    }
    text
}

#[test]
fn each_connection_string_is_read_as_the_driver_reads_it() {
    let scratch = tempfile::tempdir().unwrap();
    let authority = Authority::new("an authority");
    let certified = authority.certify_role("u");
    for (name, content) in [
        ("ca", authority.certificate()),
        ("c", certified.certificate),
        ("k", certified.key),
    ] {
        fs::write(scratch.path().join(name), content).unwrap();
    }
    let texts: Value = serde_json::from_str(TEXTS).unwrap();
    let listed = |list: &Value| -> Vec<String> {
        let texts = list.as_array().unwrap().iter();
        texts
            .map(|text| in_place(text.as_str().unwrap(), scratch.path()))
            .collect()
    };
    let mut readings = Readings {
        driver: Driver::start(&scratch.path().join("ca")),
        read: 0,
        refused: 0,
        exceptions: 0,
        reasons: String::new(),
        faults: Vec::new(),
    };
    for text in listed(&texts["agree"]) {
        readings.agree(&text);
        // And as Bytebase is given it where it is put together from parts.
        if let Ok(url) = PgUrl::parse(&text) {
            let uri = url.to_uri();
            readings.agree(uri.expose_secret());
            assert_eq!(read(uri.expose_secret()), read(&text), "{text:?}");
        }
    }
    for (why, texts) in texts["differ"].as_object().unwrap() {
        readings.differ(why, &listed(texts));
    }
    let long = format!("postgres://u@h/{}", "d".repeat(16 * 1024));
    readings.differ("no one writes that much", &[long]);
    readings.report();
}
