//! The places of the functions that are called, for each version whose interface is known.
//!
//! Places are those that a C++ compiler gives for the declarations of the version's public headers, in which
//! `NvInferImpl.h` has the classes that a library implements. What of a table was also checked by running a library of
//! that version stands at the table.

use super::abi::{
    BuilderPlaces, ConcatenationPlaces, ConfigPlaces, ContextPlaces, EnginePlaces, HostMemoryPlaces,
    InspectorPlaces, LayerPlaces, NetworkPlaces, ParserErrorPlaces, ParserPlaces, ProfilePlaces,
    RuntimePlaces, ShufflePlaces, SoftmaxPlaces, TensorPlaces, TimingCachePlaces,
};
use super::{Product, Version};

/// Places of one version, and what else of its interface differs from others'.
#[derive(Debug)]
pub(super) struct Tables {
    /// Whether dimensions are whole numbers of 32 bits, most of them handed over by value.
    pub(super) narrow: bool,
    /// Whether `ILogger` begins with what the library asks of every interface that an application implements.
    pub(super) versioned_logger: bool,
    /// `NetworkDefinitionCreationFlags` of the networks that are built: a network whose batch is a dimension like any
    /// other, and from TensorRT 10 on a strongly typed one.
    pub(super) network_flags: u32,
    /// `TacticSource`s of libraries that are loaded when they are on: cuBLAS, cuBLASLt, cuDNN; a bit each.
    pub(super) loaded_tactics: u32,
    /// What weakly typed networks have.
    pub(super) weak: Option<WeakPlaces>,
    /// `INetworkDefinition::addCast`; before it an identity with an output type converts.
    pub(super) add_cast: Option<usize>,
    /// `IBuilderConfig::setBuilderOptimizationLevel`; the function at the next place says the level.
    pub(super) optimization_level: Option<usize>,
    /// `IRuntime::getEngineValidity`.
    pub(super) validity: Option<usize>,
    pub(super) builder: BuilderPlaces,
    pub(super) config: ConfigPlaces,
    pub(super) timing_cache: TimingCachePlaces,
    pub(super) profile: ProfilePlaces,
    pub(super) network: NetworkPlaces,
    pub(super) layer: LayerPlaces,
    pub(super) shuffle: ShufflePlaces,
    pub(super) softmax: SoftmaxPlaces,
    pub(super) concatenation: ConcatenationPlaces,
    pub(super) tensor: TensorPlaces,
    pub(super) host_memory: HostMemoryPlaces,
    pub(super) runtime: RuntimePlaces,
    pub(super) engine: EnginePlaces,
    pub(super) inspector: InspectorPlaces,
    pub(super) context: ContextPlaces,
    pub(super) parser: ParserPlaces,
    pub(super) parser_destroyer: usize,
    pub(super) parser_error: ParserErrorPlaces,
}

/// Functions of weakly typed networks: precisions that a builder may be held to.
#[derive(Debug, Clone, Copy)]
pub(super) struct WeakPlaces {
    /// `ILayer::setPrecision`.
    pub(super) set_precision: usize,
    /// `ILayer::setOutputType`.
    pub(super) set_output_type: usize,
    /// `ITensor::setType`.
    pub(super) set_tensor_type: usize,
}

/// The versions of a product from one minor version to another, with one table.
pub(super) struct Known {
    product: Product,
    major: u32,
    minors: [u32; 2],
    tables: &'static Tables,
}

/// Every version with a table.
static KNOWN: [Known; 5] = [
    Known { product: Product::TensorRtRtx, major: 1, minors: [5, 7], tables: &RTX_1 },
    Known { product: Product::TensorRt, major: 8, minors: [5, 5], tables: &V8_5 },
    Known { product: Product::TensorRt, major: 8, minors: [6, 6], tables: &V8_6 },
    Known { product: Product::TensorRt, major: 10, minors: [0, 16], tables: &V10 },
    Known { product: Product::TensorRt, major: 11, minors: [0, 1], tables: &V11 },
];

/// The table of a version.
///
/// # Errors
/// The versions that have one.
pub(super) fn of(product: Product, version: Version) -> Result<&'static Tables, String> {
    let found = KNOWN.iter().find(|known| {
        known.product == product
            && known.major == version.major
            && (known.minors[0]..=known.minors[1]).contains(&version.minor)
    });
    found.map(|known| known.tables).ok_or_else(|| {
        format!("version {version}, whose interface is not known: {} are", known_versions(product))
    })
}

