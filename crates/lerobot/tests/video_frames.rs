//! Every frame of the fixtures equals FFmpeg's `rgb24`, in order, at random access and in the background.

mod common;

use common::{clip, compare, demo_video, fnv1a, hashes};
use steadyhand_lerobot::{Codec, DecodedBy, Error, Video, VideoDecoder};

#[test]
fn demo_av1() {
    for episode in [0, 2] {
        compare(&format!("demo_episode_{episode:06}"), &demo_video(episode));
    }
}

#[test]
fn demo_h264_with_b_frames() {
    for episode in [1, 3] {
        compare(&format!("demo_episode_{episode:06}"), &demo_video(episode));
    }
}

#[test]
fn colour_matrices_and_ranges() {
    for name in [
        "h264_bt709",
        "h264_bt709_full",
        "h264_bt601_full",
        "h264_smpte240m",
        "h264_bt2020",
        "h264_fcc",
        "h264_colr_only",
        "av1_bt709",
        "av1_bt709_full",
        "av1_bt601_full",
    ] {
        compare(name, &clip(name));
    }
}

#[test]
fn groups_of_pictures_slices_and_profiles() {
    for name in [
        "h264_open_gop",
        "h264_deep_b",
        "h264_intra",
        "h264_slices",
        "h264_main_inner_slices",
        "h264_baseline",
        "h264_faststart",
    ] {
        compare(name, &clip(name));
    }
}

#[test]
fn sizes_that_are_not_multiples_of_a_block() {
    for name in ["h264_90x62", "h264_62x50", "av1_90x66", "av1_75x52"] {
        compare(name, &clip(name));
    }
}

#[test]
fn an_edit_list_cuts_the_start_and_the_end() {
    compare("h264_edit_list", &clip("h264_edit_list"));
    // Here the file starts with an I picture that is no IDR picture.
    compare("h264_open_cut", &clip("h264_open_cut"));
}

#[test]
fn odd_heights_pass_another_converter() {
    for name in ["av1_64x47", "av1_63x45", "av1_64x47_bt709_full", "av1_63x45_bt709_full"] {
        compare(name, &clip(name));
    }
}

#[test]
fn fragments_instead_of_a_sample_table() {
    compare("h264_fragmented", &clip("h264_fragmented"));
}

#[test]
fn the_picture_order_count_decides_where_times_are_in_decoding_order() {
    compare("h264_decode_order", &clip("h264_decode_order"));
    compare("h264_gap", &clip("h264_gap"));
}

#[test]
fn what_inspection_shows() {
    let video = Video::open(demo_video(0)).unwrap();
    assert_eq!((video.codec(), video.width(), video.height()), (Codec::Av1, 256, 256));
    let video = Video::open(clip("h264_90x62")).unwrap();
    assert_eq!((video.codec().name(), video.width(), video.height()), ("H.264", 90, 62));
    assert_eq!((video.path(), video.decoded_by()), (clip("h264_90x62").as_path(), DecodedBy::Native));
    assert_eq!("ffmpeg".parse(), Ok(VideoDecoder::Ffmpeg));
    assert!("gpu".parse::<VideoDecoder>().unwrap_err().contains("auto, native or ffmpeg"));
}

#[test]
fn a_stream_gives_any_order_and_ends() {
    for (name, path) in [("h264_deep_b", clip("h264_deep_b")), ("demo_episode_000002", demo_video(2))] {
        let expected = hashes(name);
        for (indices, ahead) in [
            ((0..expected.len()).collect::<Vec<_>>(), 4),
            (vec![5, 5, 0, 39, 38, 7], 0),
            ((0..expected.len()).step_by(8).collect(), 1),
            (Vec::new(), 3),
        ] {
            let mut stream = Video::open(&path).unwrap().stream(indices.clone(), ahead);
            for index in indices {
                let frame = stream.next().unwrap().unwrap();
                assert_eq!(fnv1a(&frame.rgb), expected[index], "{name}: frame {index}");
            }
            assert!(stream.next().is_none() && stream.next().is_none());
        }
    }
}

#[test]
fn a_stream_ends_after_an_error() {
    let mut stream = Video::open(clip("h264_intra")).unwrap().stream(vec![9, 10, 0], 2);
    assert!(stream.next().unwrap().is_ok());
    let error = stream.next().unwrap().unwrap_err();
    assert!(matches!(error, Error::FrameRange { index: 10, count: 10, .. }), "{error}");
    assert!(error.to_string().contains("valid: 0 to 9"), "{error}");
    assert!(stream.next().is_none());
}

#[test]
fn dropping_a_stream_stops_its_thread() {
    let threads = || std::fs::read_dir("/proc/self/task").map(Iterator::count).ok();
    let before = threads();
    for taken in 0..20 {
        let indices = (0..362).cycle().take(100_000).collect();
        let mut stream = Video::open(demo_video(0)).unwrap().stream(indices, 2);
        for _ in 0..taken {
            stream.next().unwrap().unwrap();
        }
        drop(stream);
    }
    // Where the system lists threads, none is left.
    assert_eq!(threads(), before);
}
