//! Why a text is no `PG_URL`.
//!
//! **No error holds any text of its input**: only numbers, and words that stand in this program. A
//! connection string that cannot be parsed cannot be divided into secret and harmless parts either
//! (an unencoded `/` in a password makes its rest look like a database name, an unencoded `?` like
//! parameters), so nothing of it may be repeated, not even a host.

use std::fmt;

/// Why a text is no `PG_URL`. Each message says what is wrong, where, and what to do; offsets and
/// positions count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PgUrlError {
    /// Nothing there.
    #[error(
        "the connection string is empty: give one such as postgresql://USER@HOST:5432/DATABASE"
    )]
    Empty,
    /// Longer than any sensible one.
    #[error("the connection string has {length} bytes: give one of at most {limit}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// Neither form: Bytebase would take it as the path of a file in the pod.
    #[error("{0}; Bytebase would take the text as the path of a file and fail to start")]
    NotAConnectionString(FileTrap),
    /// The path of a file. Bytebase would read it, but only once at its start; and the operator
    /// could neither know which database it names nor restart the replicas when it changes.
    #[error(
        "this is the path of a file, and the operator does not read files in the pod, so it could neither check the database nor restart replicas after a change: put the connection string itself into a Secret and name that in database.urlSecretRef"
    )]
    FileInPod,
    /// A line break at the end, usually from `echo` or an editor.
    #[error(
        "the connection string ends with a line break: create the Secret without it (`echo -n`, `printf %s`)"
    )]
    TrailingLineBreak,
    /// A control character in a URI.
    #[error(
        "byte {offset} of the connection string is a line break or another control character: remove it"
    )]
    ControlCharacter {
        /// Counted from 1.
        offset: usize,
    },
    /// `#`: the driver silently drops the rest.
    #[error("there is a `#` at byte {offset}, and the driver would drop what follows. {ENCODE}")]
    Fragment {
        /// Counted from 1.
        offset: usize,
    },
    /// An `@` after the host part: the login probably holds a `/` or `?`.
    #[error(
        "there is an `@` at byte {offset}, after the first `/` or `?`: the password probably contains one of them. {ENCODE}"
    )]
    LateAt {
        /// Counted from 1.
        offset: usize,
    },
    /// A character that must be encoded in user and password.
    #[error(
        "byte {offset}, in the user or password, is a character that must not stand there as it is. {ENCODE}"
    )]
    ReservedInLogin {
        /// Counted from 1.
        offset: usize,
    },
    /// A `%` that is not followed by two hexadecimal digits.
    #[error(
        "the `%` at byte {offset} is not followed by two hexadecimal digits: write a percent sign itself as its code 25 after `%`. {ENCODE}"
    )]
    BadPercent {
        /// Counted from 1.
        offset: usize,
    },
    /// Percent codes that give no text.
    #[error(
        "the {part} contains percent codes that are not UTF-8 text, or a zero byte: correct them"
    )]
    NotText {
        /// Which part.
        part: Part,
    },
    /// A control character in a part that cannot have one.
    #[error("the {part} contains a control character: remove it")]
    ControlIn {
        /// Which part.
        part: Part,
    },
    /// No user: the driver would take the name of the pod's system user.
    #[error(
        "there is no user: put one in front of the host, as in postgresql://USER@HOST:5432/DATABASE"
    )]
    MissingUser,
    /// A colon without a password: this hides a password given beside the string.
    #[error(
        "there is a password, but it is empty: leave it out altogether if it is given elsewhere or not needed"
    )]
    EmptyPassword,
    /// No host: the driver would look for a server inside the pod.
    #[error("there is no host, and no PostgreSQL in the pod to fall back to: give one")]
    MissingHost,
    /// More than any database has servers.
    #[error("the connection string names {count} hosts: give at most {limit}")]
    TooManyHosts {
        /// How many there are.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// `a,,b`.
    #[error("host {position} of the list is empty: remove the extra comma")]
    EmptyHost {
        /// Counted from 1.
        position: usize,
    },
    /// Neither a DNS name nor an address.
    #[error(
        "host {position} is not a DNS name or IP address. If this is part of the password: {ENCODE_SHORT}"
    )]
    BadHost {
        /// Counted from 1.
        position: usize,
    },
    /// `10.1` or `010.0.0.1`: an address to some programs, and a name to the driver.
    #[error(
        "host {position} ends in a number and is no IP address, so Bytebase looks for a name that no server has: write an IPv4 address as four decimal numbers without zeros in front"
    )]
    NumericHost {
        /// Counted from 1.
        position: usize,
    },
    /// IPv6 without brackets, or in a list, where the driver does not take it.
    #[error(
        "an IPv6 address in a URI needs brackets and cannot be part of a list of hosts: write [ADDRESS]:PORT, or use a DNS name"
    )]
    Ipv6Form,
    /// Not a number from 1 to 65535.
    #[error(
        "port {position} is not a number from 1 to 65535. If this is part of the password: {ENCODE_SHORT}"
    )]
    BadPort {
        /// Counted from 1.
        position: usize,
    },
    /// The driver would pair them up wrongly.
    #[error(
        "there are {hosts} hosts and {ports} ports: the driver pairs them by their place, so give every host a port, or none"
    )]
    PortsDoNotMatchHosts {
        /// How many hosts.
        hosts: usize,
        /// How many ports.
        ports: usize,
    },
    /// `host/database/`.
    #[error(
        "the database name contains a `/`: remove it. If this is part of the password: {ENCODE_SHORT}"
    )]
    SlashInDatabase,
    /// `;` between parameters.
    #[error(
        "there is a `;` at byte {offset}, and the driver would drop that parameter: separate parameters with `&`"
    )]
    Semicolon {
        /// Counted from 1.
        offset: usize,
    },
    /// `=value`.
    #[error("parameter {position} has no name: remove it")]
    EmptyName {
        /// Counted from 1.
        position: usize,
    },
    /// The same thing twice.
    #[error("{0} is given twice: keep one")]
    GivenTwice(ParameterLabel),
    /// A value the driver refuses.
    #[error("the value of `{name}` is not possible: it must be {allowed}")]
    BadValue {
        /// The parameter.
        name: &'static str,
        /// What it can be.
        allowed: &'static str,
    },
    /// Neither the driver nor the server knows it; the server refuses the connection.
    #[error("{0} is no setting that PostgreSQL knows, and it refuses connections that ask for one: correct or remove it{similar}", similar = Similar(.0.similar))]
    UnknownParameter(ParameterLabel),
    /// A setting of libpq that Bytebase's driver does not know.
    #[error(
        "Bytebase's driver does not know `{name}` and sends it to the server, which then refuses the connection: remove it"
    )]
    UnsupportedParameter {
        /// The parameter.
        name: &'static str,
    },
    /// Only one of a client certificate and its key.
    #[error("`sslcert` and `sslkey` belong together: give both or neither")]
    HalfClientCertificate,
    /// Keyword/value form: a word without `=`.
    #[error(
        "the keyword/value form is broken at byte {offset}: each entry must be KEYWORD=VALUE; put a value with blanks in single quotes, and a backslash before a quote in it"
    )]
    MissingEquals {
        /// Counted from 1.
        offset: usize,
    },
    /// Keyword/value form: text right after a closing quote.
    #[error(
        "there is text right after the closing quote at byte {offset}: put a blank there, or a backslash before a quote inside a value"
    )]
    TextAfterQuote {
        /// Counted from 1.
        offset: usize,
    },
    /// Keyword/value form: no closing quote.
    #[error(
        "the quote opened at byte {offset} is never closed: close it, or put a backslash before a quote that is part of a value"
    )]
    OpenQuote {
        /// Counted from 1.
        offset: usize,
    },
    /// Keyword/value form: a backslash at the very end.
    #[error("the connection string ends with a lone backslash: write two for one")]
    LoneBackslash,
    /// Keyword/value form: more than one blank at the end, or one after a closing quote.
    #[error(
        "the connection string ends with blanks or a line break that the driver cannot read: remove them"
    )]
    TrailingBlanks,
    /// A flag that Bytebase silently ignores unless it is `true`.
    #[error(
        "`{name}` can only be `true`: Bytebase silently ignores any other value, leave it out instead"
    )]
    IamFlag {
        /// The flag.
        name: &'static str,
    },
    /// IAM details without the flag.
    #[error("`{name}` has no effect without `{flag}=true`: add that, or remove it")]
    IamWithoutFlag {
        /// The parameter.
        name: &'static str,
        /// What is missing.
        flag: &'static str,
    },
    /// IAM without a required detail.
    #[error("`{flag}` needs `{name}` as well: add it")]
    IamNeeds {
        /// The flag.
        flag: &'static str,
        /// What is missing.
        name: &'static str,
    },
    /// Two clouds at once.
    #[error("AWS and Google Cloud IAM are both asked for: keep one")]
    IamTwice,
    /// AWS IAM with several hosts.
    #[error("AWS IAM works with one host only: give the one of the writer (cluster endpoint)")]
    IamOneHost,
    /// AWS IAM without verified TLS.
    #[error("AWS IAM needs a verified server name: set sslmode=verify-full")]
    IamTls,
    /// A parameter, among those given in parts, that has a field of its own.
    #[error("`{name}` has a field of its own: do not give it among the parameters")]
    HasOwnField {
        /// The parameter.
        name: &'static str,
    },
}

