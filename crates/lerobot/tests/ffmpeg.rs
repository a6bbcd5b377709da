//! Videos that only FFmpeg's program decodes, against its own frames. Ignored, by name, where it is not on `PATH`.

mod common;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use common::{clip, fnv1a, hashes};
use libtest_mimic::{Arguments, Trial};
use steadyhand_lerobot::{DecodedBy, Error, Video, VideoDecoder};

fn main() -> ExitCode {
    let version = Command::new("ffmpeg").arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let absent = version.is_err();
    let trial = |name: &str, test: fn()| {
        let run = move || {
            test();
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(absent)
    };
    let tests = vec![
        trial("what_is_not_native_comes_through_ffmpeg", what_is_not_native_comes_through_ffmpeg),
        trial("other_containers_are_listed_and_decoded", other_containers_are_listed_and_decoded),
        trial("both_decoders_give_the_same", both_decoders_give_the_same),
        trial("a_name_that_lies_is_told", a_name_that_lies_is_told),
        trial("damage_ends_it", damage_ends_it),
        trial(
            "frames_found_by_seeking_are_those_of_the_whole",
            frames_found_by_seeking_are_those_of_the_whole,
        ),
        trial("what_lies_long_before_is_not_decoded", what_lies_long_before_is_not_decoded),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

/// Every frame that the program gives for a file whose frames have so many bytes.
fn program(path: &Path, size: usize) -> Vec<u64> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(path)
        .args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-vsync", "passthrough", "-"])
        .output()
        .unwrap();
    output.stdout.chunks_exact(size).map(fnv1a).collect()
}

/// Makes a file of a clip with these options.
fn encode(to: &Path, options: &str) {
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-i"])
        .arg(clip("h264_deep_b"))
        .args(options.split_whitespace())
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success(), "{options}");
}

fn compare(path: &Path, decoder: VideoDecoder) {
    let mut video = Video::open_with(path, decoder).unwrap();
    let expected = program(path, video.width() * video.height() * 3);
    assert_eq!(video.frame_count(), expected.len(), "{}", path.display());
    let last = expected.len() - 1;
    for index in (0..expected.len()).chain([last, 0, 3, 3, last / 2]) {
        let frame = video.frame(index).unwrap();
        assert_eq!(fnv1a(&frame.rgb), expected[index], "{}: frame {index}", path.display());
    }
    assert_eq!(video.decoded_by(), DecodedBy::Ffmpeg);
}

fn what_is_not_native_comes_through_ffmpeg() {
    for name in ["h264_10bit", "h264_444", "av1_10bit", "h264_high_inner_slices", "h264_constrained", "hevc"]
    {
        compare(&clip(name), VideoDecoder::Auto);
    }
}

fn other_containers_are_listed_and_decoded() {
    let folder = tempfile::tempdir().unwrap();
    for (name, options) in
        [("a.mkv", "-c copy"), ("b.avi", "-c:v mjpeg -q:v 3"), ("c.mp4", "-c:v mpeg4 -bf 2")]
    {
        let path: PathBuf = folder.path().join(name);
        encode(&path, options);
        compare(&path, VideoDecoder::Auto);
        let error = Video::open_with(&path, VideoDecoder::Native).unwrap_err();
        assert!(matches!(error, Error::Undecodable { .. }), "{error}");
    }
}

fn both_decoders_give_the_same() {
    for name in
        ["h264_deep_b", "h264_edit_list", "h264_open_gop", "av1_bt709", "h264_gap", "h264_decode_order"]
    {
        let mut video = Video::open_with(clip(name), VideoDecoder::Ffmpeg).unwrap();
        let expected = hashes(name);
        assert_eq!(video.frame_count(), expected.len(), "{name}");
        for (index, hash) in expected.iter().enumerate() {
            assert_eq!(fnv1a(&video.frame(index).unwrap().rgb), *hash, "{name}: frame {index}");
        }
    }
}

fn a_name_that_lies_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (matroska, renamed) = (folder.path().join("a.mkv"), folder.path().join("a.mp4"));
    encode(&matroska, "-c copy");
    std::fs::rename(&matroska, &renamed).unwrap();
    let error = Video::open(&renamed).unwrap_err().to_string();
    assert!(error.contains("found a Matroska video") && error.contains("ffmpeg -i"), "{error}");
    compare(&renamed, VideoDecoder::Ffmpeg);
}

fn damage_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.mp4");
    let mut bytes = std::fs::read(clip("h264_444")).unwrap();
    let start = bytes.windows(4).position(|window| window == b"mdat").unwrap() + 900;
    bytes[start..start + 200].fill(0x55);
    std::fs::write(&path, bytes).unwrap();
    let mut video = Video::open(&path).unwrap();
    let error = video.frame(video.frame_count() - 1).unwrap_err().to_string();
    assert!(error.contains("damaged.mp4") && error.contains("FFmpeg's"), "{error}");
}

/// Makes 40 seconds of a moving pattern with noise.
fn generate(to: &Path, options: &str) {
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-f", "lavfi", "-i"])
        .arg("testsrc=size=64x48:rate=30:duration=40,noise=alls=20:allf=t:all_seed=3")
        .args(options.split_whitespace())
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success(), "{options}");
}

fn frames_found_by_seeking_are_those_of_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    for (name, options) in [
        ("a.mp4", "-c:v libx264 -pix_fmt yuv444p -preset veryfast -g 300 -bf 4"),
        ("open.mp4", "-c:v libx264 -pix_fmt yuv444p -preset veryfast -g 48 -bf 4 -x264-params open-gop=1"),
        ("refresh.mp4", "-c:v libx264 -pix_fmt yuv444p -preset veryfast -g 90 -x264-params intra-refresh=1"),
        (
            "fragments.mp4",
            "-c:v libx264 -pix_fmt yuv444p -preset veryfast -bf 2 -movflags frag_keyframe+empty_moov",
        ),
        ("uneven.mp4", "-vf setpts=N*N/30/TB/1200+N/60/TB -fps_mode vfr -c:v mpeg4 -bf 2 -g 100"),
        ("b.avi", "-c:v mpeg4 -bf 2 -g 100"),
        ("c.mkv", "-c:v libx264 -preset veryfast -bf 3 -g 200"),
        ("d.webm", "-c:v libvpx -deadline realtime -g 200 -auto-alt-ref 1 -lag-in-frames 16"),
    ] {
        let path = folder.path().join(name);
        generate(&path, options);
        let expected = program(&path, 64 * 48 * 3);
        let mut video = Video::open(&path).unwrap();
        assert_eq!(video.frame_count(), expected.len(), "{name}");
        for index in [1100, 1101, 77, 700, 31, 32, 33, 1, 1199, 299, 300, 301, 0, 900] {
            let index = index.min(expected.len() - 1);
            let frame = video.frame(index).unwrap();
            assert_eq!(fnv1a(&frame.rgb), expected[index], "{name}: frame {index}");
        }
    }
}

fn what_lies_long_before_is_not_decoded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mp4");
    generate(&path, "-c:v libx264 -pix_fmt yuv444p -preset veryfast -g 50 -bf 2");
    let expected = program(&path, 64 * 48 * 3);
    let mut bytes = std::fs::read(&path).unwrap();
    let start = bytes.windows(4).position(|window| window == b"mdat").unwrap() + 2000;
    bytes[start..start + 2000].fill(0x55);
    std::fs::write(&path, bytes).unwrap();
    let mut video = Video::open(&path).unwrap();
    assert_eq!(fnv1a(&video.frame(1000).unwrap().rgb), expected[1000]);
    assert!(video.frame(30).is_err(), "the damage is not seen");
}
