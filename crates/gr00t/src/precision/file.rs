//! Policies as TOML files that a person can read and edit.

use super::{Pattern, PrecisionPolicy, Rule, Scale};
use crate::checkpoint::files;
use crate::precision::Calibration;
use crate::{Error, Result};
use serde::Deserialize;
use std::fmt::{Display, Write};
use std::path::Path;
use std::str::FromStr;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    base: String,
    calibration: Option<String>,
    #[serde(default)]
    site: Vec<Table>,
}

/// One `[[site]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    pattern: String,
    storage: Option<String>,
    compute: Option<String>,
    accumulate: Option<String>,
    scale: Option<String>,
    weights: Option<String>,
    activations: Option<String>,
}

impl PrecisionPolicy {
    /// Reads a policy: `base`, a preset; `calibration`, a file whose path starts from the policy's folder; and
    /// ordered `[[site]]` tables of `pattern` and any of `storage`, `compute`, `accumulate`, `scale`, `weights` and
    /// `activations`, of which later ones win. The policy is named after the file. docs/PRECISION.md has an example.
    ///
    /// # Errors
    /// A file that cannot be read, is not such TOML, or names a preset, format, scale or pattern that does not
    /// exist: with the table's number. Whether patterns match a model is for [`PrecisionPolicy::check`].
    pub fn from_toml_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = files::text(path)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let policy = Self::from_toml(&text, path)?;
        let file = std::path::absolute(path).map_err(|source| Error::io(path, source))?;
        Ok(PrecisionPolicy { name, file: Some(file), ..policy })
    }

    /// The policy that [`PrecisionPolicy::identity`] gave: a preset's name, or the text of a policy, which is named after
    /// its base. `origin` is the file that holds it: errors name it.
    ///
    /// # Errors
    /// Neither; as [`PrecisionPolicy::from_toml_file`].
    pub fn from_identity(identity: &str, origin: &Path) -> Result<Self> {
        match identity.contains('=') {
            true => Self::from_toml(identity, origin),
            false => Self::preset(identity).map_err(|error| Error::file(origin, error.to_string())),
        }
    }

    /// A policy's text, which `path` holds.
    fn from_toml(text: &str, path: &Path) -> Result<Self> {
        let document: Document = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
            let line = line.map_or(String::new(), |line| format!("line {line}: "));
            Error::file(path, format!("{line}{}", error.message()))
        })?;
        let mut policy = Self::preset(&document.base).map_err(|_| {
            let known = Self::PRESETS.join(", ");
            Error::file(path, format!("base: expected one of {known}, found `{}`", document.base))
        })?;
        for (index, table) in document.site.iter().enumerate() {
            let place = |what: String| Error::file(path, format!("[[site]] {}: {what}", index + 1));
            policy = policy.with_rule(table.rule().map_err(place)?);
        }
        if let Some(file) = &document.calibration {
            let folder = path.parent().unwrap_or(Path::new(""));
            policy = policy.with_calibration(Calibration::load(&folder.join(file))?);
        }
        Ok(policy)
    }

    /// The policy as [`PrecisionPolicy::from_toml_file`] reads it. Random rounding is not part of a file.
    pub fn to_toml(&self) -> String {
        self.to_toml_with(self.calibration().and_then(Calibration::file).map(Path::display))
    }

    /// The same, with `calibration` as where a calibration lies: a path from the folder of the policy's file.
    pub fn to_toml_with(&self, calibration: Option<impl Display>) -> String {
        let mut text = format!("base = {}\n", quoted(self.base));
        put(&mut text, "calibration", calibration);
        for rule in &self.rules[self.inherited..] {
            text.push_str("\n[[site]]\n");
            put(&mut text, "pattern", Some(&rule.pattern));
            put(&mut text, "storage", rule.storage);
            put(&mut text, "compute", rule.compute);
            put(&mut text, "accumulate", rule.accumulate);
            put(&mut text, "scale", rule.scale);
            put(&mut text, "weights", rule.weights.map(or_none));
            put(&mut text, "activations", rule.activations.map(or_none));
        }
        text
    }
}

impl Table {
    fn rule(&self) -> Result<Rule, String> {
        let pattern = Pattern::parse(&self.pattern).map_err(|error| error.to_string())?;
        let rule = Rule {
            pattern,
            storage: parse("storage", self.storage.as_deref())?,
            compute: parse("compute", self.compute.as_deref())?,
            accumulate: parse("accumulate", self.accumulate.as_deref())?,
            scale: parse::<Scale>("scale", self.scale.as_deref())?,
            weights: parse_or_none("weights", self.weights.as_deref())?,
            activations: parse_or_none("activations", self.activations.as_deref())?,
        };
        let name = &self.pattern;
        let formats = [rule.storage, rule.compute, rule.accumulate];
        let quantized = rule.weights.is_some() || rule.activations.is_some();
        if formats.iter().all(Option::is_none) && rule.scale.is_none() && !quantized {
            let known = "storage, compute, accumulate, scale, weights, activations";
            return Err(format!("`{name}`: expected at least one of {known}, found none"));
        }
        match (rule.compute, rule.scale) {
            (Some(compute), Some(scale)) if compute.bits() > 8 && scale != Scale::None => Err(format!(
                "`{name}`: scale: expected with compute = \"fp8_e4m3\" or \"fp8_e5m2\", found with `{compute}`"
            )),
            _ => Ok(rule),
        }
    }
}

