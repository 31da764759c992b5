//! Strict JSON: what a parser would have to guess about is refused, with its place.
//!
//! Keys that are there twice, numbers that fit no type, nesting without end, anything behind the value,
//! fields nobody knows. Pure.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::error::ApiError;

/// The body of a request in its shape.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    check(bytes)?;
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::usage(format!("the body is not what is asked for: {error}")))
}

/// Whether it is JSON that everybody reads the same way.
pub(super) fn check(bytes: &[u8]) -> Result<(), ApiError> {
    match serde_json::from_slice::<Plain>(bytes) {
        Ok(Plain) => Ok(()),
        Err(error) => Err(ApiError::usage(format!("the body is not plain JSON: {error}"))),
    }
}

/// Any value, thrown away.
struct Plain;

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Look)
    }
}

struct Look;

impl<'de> Visitor<'de> for Look {
    type Value = Plain;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_str<E>(self, _: &str) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_unit<E>(self) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Plain, A::Error> {
        while seq.next_element::<Plain>()?.is_some() {}
        Ok(Plain)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Plain, A::Error> {
        let mut keys = std::collections::BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if keys.contains(&key) {
                let shown: String = key.chars().take(64).collect();
                return Err(A::Error::custom(format!("{shown:?} is there twice")));
            }
            keys.insert(key);
            map.next_value::<Plain>()?;
        }
        Ok(Plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::dto::Open;

    #[test]
    fn what_is_not_plain_json_is_refused_with_its_place() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        for (text, words) in [
            ("", "line 1 column 0"),
            ("{\"a\": 1,", "line 1 column 8"),
            ("{\"a\": 1,\n \"a\": 2}", "\"a\" is there twice at line 2 column"),
            ("[{\"b\": {\"x\": 1, \"x\": 1}}]", "\"x\" is there twice"),
            ("{\"a\": 1e400}", "out of range at line 1 column"),
            (&deep, "recursion limit exceeded at line 1 column"),
            ("{} {}", "trailing characters at line 1 column"),
            ("{'a': 1}", "line 1 column"),
            ("\u{feff}{}", "line 1 column"),
        ] {
            let error = check(text.as_bytes()).expect_err(text);
            assert!(error.message().contains(words), "{text:.40}: {}", error.message());
        }
        assert!(check(b"\xff").is_err());
        assert_eq!(check(b" {\"a\": [1, 2.5, null, true, \"x\"]}\n"), Ok(()));
    }

    #[test]
    fn a_shape_names_the_field_and_the_place() {
        let fixed = "\"peer\":\"b\",\"service\":\"video\",\"deadline_ms\":1";
        for (fields, words) in [
            ("\"bandwidth_bps\":1,\"bandwith_back_bps\":1", "bandwith_back_bps"),
            ("\"bandwidth_bps\":-1", "column"),
            ("\"bandwidth_bps\":18446744073709551616", "column"),
            ("\"bandwidth_bps\":1.5", "column"),
        ] {
            let text = format!("{{{fixed},{fields}}}");
            let error = parse::<Open>(text.as_bytes()).expect_err(&text);
            assert!(error.message().contains(words), "{text}: {}", error.message());
        }
    }
}
