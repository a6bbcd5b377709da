//! A network and what builds it: from an ONNX file or from layers to an engine's bytes.

use super::dims::Dims;
use super::{Library, SELECTORS, abi, data_type, logger, name, text};
use std::path::Path;
use steadyhand_fidelity::trace::Dtype;
use steadyhand_gr00t::ops::onnx::Bytes;

/// `ProfilingVerbosity::kDETAILED`: the engine can say what its layers are.
const DETAILED: i32 = 2;
/// `TacticSource`s cuBLAS and cuBLASLt, a bit each.
const CUBLAS: u32 = 0b11;
/// `MemoryPoolType::kWORKSPACE`.
const WORKSPACE: i32 = 0;

/// A network, and what builds it. Fields are dropped in their order: each needs those below it.
pub(in crate::tensorrt) struct Network {
    _parser: Option<abi::Parser>,
    timing_cache: Option<abi::TimingCache>,
    pub(super) config: abi::Config,
    pub(super) network: abi::Network,
    builder: abi::Builder,
    /// Constants of the network: the library reads them where they lie, until it has built.
    pub(super) constants: Vec<Bytes>,
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

impl Network {
    /// A network without layers: strongly typed where the version has such. Libraries that are loaded for their
    /// tactics are left alone.
    ///
    /// # Errors
    /// The library's reasons.
    pub(in crate::tensorrt) fn empty(library: &Library) -> Result<Self, String> {
        let tables = library.tables();
        let missing = |what: &str| logger::errors(&format!("no {what} was made"));
        let builder = library.builder().ok_or_else(|| missing("builder"))?;
        // SAFETY: the builder lives, and what it makes is given to these values alone.
        let (network, config) = unsafe {
            let network = abi::Network::from_address(builder.create_network(tables.network_flags), tables);
            let config = abi::Config::from_address(builder.create_config(), tables);
            (network, config)
        };
        let network = network.ok_or_else(|| missing("network"))?;
        let config = config.ok_or_else(|| missing("builder configuration"))?;
        // SAFETY: the configuration lives; any number may be asked for.
        unsafe {
            config.set_verbosity(DETAILED);
            if tables.loaded_tactics != 0 {
                let sources = config.tactic_sources() & !tables.loaded_tactics;
                if !config.set_tactic_sources(sources) {
                    return Err(logger::errors("tactics of cuBLAS and cuDNN could not be switched off"));
                }
            }
        }
        Ok(Network { _parser: None, timing_cache: None, config, network, builder, constants: Vec::new() })
    }

    /// Lets the builder choose tactics of cuBLAS and cuBLASLt, which it then loads; whether it may then.
    pub(in crate::tensorrt) fn use_cublas(&self) -> bool {
        if self.config.tables.loaded_tactics & CUBLAS != CUBLAS {
            return false;
        }
        // SAFETY: the configuration lives; any number may be asked for.
        unsafe { self.config.set_tactic_sources(self.config.tactic_sources() | CUBLAS) }
    }

    /// Reads the ONNX file by the library's parser.
    ///
    /// # Errors
    /// The library's reasons: what the parser does not understand, by node.
    pub(in crate::tensorrt) fn parse(library: &Library, path: &Path) -> Result<Self, String> {
        let mut network = Network::empty(library)?;
        let parser = library.parser(&network.network);
        let parser = parser.ok_or_else(|| logger::errors("no parser was made"))?;
        let file = name(path.to_str().ok_or("expected a path in UTF-8")?)?;
        // SAFETY: all of them live; the path ends in a zero.
        if !unsafe { parser.parse_from_file(file.as_ptr(), 0) } {
            return Err(parse_errors(&parser));
        }
        network._parser = Some(parser);
        Ok(network)
    }

    /// Limits what a layer may use of the GPU's memory while it runs, in bytes; whether it is so then.
    pub(in crate::tensorrt) fn set_workspace(&self, bytes: usize) -> bool {
        // SAFETY: the configuration lives.
        unsafe {
            self.config.set_memory_limit(WORKSPACE, bytes);
            self.config.memory_limit(WORKSPACE) == bytes
        }
    }

    /// Says how long the builder looks for what is faster, 0 being the shortest; whether it is so then.
    ///
    /// # Errors
    /// The version has no such levels.
    pub(in crate::tensorrt) fn set_optimization_level(&self, level: u8) -> Result<bool, String> {
        let place = self.config.tables.optimization_level.ok_or("this version has none")?;
        let level = i32::from(level);
        // SAFETY: the configuration lives; the version's table has the functions at these places.
        unsafe {
            self.config.set_optimization_level(place, level);
            Ok(self.config.optimization_level(place + 1) == level)
        }
    }

