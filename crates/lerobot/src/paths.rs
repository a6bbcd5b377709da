//! The path patterns of `info.json`: Python format strings such as `{episode_chunk:03d}` and `{video_key}`.

use std::path::{Component, Path};

/// The values a pattern may name.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fields<'a> {
    /// `{chunk_index}` and `{episode_chunk}`.
    pub(crate) chunk: usize,
    /// `{file_index}` (v3.0).
    pub(crate) file: usize,
    /// `{episode_index}` (v2.x).
    pub(crate) episode: usize,
    /// `{video_key}`; absent in the pattern of data files.
    pub(crate) video_key: Option<&'a str>,
}

/// Fills a pattern in. The error says which part of the pattern is not understood, or that the path would lead
/// out of the dataset's folder.
pub(crate) fn expand(pattern: &str, fields: Fields) -> Result<String, String> {
    let path = fill_in(pattern, fields)?;
    let inside = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
    match Path::new(&path).components().all(inside) && !path.contains('\0') {
        true => Ok(path),
        false => Err("a path out of the dataset's folder".into()),
    }
}

fn fill_in(pattern: &str, fields: Fields) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    while let Some(at) = rest.find(['{', '}']) {
        let (text, from) = rest.split_at(at);
        out.push_str(text);
        // Doubled braces stand for themselves, as in Python.
        if from.starts_with("{{") || from.starts_with("}}") {
            out.push_str(&from[..1]);
            rest = &from[2..];
            continue;
        }
        let inner = from.strip_prefix('{').ok_or("a `}` without `{`")?;
        let (field, after) = inner.split_once('}').ok_or("a `{` without `}`")?;
        out.push_str(&fill(field, fields)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// One `{field}` or `{field:03d}`.
fn fill(field: &str, fields: Fields) -> Result<String, String> {
    let (name, spec) = field.split_once(':').unwrap_or((field, ""));
    let number = match name {
        "video_key" => {
            return match (fields.video_key, spec) {
                (Some(key), "" | "s") => Ok(key.to_owned()),
                _ => Err(format!("`{{{field}}}`")),
            };
        }
        "chunk_index" | "episode_chunk" => fields.chunk,
        "file_index" => fields.file,
        "episode_index" => fields.episode,
        _ => return Err(format!("`{{{field}}}`")),
    };
    let digits = spec.strip_suffix('d').unwrap_or(spec);
    let width = match digits {
        "" => 0,
        _ => digits.parse::<usize>().ok().filter(|w| *w <= 20).ok_or(format!("`{{{field}}}`"))?,
    };
    match digits.starts_with('0') {
        true => Ok(format!("{number:0width$}")),
        false => Ok(format!("{number:width$}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: Fields =
        Fields { chunk: 1, file: 2, episode: 1234, video_key: Some("observation.images.a") };

    #[test]
    fn patterns_of_both_layouts() {
        let v2 = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4";
        assert_eq!(expand(v2, FIELDS).unwrap(), "videos/chunk-001/observation.images.a/episode_001234.mp4");
        let v3 = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4";
        assert_eq!(expand(v3, FIELDS).unwrap(), "videos/observation.images.a/chunk-001/file-002.mp4");
        assert_eq!(expand("{{x}}{episode_index}-{file_index:3d}", FIELDS).unwrap(), "{x}1234-  2");
    }

    #[test]
    fn bad_patterns_are_named() {
        for (pattern, part) in [
            ("data/{episode}.parquet", "`{episode}`"),
            ("data/{episode_index:06x}", "`{episode_index:06x}`"),
            ("data/{episode_index:99999999999d}", "`{episode_index:99999999999d}`"),
            ("data/{episode_index", "without"),
            ("data/episode_index}", "without"),
            ("/data/{episode_index}", "out of the dataset"),
            ("data/../../{episode_index}", "out of the dataset"),
            ("..", "out of the dataset"),
        ] {
            let error = expand(pattern, FIELDS).unwrap_err();
            assert!(error.contains(part), "{pattern}: {error}");
        }
        let outside = Fields { video_key: Some("../../x"), ..FIELDS };
        assert!(expand("videos/{video_key}.mp4", outside).unwrap_err().contains("out of the dataset"));
    }
}
