//! Frames that the device processes: the processor's pixels to the bit, and the actions that follow from them.

use super::{bits, infer, preset, probe};
use std::sync::Arc;
use steadyhand_cuda_driver::Device;
use steadyhand_cuda_driver::compile::Compiler;
use steadyhand_gr00t::config::Config;
use steadyhand_gr00t::engine::{Engine, ModelImages, ModelInput};
use steadyhand_gr00t::noise::gaussian;
use steadyhand_gr00t::policy::{Preparation, prepare};
use steadyhand_gr00t::processor::{Filter, PixelValues, ProcessorConfig, RawImage};
use steadyhand_gr00t::synthetic::{Shapes, Synthetic, tiny, tiny_n1_7};
use steadyhand_gr00t::{Image, Version};
use steadyhand_gr00t_cuda::builder::Builder;
use steadyhand_gr00t_cuda::images::{DeviceFrames, covers};
use steadyhand_gr00t_cuda::kernels::Kernels;
use steadyhand_gr00t_cuda::sources::Sources;
use steadyhand_gr00t_cuda::tokens::DeviceImage;
use steadyhand_gr00t_cuda::{CudaEngine, Options};

/// Height and width: ratios to the targets that are whole on both axes, on one and on none, larger and smaller.
const FRAMES: [[usize; 2]; 11] = [
    [480, 640],
    [640, 480],
    [256, 256],
    [512, 512],
    [256, 768],
    [105, 321],
    [224, 224],
    [239, 427],
    [64, 64],
    [31, 57],
    [720, 1280],
];

