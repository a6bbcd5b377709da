//! What of a `tokenizer.json` is let through to the crate that runs it: the parts that tokenizers of GR00T's
//! kind have, in sizes that they have. The crate breaks off, or takes all memory, on others.

use serde_json::Value;

/// Entries of a vocabulary, and the ids in it.
const MAX_TOKENS: usize = 1 << 21;
/// Bytes of a token's spelling, or of a pattern.
const MAX_TEXT: usize = 1 << 10;
/// Tokens added to the vocabulary.
const MAX_ADDED: usize = 1 << 12;
/// Product of the counted repetitions of a pattern.
const MAX_REPETITIONS: u64 = 1000;
/// Steps within steps.
const MAX_DEPTH: usize = 4;

/// Checks the document and removes what encoding does not need.
///
/// # Errors
/// The field that does not fit: what was expected and what was found.
pub(super) fn check(document: &mut Value) -> Result<(), String> {
    let Some(fields) = document.as_object_mut() else { return Err("expected an object".to_owned()) };
    // Turning ids back to text is none of our business.
    fields.remove("decoder");
    for name in ["truncation", "padding"] {
        if fields.get(name).is_some_and(|value| !value.is_null()) {
            return Err(format!(
                "{name}: expected null, since every token of a prompt counts, found a setting"
            ));
        }
    }
    model(fields.get("model").unwrap_or(&Value::Null))?;
    added(fields.get("added_tokens").unwrap_or(&Value::Null))?;
    let part = |name: &str| fields.get(name).unwrap_or(&Value::Null);
    let normalizers = ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "Sequence"];
    step("normalizer", part("normalizer"), &normalizers, 0)?;
    let splitters = [
        "ByteLevel",
        "Split",
        "Whitespace",
        "WhitespaceSplit",
        "Digits",
        "Punctuation",
        "BertPreTokenizer",
        "Sequence",
    ];
    step("pre_tokenizer", part("pre_tokenizer"), &splitters, 0)?;
    step("post_processor", part("post_processor"), &["ByteLevel", "TemplateProcessing", "Sequence"], 0)
}

/// A vocabulary with merges, or whole words.
fn model(model: &Value) -> Result<(), String> {
    let kind = model.get("type").and_then(Value::as_str).unwrap_or("none");
    if !["BPE", "WordLevel"].contains(&kind) {
        return Err(format!("model.type: expected BPE or WordLevel, found {kind}"));
    }
    let is_zero = |value: &Value| value.is_null() || value.as_f64() == Some(0.0);
    if model.get("dropout").is_some_and(|dropout| !is_zero(dropout)) {
        return Err("model.dropout: expected null, since it makes tokens random, found a setting".to_owned());
    }
    for name in ["continuing_subword_prefix", "end_of_word_suffix"] {
        let is_none = |value: &Value| value.is_null() || value.as_str() == Some("");
        if model.get(name).is_some_and(|value| !is_none(value)) {
            return Err(format!("model.{name}: expected none, found one"));
        }
    }
    let vocabulary =
        model.get("vocab").and_then(Value::as_object).ok_or("model.vocab: expected an object")?;
    if vocabulary.len() > MAX_TOKENS {
        return Err(format!(
            "model.vocab: expected at most {MAX_TOKENS} entries, found {}",
            vocabulary.len()
        ));
    }
    for (token, id) in vocabulary {
        text("model.vocab", token)?;
        id_of(id)
            .ok_or_else(|| format!("model.vocab.{token}: expected an id below {MAX_TOKENS}, found {id}"))?;
    }
    let merges = match model.get("merges") {
        None => return Ok(()),
        Some(merges) => merges.as_array().ok_or("model.merges: expected a list")?,
    };
    match merges.len() {
        count if count <= MAX_TOKENS => Ok(()),
        count => Err(format!("model.merges: expected at most {MAX_TOKENS}, found {count}")),
    }
}

fn added(added: &Value) -> Result<(), String> {
    let tokens = match added {
        Value::Null => return Ok(()),
        added => added.as_array().ok_or("added_tokens: expected a list")?,
    };
    if tokens.len() > MAX_ADDED {
        return Err(format!("added_tokens: expected at most {MAX_ADDED}, found {}", tokens.len()));
    }
    for token in tokens {
        let content = token.get("content").and_then(Value::as_str).unwrap_or_default();
        if content.is_empty() {
            return Err("added_tokens: expected a spelling for each, found none".to_owned());
        }
        text("added_tokens", content)?;
        let id = token.get("id").unwrap_or(&Value::Null);
        id_of(id).ok_or_else(|| {
            format!("added_tokens.{content}: expected an id below {MAX_TOKENS}, found {id}")
        })?;
    }
    Ok(())
}

fn id_of(id: &Value) -> Option<usize> {
    id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|id| *id < MAX_TOKENS)
}

fn text(field: &str, text: &str) -> Result<(), String> {
    match text.len() {
        length if length <= MAX_TEXT => Ok(()),
        length => Err(format!("{field}: expected texts of at most {MAX_TEXT} bytes, found one of {length}")),
    }
}

