//! An engine's bytes as a running engine. Needs an NVIDIA driver.

use super::dims::Dims;
use super::{Library, Port, SELECTORS, abi, data_type, logger, name, text};
use crate::bindings::{Binding, Bound, Direction, Tensor};
use steadyhand_cuda_driver::{Buffer, Device, Stream};

/// `TensorIOMode::kOUTPUT`.
const OUTPUT: i32 = 2;
/// `TensorLocation::kDEVICE`.
const ON_DEVICE: i32 = 0;
/// `TensorFormat::kLINEAR`: rows one after the other, nothing padded.
const LINEAR: i32 = 0;
/// `LayerInformationFormat::kJSON`.
const JSON: i32 = 1;
/// `ExecutionContextAllocationStrategy::kSTATIC`.
const STATIC_MEMORY: i32 = 0;
/// `EngineValidity::kINVALID`.
const INVALID: i32 = 2;
/// What the bits of `EngineInvalidityDiagnostics` mean.
const REASONS: [&str; 7] = [
    "it was built by another version of TensorRT-RTX",
    "the GPU's compute capability is not supported",
    "the CUDA driver is older than the one that it was built with",
    "the CUDA runtime is older than the one that it was built with",
    "the GPU has too little memory for its weights",
    "the bytes are not an engine",
    "CUDA's driver or runtime is not there or does not work",
];

/// A binding with the smallest, best and largest shape of an input.
pub(in crate::tensorrt) type ProfiledPort = (Port, Direction, Option<[Vec<i64>; 3]>);

/// An engine that the runtime has taken. Fields are dropped in their order: each needs those below it.
pub(in crate::tensorrt) struct Engine {
    engine: abi::Engine,
    _runtime: abi::Runtime,
}

impl Engine {
    /// Hands the bytes to the runtime, on the GPU whose context is current.
    ///
    /// # Errors
    /// The runtime's reasons.
    pub(in crate::tensorrt) fn deserialize(library: &Library, bytes: &[u8]) -> Result<Self, String> {
        let runtime = library.runtime().ok_or_else(|| logger::errors("no runtime was made"))?;
        if let Some(place) = library.tables().validity {
            let mut diagnostics = 0u64;
            let size = bytes.len() as i64;
            // SAFETY: the runtime lives, the bytes live over the call, and `diagnostics` is written.
            let validity = unsafe { runtime.validity(place, bytes.as_ptr().cast(), size, &mut diagnostics) };
            let reasons = REASONS.iter().enumerate().filter(|(bit, _)| diagnostics >> bit & 1 == 1);
            let reasons: Vec<&str> = reasons.map(|(_, reason)| *reason).collect();
            if validity == INVALID && !reasons.is_empty() {
                let reasons = reasons.join("; ");
                return Err(format!("{reasons}: {}", logger::errors("the runtime says no more")));
            }
        }
        // SAFETY: as above; the engine is given to this value alone.
        let engine = unsafe {
            let engine = runtime.deserialize_engine(bytes.as_ptr().cast(), bytes.len(), std::ptr::null());
            abi::Engine::from_address(engine, library.tables())
        };
        let engine = engine.ok_or_else(|| logger::errors("the runtime gives no reason"))?;
        Ok(Engine { engine, _runtime: runtime })
    }

    /// Every binding in the engine's order, with the smallest, best and largest shape of its first profile where it
    /// is an input.
    ///
    /// # Errors
    /// A type, shape, place or layout that no tensor here has.
    pub(in crate::tensorrt) fn ports(&self) -> Result<Vec<ProfiledPort>, String> {
        // SAFETY: the engine lives; the indices are below the count, and the names are the engine's own.
        unsafe {
            let names = (0..self.engine.tensor_count()).map(|index| text(self.engine.tensor_name(index)));
            names.map(|name| self.port(&name)).collect()
        }
    }

    fn port(&self, port_name: &str) -> Result<ProfiledPort, String> {
        let c_name = name(port_name)?;
        let c_name = c_name.as_ptr();
        let of = |what: String| format!("binding {port_name}: {what}");
        // SAFETY: the engine lives, and the name ends in a zero.
        unsafe {
            let (location, format) = (self.engine.location(c_name), self.engine.format(c_name));
            if location != ON_DEVICE || format != LINEAR {
                let what =
                    format!("expected rows in device memory, found location {location}, format {format}");
                return Err(of(what));
            }
            let dtype = data_type(self.engine.data_type(c_name)).map_err(of)?;
            let shape = self.engine.dims(c_name).to_vec().map_err(of)?;
            let port = Port { name: port_name.to_owned(), dtype, shape, dim_names: Vec::new() };
            if self.engine.mode(c_name) == OUTPUT {
                return Ok((port, Direction::Output, None));
            }
            if self.engine.profile_count() == 0 {
                return Ok((port, Direction::Input, None));
            }
            let [least, best, most] =
                SELECTORS.map(|which| self.engine.profile_dims(c_name, 0, which).to_vec());
            let profile = [least.map_err(of)?, best.map_err(of)?, most.map_err(of)?];
            Ok((port, Direction::Input, Some(profile)))
        }
    }

