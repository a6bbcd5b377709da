//! Kernels of the model with their shapes: each is computed by the reference and recorded for the GPU, under the same
//! names, so that what both show to a probe can be compared.

use steadyhand_gr00t::checkpoint::Loader;
use steadyhand_gr00t::config::{Backbone, Config};
use steadyhand_gr00t::ops::cpu::{Cpu, Tensor as Values};
use steadyhand_gr00t::ops::{self, Activation, Heads, Mask, Ops, Places, Site};
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Recorder;
use steadyhand_gr00t_cuda::attention::Segment;
use steadyhand_gr00t_cuda::builder::Builder;
use steadyhand_gr00t_cuda::elements::Element;
use steadyhand_gr00t_cuda::linear::{Fusion, Linear};
use steadyhand_gr00t_cuda::norm::{Affine, Modulation, Norm, NormAt};
use steadyhand_gr00t_cuda::program::Tensor;
use steadyhand_gr00t_cuda::rotary::{HeadNorms, Rotary};
use steadyhand_gr00t_cuda::weights::{Layout, Region};
use steadyhand_gr00t_cuda::{Error, Result};

const EPS: f64 = 1e-6;
const THETA: f64 = 1e6;

/// What a kernel computes. Sites are those of the model, so that a policy gives each its formats there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// A GEMM that stores its result.
    Gemm,
    /// A GEMM with GELU.
    GemmGelu,
    /// A GEMM with GELU by tanh.
    GemmGeluTanh,
    /// A GEMM with SiLU.
    GemmSilu,
    /// A GEMM with a residual.
    GemmAdd,
    /// A GEMM of gate and up.
    GemmGate,
    /// A GEMM of one embodiment's weights.
    Category,
    /// The same with ReLU.
    CategoryRelu,
    /// The same with swish.
    CategorySwish,
    /// LayerNorm with scale and shift.
    LayerNorm,
    /// LayerNorm without.
    PlainNorm,
    /// LayerNorm without, then AdaLN's scale and shift.
    NormModulate,
    /// RMSNorm.
    RmsNorm,
    /// RMSNorm of query and key heads, and their rotation.
    NormRotary,
    /// Attention to all keys.
    Attention,
    /// Attention to the keys up to the query.
    CausalAttention,
}

use Kernel::*;

/// Every kernel with its name, and what the numbers of its shape are.
pub const KERNELS: [(Kernel, &str, &[&str]); 16] = [
    (Gemm, "gemm", GEMM),
    (GemmGelu, "gemm_gelu", GEMM),
    (GemmGeluTanh, "gemm_gelu_tanh", GEMM),
    (GemmSilu, "gemm_silu", GEMM),
    (GemmAdd, "gemm_add", GEMM),
    (GemmGate, "gemm_gate", GEMM),
    (Category, "category", GEMM),
    (CategoryRelu, "category_relu", GEMM),
    (CategorySwish, "category_swish", GEMM),
    (LayerNorm, "layer_norm", ROWS),
    (PlainNorm, "plain_norm", ROWS),
    (NormModulate, "norm_modulate", ROWS),
    (RmsNorm, "rms_norm", ROWS),
    (NormRotary, "norm_rotary", &["TOKENS", "HEADS", "KV_HEADS", "HEAD_DIM"]),
    (Attention, "attention", ATTENTION),
    (CausalAttention, "causal_attention", ATTENTION),
];
const GEMM: &[&str] = &["ROWS", "OUT", "IN"];
const ROWS: &[&str] = &["ROWS", "FEATURES"];
const ATTENTION: &[&str] = &["QUERIES", "KEYS", "HEADS", "KV_HEADS", "HEAD_DIM"];

/// A kernel at a shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    pub kernel: Kernel,
    pub shape: Vec<usize>,
    /// Items of a batch, all of these rows and values.
    pub items: usize,
}