/// A step of the way from text to tokens, or a sequence of them.
fn step(field: &str, value: &Value, known: &[&str], depth: usize) -> Result<(), String> {
    let kind = match value {
        Value::Null => return Ok(()),
        value => value.get("type").and_then(Value::as_str).unwrap_or("none"),
    };
    if !known.contains(&kind) {
        return Err(format!("{field}.type: expected one of {}, found {kind}", known.join(", ")));
    }
    if depth > MAX_DEPTH {
        return Err(format!("{field}: expected at most {MAX_DEPTH} sequences within each other, found more"));
    }
    for list in ["normalizers", "pretokenizers", "processors"] {
        for inner in value.get(list).and_then(Value::as_array).into_iter().flatten() {
            step(field, inner, known, depth + 1)?;
        }
    }
    let pattern = value.get("pattern");
    let mut texts = ["Regex", "String"].iter().filter_map(|name| pattern?.get(name)?.as_str());
    texts.try_for_each(|pattern| {
        text(&format!("{field}.pattern"), pattern)?;
        match repetitions(pattern) {
            count if count <= MAX_REPETITIONS => Ok(()),
            count => Err(format!(
                "{field}.pattern: expected at most {MAX_REPETITIONS} counted repetitions, found {count}"
            )),
        }
    })
}

/// The product of a pattern's counts, as in `{3}` and `{1,3}`: where such parts stand within each other, a match may
/// take as many steps.
fn repetitions(pattern: &str) -> u64 {
    let counts = pattern.split('{').skip(1).filter_map(|rest| {
        let numbers = rest.split_once('}')?.0.split(',');
        // A number too long for its type is a large one.
        let counts =
            numbers.filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
        counts.map(|text| text.parse().unwrap_or(u64::MAX)).max()
    });
    counts.fold(1, |product, count: u64| product.saturating_mul(count.max(1)))
}

#[cfg(test)]
mod tests {
    use super::super::tokenizer::Tokenizer;
    use serde_json::{Value, json};
    use std::path::Path;

    fn demo() -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/checkpoint/tokenizer.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn read(document: &Value) -> Result<Tokenizer, String> {
        Tokenizer::from_json(Path::new("tokenizer.json"), document.to_string().as_bytes())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn settings_that_change_tokens_are_refused() {
        assert!(read(&demo()).is_ok());
        let truncation =
            json!({"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0});
        let padding = json!({"strategy": {"Fixed": 1000000000000u64}, "direction": "Right", "pad_id": 0,
            "pad_type_id": 0, "pad_token": "x", "pad_to_multiple_of": null});
        for (field, value) in [("truncation", truncation), ("padding", padding)] {
            let mut document = demo();
            document[field] = value;
            assert!(read(&document).err().unwrap().contains(field));
        }
        for (field, value) in [
            ("dropout", json!(0.1)),
            ("continuing_subword_prefix", json!("#".repeat(300))),
            ("type", json!("Unigram")),
            ("vocab", json!({"a": u64::MAX})),
            ("vocab", json!({"a".repeat(2000): 1})),
            ("merges", json!("a b")),
        ] {
            let mut document = demo();
            document["model"][field] = value;
            assert!(read(&document).err().unwrap().contains(field), "{field}");
        }
        let mut zero = demo();
        zero["model"]["dropout"] = json!(0.0);
        assert!(read(&zero).is_ok());
    }

    #[test]
    fn parts_that_are_not_known_are_refused() {
        let mut deep = json!({"type": "NFC"});
        for _ in 0..50 {
            deep = json!({"type": "Sequence", "normalizers": [deep]});
        }
        let split = |pattern: String| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        for (field, value) in [
            ("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"})),
            ("normalizer", deep),
            ("pre_tokenizer", split("a".repeat(5000))),
            ("pre_tokenizer", split("(".to_owned())),
            ("pre_tokenizer", split("(?:(?:(?=a)|){900}){900}x".to_owned())),
            ("pre_tokenizer", split("(?:(?=a)|){99999999999999999999}".to_owned())),
            ("added_tokens", json!([{"id": 3, "content": ""}])),
            ("post_processor", json!({"type": "RobertaProcessing"})),
        ] {
            let mut document = demo();
            document[field] = value;
            assert!(read(&document).is_err(), "{field}");
        }
        // What is not used may be anything.
        let mut decoder = demo();
        decoder["decoder"] = json!({"type": "Replace", "pattern": {"Regex": "("}, "content": ""});
        assert!(read(&decoder).is_ok());
    }

    #[test]
    fn damaged_files_are_errors_or_tokenizers_but_never_panics() {
        let whole = demo().to_string().into_bytes();
        let mut state = 0x5eed_u64;
        let mut below = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        for _ in 0..400 {
            let mut damaged = whole.clone();
            for _ in 0..1 + below(4) {
                let at = below(damaged.len());
                damaged[at] = [b'0', b'9', b'"', b'{', b']', b'x', below(256) as u8][below(7)];
            }
            if let Ok(tokenizer) = Tokenizer::from_json(Path::new("tokenizer.json"), &damaged) {
                let _ = tokenizer.encode("Pick up the <|im_start|> bottle\n");
            }
        }
    }
}
