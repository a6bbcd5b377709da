//! From an instruction to the prompt: formalisation, chat template, image placeholders.
//!
//! Source: `Gr00tN1d6Processor.__call__` (formalisation), `chat_template.json` and
//! `replace_media_placeholder` of Eagle-Block2A-2B-v2.

use std::sync::LazyLock;

use tokenizers::utils::SysRegex;

use super::image::PixelValues;
use crate::{Error, Result};

/// The token that stands for one image feature.
pub(super) const IMAGE_TOKEN: &str = "<IMG_CONTEXT>";

/// What Python's `re` matches with `[^\w\s]`.
///
/// Python's `\w` is letters, anything with a numeric value, and `_`, without the combining marks
/// that the regex crates' `\w` has; its `\s` includes U+001C to U+001F, which theirs has not.
static PUNCTUATION: LazyLock<SysRegex> =
    LazyLock::new(|| SysRegex::new(r"[^\p{L}\p{N}_\s\x1C-\x1F]+").expect("a constant, valid pattern"));

/// `re.sub(r"[^\w\s]", "", text.lower())`.
///
/// Equal to CPython 3.11 on every code point that its Unicode 14 assigns (compared over all of
/// them); letters that are newer stay here and are removed there.
pub(super) fn formalize(text: &str) -> String {
    let lower = text.to_lowercase();
    let mut out = String::with_capacity(lower.len());
    let mut kept = 0;
    for (start, end) in PUNCTUATION.find_iter(&lower) {
        out.push_str(&lower[kept..start]);
        kept = end;
    }
    out.push_str(&lower[kept..]);
    out
}

/// The chat template for one user turn of text followed by images: `<image-1>`, `<image-2>`, ….
pub(super) fn chat(text: &str, images: usize) -> String {
    let placeholders: String = (1..=images).map(|n| format!("<image-{n}>")).collect();
    format!(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{text}{placeholders}<|im_end|>\n"
    )
}

/// The prompt with every `<image-n>` replaced by its image tokens, and the images in the order of
/// their appearance (indices into `images`).
///
/// An instruction may itself contain placeholders when it is not formalised. The official code
/// expands those too and hands the image to the model once more; `<image-0>` is the last image
/// (Python's index -1). Placeholders with digits other than ASCII ones stay text.
///
/// # Errors
/// [`Error::Input`] about `instruction` for a placeholder without an image, or for a video.
pub(super) fn expand(prompt: &str, images: &[PixelValues]) -> Result<(String, Vec<usize>)> {
    let mut text = String::with_capacity(prompt.len() + images.len() * 1024);
    let mut order = Vec::with_capacity(images.len());
    let mut rest = prompt;
    while let Some(at) = rest.find('<') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let Some((media, digits, length)) = placeholder(rest) else {
            text.push('<');
            rest = &rest[1..];
            continue;
        };
        let index = match digits.parse::<usize>() {
            Ok(0) => images.len().checked_sub(1),
            Ok(number) => (number <= images.len()).then(|| number - 1),
            Err(_) => None,
        };
        let Some(index) = index.filter(|_| media == "image") else {
            let what = format!("'<{media}-{digits}>' refers to none of the {} images", images.len());
            return Err(Error::input("instruction", what));
        };
        let number = if digits.bytes().all(|d| d == b'0') { 0 } else { index + 1 };
        let tokens = IMAGE_TOKEN.repeat(images[index].tokens());
        text.push_str(&format!("<image {number}><img>{tokens}</img>"));
        order.push(index);
        rest = &rest[length..];
    }
    text.push_str(rest);
    Ok((text, order))
}

/// The placeholder that `text` starts with, `<(image|video)-(\d+)>`: medium, digits, byte length.
fn placeholder(text: &str) -> Option<(&str, &str, usize)> {
    let media = ["image", "video"].into_iter().find(|media| text[1..].starts_with(media))?;
    let digits = text[1 + media.len()..].strip_prefix('-')?;
    let digits = &digits[..digits.find('>')?];
    let valid = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    valid.then_some((media, digits, media.len() + digits.len() + 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(height: usize, width: usize) -> PixelValues {
        PixelValues { height, width, data: Vec::new() }
    }

    #[test]
    fn formalisation_follows_python() {
        // Pairs from CPython 3.11: marks, symbols and format characters go; letters, all numeric
        // characters, `_` and every kind of white space stay.
        for (text, expected) in [
            ("Pick up the squash, and place it!", "pick up the squash and place it"),
            ("move_it to café nº 3 ½ ② Ⅷ", "move_it to café nº 3 ½ ② ⅷ"),
            ("cafe\u{301} न्\u{200d} Ⓐ", "cafe न "),
            ("İstanbul ΟΔΟΣ. ẞ ǅ", "istanbul οδος ß ǆ"),
            ("a\u{1c}b\u{85}c\u{a0}d\u{2028}e\u{200b}f", "a\u{1c}b\u{85}c\u{a0}d\u{2028}ef"),
            ("<image-1> Don't", "image1 dont"),
            ("赤い コップ、右へ。٣", "赤い コップ右へ٣"),
            ("", ""),
        ] {
            assert_eq!(formalize(text), expected, "{text:?}");
        }
    }

    #[test]
    fn formalisation_equals_python_from_latin_to_hebrew() {
        // CPython 3.11 over U+0000 to U+05FF: 1151 characters with this position-dependent sum.
        let kept: String = ('\0'..'\u{600}').map(|c| formalize(&c.to_string())).collect();
        let sum: u64 = kept.chars().zip(0..).map(|(c, at)| u64::from(c) * (2 * at + 1)).sum();
        assert_eq!((kept.chars().count(), sum), (1151, 0x514acaaf));
    }

    #[test]
    fn placeholders_expand_to_one_token_per_28_by_28_pixels() {
        let images = [image(28, 56), image(28, 28)];
        let (text, order) = expand(&chat("go", 2), &images).expect("two images");
        assert!(text.contains("user\ngo<image 1><img><IMG_CONTEXT><IMG_CONTEXT></img><image 2><img><IMG_CONTEXT></img><|im_end|>"));
        assert_eq!(order, [0, 1]);
    }

    #[test]
    fn placeholders_in_the_instruction_expand_as_well() {
        let images = [image(28, 28), image(28, 28)];
        let (text, order) = expand("a <image-0> < <image-x> <image-02>", &images).expect("two images");
        assert_eq!(order, [1, 1]);
        assert_eq!(text, "a <image 0><img><IMG_CONTEXT></img> < <image-x> <image 2><img><IMG_CONTEXT></img>");
        for bad in ["<image-3>", "<video-1>", "<image-99999999999999999999999>"] {
            assert!(expand(bad, &images).is_err(), "{bad}");
        }
        assert!(expand("<image-0>", &[]).is_err());
    }
}
