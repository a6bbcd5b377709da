//! The embodiments that the official code knows: tags, their names, and the model's slots.
//!
//! Source: `EmbodimentTag` (`gr00t/data/embodiment_tags.py`) and the table of projector indices in the versions'
//! `processing_gr00t_n1d6.py` and `processing_gr00t_n1d7.py`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::config::read_json;
use crate::checkpoint::files::processor_file;
use crate::{Error, Result, Version};

/// File name inside a checkpoint folder; optional there.
pub const EMBODIMENT_IDS: &str = "embodiment_id.json";

/// An embodiment of the official code.
struct Known {
    /// The value of its enum, which files are keyed by.
    tag: &'static str,
    /// The name in its enum, in any case.
    name: &'static str,
    /// Index of its projector in the model.
    id: usize,
}

/// One whose name is its tag in capitals.
const fn known(tag: &'static str, id: usize) -> Known {
    Known { tag, name: tag, id }
}

const fn named(tag: &'static str, name: &'static str, id: usize) -> Known {
    Known { tag, name, id }
}

const N1_6: [Known; 9] = [
    known("robocasa_panda_omron", 13),
    known("gr1", 20),
    known("behavior_r1_pro", 24),
    known("unitree_g1", 8),
    known("libero_panda", 2),
    known("oxe_google", 0),
    known("oxe_widowx", 1),
    known("oxe_droid", 16),
    known("new_embodiment", 10),
];

const N1_7: [Known; 16] = [
    known("simpler_env_google", 0),
    known("simpler_env_widowx", 1),
    named("libero_sim", "libero_panda", 2),
    known("new_embodiment", 10),
    known("robocasa_panda_omron", 10),
    known("robocasa_gr1_tabletop", 10),
    known("unitree_g1_sonic", 11),
    known("oxe_droid_relative_eef_relative_joint", 24),
    named("real_g1_relative_eef_relative_joints", "real_g1", 25),
    named("unitree_g1_full_body_with_waist_height_nav_cmd", "unitree_g1", 25),
    named("real_r1_pro_sharpa_relative_eef", "real_r1_pro_sharpa", 26),
    named("real_r1_pro_sharpa_relative_eef_human", "real_r1_pro_sharpa_human", 26),
    named("real_r1_pro_sharpa_relative_eef_maxinsights", "real_r1_pro_sharpa_maxinsights", 26),
    named("real_r1_pro_sharpa_relative_eef_mecka", "real_r1_pro_sharpa_mecka", 26),
    named("xdof_relative_eef_relative_joint", "xdof", 27),
    named("xdof_relative_eef_relative_joint_subtask", "xdof_subtask", 27),
];

fn table(version: Version) -> &'static [Known] {
    match version {
        Version::N1_6 => &N1_6,
        Version::N1_7 => &N1_7,
    }
}

/// The tag of the enum's member of this name, in any case.
pub(super) fn tag_of_name(version: Version, name: &str) -> Option<&'static str> {
    table(version).iter().find(|known| known.name.eq_ignore_ascii_case(name)).map(|known| known.tag)
}

/// The projector index of an embodiment: `embodiment_id.json` first, then the official table of the version.
///
/// # Errors
/// [`Error::File`] when neither has the tag.
pub fn embodiment_id(checkpoint: &Path, version: Version, tag: &str) -> Result<usize> {
    let path = processor_file(checkpoint, EMBODIMENT_IDS);
    // What stands there for other embodiments does not matter.
    let ids: BTreeMap<String, Value> = if path.exists() { read_json(&path)? } else { BTreeMap::new() };
    let official = table(version).iter().find(|known| known.tag == tag).map(|known| known.id);
    let own = match ids.get(tag) {
        None => None,
        Some(id) => {
            let whole = id.as_u64().and_then(|id| usize::try_from(id).ok());
            Some(whole.ok_or_else(|| Error::file(&path, format!("{tag}: expected an index, found {id}")))?)
        }
    };
    own.or(official).ok_or_else(|| {
        let own =
            if path.exists() { "no id for embodiment" } else { "not there, to give an id for embodiment" };
        Error::file(&path, format!("{own} '{tag}', and the official table of {version} has none either"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_in_the_versions_own_table() {
        assert_eq!(tag_of_name(Version::N1_7, "LIBERO_PANDA"), Some("libero_sim"));
        assert_eq!(tag_of_name(Version::N1_6, "LIBERO_PANDA"), Some("libero_panda"));
        assert_eq!(
            tag_of_name(Version::N1_7, "Xdof_Subtask"),
            Some("xdof_relative_eef_relative_joint_subtask")
        );
        assert_eq!(tag_of_name(Version::N1_7, "GR1"), None);
    }

    #[test]
    fn no_name_is_the_tag_of_another() {
        for version in Version::ALL {
            let all = table(version);
            for known in all {
                let others = all.iter().filter(|other| other.tag != known.tag);
                assert!(others.clone().all(|other| other.tag != known.name && other.name != known.name));
            }
        }
    }
}
