//! The reference side of `examples/kernels`, and its recording on a planned device: no GPU is needed.

#[path = "../examples/kernels/cases.rs"]
mod cases;

use cases::{Case, KERNELS, of_model};
use std::collections::BTreeSet;
use steadyhand_cuda_driver::{Device, Properties};
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::synthetic::{n1_6, tiny};
use steadyhand_gr00t_cuda::builder::Builder;
use steadyhand_gr00t_cuda::weights::Layout;

fn planned() -> Device {
    Device::planned(Properties {
        name: "planned".to_owned(),
        compute_capability: (9, 0),
        multiprocessors: 132,
        total_memory: 80 << 30,
        l2_bytes: 50 << 20,
        driver_version: 13000,
        shared_memory_per_block: 227 << 10,
    })
}

#[test]
fn every_kernel_is_among_the_models_cases() {
    let cases = of_model(&n1_6());
    for (kernel, name, _) in KERNELS {
        assert!(cases.iter().any(|case| case.kernel == kernel), "{name}");
    }
    for case in cases {
        let typed = case.to_string();
        let mut words = typed.split(' ');
        let name = words.next().expect("a name");
        let numbers: Vec<usize> = words.map(|word| word.parse().expect("a number")).collect();
        assert_eq!(Case::parse(name, &numbers), Ok(case));
    }
    assert!(Case::parse("gemm", &[1, 2]).is_err_and(|error| error.contains("ROWS OUT IN")));
    assert!(Case::parse("gem", &[]).is_err_and(|error| error.contains("gemm_gate")));
}

/// Both sides have the same names, in every preset; the reference is finite, and not all zeros.
#[test]
fn the_reference_shows_what_the_kernel_shows() {
    let device = planned();
    for case in of_model(&tiny()) {
        for name in PrecisionPolicy::PRESETS {
            let policy = PrecisionPolicy::preset(name).expect("a preset");
            let reference = case.reference(&policy).unwrap_or_else(|error| panic!("{case}: {error}"));
            for (tap, (_, values)) in &reference.tensors {
                let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
                assert!(largest.is_finite() && largest > 0.0, "{case} in {name}: {tap}: {largest}");
            }
            let mut layout = Layout::new(&policy);
            let weights = case.lay_out(&mut layout).unwrap_or_else(|error| panic!("{case}: {error}"));
            layout.place(&device).expect("addresses");
            let mut b = Builder::new(&device, &policy, 1);
            let inputs = case.inputs(&mut b).expect("inputs");
            case.record(&mut b, &weights, &inputs).unwrap_or_else(|error| panic!("{case}: {error}"));
            let shown: BTreeSet<String> = b.sites().map(|site| site.to_string()).collect();
            let expected: BTreeSet<String> = reference.tensors.keys().cloned().collect();
            assert_eq!(shown, expected, "{case} in {name}");
        }
    }
}
