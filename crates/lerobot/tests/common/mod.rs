//! What the integration tests share: where fixtures lie, frame hashes, copies of datasets to damage.
#![allow(dead_code)] // Each test file uses a part.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A path from the repository's root.
pub fn repo(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A path in the folder of shared data beside the repository; None, and a line that says so, where absent.
pub fn shared(test: &str, path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {test}: {} is absent", path.display());
    None
}

/// A clip among the fixtures.
pub fn clip(name: &str) -> PathBuf {
    repo("tests/fixtures/video_hashes/clips").join(format!("{name}.mp4"))
}

/// The video of an episode of the demo.
pub fn demo_video(episode: usize) -> PathBuf {
    repo("demo/dataset/videos/chunk-000/observation.images.ego_view")
        .join(format!("episode_{episode:06}.mp4"))
}

/// FNV-1a, 64 bits.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// FFmpeg's hashes of a video's frames, in presentation order.
pub fn hashes(name: &str) -> Vec<u64> {
    let path = repo("tests/fixtures/video_hashes").join(format!("{name}.txt"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|line| u64::from_str_radix(line, 16).unwrap()).collect()
}

/// Numbers that look random and are the same in every run (xorshift64*).
pub struct Random(pub u64);

impl Random {
    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}

/// Copies a folder; what is copied may be written to.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => fs::write(target, fs::read(entry.path()).unwrap()).unwrap(),
        }
    }
}

/// A copy of the demo's dataset in a temporary folder.
pub fn demo_copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&repo("demo/dataset"), folder.path());
    folder
}
