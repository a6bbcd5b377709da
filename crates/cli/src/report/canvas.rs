//! A small antialiased canvas: rectangles, strokes, dots and text on white, saved as PNG.
//!
//! Own code because the curves of a report are mostly nearly horizontal: the rasterizers of plotting crates
//! antialias along the scanline only, which turns those into staircases.

use std::collections::HashMap;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use fontdue::{Font, FontSettings, Metrics};

use super::output::WRITTEN_BY;

/// Red, green, blue.
pub type Color = [u8; 3];

/// A rectangle in logical pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Area {
    pub x: f32,
    pub y: f32,
    pub width: f32,
    pub height: f32,
}

impl Area {
    pub fn right(&self) -> f32 {
        self.x + self.width
    }

    pub fn bottom(&self) -> f32 {
        self.y + self.height
    }
}

/// Weight of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Weight {
    Regular,
    Medium,
}

/// Which part of a text stands at its x.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Align {
    Left,
    Centre,
    Right,
}

/// Size, weight, colour and alignment of a text.
#[derive(Clone, Copy, Debug)]
pub struct TextStyle {
    pub size: f32,
    pub weight: Weight,
    pub color: Color,
    pub align: Align,
}

/// Pixels, addressed in logical units of `scale` device pixels.
pub struct Canvas {
    width: usize,
    height: usize,
    scale: f32,
    /// [height, width, 3]
    pixels: Vec<u8>,
    glyphs: HashMap<(char, u32, Weight), (Metrics, Vec<u8>)>,
}

impl Canvas {
    /// A white canvas of a logical size.
    pub fn new(width: f32, height: f32, scale: f32) -> Self {
        let (width, height) = ((width * scale).round() as usize, (height * scale).round() as usize);
        Self { width, height, scale, pixels: vec![255; width * height * 3], glyphs: HashMap::new() }
    }

    /// Fills a rectangle, its edges moved to whole device pixels so that hairlines stay sharp.
    pub fn fill(&mut self, area: Area, color: Color) {
        let left = (area.x * self.scale).round() as i64;
        let top = (area.y * self.scale).round() as i64;
        let right = left + ((area.width * self.scale).round() as i64).max(1);
        let bottom = top + ((area.height * self.scale).round() as i64).max(1);
        for y in top..bottom {
            for x in left..right {
                self.blend(x, y, color, 1.0);
            }
        }
    }

    /// Strokes a polyline with round joins and caps, cut at `clip`. A single point becomes a dot.
    pub fn stroke(&mut self, points: &[(f32, f32)], width: f32, color: Color, clip: Area) {
        let device = |value: f32| value * self.scale;
        let left = device(clip.x).floor() as i64;
        let top = device(clip.y).floor() as i64;
        let columns = (device(clip.right()).ceil() as i64 - left).max(0) as usize;
        let rows = (device(clip.bottom()).ceil() as i64 - top).max(0) as usize;
        let points: Vec<(f32, f32)> =
            points.iter().map(|&(x, y)| (device(x) - left as f32, device(y) - top as f32)).collect();

        // One mask for the whole line: segments overlap at their joins, and blending each on its own would
        // darken every join.
        let mut mask = Mask { columns, rows, coverage: vec![0.0; columns * rows] };
        let half = device(width) / 2.0;
        match points[..] {
            [point] => mask.segment(point, point, half),
            _ => points.windows(2).for_each(|pair| mask.segment(pair[0], pair[1], half)),
        }
        for (index, &coverage) in mask.coverage.iter().enumerate().filter(|(_, coverage)| **coverage > 0.0) {
            self.blend(left + (index % columns) as i64, top + (index / columns) as i64, color, coverage);
        }
    }

    /// Fills a circle.
    pub fn dot(&mut self, centre: (f32, f32), radius: f32, color: Color) {
        let reach = radius + 1.0;
        let around =
            Area { x: centre.0 - reach, y: centre.1 - reach, width: 2.0 * reach, height: 2.0 * reach };
        self.stroke(&[centre], 2.0 * radius, color, around);
    }

    /// Writes text with its baseline at `y`.
    pub fn text(&mut self, x: f32, y: f32, text: &str, style: &TextStyle) {
        let width = text_width(text, style);
        let offset = match style.align {
            Align::Left => 0.0,
            Align::Centre => width / 2.0,
            Align::Right => width,
        };
        let size = style.size * self.scale;
        let mut pen = (x - offset) * self.scale;
        let baseline = (y * self.scale).round() as i64;
        for letter in text.chars() {
            let key = (letter, size.to_bits(), style.weight);
            let (metrics, bitmap) =
                self.glyphs.entry(key).or_insert_with(|| font(style.weight).rasterize(letter, size)).clone();
            let left = pen.round() as i64 + i64::from(metrics.xmin);
            let top = baseline - i64::from(metrics.ymin) - metrics.height as i64;
            for (index, coverage) in bitmap.iter().enumerate() {
                let (x, y) = ((index % metrics.width) as i64, (index / metrics.width) as i64);
                self.blend(left + x, top + y, style.color, f32::from(*coverage) / 255.0);
            }
            pen += metrics.advance_width;
        }
    }

