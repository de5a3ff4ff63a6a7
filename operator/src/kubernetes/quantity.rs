//! Kubernetes quantities (`512Mi`, `1500m`), as far as the operator compares and computes with
//! them.

/// The value in thousandths; `None` for what is no quantity or does not fit.
pub fn milli(text: &str) -> Option<i128> {
    let digits = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let factor: i128 = match suffix {
        "m" => 1,
        "" => 1000,
        "k" => 1000 * 1000,
        "M" => 1000 * 1000i128.pow(2),
        "G" => 1000 * 1000i128.pow(3),
        "T" => 1000 * 1000i128.pow(4),
        "P" => 1000 * 1000i128.pow(5),
        "Ki" => 1000 * 1024,
        "Mi" => 1000 * 1024i128.pow(2),
        "Gi" => 1000 * 1024i128.pow(3),
        "Ti" => 1000 * 1024i128.pow(4),
        "Pi" => 1000 * 1024i128.pow(5),
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty()
        || fraction.len() > 9
        || !fraction.bytes().all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let scale = 10i128.pow(u32::try_from(fraction.len()).ok()?);
    let whole: i128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let fraction: i128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let units =
        whole
            .checked_mul(scale)?
            .checked_add(if whole < 0 { -fraction } else { fraction })?;
    units.checked_mul(factor).map(|value| value / scale)
}

/// A quantity of bytes.
pub fn bytes(text: &str) -> Option<u64> {
    u64::try_from(milli(text)? / 1000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_compared_by_value() {
        for (a, b) in [
            ("1", "1000m"),
            ("1Gi", "1024Mi"),
            ("0.5", "500m"),
            ("2k", "2000"),
            ("1.5Gi", "1536Mi"),
        ] {
            assert_eq!(milli(a), milli(b), "{a} and {b}");
            assert!(milli(a).is_some());
        }
        assert_eq!(bytes("512Mi"), Some(512 * 1024 * 1024));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in [
            "",
            "Mi",
            "x",
            "1X",
            "1..2",
            "-",
            "1e",
            "99999999999999999999999999999999999999999P",
        ] {
            assert_eq!(milli(text), None, "{text}");
        }
    }
}