fn parse<T: FromStr>(field: &str, text: Option<&str>) -> Result<Option<T>, String>
where
    T::Err: Display,
{
    text.map(str::parse).transpose().map_err(|error: T::Err| {
        let error = error.to_string();
        format!("{field}: {}", error.split_once(": ").map_or(&*error, |(_, what)| what))
    })
}

/// A format, or `none`, which undoes an earlier rule's.
fn parse_or_none<T: FromStr>(field: &str, text: Option<&str>) -> Result<Option<Option<T>>, String>
where
    T::Err: Display,
{
    match text {
        Some("none") => Ok(Some(None)),
        named => Ok(parse(field, named)?.map(Some)),
    }
}

fn or_none(format: Option<impl Display>) -> String {
    format.map_or("none".to_owned(), |format| format.to_string())
}

fn put(text: &mut String, field: &str, value: Option<impl Display>) {
    if let Some(value) = value {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{field} = {}", quoted(&value.to_string()));
    }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Site;
    use crate::precision::Formats;
    use steadyhand_fidelity::Format;

    const EXAMPLE: &str = r#"
base = "mixed"

[[site]]
pattern = "dit.block.*"
compute = "fp8_e4m3"
scale = "per_channel"

[[site]]
pattern = "dit.block.{30..31}"
compute = "bf16"

[[site]]
pattern = "dit.block.31.attention"
storage = "bf16"
accumulate = "bf16"

[[site]]
pattern = "language"
weights = "uint8_per_channel"
activations = "int8_per_token"

[[site]]
pattern = "language.layer.0"
activations = "none"
"#;

    fn read(text: &str) -> Result<PrecisionPolicy> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("mine.toml");
        std::fs::write(&path, text).expect("written");
        PrecisionPolicy::from_toml_file(&path)
    }

    #[test]
    fn later_rules_win_and_keep_what_they_do_not_name() {
        let policy = read(EXAMPLE).expect("a policy");
        assert_eq!(policy.name(), "mine");
        let at = |path: &str| policy.formats(&Site::in_step(path, 1));
        let mixed = Formats::new(Format::F32, Format::Bf16, Format::F32);
        assert_eq!(at("dit.output"), mixed);
        let fp8 = Formats { compute: Format::Fp8E4m3, scale: Scale::PerChannel, ..mixed };
        assert_eq!(at("dit.block.29.fc1"), fp8);
        assert_eq!(at("dit.block.30.fc1"), mixed);
        let last = Formats { storage: Format::Bf16, accumulate: Format::Bf16, ..mixed };
        assert_eq!(at("dit.block.31.attention"), last);
        let quantized = at("language.layer.1.gate");
        assert_eq!(quantized.weights, "uint8_per_channel".parse().ok());
        assert_eq!(quantized.activations, "int8_per_token".parse().ok());
        assert_eq!(at("language.layer.0.gate"), Formats { activations: None, ..quantized });
        let all: Vec<_> = policy.all_formats().collect();
        assert!([mixed, fp8, last].iter().all(|formats| all.contains(formats)));
    }

    #[test]
    fn a_policy_survives_its_text() {
        let policy = read(EXAMPLE).expect("a policy");
        let again = read(&policy.to_toml()).expect("its own text");
        assert_eq!(again.to_toml(), policy.to_toml());
        assert_eq!(again.rules, policy.rules);
        for name in PrecisionPolicy::PRESETS {
            let preset = PrecisionPolicy::preset(name).expect("a preset");
            let read = read(&preset.to_toml()).expect("a preset's text");
            assert_eq!((read.rules, read.formats), (preset.rules, preset.formats), "{name}");
        }
        let narrow = Formats::new(Format::Bf16, Format::Bf16, Format::F32);
        let everywhere = PrecisionPolicy::preset("f32").expect("a preset").with("", narrow);
        assert_eq!(read(&everywhere.to_toml()).expect("its text").formats_of("euler"), narrow);
        assert_eq!(quoted("a\"b\\c\n"), r#""a\"b\\c\u000A""#);
    }

    #[test]
    fn slips_are_named_with_their_place() {
        let site = "base = \"f32\"\n[[site]]\npattern = \"dit\"\n";
        for (text, parts) in [
            ("base = \"fp4\"".to_owned(), &["mine.toml", "base", "mixed-fp16", "`fp4`"][..]),
            ("bases = \"f32\"".to_owned(), &["line 1", "bases"]),
            ("base = \"f32\"\nbase = 3".to_owned(), &["line 2"]),
            (site.to_owned(), &["[[site]] 1", "`dit`", "at least one"]),
            (format!("{site}storage = \"int8\""), &["[[site]] 1", "storage: expected f32", "`int8`"]),
            (format!("{site}scale = \"per_row\""), &["scale: expected none", "`per_row`"]),
            (format!("{site}compute = \"bf16\"\nscale = \"per_tensor\""), &["`dit`", "scale", "`bf16`"]),
            (
                format!("{site}activations = \"int4\""),
                &["activations: expected", "uint8_per_token", "`int4`"],
            ),
            (format!("{site}dtype = \"bf16\""), &["line 4", "dtype"]),
            (
                "base = \"f32\"\n[[site]]\npattern = \"dit..x\"\nstorage = \"f32\"".to_owned(),
                &["pattern", "dit..x"],
            ),
            ("base = \"fp8\"\ncalibration = \"none.json\"".to_owned(), &["none.json"]),
        ] {
            let error = read(&text).expect_err(&text).to_string();
            for part in parts {
                assert!(error.contains(part), "no {part:?} in {error}");
            }
        }
    }
}