impl std::fmt::Display for Case {
    /// As it is typed: `gemm_add 51 1536 6144`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = KERNELS.iter().find(|(kernel, ..)| *kernel == self.kernel).map_or("", |(_, name, _)| name);
        write!(f, "{name}")?;
        self.shape.iter().try_for_each(|number| write!(f, " {number}"))
    }
}

/// Every shape of the model's kernels: an observation of one view and a prompt of 40 tokens, and one of two views.
pub fn of_model(config: &Config) -> Vec<Case> {
    let Backbone { vision, text, .. } = config.backbone();
    let dit = &config.diffusion_model_cfg;
    let (hidden, inner) = (text.hidden_size, config.input_embedding_dim);
    let joined = vision.hidden_size * vision.merge.pow(2);
    let rows = 1 + config.action_horizon;
    let mut cases = Vec::new();
    let mut add = |kernel, shape: &[usize]| cases.push(Case { kernel, shape: shape.to_vec(), items: 1 });
    for (patches, images) in [(324, 81), (648, 162)] {
        let tokens = images + 40;
        let (of_vision, of_text) = (vision.heads, text.heads);
        let width = |heads: Heads| (heads.heads + 2 * heads.kv_heads) * heads.head_dim;
        let queries = of_text.heads * of_text.head_dim;
        add(LayerNorm, &[patches, vision.hidden_size]);
        add(Gemm, &[patches, width(of_vision), vision.hidden_size]);
        add(GemmAdd, &[patches, vision.hidden_size, vision.hidden_size]);
        add(GemmGeluTanh, &[patches, vision.intermediate_size, vision.hidden_size]);
        add(GemmAdd, &[patches, vision.hidden_size, vision.intermediate_size]);
        add(GemmAdd, &[patches, vision.hidden_size, 3 * vision.patch_size.pow(2)]);
        let Heads { heads, kv_heads, head_dim } = of_vision;
        // An image sees itself alone.
        add(Attention, &[324, 324, heads, kv_heads, head_dim]);
        add(LayerNorm, &[images, joined]);
        add(GemmGelu, &[images, hidden, joined]);
        add(Gemm, &[images, hidden, hidden]);
        add(RmsNorm, &[tokens, hidden]);
        add(Gemm, &[tokens, width(of_text), hidden]);
        let Heads { heads, kv_heads, head_dim } = of_text;
        add(NormRotary, &[tokens, heads, kv_heads, head_dim]);
        add(CausalAttention, &[tokens, tokens, heads, kv_heads, head_dim]);
        add(GemmAdd, &[tokens, hidden, queries]);
        add(GemmGate, &[tokens, 2 * text.intermediate_size, hidden]);
        add(GemmAdd, &[tokens, hidden, text.intermediate_size]);
        add(LayerNorm, &[tokens, hidden]);
        let (heads, head_dim) = (dit.num_attention_heads, dit.attention_head_dim);
        for keys in [rows, images, 40] {
            add(Attention, &[rows, keys, heads, heads, head_dim]);
        }
        // Keys and values of half the cross-attention blocks in one GEMM.
        let blocks = dit.num_layers / 4;
        add(Gemm, &[images, blocks * 2 * inner, hidden]);
        add(Gemm, &[40, blocks * 2 * inner, hidden]);
    }
    add(PlainNorm, &[rows, inner]);
    add(NormModulate, &[rows, inner]);
    for width in [3 * inner, inner, dit.output_dim] {
        add(Gemm, &[rows, width, inner]);
    }
    add(GemmAdd, &[rows, inner, inner]);
    add(GemmGeluTanh, &[rows, 4 * inner, inner]);
    add(GemmAdd, &[rows, inner, 4 * inner]);
    add(GemmSilu, &[4, inner, 256]);
    add(GemmSilu, &[4, inner, inner]);
    add(Gemm, &[4, 2 * inner, inner]);
    add(CategoryRelu, &[1, config.hidden_size, config.max_state_dim]);
    add(Category, &[1, inner, config.hidden_size]);
    add(Category, &[config.action_horizon, inner, config.max_action_dim]);
    add(CategorySwish, &[config.action_horizon, inner, 2 * inner]);
    add(Category, &[config.action_horizon, inner, inner]);
    add(CategoryRelu, &[rows, config.hidden_size, dit.output_dim]);
    add(Category, &[rows, config.max_action_dim, config.hidden_size]);
    cases.sort_by_key(|case| KERNELS.iter().position(|(kernel, ..)| *kernel == case.kernel));
    cases.dedup();
    cases
}

