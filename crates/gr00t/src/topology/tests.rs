use super::*;
use crate::checkpoint::Checkpoint;
use crate::model::{Layout, Model};
use crate::synthetic::{tiny, tiny_n1_7};
use std::collections::BTreeSet;
use std::path::Path;

fn model(config: Config) -> Model {
    Model::synthetic(config, 1).expect("consistent sizes")
}

/// Every version, and what switches parts of it off.
fn models() -> Vec<Model> {
    let of = |tiny: Config| {
        let without = Config { add_pos_embed: false, vl_self_attention_cfg: None, ..tiny.clone() };
        [model(tiny), model(without)]
    };
    [tiny(), tiny_n1_7()].into_iter().flat_map(of).collect()
}

/// A boundary that no site had would never be handed over.
#[test]
fn every_part_ends_at_a_site_of_the_model() {
    for model in models() {
        let (topology, sites) = (&model.topology, model.sites().expect("shapes that fit"));
        for part in &topology.parts {
            for output in &part.outputs {
                assert!(sites.iter().any(|site| site.path == *output), "{}: {output}", part.name);
                assert_eq!(topology.part_with_output(output), Some(part));
                assert_eq!(topology.part_of(output), Some(part), "{output}");
            }
            assert_eq!(topology.part(part.name), Some(part));
        }
        for path in [topology.image_tokens, topology.features.as_str()] {
            assert!(sites.iter().any(|site| site.path == path), "{path}");
        }
    }
}

/// A cut that no inference has would never be recorded nor handed on.
#[test]
fn what_leaves_a_piece_is_a_site_of_the_model() {
    for model in models() {
        let (topology, sites) = (&model.topology, model.sites().expect("shapes that fit"));
        for path in topology.cut_outputs() {
            assert!(sites.iter().any(|site| site.path == path), "{path}");
        }
        for path in [topology.image_tokens, topology.memory(), "backbone_features", "action_pred"] {
            assert!(topology.is_cut(path), "{path}");
        }
    }
}

/// A site of no part or no stage would be missing in every table.
#[test]
fn every_site_has_a_part_and_a_stage() {
    for model in models() {
        for visit in model.visits(&Layout::smallest(&model.config)).expect("shapes that fit") {
            let at = &visit.site;
            assert!(model.topology.part_of(at.path()).is_some(), "{at}");
            assert!(model.topology.stage_of(at).is_some(), "{at}");
        }
    }
}

/// A layer that the model has and the topology does not count, or the other way round.
#[test]
fn layers_are_counted() {
    for model in models() {
        let (topology, sites) = (&model.topology, model.sites().expect("shapes that fit"));
        for layers in topology.parts.iter().filter_map(|part| part.layers.as_ref()) {
            let of = sites.iter().filter(|site| covers(layers.path, &site.path));
            let found: BTreeSet<&str> = of.filter_map(|site| topology.layer_of(&site.path)).collect();
            assert_eq!(found.len(), layers.count, "{}", layers.path);
        }
    }
    let topology = model(tiny()).topology;
    assert_eq!(topology.layer_of("dit.block.7.fc1"), Some("dit.block.7"));
    assert_eq!(topology.layer_of("dit.block"), None);
    assert_eq!(topology.layer_of("dit.blocks.7"), None);
}

/// Weights of no part would be missing in what `inspect` prints.
#[test]
fn every_weight_has_a_part() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/checkpoint");
    let checkpoint = Checkpoint::open(&folder).expect("a checkpoint");
    let topology = model(tiny()).topology;
    for (name, _) in checkpoint.tensors() {
        assert!(topology.part_of_weight(name).is_some() || name.ends_with("mask_token"), "{name}");
    }
}

#[test]
fn a_path_lies_below_whole_segments() {
    assert!(covers("dit", "dit") && covers("dit", "dit.block.3") && covers("dit.*.3", "dit.block.3.key"));
    assert!(!covers("dit", "dits") && !covers("dit.block.*.modulation", "dit.block.3"));
}
