//! The time that a client gives a call, as gRPC carries it.

use http::HeaderMap;
use std::time::Duration;
use tonic::Request;

const HEADER: &str = "grpc-timeout";
/// What an answer needs to reach a client before its own clock rings: a tenth of its time, at most this.
const WAY_BACK: Duration = Duration::from_millis(50);
/// No request may hold on for longer than this, whatever it says: what a stream that broke has left behind is gone by then.
pub const LONGEST_DEADLINE: Duration = Duration::from_secs(60);

/// The client's `grpc-timeout`, if it brings one that can be read.
#[must_use]
pub fn asked<T>(request: &Request<T>) -> Option<Duration> {
    grpc_timeout(request.metadata().get(HEADER)?.to_str().ok()?)
}

/// The same, of a request that is not decoded.
#[must_use]
pub fn in_headers(headers: &HeaderMap) -> Option<Duration> {
    grpc_timeout(headers.get(HEADER)?.to_str().ok()?)
}

/// How much of a client's time a service may use, so that its answer is there before the time is up.
#[must_use]
pub fn in_time(asked: Duration) -> Duration {
    asked - (asked / 10).min(WAY_BACK)
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
        assert_eq!(
            in_headers(request.metadata().as_ref()),
            Some(Duration::from_millis(250))
        );
    }

    #[test]
    fn an_answer_leaves_before_the_time_is_up() {
        assert_eq!(in_time(Duration::from_millis(100)), Duration::from_millis(90));
        assert_eq!(in_time(Duration::from_secs(5)), Duration::from_millis(4950));
        assert_eq!(in_time(Duration::ZERO), Duration::ZERO);
    }
}