/// The versions of a product with a table, as `8.5, 10.0 to 10.16`.
pub(in crate::tensorrt) fn known_versions(product: Product) -> String {
    let of_product = KNOWN.iter().filter(|known| known.product == product);
    let ranges = of_product.map(|known| match known.minors {
        [first, last] if first == last => format!("{}.{first}", known.major),
        [first, last] => format!("{0}.{first} to {0}.{last}", known.major),
    });
    ranges.collect::<Vec<_>>().join(", ")
}

/// TensorRT-RTX 1.5 to 1.7. The headers are those of 1.5 and 1.6; that the library of 1.7 has the same was found by
/// letting NVIDIA's Python package for 1.7 call tables that report their places, and by building engines from graphs that
/// its parser read. Where layers are added was found in the library of 1.7 alone, by calling the places around those of
/// TensorRT 11 and asking what layer came; engines were built with it layer by layer. So was the optimization level, which
/// is 3 before it is set and 5 for what is more.
static RTX_1: Tables = Tables {
    network: NetworkPlaces { add_slice: 27, add_shape: 30, add_select: 41, ..V11.network },
    add_cast: Some(57),
    tensor: TensorPlaces { set_name: 2, name: 3, dimensions: 5, data_type: 6, dimension_name: 14 },
    validity: Some(24),
    loaded_tactics: 0,
    ..V11
};

/// TensorRT 11.0 and 11.1: from the headers alone. No library of these versions was at hand.
const V11: Tables = Tables {
    narrow: false,
    versioned_logger: true,
    network_flags: 1,
    loaded_tactics: 0,
    weak: None,
    add_cast: Some(59),
    optimization_level: Some(36),
    validity: None,
    builder: BuilderPlaces {
        create_config: 5,
        create_network: 6,
        create_profile: 7,
        build_serialized_network: 11,
    },
    config: ConfigPlaces {
        clear_flag: 8,
        set_flag: 9,
        flag: 10,
        add_profile: 23,
        set_verbosity: 25,
        set_tactic_sources: 27,
        tactic_sources: 28,
        create_timing_cache: 29,
        set_timing_cache: 30,
        set_memory_limit: 32,
        memory_limit: 33,
    },
    timing_cache: TimingCachePlaces { serialize: 2 },
    profile: ProfilePlaces { set_dimensions: 2, is_valid: 7 },
    network: NetworkPlaces {
        add_input: 2,
        mark_output: 3,
        add_activation: 4,
        add_softmax: 7,
        add_concatenation: 8,
        add_elementwise: 9,
        add_unary: 10,
        add_shuffle: 11,
        layer_count: 12,
        layer: 13,
        input_count: 14,
        input: 15,
        output_count: 16,
        output: 17,
        add_reduce: 18,
        add_gather: 20,
        add_matrix_multiply: 22,
        add_constant: 23,
        add_identity: 24,
        add_slice: 29,
        add_shape: 32,
        add_select: 43,
    },
    layer: LayerPlaces { kind: 2, set_name: 3, name: 4, output: 8, set_input: 9 },
    shuffle: ShufflePlaces { set_first_transpose: 2, set_reshape: 4 },
    softmax: SoftmaxPlaces { set_axes: 2 },
    concatenation: ConcatenationPlaces { set_axis: 2 },
    tensor: TensorPlaces { set_name: 2, name: 3, dimensions: 5, data_type: 6, dimension_name: 18 },
    host_memory: HostMemoryPlaces { data: 2, size: 3 },
    runtime: RuntimePlaces { deserialize_engine: 3 },
    engine: EnginePlaces {
        create_context: 5,
        profile_count: 8,
        create_inspector: 14,
        shape: 15,
        data_type: 16,
        location: 17,
        mode: 19,
        format: 22,
        profile_shape: 25,
        tensor_count: 26,
        tensor_name: 27,
    },
    inspector: InspectorPlaces { engine_information: 6 },
    context: ContextPlaces { set_input_shape: 20, shape: 21, set_address: 23, enqueue: 36 },
    parser: ParserPlaces { parse_from_file: 1, error_count: 3, error: 4 },
    parser_destroyer: 7,
    parser_error: ParserErrorPlaces { description: 1, node_name: 6, node_operator: 7 },
};

