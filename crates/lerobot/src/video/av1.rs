//! AV1 samples of an mp4 file to pictures.

use re_rav1d::dav1d::{self, PixelLayout, PlanarImageComponent as Component};

use super::{
    Failure, MAX_PIXELS,
    color::{Picture, Tags},
};

/// An AV1 decoder that is fed whole samples (temporal units) in decoding order.
pub(super) struct Decoder {
    decoder: dav1d::Decoder,
}

impl Decoder {
    pub(super) fn new() -> Result<Decoder, String> {
        let mut settings = dav1d::Settings::new();
        // One thread: a picture comes out as soon as its sample went in, and videos decode side by side.
        settings.set_n_threads(1);
        settings.set_max_frame_delay(1);
        settings.set_all_layers(false);
        settings.set_frame_size_limit(MAX_PIXELS);
        dav1d::Decoder::with_settings(&settings).map(|decoder| Decoder { decoder }).map_err(|e| e.to_string())
    }

    /// Forgets all pictures; the next sample must be one that decoding can start at.
    pub(super) fn reset(&mut self) {
        self.decoder.flush();
    }

    /// Decodes one sample to its picture.
    pub(super) fn decode(&mut self, sample: Vec<u8>) -> Result<Picture, Failure> {
        let damaged = |e: dav1d::Error| Failure::Damaged(e.to_string());
        if sample.is_empty() {
            return Err(Failure::Damaged("the sample is empty".into()));
        }
        let mut pending = match self.decoder.send_data(sample, None, None, None) {
            Ok(()) => false,
            Err(e) if e.is_again() => true,
            Err(e) => return Err(damaged(e)),
        };
        let mut shown = None;
        loop {
            match self.decoder.get_picture() {
                Ok(picture) if shown.is_none() => shown = Some(picture),
                Ok(_) => return Err(Failure::Damaged("the sample shows more than one picture".into())),
                Err(e) if e.is_again() && pending => match self.decoder.send_pending_data() {
                    Ok(()) => pending = false,
                    Err(e) => return Err(damaged(e)),
                },
                Err(e) if e.is_again() => break,
                Err(e) => return Err(damaged(e)),
            }
        }
        let shown = shown.ok_or_else(|| Failure::Damaged("the sample shows no picture".into()))?;
        planes(&shown)
    }
}

/// What of a file these pictures cannot be, by its `av1C` box: 8-bit 4:2:0. None where the box does not say.
pub(super) fn refused(config: &[u8]) -> Option<String> {
    let flags = *config.get(2)?;
    let bit = |place: u32| flags >> place & 1 == 1;
    let depth = match (bit(6), bit(5)) {
        (false, _) => 8,
        (true, false) => 10,
        (true, true) => 12,
    };
    let layout = match (bit(4), bit(3), bit(2)) {
        (true, ..) => "4:0:0",
        (false, true, true) => "4:2:0",
        (false, true, false) => "4:2:2",
        (false, false, _) => "4:4:4",
    };
    ((layout, depth) != ("4:2:0", 8)).then(|| format!("AV1 {layout} {depth}-bit"))
}

/// Copies a picture's planes without their padding.
fn planes(shown: &dav1d::Picture) -> Result<Picture, Failure> {
    if shown.pixel_layout() != PixelLayout::I420 || shown.bit_depth() != 8 {
        let layout = match shown.pixel_layout() {
            PixelLayout::I400 => "4:0:0",
            PixelLayout::I420 => "4:2:0",
            PixelLayout::I422 => "4:2:2",
            PixelLayout::I444 => "4:4:4",
        };
        return Err(Failure::Format(format!("AV1 {layout} {}-bit", shown.bit_depth())));
    }
    let size = |n: u32| usize::try_from(n).unwrap_or(0);
    let (width, height) = (size(shown.width()), size(shown.height()));
    let plane = |component: Component, width: usize, height: usize| {
        let stride = size(shown.stride(component)).max(1);
        let padded = shown.plane(component);
        let mut tight = Vec::with_capacity(width * height);
        for row in padded.chunks(stride).take(height) {
            tight.extend(row.get(..width).unwrap_or(row));
        }
        tight
    };
    let (chroma_width, chroma_height) = (width.div_ceil(2), height.div_ceil(2));
    let picture = Picture {
        width,
        height,
        y: plane(Component::Y, width, height),
        u: plane(Component::U, chroma_width, chroma_height),
        v: plane(Component::V, chroma_width, chroma_height),
        tags: tags(shown),
    };
    let whole = picture.y.len() == width * height
        && picture.u.len() == chroma_width * chroma_height
        && picture.v.len() == picture.u.len();
    if whole { Ok(picture) } else { Err(Failure::Damaged("a plane is smaller than its picture".into())) }
}

/// The sequence header's colour tags. The header always has them; 2 stands for "unspecified".
fn tags(shown: &dav1d::Picture) -> Tags {
    // The enum is numbered as H.273 numbers the matrices.
    let matrix = shown.matrix_coefficients() as u8;
    Tags { matrix: Some(matrix), full_range: Some(shown.color_range() == dav1d::pixel::YUVRange::Full) }
}
