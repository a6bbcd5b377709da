//! Where the processors of N1.6 and N1.7 differ, and what both do with files that do not fit them.

mod cases;
mod made;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cases::{Tensors, goldens_n1_7};
use made::{
    checkpoint, checkpoint_of, folder, frame, load, load_of, matrix, modality, observation, refused_of,
    tokenizer, write,
};
use serde_json::{Value, json};
use steadyhand_gr00t::processor::{Encoded, PixelValues, Processor, RawImage, known_embodiment_tags};
use steadyhand_gr00t::{Image, Observation, Version};

const VERSIONS: [Version; 2] = Version::ALL;

/// A checkpoint of N1.7, changed.
fn n1_7(name: &str, change: impl FnOnce(&mut Value, &mut Value)) -> PathBuf {
    checkpoint_of(Version::N1_7, name, change)
}

#[test]
fn the_version_is_that_of_the_processors_class() {
    for version in VERSIONS {
        let path = checkpoint_of(version, &format!("class_{version:?}"), |_, _| ());
        assert_eq!(load_of(version, &path).version(), version);
        let sides = [(Version::N1_6, 28), (Version::N1_7, 32)];
        assert!(sides.contains(&(version, load_of(version, &path).token_side())));
    }
    let folder = folder("class");
    let refused = |class: Value| {
        write(&folder, "processor_config.json", &json!({"processor_class": class, "processor_kwargs": {}}));
        known_embodiment_tags(&folder).expect_err("refused").to_string()
    };
    let expected = "processor_class: expected Gr00tN1d6Processor or Gr00tN1d7Processor, found";
    assert!(refused(Value::Null).ends_with(&format!("{expected} none")));
    assert!(refused(json!("Gr00tN1d5Processor")).ends_with(&format!("{expected} \"Gr00tN1d5Processor\"")));
    write(&folder, "processor_config.json", &json!({"processor_kwargs": {}}));
    let absent = known_embodiment_tags(&folder).expect_err("refused").to_string();
    assert!(absent.contains("processor_config.json") && absent.ends_with("found none"), "{absent}");
}

/// Noise-like RGB, so that no two transforms give the same.
fn noise(width: usize, height: usize) -> Image {
    let byte = |at: usize| (at.wrapping_mul(2_654_435_761) >> 11) as u8 ^ (at >> 3) as u8;
    Image { width, height, rgb: (0..width * height * 3).map(byte).collect() }
}

/// The frame in the middle of a black square, the smaller half of the bars on top and left.
fn square(image: &Image) -> Image {
    let side = image.width.max(image.height);
    let (left, top) = ((side - image.width) / 2, (side - image.height) / 2);
    let mut rgb = vec![0; side * side * 3];
    for (row, bytes) in image.rgb.chunks_exact(image.width * 3).enumerate() {
        rgb[((top + row) * side + left) * 3..][..bytes.len()].copy_from_slice(bytes);
    }
    Image { width: side, height: side, rgb: rgb.into() }
}

/// A processor of one view, `front`.
fn one_view(version: Version, name: &str, change: impl FnOnce(&mut Value)) -> Processor {
    let path = checkpoint_of(version, name, |kwargs, _| {
        modality(kwargs, "video")["modality_keys"] = json!(["front"]);
        kwargs["image_crop_size"] = json!([230, 230]);
        kwargs["image_target_size"] = json!([256, 256]);
        kwargs["shortest_image_edge"] = json!(256);
        change(kwargs);
    });
    load_of(version, &path)
}

fn see(processor: &Processor, image: Image) -> Vec<PixelValues> {
    let images = BTreeMap::from([("front".to_owned(), vec![image.into()])]);
    processor.encode(&Observation { images, ..observation() }).expect("a frame").pixel_values
}

#[test]
fn sizes_that_are_null_follow_from_the_others() {
    for version in VERSIONS {
        let seen = |name: &str, edge: Value, fraction: Value| {
            let processor = one_view(version, &format!("{name}_{version:?}"), |kwargs| {
                kwargs["shortest_image_edge"] = edge;
                kwargs["crop_fraction"] = fraction;
            });
            see(&processor, noise(320, 180))
        };
        let null = seen("null", Value::Null, Value::Null);
        assert!(null == seen("spelt_out", json!(256), json!(230.0 / 256.0)));
        assert!(null != seen("as_released", json!(256), json!(0.95)));
    }
}

