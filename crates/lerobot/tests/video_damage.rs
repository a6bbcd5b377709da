//! Damaged, truncated and unsupported videos give errors that name the file; nothing panics.

mod common;

use std::{fs, path::Path};

use common::{Random, clip, demo_video};
use steadyhand_lerobot::{Error, Video, VideoDecoder};

/// Damaged copies tried for each clip.
const DAMAGED_COPIES: usize = 150;

/// Opens a video and decodes every frame; frames after a failed one are tried, too.
fn decode_all(path: &Path) -> Result<usize, Error> {
    let mut video = Video::open_with(path, VideoDecoder::Native)?;
    let (mut decoded, mut failed) = (0, None);
    for index in 0..video.frame_count().min(400) {
        match video.frame(index) {
            Ok(frame) => {
                assert_eq!(frame.rgb.len(), frame.width * frame.height * 3);
                decoded += 1;
            }
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(decoded), Err)
}

#[test]
fn flipped_bytes_are_errors_or_pictures_but_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.mp4");
    let clips = [
        "h264_open_gop",
        "h264_deep_b",
        "h264_slices",
        "h264_baseline",
        "h264_edit_list",
        "h264_fragmented",
        "h264_decode_order",
        "av1_bt709",
        "av1_90x66",
    ];
    for name in clips {
        let whole = fs::read(clip(name)).unwrap();
        let mut random = Random(0x5eed);
        let (mut errors, mut pictures) = (0, 0);
        for _ in 0..DAMAGED_COPIES {
            let mut damaged = whole.clone();
            for _ in 0..1 + random.below(8) {
                let at = random.below(damaged.len());
                damaged[at] = random.below(256) as u8;
            }
            fs::write(&path, &damaged).unwrap();
            match decode_all(&path) {
                Ok(_) => pictures += 1,
                Err(error) => {
                    assert!(error.to_string().contains("damaged.mp4"), "{error}");
                    errors += 1;
                }
            }
        }
        println!("{name}: {errors} damaged copies gave errors, {pictures} decoded");
        assert!(errors > 0, "{name}");
    }
}

/// Found by fuzzing: where overflow is checked in the AV1 decoder, these pictures end the process.
#[test]
fn pictures_that_overflow_a_decoders_sums_are_errors() {
    let mut whole = fs::read(clip("av1_64x47")).unwrap();
    let found =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/video_damage/av1_golomb.obu");
    let found = fs::read(found).unwrap();
    let start = whole.windows(4).position(|w| w == b"mdat").unwrap() + 4;
    whole[start..start + found.len()].copy_from_slice(&found);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.mp4");
    fs::write(&path, whole).unwrap();
    let error = decode_all(&path).unwrap_err();
    assert!(error.to_string().contains("damaged.mp4"), "{error}");
}

#[test]
fn damaged_indices_are_errors_or_pictures_but_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.mp4");
    for name in ["h264_edit_list", "h264_colr_only", "h264_fragmented", "av1_90x66"] {
        let whole = fs::read(clip(name)).unwrap();
        let moov = whole.windows(4).position(|w| w == b"moov").unwrap();
        let mut random = Random(0xfeed);
        for _ in 0..DAMAGED_COPIES * 3 {
            let mut damaged = whole.clone();
            for _ in 0..1 + random.below(3) {
                let at = moov + random.below(damaged.len() - moov);
                // Extreme values are the ones that break tables.
                damaged[at] = [0, 1, 0x7f, 0x80, 0xff, random.below(256) as u8][random.below(6)];
            }
            fs::write(&path, &damaged).unwrap();
            let _ = decode_all(&path);
        }
    }
}

#[test]
fn truncation_is_an_error_wherever_it_cuts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.mp4");
    // The index at the end, and at the start.
    for video in [demo_video(1), demo_video(0), clip("h264_faststart"), clip("av1_75x52")] {
        let whole = fs::read(video).unwrap();
        for part in 0..40 {
            fs::write(&path, &whole[..whole.len() * part / 40]).unwrap();
            let error = Video::open(&path).unwrap_err().to_string();
            assert!(error.contains("cut.mp4") && error.contains("expected"), "{error}");
        }
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(Video::open(&path).unwrap_err().to_string().contains("truncated"));
    }
}

#[test]
fn unsupported_formats_are_named() {
    for (name, found) in [
        ("h264_10bit", "H.264 4:2:0 10-bit"),
        ("h264_444", "H.264 4:4:4 8-bit"),
        ("av1_10bit", "AV1 4:2:0 10-bit"),
        ("h264_high_inner_slices", "8x8 transform and slices that start inside a row"),
        ("h264_constrained", "8x8 transform and constrained intra prediction"),
        ("hevc", "HEVC"),
    ] {
        let error = decode_all(&clip(name)).unwrap_err();
        assert!(matches!(error, Error::Undecodable { .. }), "{error}");
        assert!(error.to_string().contains(&format!("ffmpeg -i '{}'", clip(name).display())), "{error}");
        let error = error.to_string();
        assert!(error.contains(found) && error.contains(&format!("{name}.mp4")), "{error}");
    }
}

#[test]
fn what_is_no_video_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.mp4");
    for (content, found) in [
        (&b""[..], "an empty file"),
        (b"x", "text"),
        (b"this is a text, not a video, and long enough for a header", "text"),
        (&[0; 64], "nothing but zeros"),
    ] {
        fs::write(&path, content).unwrap();
        let error = Video::open(&path).unwrap_err();
        assert!(matches!(error, Error::Disguised { .. }), "{error}");
        assert!(error.to_string().contains(found), "{error}");
    }
    fs::write(&path, b"\x01\xff\xfe\x80 neither text nor a video").unwrap();
    let error = Video::open(&path).unwrap_err();
    assert!(matches!(error, Error::Container { .. }), "{error}");
    let error = Video::open(folder.path().join("none.mp4")).unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "{error}");
}