    /// The picture as a PNG file's bytes.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder
            .add_text_chunk("Software".to_owned(), format!("written by {WRITTEN_BY}"))
            .context("encoding a PNG")?;
        let mut writer = encoder.write_header().context("encoding a PNG")?;
        writer.write_image_data(&self.pixels).context("encoding a PNG")?;
        writer.finish().context("encoding a PNG")?;
        Ok(bytes)
    }

    fn blend(&mut self, x: i64, y: i64, color: Color, coverage: f32) {
        if x < 0 || y < 0 || x >= self.width as i64 || y >= self.height as i64 {
            return;
        }
        // Sixteen levels look the same and make the file a quarter smaller.
        let coverage = (coverage * 16.0).round() / 16.0;
        let at = (y as usize * self.width + x as usize) * 3;
        for (pixel, channel) in self.pixels[at..at + 3].iter_mut().zip(color) {
            let below = f32::from(*pixel);
            *pixel = (below + (f32::from(channel) - below) * coverage).round() as u8;
        }
    }
}

/// Coverage of a line's pixels, in device pixels from the clip's corner.
struct Mask {
    columns: usize,
    rows: usize,
    /// [rows, columns]
    coverage: Vec<f32>,
}

impl Mask {
    /// Adds the pixels within `half` of a segment; coverage falls off over one pixel at the edge.
    fn segment(&mut self, from: (f32, f32), to: (f32, f32), half: f32) {
        let reach = half + 1.0;
        let range = |a: f32, b: f32, end: usize| {
            let first = (a.min(b) - reach).floor().clamp(0.0, end as f32) as usize;
            first..((a.max(b) + reach).ceil().clamp(0.0, end as f32) as usize)
        };
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let length_squared = (dx * dx + dy * dy).max(f32::MIN_POSITIVE);
        for row in range(from.1, to.1, self.rows) {
            for column in range(from.0, to.0, self.columns) {
                let (x, y) = (column as f32 + 0.5 - from.0, row as f32 + 0.5 - from.1);
                let along = ((x * dx + y * dy) / length_squared).clamp(0.0, 1.0);
                let distance = (x - along * dx).hypot(y - along * dy);
                let coverage = (half + 0.5 - distance).clamp(0.0, 1.0);
                let pixel = &mut self.coverage[row * self.columns + column];
                *pixel = pixel.max(coverage);
            }
        }
    }
}

/// A text's width in logical pixels.
pub fn text_width(text: &str, style: &TextStyle) -> f32 {
    let font = font(style.weight);
    text.chars().map(|letter| font.metrics(letter, style.size).advance_width).sum()
}

/// The text, its end replaced by an ellipsis where it is wider than `width`.
pub fn fit_text(text: &str, width: f32, style: &TextStyle) -> String {
    if text_width(text, style) <= width {
        return text.into();
    }
    let room = width - text_width("…", style);
    let mut used = 0.0;
    let kept = text.chars().take_while(|letter| {
        used += text_width(letter.encode_utf8(&mut [0; 4]), style);
        used <= room
    });
    format!("{}…", kept.collect::<String>().trim_end())
}

fn font(weight: Weight) -> &'static Font {
    static FONTS: OnceLock<[Font; 2]> = OnceLock::new();
    let fonts = FONTS.get_or_init(|| {
        [&include_bytes!("assets/Roboto-Regular.ttf")[..], &include_bytes!("assets/Roboto-Medium.ttf")[..]]
            .map(|bytes| Font::from_bytes(bytes, FontSettings::default()).expect("the bundled font is valid"))
    });
    &fonts[weight as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLACK: Color = [0; 3];
    const STYLE: TextStyle =
        TextStyle { size: 12.0, weight: Weight::Regular, color: BLACK, align: Align::Left };

    fn at(canvas: &Canvas, x: usize, y: usize) -> u8 {
        canvas.pixels[(y * canvas.width + x) * 3]
    }

    #[test]
    fn a_nearly_horizontal_stroke_is_antialiased() {
        let mut canvas = Canvas::new(64.0, 8.0, 1.0);
        let clip = Area { x: 0.0, y: 0.0, width: 64.0, height: 8.0 };
        canvas.stroke(&[(0.0, 3.0), (64.0, 5.0)], 2.0, BLACK, clip);
        let edge: Vec<u8> = (8..24).map(|x| at(&canvas, x, 4)).collect();
        assert!(edge.windows(2).all(|pair| pair[0] >= pair[1]) && edge[0] > edge[15], "{edge:?}");
        assert!(edge.iter().filter(|&&value| value > 0 && value < 255).count() > 8, "{edge:?}");
    }

    #[test]
    fn strokes_stay_inside_their_clip() {
        let mut canvas = Canvas::new(20.0, 20.0, 1.0);
        let clip = Area { x: 5.0, y: 5.0, width: 10.0, height: 10.0 };
        canvas.stroke(&[(-50.0, 10.0), (50.0, 10.0)], 4.0, BLACK, clip);
        assert_eq!((at(&canvas, 4, 10), at(&canvas, 5, 10), at(&canvas, 15, 10)), (255, 0, 255));
    }

    #[test]
    fn text_is_cut_to_its_width() {
        assert_eq!(fit_text("wave", 200.0, &STYLE), "wave");
        let cut = fit_text("pick up the yellow bottle", 60.0, &STYLE);
        assert!(cut.starts_with("pick") && cut.ends_with('…') && text_width(&cut, &STYLE) <= 60.0, "{cut}");
    }
}
