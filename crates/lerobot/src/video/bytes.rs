//! Checked big-endian reading of mp4 boxes: running out of bytes is a value, never a panic.

/// A cursor over bytes of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

/// A box: its four-character code and its contents.
pub(super) type Box<'a> = ([u8; 4], Bytes<'a>);

impl<'a> Bytes<'a> {
    /// The next `n` bytes.
    pub(super) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    /// Steps over `n` bytes.
    pub(super) fn skip(&mut self, n: usize) -> Option<()> {
        self.take(n).map(|_| ())
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A count, as a size in memory.
    pub(super) fn count(&mut self) -> Option<usize> {
        self.u32().and_then(|n| usize::try_from(n).ok())
    }

    /// A full box's version; the flags are stepped over.
    pub(super) fn version(&mut self) -> Option<u8> {
        let version = self.u8()?;
        self.skip(3)?;
        Some(version)
    }

    /// A table: a count, then as many entries of `size` bytes. None where the box is too short for it.
    pub(super) fn table(&mut self, size: usize) -> Option<impl Iterator<Item = Bytes<'a>> + use<'a>> {
        let count = self.count()?;
        let entries = self.take(count.checked_mul(size)?)?;
        Some(entries.chunks_exact(size).map(Bytes))
    }

    /// The next box. None at the end; `Some(None)` where what follows is not a whole box.
    pub(super) fn next_box(&mut self) -> Option<Option<Box<'a>>> {
        (!self.0.is_empty()).then(|| self.whole_box())
    }

    fn whole_box(&mut self) -> Option<Box<'a>> {
        let (size, kind) = (self.u32()?, self.array()?);
        let contents = match size {
            0 => self.0.len(),
            1 => usize::try_from(self.u64()?).ok()?.checked_sub(16)?,
            _ => usize::try_from(size).ok()?.checked_sub(8)?,
        };
        Some((kind, Bytes(self.take(contents)?)))
    }

    /// The first box of a kind among the boxes here.
    pub(super) fn find(mut self, kind: &[u8; 4]) -> Option<Bytes<'a>> {
        while let Some(Some((found, contents))) = self.next_box() {
            if &found == kind {
                return Some(contents);
            }
        }
        None
    }
}

/// A four-character code as text.
pub(super) fn code(kind: &[u8; 4]) -> String {
    kind.escape_ascii().to_string()
}