/// Texts that resemble a connection string but are none to Bytebase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileTrap {
    /// `POSTGRES://`.
    UpperCaseScheme,
    /// `jdbc:…`.
    Jdbc,
    /// `postgresql+asyncpg://`, `pgsql://`, `mysql://`…
    OtherScheme,
    /// A quote around it, as left over from a shell or YAML file.
    Quoted,
    /// A blank or invisible character in front.
    LeadingBlank,
    /// `file:…`.
    FileUrl,
    /// `PG_URL=postgres://…`.
    Assignment,
    /// `user:password@host/database`.
    NoScheme,
    /// Anything else.
    Other,
}

/// Names the parts of a connection string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The role.
    User,
    /// Its password.
    Password,
    /// A host, or the list of them.
    Host,
    /// The database.
    Database,
    /// The parameters after `?`.
    Parameters,
}

/// Names a parameter by its place, and by its name where the program knows that name itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterLabel {
    /// Counted from 1 among the parameters of the string; 0 for a part that is no parameter.
    pub position: usize,
    /// Its name, if it is one that this program has in its lists.
    pub name: Option<&'static str>,
    /// What it was probably meant as.
    pub similar: Option<&'static str>,
}

/// The help for the most common mistake.
const ENCODE: &str = "Reserved characters in a user or password must be percent-encoded (`@` as %40, `/` as %2F, `?` as %3F, `#` as %23, \
    `:` as %3A, `%` as %25); or give the password separately, where it needs no encoding";
