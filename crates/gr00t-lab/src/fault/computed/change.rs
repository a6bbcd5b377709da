//! What an operation may do otherwise.

use steadyhand_fidelity::Format;
use steadyhand_gr00t::ops::Activation;

/// What an operation does otherwise, where its kind is met at a site that the fault touches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// Attention: scores are multiplied by this too.
    Scores(f32),
    /// Attention: query head `h` reads key and value head `h % kv_heads`.
    TiledHeads,
    /// Attention with a causal mask: a query sees the next token too.
    NextToken,
    /// Attention: the scores become weights in another way than by softmax over the keys.
    Weights(Weighing),
    /// Attention: a query sees other keys.
    Sees(Seen),
    /// Cross-attention of the DiT: to all tokens, or to those of the other part of the prompt.
    Attends {
        /// Whether to all.
        everything: bool,
    },
    /// Attention: so many keys and values of zeros are seen besides.
    SeesPadding(usize),
    /// A norm is computed otherwise.
    Norm(Norm),
    /// The norms of a block stand behind its residual connections instead of before its layers.
    PostNorm,
    /// A non-linearity is this function instead.
    Activation(Nonlinearity),
    /// A gated MLP: the non-linearity is that of `up`, and `gate` is multiplied as it is.
    ActivatedUp,
    /// RoPE: the base of the frequencies, and the position of the first token.
    Rotary {
        /// Instead of the right base; none for the right one.
        theta: Option<f64>,
        /// The position that tokens are counted from.
        first: usize,
    },
    /// RoPE gives its input.
    NoRotary,
    /// RoPE turns otherwise.
    Rotation(Rotation),
    /// RoPE: image tokens and what comes behind them are numbered otherwise.
    Positions(Numbering),
    /// Modulation: `x scale + shift`.
    ScaleWithoutOne,
    /// Modulation: scale and shift are exchanged.
    ScaleAsShift,
    /// Modulation: another formula.
    Modulation(Modulation),
    /// A linear layer has no bias.
    NoBias,
    /// The bias of a linear layer is added twice.
    BiasTwice,
    /// A linear layer multiplies by its weight as it lies, not transposed; a square one.
    Transposed,
    /// A linear layer's weights are cut off at this share of their largest magnitude.
    ClippedWeights(f32),
    /// An engine takes the buffers that it is handed for another type.
    Handed(Handed),
    /// A linear layer's weights are rounded to this format as they are, without a scale.
    WeightsAs(Format),
    /// A residual connection gives what was computed, without what it is added to, or the reverse.
    OneTerm {
        /// Whether the first term is the one that is kept.
        first: bool,
    },
    /// A residual connection adds a term twice.
    TermTwice {
        /// Whether it is the first.
        first: bool,
    },
    /// A residual connection adds to another tensor of its block than to what entered it, by the name of its site.
    ResidualOf(&'static str),
    /// The size of an Euler step is multiplied by this.
    StepSize(f64),
    /// The velocity is that of the first tokens instead of the last.
    FirstTokens,
    /// Image tokens stand in columns instead of rows.
    ImagesByColumn,
    /// Image tokens are never put into the prompt.
    NoImages,
    /// A time encoding begins with the other half.
    OtherHalfFirst,
    /// The angles of a time encoding are multiplied by this: the time is counted in another unit.
    TimeUnit(f32),
    /// The frequencies of a time encoding, from 1 down to 1e-4, do not end where they should: its last one is left out
    /// where it is right to have it, or the reverse.
    OtherFrequencies,
    /// A layer works on the initial noise in every Euler step.
    OnNoise,
    /// Nothing is added to tokens.
    NoAddition,
}

/// Norms that are taken for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// The norm gives its input.
    LeftOut,
    /// RMSNorm where LayerNorm is right: the mean is not subtracted. LayerNorm where RMSNorm is right: it is.
    OtherMean,
    /// Without the weight.
    NoWeight,
    /// Without the bias.
    NoBias,
    /// Without weight and bias.
    NoAffine,
    /// The weight is multiplied twice.
    WeightTwice,
    /// The bias is added twice.
    BiasTwice,
    /// `1 + weight` instead of `weight`.
    OnePlusWeight,
    /// `weight - 1` instead of `weight`.
    WeightMinusOne,
    /// The variance of a sample, `sum / (n - 1)`.
    Unbiased,
    /// `x / (deviation + eps)` instead of `x / sqrt(variance + eps)`.
    EpsOutside,
    /// Weight and bias alone.
    NoStatistics,
    /// Divided by the length of the vector instead of its root mean square.
    Length,
    /// Statistics of all heads together instead of those of each head.
    AllHeads,
    /// Statistics over the tokens instead of the features.
    OverTokens,
}

/// Non-linearities that are taken for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nonlinearity {
    /// One that the model has elsewhere.
    As(Activation),
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
    /// `sigmoid(x)`.
    Sigmoid,
    /// `tanh(x)`.
    Tanh,
    /// `max(x, 0.01 x)`.
    LeakyRelu,
    /// `max(x, 0)^2`.
    SquaredRelu,
    /// `x`.
    Identity,
}

/// How scores become the weights of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weighing {
    /// By softmax over the queries.
    OverQueries,
    /// By softmax over the heads.
    OverHeads,
    /// Not at all.
    Scores,
}

/// Which keys a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Those before its own position; the first query none.
    Before,
    /// Those before its own position; the first query all of them.
    BeforeOrAll,
    /// Those from its own position on.
    Behind,
    /// Those at its own position and before, and all up to the last image token.
    Prefix,
    /// Those at its own position and before, and all tokens of the images with each other.
    AllOfImages,
    /// Those at its own position and before that are no image tokens, and itself.
    NoImages,
}

/// How a head is turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// Neighbours are a pair instead of features of the two halves.
    Neighbours,
    /// The other way round.
    Backwards,
    /// Sines and cosines are exchanged.
    SinesForCosines,
    /// Features of the first half of a head alone, by half as many frequencies.
    HalfOfHead,
}

/// Buffers that the engine of a part is handed in one type and reads as another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handed {
    /// What was written.
    pub stored: Format,
    /// What the engine reads.
    pub read: Format,
    /// Whether that is so of the tensor of its own tokens or values.
    pub own: bool,
    /// Whether that is so of what the DiT attends to.
    pub memory: bool,
    /// Whether its result, written as `read`, is read as `stored`.
    pub back: bool,
}

/// How image tokens and what comes behind them are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbering {
    /// From 0 again at the first token of every image.
    FromImage,
    /// From 0 again behind every image.
    BehindImage,
    /// All tokens of an image have one position.
    ImageAsOne,
    /// The tokens of an image have no position of their own: text goes on counting as if there were none.
    WithoutImages,
}

/// Formulas of a modulation of `x` by scale and shift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modulation {
    /// `x (2 + scale) + shift`.
    TwoPlus,
    /// `x + shift`.
    NoScale,
    /// `x (1 + scale)`.
    NoShift,
    /// `x`.
    LeftOut,
    /// `(x + shift) (1 + scale)`.
    ShiftFirst,
    /// Scale and shift alternate in the tensor that both are halves of.
    Alternating,
}

impl Nonlinearity {
    /// Its value; none of one that the model has.
    pub(crate) fn of(self, x: f32) -> f32 {
        match self {
            Nonlinearity::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
            Nonlinearity::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Nonlinearity::Tanh => x.tanh(),
            Nonlinearity::LeakyRelu => x.max(0.01 * x),
            Nonlinearity::SquaredRelu => x.max(0.0) * x.max(0.0),
            Nonlinearity::As(_) | Nonlinearity::Identity => x,
        }
    }
}
