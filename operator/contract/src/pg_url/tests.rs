use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// The texts of all tables here, and why the driver is to read some of them otherwise. A test of
/// the login puts them before the driver.
#[derive(serde::Deserialize)]
struct Texts {
    agree: Vec<String>,
    differ: BTreeMap<String, Vec<String>>,
}

static TEXTS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let texts: Texts = serde_json::from_str(include_str!("texts.json")).expect("a list of texts");
    let differ = texts.differ.into_values().flatten();
    texts.agree.into_iter().chain(differ).collect()
});

fn read(text: &str) -> Result<PgUrl, PgUrlError> {
    assert!(
        TEXTS.contains(text),
        "the driver is to read {text:?} too, so it belongs into texts.json"
    );
    PgUrl::parse(text)
}

fn parsed(text: &str) -> PgUrl {
    read(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> PgUrlError {
    read(text).expect_err(text)
}

/// What comes of it as Bytebase is given it.
fn reread(url: &PgUrl) -> PgUrl {
    let uri = url.to_uri();
    PgUrl::parse(uri.expose_secret()).unwrap_or_else(|error| panic!("{url:?}: {error}"))
}

fn password(url: &PgUrl) -> Option<&str> {
    url.password.as_ref().map(ExposeSecret::expose_secret)
}

fn at(host: &str, port: u16) -> HostPort {
    HostPort {
        host: host.to_owned(),
        port,
    }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn a_uri_shows_all_its_parts() {
    let url = parsed(
        "postgresql://bb:p%40ss@pg.example.com:5433/meta?sslmode=verify-full&sslrootcert=/ca\
         &target_session_attrs=read-write&connect_timeout=10&search_path=bb&options=-c%20work_mem%3D4MB",
    );
    assert_eq!(url.hosts, [at("pg.example.com", 5433)]);
    assert_eq!(
        (url.user.as_str(), password(&url), url.database.as_str()),
        ("bb", Some("p@ss"), "meta")
    );
    assert_eq!(
        (url.ssl_mode, url.ssl_root_cert.as_deref()),
        (SslMode::VerifyFull, Some("/ca"))
    );
    assert_eq!(url.target_session_attrs, TargetSessionAttrs::ReadWrite);
    assert_eq!(url.connect_timeout(), Some(Duration::from_secs(10)));
    assert_eq!(
        url.runtime_params,
        map(&[("search_path", "bb"), ("options", "-c work_mem=4MB")])
    );
    assert_eq!((url.form(), url.minimum_version()), (PgUrlForm::Uri, None));
    assert_eq!(url.identity_hint(), "pg.example.com:5433/meta");
}

#[test]
fn what_is_left_out_has_the_drivers_default() {
    let url = parsed("postgres://bb@pg");
    assert_eq!(url.hosts, [at("pg", 5432)]);
    assert_eq!((url.database.as_str(), url.has_password()), ("bb", false));
    assert_eq!(
        (url.ssl_mode, url.target_session_attrs),
        (SslMode::Prefer, TargetSessionAttrs::Any)
    );
    assert_eq!(
        (
            url.connect_timeout(),
            url.iam.as_ref(),
            url.ssl_root_cert.as_ref()
        ),
        (None, None, None)
    );
}

#[test]
fn uris_are_divided_as_the_driver_divides_them() {
    for (text, hint, user, secret) in [
        ("postgres://u:p@h/d", "h:5432/d", "u", Some("p")),
        ("postgres://u:p@h:/d", "h:5432/d", "u", Some("p")),
        ("postgres://u:p@h?dbname=d", "h:5432/d", "u", Some("p")),
        ("postgres://u:p@h/?", "h:5432/u", "u", Some("p")),
        ("postgres://u@h/d%2Fe", "h:5432/d/e", "u", None),
        ("postgres://u:p@s@h/d", "h:5432/d", "u", Some("p@s")),
        ("postgres://u:p:s+x@h/d", "h:5432/d", "u", Some("p:s+x")),
        (
            "postgres://u%40c:%C3%A9%25@h/d",
            "h:5432/d",
            "u@c",
            Some("é%"),
        ),
        ("postgres://u:p@a:1,b:2/d", "a:1,b:2/d", "u", Some("p")),
        ("postgres://u:p@a,b/d?port=7", "a:7,b:7/d", "u", Some("p")),
        (
            "postgres://u@[2001:db8::1]/d",
            "[2001:db8::1]:5432/d",
            "u",
            None,
        ),
        ("postgres://u@[::1]:7/d", "[::1]:7/d", "u", None),
        (
            "postgres://h?user=u&password=a+b%2B",
            "h:5432/u",
            "u",
            Some("a b+"),
        ),
        (
            "postgres:///d?host=a,::1&port=1,2&user=u",
            "a:1,[::1]:2/d",
            "u",
            None,
        ),
        (
            "postgres://u@under_score.svc./d",
            "under_score.svc.:5432/d",
            "u",
            None,
        ),
    ] {
        let url = parsed(text);
        assert_eq!(url.identity_hint(), hint, "{text}");
        assert_eq!(
            (url.user.as_str(), password(&url)),
            (user, secret),
            "{text}"
        );
    }
}

#[test]
fn keyword_values_are_divided_as_the_driver_divides_them() {
    for (text, secret, database) in [
        ("host=h user=u password=p dbname=d", Some("p"), "d"),
        ("host=h\tuser=u\npassword=p  database=d ", Some("p"), "d"),
        (
            "host = h user = u password='p' dbname=d port=5432",
            Some("p"),
            "d",
        ),
        (
            "host=h user=u password='two words' dbname=d",
            Some("two words"),
            "d",
        ),
        (
            r"host=h user=u password='it\'s' dbname=d",
            Some("it's"),
            "d",
        ),
        (
            r"host=h user=u password='back\\slash' dbname=d",
            Some(r"back\slash"),
            "d",
        ),
        (
            r"host=h user=u password=it\'s\\ dbname=d",
            Some(r"it's\"),
            "d",
        ),
        (r"host=h user=u password='a\b' dbname=d", Some(r"a\b"), "d"),
        (
            "host=h user=u password=a@b/c?d#e%f dbname=d",
            Some("a@b/c?d#e%f"),
            "d",
        ),
        ("host=h user=u password=a=b dbname=d", Some("a=b"), "d"),
        ("host=h user=u", None, "u"),
        ("host=h user=u dbname=", None, "u"),
    ] {
        let url = parsed(text);
        assert_eq!(
            (url.hosts.clone(), url.user.as_str()),
            (vec![at("h", 5432)], "u"),
            "{text}"
        );
        assert_eq!(
            (password(&url), url.database.as_str()),
            (secret, database),
            "{text}"
        );
        assert_eq!(
            (url.form(), url.minimum_version()),
            (PgUrlForm::KeywordValue, Some(Version::new(3, 18, 0))),
            "{text}"
        );
    }
}

#[test]
fn what_bytebase_would_take_for_a_file_is_named_by_its_form() {
    for (text, expected) in [
        ("POSTGRES://u:p@h/d", FileTrap::UpperCaseScheme),
        ("Postgresql://u:p@h/d", FileTrap::UpperCaseScheme),
        ("jdbc:postgresql://h/d?user=u", FileTrap::Jdbc),
        ("postgresql+asyncpg://u:p@h/d", FileTrap::OtherScheme),
        ("mysql://u:p@h/d", FileTrap::OtherScheme),
        ("'postgres://u:p@h/d'", FileTrap::Quoted),
        ("\"postgres://u:p@h/d\"", FileTrap::Quoted),
        (" postgres://u:p@h/d", FileTrap::LeadingBlank),
        ("\npostgres://u:p@h/d", FileTrap::LeadingBlank),
        ("\u{feff}postgres://u:p@h/d", FileTrap::LeadingBlank),
        ("file:/secrets/pg-url", FileTrap::FileUrl),
        ("PG_URL=postgres://u:p@h/d", FileTrap::Assignment),
        ("u:p@h:5432/d", FileTrap::NoScheme),
        ("postgres:/u", FileTrap::Other),
        ("work_mem=4MB", FileTrap::Other),
        ("Host=h", FileTrap::Other),
    ] {
        assert_eq!(
            refused(text),
            PgUrlError::NotAConnectionString(expected),
            "{text}"
        );
    }
}

#[test]
fn a_file_in_the_pod_is_refused_for_what_it_is() {
    for text in ["/secrets/pg-url", "./pg-url", "../pg-url"] {
        let error = refused(text);
        assert_eq!(error, PgUrlError::FileInPod, "{text}");
        let message = error.to_string();
        assert!(
            message.contains("does not read files in the pod"),
            "{message}"
        );
        assert!(!message.contains("fail to start"), "{message}");
    }
}

#[test]
fn a_socket_in_the_pod_is_a_server_that_only_bytebase_reaches() {
    for (text, hint) in [
        ("postgres:///d?host=/tmp&user=u", "/tmp:5432/d"),
        ("user=u host=/run/proxy port=5433", "/run/proxy:5433/u"),
        ("postgres:///d?host=a,/tmp&port=1,2&user=u", "a:1,/tmp:2/d"),
    ] {
        let url = parsed(text);
        assert!(url.is_inside_the_pod(), "{text}");
        assert_eq!(url.identity_hint(), hint);
        assert_eq!(reread(&url), url);
    }
}

#[test]
fn of_several_servers_two_strings_lead_to_one_only_if_they_ask_for_the_same() {
    use TargetSessionAttrs::{Any, PreferStandby, Primary, ReadWrite};
    let of = |hosts: &[&str], attrs| {
        let mut url = parsed("postgres://u:p@h/d");
        url.hosts = hosts.iter().map(|host| at(host, 5432)).collect();
        url.target_session_attrs = attrs;
        url
    };
    for (mine, theirs, is_same) in [
        (of(&["a"], Any), of(&["a"], ReadWrite), true),
        (of(&["a"], Any), of(&["b"], Any), false),
        (of(&["a", "b"], Any), of(&["a", "b"], Any), true),
        (of(&["a", "b"], ReadWrite), of(&["a", "b"], ReadWrite), true),
        (of(&["a", "b"], Any), of(&["a", "b"], ReadWrite), false),
        (of(&["a", "b"], Any), of(&["b", "a"], Any), false),
        (of(&["a", "b"], Any), of(&["a"], Any), false),
    ] {
        assert_eq!(mine.is_at_the_place_of(&theirs), is_same, "{mine:?}");
        assert_eq!(theirs.is_at_the_place_of(&mine), is_same, "{theirs:?}");
    }
    for (attrs, may) in [
        (Any, true),
        (PreferStandby, true),
        (Primary, false),
        (ReadWrite, false),
    ] {
        assert_eq!(of(&["a", "b"], attrs).may_take_a_standby(), may);
        assert!(!of(&["a"], attrs).may_take_a_standby());
    }
}

#[test]
fn an_unencoded_password_gets_help() {
    use PgUrlError as E;
    for (text, expected) in [
        ("postgres://u:pa/ss@h/d", E::LateAt { offset: 19 }),
        ("postgres://u:1/ss@h/d", E::LateAt { offset: 18 }),
        ("postgres://u:pa?ss@h/d", E::LateAt { offset: 19 }),
        ("postgres://u:p@a/ss@h/d", E::LateAt { offset: 20 }),
        ("postgres://u:p@a?ss@h/d", E::LateAt { offset: 20 }),
        ("postgres://u:pa#ss@h/d", E::Fragment { offset: 16 }),
        ("postgres://u:1#ss@h/d", E::Fragment { offset: 15 }),
        ("postgres://u:50%off@h/d", E::BadPercent { offset: 16 }),
        ("postgres://u:50%@h/d", E::BadPercent { offset: 16 }),
        ("postgres://u:a b@h/d", E::ReservedInLogin { offset: 15 }),
        ("postgres://u:a[b@h/d", E::ReservedInLogin { offset: 15 }),
        ("postgres://u:a^b@h/d", E::ReservedInLogin { offset: 15 }),
        ("postgres://u:é@h/d", E::ReservedInLogin { offset: 14 }),
    ] {
        let error = refused(text);
        assert_eq!(error, expected, "{text}");
        assert!(error.to_string().contains("percent-encoded"), "{error}");
    }
}

#[test]
fn each_broken_uri_is_refused_with_its_reason() {
    use PgUrlError as E;
    let long = format!("postgres://u@h/{}", "d".repeat(MAX_LENGTH));
    let expected = E::TooLong {
        length: long.len(),
        limit: MAX_LENGTH,
    };
    assert_eq!(PgUrl::parse(&long).expect_err("too long"), expected);
    for (text, expected) in [
        ("", E::Empty),
        ("postgres://u:p@h/d\n", E::TrailingLineBreak),
        ("postgres://u:p@h/d\r\n", E::TrailingLineBreak),
        ("postgres://u:p\n@h/d", E::ControlCharacter { offset: 15 }),
        ("postgres://u:p@h/d\0", E::ControlCharacter { offset: 19 }),
        (
            "postgres://u:%FF@h/d",
            E::NotText {
                part: Part::Password,
            },
        ),
        (
            "postgres://u:%00@h/d",
            E::NotText {
                part: Part::Password,
            },
        ),
        (
            "postgres://u@h/d%0A",
            E::ControlIn {
                part: Part::Database,
            },
        ),
        ("postgres://u%0A@h/d", E::ControlIn { part: Part::User }),
        ("postgres://h/d", E::MissingUser),
        ("postgres://:p@h/d", E::MissingUser),
        ("postgres://u:@h/d", E::EmptyPassword),
        ("postgres://u:p@/d", E::MissingHost),
        ("postgres://", E::MissingHost),
        ("postgres:///d", E::MissingHost),
        ("postgres://u:p@a,,b/d", E::EmptyHost { position: 2 }),
        ("postgres://u:p@:5432/d", E::MissingHost),
        ("postgres://u:p@a b/d", E::BadHost { position: 1 }),
        ("postgres://u:p@a,b!/d", E::BadHost { position: 2 }),
        ("postgres://u:p@bücher/d", E::BadHost { position: 1 }),
        ("postgres://u:p@010.0.0.1/d", E::NumericHost { position: 1 }),
        ("postgres://u:p@a,10.1/d", E::NumericHost { position: 2 }),
        (
            "postgres://u:p@2130706433/d",
            E::NumericHost { position: 1 },
        ),
        (
            "postgres://u:p@0x7f.0.0.0X1/d",
            E::NumericHost { position: 1 },
        ),
        ("postgres://u:p@10.0.0.1./d", E::NumericHost { position: 1 }),
        (
            "postgres://u:p@10.0.0.256/d",
            E::NumericHost { position: 1 },
        ),
        ("postgres://u:p@a..b/d", E::BadHost { position: 1 }),
        ("postgres://u:p@%2Ftmp/d", E::BadHost { position: 1 }),
        ("postgres://u:p@[x]/d", E::BadHost { position: 1 }),
        ("postgres://u:p@::1/d", E::Ipv6Form),
        ("postgres://u:p@a,[::1]/d", E::Ipv6Form),
        ("postgres://u:p@[::1],a/d", E::Ipv6Form),
        ("postgres://u:p@[::1]x/d", E::BadPort { position: 1 }),
        ("postgres://u:p@h:0/d", E::BadPort { position: 1 }),
        ("postgres://u:p@h:70000/d", E::BadPort { position: 1 }),
        ("postgres://u:p@h:x/d", E::BadPort { position: 1 }),
        ("postgres://u:p@h:1:2/d", E::BadPort { position: 1 }),
        ("postgres://u:p@a:1,b:x/d", E::BadPort { position: 2 }),
        ("postgres://u:p@h/d?port=", E::BadPort { position: 1 }),
        ("postgres://u:p@h/d?port=%2B1", E::BadPort { position: 1 }),
        (
            "postgres://u:p@a:1,b/d",
            E::PortsDoNotMatchHosts { hosts: 2, ports: 1 },
        ),
        (
            "postgres://u:p@a,b:1/d",
            E::PortsDoNotMatchHosts { hosts: 2, ports: 1 },
        ),
        (
            "postgres://u:p@a/d?port=1,2",
            E::PortsDoNotMatchHosts { hosts: 1, ports: 2 },
        ),
        ("postgres://u:p@h/d/", E::SlashInDatabase),
        ("postgres://u:p@h//d", E::SlashInDatabase),
        ("postgres://u:p@h/%2Fd", E::SlashInDatabase),
        ("postgres://u:p@h/d?a=1;b=2", E::Semicolon { offset: 23 }),
        (
            "postgres://u:p@h/d?sslmode=%zz",
            E::BadPercent { offset: 28 },
        ),
        ("postgres://u:p@h/d?%zz=1", E::BadPercent { offset: 20 }),
        ("postgres://u:p@h/d?=1", E::EmptyName { position: 1 }),
    ] {
        assert_eq!(refused(text), expected, "{text}");
    }
}

#[test]
fn each_broken_keyword_value_text_is_refused_with_its_reason() {
    use PgUrlError as E;
    for (text, expected) in [
        (
            "host=h user=u password=two words dbname=d",
            E::MissingEquals { offset: 28 },
        ),
        ("host=h user=u words", E::MissingEquals { offset: 15 }),
        (
            "host=h user=u password='it's' dbname=d",
            E::TextAfterQuote { offset: 28 },
        ),
        ("host=h user=u password='open", E::OpenQuote { offset: 24 }),
        (
            r"host=h user=u password='open\'",
            E::OpenQuote { offset: 24 },
        ),
        (r"host=h user=u password=open\", E::LoneBackslash),
        ("host=h user=u  ", E::TrailingBlanks),
        ("host=h user='u'\n", E::TrailingBlanks),
        ("host=h user=u =x", E::EmptyName { position: 3 }),
        ("host=h user=u\0", E::ControlCharacter { offset: 14 }),
        ("host=h", E::MissingUser),
        ("host=h user=''", E::MissingUser),
        ("host=h user=u password=", E::EmptyPassword),
        ("user=u", E::MissingHost),
        ("user=u host=", E::MissingHost),
        ("user=u host=[::1]", E::BadHost { position: 1 }),
        (
            "user=u host=a,b,c port=1,2",
            E::PortsDoNotMatchHosts { hosts: 3, ports: 2 },
        ),
    ] {
        assert_eq!(refused(text), expected, "{text}");
    }
}

#[test]
fn the_same_thing_twice_is_refused() {
    for text in [
        "postgres://u:p@h/d?user=v",
        "postgres://u:p@h/d?USER=v",
        "postgres://u:p@h/d?password=v",
        "postgres://u:p@h/d?dbname=v",
        "postgres://u:p@h/d?host=v",
        "postgres://u:p@h:1/d?port=2",
        "postgres://u:p@h/d?sslmode=require&sslmode=disable",
        "postgres://u:p@h/?dbname=v&database=w",
        "postgres://u:p@h/d?TimeZone=UTC&timezone=CET",
        "host=h user=u user=v",
    ] {
        assert!(matches!(refused(text), PgUrlError::GivenTwice(_)), "{text}");
    }
}

#[test]
fn unknown_parameters_are_named_if_the_program_knows_the_name() {
    let label = |position, name, similar| {
        PgUrlError::UnknownParameter(ParameterLabel {
            position,
            name,
            similar,
        })
    };
    for (text, expected, words) in [
        (
            "postgres://u:p@h/d?schema=public",
            label(1, Some("schema"), Some("search_path")),
            "`schema` (parameter 1) is no setting",
        ),
        (
            "postgres://u:p@h/d?sslmode=require&pgbouncer=true",
            label(2, Some("pgbouncer"), None),
            "`pgbouncer` (parameter 2)",
        ),
        (
            "postgres://u:p@h/d?sslmode+=require",
            label(1, None, Some("sslmode")),
            "did you mean `sslmode`?",
        ),
        (
            "postgres://u:p@h/d?sslmod=require",
            label(1, None, Some("sslmode")),
            "did you mean `sslmode`?",
        ),
        (
            "postgres://u:p@h/d?SEARCH-PATH=x",
            label(1, None, Some("search_path")),
            "did you mean `search_path`?",
        ),
        (
            "postgres://u:p@h/d?hunter2hunter2=x",
            label(1, None, None),
            "parameter 1 is no setting",
        ),
        (
            "host=h user=u replication=database",
            label(3, Some("replication"), None),
            "`replication` (parameter 3)",
        ),
    ] {
        let error = refused(text);
        assert_eq!(error, expected, "{text}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn what_the_driver_hands_to_the_server_although_libpq_knows_it_is_refused() {
    for (name, value) in [
        ("channel_binding", "require"),
        ("max_protocol_version", "3.0"),
        ("min_protocol_version", "3.0"),
        ("require_auth", "scram-sha-256"),
        ("sslnegotiation", "direct"),
        ("sslnegotiation", "postgres"),
        ("sslnegotiation", ""),
    ] {
        for text in [
            format!("postgres://u:p@h/d?sslmode=require&{name}={value}"),
            format!("host=h user=u sslmode=require {name}={value}"),
        ] {
            let error = refused(&text);
            assert_eq!(error, PgUrlError::UnsupportedParameter { name }, "{text}");
            assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
        }
    }
}

#[test]
fn settings_of_the_server_and_of_extensions_are_handed_on() {
    let url = parsed(
        "postgres://u:p@h/d?application_name=x&TimeZone=UTC&statement_timeout=1&myapp.user=me&work_mem=",
    );
    assert_eq!(
        url.runtime_params,
        map(&[
            ("application_name", "x"),
            ("TimeZone", "UTC"),
            ("statement_timeout", "1"),
            ("myapp.user", "me"),
            ("work_mem", "")
        ])
    );
}

#[test]
fn values_the_driver_refuses_are_refused() {
    for (text, expected) in [
        ("sslmode=on", "sslmode"),
        ("sslmode=REQUIRE", "sslmode"),
        ("target_session_attrs=master", "target_session_attrs"),
        ("target_session_attrs=", "target_session_attrs"),
        ("connect_timeout=10s", "connect_timeout"),
        ("connect_timeout=-1", "connect_timeout"),
        ("connect_timeout=", "connect_timeout"),
        ("statement_cache_capacity=many", "statement_cache_capacity"),
        (
            "description_cache_capacity=2147483648",
            "description_cache_capacity",
        ),
        ("default_query_exec_mode=fast", "default_query_exec_mode"),
        ("sslsni=yes", "sslsni"),
        ("service=", "service"),
    ] {
        let error = refused(&format!("postgres://u:p@h/d?{text}"));
        assert!(
            matches!(error, PgUrlError::BadValue { name, .. } if name == expected),
            "{text}: {error}"
        );
    }
    assert_eq!(
        refused("postgres://u:p@h/d?sslcert=/c"),
        PgUrlError::HalfClientCertificate
    );
    assert_eq!(
        refused("postgres://u:p@h/d?sslkey=/k&sslcert="),
        PgUrlError::HalfClientCertificate
    );
}

#[test]
fn files_in_the_pod_are_listed_and_never_followed() {
    let url = parsed(
        "postgres://u@h/d?sslcert=/c&sslkey=/k&sslrootcert=/ca&passfile=/p&servicefile=/s&service=x",
    );
    assert_eq!(
        url.pod_file_parameters(),
        ["passfile", "service", "servicefile", "sslcert", "sslkey"]
    );
    assert_eq!(url.ssl_root_cert.as_deref(), Some("/ca"));
    assert!(
        parsed("postgres://u@h/d?passfile=")
            .pod_file_parameters()
            .is_empty()
    );
}

#[test]
fn a_ca_strengthens_the_mode() {
    use SslMode::{Allow, Disable, Prefer, Require, VerifyCa, VerifyFull};
    for (query, expected) in [
        ("", Prefer),
        ("sslmode=", Prefer),
        ("sslmode=disable", Disable),
        ("sslmode=allow", Allow),
        ("sslmode=require", Require),
        ("sslmode=require&sslrootcert=/ca", VerifyCa),
        ("sslmode=require&sslrootcert=", Require),
        ("sslmode=prefer&sslrootcert=/ca", Prefer),
        ("sslmode=verify-ca&sslrootcert=/ca", VerifyCa),
        ("sslmode=verify-full", VerifyFull),
        ("sslmode=require&sslrootcert=system", VerifyFull),
        ("sslrootcert=system", VerifyFull),
        ("sslmode=disable&sslrootcert=system", VerifyFull),
        ("sslmode=verify-ca&sslrootcert=system", VerifyFull),
    ] {
        assert_eq!(
            parsed(&format!("postgres://u:p@h/d?{query}")).effective_ssl_mode(),
            expected,
            "{query}"
        );
    }
}

#[test]
fn sslmode_becomes_the_attempts_that_the_driver_makes() {
    const CLEAR: Protection = Protection::None;
    const ANY: Protection = Protection::Tls(Proof::Nothing);
    const CHAIN: Protection = Protection::Tls(Proof::Chain);
    const NAME: Protection = Protection::Tls(Proof::ChainAndName);
    for (query, expected) in [
        ("sslmode=disable", &[CLEAR][..]),
        ("sslmode=allow", &[CLEAR, ANY]),
        ("sslmode=allow&sslrootcert=/ca", &[CLEAR, ANY]),
        ("", &[ANY, CLEAR]),
        ("sslrootcert=/ca", &[ANY, CLEAR]),
        ("sslmode=require", &[ANY]),
        ("sslmode=require&sslrootcert=/ca", &[CHAIN]),
        ("sslmode=verify-ca", &[CHAIN]),
        ("sslmode=verify-full", &[NAME]),
        ("sslrootcert=system", &[NAME]),
        ("sslmode=disable&sslrootcert=system", &[NAME]),
    ] {
        let url = parsed(&format!("postgres://u:p@h/d?{query}"));
        assert_eq!(url.protections(), expected, "{query}");
        let proves = expected
            .iter()
            .all(|attempt| matches!(*attempt, CHAIN | NAME));
        assert_eq!(url.verifies(), proves, "{query}");
    }
}

#[test]
fn there_are_not_more_hosts_than_a_database_has_servers() {
    let of = |count: usize| format!("postgres://u@{}/d", vec!["h"; count].join(","));
    assert_eq!(parsed(&of(32)).hosts.len(), 32);
    let expected = PgUrlError::TooManyHosts {
        count: 33,
        limit: 32,
    };
    assert_eq!(refused(&of(33)), expected);
    let keyword = format!("user=u host={}", vec!["h"; 33].join(","));
    assert_eq!(refused(&keyword), expected);
}

#[test]
fn a_ca_counts_only_where_the_string_names_its_file() {
    for (query, named) in [
        ("", false),
        ("sslmode=verify-full", false),
        ("sslmode=verify-full&sslrootcert=", false),
        ("sslrootcert=system", false),
        ("sslrootcert=/ca", true),
        ("sslmode=disable&sslrootcert=/ca", true),
    ] {
        let url = parsed(&format!("postgres://u@h/d?{query}"));
        assert_eq!(url.names_a_ca(), named, "{query}");
    }
}

#[test]
fn the_host_is_named_when_tls_begins_unless_that_is_turned_off() {
    for (query, named) in [
        ("", true),
        ("sslsni=1", true),
        ("sslsni=", true),
        ("sslsni=0", false),
        // It is to be proven then, and the driver has one place for both.
        ("sslmode=verify-full&sslsni=0", true),
        ("sslrootcert=system&sslsni=0", true),
    ] {
        let url = parsed(&format!("postgres://u@h/d?{query}"));
        assert_eq!(url.announces_name(), named, "{query}");
    }
}

#[test]
fn cloud_logins_are_recognised_with_the_version_they_need() {
    let url = parsed(
        "postgres://u@h/d?sslmode=verify-full&bytebase_aws_rds_iam=true&bytebase_aws_region=eu-west-1",
    );
    assert_eq!(
        url.iam,
        Some(Iam::AwsRds {
            region: "eu-west-1".into()
        })
    );
    assert_eq!(url.minimum_version(), Some(Version::new(3, 18, 0)));
    assert!(url.runtime_params.is_empty());
    let gcp = "postgres://u@h/d?bytebase_gcp_cloud_sql_iam=true&bytebase_gcp_cloud_sql_instance_connection_name=p:r:i";
    let url = parsed(gcp);
    assert_eq!(
        url.iam,
        Some(Iam::GcpCloudSql {
            instance: "p:r:i".into(),
            ip_type: None
        })
    );
    assert_eq!(url.minimum_version(), Some(Version::new(3, 20, 0)));
    let url = parsed(&format!("{gcp}&bytebase_gcp_cloud_sql_ip_type=psc"));
    assert_eq!(
        url.iam,
        Some(Iam::GcpCloudSql {
            instance: "p:r:i".into(),
            ip_type: Some("psc".into())
        })
    );
    // As Bytebase documents it: the instance takes the place of a host.
    for text in [
        "user=sa@project.iam dbname=bytebase bytebase_gcp_cloud_sql_iam=true bytebase_gcp_cloud_sql_instance_connection_name=p:r:i",
        "postgres://sa%40project.iam@/bytebase?bytebase_gcp_cloud_sql_iam=true&bytebase_gcp_cloud_sql_instance_connection_name=p:r:i",
    ] {
        let url = parsed(text);
        assert!(url.hosts.is_empty());
        assert_eq!(url.identity_hint(), "p:r:i/bytebase");
        assert_eq!(reread(&url), url);
        assert_eq!(url.minimum_version(), Some(Version::new(3, 20, 0)));
    }
    let keyword = "host=h user=u bytebase_gcp_cloud_sql_iam=true bytebase_gcp_cloud_sql_instance_connection_name=p:r:i";
    assert_eq!(
        parsed(keyword).minimum_version(),
        Some(Version::new(3, 20, 0))
    );
}

#[test]
fn cloud_logins_that_would_fail_or_be_ignored_are_refused() {
    use PgUrlError as E;
    for (query, expected) in [
        (
            "bytebase_aws_rds_iam=true",
            E::IamNeeds {
                flag: AWS_IAM,
                name: AWS_REGION,
            },
        ),
        (
            "bytebase_aws_rds_iam=true&bytebase_aws_region=",
            E::IamNeeds {
                flag: AWS_IAM,
                name: AWS_REGION,
            },
        ),
        (
            "bytebase_aws_rds_iam=TRUE&bytebase_aws_region=r",
            E::IamFlag { name: AWS_IAM },
        ),
        ("bytebase_aws_rds_iam=false", E::IamFlag { name: AWS_IAM }),
        (
            "bytebase_aws_region=r",
            E::IamWithoutFlag {
                name: AWS_REGION,
                flag: AWS_IAM,
            },
        ),
        ("bytebase_aws_rds_iam=true&bytebase_aws_region=r", E::IamTls),
        (
            "bytebase_aws_rds_iam=true&bytebase_aws_region=r&sslmode=require",
            E::IamTls,
        ),
        (
            "bytebase_aws_rds_iam=true&bytebase_aws_region=r&sslmode=verify-ca",
            E::IamTls,
        ),
        (
            "bytebase_gcp_cloud_sql_iam=true",
            E::IamNeeds {
                flag: GCP_IAM,
                name: GCP_INSTANCE,
            },
        ),
        (
            "bytebase_gcp_cloud_sql_ip_type=public",
            E::IamWithoutFlag {
                name: GCP_IP_TYPE,
                flag: GCP_IAM,
            },
        ),
        (
            "bytebase_gcp_cloud_sql_iam=true&bytebase_gcp_cloud_sql_instance_connection_name=i&bytebase_gcp_cloud_sql_ip_type=PSC",
            E::BadValue {
                name: GCP_IP_TYPE,
                allowed: "public, private or psc",
            },
        ),
        (
            "bytebase_gcp_cloud_sql_iam=true&bytebase_gcp_cloud_sql_instance_connection_name=i\
             &bytebase_aws_rds_iam=true&bytebase_aws_region=r",
            E::IamTwice,
        ),
    ] {
        assert_eq!(
            refused(&format!("postgres://u@h/d?{query}")),
            expected,
            "{query}"
        );
    }
    let two_hosts =
        "postgres://u@a,b/d?sslmode=verify-full&bytebase_aws_rds_iam=true&bytebase_aws_region=r";
    assert_eq!(refused(two_hosts), E::IamOneHost);
}

#[test]
fn a_password_beside_the_string_gives_way_to_one_inside() {
    let beside = || Some(SecretString::from("beside"));
    assert_eq!(
        password(&parsed("postgres://u@h/d").with_default_password(beside())),
        Some("beside")
    );
    assert_eq!(
        password(&parsed("postgres://u:inside@h/d").with_default_password(beside())),
        Some("inside")
    );
    assert_eq!(
        password(&parsed("postgres://u@h/d").with_default_password(None)),
        None
    );
    assert!(
        !parsed("postgres://u@h/d")
            .with_default_password(Some("".into()))
            .has_password()
    );
}

fn parts() -> PgParts {
    PgParts {
        host: "pg".into(),
        port: None,
        database: "meta".into(),
        user: "bb".into(),
        password: Some("p@/?#:% \\'é".into()),
        params: map(&[("sslmode", "require")]),
    }
}

#[test]
fn the_user_of_parts_is_shown_nowhere() {
    let url = PgUrl::from_parts(PgParts {
        user: "h0rse".into(),
        ..parts()
    });
    let url = url.expect("good parts");
    assert_eq!(url.user, "h0rse");
    assert!(!url.shown_user().contains("h0rse"));
    assert!(!format!("{url:?}").contains("h0rse"), "{url:?}");
    // What a URL says stays as it is.
    assert_eq!(parsed("postgres://bb:p@h/d").shown_user(), "bb");
}

#[test]
fn parts_need_no_encoding() {
    let url = PgUrl::from_parts(parts()).expect("good parts");
    assert_eq!(
        url.to_uri().expose_secret(),
        "postgresql://bb:p%40%2F%3F%23%3A%25%20%5C%27%C3%A9@pg:5432/meta?sslmode=require"
    );
    assert_eq!(reread(&url), url);
    let url = PgUrl::from_parts(PgParts {
        host: "[::1]".into(),
        port: Some(7),
        database: String::new(),
        ..parts()
    })
    .expect("good parts");
    assert_eq!(url.identity_hint(), "[::1]:7/bb");
}

#[test]
fn parts_are_checked_like_a_string() {
    for (parts, expected) in [
        (
            PgParts {
                host: String::new(),
                ..parts()
            },
            PgUrlError::MissingHost,
        ),
        (
            PgParts {
                port: Some(0),
                ..parts()
            },
            PgUrlError::BadPort { position: 1 },
        ),
        (
            PgParts {
                user: String::new(),
                ..parts()
            },
            PgUrlError::MissingUser,
        ),
        (
            PgParts {
                password: Some("".into()),
                ..parts()
            },
            PgUrlError::EmptyPassword,
        ),
        (
            PgParts {
                params: map(&[("password", "x")]),
                ..parts()
            },
            PgUrlError::HasOwnField { name: "password" },
        ),
        (
            PgParts {
                params: map(&[("dbname", "x")]),
                ..parts()
            },
            PgUrlError::HasOwnField { name: "dbname" },
        ),
        (
            PgParts {
                params: map(&[("", "x")]),
                ..parts()
            },
            PgUrlError::EmptyName { position: 1 },
        ),
        (
            PgParts {
                params: map(&[("search_path", "\0")]),
                ..parts()
            },
            PgUrlError::NotText {
                part: Part::Parameters,
            },
        ),
    ] {
        assert_eq!(PgUrl::from_parts(parts).expect_err("refused"), expected);
    }
}

#[test]
fn the_pods_own_addresses_are_recognised() {
    for (host, expected) in [
        ("localhost", true),
        ("LOCALHOST.", true),
        ("pg.localhost", true),
        ("127.8.0.1", true),
        ("0.0.0.0", true),
        ("[::1]", true),
        ("[::ffff:127.0.0.1]", true),
        ("169.254.169.254", true),
        ("[fe80::1]", true),
        ("pg", false),
        ("10.0.0.1", false),
        ("localhost.example.com", false),
    ] {
        assert_eq!(
            parsed(&format!("postgres://u@{host}/d")).is_inside_the_pod(),
            expected,
            "{host}"
        );
    }
}

#[test]
fn neither_debug_nor_hint_show_a_secret() {
    let url = parsed(
        "postgres://user1:hunter2@h/d?sslpassword=hunter2&sslcert=/c&sslkey=/k&options=-c%20a.b%3Dhunter2&passfile=/hunter2",
    );
    assert!(!format!("{url:?} {}", url.identity_hint()).contains("hunter2"));
    assert_eq!(url.identity_hint(), "h:5432/d");
}

/// Characters that messages of errors do not use, with all that mean something to a parser.
const UNUSED: [char; 5] = ['Q', 'X', 'Z', '7', '9'];
const PASSWORD: &str = "[QXZ79@/?#:%&=;' +,!\\[\\]$.\\\\]{4,16}";

fn assert_holds_nothing_of(text: &str, secret: &str) -> Result<(), TestCaseError> {
    let characters: Vec<char> = secret.chars().collect();
    // Signs alone may stand in any message: `://` is no part of a password there.
    let telling = |window: &&[char]| window.iter().any(|c| UNUSED.contains(c));
    for window in characters.windows(4).filter(telling) {
        let piece: String = window.iter().collect();
        prop_assert!(
            !text.contains(&piece),
            "{} of {} in {}",
            piece,
            secret,
            text
        );
    }
    Ok(())
}

fn mutate(text: &str, edits: &[(usize, u8, char)]) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for (at, kind, c) in edits {
        let at = at % (characters.len() + 1);
        match kind % 4 {
            0 if at < characters.len() => drop(characters.remove(at)),
            1 => characters.insert(at, *c),
            2 if at < characters.len() => characters[at] = *c,
            3 => characters.truncate(at),
            _ => {}
        }
    }
    characters.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_text_is_read_without_a_panic(
        text in "\\PC*|(postgres(ql)?://)?[a-z0-9@/?#:%&=;,+\\[\\] .]{0,60}|(host|user|password|port)=[a-z0-9' \\\\=,é]{0,40}"
    ) {
        if let Ok(url) = PgUrl::parse(&text) {
            prop_assert_eq!(&reread(&url), &url);
        }
    }

    #[test]
    fn a_broken_text_shows_nothing_of_its_password(
        secret in PASSWORD,
        form in 0..3,
        edits in proptest::collection::vec((any::<usize>(), any::<u8>(), proptest::sample::select("@/?#:%&=;' ,+[].\\\n\u{0}é".chars().collect::<Vec<_>>())), 1..5),
    ) {
        let text = match form {
            0 => format!("postgresql://bb:{secret}@pg.example.com:5432/meta?sslmode=require"),
            1 => format!("host=pg.example.com user=bb password={secret} dbname=meta"),
            _ => format!("host=pg.example.com user=bb password='{secret}' dbname=meta"),
        };
        if let Err(error) = PgUrl::parse(&mutate(&text, &edits)) {
            assert_holds_nothing_of(&format!("{error} {error:?}"), &secret)?;
        }
    }

    #[test]
    fn an_unencoded_password_is_never_shown(secret in PASSWORD, form in 0..3) {
        let text = match form {
            0 => format!("postgresql://bb:{secret}@pg.example.com:5432/meta?sslmode=require"),
            1 => format!("host=pg.example.com user=bb password={secret} dbname=meta"),
            _ => format!("host=pg.example.com user=bb password='{secret}' dbname=meta"),
        };
        let errors = match PgUrl::parse(&text) {
            Ok(url) => format!("{url:?} {}", url.identity_hint()),
            Err(error) => format!("{error} {error:?}"),
        };
        assert_holds_nothing_of(&errors, &secret)?;
    }

    #[test]
    fn what_is_built_from_parts_reads_back_equal(
        hosts in proptest::collection::vec("[a-z][a-z0-9-]{0,8}(\\.[a-z]{1,5})?|10\\.0\\.0\\.[1-9]|::1|2001:db8::[1-9]", 1..4),
        port in proptest::option::of(1_u16..),
        user in "\\PC{1,12}",
        secret in proptest::option::of("\\PC{1,20}|[@/?#:%&=;' \n\t\\\\]{1,8}"),
        database in "\\PC{0,12}|/[a-z]/",
        search_path in "\\PC{0,12}",
        verify: bool,
    ) {
        let mut params = map(&[("search_path", &search_path), ("connect_timeout", "5"), ("target_session_attrs", "read-write")]);
        if verify {
            params.extend(map(&[("sslmode", "verify-full"), ("sslrootcert", "/ca bundle/a&b.pem")]));
        }
        let parts = PgParts { host: hosts.join(","), port, database, user, password: secret.map(SecretString::from), params };
        let url = PgUrl::from_parts(parts).expect("good parts");
        prop_assert_eq!(&reread(&url), &url);
    }
}
