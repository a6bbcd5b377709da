//! Real datasets: the demo, a Unitree G1 recording, a v3.0 recording and two metadata folders.

mod common;

use std::path::Path;

use common::{copy, fnv1a, hashes, repo, shared};
use steadyhand_lerobot::{Dataset, Episode, Error, FrameStream, Kind, Matrix, Video};

/// The hash of a matrix's bytes, little endian.
fn hash(matrix: &Matrix) -> u64 {
    fnv1a(&matrix.data.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
}

/// The columns of all groups of a kind, side by side again: `[len, dim]`.
fn whole(dataset: &Dataset, episode: usize, kind: Kind) -> Matrix {
    let episode = dataset.episode(episode).unwrap();
    let groups: Vec<Matrix> =
        dataset.modality().groups(kind).iter().map(|g| episode.group(kind, &g.name).unwrap()).collect();
    let data = (0..episode.len()).flat_map(|row| groups.iter().flat_map(move |g| g.row(row).to_vec()));
    let data: Vec<f32> = data.collect();
    Matrix { rows: episode.len(), cols: groups.iter().map(|g| g.cols).sum(), data }
}

/// A metadata folder as a dataset without data.
fn meta_only(folder: &Path) -> (tempfile::TempDir, Dataset) {
    let root = tempfile::tempdir().unwrap();
    copy(folder, &root.path().join("meta"));
    let dataset = Dataset::open(root.path()).unwrap();
    (root, dataset)
}

#[test]
fn demo_metadata() {
    let dataset = Dataset::open(repo("demo/dataset")).unwrap();
    assert_eq!((dataset.version(), dataset.len(), dataset.fps()), ("v2.1", 4, 30.0));
    assert_eq!(dataset.robot_type(), Some("Unitree_G1_Inspire"));
    let groups: Vec<_> =
        dataset.modality().action.iter().map(|g| (g.name.as_str(), g.start, g.end)).collect();
    let expected = [("left_arm", 0, 7), ("right_arm", 7, 14), ("left_hand", 14, 20), ("right_hand", 20, 26)];
    assert_eq!(groups, expected);
    let meta = dataset.episode_meta(2).unwrap();
    assert_eq!((meta.episode_index, meta.length), (2, 260));
    assert_eq!(meta.tasks, ["Pick up the yellow bottle on the table."]);
    assert_eq!(dataset.dimension_names(Kind::State, "left_hand")[..2], ["left_hand[0]", "left_hand[1]"]);
    assert!(dataset.relative_stats().is_none());
    let mean = dataset.stats().unwrap().get("observation.state", "mean").unwrap();
    assert_eq!((&mean.shape[..], mean.data[0]), (&[26][..], -0.7924914360046387));
    let sliced = dataset.group_stats(Kind::State, "right_arm", "mean").unwrap().unwrap();
    assert_eq!(sliced, mean.data[7..14]);
    assert_eq!(dataset.features()[0].name, "observation.state");
}

#[test]
fn datasets_and_episodes_cross_threads() {
    fn shared_freely<T: Send + Sync>() {}
    fn moved_freely<T: Send>() {}
    shared_freely::<(Dataset, Episode)>();
    moved_freely::<(Video, FrameStream)>();
}

#[test]
fn demo_columns_equal_pyarrow() {
    let dataset = Dataset::open(repo("demo/dataset")).unwrap();
    let expected = [
        (362, 0x53d1_1c79_641f_edb4, 0x21ac_bd26_f27a_e39e),
        (355, 0xbe00_68aa_393d_3a22, 0xee99_577b_f491_5349),
        (260, 0x54a7_0678_5996_76db, 0x07e7_14b3_94f8_5cd2),
        (307, 0x1fe3_de33_ba2e_d8f0, 0xfb9c_0bfa_d61f_2b49),
    ];
    for (index, (len, state, action)) in expected.into_iter().enumerate() {
        let matrix = whole(&dataset, index, Kind::State);
        assert_eq!((matrix.rows, matrix.cols, hash(&matrix)), (len, 26, state), "episode {index}");
        assert_eq!(hash(&whole(&dataset, index, Kind::Action)), action, "episode {index}");
    }
}

#[test]
fn demo_instructions_and_videos() {
    let dataset = Dataset::open(repo("demo/dataset")).unwrap();
    let text = "Pick up the yellow bottle on the table.";
    for index in 0..dataset.len() {
        let episode = dataset.episode(index).unwrap();
        assert_eq!((episode.index(), episode.meta().unwrap().length), (index, episode.len()));
        assert_eq!(episode.instruction("task", 0).unwrap(), text);
        assert_eq!(episode.instruction("annotation.human.task_description", 200).unwrap(), text);
        let mut video = episode.video("ego_view").unwrap();
        assert_eq!(video.frame_count(), episode.len());
        let expected = hashes(&format!("demo_episode_{index:06}"));
        assert_eq!(fnv1a(&video.frame(200).unwrap().rgb), expected[200]);
    }
}

#[test]
fn g1_without_modality_file_or_video() {
    let Some(path) = shared("g1_without_modality_file_or_video", "datasets/g1_bottle") else { return };
    let dataset = Dataset::open(path).unwrap();
    assert_eq!(dataset.len(), 40);
    let modality = dataset.modality();
    assert!(modality.derived);
    let group = &modality.state[0];
    assert_eq!(
        (group.name.as_str(), group.start, group.end, group.column.as_str()),
        ("state", 0, 26, "observation.state")
    );
    assert_eq!((modality.action[0].name.as_str(), modality.video[0].name.as_str()), ("action", "cam_high"));
    assert_eq!(dataset.dimension_names(Kind::Action, "action")[7], "kRightShoulderPitch");
    for (index, state, action) in [
        (0, 0xe9a9_6feb_b394_9435, 0x5228_777b_aefa_31f2),
        (17, 0x700b_29fd_5312_6584, 0xf1e7_efad_80e0_e2f5),
        (39, 0x1e36_a590_8939_524d, 0x5688_9119_dad8_51eb),
    ] {
        assert_eq!(hash(&whole(&dataset, index, Kind::State)), state, "episode {index}");
        assert_eq!(hash(&whole(&dataset, index, Kind::Action)), action, "episode {index}");
    }
    let episode = dataset.episode(5).unwrap();
    assert_eq!(
        episode.instruction("annotation.human.task_description", 0).unwrap(),
        "Pick up the yellow bottle on the table."
    );
    let error = episode.video("cam_high").unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "{error}");
}

