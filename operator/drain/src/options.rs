//! The options of `wait`.

use crate::log::Log;
use bytebase_drain::drain::Terms;
use std::time::Duration;

/// Reads `--name=SECONDS`, and `--log=PATH` for another log than the container's.
pub fn parse(options: &[&str]) -> Result<(Terms, Log), String> {
    let mut log = Log::of_container();
    let mut terms = Terms {
        timeout: Duration::from_hours(1),
        pause: Duration::ZERO,
        hold_limit: Duration::from_mins(5),
    };
    for option in options {
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| format!("{option} is not of the form --name=SECONDS"))?;
        if name == "--log" {
            log = Log(value.into());
            continue;
        }
        let seconds = value
            .parse()
            .map(Duration::from_secs)
            .map_err(|_| format!("{name} must be a number of seconds"))?;
        match name {
            "--timeout" => terms.timeout = seconds,
            "--pause" => terms.pause = seconds,
            "--hold-limit" => terms.hold_limit = seconds,
            _ => return Err(format!("there is no option {name}")),
        }
    }
    Ok((terms, log))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_seconds_by_name() {
        let options = ["--timeout=7", "--pause=3", "--log=/a=b", "--hold-limit=0"];
        let (terms, log) = parse(&options).unwrap();
        assert_eq!(log.0.to_str(), Some("/a=b"));
        let seconds = [terms.timeout, terms.pause, terms.hold_limit].map(|time| time.as_secs());
        assert_eq!(seconds, [7, 3, 0]);
        assert_eq!(parse(&[]).unwrap().0.timeout, Duration::from_hours(1));
        for wrong in ["--timeout", "--timeout=x", "--timeout=-1", "--other=1"] {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
    }
}