#[test]
fn bars_are_added_where_the_file_of_the_version_says_so() {
    // Version, albumentations or torchvision, bars where letter_box_transform is absent.
    for (version, albumentations, absent) in [
        (Version::N1_6, true, false),
        (Version::N1_6, false, true),
        (Version::N1_7, true, false),
        (Version::N1_7, false, false),
    ] {
        let settings = [
            (None, absent),
            (Some(json!(true)), true),
            (Some(json!(false)), false),
            (Some(Value::Null), false),
        ];
        for (setting, bars) in settings {
            let name = format!("bars_{version:?}_{albumentations}_{setting:?}").replace(['(', ')', ' '], "");
            let processor = one_view(version, &name, |kwargs| {
                kwargs["use_albumentations"] = json!(albumentations);
                if let Some(setting) = &setting {
                    kwargs["letter_box_transform"] = setting.clone();
                }
            });
            let wide = noise(320, 180);
            let same = see(&processor, wide.clone()) == see(&processor, square(&wide));
            assert_eq!(same, bars, "{name}");
        }
    }
}

#[test]
fn frames_with_and_without_bars_are_the_official_ones() {
    // The result of the first stage, before the resize to whole tokens, is the same code in both versions, and that of
    // N1.7's goldens is their image, since 256 x 256 pixels are whole tokens. With nothing left to do in the first
    // stage, N1.6 makes of that image what it makes of the frame.
    let nothing_left = one_view(Version::N1_6, "nothing_left", |kwargs| kwargs["crop_fraction"] = json!(1.0));
    // Case, view, image, albumentations, letter_box_transform; absent means bars to torchvision's variant.
    for (case, view, image, albumentations, setting) in [
        ("letterbox_odd_sizes", "tall", 0, true, Some(true)),
        ("letterbox_odd_sizes", "wide", 1, true, Some(true)),
        ("torchvision_letterbox", "front", 0, false, Some(true)),
        ("torchvision_letterbox", "front", 0, false, None),
        ("torchvision_fixed_crop", "front", 0, false, Some(false)),
    ] {
        let tensors = Tensors::read(&goldens_n1_7().join(case).join("case.safetensors"));
        let name = format!("official_bars_{case}_{image}_{}", setting.is_none());
        let processor = one_view(Version::N1_6, &name, |kwargs| {
            kwargs["use_albumentations"] = json!(albumentations);
            if let Some(bars) = setting {
                kwargs["letter_box_transform"] = json!(bars);
            }
        });
        let found = see(&processor, tensors.image(&format!("in.image.{view}")));
        let expected = see(&nothing_left, tensors.image(&format!("out.image.{image}")));
        assert_eq!((found[0].height, found[0].width), (252, 252), "{case}");
        assert!(found == expected, "{case} {view} {setting:?}");
    }
}

#[test]
fn views_of_unequal_size_are_refused_where_they_become_one_stack() {
    let wide = || {
        let mut observation = observation();
        observation.images.insert("right".into(), vec![noise(90, 56).into()]);
        observation
    };
    let path = n1_7("unequal", |_, _| ());
    let error = load_of(Version::N1_7, &path).encode(&wide()).expect_err("unequal").to_string();
    assert!(
        error.starts_with("video.right: expected 56x56 after resize and crop, as video.left, found 90x56"),
        "{error}"
    );
    assert!(error.contains("letter_box_transform"), "{error}");
    let raw = load_of(Version::N1_7, &path).encode_raw(&wide(), &mut Encoded::default());
    assert_eq!(raw.err().map(|refused| refused.to_string()), Some(error));
    let bars = n1_7("unequal_bars", |kwargs, _| kwargs["letter_box_transform"] = json!(true));
    assert_eq!(load_of(Version::N1_7, &bars).encode(&wide()).expect("squares").pixel_values.len(), 2);
    let older = load(&checkpoint("unequal_n1_6", |_, _| ())).encode(&wide()).expect("two images");
    assert_ne!(older.pixel_values[0].width, older.pixel_values[1].width);
}

