//! Relative poses in every format, and the way back from physical to normalized actions.

mod made;

use std::path::PathBuf;

use made::{checkpoint_of, load_of, matrix, modality, observation, refused_of};
use serde_json::{Value, json};
use steadyhand_gr00t::processor::Processor;
use steadyhand_gr00t::{ActionChunk, Matrix, Observation, Version};

/// A few f32 roundings of values around 1, 6e-8 each. Measured: at most 3.2e-7, times 4.
const TOLERANCE: f32 = 1.3e-6;

fn assert_close(found: &Matrix, expected: &Matrix, name: &str) {
    assert_eq!((found.rows, found.cols), (expected.rows, expected.cols), "{name}");
    let worst = found.data.iter().zip(&expected.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("{name}: {worst:e}");
    assert!(worst <= TOLERANCE, "{name}: {worst}");
}

/// Values in (-1, 1) that no two places share.
fn spread(rows: usize, cols: usize) -> Matrix {
    let value = |at: usize| ((at * 37 + 11) % 97) as f32 / 48.5 - 1.0;
    Matrix { rows, cols, data: (0..rows * cols).map(value).collect() }
}

/// Bounds, means and percentiles of a group, one row for all steps or one for each.
fn statistics(dim: usize, steps: Option<usize>) -> Value {
    let value = |offset: f64, scale: f64| {
        let row = |step: usize| -> Vec<f64> {
            (0..dim).map(|at| offset + scale * (1.0 + at as f64 / 8.0 + step as f64 / 16.0)).collect()
        };
        steps.map_or_else(|| json!(row(0)), |steps| json!((0..steps).map(row).collect::<Vec<_>>()))
    };
    json!({
        "min": value(0.25, -1.5), "max": value(0.25, 1.5), "q01": value(0.125, -1.0), "q99": value(0.125, 1.0),
        "mean": value(0.0, 0.5), "std": value(0.0, 0.25),
    })
}

/// Four steps of `arm` (`dim` values) and `hand` (1); `action` is the arm's configuration, absolute where null.
fn processor(
    version: Version,
    name: &str,
    dim: usize,
    action: &Value,
    change: impl FnOnce(&mut Value),
) -> Processor {
    load_of(version, &made(version, name, dim, action, change))
}

fn made(
    version: Version,
    name: &str,
    dim: usize,
    action: &Value,
    change: impl FnOnce(&mut Value),
) -> PathBuf {
    checkpoint_of(version, name, |kwargs, files| {
        kwargs["max_action_dim"] = json!(20);
        kwargs["max_state_dim"] = json!(20);
        kwargs["max_action_horizon"] = json!(6);
        modality(kwargs, "action")["delta_indices"] = json!([0, 1, 2, 3]);
        if !action.is_null() {
            kwargs["use_relative_action"] = json!(true);
            let absolute = json!({"rep": "ABSOLUTE", "type": "NON_EEF", "format": "DEFAULT"});
            modality(kwargs, "action")["action_configs"] = json!([action, absolute]);
        }
        for modality in ["state", "action"] {
            files[modality] = json!({"arm": statistics(dim, None), "hand": statistics(1, None)});
        }
        files["relative_action"] = json!({"arm": statistics(dim, Some(4))});
        change(kwargs);
    })
}

fn relative(kind: &str, format: &str) -> Value {
    json!({"rep": "RELATIVE", "type": kind, "format": format})
}

fn at(arm: &[f32]) -> Observation {
    let mut observation = observation();
    observation.state.insert("arm".into(), matrix(1, arm));
    observation
}

#[test]
fn encoding_takes_decoding_back() {
    let joints = relative("NON_EEF", "DEFAULT");
    let nothing = |_: &mut Value| ();
    let percentiles = |kwargs: &mut Value| kwargs["use_percentiles"] = json!(true);
    let mean_std = |kwargs: &mut Value| {
        modality(kwargs, "action")["mean_std_embedding_keys"] = json!(["arm", "hand"]);
    };
    for version in Version::ALL {
        let named = |name: &str| format!("round_{version:?}_{name}");
        for (name, processor) in [
            ("min_max", processor(version, &named("min_max"), 7, &Value::Null, nothing)),
            ("percentiles", processor(version, &named("percentiles"), 7, &Value::Null, percentiles)),
            ("mean_std", processor(version, &named("mean_std"), 7, &Value::Null, mean_std)),
            ("relative", processor(version, &named("relative"), 7, &joints, nothing)),
            ("relative_percentiles", processor(version, &named("rel_perc"), 7, &joints, percentiles)),
            ("relative_mean_std", processor(version, &named("rel_mean_std"), 7, &joints, mean_std)),
        ] {
            let observation = at(&[0.5, -0.25, 0.125, 0.75, -1.0, 0.0, 1.5]);
            let mut normalized = spread(6, 20);
            let chunk = processor.decode(&normalized, &observation).expect("fits");
            let found = processor.encode_actions(&chunk, &observation).expect("fits");
            // What is no step or no value of a group is padding.
            for (place, value) in normalized.data.iter_mut().enumerate() {
                if place / 20 >= 4 || place % 20 >= 8 {
                    *value = 0.0;
                }
            }
            assert_close(&found, &normalized, &format!("{version} {name}"));
        }
    }
}

/// A turn about z by `angle`, then about x by a third of it, at a place of its own, in each format.
fn pose(format: &str, angle: f32) -> Vec<f32> {
    let ((s, c), (t, d)) = (angle.sin_cos(), (angle / 3.0).sin_cos());
    let rows = [[c, -s * d, s * t], [s, c * d, -c * t], [0.0, t, d]];
    let [x, y, z] = [0.1 + angle / 8.0, -0.2, 0.3 - angle / 16.0];
    match format {
        "XYZ_ROT6D" => [[x, y, z], rows[0], rows[1]].concat(),
        "XYZ_ROTVEC" => {
            let half = (((rows[0][0] + rows[1][1] + rows[2][2]) - 1.0) / 2.0).acos();
            let axis = [rows[2][1] - rows[1][2], rows[0][2] - rows[2][0], rows[1][0] - rows[0][1]];
            let length = axis.iter().map(|v| v * v).sum::<f32>().sqrt();
            [[x, y, z], axis.map(|v| v / length * half)].concat()
        }
        _ => {
            let row = |i: usize, last: f32| [rows[i][0], rows[i][1], rows[i][2], last];
            [row(0, x), row(1, y), row(2, z), [0.0, 0.0, 0.0, 1.0]].concat()
        }
    }
}

#[test]
fn relative_poses_survive_the_way_back_and_forth_in_every_format() {
    // Version, format, format of the state: N1.6 reads rot6d whatever it writes.
    for (version, format, read) in [
        (Version::N1_6, "XYZ_ROT6D", "XYZ_ROT6D"),
        (Version::N1_6, "XYZ_ROTVEC", "XYZ_ROT6D"),
        (Version::N1_7, "XYZ_ROT6D", "XYZ_ROT6D"),
        (Version::N1_7, "XYZ_ROTVEC", "XYZ_ROTVEC"),
        (Version::N1_7, "DEFAULT", "DEFAULT"),
    ] {
        let dim = pose(read, 0.5).len();
        let name = format!("pose_{version:?}_{format}");
        let processor = processor(version, &name, dim, &relative("EEF", format), |_| ());
        let observation = at(&pose(read, 0.5));
        let arm: Vec<f32> = [0.4, 0.6, 0.9, 0.7].into_iter().flat_map(|angle| pose(format, angle)).collect();
        let hand = matrix(4, &[0.0, 0.5, 1.0, 0.25]);
        let chunk = ActionChunk { groups: vec![("arm".into(), matrix(4, &arm)), ("hand".into(), hand)] };
        let normalized = processor.encode_actions(&chunk, &observation).expect("fits");
        assert_eq!((normalized.rows, normalized.cols), (6, 20));
        let back = processor.decode(&normalized, &observation).expect("fits");
        for ((key, found), (_, expected)) in back.groups.iter().zip(&chunk.groups) {
            assert_close(found, expected, &format!("{name} {key}"));
        }
        assert_eq!(processor.action_dim("arm"), Some(pose(format, 0.5).len()));
    }
}

#[test]
fn the_same_relative_pose_is_the_same_in_every_format() {
    // A quarter turn about z away from a state that is a quarter turn about z: half a turn, one unit along the
    // turned x axis away.
    let state = [
        ("XYZ_ROT6D", vec![1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 1.0, 0.0, 0.0]),
        ("DEFAULT", {
            vec![0.0, -1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
        }),
    ];
    let absolute = [
        ("XYZ_ROT6D", vec![1.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0, 0.0]),
        ("DEFAULT", vec![-1.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]),
    ];
    for ((format, state), (_, expected)) in state.into_iter().zip(absolute) {
        let dim = state.len();
        let name = format!("same_{format}");
        let bounds = |kwargs: &mut Value| kwargs["clip_outliers"] = json!(true);
        let path = made(Version::N1_7, &name, dim, &relative("EEF", format), bounds);
        let unit = json!({"min": vec![-1.0; dim], "max": vec![1.0; dim]});
        let hand = json!({"min": [0.0], "max": [1.0]});
        let groups = json!({"arm": unit, "hand": hand});
        let all = json!({"state": groups, "action": groups, "relative_action": {"arm": unit}});
        made::write(&path, "statistics.json", &json!({"new_embodiment": all}));
        let processor = load_of(Version::N1_7, &path);
        // The relative pose is the state's own: the same turn, and the same way along x.
        let mut normalized = matrix(4, &[0.0; 80]);
        (0..4).for_each(|step| normalized.data[step * 20..][..dim].copy_from_slice(&state));
        let chunk = processor.decode(&normalized, &at(&state)).expect("fits");
        assert_close(&chunk.groups[0].1, &matrix(4, &expected.repeat(4)), format);
    }
}

#[test]
fn formats_that_a_version_does_not_read_are_refused() {
    let refuse = |version: Version, kind: &str, format: &str, dim: usize| {
        let name = format!("refuse_{version:?}_{kind}_{format}_{dim}");
        refused_of(version, &made(version, &name, dim, &relative(kind, format), |_| ()))
    };
    let error = refuse(Version::N1_6, "EEF", "DEFAULT", 16);
    assert!(error.ends_with("a relative Eef action cannot be written as Default"), "{error}");
    let error = refuse(Version::N1_7, "NON_EEF", "XYZ_ROT6D", 9);
    assert!(error.ends_with("a relative NonEef action cannot be written as XyzRot6d"), "{error}");
    for (version, format, dim, expected) in [
        (Version::N1_6, "XYZ_ROTVEC", 6, "expected 9 values (xyz + rot6d), found 6"),
        (Version::N1_7, "XYZ_ROTVEC", 9, "expected 6 values (xyz + rotation vector), found 9"),
        (Version::N1_7, "XYZ_ROT6D", 6, "expected 9 values (xyz + rot6d), found 6"),
        (Version::N1_7, "DEFAULT", 9, "expected 16 values (4 x 4 matrix), found 9"),
    ] {
        let error = refuse(version, "EEF", format, dim);
        assert!(error.ends_with(expected), "{error}");
    }
    let mirrored = {
        let mut pose = pose("DEFAULT", 0.5);
        pose[..3].iter_mut().for_each(|value| *value = -*value);
        at(&pose)
    };
    let processor = processor(Version::N1_7, "mirrored", 16, &relative("EEF", "DEFAULT"), |_| ());
    let error = processor.decode(&spread(4, 20), &mirrored).expect_err("mirrored").to_string();
    assert_eq!(error, "state.arm: the matrix is none of a rotation");
}

#[test]
fn encoded_actions_are_clipped_as_in_training() {
    for (clip, expected) in [(true, [1.0, -1.0, 1.0]), (false, [2.0, -1.5, 3.0])] {
        let path = checkpoint_of(Version::N1_7, &format!("clip_{clip}"), |kwargs, _| {
            kwargs["clip_outliers"] = json!(clip);
            modality(kwargs, "action")["mean_std_embedding_keys"] = json!(["hand"]);
        });
        let processor = load_of(Version::N1_7, &path);
        let groups =
            vec![("arm".to_owned(), matrix(1, &[1.5, -3.0])), ("hand".to_owned(), matrix(1, &[11.0]))];
        let found = processor.encode_actions(&ActionChunk { groups }, &observation()).expect("fits");
        assert_eq!((found.rows, found.row(0)[..3].to_vec()), (50, expected.to_vec()));
    }
}

#[test]
fn chunks_that_do_not_fit_name_their_group() {
    let processor = processor(Version::N1_7, "chunks", 2, &relative("NON_EEF", "DEFAULT"), |_| ());
    let refused = |arm: Matrix, hand: Matrix, observation: &Observation| {
        let groups = vec![("arm".to_owned(), arm), ("hand".to_owned(), hand)];
        let found = processor.encode_actions(&ActionChunk { groups }, observation);
        found.expect_err("does not fit").to_string()
    };
    let zeros = |rows: usize, cols: usize| Matrix { rows, cols, data: vec![0.0; rows * cols] };
    let here = observation();
    let error = refused(zeros(2, 3), zeros(2, 1), &here);
    assert!(
        error.starts_with("action.arm: expected the same 1 to 4 steps") && error.ends_with("found 2 of 3")
    );
    assert!(refused(zeros(2, 2), zeros(3, 1), &here).starts_with("action.hand: "));
    assert!(refused(zeros(5, 2), zeros(5, 1), &here).ends_with("found 5 of 2"));
    assert!(refused(zeros(0, 2), zeros(0, 1), &here).ends_with("found 0 of 2"));
    let nan = Matrix { rows: 1, cols: 1, data: vec![f32::NAN] };
    assert_eq!(refused(zeros(1, 2), nan, &here), "action.hand: value 0 of time step 0 is NaN");
    let mut nowhere = observation();
    nowhere.state.remove("arm");
    assert!(refused(zeros(1, 2), zeros(1, 1), &nowhere).starts_with("state.arm: missing"));
    let only = ActionChunk { groups: vec![("arm".to_owned(), zeros(1, 2))] };
    let error = processor.encode_actions(&only, &here).expect_err("no hand").to_string();
    assert_eq!(error, "action.hand: expected one of arm");
    // A part of a chunk: the rest is padding.
    let part = ActionChunk { groups: vec![("arm".into(), zeros(2, 2)), ("hand".into(), zeros(2, 1))] };
    let encoded = processor.encode_actions(&part, &here).expect("fits");
    assert!(encoded.row(2).iter().all(|value| *value == 0.0) && encoded.row(1)[2] != 0.0);
}
