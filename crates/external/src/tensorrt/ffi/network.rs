//! From an ONNX file to an engine's bytes.

use super::{Library, SELECTORS, abi, data_type, logger, name, text};
use std::path::Path;
use steadyhand_fidelity::trace::Dtype;

/// `NetworkDefinitionCreationFlag::kSTRONGLY_TYPED`, as a bit.
const STRONGLY_TYPED: u32 = 1;
/// `ProfilingVerbosity::kDETAILED`: the engine can say what its layers are.
const DETAILED: i32 = 2;

/// A network that was parsed, and what builds it. Fields are dropped in their order: each needs those below it.
pub(in crate::tensorrt) struct Parsed {
    _parser: abi::Parser,
    config: abi::Config,
    network: abi::Network,
    builder: abi::Builder,
}

/// An input or output of a network.
#[derive(Debug, Clone)]
pub(in crate::tensorrt) struct Port {
    pub(in crate::tensorrt) name: String,
    pub(in crate::tensorrt) dtype: Dtype,
    /// -1 where open.
    pub(in crate::tensorrt) shape: Vec<i64>,
    /// The open dimensions' names, as the file has them; empty for fixed ones.
    pub(in crate::tensorrt) dim_names: Vec<String>,
}

/// An operation of a network.
#[derive(Debug, Clone)]
pub(in crate::tensorrt) struct Layer {
    pub(in crate::tensorrt) name: String,
    /// `LayerType`.
    pub(in crate::tensorrt) kind: i32,
    /// Of its first result; none for a type of less than a byte.
    pub(in crate::tensorrt) dtype: Option<Dtype>,
}

impl Parsed {
    /// Reads the ONNX file into a strongly typed network.
    ///
    /// # Errors
    /// The library's reasons: what the parser does not understand, by node.
    pub(in crate::tensorrt) fn parse(library: &Library, path: &Path) -> Result<Self, String> {
        let missing = |what: &str| logger::errors(&format!("no {what} was made"));
        let builder = library.builder().ok_or_else(|| missing("builder"))?;
        // SAFETY: the builder lives, and what it makes is given to these values alone.
        let (network, config) = unsafe {
            let network = abi::Network::from_address(builder.create_network(STRONGLY_TYPED));
            let config = abi::Config::from_address(builder.create_config());
            (network, config)
        };
        let network = network.ok_or_else(|| missing("network"))?;
        let config = config.ok_or_else(|| missing("builder configuration"))?;
        let parser = library.parser(&network).ok_or_else(|| missing("parser"))?;
        let file = name(path.to_str().ok_or("expected a path in UTF-8")?)?;
        // SAFETY: all of them live; the path ends in a zero.
        unsafe {
            if !parser.parse_from_file(file.as_ptr(), 0) {
                return Err(parse_errors(&parser));
            }
            config.set_verbosity(DETAILED);
        }
        Ok(Parsed { _parser: parser, config, network, builder })
    }

    /// Sets a flag of the builder; whether it has it then. What a version lacks it drops without a word.
    pub(in crate::tensorrt) fn set_flag(&self, flag: i32, on: bool) -> bool {
        // SAFETY: the configuration lives; any number may be asked for.
        unsafe {
            if on {
                self.config.set_flag(flag)
            } else {
                self.config.clear_flag(flag)
            };
            self.config.flag(flag) == on
        }
    }

    /// The network's inputs, then its outputs.
    ///
    /// # Errors
    /// A type or shape that no tensor here has.
    pub(in crate::tensorrt) fn ports(&self) -> Result<(Vec<Port>, Vec<Port>), String> {
        // SAFETY: the network lives, and so do its tensors; the indices are below their counts.
        unsafe {
            let inputs = (0..self.network.input_count()).map(|index| port(self.network.input(index)));
            let inputs = inputs.collect::<Result<_, _>>()?;
            let outputs = (0..self.network.output_count()).map(|index| port(self.network.output(index)));
            Ok((inputs, outputs.collect::<Result<_, _>>()?))
        }
    }

