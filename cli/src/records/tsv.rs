//! `key<TAB>value`: bytes as they are, but for backslash, tab, line feed and carriage return, which are escaped.

use super::Record;

pub(super) fn parse(line: &[u8]) -> Result<Record, String> {
    let mut fields = line.split(|byte| *byte == b'\t');
    let (Some(key), Some(value)) = (fields.next(), fields.next()) else {
        return Err("no tab: a line is key<TAB>value".to_owned());
    };
    if fields.next().is_some() {
        return Err("more than one tab: write a tab within a key or value as \\t".to_owned());
    }
    Record::checked(unescape(key)?, unescape(value)?)
}

fn unescape(field: &[u8]) -> Result<Vec<u8>, String> {
    let mut plain = Vec::with_capacity(field.len());
    let mut bytes = field.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            plain.push(byte);
            continue;
        }
        plain.push(match bytes.next() {
            Some(b'\\') => b'\\',
            Some(b't') => b'\t',
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(other) => {
                let found = other.escape_ascii();
                return Err(format!("unknown escape '\\{found}': use \\\\, \\t, \\n or \\r"));
            }
            None => return Err("a backslash at the end of a field: write it as \\\\".to_owned()),
        });
    }
    Ok(plain)
}

pub(super) fn write(record: &Record, line: &mut Vec<u8>) {
    escape(&record.key, line);
    line.push(b'\t');
    escape(&record.value, line);
}

fn escape(field: &[u8], line: &mut Vec<u8>) {
    for byte in field {
        match byte {
            b'\\' => line.extend_from_slice(b"\\\\"),
            b'\t' => line.extend_from_slice(b"\\t"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            other => line.push(*other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        let record = parse(b"a\\tb\tx\\\\y\\nz\\r").unwrap();
        assert_eq!((&record.key[..], &record.value[..]), (&b"a\tb"[..], &b"x\\y\nz\r"[..]));
        assert_eq!(parse(b"key\t").unwrap().value, "");
    }

    #[test]
    fn malformed_lines_say_why() {
        for (line, why) in [
            (&b"key"[..], "no tab"),
            (b"", "no tab"),
            (b"\tvalue", "the key is empty"),
            (b"a\tb\tc", "more than one tab"),
            (b"a\tb\\x", "unknown escape '\\x'"),
            (b"a\tb\\", "a backslash at the end"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
