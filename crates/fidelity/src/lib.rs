//! Number formats and error metrics for comparing inference engines.
