#![doc = include_str!("../README.md")]

mod arrays;
mod config;
mod layout;
mod policy;
mod value;

use pyo3::prelude::*;

/// The extension module of the Python package `steadyhand`, whose Python sources are its only user.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::policy::Policy;
    use pyo3::exceptions::PyException;
    use pyo3::prelude::*;
    use std::ffi::OsString;
    use std::path::PathBuf;

    pyo3::create_exception!(
        steadyhand,
        Error,
        PyException,
        "Bad input, or an engine that failed. The text is that of the program `steady`: it names the file or field, what was \
         expected and what was found."
    );

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("Error", module.py().get_type::<Error>())?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }

    /// Runs the command line of `steady`; `args` begins with the program's name. Gives the exit code, and ends the
    /// process where the command line cannot be read.
    #[pyfunction]
    fn run(py: Python<'_>, args: Vec<OsString>) -> u8 {
        py.detach(|| steadyhand_cli::run(args.into_iter()))
    }

    /// Folders of the embedded demo, checkpoint and dataset, which are written where they are missing.
    #[pyfunction]
    fn demo(py: Python<'_>) -> PyResult<(PathBuf, PathBuf)> {
        let demo = py.detach(steadyhand_cli::demo::of_user);
        let demo = demo.map_err(|error| super::error(&error))?;
        Ok((demo.checkpoint, demo.dataset))
    }

    /// From now on what is said beside results goes to the logger `steadyhand`, at level INFO.
    #[pyfunction]
    fn log_notes() {
        steadyhand_cli::tell(|text| {
            Python::attach(|py| {
                let logger =
                    py.import("logging").and_then(|log| log.call_method1("getLogger", ("steadyhand",)));
                // A logger that fails must not fail an inference.
                let _ = logger.and_then(|logger| logger.call_method1("info", ("%s", text)));
            });
        });
    }
}

/// An error with the text that `steady` prints.
fn error(error: &anyhow::Error) -> PyErr {
    _native::Error::new_err(steadyhand_cli::describe(error))
}
