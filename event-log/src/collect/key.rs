//! The key of an event: what its key column holds.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Checks that `event` is one JSON text and takes its key out: the top-level field `column`, a text as its characters, a
/// number or boolean as it is written. Missing, null, an array or an object: no key.
///
/// Nothing else of the event is looked at, and nothing is built of it, so nesting may be as deep as it likes.
pub(super) fn key_of(event: &Bytes, column: Option<&str>) -> Result<Option<Bytes>, String> {
    let text = std::str::from_utf8(event)
        .map_err(|cause| format!("not UTF-8: a wrong byte at position {}", cause.valid_up_to()))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let raw = match column {
        Some(column) if text.trim_ascii_start().starts_with('{') => {
            json.deserialize_map(Field(column)).map_err(reason)?
        }
        _ => {
            json.deserialize_ignored_any(IgnoredAny).map_err(reason)?;
            None
        }
    };
    json.end().map_err(reason)?;
    Ok(raw.and_then(|raw| key_bytes(event, raw.get())))
}

fn key_bytes(event: &Bytes, raw: &str) -> Option<Bytes> {
    match raw.as_bytes().first()? {
        b'"' if !raw.contains('\\') => Some(event.slice_ref(&raw.as_bytes()[1..raw.len() - 1])),
        b'"' => {
            let text: Cow<'_, str> = serde_json::from_str(raw).ok()?;
            Some(Bytes::copy_from_slice(text.as_bytes()))
        }
        b'{' | b'[' | b'n' => None,
        _ => Some(event.slice_ref(raw.as_bytes())),
    }
}

fn reason(cause: serde_json::Error) -> String {
    format!("not JSON: {cause}")
}

/// Finds one field of an object; the last one, if it is there twice.
struct Field<'a>(&'a str);

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(wanted) = map.next_key_seed(NameIs(self.0))? {
            if wanted {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Whether a field has this name.
struct NameIs<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for NameIs<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameIs<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(event: &'static str) -> Result<Option<Bytes>, String> {
        key_of(&Bytes::from_static(event.as_bytes()), Some("id"))
    }

    #[test]
    fn keys_are_what_the_column_holds() {
        let cases = [
            (r#"{"id":"a1","x":{"id":"inner"}}"#, Some("a1")),
            (
                r#" {"x":[1,{"id":2}],"id": 9007199254740993 } "#,
                Some("9007199254740993"),
            ),
            (r#"{"id":1.50}"#, Some("1.50")),
            (r#"{"id":true}"#, Some("true")),
            (r#"{"id":"a\u00e9\"b"}"#, Some("aé\"b")),
            (r#"{"\u0069d":"escaped name"}"#, Some("escaped name")),
            (r#"{"id":"first","id":"last"}"#, Some("last")),
            (r#"{"id":""}"#, Some("")),
            (r#"{"id":null}"#, None),
            (r#"{"id":{"a":1}}"#, None),
            (r#"{"id":["a"]}"#, None),
            (r#"{"ID":"a"}"#, None),
            ("42", None),
            (r#"["id"]"#, None),
        ];
        for (event, expected) in cases {
            assert_eq!(key(event), Ok(expected.map(Bytes::from)), "{event}");
        }
    }

    #[test]
    fn what_is_not_json_is_named() {
        for event in [
            "",
            "{",
            "nope",
            r#"{"id":1}}"#,
            r#"{"id":1} {"id":2}"#,
            r#"{"x":01}"#,
            "{'id':1}",
        ] {
            assert!(
                key(event).is_err_and(|reason| reason.starts_with("not JSON: ")),
                "{event}"
            );
        }
        let wrong = key_of(&Bytes::from_static(b"{\"x\":\"\xff\"}"), Some("id"));
        assert_eq!(wrong, Err("not UTF-8: a wrong byte at position 6".to_owned()));
    }

    #[test]
    fn deep_nesting_is_no_danger() {
        let deep = 1_000_000;
        let event = format!("{{\"x\":{}{},\"id\":\"k\"}}", "[".repeat(deep), "]".repeat(deep));
        assert_eq!(key_of(&Bytes::from(event), Some("id")), Ok(Some(Bytes::from("k"))));
        let event = Bytes::from("[".repeat(deep) + &"]".repeat(deep));
        assert_eq!(key_of(&event, None), Ok(None));
    }
}
