//! tmp
mod tensors;
use tensors::Tensors;
use steadyhand_gr00t as g;
use g::engine::*;
use std::path::Path;
fn main() {
    for dir in std::env::args().skip(2) {
        let dir = Path::new(&dir);
        let prec = std::env::args().nth(1).unwrap();
        let config = g::config::Config::load(dir).unwrap();
        let steps = config.num_inference_timesteps;
        let ck = g::checkpoint::Checkpoint::open(dir).unwrap();
        let model = g::model::Model::load(&ck, config).unwrap();
        let mut e = CpuEngine::new(model, g::precision::PrecisionPolicy::preset(&prec).unwrap(), steps);
        let t = Tensors::read(&dir.join("inputs.safetensors")).unwrap();
        let mut images = vec![];
        for i in 0.. { let Ok(p) = t.float(&format!("pixel_values.{i}")) else { break }; images.push(g::processor::PixelValues { height: p.shape[2], width: p.shape[3], data: p.values.clone() }); }
        let m = |n: &str| { let x = t.float(n).unwrap(); g::Matrix { rows: x.shape[1], cols: x.shape[2], data: x.values.clone() } };
        let input = ModelInput { images, input_ids: t.integer("input_ids").unwrap().values.iter().map(|x| *x as u32).collect(), state: m("state"), noise: m("noise"), embodiment_id: t.integer("embodiment_id").unwrap().values[0] as usize };
        let mut r = g::probe::Recorder::all();
        let s = std::time::Instant::now();
        e.infer(&[input], Some(&mut r)).unwrap();
        eprintln!("{:?} {} taps", s.elapsed(), r.tensors.len());
        let x = Tensors::read(&dir.join("expected_f32.safetensors")).unwrap();
        let b = Tensors::read(&dir.join("expected_bf16.safetensors")).unwrap();
        for (n, v) in x.floats() {
            match r.tensors.get(n) { None => println!("MISSING {n}"), Some((_, f)) => {
                print!("{n} {:.3e}", steadyhand_fidelity::relative_l2(f, &v.values));
                if let Ok(o) = b.float(n) { print!("  ours-bf16 {:.3e} official bf16-f32 {:.3e}", steadyhand_fidelity::relative_l2(f, &o.values), steadyhand_fidelity::relative_l2(&o.values, &v.values)); }
                println!();
            } }
        }
    }
}
