//! What the integration tests share: where fixtures lie, hashes and comparisons, copies of datasets to damage.
#![allow(dead_code)] // Each test file uses a part.

use std::{
    fs,
    path::{Path, PathBuf},
};

use steadyhand_lerobot::{Dataset, Kind, Matrix, Video};

/// Random accesses a video.
const ACCESSES: usize = 60;

/// A path from the repository's root.
pub fn repo(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
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

/// The hash of a matrix's bytes, little endian.
pub fn hash(matrix: &Matrix) -> u64 {
    fnv1a(&matrix.data.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
}

/// The columns of all groups of a kind, side by side again: `[len, dim]`.
pub fn whole(dataset: &Dataset, episode: usize, kind: Kind) -> Matrix {
    let episode = dataset.episode(episode).unwrap();
    let groups: Vec<Matrix> =
        dataset.modality().groups(kind).iter().map(|g| episode.group(kind, &g.name).unwrap()).collect();
    let data = (0..episode.len()).flat_map(|row| groups.iter().flat_map(move |g| g.row(row).to_vec()));
    let data: Vec<f32> = data.collect();
    Matrix { rows: episode.len(), cols: groups.iter().map(|g| g.cols).sum(), data }
}

/// Compares every frame of a video with FFmpeg's, in order and at random access.
pub fn compare(name: &str, path: &Path) {
    let expected = hashes(name);
    let mut video = Video::open(path).unwrap();
    assert_eq!(video.frame_count(), expected.len(), "{name}");
    let clock = std::time::Instant::now();
    for (index, hash) in expected.iter().enumerate() {
        let frame = video.frame(index).unwrap();
        assert_eq!(fnv1a(&frame.rgb), *hash, "{name}: frame {index}");
    }
    let seconds = clock.elapsed().as_secs_f64();
    println!("{name}: {} frames, {:.0} a second", expected.len(), expected.len() as f64 / seconds);
    let mut random = Random(7);
    let mut video = Video::open(path).unwrap();
    for _ in 0..ACCESSES {
        let index = random.below(expected.len());
        // The frame itself, again, its neighbours: cached, next, and before.
        for index in [index, index, (index + 1).min(expected.len() - 1), index.saturating_sub(1)] {
            assert_eq!(fnv1a(&video.frame(index).unwrap().rgb), expected[index], "{name}: frame {index}");
        }
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
