//! The command line of `steady doctor`.

use crate::options::precision;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Checkpoint folder whose sites number formats are checked against; the embedded demo's otherwise.
    #[arg(long, visible_alias = "model-path", value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,
    /// Number formats in TOML files to look at besides the presets.
    #[arg(long, value_delimiter = ',', num_args = 1.., value_name = "FILE", value_parser = precision)]
    pub precision: Vec<String>,
    /// ONNX Runtime's library, or the folder that it is in; looked for otherwise.
    #[arg(long, value_name = "PATH")]
    pub onnxruntime: Option<PathBuf>,
    /// TensorRT-RTX's library, or the folder that it is in; looked for otherwise.
    #[arg(long, value_name = "PATH")]
    pub tensorrt: Option<PathBuf>,
    /// Where the JSON goes.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}
