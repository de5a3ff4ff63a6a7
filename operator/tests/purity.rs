//! The pure core stays pure: what a module may name is held here, so that a rule of the
//! architecture fails a test and not a review. So is the length of comments, which `cargo fmt`
//! leaves as they are.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a failed expectation is the report"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// Folders (or files) of the core, and what of the crate each may use beside itself.
const CORE: [(&str, &[&str]); 7] = [
    ("kubernetes", &[]),
    ("api", &["kubernetes"]),
    ("redaction", &[]),
    (
        "observation",
        &["kubernetes", "api", "contract", "redaction"],
    ),
    ("validate", &["kubernetes", "api", "contract", "redaction"]),
    ("desired", &["kubernetes", "api", "contract", "validate"]),
    (
        "decide",
        &[
            "kubernetes",
            "api",
            "contract",
            "observation",
            "validate",
            "desired",
        ],
    ),
];

/// Clients, drivers, runtimes, clocks and the machine.
const FORBIDDEN: [&str; 17] = [
    "kube::Client",
    "kube::Api",
    "kube::runtime",
    "kube::client",
    "sqlx",
    "tokio",
    "reqwest",
    "axum",
    "futures",
    "rand::",
    "std::fs",
    "std::env",
    "std::net::Tcp",
    "std::thread",
    "SystemTime::now",
    "Timestamp::now",
    "Instant::now",
];

/// Where these are named inside braces of one `use`.
const FORBIDDEN_OF_KUBE: [&str; 2] = ["Client", "Api"];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Source files below a folder, without the tests.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if name == "tests" {
            continue;
        }
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Code of each file of a module: without comments, and without the tests at its end.
fn code(module: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let folder = source().join(module);
    if folder.is_dir() {
        files(&folder, &mut found);
    }
    let alone = source().join(format!("{module}.rs"));
    if alone.exists() {
        found.push(alone);
    }
    assert!(
        !found.is_empty(),
        "no file of {module}: is the list of this test still right?"
    );
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let code = text
                .lines()
                .take_while(|line| !line.ends_with("mod tests {"))
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect::<Vec<_>>()
                .join("\n");
            (path, code)
        })
        .collect()
}

fn names(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(index, _)| {
        !text[..index].ends_with(is_part)
            && (word.ends_with(':') || !text[index + word.len()..].starts_with(is_part))
    })
}

/// First segments after `crate::`, in paths and in braces.
fn uses(code: &str) -> Vec<String> {
    code.match_indices("crate::")
        .flat_map(|(index, prefix)| {
            let rest = &code[index + prefix.len()..];
            let first = |text: &str| {
                text.trim_start()
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect::<String>()
            };
            match rest.strip_prefix('{') {
                Some(list) => list
                    .split('}')
                    .next()
                    .unwrap()
                    .split(',')
                    .map(first)
                    .collect(),
                None => vec![first(rest)],
            }
        })
        .collect()
}

#[test]
fn the_core_names_no_client_driver_runtime_or_clock() {
    for (module, _) in CORE {
        for (path, code) in code(module) {
            for word in FORBIDDEN {
                assert!(!names(&code, word), "{} names {word}", path.display());
            }
            for line in code
                .split(';')
                .filter(|line| line.trim_start().starts_with("use kube::{"))
            {
                for word in FORBIDDEN_OF_KUBE {
                    assert!(!names(line, word), "{} names kube::{word}", path.display());
                }
            }
        }
    }
}

#[test]
fn nothing_in_the_core_is_asynchronous() {
    for (module, _) in CORE {
        for (path, code) in code(module) {
            assert!(
                !names(&code, "async") && !names(&code, "await"),
                "{}",
                path.display()
            );
        }
    }
}

#[test]
fn modules_of_the_core_point_one_way() {
    for (module, allowed) in CORE {
        for (path, code) in code(module) {
            for used in uses(&code)
                .into_iter()
                .filter(|used| !used.is_empty() && used != module)
            {
                assert!(
                    allowed.contains(&used.as_str()),
                    "{} uses crate::{used}; {module} may use {allowed:?}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn of_the_steps_around_the_core_only_report_knows_another() {
    for (module, forbidden) in [
        (
            "process",
            &[
                "dereference",
                "validate",
                "desired",
                "observe",
                "decide",
                "apply",
                "report",
                "runtime",
            ][..],
        ),
        (
            "dereference",
            &["observe", "decide", "desired", "apply", "report", "runtime"],
        ),
        (
            "observe",
            &["dereference", "decide", "apply", "report", "runtime"][..],
        ),
        (
            "apply",
            &["dereference", "observe", "report", "runtime", "validate"][..],
        ),
        (
            "report",
            &["dereference", "observe", "runtime", "validate", "desired"][..],
        ),
    ] {
        for (path, code) in code(module) {
            for used in uses(&code) {
                assert!(
                    !forbidden.contains(&used.as_str()),
                    "{} uses crate::{used}",
                    path.display()
                );
            }
        }
    }
}

/// All source files of the repository, the tests and the fuzz targets too, without what was built.
fn all_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            all_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_line_of_a_comment_is_longer_than_the_code_may_be() {
    const LONGEST: usize = 100;
    let mut found = Vec::new();
    for part in ["operator", "testkit", "e2e"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        all_files(&root.join(part), &mut found);
    }
    assert!(found.len() > 200, "only {} files are found", found.len());
    for path in found {
        let text = fs::read_to_string(&path).unwrap();
        for (place, line) in text.lines().enumerate() {
            let is_comment = line.trim_start().starts_with("//");
            assert!(
                !is_comment || line.chars().count() <= LONGEST,
                "{}:{} is longer than {LONGEST} characters",
                path.display(),
                place + 1
            );
        }
    }
}

#[test]
fn the_tests_own_reader_sees_what_it_should() {
    assert!(names("use kube::Client;", "kube::Client"));
    assert!(!names("use kube::ClientExt;", "kube::Client"));
    assert!(!names("let strand::x", "rand::"));
    assert!(names("rand::random()", "rand::"));
    assert_eq!(
        uses("use crate::{api::Reason, decide};\ncrate::report::x()"),
        ["api", "decide", "report"]
    );
}