/// TensorRT 10.0 to 10.16: from the headers alone. No library of these versions was at hand.
const V10: Tables = Tables {
    versioned_logger: false,
    network_flags: 1 << 1,
    loaded_tactics: 0b111,
    add_cast: Some(62),
    optimization_level: Some(47),
    builder: BuilderPlaces {
        create_config: 7,
        create_network: 8,
        create_profile: 9,
        build_serialized_network: 14,
    },
    config: ConfigPlaces {
        clear_flag: 10,
        set_flag: 11,
        flag: 12,
        add_profile: 25,
        set_verbosity: 27,
        set_tactic_sources: 38,
        tactic_sources: 39,
        create_timing_cache: 40,
        set_timing_cache: 41,
        set_memory_limit: 43,
        memory_limit: 44,
    },
    profile: ProfilePlaces { set_dimensions: 2, is_valid: 9 },
    tensor: TensorPlaces { set_name: 2, name: 3, dimensions: 5, data_type: 7, dimension_name: 24 },
    engine: EnginePlaces {
        create_context: 5,
        profile_count: 10,
        create_inspector: 18,
        shape: 19,
        data_type: 20,
        location: 21,
        mode: 23,
        format: 26,
        profile_shape: 29,
        tensor_count: 30,
        tensor_name: 31,
    },
    context: ContextPlaces { set_input_shape: 21, shape: 22, set_address: 24, enqueue: 37 },
    ..V11
};

/// TensorRT 8.5.
const V8_5: Tables = Tables {
    narrow: true,
    versioned_logger: false,
    network_flags: 1,
    loaded_tactics: 0b111,
    weak: Some(WeakPlaces { set_precision: 10, set_output_type: 14, set_tensor_type: 6 }),
    add_cast: None,
    optimization_level: None,
    builder: BuilderPlaces {
        create_config: 9,
        create_network: 11,
        create_profile: 12,
        build_serialized_network: 17,
    },
    config: ConfigPlaces {
        clear_flag: 14,
        set_flag: 15,
        flag: 16,
        add_profile: 29,
        set_verbosity: 31,
        set_tactic_sources: 42,
        tactic_sources: 43,
        create_timing_cache: 44,
        set_timing_cache: 45,
        set_memory_limit: 47,
        memory_limit: 48,
    },
    profile: ProfilePlaces { set_dimensions: 2, is_valid: 9 },
    network: NetworkPlaces {
        add_input: 2,
        mark_output: 3,
        add_activation: 6,
        add_softmax: 10,
        add_concatenation: 11,
        add_elementwise: 13,
        add_unary: 14,
        add_shuffle: 16,
        layer_count: 17,
        layer: 18,
        input_count: 19,
        input: 20,
        output_count: 21,
        output: 22,
        add_reduce: 23,
        add_gather: 25,
        add_matrix_multiply: 27,
        add_constant: 28,
        add_identity: 30,
        add_slice: 34,
        add_shape: 37,
        add_select: 49,
    },
    tensor: TensorPlaces { set_name: 2, name: 3, dimensions: 5, data_type: 7, dimension_name: 24 },
    runtime: RuntimePlaces { deserialize_engine: 2 },
    engine: EnginePlaces {
        create_context: 11,
        profile_count: 22,
        create_inspector: 33,
        shape: 34,
        data_type: 35,
        location: 36,
        mode: 38,
        format: 41,
        profile_shape: 44,
        tensor_count: 45,
        tensor_name: 46,
    },
    inspector: InspectorPlaces { engine_information: 5 },
    context: ContextPlaces { set_input_shape: 29, shape: 30, set_address: 32, enqueue: 44 },
    ..V11
};

/// TensorRT 8.6: the headers of 8.6.0 and 8.6.1 only add functions behind those of 8.5. `addCast` is one of them (68); an
/// identity with an output type, which 8.5 has run, is valid still.
const V8_6: Tables = Tables { optimization_level: Some(51), ..V8_5 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_without_a_table_are_refused_by_number() {
        let version = |major, minor| Version { major, minor, patch: 3 };
        assert!(of(Product::TensorRt, version(8, 5)).is_ok_and(|tables| tables.narrow));
        assert!(of(Product::TensorRt, version(10, 9)).is_ok_and(|tables| !tables.narrow));
        let levels = [5, 6]
            .map(|minor| of(Product::TensorRt, version(8, minor)).map(|found| found.optimization_level));
        assert_eq!(levels, [Ok(None), Ok(Some(51))]);
        let refused = of(Product::TensorRt, version(8, 4)).err();
        let words = "version 8.4.3, whose interface is not known: 8.5, 8.6, 10.0 to 10.16, 11.0 to 11.1 are";
        assert_eq!(refused.as_deref(), Some(words));
        assert!(of(Product::TensorRt, version(1, 6)).is_err());
        assert!(of(Product::TensorRtRtx, version(1, 6)).is_ok());
        assert!(of(Product::TensorRtRtx, version(8, 5)).is_err());
    }
}