    /// The network's operations.
    pub(in crate::tensorrt) fn layers(&self) -> Vec<Layer> {
        // SAFETY: the network lives; the indices are below the count.
        let layers = unsafe { (0..self.network.layer_count()).map(|index| self.network.layer(index)) };
        let layers = layers.filter_map(|address| {
            // SAFETY: the address is that of a layer of the living network, or null.
            unsafe {
                let layer = abi::Layer::from_address(address)?;
                let result = abi::NetworkTensor::from_address(layer.output(0));
                let dtype = result.and_then(|tensor| data_type(tensor.data_type()).ok());
                Some(Layer { name: text(layer.name()), kind: layer.kind(), dtype })
            }
        });
        layers.collect()
    }

    /// Adds a profile: for every input its smallest, its best and its largest shape.
    ///
    /// # Errors
    /// The library refuses a shape, or all of them together.
    pub(in crate::tensorrt) fn add_profile(
        &self,
        shapes: &[(String, [Vec<usize>; 3])],
    ) -> Result<(), String> {
        // SAFETY: the builder lives as long as its profile; names end in zeros, shapes live over the calls.
        unsafe {
            let profile = abi::Profile::from_address(self.builder.create_profile());
            let profile = profile.ok_or_else(|| logger::errors("no profile was made"))?;
            for (input, sizes) in shapes {
                let input_name = name(input)?;
                for (which, sizes) in SELECTORS.into_iter().zip(sizes) {
                    if !profile.set_dimensions(input_name.as_ptr(), which, &abi::Dims::new(sizes)?) {
                        return Err(logger::errors(&format!(
                            "input {input}: the shape {sizes:?} is refused"
                        )));
                    }
                }
            }
            if !profile.is_valid() || self.config.add_profile(profile.0.as_ptr()) < 0 {
                return Err(logger::errors("the shapes do not make a profile"));
            }
        }
        Ok(())
    }

    /// The engine as bytes.
    ///
    /// # Errors
    /// The library's reasons.
    pub(in crate::tensorrt) fn build(&self) -> Result<Vec<u8>, String> {
        // SAFETY: the network and its configuration live, and the result is given to this value alone. Its bytes
        // are copied before it goes.
        unsafe {
            let built =
                self.builder.build_serialized_network(self.network.0.as_ptr(), self.config.0.as_ptr());
            let built = abi::HostMemory::from_address(built);
            let built = built.ok_or_else(|| logger::errors("no engine was built"))?;
            let (data, size) = (built.data(), built.size());
            if data.is_null() || size == 0 {
                return Err(logger::errors("an empty engine was built"));
            }
            Ok(std::slice::from_raw_parts(data.cast::<u8>(), size).to_vec())
        }
    }
}

/// What the parser did not understand.
fn parse_errors(parser: &abi::Parser) -> String {
    // SAFETY: the parser lives, and its errors with it; the indices are below the count.
    let errors: Vec<String> = unsafe {
        let all =
            (0..parser.error_count()).filter_map(|index| abi::ParserError::from_address(parser.error(index)));
        all.map(|error| {
            let (node, operator) = (text(error.node_name()), text(error.node_operator()));
            let what = text(error.description());
            if node.is_empty() { what } else { format!("node {node} ({operator}): {what}") }
        })
        .collect()
    };
    if errors.is_empty() { logger::errors("the parser refuses the file") } else { errors.join("; ") }
}

/// # Safety
/// The address is null or that of a tensor of a living network.
unsafe fn port(address: *mut std::ffi::c_void) -> Result<Port, String> {
    // SAFETY: the caller's promise.
    let tensor = unsafe { abi::NetworkTensor::from_address(address) };
    let tensor = tensor.ok_or("a tensor of the network is missing")?;
    // SAFETY: the tensor lives; the indices are below the number of dimensions.
    unsafe {
        let name = text(tensor.name());
        let in_tensor = |what: String| format!("tensor {name}: {what}");
        let dtype = data_type(tensor.data_type()).map_err(in_tensor)?;
        let shape = tensor.dimensions().to_vec().map_err(in_tensor)?;
        let dim_names = (0..shape.len()).map(|index| text(tensor.dimension_name(index as i32))).collect();
        Ok(Port { name, dtype, shape, dim_names })
    }
}
