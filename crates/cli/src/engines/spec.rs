//! The one way that engines are written: `cpu`, `cuda:bf16`, `trace:DIR`.

use super::{Asked, Examined, KINDS, Kind, Open, Options};
use anyhow::{Context, Result, bail};
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use steadyhand_gr00t::Error;
use steadyhand_gr00t::engine::Backend;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::session::NoiseSource;
use steadyhand_serve::Recording;

/// An engine as it was typed.
#[derive(Clone)]
pub struct EngineSpec {
    kind: &'static Kind,
    argument: Option<String>,
}

impl EngineSpec {
    /// Help on engines that run here.
    pub fn running_help() -> String {
        let kinds = KINDS.iter().filter(|kind| kind.runs());
        let kinds: Vec<String> = kinds.map(|kind| format!("{}: {}", kind.alone(), kind.about)).collect();
        format!("What runs the model, alone or with its precision as cuda:bf16. {}", kinds.join("; "))
    }

    /// Help on engines that can be examined.
    pub fn help(what: &str) -> String {
        let kinds: Vec<String> = KINDS.iter().map(|kind| format!("{}: {}", kind.form, kind.about)).collect();
        format!("{what} {}", kinds.join("; "))
    }

    /// An engine that runs here, with or without its precision.
    ///
    /// # Errors
    /// Another one: names those that do.
    pub fn running(text: &str) -> Result<Self, String> {
        let kinds = || KINDS.iter().filter(|kind| kind.runs());
        let name = text.split_once(':').map_or(text, |(name, _)| name);
        if kinds().any(|kind| kind.name == name) {
            return text.parse();
        }
        let known: Vec<&str> = kinds().map(Kind::alone).collect();
        Err(format!("expected {}, found `{text}`", either(&known)))
    }

    /// An engine that is evaluated: one that runs here, a server, or what a server recorded.
    ///
    /// # Errors
    /// Another one: names those.
    pub fn evaluated(text: &str) -> Result<Self, String> {
        let remote = super::remote::KIND;
        if let Some(kind) = KINDS.iter().find(|kind| kind.name == remote.name && kind.name == text) {
            return Ok(EngineSpec { kind, argument: None });
        }
        match text.split_once(':') {
            Some((name, _)) if [remote.name, super::trace::KIND.name].contains(&name) => text.parse(),
            _ => Self::running(text)
                .map_err(|what| what.replacen(" or ", &format!(", {} or ", remote.name), 1)),
        }
    }

    /// An engine that is served: one that runs here, or the reference with a known fault.
    ///
    /// # Errors
    /// Another one: names those.
    pub fn served(text: &str) -> Result<Self, String> {
        let fault = super::fault::KIND;
        match text.split_once(':') {
            Some((name, _)) if name == fault.name => text.parse(),
            _ => {
                Self::running(text).map_err(|what| what.replacen(" or ", &format!(", {} or ", fault.form), 1))
            }
        }
    }

    /// An engine of one of these kinds, alone.
    ///
    /// # Errors
    /// Another one: names these.
    pub fn one_of(text: &str, kinds: &[&str]) -> Result<Self, String> {
        match kinds.contains(&text) {
            true => text.parse(),
            false => Err(format!("expected {}, found `{text}`", either(kinds))),
        }
    }

