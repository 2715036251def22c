//! One JSON object a line: `key` and `value` for text, `key_base64` and `value_base64` for other bytes. A value that is no
//! string (a number, an object ...) is stored as its JSON text.

use super::Record;
use crate::value::{from_base64, to_base64};
use serde_json::{Map, Value};

pub(super) fn parse(line: &[u8]) -> Result<Record, String> {
    let text = std::str::from_utf8(line).map_err(|error| format!("not UTF-8 at byte {}", error.valid_up_to()))?;
    let mut fields: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| format!("no JSON object: {error}"))?;
    let key = take(&mut fields, "key", "key_base64")?;
    let value = take(&mut fields, "value", "value_base64")?;
    if let Some((name, _)) = fields.iter().next() {
        return Err(format!(
            "unknown field \"{name}\": use key or key_base64, and value or value_base64"
        ));
    }
    Record::checked(key, value)
}

fn take(fields: &mut Map<String, Value>, plain: &str, coded: &str) -> Result<Vec<u8>, String> {
    match (fields.remove(plain), fields.remove(coded)) {
        (None, None) => Err(format!("neither \"{plain}\" nor \"{coded}\"")),
        (Some(_), Some(_)) => Err(format!("both \"{plain}\" and \"{coded}\": only one can hold")),
        (Some(Value::String(text)), None) => Ok(text.into_bytes()),
        (Some(other), None) if plain == "value" => Ok(other.to_string().into_bytes()),
        (Some(_), None) => Err(format!("\"{plain}\" is no string")),
        (None, Some(Value::String(text))) => from_base64(&text).map_err(|why| format!("\"{coded}\": {why}")),
        (None, Some(_)) => Err(format!("\"{coded}\" is no string")),
    }
}

pub(super) fn write(record: &Record, line: &mut Vec<u8>) {
    let mut fields = Map::new();
    let mut add = |plain: &str, coded: &str, bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => fields.insert(plain.to_owned(), text.into()),
        Err(_) => fields.insert(coded.to_owned(), to_base64(bytes).into()),
    };
    add("key", "key_base64", &record.key);
    add("value", "value_base64", &record.value);
    line.extend_from_slice(Value::Object(fields).to_string().as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_to_write_a_record() {
        let record = parse(br#"{"key":"k","value":"v\u00e9"}"#).unwrap();
        assert_eq!((&record.key[..], &record.value[..]), (&b"k"[..], "vé".as_bytes()));
        let record = parse(br#"{"value_base64":"/wA=","key_base64":"AAE="}"#).unwrap();
        assert_eq!(
            (&record.key[..], &record.value[..]),
            (&b"\x00\x01"[..], &b"\xff\x00"[..])
        );
        let record = parse(br#"{"key":"k","value":{"a":[1,2]}}"#).unwrap();
        assert_eq!(record.value, r#"{"a":[1,2]}"#);
    }

    #[test]
    fn malformed_lines_say_why() {
        for (line, why) in [
            (&b""[..], "no JSON object"),
            (b"[1]", "no JSON object"),
            (b"{\"key\":\"k\"}", "neither \"value\" nor \"value_base64\""),
            (b"{\"key\":1,\"value\":\"v\"}", "\"key\" is no string"),
            (b"{\"key\":\"\",\"value\":\"v\"}", "the key is empty"),
            (b"{\"key\":\"k\",\"key_base64\":\"Zg==\",\"value\":\"v\"}", "both"),
            (b"{\"key\":\"k\",\"value_base64\":\"Z\"}", "not base64"),
            (b"{\"key\":\"k\",\"value\":\"v\",\"ttl\":1}", "unknown field \"ttl\""),
            (b"{\"key\":\"\xff\"}", "not UTF-8 at byte 8"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
