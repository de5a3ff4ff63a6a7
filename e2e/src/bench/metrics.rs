//! Counters in the Prometheus text format: the operator's, and those of the API server.

use crate::session::harness::Harness;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Kinds the operator has to do with, by plural.
const RESOURCES: [&str; 13] = [
    "bytebaseclusters",
    "configmaps",
    "events",
    "httproutes",
    "ingresses",
    "networkpolicies",
    "poddisruptionbudgets",
    "pods",
    "secrets",
    "serviceaccounts",
    "servicemonitors",
    "services",
    "statefulsets",
];

/// One HTTP GET; the status code and the body.
pub async fn get(port: u16, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let code = head
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("no status code")?;
    Ok((code, body.to_owned()))
}

/// Sum of a metric over all label sets that `wanted` takes.
pub fn sum(text: &str, metric: &str, wanted: impl Fn(&str) -> bool) -> f64 {
    text.lines()
        .filter_map(|line| {
            let (labels, value) = line.strip_prefix(metric)?.rsplit_once(' ')?;
            (labels.is_empty() || labels.starts_with('{'))
                .then(|| value.parse::<f64>().ok().filter(|_| wanted(labels)))?
        })
        // `sum` of nothing is -0.
        .fold(0.0, |sum, value| sum + value)
}

fn label<'text>(labels: &'text str, name: &str) -> Option<&'text str> {
    let (_, rest) = labels.split_once(&format!("{name}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

/// Requests the API server has served for the operator's kinds, by verb and subresource; watches
/// are left out, since they are renewed in their own time.
#[derive(Debug, Clone, Default)]
pub struct Requests(BTreeMap<String, f64>);

impl Requests {
    /// Reads the API server's counters.
    pub async fn read(harness: &Harness) -> Result<Self> {
        let text = harness.kubectl.run(&["get", "--raw", "/metrics"]).await?;
        let mut requests = Self::default();
        for line in text.lines() {
            let Some((labels, value)) = line
                .strip_prefix("apiserver_request_total")
                .and_then(|line| line.rsplit_once(' '))
            else {
                continue;
            };
            let (Some(verb), Some(resource)) = (label(labels, "verb"), label(labels, "resource"))
            else {
                continue;
            };
            if verb != "WATCH" && RESOURCES.contains(&resource) {
                let mut what = format!("{verb} {resource}");
                if let Some(part) = label(labels, "subresource").filter(|part| !part.is_empty()) {
                    what = format!("{what}/{part}");
                }
                *requests.0.entry(what).or_default() += value.parse::<f64>()?;
            }
        }
        Ok(requests)
    }

    /// What came in since `before`.
    pub fn since(&self, before: &Self) -> BTreeMap<String, f64> {
        self.0
            .iter()
            .map(|(key, now)| {
                let new = now - before.0.get(key).copied().unwrap_or_default();
                (key.clone(), new)
            })
            .filter(|(_, new)| *new > 0.0)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP x\nx_total{verb=\"apply\",kind=\"Pod\"} 3\nx_total{verb=\"evict\",kind=\"Pod\"} 4\n\
                        x_total_other{verb=\"apply\"} 5\ny 7\n";

    #[test]
    fn sums_are_over_one_metric_only() {
        let all = sum(TEXT, "x_total", |_| true);
        let evictions = sum(TEXT, "x_total", |labels| {
            label(labels, "verb") == Some("evict")
        });
        let plain = sum(TEXT, "y", |_| true);
        assert_eq!(
            [all, evictions, plain].map(|value| value.to_string()),
            ["7", "4", "7"]
        );
    }
}
