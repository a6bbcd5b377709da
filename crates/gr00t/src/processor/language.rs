//! From an instruction to the prompt: formalisation, chat template, image placeholders.
//!
//! Source: `__call__` of the official processors (formalisation); `chat_template.json` and
//! `replace_media_placeholder` of Eagle-Block2A-2B-v2 (N1.6); Qwen3-VL's chat template and transformers'
//! `Qwen3VLProcessor` (N1.7).

use std::sync::LazyLock;

use tokenizers::utils::SysRegex;

use crate::{Error, Result, Version};

/// The form of a version's prompt: one user turn of text and images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Template {
    /// What stands before the user turn's content.
    opening: &'static str,
    /// Whether the images stand before the instruction.
    images_first: bool,
    images: Placeholders,
    /// Tokens that the prompt is made of besides text.
    pub special: &'static [&'static str],
}

/// How an image is written before its tokens are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placeholders {
    /// `<image-n>`; an instruction may name images too.
    Numbered,
    /// One image token between the tokens that start and end an image.
    Delimited,
}

impl Template {
    pub const fn of(version: Version) -> Self {
        match version {
            Version::N1_6 => Template {
                opening: "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
                images_first: false,
                images: Placeholders::Numbered,
                special: &["<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"],
            },
            Version::N1_7 => Template {
                opening: "<|im_start|>user\n",
                images_first: true,
                images: Placeholders::Delimited,
                special: &[
                    "<|im_start|>",
                    "<|im_end|>",
                    "<|vision_start|>",
                    "<|vision_end|>",
                    "<|image_pad|>",
                ],
            },
        }
    }

    /// The token that stands for one image feature.
    pub const fn image_token(&self) -> &'static str {
        match self.images {
            Placeholders::Numbered => "<IMG_CONTEXT>",
            Placeholders::Delimited => "<|image_pad|>",
        }
    }

    /// The prompt of an instruction and a number of images, each a placeholder.
    ///
    /// # Errors
    /// [`Error::Input`] about `instruction` for the token of an image in it: the official code would give it the
    /// features of an image that is not there.
    pub fn chat(&self, instruction: &str, images: usize) -> Result<String> {
        let placeholders: String = match self.images {
            Placeholders::Numbered => (1..=images).map(|n| format!("<image-{n}>")).collect(),
            Placeholders::Delimited => {
                let token = self.image_token();
                if instruction.contains(token) {
                    let what = format!("expected text without {token}, which stands for an image, found one");
                    return Err(Error::input("instruction", what));
                }
                format!("<|vision_start|>{token}<|vision_end|>").repeat(images)
            }
        };
        let [first, second] = match self.images_first {
            true => [placeholders.as_str(), instruction],
            false => [instruction, placeholders.as_str()],
        };
        Ok(format!("{}{first}{second}<|im_end|>\n", self.opening))
    }

    /// The prompt with every placeholder replaced by its image's tokens, of which `tokens` has the numbers, and the
    /// images in the order of their appearance (indices into `tokens`).
    ///
    /// # Errors
    /// [`Error::Input`] about `instruction` for a placeholder without an image, or for a video.
    pub fn expand(&self, prompt: &str, tokens: &[usize]) -> Result<(String, Vec<usize>)> {
        match self.images {
            Placeholders::Numbered => expand_numbered(prompt, tokens, self.image_token()),
            Placeholders::Delimited => {
                let mut parts = prompt.split(self.image_token());
                let mut text = parts.next().unwrap_or_default().to_owned();
                for (part, count) in parts.zip(tokens) {
                    text.push_str(&self.image_token().repeat(*count));
                    text.push_str(part);
                }
                Ok((text, (0..tokens.len()).collect()))
            }
        }
    }
}

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

/// [`Template::expand`] of N1.6.
///
/// An instruction may itself contain placeholders when it is not formalised. The official code
/// expands those too and hands the image to the model once more; `<image-0>` is the last image
/// (Python's index -1). Placeholders with digits other than ASCII ones stay text.
fn expand_numbered(prompt: &str, tokens: &[usize], image_token: &str) -> Result<(String, Vec<usize>)> {
    let images = tokens.len();
    let mut text = String::with_capacity(prompt.len() + images * 1024);
    let mut order = Vec::with_capacity(images);
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
            Ok(0) => images.checked_sub(1),
            Ok(number) => (number <= images).then(|| number - 1),
            Err(_) => None,
        };
        let Some(index) = index.filter(|_| media == "image") else {
            let what = format!("'<{media}-{digits}>' refers to none of the {images} images");
            return Err(Error::input("instruction", what));
        };
        let number = if digits.bytes().all(|d| d == b'0') { 0 } else { index + 1 };
        let features = image_token.repeat(tokens[index]);
        text.push_str(&format!("<image {number}><img>{features}</img>"));
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

    const N1_6: Template = Template::of(Version::N1_6);
    const N1_7: Template = Template::of(Version::N1_7);

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
    fn placeholders_become_the_tokens_of_their_image() {
        let prompt = N1_6.chat("go", 2).expect("text");
        let (text, order) = N1_6.expand(&prompt, &[2, 1]).expect("two images");
        assert!(text.contains("user\ngo<image 1><img><IMG_CONTEXT><IMG_CONTEXT></img><image 2><img><IMG_CONTEXT></img><|im_end|>"));
        assert_eq!(order, [0, 1]);

        let prompt = N1_7.chat("go", 2).expect("text");
        let image = "<|vision_start|><|image_pad|><|vision_end|>";
        assert_eq!(prompt, format!("<|im_start|>user\n{image}{image}go<|im_end|>\n"));
        let (text, order) = N1_7.expand(&prompt, &[2, 1]).expect("two images");
        let first = "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>";
        assert_eq!(text, format!("<|im_start|>user\n{first}{image}go<|im_end|>\n"));
        assert_eq!(order, [0, 1]);
    }

    #[test]
    fn an_image_token_in_the_instruction_is_refused_where_it_would_be_an_image() {
        let error = N1_7.chat("a <|image_pad|>", 1).expect_err("an image").to_string();
        assert_eq!(
            error,
            "instruction: expected text without <|image_pad|>, which stands for an image, found one"
        );
        assert!(N1_7.chat("an image_pad", 1).is_ok() && N1_6.chat("a <|image_pad|>", 1).is_ok());
    }

    #[test]
    fn placeholders_in_the_instruction_expand_as_well() {
        let images = [1, 1];
        let (text, order) = N1_6.expand("a <image-0> < <image-x> <image-02>", &images).expect("two images");
        assert_eq!(order, [1, 1]);
        assert_eq!(text, "a <image 0><img><IMG_CONTEXT></img> < <image-x> <image 2><img><IMG_CONTEXT></img>");
        for bad in ["<image-3>", "<video-1>", "<image-99999999999999999999999>"] {
            assert!(N1_6.expand(bad, &images).is_err(), "{bad}");
        }
        assert!(N1_6.expand("<image-0>", &[]).is_err());
    }
}
