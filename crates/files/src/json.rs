//! JSON as Python's `json` module writes it, with what that module overlooks refused.
//!
//! Read beyond RFC 8259:
//! - a byte order mark before the text;
//! - `NaN`, `Infinity` and `-Infinity`, as `null`: whoever needs a number there notices;
//! - whole numbers written as decimals (`362.0`) where an integer is expected.
//!
//! Refused: a key that an object has twice. Python takes the last one without a word.

use std::{borrow::Cow, collections::HashSet, fmt};

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

/// Reads one value, which is the whole text.
///
/// # Errors
/// The text is not JSON, has a key twice in one object, or is no `T`; with the place in the text.
pub fn from_slice<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    let text = normalized(text);
    serde_json::from_slice::<Unique>(&text)?;
    serde_json::from_slice(&text)
}

/// Why `text` is no such value, for people: the field whose value does not fit, or that the text ends too early or is no
/// UTF-8. Ends with the error's own words.
pub fn why(text: &[u8], error: &serde_json::Error) -> String {
    if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
        return format!("expected UTF-8, found UTF-16 text: {error}");
    }
    match error.classify() {
        Category::Eof if !text.is_empty() => {
            format!("the text ends in the middle of a value, as one copied in part does: {error}")
        }
        Category::Data => match place(&normalized(text), error.line(), error.column()) {
            field if field.is_empty() => error.to_string(),
            field => format!("{field}: {error}"),
        },
        _ => format!("invalid JSON: {error}"),
    }
}

/// The keys and places that lead to the value which ends at a line and a column, both counted from 1: `features.a.shape.0`.
fn place(text: &[u8], line: usize, column: usize) -> String {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let end = lines.take(line.saturating_sub(1)).map(<[u8]>::len).sum::<usize>().saturating_add(column);
    let text = &text[..end.min(text.len())];
    // An entry for each container that is open: what its current value is called. A key comes before its colon.
    let mut open: Vec<String> = Vec::new();
    let mut key = "";
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let length = if *byte == b'"' { string_length(&text[at..]) } else { 1 };
        match byte {
            b'"' => key = std::str::from_utf8(&text[at + 1..(at + length - 1).max(at + 1)]).unwrap_or("?"),
            b':' => *open.last_mut().unwrap_or(&mut String::new()) = key.to_owned(),
            b'{' => open.push(String::new()),
            b'[' => open.push("0".to_owned()),
            b'}' | b']' => drop(open.pop()),
            b',' => {
                if let Some(number) = open.last_mut()
                    && let Ok(index) = number.parse::<usize>()
                {
                    *number = (index + 1).to_string();
                }
            }
            _ => {}
        }
        at += length;
    }
    open.retain(|entry| !entry.is_empty());
    open.join(".")
}

/// The text in the form that serde_json reads: without a byte order mark, numbers that are none as `null`, and
/// spaces in place of a fraction of zeros.
fn normalized(text: &[u8]) -> Cow<'_, [u8]> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut out = Vec::new();
    // Up to where the text was copied to `out`.
    let mut copied = 0;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let (skip, length, replacement): (usize, usize, &[u8]) = match byte {
            b'"' => (string_length(&text[at..]), 0, b""),
            b'N' | b'I' | b'-' | b'0'..=b'9' => match no_number(&text[at..]) {
                Some(length) => (0, length, b"null"),
                None => {
                    let (kept, zeros) = number_length(&text[at..]);
                    (kept, zeros, b"")
                }
            },
            _ => (1, 0, b""),
        };
        at += skip;
        if length > 0 {
            out.extend(&text[copied..at]);
            out.extend(replacement);
            // Places in later error messages stay what they are, where there is room.
            out.resize(out.len() + length.saturating_sub(replacement.len()), b' ');
            at += length;
            copied = at;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.extend(&text[copied..]);
    Cow::Owned(out)
}

/// The bytes of the string that `text` starts with, its quotes included.
fn string_length(text: &[u8]) -> usize {
    let mut at = 1;
    loop {
        match text.get(at) {
            None => return text.len(),
            Some(b'"') => return at + 1,
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
        }
    }
}

/// The bytes of the `NaN` or infinity that `text` starts with.
fn no_number(text: &[u8]) -> Option<usize> {
    [&b"NaN"[..], b"Infinity", b"-Infinity"].iter().find(|name| text.starts_with(name)).map(|name| name.len())
}

/// The bytes of the number that `text` starts with, and those of a fraction of nothing but zeros behind them.
fn number_length(text: &[u8]) -> (usize, usize) {
    let digits =
        |from: usize| text[from..].iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len() - from);
    let whole = 1 + digits(1);
    let end = text[whole..]
        .iter()
        .position(|b| !matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'))
        .map_or(text.len(), |length| whole + length);
    match &text[whole..end] {
        [b'.', zeros @ ..] if !zeros.is_empty() && zeros.iter().all(|b| *b == b'0') => (whole, end - whole),
        _ => (end, 0),
    }
}

