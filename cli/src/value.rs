//! How bytes are given on a command line and shown in a terminal: as text, in hexadecimal, or in base64 (RFC 4648).

use std::fmt::Write;

/// How bytes are written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    #[default]
    Text,
    /// Two hexadecimal digits a byte.
    Hex,
    /// Base64 with padding.
    Base64,
}

impl Encoding {
    /// Reads bytes as they were given.
    pub fn decode(self, text: &str) -> Result<Vec<u8>, String> {
        match self {
            Encoding::Text => Ok(text.as_bytes().to_vec()),
            Encoding::Hex => from_hex(text),
            Encoding::Base64 => from_base64(text),
        }
    }

    /// Writes bytes down.
    #[must_use]
    pub fn encode(self, bytes: &[u8]) -> String {
        match self {
            Encoding::Text => String::from_utf8_lossy(bytes).into_owned(),
            Encoding::Hex => to_hex(bytes),
            Encoding::Base64 => to_base64(bytes),
        }
    }
}

fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn from_hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    let Some(digits) = digits else {
        return Err("not hexadecimal: only 0-9 and a-f are allowed".to_owned());
    };
    if !digits.len().is_multiple_of(2) {
        return Err(format!(
            "not hexadecimal: {} digits are no whole number of bytes",
            digits.len()
        ));
    }
    let bytes = digits.chunks_exact(2).map(|pair| (pair[0] * 16 + pair[1]) as u8);
    Ok(bytes.collect())
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub(crate) fn to_base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let letter = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63] as char;
            text.push(if place <= chunk.len() { letter } else { '=' });
        }
    }
    text
}

pub(crate) fn from_base64(text: &str) -> Result<Vec<u8>, String> {
    let body = text.trim_end_matches('=');
    if text.len() - body.len() > 2 || !text.len().is_multiple_of(4) || body.len() % 4 == 1 {
        return Err("not base64: the length must be a multiple of 4, with at most two '=' at the end".to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for chunk in body.as_bytes().chunks(4) {
        let mut bits: u32 = 0;
        for place in 0..4 {
            let value = match chunk.get(place) {
                None => 0,
                Some(letter) => ALPHABET
                    .iter()
                    .position(|known| known == letter)
                    .ok_or_else(|| format!("not base64: '{}' does not belong", letter.escape_ascii()))?,
            };
            bits = bits << 6 | value as u32;
        }
        let whole = [(bits >> 16) as u8, (bits >> 8) as u8, bits as u8];
        bytes.extend_from_slice(&whole[..chunk.len() - 1]);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Rng;

    #[test]
    fn the_examples_of_rfc_4648() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(Encoding::Base64.encode(plain.as_bytes()), coded);
            assert_eq!(Encoding::Base64.decode(coded).as_deref(), Ok(plain.as_bytes()));
        }
        assert_eq!(Encoding::Hex.encode(b"foobar"), "666f6f626172");
        assert_eq!(
            Encoding::Hex.decode("666F6f626172").as_deref(),
            Ok(b"foobar".as_slice())
        );
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for bad in ["Zg=", "Z", "Zg===", "====", "Z!==", "Zm9v Zg=", "é==="] {
            assert!(Encoding::Base64.decode(bad).is_err(), "{bad}");
        }
        for bad in ["f", "0x00", "zz", "ff "] {
            assert!(Encoding::Hex.decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn random_bytes_come_back_and_random_text_does_no_harm() {
        let mut rng = Rng::new(1);
        for length in 0..200 {
            let bytes: Vec<u8> = (0..length).map(|_| rng.next_u64() as u8).collect();
            for encoding in [Encoding::Hex, Encoding::Base64] {
                assert_eq!(encoding.decode(&encoding.encode(&bytes)).as_ref(), Ok(&bytes));
                let _ = encoding.decode(&String::from_utf8_lossy(&bytes));
            }
        }
    }
}
