//! Policies that differ from another in one format of one site.

use steadyhand_fidelity::Format;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::precision::{Formats, PrecisionPolicy, Scale};

/// `base` with every storage, every accumulation and every compute format with every scale, at one of these sites and
/// below it.
pub fn variations(base: &PrecisionPolicy, sites: &[ModelSite]) -> Vec<PrecisionPolicy> {
    let mut found = Vec::new();
    for ModelSite { path, .. } in sites {
        let of_base = base.formats_of(path);
        let mut vary = |formats: Formats| found.push(base.clone().with(path, formats));
        for format in Format::ALL {
            vary(Formats { storage: format, ..of_base });
            vary(Formats { accumulate: format, ..of_base });
            for scale in Scale::ALL {
                vary(Formats { compute: format, scale, ..of_base });
            }
        }
    }
    found
}