/// Weights of a case, by the names of both sides.
pub enum Weights {
    Linear(Linear),
    Norm(Affine),
    Rotary([Region; 2]),
    None,
}

fn site(path: &str) -> Site {
    Site::new(path)
}

/// Numbers of few digits, the same in every format of 16 bits; `seed` tells tensors apart.
pub fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|index| ((index * 37 + seed * 11) % 61) as f32 / 32.0 - 30.0 / 32.0).collect()
}

fn values(shape: [usize; 2], seed: usize) -> Result<Values> {
    let found = Values::from_values([1, shape[0], shape[1]], numbers(shape[0] * shape[1], seed));
    found.ok_or_else(|| wrong("shape"))
}

fn wrong(what: &str) -> Error {
    Error::Engine { operation: "kernel", what: format!("expected another {what}") }
}

impl Case {
    /// A case as it is typed.
    ///
    /// # Errors
    /// An unknown name, or another number of numbers than its shape has.
    pub fn parse(name: &str, numbers: &[usize]) -> Result<Self, String> {
        let found = KERNELS.iter().find(|(_, known, _)| *known == name);
        let names: Vec<&str> = KERNELS.iter().map(|(_, name, _)| *name).collect();
        let (kernel, _, shape) =
            found.ok_or_else(|| format!("{name}: expected one of {}", names.join(", ")))?;
        if numbers.len() != shape.len() || numbers.contains(&0) {
            return Err(format!("{name}: expected {}, found {numbers:?}", shape.join(" ")));
        }
        if matches!(kernel, GemmGate) && !numbers[1].is_multiple_of(16) {
            return Err(format!("{name}: expected OUT to be a multiple of 16, found {}", numbers[1]));
        }
        Ok(Case { kernel: *kernel, shape: numbers.to_vec(), items: 1 })
    }

    /// Whether it is a GEMM, which has tilings to choose from: `[rows, out, in]` of an item.
    pub fn gemm(&self) -> Option<[usize; 3]> {
        self.shape.as_slice().try_into().ok()
    }

    /// The site of the operation that multiplies or normalizes.
    pub fn at(&self) -> Site {
        site(match self.kernel {
            Gemm => "dit.block.0.query",
            GemmGelu => "connector.fc1",
            GemmGeluTanh => "dit.block.0.fc1",
            GemmSilu => "dit.timestep_linear1",
            GemmAdd => "dit.block.0.fc2",
            GemmGate => "language.layer.0.gate",
            Category => "decoder",
            CategoryRelu => "decoder.layer1",
            CategorySwish => "action_encoder.layer2",
            LayerNorm => "vision.layer.0.norm1",
            PlainNorm => "dit.block.0.norm2",
            NormModulate => "dit.block.0.norm1",
            RmsNorm => "language.layer.0.norm1",
            NormRotary => "language.layer.0.query_norm",
            Attention => "dit.block.0.attention",
            CausalAttention => "language.layer.0.attention",
        })
    }

    fn heads(&self) -> Heads {
        let [.., heads, kv_heads, head_dim] = self.shape[..] else {
            return Heads { heads: 1, kv_heads: 1, head_dim: 1 };
        };
        Heads { heads, kv_heads, head_dim }
    }

    fn linear(&self, name: &str, out: usize, bias: bool) -> ops::Linear {
        let mut loader = Loader::synthetic(7);
        let weight = loader.weight(&format!("{name}.weight"), &[out, self.shape[2]]);
        ops::Linear { weight, bias: bias.then(|| loader.weight(&format!("{name}.bias"), &[out])) }
    }

