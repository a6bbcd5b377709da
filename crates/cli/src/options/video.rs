//! How the videos of datasets are decoded.

use clap::Args;
use steadyhand_lerobot::VideoDecoder;

/// What decodes the videos of a dataset.
#[derive(Debug, Clone, Copy, Args)]
pub struct VideoArgs {
    /// What decodes videos: native (built in: H.264 and AV1, exact), ffmpeg (FFmpeg's program, which must be on PATH), or
    /// auto: native where that is exact, ffmpeg otherwise. [default: auto]
    #[arg(long, value_name = "DECODER")]
    pub video_decoder: Option<VideoDecoder>,
}

impl VideoArgs {
    /// What was asked for.
    pub fn decoder(self) -> VideoDecoder {
        self.video_decoder.unwrap_or(VideoDecoder::Auto)
    }
}