    /// The name of its kind.
    pub fn name(&self) -> &'static str {
        self.kind.name
    }

    /// What stands after the colon.
    pub fn argument(&self) -> Option<&str> {
        self.argument.as_deref()
    }

    /// Whether it is the reference in f32.
    pub fn is_reference(&self) -> bool {
        self.kind.name == "cpu" && self.named_precision().is_none_or(|name| name == "f32")
    }

    /// Whether its components take tensors from outside.
    pub fn exchanges(&self) -> bool {
        self.kind.exchanges
    }

    /// The precision that is part of its name, as in `cuda:bf16`.
    pub fn named_precision(&self) -> Option<&str> {
        self.argument().filter(|_| matches!(self.kind.open, Open::Running { .. }))
    }

    /// Whether its name has the file that it is opened from.
    pub fn is_stored(&self) -> bool {
        matches!(self.kind.open, Open::Stored { .. })
    }

    /// The precision that its file says it runs at.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn stored_precision(&self) -> Result<Option<PrecisionPolicy>> {
        match self.kind.open {
            Open::Stored { precision, .. } => precision(self.file()),
            Open::Running { .. } | Open::Examined { .. } => Ok(None),
        }
    }

    /// What it runs at where no option says: its own word, or that of its kind.
    ///
    /// # Errors
    /// A preset or a file that cannot be read; a file that does not say it.
    pub fn precision(&self) -> Result<PrecisionPolicy> {
        let name = match self.kind.open {
            Open::Running { .. } => self.named_precision().unwrap_or("f32"),
            Open::Examined { precision, .. } => precision,
            Open::Stored { .. } => {
                return self.stored_precision()?.with_context(|| {
                    format!("{self}: expected a record beside the file that says its precision, found none")
                });
            }
        };
        Ok(PrecisionPolicy::load(name)?)
    }

    /// The file that it is opened from.
    fn file(&self) -> &Path {
        Path::new(self.argument().unwrap_or_default())
    }

    /// What a server recorded, where it is that.
    ///
    /// # Errors
    /// A trace that cannot be read.
    pub fn recording(&self) -> Result<Option<Recording>> {
        match (self.name(), self.argument()) {
            (name, Some(folder)) if name == super::trace::KIND.name => super::trace::recording(folder),
            _ => Ok(None),
        }
    }

    /// The noise that came with it, if any.
    pub fn noise(&self) -> Option<NoiseSource> {
        match self.kind.open {
            Open::Running { .. } | Open::Stored { .. } => None,
            Open::Examined { noise, .. } => noise(self.argument().unwrap_or_default()),
        }
    }

    /// What opens it.
    ///
    /// # Errors
    /// An option that belongs to another kind; an engine that does not run here.
    pub fn backend(&self, options: &Options) -> Result<Box<dyn Backend>> {
        options.check(&[self])?;
        self.opening(options)
    }

    /// What opens it; of `options` it reads its own.
    fn opening(&self, options: &Options) -> Result<Box<dyn Backend>> {
        match self.kind.open {
            Open::Running { backend, .. } => backend(options),
            Open::Stored { backend, .. } => backend(self.file(), options),
            Open::Examined { .. } if self.name() == super::fault::KIND.name => {
                Ok(Box::new(super::fault::Planted(self.argument().unwrap_or_default().to_owned())))
            }
            Open::Examined { .. } => bail!("{self}: expected an engine that runs here"),
        }
    }

    /// Opens it to be examined.
    ///
    /// # Errors
    /// What is named does not exist or has another form; the runtime or the GPU that it needs is not there.
    pub fn examine(&self, asked: &Asked) -> Result<Examined> {
        match self.kind.open {
            Open::Examined { open, .. } => open(self.argument().unwrap_or_default(), asked),
            Open::Running { .. } | Open::Stored { .. } => {
                let session = &asked.scene.session;
                // Whatever it claims to run at.
                let own = match self.stored_precision()? {
                    None if self.is_stored() => asked.precision.clone(),
                    _ => session.precision(self.precision()?)?,
                };
                let backend = self.opening(asked.options)?;
                let opened = backend.open(session.parts.model.clone(), own, asked.denoising_steps);
                Ok(Examined::Running(opened.with_context(|| format!("{self} cannot run"))?))
            }
        }
    }
}

impl FromStr for EngineSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, argument) = match text.split_once(':') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
            let forms: Vec<&str> = KINDS.iter().map(|kind| kind.form).collect();
            return Err(format!("expected {}, found `{text}`", either(&forms)));
        };
        match (&kind.open, argument) {
            (Open::Running { .. }, Some(argument)) => drop(precision(argument)?),
            (Open::Examined { fits, .. }, argument) if !argument.is_some_and(fits) => {
                return Err(format!("expected `{}`, found `{text}`", kind.form));
            }
            (Open::Stored { .. }, None | Some("")) => {
                return Err(format!("expected `{}`, found `{text}`", kind.form));
            }
            _ => {}
        }
        Ok(EngineSpec { kind, argument: argument.map(str::to_owned) })
    }
}

