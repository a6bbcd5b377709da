//! `steady precision diff`: the sites at which two choices of number formats differ.

use super::Listed;
use super::args::DiffArgs;
use super::listing::{Group, Used, amax, groups};
use crate::output::say;
use crate::report::table::Table;
use anyhow::Result;
use serde::Serialize;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::precision::PrecisionPolicy;

/// Two policies on a model, as JSON.
#[derive(Serialize)]
struct Difference<'a> {
    a: &'a str,
    b: &'a str,
    checkpoint: String,
    /// How many sites the model has.
    of: usize,
    sites: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    site: &'a ModelSite,
    a: Side,
    b: Side,
}

/// What one policy gives a site.
#[derive(Clone, Copy, PartialEq, Serialize)]
struct Side {
    #[serde(flatten)]
    formats: Used,
    /// The calibrated largest magnitude of a scaled site's activations.
    amax: Option<f32>,
}

impl Side {
    fn of(policy: &PrecisionPolicy, site: &ModelSite) -> Result<Self> {
        let formats = Used::at(policy, site);
        Ok(Side { formats, amax: amax(policy, site, &formats)? })
    }

    /// Formats, what becomes of weights, and where the activations' scale comes from.
    fn cells(&self) -> [String; 5] {
        let [storage, compute, accumulate, weights] = self.formats.cells();
        let scaled = self.formats.scale.is_some() || self.formats.activations.is_some();
        let activations = match (scaled, self.amax) {
            (false, _) => "-",
            (true, None) => "dynamic",
            (true, Some(_)) => "calibrated",
        };
        [storage, compute, accumulate, weights, activations.to_owned()]
    }
}

pub(super) fn run(args: &DiffArgs) -> Result<()> {
    let listed = Listed::load(&args.listing)?;
    let (a, b) = (listed.precision(&args.a)?, listed.precision(&args.b)?);
    let row = |site| Ok(Row { site, a: Side::of(&a, site)?, b: Side::of(&b, site)? });
    let rows = listed.sites.iter().map(row).collect::<Result<Vec<_>>>()?;
    let table = table(&listed.sites, &rows, args.listing.all);
    let difference = Difference {
        a: a.name(),
        b: b.name(),
        checkpoint: listed.checkpoint.display().to_string(),
        of: rows.len(),
        sites: rows.into_iter().filter(|row| row.a != row.b).collect(),
    };
    if args.listing.json {
        say!("{}", serde_json::to_string_pretty(&difference)?)?;
        return Ok(());
    }
    if !difference.sites.is_empty() {
        say!("{table}")?;
    }
    let Difference { a, b, checkpoint, of, sites } = &difference;
    say!("{a} and {b}: {} of {of} sites of {checkpoint} differ", sites.len())?;
    Ok(())
}

/// What is the same in both is said once.
fn table(sites: &[ModelSite], rows: &[Row], all: bool) -> Table {
    let mut table =
        Table::new(&["site", "operation", "storage", "compute", "accumulate", "weights", "activations"]);
    let alike = |first: usize, second: usize| {
        let (first, second) = (&rows[first], &rows[second]);
        let both = |row: &Row| [row.a.cells(), row.b.cells()];
        !all && (first.a == first.b) == (second.a == second.b) && both(first) == both(second)
    };
    for Group { pattern, operation, members } in groups(sites, alike) {
        let Row { a, b, .. } = &rows[members[0]];
        if a == b {
            continue;
        }
        let cells = a.cells().into_iter().zip(b.cells()).map(|(a, b)| match a == b {
            true => a,
            false => format!("{a} → {b}"),
        });
        table.row([pattern, operation.to_string()].into_iter().chain(cells));
    }
    table.without("-")
}
