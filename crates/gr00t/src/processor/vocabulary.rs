//! The tokenizer of a checkpoint, and whether it is that of its version.

use std::path::{Path, PathBuf};

use super::language::Template;
use super::tokenizer::Tokenizer;
use crate::checkpoint::files::processor_file;
use crate::{Error, Result, Version};

/// Whose tokenizer a version takes.
fn owner(version: Version) -> &'static str {
    match version {
        Version::N1_6 => "Eagle-Block2A-2B-v2",
        Version::N1_7 => "Qwen3-VL",
    }
}

/// The tokenizer at `path`, or else the checkpoint's own, with every token that the prompt of `version` is made of.
///
/// # Errors
/// There is none, or it is another's; where that of another version is recognised, the error says so.
pub(super) fn tokenizer(checkpoint: &Path, path: Option<&Path>, version: Version) -> Result<Tokenizer> {
    let own;
    let path = match path {
        Some(path) => path,
        None => {
            own = own_tokenizer(checkpoint, version)?;
            &own
        }
    };
    let tokenizer = Tokenizer::from_path(path)?;
    check(&tokenizer, version).map_err(|what| Error::file(path, what))?;
    Ok(tokenizer)
}

/// The tokenizer's file or folder of a checkpoint that has its own.
///
/// # Errors
/// It has none: which one it takes, and where that is.
pub fn own_tokenizer(checkpoint: &Path, version: Version) -> Result<PathBuf> {
    let file = processor_file(checkpoint, "tokenizer.json");
    if file.exists() {
        return Ok(file);
    }
    if checkpoint.join("vocab.json").exists() {
        return Ok(checkpoint.to_path_buf());
    }
    let place = match version {
        Version::N1_6 => {
            "the folder gr00t/model/modules/nvidia/Eagle-Block2A-2B-v2 of NVIDIA's Isaac-GR00T repository \
             (vocab.json, merges.txt, tokenizer_config.json)"
        }
        Version::N1_7 => "tokenizer.json of nvidia/Cosmos-Reason2-2B on the Hugging Face hub",
    };
    let what = format!(
        "expected a tokenizer.json, found none; name one with --tokenizer. {version} takes the tokenizer of {}: {place}",
        owner(version)
    );
    Err(Error::file(checkpoint, what))
}

/// Whether a prompt's special tokens are one token each, and the tokenizer is not that of another version. Both have
/// Qwen3's vocabulary; N1.6's has N1.7's special tokens too, and others, which an instruction may spell.
fn check(tokenizer: &Tokenizer, version: Version) -> Result<(), String> {
    let has = |token: &str| match (tokenizer.token_id(token), tokenizer.encode(token)) {
        (Some(id), Ok(ids)) => ids == [id],
        _ => false,
    };
    let template = Template::of(version);
    // The first version whose image token the tokenizer has: N1.6's has that of N1.7 as well.
    let found = Version::ALL.into_iter().find(|other| has(Template::of(*other).image_token()));
    if let Some(other) = found.filter(|other| *other != version) {
        return Err(format!(
            "expected the tokenizer of {version}, that of {}, found that of {other}: it has {}",
            owner(version),
            Template::of(other).image_token()
        ));
    }
    match template.special.iter().find(|token| !has(token)) {
        None => Ok(()),
        Some(token) => Err(format!(
            "expected the tokenizer of {version}, that of {}, found one without the token {token}",
            owner(version)
        )),
    }
}