impl fmt::Display for EngineSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name)?;
        self.argument.iter().try_for_each(|argument| write!(f, ":{argument}"))
    }
}

impl fmt::Debug for EngineSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl PartialEq for EngineSpec {
    fn eq(&self, other: &Self) -> bool {
        (self.kind.name, &self.argument) == (other.kind.name, &other.argument)
    }
}

impl Kind {
    /// Whether its engines run here.
    fn runs(&self) -> bool {
        !matches!(self.open, Open::Examined { .. })
    }

    /// The least that names one: a file is part of it, a precision is not.
    fn alone(&self) -> &'static str {
        match self.open {
            Open::Stored { .. } => self.form,
            Open::Running { .. } | Open::Examined { .. } => self.name,
        }
    }
}

/// `a, b or c`.
pub(super) fn either(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// A preset's name, or the path of a TOML file, which is read where the model is known.
pub fn precision(text: &str) -> Result<String, String> {
    if !text.ends_with(".toml") {
        let what = |error: Error| error.to_string().trim_start_matches("precision: ").to_owned();
        PrecisionPolicy::preset(text).map_err(what)?;
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_written_as_they_are_read() {
        for (text, name, precision) in [
            ("cpu", "cpu", None),
            ("cpu:bf16", "cpu", Some("bf16")),
            ("cuda:fp16", "cuda", Some("fp16")),
            ("auto:mixed", "auto", Some("mixed")),
            ("onnxruntime:f32", "onnxruntime", Some("f32")),
            ("tensorrt:dit.engine", "tensorrt", None),
            ("cpu:a/my.toml", "cpu", Some("a/my.toml")),
            ("trace:a:b", "trace", None),
            ("expected:a#b#misread", "expected", None),
            ("fault:unwritten-tail:weak", "fault", None),
            ("remote:robot.local:5555", "remote", None),
            ("remote:[::1]:5555", "remote", None),
        ] {
            let spec: EngineSpec = text.parse().expect(text);
            assert_eq!((spec.name(), spec.named_precision()), (name, precision), "{text}");
            assert_eq!(spec.to_string(), text);
        }
        for (text, precision) in [("cpu", "f32"), ("cuda:fp16", "fp16"), ("trace:a:b", "bf16")] {
            let spec: EngineSpec = text.parse().expect(text);
            assert_eq!(spec.precision().expect(text).name(), precision);
        }
    }

    #[test]
    fn what_is_no_engine_is_refused_with_what_is() {
        let refused = |text: &str| text.parse::<EngineSpec>().expect_err(text);
        assert_eq!(refused("expected:a"), "expected `expected:DIR#NAME`, found `expected:a`");
        assert!(refused("trace").contains("`trace:DIR`") && refused("cpu:fp4").contains("`fp4`"));
        let all = refused("gpu");
        assert!(KINDS.iter().all(|kind| all.contains(kind.form)), "{all}");
        let running = EngineSpec::running("nothing").expect_err("no engine");
        // `expected` is an engine too.
        let listed = running.strip_prefix("expected ").expect("what was expected");
        for kind in KINDS {
            assert_eq!(listed.contains(kind.name), kind.runs(), "{running}");
        }
        assert!(EngineSpec::running("trace:a").is_err() && EngineSpec::running("tensorrt:a").is_ok());
        assert_eq!(refused("tensorrt"), "expected `tensorrt:FILE`, found `tensorrt`");
        assert_eq!(refused("remote:host"), "expected `remote:HOST:PORT`, found `remote:host`");
        assert!(EngineSpec::running("remote:host:1").is_err());
        assert_eq!(EngineSpec::evaluated("remote").map(|spec| spec.name()), Ok("remote"));
        assert!(EngineSpec::evaluated("remote:host:x").is_err());
        let evaluated = EngineSpec::evaluated("nothing").expect_err("no engine");
        assert!(evaluated.contains(", remote or ") && evaluated.contains("cpu"), "{evaluated}");
        assert!(EngineSpec::one_of("cpu:f32", &["cpu"]).is_err());
    }
}
