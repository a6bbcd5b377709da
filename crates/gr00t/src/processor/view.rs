//! Parts of images, and tables kept for the sizes that a robot's cameras repeat.

use crate::Image;
use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a pixel: R, G, B.
pub(super) const CHANNELS: usize = 3;

/// A rectangle of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub left: usize,
    pub top: usize,
    pub width: usize,
    pub height: usize,
}

/// An image, or a part of one that is not copied.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    image: &'a Image,
    part: Part,
}

impl<'a> View<'a> {
    /// The whole image.
    pub fn of(image: &'a Image) -> Self {
        View { image, part: Part { left: 0, top: 0, width: image.width, height: image.height } }
    }

    /// The rectangle `part`, which lies inside the image.
    pub fn part(image: &'a Image, part: Part) -> Self {
        View { image, part }
    }

    pub fn width(&self) -> usize {
        self.part.width
    }

    pub fn height(&self) -> usize {
        self.part.height
    }

    /// `width * 3` bytes.
    pub fn row(&self, row: usize) -> &'a [u8] {
        let start = ((self.part.top + row) * self.image.width + self.part.left) * CHANNELS;
        &self.image.rgb[start..start + self.part.width * CHANNELS]
    }

    /// From top to bottom.
    pub fn rows(self) -> impl Iterator<Item = &'a [u8]> {
        (0..self.height()).map(move |row| self.row(row))
    }
}

/// A step's result: its input where it had nothing to do.
#[derive(Debug)]
pub(super) enum Frame<'a> {
    Same(View<'a>),
    New(Image),
}

impl Frame<'_> {
    pub fn view(&self) -> View<'_> {
        match self {
            Frame::Same(view) => *view,
            Frame::New(image) => View::of(image),
        }
    }
}

thread_local! {
    /// Pixels of earlier steps. Fresh memory of their size costs as much as what is computed into it: the allocator gives it
    /// back to the system each time.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Most buffers that a thread keeps: those of the steps of a frame.
const SPARES: usize = 4;

/// Bytes that hold anything, to be written over.
pub(super) fn spare(length: usize) -> Vec<u8> {
    let mut bytes = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
    bytes.resize(length, 0);
    bytes
}

impl Frame<'_> {
    /// Keeps its memory for a later step.
    pub fn recycle(self) {
        if let Frame::New(image) = self {
            SPARE.with_borrow_mut(|spares| {
                if spares.len() < SPARES {
                    spares.push(image.rgb.into());
                }
            });
        }
    }
}

/// Keeps the most recently used tables: a processor meets few sizes, and meets them again with every frame.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    entries: Mutex<Vec<(K, Arc<V>)>>,
}

/// Tables that a [`Recent`] keeps.
const KEPT: usize = 16;

impl<K: PartialEq, V> Recent<K, V> {
    pub const fn new() -> Self {
        Recent { entries: Mutex::new(Vec::new()) }
    }

    /// The table of `key`, made where it is not kept.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn try_get<E>(&self, key: K, make: impl FnOnce(&K) -> Result<V, E>) -> Result<Arc<V>, E> {
        let lock = || self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = lock();
        if let Some(place) = entries.iter().position(|(known, _)| *known == key) {
            let entry = entries.remove(place);
            let value = Arc::clone(&entry.1);
            entries.push(entry);
            return Ok(value);
        }
        // Others are not kept waiting for the making; at worst two of them make the same table.
        drop(entries);
        let value = Arc::new(make(&key)?);
        let mut entries = lock();
        if entries.len() == KEPT {
            entries.remove(0);
        }
        entries.push((key, Arc::clone(&value)));
        Ok(value)
    }

    /// The same where making cannot fail.
    pub fn get(&self, key: K, make: impl FnOnce() -> V) -> Arc<V> {
        let Ok(value) = self.try_get(key, |_| Ok::<V, std::convert::Infallible>(make()));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_table_goes_first() {
        let tables = Recent::new();
        (0..KEPT).for_each(|key| assert_eq!(*tables.get(key, || key), key));
        assert_eq!(*tables.get(0, || 99), 0, "kept, and used");
        tables.get(KEPT, || KEPT);
        assert_eq!((*tables.get(0, || 99), *tables.get(1, || 99)), (0, 99));
    }
}
