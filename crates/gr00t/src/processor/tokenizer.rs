//! The language model's tokenizer: a `tokenizer.json`, or the `vocab.json` and `merges.txt` that
//! upstream ships for N1.6.
//!
//! The second form is put together as `transformers` converts a `Qwen2Tokenizer`: NFC, Qwen's
//! split pattern, byte-level BPE, and added tokens that are matched before everything else.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use steadyhand_files::json;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::config::read_json;
use super::tokenizer_json;
use crate::checkpoint::files;
use crate::{Error, Result};

/// Qwen2's split pattern: contractions, words, single digits, punctuation runs, line ends, spaces.
const QWEN2_PATTERN: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// Text to token ids.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

/// One entry of `added_tokens_decoder` in `tokenizer_config.json`.
#[derive(Deserialize)]
struct AddedEntry {
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    normalized: bool,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, a folder with one, or a folder with `vocab.json` and `merges.txt`
    /// (with `tokenizer_config.json` or `added_tokens.json` for the added tokens).
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read, [`Error::File`] when it is not a tokenizer.
    pub fn from_path(path: &Path) -> Result<Self> {
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() };
        let inner = if path.is_dir() && !file.exists() && path.join("vocab.json").exists() {
            guarded(&path.join("vocab.json"), || from_vocabulary(path))?
        } else {
            return Tokenizer::from_json(&file, &files::read(&file)?);
        };
        Ok(Tokenizer { inner })
    }

    /// Reads the contents of a `tokenizer.json`; `origin` is what errors name.
    pub(super) fn from_json(origin: &Path, contents: &[u8]) -> Result<Self> {
        let refused = |what: String| Error::file(origin, what);
        let mut document =
            json::from_slice(contents).map_err(|error| refused(json::why(contents, &error)))?;
        tokenizer_json::check(&mut document).map_err(refused)?;
        let read = || serde_json::from_value(document).map_err(|error| refused(error.to_string()));
        Ok(Tokenizer { inner: guarded(origin, read)? })
    }

    /// Token ids of a text; the spellings of added tokens become those tokens.
    ///
    /// # Errors
    /// [`Error::Input`] when the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = guarded(Path::new("tokenizer"), || {
            self.inner.encode_fast(text, true).map_err(|error| Error::input("instruction", error.to_string()))
        });
        encoding.map(|encoding| encoding.get_ids().to_vec())
    }

    /// The id of a token, by its spelling.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
}

/// Runs the tokenizers crate. It panics on some files that look right: that becomes an error, and what it was making is
/// dropped.
fn guarded<T>(origin: &Path, run: impl FnOnce() -> Result<T>) -> Result<T> {
    steadyhand_files::guarded(run)
        .unwrap_or_else(|| Err(Error::file(origin, "the tokenizer broke off: it is damaged")))
}

fn from_vocabulary(folder: &Path) -> Result<tokenizers::Tokenizer> {
    let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    if let Err(error) = std::fs::metadata(&merges) {
        return Err(Error::io(&merges, error));
    }
    let refused = |what: String| Error::file(&vocab, what);
    // The crate takes the last of two equal keys.
    read_json::<BTreeMap<String, u32>>(&vocab)?;
    let model = BPE::from_file(&vocab.to_string_lossy(), &merges.to_string_lossy()).build();
    let mut tokenizer = tokenizers::Tokenizer::new(model.map_err(|e| refused(e.to_string()))?);
    let pattern = SplitPattern::Regex(QWEN2_PATTERN.to_string());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
    let split = split.map_err(|e| refused(e.to_string()))?;
    let bytes = ByteLevel::new(false, false, false);
    let steps = vec![PreTokenizerWrapper::from(split), PreTokenizerWrapper::from(bytes)];
    tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
    tokenizer.with_normalizer(Some(NFC)).map_err(|e| refused(e.to_string()))?;
    for (id, token) in added_tokens(folder)? {
        let content = token.content.clone();
        let added =
            if token.special { tokenizer.add_special_tokens([token]) } else { tokenizer.add_tokens([token]) };
        added.map_err(|e| refused(e.to_string()))?;
        // The crate numbers new tokens itself: consecutively after the vocabulary.
        let got = tokenizer.token_to_id(&content);
        if got != Some(id) {
            return Err(refused(format!("added token '{content}' should have id {id}, got {got:?}")));
        }
    }
    Ok(tokenizer)
}

/// Added tokens by id, from `tokenizer_config.json` or else from `added_tokens.json`.
fn added_tokens(folder: &Path) -> Result<BTreeMap<u32, AddedToken>> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        added_tokens_decoder: BTreeMap<u32, AddedEntry>,
    }
    let config = folder.join("tokenizer_config.json");
    if config.exists() {
        let tokens = read_json::<Config>(&config)?.added_tokens_decoder;
        if !tokens.is_empty() {
            let token = |e: AddedEntry| {
                AddedToken::from(e.content, e.special)
                    .lstrip(e.lstrip)
                    .rstrip(e.rstrip)
                    .single_word(e.single_word)
                    .normalized(e.normalized)
            };
            return Ok(tokens.into_iter().map(|(id, entry)| (id, token(entry))).collect());
        }
    }
    let path = folder.join("added_tokens.json");
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let tokens: BTreeMap<String, u32> = read_json(&path)?;
    // The file has no flags; `special` keeps the spelling from being normalized or split.
    Ok(tokens.into_iter().map(|(content, id)| (id, AddedToken::from(content, true))).collect())
}
