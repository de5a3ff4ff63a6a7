//! The options of `wait`.

use crate::drain::Terms;
use std::time::Duration;

/// Reads `--name=SECONDS`.
pub fn parse(options: &[&str]) -> Result<Terms, String> {
    let mut terms = Terms {
        timeout: Duration::from_hours(1),
        pause: Duration::ZERO,
        hold_limit: Duration::from_mins(5),
    };
    for option in options {
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| format!("{option} is not of the form --name=SECONDS"))?;
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
    Ok(terms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_seconds_by_name() {
        let terms = parse(&["--timeout=7", "--pause=3", "--hold-limit=0"]).unwrap();
        let seconds = [terms.timeout, terms.pause, terms.hold_limit].map(|time| time.as_secs());
        assert_eq!(seconds, [7, 3, 0]);
        assert_eq!(parse(&[]).unwrap().timeout, Duration::from_hours(1));
        for wrong in ["--timeout", "--timeout=x", "--timeout=-1", "--other=1"] {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
    }
}
