//! The versions of the model.

use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// A version of GR00T, as its checkpoints name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// Eagle's vision tower and Qwen3.
    N1_6,
    /// Qwen3-VL's vision tower and language layers.
    N1_7,
}

impl Version {
    /// All versions, oldest first.
    pub const ALL: [Version; 2] = [Version::N1_6, Version::N1_7];

    /// `model_type` of its `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Version::N1_6 => "Gr00tN1d6",
            Version::N1_7 => "Gr00tN1d7",
        }
    }

    /// The known values of `model_type`, as the end of a sentence that begins "expected".
    pub fn expected() -> String {
        Version::ALL.map(|version| format!("`{}`", version.model_type())).join(" or ")
    }

    /// `processor_class` of its `processor_config.json`.
    pub fn processor_class(self) -> &'static str {
        match self {
            Version::N1_6 => "Gr00tN1d6Processor",
            Version::N1_7 => "Gr00tN1d7Processor",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Version::N1_6 => "GR00T N1.6",
            Version::N1_7 => "GR00T N1.7",
        })
    }
}

impl<'de> Deserialize<'de> for Version {
    /// From `model_type`.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = String::deserialize(deserializer)?;
        let known = Version::ALL.into_iter().find(|version| version.model_type() == found);
        known.ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&found), &Version::expected().as_str()))
    }
}
