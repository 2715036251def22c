//! One question to a server on this machine, one answer.
//!
//! Asks as HTTP/1.0, so that an answer ends with its connection and comes in one piece.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    status: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn is_ok(&self) -> bool {
        self.status == "200"
    }

    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        Self {
            status: head.split(' ').nth(1).unwrap_or_default().to_owned(),
            body: body.to_owned(),
        }
    }
}

/// Asks for a path; each step within a time, and no more than so many bytes are read.
pub(crate) fn get(address: &str, path: &str, within: Duration, max_bytes: u64) -> std::io::Result<Answer> {
    let address: SocketAddr = address.parse().map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, within)?;
    stream.set_read_timeout(Some(within))?;
    stream.set_write_timeout(Some(within))?;
    // In one piece: who has the first word of it may answer and hang up.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(max_bytes).read_to_string(&mut answer)?;
    Ok(Answer::parse(&answer))
}

/// A path with a query, each value encoded.
pub(crate) fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = query
        .iter()
        .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
        .collect();
    format!("{path}?{}", pairs.join("&"))
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let one = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn an_answer_is_taken_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 512];
            let length = stream.read(&mut asked).unwrap();
            stream.write_all(b"HTTP/1.0 503 No\r\nX: y\r\n\r\nnot yet").unwrap();
            String::from_utf8_lossy(&asked[..length]).into_owned()
        });
        let answer = get(&address, "/readyz", Duration::from_secs(5), 1000).unwrap();
        assert!(server.join().unwrap().starts_with("GET /readyz HTTP/1.0\r\n"));
        assert!(!answer.is_ok());
        assert_eq!(answer.body, "not yet");
        assert!(Answer::parse("HTTP/1.1 200 OK\r\n\r\n").is_ok());
        assert!(!Answer::parse("noise").is_ok());
    }

    #[test]
    fn a_query_is_encoded() {
        assert_eq!(
            with_query("/api", &[("query", "a{b=\"c\"} + 1"), ("time", "1.5")]),
            "/api?query=a%7Bb%3D%22c%22%7D%20%2B%201&time=1.5"
        );
    }
}
