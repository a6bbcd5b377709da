//! Frames of both libraries' transforms, as the official code gives them.

use super::super::pattern;
use super::*;

/// Bytes of the resized image, before the scaling to `[-1, 1]`.
fn bytes(pixels: &PixelValues) -> Vec<u8> {
    let plane = pixels.width * pixels.height;
    let level = |value: f32| (value * 127.5 + 127.5).round() as u8;
    (0..plane).flat_map(|at| [0, 1, 2].map(|c| level(pixels.data[c * plane + at]))).collect()
}

fn images(transform: Transform) -> Images {
    Images { transform, grid: Grid::of(Version::N1_6), one_size: false }
}

fn assert_pixels(transform: Transform, frame: Size, size: Size, digest: u64) {
    let mut pixels = PixelValues::default();
    let image = pattern::image(frame.0, frame.1);
    images(transform.clone()).apply_into("video.view", &image, &mut pixels).expect("a frame");
    assert_eq!((pixels.width, pixels.height), size, "{transform:?} {frame:?}");
    assert_eq!(pattern::digest(&bytes(&pixels)), digest, "{transform:?} {frame:?}");
}

#[test]
fn albumentations_frames_are_reproduced() {
    // Edge, fraction, frame, result and its digest: opencv-python 4.11.0.86 with the rounding
    // of albumentations 1.4.18, the official smart_resize, Pillow 11.3.0.
    for (edge, fraction, frame, size, digest) in [
        (256, 0.95, (256, 256), (252, 252), 52594438760598546),
        (256, 0.95, (321, 105), (784, 252), 163303374197124810),
        (300, 0.9, (640, 480), (392, 308), 99893305293881221),
        (300, 0.9, (720, 1280), (308, 532), 135577077705229945),
        (224, 1.0, (480, 640), (224, 308), 57060635204237032),
        (512, 0.95, (224, 224), (504, 504), 210023636983616653),
        (64, 0.88, (182, 420), (56, 140), 6478891689819491),
        (64, 0.88, (447, 3), (7000, 56), 318259588752640444),
    ] {
        assert_pixels(Transform::ShortestEdge { edge, fraction, bars: false }, frame, size, digest);
    }
}

#[test]
fn torchvision_frames_are_reproduced() {
    // Crop, target, frame, result and its digest: the official transform on torchvision 0.29.2,
    // the official smart_resize, Pillow 11.3.0.
    for (crop, target, frame, size, digest) in [
        ((244, 244), (256, 256), (480, 640), (252, 252), 41453888573169015),
        ((243, 243), (256, 256), (641, 479), (252, 252), 41459554623089433),
        ((333, 200), (320, 224), (1280, 720), (308, 224), 34767622192101849),
        ((252, 252), (252, 252), (270, 256), (252, 252), 49893843625391367),
    ] {
        assert_pixels(Transform::Resizes { crop, target, bars: true }, frame, size, digest);
    }
}

#[test]
fn bars_make_a_frame_square_first() {
    let pixels = |transform: Transform, image: &Image| {
        let mut pixels = PixelValues::default();
        images(transform).apply_into("video.view", image, &mut pixels).expect("a frame");
        pixels
    };
    let (wide, square) = (pattern::image(320, 180), letterbox(&pattern::image(320, 180)));
    assert_eq!((square.width, square.height), (320, 320));
    for bars in [false, true] {
        let edge = Transform::ShortestEdge { edge: 256, fraction: 0.95, bars };
        let resizes = Transform::Resizes { crop: (230, 230), target: (256, 256), bars };
        for transform in [edge, resizes] {
            // What is square stays as it is; bars make the same of a wide frame.
            let expected = pixels(transform.clone(), &square);
            assert_eq!(pixels(transform, &wide) == expected, bars);
        }
    }
    let wide_without = pixels(Transform::ShortestEdge { edge: 256, fraction: 0.95, bars: false }, &wide);
    assert_eq!((wide_without.width, wide_without.height), (448, 252));
}

#[test]
fn unusable_frames_are_refused() {
    let images = images(Transform::ShortestEdge { edge: 256, fraction: 0.95, bars: false });
    let refused = |width: usize, height: usize, bytes: usize| {
        let image = Image { width, height, rgb: vec![0; bytes].into() };
        let mut pixels = PixelValues::default();
        images.apply_into("video.view", &image, &mut pixels).expect_err("unusable").to_string()
    };
    assert!(refused(0, 480, 0).starts_with("video.view: expected sides of 1 to"));
    assert!(refused(usize::MAX, 2, 12).contains("found 18446744073709551615x2"));
    assert_eq!(refused(4, 2, 23), "video.view: expected 24 bytes for 4x2 RGB, found 23");
    assert!(refused(201, 1, 603).contains("1:200"));
}

#[test]
fn the_size_after_the_transform_is_known_beforehand() {
    let frames = [(256, 256), (320, 180), (223, 301), (97, 130), (640, 480), (427, 239)];
    for (frame, bars) in frames.into_iter().flat_map(|frame| [(frame, false), (frame, true)]) {
        for transform in [
            Transform::ShortestEdge { edge: 256, fraction: 0.95, bars },
            Transform::ShortestEdge { edge: 120, fraction: 0.9, bars },
            Transform::Resizes { crop: (230, 200), target: (256, 192), bars },
        ] {
            let way = images(transform.clone()).way("video.view", frame).expect("a frame");
            let image = pattern::image(frame.0, frame.1);
            let square = way.square.map(|_| letterbox(&image));
            let found = transform.apply(&way, square.as_ref().unwrap_or(&image));
            let found = (found.view().width(), found.view().height());
            assert_eq!(way.transformed, found, "{transform:?} {frame:?}");
        }
    }
}
