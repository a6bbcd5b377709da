//! The header of NumPy's `.npy` format, versions 1 to 3 (`numpy.lib.format`).

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header: NumPy itself reads no longer one from strangers.
const MAX_HEADER: usize = 10_000;

/// What stands before an array's values.
#[derive(Debug, PartialEq)]
pub struct Header<'m> {
    /// Such as `<f4`.
    pub descr: &'m str,
    /// Whether the first dimension varies fastest.
    pub fortran_order: bool,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The values.
    pub data: &'m [u8],
}

/// Splits a file into header and values; what is wrong is said otherwise.
pub fn split(file: &[u8]) -> Result<Header<'_>, String> {
    let [major, _minor, rest @ ..] = file.strip_prefix(MAGIC).ok_or("expected the bytes of an .npy file")?
    else {
        return Err("the header is cut short".to_owned());
    };
    let bytes = match major {
        1 => 2,
        2 | 3 => 4,
        other => return Err(format!("expected .npy version 1 to 3, found {other}")),
    };
    let cut = "the header is cut short";
    let (length, rest) = rest.split_at_checked(bytes).ok_or(cut)?;
    let length = length.iter().rev().fold(0usize, |length, byte| length << 8 | usize::from(*byte));
    if length > MAX_HEADER {
        return Err(format!("expected a header of at most {MAX_HEADER} bytes, found {length}"));
    }
    let (header, data) = rest.split_at_checked(length).ok_or(cut)?;
    let header = std::str::from_utf8(header).map_err(|_| "the header is not UTF-8")?;
    let (descr, fortran_order, shape) =
        fields(header).ok_or_else(|| format!("expected descr, fortran_order and shape, found {header:?}"))?;
    Ok(Header { descr, fortran_order, shape, data })
}

/// Reads the three fields of a Python dict; `None` for anything else, such as structured types.
fn fields(header: &str) -> Option<(&str, bool, Vec<usize>)> {
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    let mut rest = header.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    while !rest.is_empty() {
        let (key, after) = quoted(rest)?;
        rest = after.trim_start().strip_prefix(':')?.trim_start();
        match key {
            "descr" => {
                let (value, after) = quoted(rest)?;
                (descr, rest) = (Some(value), after);
            }
            "fortran_order" => {
                let value = rest.starts_with("True");
                rest = rest.strip_prefix(if value { "True" } else { "False" })?;
                fortran = Some(value);
            }
            "shape" => {
                let (value, after) = rest.strip_prefix('(')?.split_once(')')?;
                let sizes = value.split(',').map(str::trim).filter(|size| !size.is_empty());
                shape = Some(sizes.map(|size| size.parse().ok()).collect::<Option<Vec<usize>>>()?);
                rest = after;
            }
            _ => return None,
        }
        rest = rest.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    Some((descr?, fortran?, shape?))
}

/// A quoted word and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

/// The header of a C-ordered array, padded so that the values start at a multiple of 64 bytes.
pub fn header(descr: &str, shape: &[usize]) -> Vec<u8> {
    let sizes: String = shape.iter().map(|size| format!("{size},")).collect();
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sizes}), }}");
    let before = MAGIC.len() + 4;
    let padded = (before + text.len() + 1).next_multiple_of(64) - before;
    text.extend(std::iter::repeat_n(' ', padded - text.len() - 1));
    text.push('\n');
    // A few dimensions stay far below 64 KiB.
    [MAGIC, &[1, 0], &(text.len() as u16).to_le_bytes(), text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_are_written() {
        for shape in [&[][..], &[3], &[2, 16, 7]] {
            let file = [&header("<f4", shape)[..], &[7; 3]].concat();
            assert_eq!(file.len() % 64, 3);
            let found = split(&file).expect("whole");
            let expected =
                Header { descr: "<f4", fortran_order: false, shape: shape.to_vec(), data: &[7; 3] };
            assert_eq!(found, expected);
            for cut in 0..file.len() - 3 {
                assert!(split(&file[..cut]).is_err());
            }
        }
    }

    #[test]
    fn structured_types_and_other_headers_are_refused() {
        let refused = |text: &str| {
            let file = [MAGIC, &[1, 0], &(text.len() as u16).to_le_bytes(), text.as_bytes()].concat();
            split(&file).expect_err("refused")
        };
        refused("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }");
        refused("{'descr': '<f4', 'fortran_order': False, }");
        refused("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }");
        refused("{'descr': '<f4', 'fortran_order': Maybe, 'shape': (1,), }");
        refused("{'descr: '<f4'}");
        assert!(split(b"\x93NUMPY\x09\x00").expect_err("refused").contains("version"));
        assert!(split(b"\x93NUMPY\x02\x00\xff\xff\xff\xff").expect_err("refused").contains("at most"));
    }
}
