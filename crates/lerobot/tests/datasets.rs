//! A real dataset: the demo.

mod common;

use common::{fnv1a, hash, hashes, repo, whole};
use steadyhand_lerobot::{Dataset, Episode, FrameStream, Kind, Video};

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
    assert!(dataset.relative_stats().unwrap().is_none());
    let mean = dataset.stats().unwrap().unwrap().get("observation.state", "mean").unwrap();
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
        assert_eq!(episode.instruction("task", 0, 16).unwrap(), text);
        assert_eq!(episode.instruction("annotation.human.task_description", 200, 16).unwrap(), text);
        let mut video = episode.video("ego_view").unwrap();
        assert_eq!(video.frame_count(), episode.len());
        let expected = hashes(&format!("demo_episode_{index:06}"));
        assert_eq!(fnv1a(&video.frame(200).unwrap().rgb), expected[200]);
    }
}