    fn category(&self) -> ops::CategoryLinear {
        let mut loader = Loader::synthetic(7);
        ops::CategoryLinear {
            weight: loader.weight("category.W", &[2, self.shape[2], self.shape[1]]),
            bias: loader.weight("category.b", &[2, self.shape[1]]),
        }
    }

    fn affine(&self) -> ops::Affine {
        let mut loader = Loader::synthetic(7);
        let mut vector = |name: &str| loader.weight(name, &[self.shape[1]]);
        ops::Affine { weight: vector("norm.weight"), bias: vector("norm.bias") }
    }

    fn head_norms(&self) -> [steadyhand_gr00t::checkpoint::Weight; 2] {
        let mut loader = Loader::synthetic(7);
        ["query_norm", "key_norm"].map(|name| loader.weight(name, &[self.heads().head_dim]))
    }

    /// Every tensor of the case as the reference has it, by name.
    ///
    /// # Errors
    /// Shapes that do not go together.
    pub fn reference(&self, policy: &PrecisionPolicy) -> Result<Recorder> {
        let mut recorder = Recorder::all();
        self.compute(&Cpu::new(policy, Some(&mut recorder)))?;
        Ok(recorder)
    }

    fn compute(&self, cpu: &Cpu) -> Result<()> {
        let at = self.at();
        let activate = |x: &Values, kind, path| cpu.activation(x, kind, site(path)).map(drop);
        match self.kernel {
            Gemm | GemmGelu | GemmGeluTanh | GemmSilu | GemmAdd => {
                let [rows, out, inner] = self.gemm().ok_or_else(|| wrong("shape"))?;
                let y = cpu.linear(&values([rows, inner], 0)?, &self.linear("gemm", out, true), at)?;
                match self.kernel {
                    GemmGelu => activate(&y, Activation::Gelu, "connector.gelu")?,
                    GemmGeluTanh => activate(&y, Activation::GeluTanh, "dit.block.0.gelu")?,
                    GemmSilu => activate(&y, Activation::Silu, "dit.timestep_silu")?,
                    GemmAdd => drop(cpu.add(&values([rows, out], 1)?, &y, site("dit.block.0"))?),
                    _ => {}
                }
            }
            GemmGate => {
                let [rows, out, inner] = self.gemm().ok_or_else(|| wrong("shape"))?;
                let (x, layer) = (values([rows, inner], 0)?, "language.layer.0");
                let gate = cpu.linear(&x, &self.linear("gate", out / 2, false), at)?;
                let gate = cpu.activation(&gate, Activation::Silu, &site(layer) / "silu")?;
                let up = cpu.linear(&x, &self.linear("up", out / 2, false), &site(layer) / "up")?;
                cpu.multiply(&gate, &up, &site(layer) / "gated")?;
            }
            Category | CategoryRelu | CategorySwish => {
                let x = values([self.shape[0], self.shape[2]], 0)?;
                let y = cpu.category_linear(&x, &self.category(), &[1], at)?;
                match self.kernel {
                    CategoryRelu => activate(&y, Activation::Relu, "decoder.relu")?,
                    CategorySwish => activate(&y, Activation::Swish, "action_encoder.swish")?,
                    _ => {}
                }
            }
            LayerNorm => drop(cpu.layer_norm(&self.rows(0)?, Some(&self.affine()), EPS, at)?),
            PlainNorm => drop(cpu.layer_norm(&self.rows(0)?, None, EPS, at)?),
            RmsNorm => drop(cpu.rms_norm(&self.rows(0)?, &self.affine().weight, EPS, at)?),
            NormModulate => {
                let h = cpu.layer_norm(&self.rows(0)?, None, EPS, at)?;
                let [scale, shift] = [values([1, self.shape[1]], 1)?, values([1, self.shape[1]], 2)?];
                cpu.modulate(&h, &scale, &shift, site("dit.block.0.modulated"))?;
            }
            NormRotary => {
                let (Heads { heads, kv_heads, head_dim }, layer) = (self.heads(), site("language.layer.0"));
                let rotary = ops::Rotary::plain(head_dim, THETA);
                let [query_norm, key_norm] = self.head_norms();
                let q = values([self.shape[0], heads * head_dim], 0)?;
                let q = cpu.rms_norm(&q, &query_norm, EPS, at)?;
                cpu.rotary(&q, &rotary, &Places::Sequence, &layer / "query_rope")?;
                let k = values([self.shape[0], kv_heads * head_dim], 1)?;
                let k = cpu.rms_norm(&k, &key_norm, EPS, &layer / "key_norm")?;
                cpu.rotary(&k, &rotary, &Places::Sequence, &layer / "key_rope")?;
            }
            Attention | CausalAttention => {
                let heads = self.heads();
                let q = values([self.shape[0], heads.heads * heads.head_dim], 0)?;
                let [k, v] =
                    [1, 2].map(|seed| values([self.shape[1], heads.kv_heads * heads.head_dim], seed));
                let mask = if self.kernel == Attention { Mask::None } else { Mask::Causal };
                cpu.attention(&q, &k?, &v?, heads, &mask, at)?;
            }
        }
        Ok(())
    }

