//! Numbers for people: few digits, and a unit that fits.

use std::time::Duration;

/// A whole number with its thousands apart.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Events a second.
#[must_use]
pub fn rate(events: u64, over: Duration) -> String {
    if over.is_zero() {
        return "-".to_owned();
    }
    let rate = events as f64 / over.as_secs_f64();
    if rate < 10.0 {
        format!("{rate:.1}")
    } else {
        count(rate.round() as u64)
    }
}

/// A latency, with three digits or so.
#[must_use]
pub fn latency(time: Duration) -> String {
    let us = time.as_micros();
    match us {
        0..1_000 => format!("{us} us"),
        1_000..10_000 => format!("{:.2} ms", us as f64 / 1e3),
        10_000..100_000 => format!("{:.1} ms", us as f64 / 1e3),
        100_000..10_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

/// A longer time: in ms below a second, else in s with two digits behind the point.
#[must_use]
pub fn span(time: Duration) -> String {
    match time.as_millis() {
        ms @ 0..1_000 => format!("{ms} ms"),
        ms => format!("{:.2} s", ms as f64 / 1e3),
    }
}

/// A share in percent; never rounded up to 100.
#[must_use]
pub fn percent(share: f64) -> String {
    if share >= 1.0 {
        return "100 %".to_owned();
    }
    format!("{:.2} %", (share.max(0.0) * 10_000.0).floor() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [0, 12, 999, 1_000, 34_888, 1_234_567].map(count).join(" "),
            "0 12 999 1,000 34,888 1,234,567"
        );
        let us = [0, 999, 1_000, 1_234, 45_678, 456_789, 1_500_000, 12_345_678];
        let shown = us.map(|us| latency(Duration::from_micros(us))).join("; ");
        assert_eq!(
            shown,
            "0 us; 999 us; 1.00 ms; 1.23 ms; 45.7 ms; 456 ms; 1500 ms; 12.3 s"
        );
        assert_eq!(span(Duration::from_millis(812)), "812 ms");
        assert_eq!(span(Duration::from_millis(1_812)), "1.81 s");
        assert_eq!(rate(50_000, Duration::from_secs(20)), "2,500");
        assert_eq!(rate(5, Duration::from_secs(2)), "2.5");
        assert_eq!(rate(5, Duration::ZERO), "-");
    }

    #[test]
    fn almost_all_is_not_all() {
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(percent(0.999_999), "99.99 %");
        assert_eq!(percent(0.5), "50.00 %");
        assert_eq!(percent(-0.1), "0.00 %");
    }
}