#[test]
fn v3_many_episodes_a_file() {
    let Some(path) = shared("v3_many_episodes_a_file", "datasets/v3_record_test") else { return };
    let dataset = Dataset::open(path).unwrap();
    assert_eq!((dataset.version(), dataset.len()), ("v3.0", 4));
    let expected = [
        (373, 0xfae2_a50e_a8a9_4594, 0x8292_cd6e_50eb_4a78),
        (374, 0x490a_c243_5671_2c02, 0x1c4b_86d4_9f7b_4d35),
        (372, 0x1594_2ea6_277d_3ea6, 0xa287_4a12_3c59_d127),
        (373, 0xd6d3_9cd9_4ab2_5d08, 0x5043_561c_3b54_812b),
    ];
    for (index, (len, state, action)) in expected.into_iter().enumerate() {
        let matrix = whole(&dataset, index, Kind::State);
        assert_eq!((matrix.rows, matrix.cols, hash(&matrix)), (len, 6, state), "episode {index}");
        assert_eq!(hash(&whole(&dataset, index, Kind::Action)), action, "episode {index}");
    }
    assert_eq!(dataset.dimension_names(Kind::State, "state")[5], "gripper.pos");
    let episode = dataset.episode(1).unwrap();
    let text = "Pick the orange cube and place it in the box";
    assert_eq!(episode.instruction("task", 0).unwrap(), text);
    assert_eq!(episode.instruction("annotation.human.task_description", 373).unwrap(), text);
    let error = episode.video("top").unwrap_err().to_string();
    let file = Path::new("videos/observation.images.top/chunk-000/file-000.mp4");
    assert!(error.contains(&file.display().to_string()) && error.contains("missing"), "{error}");
    assert_eq!(dataset.stats().unwrap().get("action", "q01").unwrap().shape, [6]);
    assert_eq!(dataset.stats().unwrap().get("observation.images.top", "mean").unwrap().shape, [3, 1, 1]);
}

#[test]
fn gr1_metadata() {
    let Some(path) = shared("gr1_metadata", "datasets/gr1_meta") else { return };
    let (_folder, dataset) = meta_only(&path);
    assert_eq!((dataset.version(), dataset.len(), dataset.fps()), ("v2.0", 5, 20.0));
    let modality = dataset.modality();
    assert_eq!(modality.state[3].name, "neck");
    assert_eq!(modality.state[7].dim(), 3);
    assert_eq!(modality.video[0].name, "ego_view_bg_crop_pad_res256_freq20");
    assert_eq!(modality.video[0].column, "observation.images.ego_view");
    assert_eq!(modality.annotation[0].column, "annotation.human.action.task_description");
    assert_eq!(modality.annotation[2].name, "human.coarse_action");
    assert_eq!(dataset.dimension_names(Kind::Action, "neck"), ["motor_19", "motor_20", "motor_21"]);
    let relative = dataset.relative_stats().unwrap();
    assert_eq!(relative.features().collect::<Vec<_>>(), ["left_arm", "left_hand", "right_arm", "right_hand"]);
    assert_eq!(relative.get("left_arm", "q99").unwrap().shape, [16, 7]);
    assert_eq!(relative.get("left_arm", "max").unwrap().data[1], 0.022661257535219193);
    assert_eq!(dataset.tasks()[&1], "valid");
    // The data itself is absent.
    assert!(matches!(dataset.episode(0), Err(Error::Missing { .. })));
}

#[test]
fn cube_to_bowl_metadata() {
    let Some(path) = shared("cube_to_bowl_metadata", "datasets/cube_to_bowl_meta") else { return };
    let (_folder, dataset) = meta_only(&path);
    assert_eq!((dataset.len(), dataset.episode_meta(3).unwrap().length), (5, 1797));
    assert_eq!(dataset.dimension_names(Kind::State, "gripper"), ["gripper.pos"]);
    assert_eq!(dataset.relative_stats().unwrap().get("single_arm", "mean").unwrap().shape, [16, 5]);
    assert_eq!(dataset.group_stats(Kind::Action, "gripper", "std").unwrap().unwrap(), [15.964427947998047]);
    assert_eq!(dataset.group_stats(Kind::Action, "gripper", "median").unwrap(), None);
}