    /// What the engine says of its layers, as JSON.
    ///
    /// # Errors
    /// The library's reasons.
    pub(in crate::tensorrt) fn information(&self) -> Result<String, String> {
        // SAFETY: the engine lives, the inspector is given to this value alone and its text copied while it lives.
        let information = unsafe {
            let inspector = abi::Inspector::from_address(self.engine.create_inspector(), self.engine.tables);
            let inspector = inspector.ok_or_else(|| logger::errors("no inspector was made"))?;
            text(inspector.engine_information(JSON))
        };
        if information.is_empty() {
            Err(logger::errors("the inspector says nothing"))
        } else {
            Ok(information)
        }
    }
}

/// Engines that run one behind the other, with the memory that they work in.
pub(in crate::tensorrt) struct Execution {
    links: Vec<Link>,
    stream: Stream,
    device: Device,
}

/// One of them.
struct Link {
    /// Before the engine: it needs it.
    context: abi::Context,
    engine: Engine,
    /// Its bindings.
    ports: Vec<(Port, Direction)>,
}

// SAFETY: the library's objects are bound to no thread, only to be used by one at a time, which `&mut self` sees to; the
// device's context is made current where memory is made, before every use.
unsafe impl Send for Execution {}

impl Execution {
    /// Makes engines ready to run on the device whose context they were taken into. What one gives the next take by its
    /// name.
    ///
    /// # Errors
    /// The library's or CUDA's reasons.
    pub(in crate::tensorrt) fn new(device: Device, engines: Vec<Engine>) -> Result<Self, String> {
        let stream = device.stream().map_err(cuda)?;
        let links = engines.into_iter().map(|engine| {
            // SAFETY: the engine lives, and the context is given to this value alone.
            let context = unsafe {
                let context = engine.engine.create_context(STATIC_MEMORY);
                abi::Context::from_address(context, engine.engine.tables)
            };
            let context = context.ok_or_else(|| logger::errors("no execution context was made"))?;
            let ports = engine.ports()?.into_iter().map(|(port, direction, _)| (port, direction)).collect();
            Ok(Link { context, engine, ports })
        });
        let links = links.collect::<Result<_, String>>()?;
        Ok(Execution { links, stream, device })
    }