const ENCODE_SHORT: &str = "percent-encode its reserved characters, or give it separately";

struct Similar(Option<&'static str>);

impl fmt::Display for FileTrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UpperCaseScheme => "the scheme is not in lower case: begin exactly with postgres:// or postgresql://",
            Self::Jdbc => "this is a JDBC URL: begin with postgresql:// and put user and password in front of the host",
            Self::OtherScheme => "the scheme is another one: begin exactly with postgres:// or postgresql://",
            Self::Quoted => "the text begins with a quote: remove the quotes around it",
            Self::LeadingBlank => "the text begins with a blank or an invisible character: remove it",
            Self::FileUrl => "the text is the URL of a file: give the connection string itself",
            Self::Assignment => "the text begins with the name of a variable: give only what comes after the first equals sign",
            Self::NoScheme => "the scheme is missing: put postgresql:// in front",
            Self::Other => "the text begins neither with postgres:// nor with postgresql://, and holds no KEYWORD=VALUE such as host=…",
        })
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Password => "password",
            Self::Host => "host",
            Self::Database => "database name",
            Self::Parameters => "list of parameters",
        })
    }
}

impl fmt::Display for ParameterLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.position, self.name) {
            (0, Some(name)) => write!(f, "`{name}`"),
            (0, None) => f.write_str("a parameter"),
            (position, Some(name)) => write!(f, "`{name}` (parameter {position})"),
            (position, None) => write!(f, "parameter {position}"),
        }
    }
}

impl fmt::Display for Similar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .map_or(Ok(()), |similar| write!(f, " (did you mean `{similar}`?)"))
    }
}