#[test]
fn frames_of_a_history_come_time_first_and_state_rows_are_scaled_alone() {
    let path = n1_7("history", |kwargs, _| {
        modality(kwargs, "video")["delta_indices"] = json!([-15, 0]);
        modality(kwargs, "state")["delta_indices"] = json!([-1, 0]);
    });
    let mut observation = observation();
    observation.images = BTreeMap::from([
        ("left".into(), vec![frame(0), frame(51)]),
        ("right".into(), vec![frame(102), frame(255)]),
    ]);
    observation.state.insert("arm".into(), matrix(2, &[0.0, 0.0, 1.0, 2.0]));
    observation.state.insert("hand".into(), matrix(2, &[0.0, 10.0]));
    let encoded = load_of(Version::N1_7, &path).encode(&observation).expect("fits");
    let levels: Vec<f32> = encoded.pixel_values.iter().map(|p| (p.data[0] * 127.5 + 127.5).round()).collect();
    assert_eq!(levels, [0.0, 102.0, 51.0, 255.0]);
    assert_eq!(encoded.state.row(0)[..3], [-1.0, 0.0, -1.0]);
    assert_eq!(encoded.state.row(1)[..3], [1.0, 1.0, 1.0]);
    let image = "<|vision_start|><|image_pad|><|vision_end|>";
    assert_eq!(encoded.prompt, format!("<|im_start|>user\n{}go<|im_end|>\n", image.repeat(4)));
    let mut with_frames = Encoded::default();
    let raw = load_of(Version::N1_7, &path).encode_raw(&observation, &mut with_frames).expect("fits");
    with_frames.pixel_values = raw.iter().map(RawImage::pixels).collect();
    assert_eq!(with_frames, encoded);
    // 56 x 56 pixels grow to the least number of pixels: 256 x 256, 64 tokens.
    let processor = load_of(Version::N1_7, &path);
    let pad = processor.tokenizer().token_id("<|image_pad|>");
    assert_eq!(encoded.input_ids.iter().filter(|id| Some(**id) == pad).count(), 4 * 64);
}

#[test]
fn an_image_token_in_raw_language_is_refused() {
    let told = |processor: &Processor| {
        processor.encode(&Observation { instruction: "take <|image_pad|> now".into(), ..observation() })
    };
    let raw = n1_7("raw_pad", |kwargs, _| kwargs["formalize_language"] = json!(false));
    let error = told(&load_of(Version::N1_7, &raw)).expect_err("an image").to_string();
    assert!(error.starts_with("instruction: expected text without <|image_pad|>"), "{error}");
    let formal = told(&load_of(Version::N1_7, &n1_7("formal_pad", |_, _| ()))).expect("text");
    assert!(formal.prompt.ends_with("take image_pad now<|im_end|>\n"), "{}", formal.prompt);
}

#[test]
fn an_excluded_state_is_zeros_but_still_what_actions_are_relative_to() {
    let relative = |kwargs: &mut Value| {
        kwargs["use_relative_action"] = json!(true);
        let joints = json!({"rep": "RELATIVE", "type": "NON_EEF", "format": "DEFAULT"});
        modality(kwargs, "action")["action_configs"] = json!([joints, joints]);
    };
    let processors = [
        n1_7("excluded", |kwargs, statistics| {
            relative(kwargs);
            kwargs["exclude_state"] = json!(true);
            // What the model is not shown needs no statistics.
            statistics.as_object_mut().expect("groups").remove("state");
        }),
        n1_7("excluded_modality", |kwargs, _| {
            relative(kwargs);
            modality(kwargs, "state")["exclude_state"] = json!(true);
        }),
    ];
    for path in processors {
        let processor = load_of(Version::N1_7, &path);
        assert_eq!(processor.encode(&observation()).expect("fits").state, matrix(1, &[0.0; 8]));
        let chunk = processor.decode(&matrix(1, &[1.0, 0.0, 0.0, 9.0]), &observation()).expect("fits");
        assert_eq!(chunk.groups[0].1, matrix(1, &[1.75, -4.0]));
        let mut without = observation();
        without.state.remove("hand");
        let error = processor.encode(&without).expect_err("no hand").to_string();
        assert_eq!(error, "state.hand: missing; expected groups: arm, hand");
    }
}

#[test]
fn a_horizon_longer_than_the_models_is_refused() {
    let long = |kwargs: &mut Value, _: &mut Value| {
        kwargs["max_action_horizon"] = json!(4);
        modality(kwargs, "action")["delta_indices"] = json!([0, 1, 2, 3, 4]);
    };
    let error = refused_of(Version::N1_7, &n1_7("long", long));
    let expected = "new_embodiment.action.delta_indices: expected at most max_action_horizon = 4, found 5";
    assert!(error.contains("processor_config.json: ") && error.ends_with(expected), "{error}");
    assert_eq!(load(&checkpoint("long_n1_6", long)).action_horizon(), 5);
}

#[test]
fn statistics_of_each_step_are_as_many_as_steps_or_one() {
    let steps = |rows: usize| {
        move |kwargs: &mut Value, statistics: &mut Value| {
            modality(kwargs, "action")["delta_indices"] = json!([0, 1, 2]);
            statistics["action"]["hand"] = json!({"min": vec![[0.0]; rows], "max": vec![[1.0]; rows]});
            // Written by newer code beside the groups.
            statistics["relative_action"]["__fingerprints__"] = json!({"arm": "5f0c"});
        }
    };
    for rows in [1, 3] {
        load_of(Version::N1_7, &n1_7(&format!("rows_{rows}"), steps(rows)));
    }
    let error = refused_of(Version::N1_7, &n1_7("rows_2", steps(2)));
    assert!(error.ends_with("action.hand: expected statistics for 1 or 3 time steps, found 2"), "{error}");
}