/// Noise-like pixels.
fn frame([height, width]: [usize; 2], seed: u32) -> Arc<Image> {
    let byte = |at: u32| {
        let mixed = (at ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(2_654_435_761);
        ((mixed ^ (mixed >> 15)).wrapping_mul(2_246_822_519) >> 24) as u8
    };
    Arc::new(Image { height, width, rgb: (0..(height * width * 3) as u32).map(byte).collect() })
}

/// Both transforms of both versions, with bars and without.
fn configurations() -> Vec<ProcessorConfig> {
    let mut all = Vec::new();
    for version in [Version::N1_6, Version::N1_7] {
        for bars in [false, true] {
            for (edge, fraction) in [(256, 0.95), (64, 0.88), (224, 1.0)] {
                let mut config = ProcessorConfig::defaults(version);
                (config.use_albumentations, config.letter_box_transform) = (true, Some(bars));
                (config.shortest_image_edge, config.crop_fraction) = (Some(edge), Some(fraction));
                all.push(config);
            }
            // Crops of a part, of more than there is on one axis, and of everything.
            for (crop, target) in [([244, 244], [256, 256]), ([200, 333], [224, 120]), ([96, 97], [96, 97])] {
                let mut config = ProcessorConfig::defaults(version);
                (config.use_albumentations, config.letter_box_transform) = (false, Some(bars));
                config.image_crop_size = Some(crop.to_vec());
                config.image_target_size = Some(target.to_vec());
                all.push(config);
            }
        }
    }
    all
}

/// Every frame under every configuration, all frames of a configuration in one program and two items of each, so that images
/// that take other ways share launches.
pub fn are_the_processors_to_the_bit() {
    let device = Device::open(0).expect("a GPU");
    let driver_version = Some(device.properties().driver_version);
    let compiler = Compiler::open(driver_version, None).expect("NVRTC");
    let kernels = Kernels::new(&device, compiler, Sources::embedded());
    let policy = preset("f32");
    let mut used = Vec::new();
    for config in configurations() {
        let items = |size: [usize; 2]| [1, 2].map(|seed| raw(frame(size, seed), &config));
        let images: Vec<[RawImage; 2]> = FRAMES.map(items).into();
        let mut b = Builder::new(&device, &policy, 2);
        let mut memories = Vec::new();
        let mut places = Vec::new();
        let mut frames = DeviceFrames { plans: Vec::new(), frames: Vec::new() };
        for [first, second] in &images {
            let [height, width] = first.plan().size();
            let memory = b.bytes(2 * 3 * height * width * 4).expect("memory");
            places.push(DeviceImage { pixels: memory.at(0), frames: 1, height, width });
            memories.push(memory);
            frames.plans.push(first.plan());
            let at = [first, second].map(|image| b.constant_bytes(&image.frame().rgb).expect("memory"));
            frames.frames.push(at.into());
            used.extend(first.plan().steps().iter().map(|step| step.filter));
        }
        b.images(&frames, &places).expect("recorded");
        let program = b.finish(&kernels).expect("compiled");
        let stream = device.stream().expect("a stream");
        program.enqueue(&stream).expect("launched");
        stream.synchronize().expect("run");
        for ((images, memory), size) in images.iter().zip(&memories).zip(FRAMES) {
            let mut found = vec![0; memory.len()];
            memory.download(0, &mut found).expect("copied");
            let expected = images.iter().flat_map(|image| image.pixels().data);
            let expected: Vec<u8> = expected.flat_map(f32::to_le_bytes).collect();
            let apart = found.iter().zip(&expected).filter(|(found, expected)| found != expected).count();
            assert!(found == expected, "{config:?}: frames of {size:?}: {apart} bytes differ");
        }
    }
    for filter in Filter::ALL {
        assert!(used.contains(&filter), "{filter:?}: not tried");
    }
}

fn raw(frame: Arc<Image>, config: &ProcessorConfig) -> RawImage {
    RawImage::of(frame, config).expect("a frame")
}

/// Frames give the bits that processed images give, replayed and under a probe, which sees the same patches; so do batches.
pub fn give_the_actions_of_pixels() {
    for (name, config) in [("synth:tiny", tiny as fn() -> Config), ("synth:tiny-n1.7", tiny_n1_7)] {
        for (views, size) in [(1, [480, 640]), (2, [480, 640]), (2, [101, 67]), (1, [56, 60])] {
            let shapes = Shapes { views, frame: Some(size), ..Shapes::default() };
            let made = Synthetic::make(name, config(), 3, &shapes).expect("consistent sizes");
            let opened = CudaEngine::new(made.parts.model.clone(), preset("bf16"), 4, Options::default());
            let mut engine = opened.expect("an engine");
            let [rows, cols] = made.parts.noise_shape();
            let preparation = Preparation::new(&made.parts.processor, &engine);
            let inputs = [1, 2, 3].map(|seed| {
                let (observation, noise) = (made.observation(seed), gaussian(seed, 0, 0, rows, cols));
                let raw = preparation.prepare(&observation, noise.clone()).expect("fits");
                assert!(raw.images.raw().is_some(), "expected frames for this engine");
                [raw, prepare(&made.parts.processor, &observation, noise).expect("fits")]
            });
            let what = format!("{name}, {views} views of {size:?}");
            for [raw, processed] in &inputs {
                let found = bits(&infer(&mut engine, raw));
                assert_eq!(found, bits(&infer(&mut engine, processed)), "{what}");
                let [of_raw, of_processed] = [raw, processed].map(|input| probe(&mut engine, input));
                assert_eq!(bits(&of_raw.0), bits(&of_processed.0), "{what}: probed");
                assert!(of_raw.1.tensors == of_processed.1.tensors, "{what}: tensors");
            }
            let together = |index: usize, engine: &mut CudaEngine| -> Vec<Vec<u32>> {
                let batch = inputs.each_ref().map(|both| both[index].clone());
                engine.infer(&batch, None).expect("a batch").iter().map(bits).collect()
            };
            assert_eq!(together(0, &mut engine), together(1, &mut engine), "{what}: a batch");
        }
    }
}

/// A frame that is too large for the device is processed on the way to it, beside others that are not.
pub fn too_large_are_left_to_the_processor() {
    let made = Synthetic::make("synth:tiny", tiny(), 3, &Shapes::default()).expect("consistent sizes");
    let opened = CudaEngine::new(made.parts.model.clone(), preset("bf16"), 4, Options::default());
    let mut engine = opened.expect("an engine");
    let mut config = ProcessorConfig::defaults(Version::N1_6);
    (config.use_albumentations, config.shortest_image_edge) = (true, Some(60));
    let [small, large] = [[60, 60], [5000, 5000]].map(|size| raw(frame(size, 1), &config));
    assert!(covers(small.plan()) && !covers(large.plan()));
    let [rows, cols] = made.parts.noise_shape();
    let like =
        prepare(&made.parts.processor, &made.observation(1), gaussian(1, 0, 0, rows, cols)).expect("fits");
    let side = made.parts.model.config.image_token_side();
    let tokens = 56 * 56 / (side * side);
    let image_token = made.parts.model.config.image_token();
    let input_ids = [7].into_iter().chain(std::iter::repeat_n(image_token, tokens)).chain([9]).collect();
    let like = ModelInput { input_ids, ..like };
    let both = [small, large].map(|image| {
        let pixels: Vec<PixelValues> = vec![image.pixels()];
        [ModelImages::Raw(vec![image]), pixels.into()].map(|images| ModelInput { images, ..like.clone() })
    });
    let expected = both.each_ref().map(|[_, processed]| bits(&infer(&mut engine, processed)));
    let mixed = both.each_ref().map(|[raw, _]| raw.clone());
    let found = engine.infer(&mixed, None).expect("a batch");
    assert_eq!(found.iter().map(bits).collect::<Vec<_>>(), expected);
}
