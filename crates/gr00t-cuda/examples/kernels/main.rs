//! Checks kernels of the model against the CPU reference on the GPU at hand, then times them: microseconds of one in a
//! chain of the same, each GEMM with weights of its own, so that they come from device memory as in an inference. GEMMs
//! are timed in every tiling.
//!
//! `cargo run --release -p steadyhand-gr00t-cuda --example kernels -- [OPTIONS] [NAME SHAPE...]`
//!
//! Without a name, every kernel and shape of the model. `--list` prints them and needs no GPU. `--items N` computes each for N
//! items of a batch, all alike. `--within FACTOR` leaves out tilings that are estimated to take longer than the chosen one
//! times this. `--every` checks every tiling that is timed, not only the one that the engine chooses. `--precision PRESET` gives the formats (bf16), `--assert` fails where the tiling that the engine chooses is slower than the best by more than 5 %,
//! `--kernel-dir DIR` compiles the files in a folder.

mod cases;
mod time;

use cases::{Case, KERNELS, of_model};
use std::path::PathBuf;
use std::process::ExitCode;
use steadyhand_cuda_driver::Device;
use steadyhand_cuda_driver::compile::Compiler;
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Recorder;
use steadyhand_gr00t::synthetic::n1_6;
use steadyhand_gr00t_cuda::Result;
use steadyhand_gr00t_cuda::builder::Builder;
use steadyhand_gr00t_cuda::kernels::Kernels;
use steadyhand_gr00t_cuda::program::Scratch;
use steadyhand_gr00t_cuda::sources::Sources;
use steadyhand_gr00t_cuda::tiling::Tiling;
use steadyhand_gr00t_cuda::weights::Layout;

/// f32 against the reference, in relative L2: both sum in f32, in different orders. As the engine's tests.
const F32_LIMIT: f64 = 1e-5;
/// Other formats: the reference's own distance from its f32 result, times this. Sums in another order turn some roundings
/// around; each rounding error is about as large as the other.
const ROUNDED_FACTOR: f64 = 2.0;
/// How much slower than the best tiling the engine's choice may be.
const SLOWER: f32 = 1.05;

struct Arguments {
    list: bool,
    assert: bool,
    precision: String,
    kernel_dir: Option<PathBuf>,
    items: usize,
    within: f32,
    every: bool,
    cases: Vec<Case>,
}

