//! Real data that is not in the repository: a Unitree G1 recording, a v3.0 recording, two metadata folders
//! and a video. Each test is ignored where its data is absent.

mod common;

use std::{path::Path, process::ExitCode};

use common::{compare, copy, hash, whole};
use libtest_mimic::{Arguments, Trial};
use steadyhand_lerobot::{Dataset, Error, Kind};

/// A test that is ignored, by name, where its data in the folder of shared data is absent.
fn trial(name: &str, data: &str, test: fn(&Path)) -> Trial {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(data);
    let absent = !path.exists();
    let run = move || {
        assert!(!absent, "{} is absent", path.display());
        test(&path);
        Ok(())
    };
    Trial::test(name, run).with_ignored_flag(absent)
}

fn main() -> ExitCode {
    let tests = vec![
        trial("g1_without_modality_file_or_video", "datasets/g1_bottle", g1_without_modality_file_or_video),
        trial("v3_many_episodes_a_file", "datasets/v3_record_test", v3_many_episodes_a_file),
        trial("gr1_metadata", "datasets/gr1_meta", gr1_metadata),
        trial("cube_to_bowl_metadata", "datasets/cube_to_bowl_meta", cube_to_bowl_metadata),
        trial("libero_av1", "datasets/libero_clip/episode_000082.mp4", libero_av1),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

/// A metadata folder as a dataset without data.
fn meta_only(folder: &Path) -> (tempfile::TempDir, Dataset) {
    let root = tempfile::tempdir().unwrap();
    copy(folder, &root.path().join("meta"));
    let dataset = Dataset::open(root.path()).unwrap();
    (root, dataset)
}

fn g1_without_modality_file_or_video(path: &Path) {
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
        episode.instruction("annotation.human.task_description", 0, 16).unwrap(),
        "Pick up the yellow bottle on the table."
    );
    let error = episode.video("cam_high").unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "{error}");
}

fn v3_many_episodes_a_file(path: &Path) {
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
    assert_eq!(episode.instruction("task", 0, 16).unwrap(), text);
    assert_eq!(episode.instruction("annotation.human.task_description", 373, 16).unwrap(), text);
    let error = episode.video("top").unwrap_err().to_string();
    let file = Path::new("videos/observation.images.top/chunk-000/file-000.mp4");
    assert!(error.contains(&file.display().to_string()) && error.contains("missing"), "{error}");
    assert_eq!(dataset.stats().unwrap().unwrap().get("action", "q01").unwrap().shape, [6]);
    assert_eq!(
        dataset.stats().unwrap().unwrap().get("observation.images.top", "mean").unwrap().shape,
        [3, 1, 1]
    );
}

fn gr1_metadata(path: &Path) {
    let (_folder, dataset) = meta_only(path);
    assert_eq!((dataset.version(), dataset.len(), dataset.fps()), ("v2.0", 5, 20.0));
    let modality = dataset.modality();
    assert_eq!(modality.state[3].name, "neck");
    assert_eq!(modality.state[7].dim(), 3);
    assert_eq!(modality.video[0].name, "ego_view_bg_crop_pad_res256_freq20");
    assert_eq!(modality.video[0].column, "observation.images.ego_view");
    assert_eq!(modality.annotation[0].column, "annotation.human.action.task_description");
    assert_eq!(modality.annotation[2].name, "human.coarse_action");
    assert_eq!(dataset.dimension_names(Kind::Action, "neck"), ["motor_19", "motor_20", "motor_21"]);
    let relative = dataset.relative_stats().unwrap().unwrap();
    assert_eq!(relative.features().collect::<Vec<_>>(), ["left_arm", "left_hand", "right_arm", "right_hand"]);
    assert_eq!(relative.get("left_arm", "q99").unwrap().shape, [16, 7]);
    assert_eq!(relative.get("left_arm", "max").unwrap().data[1], 0.022661257535219193);
    assert_eq!(dataset.tasks().unwrap()[&1], "valid");
    // The data itself is absent.
    assert!(matches!(dataset.episode(0), Err(Error::Missing { .. })));
}

fn cube_to_bowl_metadata(path: &Path) {
    let (_folder, dataset) = meta_only(path);
    assert_eq!((dataset.len(), dataset.episode_meta(3).unwrap().length), (5, 1797));
    assert_eq!(dataset.dimension_names(Kind::State, "gripper"), ["gripper.pos"]);
    assert_eq!(dataset.relative_stats().unwrap().unwrap().get("single_arm", "mean").unwrap().shape, [16, 5]);
    assert_eq!(dataset.group_stats(Kind::Action, "gripper", "std").unwrap().unwrap(), [15.964427947998047]);
    assert_eq!(dataset.group_stats(Kind::Action, "gripper", "median").unwrap(), None);
}

fn libero_av1(path: &Path) {
    compare("libero_episode_000082", path);
}