    /// Builds with the times that tactics took before, in these bytes; none for the first time.
    ///
    /// # Errors
    /// The library's reasons, such as times of another GPU.
    pub(in crate::tensorrt) fn use_timing_cache(&mut self, bytes: &[u8]) -> Result<(), String> {
        // SAFETY: the configuration lives, and so do the bytes over the call; the cache is given to this value alone,
        // which keeps it as long as the configuration.
        unsafe {
            let cache = self.config.create_timing_cache(bytes.as_ptr().cast(), bytes.len());
            let cache = abi::TimingCache::from_address(cache, self.config.tables);
            let cache = cache.ok_or_else(|| logger::errors("no timing cache was made"))?;
            if !self.config.set_timing_cache(cache.object.as_ptr(), false) {
                return Err(logger::errors("the timing cache is refused"));
            }
            self.timing_cache = Some(cache);
        }
        Ok(())
    }

    /// What the timing cache holds after a build; nothing where none was used.
    ///
    /// # Errors
    /// The library's reasons.
    pub(in crate::tensorrt) fn timing_cache(&self) -> Result<Option<Vec<u8>>, String> {
        let Some(cache) = &self.timing_cache else { return Ok(None) };
        // SAFETY: the cache lives; the result is given to this call alone.
        unsafe { bytes_of(cache.serialize(), self.config.tables) }
            .map(Some)
            .ok_or_else(|| logger::errors("the timing cache could not be read"))
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
            let port = |address| port(abi::NetworkTensor::from_address(address, self.network.tables));
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
                let layer = abi::Layer::from_address(address, self.network.tables)?;
                let result = abi::NetworkTensor::from_address(layer.output(0), self.network.tables);
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
            let profile = abi::Profile::from_address(self.builder.create_profile(), self.builder.tables);
            let profile = profile.ok_or_else(|| logger::errors("no profile was made"))?;
            for (input, sizes) in shapes {
                let input_name = name(input)?;
                for (which, sizes) in SELECTORS.into_iter().zip(sizes) {
                    if !profile.set_shape(input_name.as_ptr(), which, &Dims::of_shape(sizes)?) {
                        return Err(logger::errors(&format!(
                            "input {input}: the shape {sizes:?} is refused"
                        )));
                    }
                }
            }
            if !profile.is_valid() || self.config.add_profile(profile.object.as_ptr()) < 0 {
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
        let (network, config) = (self.network.object.as_ptr(), self.config.object.as_ptr());
        // SAFETY: the network, its constants and its configuration live; the result is given to this call alone.
        unsafe { bytes_of(self.builder.build_serialized_network(network, config), self.builder.tables) }
            .ok_or_else(|| logger::errors("no engine was built"))
    }
}

/// A copy of what the library holds in host memory, which is freed; none where it is nothing.
///
/// # Safety
/// The address is null or that of an `IHostMemory`, given to this call alone.
unsafe fn bytes_of(
    address: *mut std::ffi::c_void,
    tables: &'static super::tables::Tables,
) -> Option<Vec<u8>> {
    // SAFETY: the caller's promise; the bytes are copied before what holds them goes.
    unsafe {
        let memory = abi::HostMemory::from_address(address, tables)?;
        let (data, size) = (memory.data(), memory.size());
        if data.is_null() || size == 0 {
            return None;
        }
        Some(std::slice::from_raw_parts(data.cast::<u8>(), size).to_vec())
    }
}

/// What the parser did not understand.
fn parse_errors(parser: &abi::Parser) -> String {
    // SAFETY: the parser lives, and its errors with it; the indices are below the count.
    let errors: Vec<String> = unsafe {
        let all = (0..parser.error_count())
            .filter_map(|index| abi::ParserError::from_address(parser.error(index), parser.tables));
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
/// The tensor's network lives.
unsafe fn port(tensor: Option<abi::NetworkTensor>) -> Result<Port, String> {
    let tensor = tensor.ok_or("a tensor of the network is missing")?;
    // SAFETY: the caller's promise; the indices are below the number of dimensions.
    unsafe {
        let name = text(tensor.name());
        let in_tensor = |what: String| format!("tensor {name}: {what}");
        let dtype = data_type(tensor.data_type()).map_err(in_tensor)?;
        let shape = tensor.dims().to_vec().map_err(in_tensor)?;
        let dim_names = (0..shape.len()).map(|index| text(tensor.dimension_name(index as i32))).collect();
        Ok(Port { name, dtype, shape, dim_names })
    }
}