/// Any value in whose objects every key stands once.
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Unique)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Unique;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Unique, A::Error> {
        while list.next_element::<Unique>()?.is_some() {}
        Ok(Unique)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if keys.contains(&key) {
                return Err(A::Error::custom(format!("the key `{key}` stands twice in one object")));
            }
            keys.insert(key);
            map.next_value::<Unique>()?;
        }
        Ok(Unique)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn read(text: &str) -> serde_json::Result<Value> {
        from_slice(text.as_bytes())
    }

    #[test]
    fn what_python_writes_is_read() {
        assert_eq!(
            read("\u{feff}{\"a\": [NaN, -Infinity, Infinity, 1]}").unwrap(),
            json!({"a": [null, null, null, 1]})
        );
        assert_eq!(
            read("[362.0, -4.00, 0.0, 1.5, 1.0e3, 10]").unwrap(),
            json!([362, -4, 0, 1.5, 1000.0, 10])
        );
        assert_eq!(from_slice::<usize>(b"362.0").unwrap(), 362);
        assert_eq!(from_slice::<f64>(b"-0.0").unwrap().to_bits(), (-0.0f64).to_bits());
        assert_eq!(from_slice::<f64>(b"123456789012345678901.0").unwrap(), 123456789012345678901.0);
        // Texts stay what they are.
        let text = r#"{"NaN 1.0": "Infinity \" 2.0, NaN \\"}"#;
        assert_eq!(read(text).unwrap(), json!({"NaN 1.0": "Infinity \" 2.0, NaN \\"}));
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for bad in ["NaN1", "1.0.0", "[1.0e]", "Inf", "\"open", "{\"a\": 1.", "-", "1.0 2", "{\"a\" 1}", ""] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(from_slice::<usize>(b"362.5").is_err());
        assert!(from_slice::<usize>(b"NaN").is_err());
    }

    #[test]
    fn keys_that_stand_twice_are_refused_with_their_place() {
        let error = read("{\"a\": [{\"b\": 1,\n \"b\": 1}]}").unwrap_err();
        assert!(error.to_string().contains("`b` stands twice"), "{error}");
        assert_eq!(error.line(), 2);
        assert!(read(r#"{"a": {"x": 1}, "b": {"x": 1}}"#).is_ok());
        // However it is spelled.
        assert!(read(r#"{"a": 1, "\u0061": 1}"#).is_err());
    }

    #[test]
    fn why_names_the_field() {
        #[derive(Debug, serde::Deserialize)]
        struct Inner {
            list: Vec<usize>,
        }
        #[derive(Debug, serde::Deserialize)]
        struct Outer {
            fps: Option<f64>,
            inner: Option<Inner>,
        }
        let right: Outer = from_slice(br#"{"fps": 30, "inner": {"list": [1, 2]}}"#).unwrap();
        assert_eq!((right.fps, right.inner.map(|inner| inner.list)), (Some(30.0), Some(vec![1, 2])));
        let said = |text: &str| why(text.as_bytes(), &from_slice::<Outer>(text.as_bytes()).unwrap_err());
        for (text, start) in [
            (r#"{"a": NaN, "fps": "30"}"#, "fps: invalid type: string"),
            ("{\n\"inner\": {\"list\": [1, NaN,\n -2]}}", "inner.list.1: invalid type: null"),
            (r#"{"inner": {"x": [[1], {"y": 2}]}}"#, "inner: missing field `list`"),
            (r#"{"inner": 3}"#, "inner: invalid type: integer"),
            (r#"{"fps": 3, }"#, "invalid JSON: "),
            (r#"{"fps": 3"#, "the text ends in the middle"),
            ("[]", "invalid "),
        ] {
            assert!(said(text).starts_with(start), "{text}: {}", said(text));
        }
        let wide: Vec<u8> = "{\"fps\": 3}".bytes().flat_map(|byte| [byte, 0]).collect();
        let wide = [&b"\xff\xfe"[..], &wide].concat();
        assert!(why(&wide, &from_slice::<Outer>(&wide).unwrap_err()).contains("UTF-16"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_value_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Err(error) = from_slice::<Vec<usize>>(&bytes) {
                assert!(why(&bytes, &error).ends_with(&error.to_string()));
            }
        }

        #[test]
        fn json_like_texts_are_read_as_before(
            text in r#"[\[\]{}:,"\\ a-cN0-9.eEI-]{0,60}"#
        ) {
            // What plain JSON is stays the same value, but for the form of whole numbers.
            if let Ok(plain) = serde_json::from_str::<Value>(&text) {
                match read(&text) {
                    Ok(value) => prop_assert!(same(&plain, &value), "{plain} {value}"),
                    Err(error) => prop_assert!(error.to_string().contains("stands twice")),
                }
            }
        }
    }

    fn same(a: &Value, b: &Value) -> bool {
        match (a, b) {
            (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
            (Value::Array(a), Value::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
            }
            (Value::Object(a), Value::Object(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|((k, a), (l, b))| k == l && same(a, b))
            }
            _ => a == b,
        }
    }
}