    fn rows(&self, seed: usize) -> Result<Values> {
        values([self.shape[0], self.shape[1]], seed)
    }

    /// Lays the weights out.
    ///
    /// # Errors
    /// Formats that no kernel has.
    pub fn lay_out(&self, layout: &mut Layout) -> Result<Weights> {
        let at = self.at();
        Ok(match self.kernel {
            Gemm | GemmGelu | GemmGeluTanh | GemmSilu | GemmAdd => {
                Weights::Linear(layout.linear(&self.linear("gemm", self.shape[1], true), &at)?)
            }
            GemmGate => {
                let [gate, up] = ["gate", "up"].map(|name| self.linear(name, self.shape[1] / 2, false));
                Weights::Linear(layout.gate_and_up(&gate, &up, [&at, &site("language.layer.0.up")])?)
            }
            Category | CategoryRelu | CategorySwish => {
                Weights::Linear(layout.category(&self.category(), 1, &at)?)
            }
            LayerNorm => Weights::Norm(layout.affine(&self.affine(), &at)?),
            RmsNorm => Weights::Norm(layout.scale(&self.affine().weight, &at)?),
            NormRotary => {
                let [query, key] = self.head_norms();
                let query = layout.vector(&query, &at)?;
                Weights::Rotary([query, layout.vector(&key, &site("language.layer.0.key_norm"))?])
            }
            PlainNorm | NormModulate | Attention | CausalAttention => Weights::None,
        })
    }

    /// A tensor of each item's [`numbers`] on the device, stored as the site's results are.
    fn tensor(&self, b: &mut Builder, [rows, features]: [usize; 2], seed: usize) -> Result<Tensor> {
        let element = b.storage(&self.at())?;
        let tensor = b.persistent_tensor(self.items * rows, features, element)?;
        tensor.upload(&numbers(rows * features, seed).repeat(self.items))?;
        Ok(tensor)
    }

    /// What the kernel reads.
    ///
    /// # Errors
    /// No memory is left.
    pub fn inputs(&self, b: &mut Builder) -> Result<Vec<Tensor>> {
        let Heads { heads, kv_heads, head_dim } = self.heads();
        let (rows, keys) = (self.shape[0], self.shape[1]);
        let shapes: Vec<[usize; 2]> = match self.kernel {
            GemmAdd => vec![[rows, self.shape[2]], [rows, self.shape[1]]],
            LayerNorm | PlainNorm | RmsNorm => vec![[rows, self.shape[1]]],
            NormModulate => vec![[rows, self.shape[1]]],
            NormRotary => {
                vec![[rows, heads * head_dim], [rows, kv_heads * head_dim], [rows, kv_heads * head_dim]]
            }
            Attention | CausalAttention => {
                vec![[rows, heads * head_dim], [keys, kv_heads * head_dim], [keys, kv_heads * head_dim]]
            }
            _ => vec![[rows, self.shape[2]]],
        };
        shapes.into_iter().enumerate().map(|(seed, shape)| self.tensor(b, shape, seed)).collect()
    }