fn main() -> ExitCode {
    let outcome = arguments(std::env::args().skip(1)).and_then(|arguments| {
        if arguments.list {
            arguments.cases.iter().for_each(|case| println!("{case}"));
            return Ok(Vec::new());
        }
        run(&arguments).map_err(|error| error.to_string())
    });
    match outcome {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(problems) => {
            problems.iter().for_each(|problem| eprintln!("{problem}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn arguments(given: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut given = given.peekable();
    let precision = "bf16".to_owned();
    let mut found = Arguments {
        list: false,
        assert: false,
        precision,
        kernel_dir: None,
        items: 1,
        within: f32::INFINITY,
        every: false,
        cases: Vec::new(),
    };
    while let Some(argument) = given.next() {
        let mut value = |name: &str| given.next().ok_or_else(|| format!("{name}: expected a value"));
        match argument.as_str() {
            "--list" => found.list = true,
            "--every" => found.every = true,
            "--assert" => found.assert = true,
            "--precision" => found.precision = value("--precision")?,
            "--kernel-dir" => found.kernel_dir = Some(value("--kernel-dir")?.into()),
            "--items" => found.items = number(&value("--items")?)?,
            "--within" => found.within = number(&value("--within")?)?,
            name if name.starts_with('-') => return Err(format!("{name}: no such option")),
            name => {
                let shape = KERNELS.iter().find(|(_, known, _)| *known == name).map_or(0, |it| it.2.len());
                let numbers = given.by_ref().take(shape);
                let numbers: Vec<usize> = numbers
                    .map(|number| number.parse().map_err(|_| format!("{name}: {number} is no number")))
                    .collect::<Result<_, _>>()?;
                found.cases.push(Case::parse(name, &numbers)?);
            }
        }
    }
    if found.cases.is_empty() {
        found.cases = of_model(&n1_6());
    }
    if found.items == 0 {
        return Err("--items: expected at least 1".to_owned());
    }
    found.cases.iter_mut().for_each(|case| case.items = found.items);
    Ok(found)
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text}: expected a number"))
}

/// What does not hold.
fn run(arguments: &Arguments) -> Result<Vec<String>> {
    let policy = PrecisionPolicy::preset(&arguments.precision)?;
    let sources = Sources::open(arguments.kernel_dir.as_deref())?;
    let device = Device::open(0)?;
    let compiler = Compiler::open(Some(device.properties().driver_version), None)?;
    let kernels = Kernels::new(&device, compiler, sources);
    println!("{}, {policy}, {} items", device.properties().name, arguments.items);
    let f32 = PrecisionPolicy::preset("f32")?;
    let mut problems = Vec::new();
    for case in &arguments.cases {
        let expected = Expected { values: case.reference(&policy)?, exact: case.reference(&f32)? };
        let wrong = check(case, &device, &kernels, &policy, &expected, None)?;
        let right = wrong.is_empty();
        problems.extend(wrong);
        if !right {
            // A wrong result in no time is worth nothing.
            println!("{case}: WRONG");
            continue;
        }
        let measured = time::measure(case, &device, &kernels, &policy, arguments.within)?;
        if let (true, time::Measured::Tilings(times, _)) = (arguments.every, &measured) {
            for (_, tiling) in times {
                let wrong = check(case, &device, &kernels, &policy, &expected, Some(*tiling))?;
                problems.extend(wrong.into_iter().map(|problem| format!("{problem} in {tiling:?}")));
            }
        }
        let (chosen, best) = measured.chosen_and_best();
        let rate = flops(case).map(|flops| format!(", {:.0} TFLOP/s", flops as f32 / chosen / 1e6));
        println!("{case}: {measured}{}", rate.unwrap_or_default());
        measured.tilings().iter().for_each(|line| println!("{line}"));
        if arguments.assert && chosen > SLOWER * best {
            let more = 100.0 * (chosen / best - 1.0);
            problems.push(format!(
                "{case}: the chosen tiling takes {chosen:.2} us, {more:.0} % more than the best, {best:.2} us"
            ));
        }
    }
    Ok(problems)
}

/// Floating-point operations of the products of all items, where there are any.
fn flops(case: &Case) -> Option<usize> {
    let products = match case.shape.as_slice() {
        [rows, out, inner] => rows * out * inner,
        [queries, keys, heads, _, head_dim] => 2 * queries * keys * heads * head_dim,
        _ => return None,
    };
    Some(2 * case.items * products)
}

/// What the reference has for an item.
struct Expected {
    /// At the policy that is checked.
    values: Recorder,
    /// In f32.
    exact: Recorder,
}

/// Tensors that lie further from the reference's than rounding explains, in a tiling or the one that the engine chooses.
fn check(
    case: &Case,
    device: &Device,
    kernels: &Kernels,
    policy: &PrecisionPolicy,
    expected: &Expected,
    tiling: Option<Tiling>,
) -> Result<Vec<String>> {
    let mut layout = Layout::new(policy);
    let weights = case.lay_out(&mut layout)?;
    layout.load(device, kernels, &case.to_string())?;
    let mut b = Builder::new(device, policy, 1);
    b.tilings = tiling.map(|tiling| vec![tiling]);
    let inputs = case.inputs(&mut b)?;
    case.record(&mut b, &weights, &inputs)?;
    let (stream, mut scratch, mut found) = (device.stream()?, Scratch::new(device)?, Recorder::all());
    b.finish(kernels)?.probe(&stream, &mut scratch, &mut found)?;
    let mut problems = Vec::new();
    for (name, (_, values)) in &expected.values.tensors {
        let limit = F32_LIMIT.max(ROUNDED_FACTOR * relative_l2(values, &expected.exact.tensors[name].1));
        let shown = found.tensors.get(name).map_or(&[][..], |(_, found)| found);
        if shown.len() != case.items * values.len() {
            problems.push(format!("{case}: {name}: {} values of {} items", shown.len(), case.items));
        }
        for (item, found) in shown.chunks_exact(values.len()).enumerate() {
            let apart = relative_l2(found, values);
            if apart.is_nan() || apart > limit {
                problems.push(format!(
                    "{case}, item {item}: {name}: {apart:.2e} from the reference, limit {limit:.2e}"
                ));
            }
        }
    }
    Ok(problems)
}
