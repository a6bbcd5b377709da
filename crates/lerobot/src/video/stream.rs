//! Decoding ahead: a thread that decodes a list of frames while the caller uses the ones before.

use std::{
    path::PathBuf,
    sync::mpsc::{Receiver, sync_channel},
    thread::JoinHandle,
};

use super::{Codec, DecodedBy, Decoders, Frame, Video, decode_error};
use crate::{Error, Result};

/// Frames in the order of a list, decoded in the background.
///
/// The stream ends after the last frame or after the first error. Dropping it stops its thread, which takes
/// at most the time of the frame at hand.
#[derive(Debug)]
pub struct FrameStream {
    path: PathBuf,
    codec: Codec,
    decoders: Decoders,
    /// The frames not yet given.
    left: std::vec::IntoIter<usize>,
    receiver: Option<Receiver<Result<Frame>>>,
    thread: Option<JoinHandle<()>>,
    /// Why the thread could not be started.
    failed: Option<Error>,
}

impl FrameStream {
    /// Starts decoding `indices`, at most `ahead` finished frames in advance.
    pub(super) fn new(mut video: Video, indices: Vec<usize>, ahead: usize) -> FrameStream {
        let (path, codec) = (video.path().to_path_buf(), video.codec());
        let decoders = video.decoders();
        let left = indices.clone().into_iter();
        let (sender, receiver) = sync_channel(ahead.min(indices.len()));
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
                FrameStream { path, codec, decoders, left, receiver, thread, failed: None }
            }
            Err(source) => {
                let failed = Some(Error::Io { path: path.clone(), source });
                FrameStream { path, codec, decoders, left, receiver: None, thread: None, failed }
            }
        }
    }

    /// What decoded the frames so far; before the first one, what will be tried.
    pub fn decoded_by(&self) -> DecodedBy {
        self.decoders.last()
    }

    /// Ends the thread: closes its way out, then waits for it.
    fn stop(&mut self) {
        self.left = Vec::new().into_iter();
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
        let index = self.left.next()?;
        if let Some(failed) = self.failed.take() {
            self.stop();
            return Some(Err(failed));
        }
        let frame = match self.receiver.as_ref().and_then(|receiver| receiver.recv().ok()) {
            Some(frame) => frame,
            // The thread left without a word although frames were due: the decoder broke.
            None => Err(decode_error(&self.path, index, self.codec, "the decoding thread stopped".into())),
        };
        if frame.is_err() || self.left.len() == 0 {
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
