//! A PNG or JPEG file of a dataset's column of images.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steadyhand_lerobot::Frame;

fuzz_target!(|data: &[u8]| drop(Frame::from_image(data)));
