//! Decoding ahead: a thread that decodes a list of frames while the caller uses the ones before.

use std::{
    path::PathBuf,
    sync::mpsc::{Receiver, sync_channel},
    thread::JoinHandle,
};

use super::{Codec, Frame, Video, decode_error};
use crate::{Error, Result};

/// Frames in the order of a list, decoded in the background.
///
/// The stream ends after the last frame or after the first error. Dropping it stops its thread, which takes
/// at most the time of the picture at hand.
#[derive(Debug)]
pub struct FrameStream {
    path: PathBuf,
    codec: Codec,
    /// Frames not yet given.
    left: usize,
    receiver: Option<Receiver<Result<Frame>>>,
    thread: Option<JoinHandle<()>>,
    /// Why the thread could not be started.
    failed: Option<Error>,
}

impl FrameStream {
    /// Starts decoding `indices`, at most `ahead` finished frames in advance.
    pub(super) fn new(mut video: Video, indices: Vec<usize>, ahead: usize) -> FrameStream {
        let (path, codec, left) = (video.path().to_path_buf(), video.codec(), indices.len());
        let (sender, receiver) = sync_channel(ahead);
        let work = move || {
            for index in indices {
                let frame = video.frame(index);
                let stop = frame.is_err();
                // Sending fails once the stream was dropped.
                if sender.send(frame).is_err() || stop {
                    return;
                }
            }
        };
        match std::thread::Builder::new().name("frames".into()).spawn(work) {
            Ok(thread) => {
                let (receiver, thread) = (Some(receiver), Some(thread));
                FrameStream { path, codec, left, receiver, thread, failed: None }
            }
            Err(source) => {
                let failed = Some(Error::Io { path: path.clone(), source });
                FrameStream { path, codec, left: 0, receiver: None, thread: None, failed }
            }
        }
    }

    /// Ends the thread: closes its way out, then waits for it.
    fn stop(&mut self) {
        self.left = 0;
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was already given as an error, or nobody waits for its frames.
            let _ = thread.join();
        }
    }
}

impl Iterator for FrameStream {
    type Item = Result<Frame>;

    fn next(&mut self) -> Option<Result<Frame>> {
        if let Some(failed) = self.failed.take() {
            return Some(Err(failed));
        }
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let frame = match self.receiver.as_ref().and_then(|receiver| receiver.recv().ok()) {
            Some(frame) => frame,
            // The thread left without a word although frames were due: the decoder broke.
            None => Err(decode_error(&self.path, 0, self.codec, "the decoding thread stopped".into())),
        };
        if frame.is_err() || self.left == 0 {
            self.stop();
        }
        Some(frame)
    }
}

impl Drop for FrameStream {
    fn drop(&mut self) {
        self.stop();
    }
}
