//! The time that a client gives a call, as gRPC carries it.

use std::time::Duration;
use tonic::Request;

/// The client's `grpc-timeout`, if it brings one that can be read.
#[must_use]
pub fn asked<T>(request: &Request<T>) -> Option<Duration> {
    let value = request.metadata().get("grpc-timeout")?;
    grpc_timeout(value.to_str().ok()?)
}

/// The gRPC wire form of a time-out: one to eight digits and a unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_outs_are_read_and_nonsense_is_not() {
        for (text, time) in [
            ("5S", Duration::from_secs(5)),
            ("250m", Duration::from_millis(250)),
            ("99999999u", Duration::from_micros(99_999_999)),
            ("2H", Duration::from_secs(7200)),
        ] {
            assert_eq!(grpc_timeout(text), Some(time));
        }
        for bad in ["", "S", "5", "5s", "-5S", "+5S", "999999999S", "5\u{e9}"] {
            assert_eq!(grpc_timeout(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_call_tells_its_time() {
        let mut request = Request::new(());
        assert_eq!(asked(&request), None);
        request.set_timeout(Duration::from_millis(250));
        assert_eq!(asked(&request), Some(Duration::from_millis(250)));
    }
}
