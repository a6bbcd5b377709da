//! The outline of an ELF file: the driver takes a cubin without its length and reads where the headers point. The code
//! of a kernel is found there too.

/// The type of a section that takes no bytes in the file.
const NOBITS: usize = 8;

/// Entries of one size, one after the other.
struct Table {
    start: usize,
    entry: usize,
    count: usize,
}

impl Table {
    /// The table whose place, size of an entry and number of entries stand at these bytes; none where it does not lie
    /// in the file or its entries are smaller than `smallest`.
    fn read(file: &[u8], [start, entry, count]: [usize; 3], smallest: usize) -> Option<Self> {
        let table = Table {
            start: number::<8>(file, start)?,
            entry: number::<2>(file, entry)?,
            count: number::<2>(file, count)?,
        };
        let fits = table.count == 0 || table.entry >= smallest;
        (fits && holds(file, table.start, table.entry * table.count)).then_some(table)
    }

    fn entries(&self) -> impl Iterator<Item = usize> {
        (0..self.count).map(|index| self.start + index * self.entry)
    }
}

/// Whether this is a 64-bit little-endian ELF file, and all that its headers point to lies in it.
pub(crate) fn is_whole(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF\x02\x01") && parts_lie_inside(file) == Some(true)
}

fn parts_lie_inside(file: &[u8]) -> Option<bool> {
    let segments = Table::read(file, [32, 54, 56], 56)?;
    let sections = Table::read(file, [40, 58, 60], 64)?;
    for at in segments.entries() {
        if !holds(file, number::<8>(file, at + 8)?, number::<8>(file, at + 32)?) {
            return Some(false);
        }
    }
    for at in sections.entries() {
        let in_file = number::<4>(file, at + 4)? != NOBITS;
        if in_file && !holds(file, number::<8>(file, at + 24)?, number::<8>(file, at + 32)?) {
            return Some(false);
        }
    }
    Some(sections.count > 0)
}

/// The machine code of the kernel `entry` in a cubin; none where the file is damaged or has no such kernel.
pub fn machine_code<'c>(cubin: &'c [u8], entry: &str) -> Option<&'c [u8]> {
    if !is_whole(cubin) {
        return None;
    }
    let sections = Table::read(cubin, [40, 58, 60], 64)?;
    let contents = |at: usize| cubin.get(number::<8>(cubin, at + 24)?..)?.get(..number::<8>(cubin, at + 32)?);
    // The section that holds the names of all sections.
    let names = contents(sections.entries().nth(number::<2>(cubin, 62)?)?)?;
    let wanted = format!(".text.{entry}\0");
    let is_code = |at: &usize| {
        let name = number::<4>(cubin, *at).and_then(|first| names.get(first..));
        name.is_some_and(|name| name.starts_with(wanted.as_bytes()))
    };
    contents(sections.entries().find(is_code)?)
}

/// The little-endian number of `N` bytes at a place.
fn number<const N: usize>(file: &[u8], at: usize) -> Option<usize> {
    let mut word = [0; 8];
    word[..N].copy_from_slice(file.get(at..)?.get(..N)?);
    usize::try_from(u64::from_le_bytes(word)).ok()
}

fn holds(file: &[u8], start: usize, bytes: usize) -> bool {
    start.checked_add(bytes).is_some_and(|end| end <= file.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of one segment and one section, which is its last 16 bytes.
    fn small() -> Vec<u8> {
        let mut file = vec![0; 64 + 56 + 64 + 16];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let numbers = [
            [(32, 64), (54, 56), (56, 1)],
            [(40, 120), (58, 64), (60, 1)],
            [(64 + 8, 184), (64 + 32, 16), (120 + 4, 1)],
        ];
        let section = [(120 + 24, 184), (120 + 32, 16)];
        for (at, value) in numbers.into_iter().flatten().chain(section) {
            file[at] = value;
        }
        file
    }

    #[test]
    fn a_cut_file_is_not_whole() {
        let file = small();
        assert!(is_whole(&file));
        for bytes in 0..file.len() {
            assert!(!is_whole(&file[..bytes]), "{bytes} bytes");
        }
    }

    #[test]
    fn what_lies_outside_is_seen() {
        for (at, value) in
            [(39, 0xff), (47, 0xff), (56, 9), (58, 63), (60, 2), (64 + 32, 17), (120 + 31, 0xff)]
        {
            let mut file = small();
            file[at] = value;
            assert!(!is_whole(&file), "{value} at byte {at}");
        }
        let mut file = small();
        (file[120 + 4], file[120 + 33]) = (8, 1);
        assert!(is_whole(&file), "a section without bytes may be of any size");
    }
}
