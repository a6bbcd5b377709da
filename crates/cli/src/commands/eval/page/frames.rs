//! The cameras of an episode: small frames side by side in one picture, of which the page shows one at a time.

use crate::report::html::text::escape;
use anyhow::{Context, Result};
use steadyhand_gr00t::Error;
use steadyhand_gr00t::processor::EmbodimentModalities;
use steadyhand_lerobot::{Dataset, Frame};

/// Frames of an episode. A page of many episodes can still be mailed.
const MOST_FRAMES: usize = 24;
/// Cameras of an episode that are shown.
const MOST_VIEWS: usize = 3;
/// Width of a frame in pixels; smaller ones stay as they are.
const WIDTH: usize = 144;
/// Bits of a colour that are kept: the picture is half as large, and looks the same at this size.
const KEPT: u8 = 0b1111_1100;

/// The cameras as HTML; a camera that cannot be shown says why.
pub fn cameras(dataset: &Dataset, modalities: &EmbodimentModalities, episode: usize, steps: usize) -> String {
    let stride = steps.div_ceil(MOST_FRAMES).max(1);
    let views = modalities.video.modality_keys.iter().take(MOST_VIEWS);
    let camera = |view: &String| match strip(dataset, episode, view, steps, stride) {
        Ok(strip) => format!(
            "<figure><figcaption>{}</figcaption><div class=\"frame\" role=\"img\" aria-label=\"camera {}\" \
             data-frames=\"{}\" data-stride=\"{stride}\" style=\"aspect-ratio:{}/{};background-size:{}% 100%;\
             background-image:url(data:image/png;base64,{})\"></div></figure>",
            escape(view),
            escape(view),
            strip.frames,
            strip.width,
            strip.height,
            strip.frames * 100,
            base64(&strip.png)
        ),
        Err(error) => {
            format!("<p class=\"quiet\">{}: {}</p>", escape(view), escape(&crate::outcome::describe(&error)))
        }
    };
    views.map(camera).collect()
}

/// Frames side by side.
struct Strip {
    png: Vec<u8>,
    frames: usize,
    /// Of one frame.
    width: usize,
    /// Of one frame.
    height: usize,
}

fn strip(dataset: &Dataset, episode: usize, view: &str, steps: usize, stride: usize) -> Result<Strip> {
    let episode = dataset.episode(episode).map_err(Error::from)?;
    let chosen: Vec<usize> = (0..steps.min(episode.len())).step_by(stride).collect();
    let video = episode.video(view).map_err(Error::from)?;
    let mut small = Vec::with_capacity(chosen.len());
    for frame in video.stream(chosen, 2) {
        small.push(shrunk(&frame.map_err(Error::from)?));
    }
    let (width, height, _) = small.first().context("no frames")?;
    let (width, height, frames) = (*width, *height, small.len());
    let mut pixels = Vec::with_capacity(width * height * 3 * frames);
    for row in 0..height {
        for (_, _, rgb) in &small {
            pixels.extend_from_slice(&rgb[row * width * 3..(row + 1) * width * 3]);
        }
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, (width * frames) as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    writer.finish()?;
    Ok(Strip { png: bytes, frames, width, height })
}

/// A frame of the page's width, each pixel the mean of those that it covers.
fn shrunk(frame: &Frame) -> (usize, usize, Vec<u8>) {
    let width = frame.width.clamp(1, WIDTH);
    let height = (frame.height * width / frame.width.max(1)).max(1);
    let mut rgb = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        let rows = y * frame.height / height..((y + 1) * frame.height).div_ceil(height);
        for x in 0..width {
            let columns = x * frame.width / width..((x + 1) * frame.width).div_ceil(width);
            let (mut sums, mut count) = ([0u32; 3], 0);
            for row in rows.clone() {
                for column in columns.clone() {
                    let at = (row * frame.width + column) * 3;
                    for (sum, value) in sums.iter_mut().zip(&frame.rgb[at..at + 3]) {
                        *sum += u32::from(*value);
                    }
                    count += 1;
                }
            }
            rgb.extend(sums.map(|sum| (sum / count.max(1)) as u8 & KEPT));
        }
    }
    (width, height, rgb)
}

/// Base64 as RFC 4648 has it.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let part = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let word = part(0) << 16 | part(1) << 8 | part(2);
        for letter in 0..4 {
            match letter <= chunk.len() {
                true => text.push(char::from(LETTERS[(word >> (18 - 6 * letter)) as usize & 63])),
                false => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let expected = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        for (length, expected) in expected.into_iter().enumerate() {
            assert_eq!(base64(&b"foobar"[..length]), expected);
        }
    }
}