    /// Records the kernel.
    ///
    /// # Errors
    /// Formats that no kernel has, no memory.
    pub fn record(&self, b: &mut Builder, weights: &Weights, inputs: &[Tensor]) -> Result<()> {
        let at = self.at();
        match (self.kernel, weights) {
            (kernel, Weights::Linear(w)) => {
                let activate = |kind, path: &str| Fusion::Activate(kind, site(path));
                let fusion = match kernel {
                    GemmGelu => activate(Activation::Gelu, "connector.gelu"),
                    GemmGeluTanh => activate(Activation::GeluTanh, "dit.block.0.gelu"),
                    GemmSilu => activate(Activation::Silu, "dit.timestep_silu"),
                    CategoryRelu => activate(Activation::Relu, "decoder.relu"),
                    CategorySwish => activate(Activation::Swish, "action_encoder.swish"),
                    GemmAdd => Fusion::Add(&inputs[1], site("dit.block.0")),
                    GemmGate => Fusion::Gate {
                        activation: (Activation::Silu, site("language.layer.0.silu")),
                        up: site("language.layer.0.up"),
                        gated: site("language.layer.0.gated"),
                    },
                    _ => Fusion::Store,
                };
                let out = b.storage(&at)?;
                b.linear(w, &inputs[0], out, at, fusion).map(drop)
            }
            (NormRotary, Weights::Rotary([query_norm, key_norm])) => {
                let (heads, layer) = (self.heads(), site("language.layer.0"));
                let [query, key] = [&layer / "query_rope", &layer / "key_rope"];
                let rotated = b.rotary_storage(&query, &key)?;
                let (plain, tokens) = (ops::Rotary::plain(heads.head_dim, THETA), self.shape[0]);
                let places = Places::Sequence.coordinates(tokens);
                let turns = b.turns(&plain, &places, [[query.clone(), key.clone()]])?[0];
                let norms = HeadNorms {
                    query: query_norm,
                    key: key_norm,
                    eps: EPS,
                    sites: [at, &layer / "key_norm"],
                };
                let (stores, sites) = (plain.stores, [query, key]);
                let rotary = Rotary { norms: Some(norms), turns, stores, tokens, sites };
                let [q, k, v] = [&inputs[0], &inputs[1], &inputs[2]];
                b.rotary([q, k, v], heads, rotary, rotated).map(drop)
            }
            (Attention | CausalAttention, _) => {
                let (queries, keys) = (self.shape[0], self.shape[1]);
                let item = |item: usize| Segment {
                    query_start: item * queries,
                    queries,
                    key_start: item * keys,
                    keys,
                };
                let segments: Vec<Segment> = (0..self.items).map(item).collect();
                let mask = b.attention_mask(&segments, self.kernel == CausalAttention)?;
                let out = b.storage(&at)?;
                let [q, k, v] = [&inputs[0], &inputs[1], &inputs[2]];
                b.attention([q, k, v], self.heads(), &mask, out, at).map(drop)
            }
            (NormModulate, _) => {
                let features = self.shape[1];
                let mut modulation = |seed| b.constant_bytes(&Element::F32.encode(&numbers(features, seed)));
                let (scale, shift) = (modulation(1)?, modulation(2)?);
                let modulation = Modulation { scale, shift, site: site("dit.block.0.modulated") };
                let out = b.storage(&modulation.site)?;
                let norm = NormAt { norm: Norm::Layer, affine: None, eps: EPS, site: at };
                b.norm_modulate(&inputs[0], norm, &modulation, out).map(drop)
            }
            (kernel, weights) => {
                let affine = if let Weights::Norm(affine) = weights { Some(affine) } else { None };
                let norm = if kernel == RmsNorm { Norm::Rms } else { Norm::Layer };
                let out = b.norm_storage(&at)?;
                b.norm(&inputs[0], NormAt { norm, affine, eps: EPS, site: at }, out).map(drop)
            }
        }
    }
}