#[test]
fn embodiments_are_those_of_the_version() {
    let tagged = |version: Version, tag: &str| {
        let path = checkpoint_of(version, &format!("tag_{version:?}_{tag}"), |kwargs, _| {
            let modalities = kwargs["modality_configs"]["new_embodiment"].take();
            kwargs["modality_configs"] = json!({tag: modalities});
        });
        let statistics = std::fs::read_to_string(path.join("statistics.json")).expect("a file");
        let mut statistics: Value = serde_json::from_str(&statistics).expect("JSON");
        statistics = json!({tag: statistics["new_embodiment"].take()});
        write(&path, "statistics.json", &statistics);
        path
    };
    let slot = |version: Version, path: &Path, tag: &str| {
        let processor =
            Processor::load(path, tag, Some(&tokenizer(version))).map_err(|error| error.to_string())?;
        Ok::<_, String>((processor.embodiment_tag().to_owned(), processor.embodiment_id()))
    };
    let path = tagged(Version::N1_7, "libero_sim");
    for name in ["LIBERO_PANDA", "libero_sim", "Libero_Sim"] {
        assert_eq!(slot(Version::N1_7, &path, name), Ok(("libero_sim".to_owned(), 2)));
    }
    write(&path, "embodiment_id.json", &json!({"libero_sim": 7}));
    assert_eq!(slot(Version::N1_7, &path, "LIBERO_PANDA"), Ok(("libero_sim".to_owned(), 7)));
    let path = tagged(Version::N1_7, "robocasa_panda_omron");
    assert_eq!(
        slot(Version::N1_7, &path, "robocasa_panda_omron"),
        Ok(("robocasa_panda_omron".to_owned(), 10))
    );
    let path = tagged(Version::N1_6, "robocasa_panda_omron");
    assert_eq!(
        slot(Version::N1_6, &path, "ROBOCASA_PANDA_OMRON"),
        Ok(("robocasa_panda_omron".to_owned(), 13))
    );
    let path = tagged(Version::N1_7, "gr1");
    let error = slot(Version::N1_7, &path, "gr1").expect_err("of N1.6");
    assert!(error.contains("embodiment 'gr1', and the official table of GR00T N1.7 has none"), "{error}");
}

#[test]
fn a_tokenizer_must_be_that_of_the_version() {
    let load = |version: Version, tokenizer: Option<&Path>| {
        let path = checkpoint_of(version, &format!("tokenizer_{version:?}"), |_, _| ());
        Processor::load(&path, "new_embodiment", tokenizer).err().map(|error| error.to_string())
    };
    for (version, other, owner) in
        [(Version::N1_6, Version::N1_7, "Eagle-Block2A-2B-v2"), (Version::N1_7, Version::N1_6, "Qwen3-VL")]
    {
        assert_eq!(load(version, Some(&tokenizer(version))), None);
        let error = load(version, Some(&tokenizer(other))).expect("another's");
        let sentence = format!("expected the tokenizer of {version}, that of {owner}, found that of {other}");
        assert!(error.contains(&sentence), "{error}");
        let none = load(version, None).expect("no tokenizer");
        assert!(none.contains(&format!("{version} takes the tokenizer of {owner}")), "{none}");
    }
    let file = std::fs::read_to_string(tokenizer(Version::N1_7)).expect("a tokenizer");
    let path = folder("tokenizer_without").join("tokenizer.json");
    std::fs::write(&path, file.replace("<|vision_end|>", "<|vision_fin|>")).expect("written");
    let error = load(Version::N1_7, Some(&path)).expect("incomplete");
    assert!(error.ends_with("found one without the token <|vision_end|>"), "{error}");
}

#[test]
fn files_may_lie_in_a_folder_of_the_processors_own() {
    let path = n1_7("own_folder", |_, _| ());
    let below = path.join("processor");
    std::fs::create_dir(&below).expect("a folder");
    for name in ["processor_config.json", "statistics.json"] {
        std::fs::rename(path.join(name), below.join(name)).expect("moved");
    }
    let Encoded { embodiment_id, .. } = load_of(Version::N1_7, &path).encode(&observation()).expect("fits");
    assert_eq!(embodiment_id, 10);
}