    /// Runs the engines once: one bound tensor an input, and a tensor for each of the outputs asked for, of the type
    /// that the engine writes.
    ///
    /// # Errors
    /// A shape outside the profile; the library's or CUDA's reasons.
    pub(in crate::tensorrt) fn run(
        &mut self,
        inputs: &[Bound<'_>],
        outputs: &[&Binding],
    ) -> Result<Vec<Tensor>, String> {
        let memory = self.bind(inputs)?;
        let queued = self.enqueue();
        // Device memory lives until the results have been copied: the stream is waited for before that.
        let waited = self.stream.synchronize().map_err(cuda);
        queued?;
        waited?;
        let copied = outputs.iter().map(|output| {
            let found = memory.iter().find(|held| held.name == output.name);
            let held = found.ok_or_else(|| format!("output {}: the engine gives none", output.name))?;
            let mut tensor = Tensor::zeros(output.dtype, &held.shape).map_err(|error| error.to_string())?;
            held.buffer.download(0, tensor.bytes_mut()).map_err(cuda)?;
            Ok(tensor)
        });
        copied.collect()
    }

    /// Milliseconds of `repeats` runs, each from the GPU's start to its end, with inputs that are on the GPU: queued by
    /// the library, then replayed as a CUDA graph of its work; the second are none where it cannot be captured.
    ///
    /// # Errors
    /// As of [`Execution::run`].
    pub(in crate::tensorrt) fn time(
        &mut self,
        inputs: &[Bound<'_>],
        repeats: usize,
    ) -> Result<(Vec<f32>, Option<Vec<f32>>), String> {
        let memory = self.bind(inputs)?;
        let queued = self.timed(repeats, &mut || self.enqueue());
        let captured = self.stream.capture::<NotCaptured>(&mut || self.enqueue().map_err(|_| NotCaptured));
        let replayed =
            captured.ok().map(|graph| self.timed(repeats, &mut || self.stream.replay(&graph).map_err(cuda)));
        self.stream.synchronize().map_err(cuda)?;
        drop(memory);
        Ok((queued?, replayed.transpose()?))
    }

    fn timed(&self, repeats: usize, run: &mut dyn FnMut() -> Result<(), String>) -> Result<Vec<f32>, String> {
        let [start, end] = [self.device.event().map_err(cuda)?, self.device.event().map_err(cuda)?];
        // The first runs warm caches and clocks.
        for _ in 0..repeats.min(10) {
            run()?;
        }
        self.stream.synchronize().map_err(cuda)?;
        let mut times = Vec::with_capacity(repeats);
        for _ in 0..repeats {
            self.stream.record(&start).map_err(cuda)?;
            run()?;
            self.stream.record(&end).map_err(cuda)?;
            end.synchronize().map_err(cuda)?;
            times.push(end.milliseconds_since(&start).map_err(cuda)?);
        }
        Ok(times)
    }

    /// Gives every binding memory: inputs filled, what engines give empty.
    fn bind(&mut self, inputs: &[Bound<'_>]) -> Result<Vec<Held>, String> {
        let mut memory: Vec<Held> = Vec::new();
        for input in inputs {
            let tensor = input.tensor();
            let buffer = self.allocate(tensor.bytes().len())?;
            buffer.upload(0, tensor.bytes()).map_err(cuda)?;
            let name = input.binding().name.clone();
            memory.push(Held { name, shape: tensor.shape().to_vec(), buffer });
        }
        for link in &self.links {
            for (input, _) in link.ports.iter().filter(|(_, direction)| *direction == Direction::Input) {
                let held = memory.iter().find(|held| held.name == input.name);
                let held =
                    held.ok_or_else(|| format!("input {}: expected a tensor, found none", input.name))?;
                link.set_input(&input.name, &held.shape)?;
                link.set_address(&input.name, &held.buffer)?;
            }
            for (output, _) in link.ports.iter().filter(|(_, direction)| *direction == Direction::Output) {
                let shape = link.shape(&output.name)?;
                let tensor = Tensor::zeros(output.dtype, &shape).map_err(|error| error.to_string())?;
                let buffer = self.allocate(tensor.bytes().len())?;
                link.set_address(&output.name, &buffer)?;
                memory.push(Held { name: output.name.clone(), shape, buffer });
            }
        }
        Ok(memory)
    }

    fn enqueue(&self) -> Result<(), String> {
        for link in &self.links {
            // SAFETY: the context and the stream live; every binding has memory of its size, which whoever bound it keeps
            // until the stream has been waited for.
            if !unsafe { link.context.enqueue(self.stream.raw()) } {
                return Err(logger::errors("the engine was not queued"));
            }
        }
        Ok(())
    }

    /// The engines.
    pub(in crate::tensorrt) fn engines(&self) -> impl Iterator<Item = &Engine> {
        self.links.iter().map(|link| &link.engine)
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer, String> {
        self.device.alloc_zeroed(bytes).map_err(cuda)
    }
}

impl Link {
    fn set_input(&self, input: &str, shape: &[usize]) -> Result<(), String> {
        let (c_name, dims) = (name(input)?, Dims::of_shape(shape)?);
        // SAFETY: the context lives; name and dimensions live over the call.
        if unsafe { self.context.set_shape(c_name.as_ptr(), &dims) } {
            return Ok(());
        }
        Err(logger::errors(&format!("input {input}: the shape {shape:?} is refused")))
    }

    fn set_address(&self, binding: &str, buffer: &Buffer) -> Result<(), String> {
        let c_name = name(binding)?;
        // SAFETY: the context lives, and the name lives over the call. The memory is used when the engine runs.
        if unsafe { self.context.set_address(c_name.as_ptr(), buffer.at(0).0 as *mut _) } {
            return Ok(());
        }
        Err(logger::errors(&format!("binding {binding}: its memory is refused")))
    }

    /// The shape of an output, once all inputs have theirs.
    fn shape(&self, output: &str) -> Result<Vec<usize>, String> {
        let c_name = name(output)?;
        // SAFETY: the context lives, and the name lives over the call.
        let shape = unsafe { self.context.dims(c_name.as_ptr()) }.to_vec()?;
        let sizes: Result<Vec<usize>, _> = shape.iter().map(|size| usize::try_from(*size)).collect();
        sizes.map_err(|_| logger::errors(&format!("output {output}: its shape {shape:?} is not known")))
    }
}

/// Memory of a binding.
struct Held {
    name: String,
    shape: Vec<usize>,
    buffer: Buffer,
}

/// Work cannot be captured: it is not timed that way.
struct NotCaptured;

impl From<steadyhand_cuda_driver::Error> for NotCaptured {
    fn from(_: steadyhand_cuda_driver::Error) -> Self {
        NotCaptured
    }
}

fn cuda(error: steadyhand_cuda_driver::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::super::{Product, Version, tables};
    use super::*;
    use std::ffi::{CStr, c_char, c_void};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use steadyhand_fidelity::trace::Dtype;

    static DESTROYED: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn destroy(_: *mut c_void) {
        DESTROYED.fetch_add(1, Ordering::Relaxed);
    }

    extern "C" fn two(_: *mut c_void) -> i32 {
        2
    }

    extern "C" fn one(_: *mut c_void) -> i32 {
        1
    }

    extern "C" fn nothing(_: *mut c_void, _: *const c_char) -> i32 {
        0
    }

    extern "C" fn tensor_name(_: *mut c_void, index: i32) -> *const c_char {
        [c"tokens", c"output"][index as usize].as_ptr()
    }

    fn is_output(name: *const c_char) -> bool {
        // SAFETY: the tests hand over strings that end in a zero.
        unsafe { CStr::from_ptr(name) == c"output" }
    }

    /// kINPUT is 1, kOUTPUT 2.
    extern "C" fn mode(_: *mut c_void, name: *const c_char) -> i32 {
        1 + i32::from(is_output(name))
    }

    /// kBF16 is 7, kFLOAT 0.
    extern "C" fn dtype(_: *mut c_void, name: *const c_char) -> i32 {
        if is_output(name) { 0 } else { 7 }
    }

    extern "C" fn shape(_: *mut c_void, _: *const c_char) -> Dims {
        Dims { count: 2, sizes: [-1, 4, 0, 0, 0, 0, 0, 0] }
    }

    extern "C" fn profile_shape(_: *mut c_void, _: *const c_char, _: i32, which: i32) -> Dims {
        Dims { count: 2, sizes: [i64::from(which) + 1, 4, 0, 0, 0, 0, 0, 0] }
    }

    /// Objects with these functions at these places of their implementation's table, which live until the test ends.
    fn object(functions: &[(usize, *const c_void)]) -> *mut c_void {
        let mut table = vec![std::ptr::null(); 40];
        for (place, function) in functions {
            table[*place] = *function;
        }
        let table: &'static [*const c_void] = Vec::leak(table);
        let implementation: &'static [*const c_void] = Vec::leak(vec![table.as_ptr().cast()]);
        let own_table: &'static [*const c_void] = Vec::leak(vec![std::ptr::null(), destroy as *const c_void]);
        let public: &'static mut [*const c_void] =
            Vec::leak(vec![own_table.as_ptr().cast(), implementation.as_ptr().cast()]);
        public.as_mut_ptr().cast()
    }

    /// Stands for the library: its bindings are read through tables as the library's are.
    #[test]
    fn bindings_are_read_and_objects_destroyed_once() {
        let address = object(&[
            (8, one as *const c_void),
            (15, shape as *const c_void),
            (16, dtype as *const c_void),
            (17, nothing as *const c_void),
            (19, mode as *const c_void),
            (22, nothing as *const c_void),
            (25, profile_shape as *const c_void),
            (26, two as *const c_void),
            (27, tensor_name as *const c_void),
        ]);
        let tables =
            tables::of(Product::TensorRtRtx, Version { major: 1, minor: 6, patch: 0 }).expect("known");
        // SAFETY: the objects are laid out as the library's, with every function that is called below.
        let engine = unsafe {
            Engine {
                engine: abi::Engine::from_address(address, tables).expect("an address"),
                _runtime: abi::Runtime::from_address(object(&[]), tables).expect("an address"),
            }
        };
        let ports = engine.ports().expect("two bindings");
        let [(tokens, Direction::Input, Some(profile)), (output, Direction::Output, None)] = &ports[..]
        else {
            panic!("{ports:?}");
        };
        assert_eq!(
            (tokens.name.as_str(), tokens.dtype, &tokens.shape[..]),
            ("tokens", Dtype::Bf16, &[-1, 4][..])
        );
        assert_eq!(profile, &[vec![1, 4], vec![2, 4], vec![3, 4]]);
        assert_eq!((output.name.as_str(), output.dtype), ("output", Dtype::F32));
        drop(engine);
        assert_eq!(DESTROYED.load(Ordering::Relaxed), 2);
    }
}
