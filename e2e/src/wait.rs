//! Waiting until something is true of the cluster, and saying what was seen last when it never was.

use anyhow::{Context as _, Error, Result};
use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Between two samples. A sample is usually one request to the API server.
const INTERVAL: Duration = Duration::from_millis(250);

/// Calls `observe` until `wanted` holds of what it returns, and returns that. An error of
/// `observe` is a sample that saw nothing: while pods and servers come and go, requests fail. When
/// the time is over, the error says what was waited for and the last thing seen.
pub async fn until<T, F, O, W>(what: &str, patience: Duration, observe: O, wanted: W) -> Result<T>
where
    T: Debug,
    F: Future<Output = Result<T>>,
    O: FnMut() -> F,
    W: Fn(&T) -> bool,
{
    until_while(what, patience, observe, |_| Ok(()), wanted).await
}

/// Like [`until`], with an invariant that must hold of everything seen on the way: the first sample
/// of which it does not ends the wait with its error. A check inside `observe` could not fail,
/// since an error there is a sample that saw nothing.
pub async fn until_while<T, F, O, I, W>(
    what: &str,
    patience: Duration,
    mut observe: O,
    invariant: I,
    wanted: W,
) -> Result<T>
where
    T: Debug,
    F: Future<Output = Result<T>>,
    O: FnMut() -> F,
    I: Fn(&T) -> Result<()>,
    W: Fn(&T) -> bool,
{
    let start = Instant::now();
    loop {
        let seen = observe().await;
        if let Ok(value) = &seen {
            invariant(value).with_context(|| format!("while waiting for {what}"))?;
        }
        match seen {
            Ok(value) if wanted(&value) => return Ok(value),
            last if start.elapsed() >= patience => return Err(timed_out(what, patience, last)),
            _ => sleep(INTERVAL).await,
        }
    }
}

/// Checks that `holds` of everything seen for the whole `period`; the first sample of which it does
/// not is the error. Unlike in [`until`], an error of `observe` is an error.
pub async fn throughout<T, F, O, W>(
    what: &str,
    period: Duration,
    mut observe: O,
    holds: W,
) -> Result<()>
where
    T: Debug,
    F: Future<Output = Result<T>>,
    O: FnMut() -> F,
    W: Fn(&T) -> bool,
{
    let start = Instant::now();
    while start.elapsed() < period {
        let seen = observe().await?;
        if !holds(&seen) {
            return Err(Error::msg(format!(
                "{what} did not hold after {:.1} s: {seen:#?}",
                start.elapsed().as_secs_f32()
            )));
        }
        sleep(INTERVAL).await;
    }
    Ok(())
}

fn timed_out<T: Debug>(what: &str, patience: Duration, last: Result<T>) -> Error {
    match last {
        Ok(value) => Error::msg(format!(
            "waited {patience:?} for {what}; seen last: {value:#?}"
        )),
        Err(error) => error.context(format!(
            "waited {patience:?} for {what}; the last sample failed"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn samples_are_taken_until_it_is_true() -> Result<()> {
        let samples = AtomicU32::new(0);
        let observe = || async {
            match samples.fetch_add(1, Ordering::Relaxed) {
                0 => bail!("not yet"),
                number => Ok(number),
            }
        };
        let seen = until("two", Duration::from_secs(5), observe, |number| {
            *number == 2
        })
        .await?;
        assert_eq!(seen, 2);
        Ok(())
    }

    #[tokio::test]
    async fn a_broken_invariant_ends_the_wait_although_what_is_wanted_comes_later() {
        let samples = AtomicU32::new(0);
        let observe = || async { Ok(samples.fetch_add(1, Ordering::Relaxed)) };
        let never_one = |number: &u32| {
            if *number == 1 {
                bail!("there was a one");
            }
            Ok(())
        };
        let patience = Duration::from_secs(5);
        let result = until_while("two", patience, observe, never_one, |number| *number == 2).await;
        let text = result.map_err(|error| format!("{error:#}"));
        assert!(
            matches!(&text, Err(text) if text.contains("there was a one")),
            "{text:?}"
        );
        assert_eq!(samples.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_time_out_shows_what_was_seen_last() {
        let result = until(
            "seven replicas",
            Duration::ZERO,
            || async { Ok(41) },
            |number| *number == 7,
        )
        .await;
        let text = result.map_err(|error| error.to_string());
        assert!(
            matches!(&text, Err(text) if text.contains("seven replicas") && text.contains("41")),
            "{text:?}"
        );
    }

    #[tokio::test]
    async fn throughout_fails_at_the_first_break() {
        let result = throughout(
            "zero",
            Duration::from_secs(5),
            || async { Ok(1) },
            |n| *n == 0,
        )
        .await;
        assert!(result.is_err());
    }
}
