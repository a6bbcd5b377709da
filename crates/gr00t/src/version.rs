//! The versions of the model.

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
