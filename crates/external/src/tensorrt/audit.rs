//! An engine against a precision policy: its bindings, and the operations that it was built from.

use super::record::{Operation, OperationKind};
use crate::bindings::{Bindings, Direction};
use steadyhand_fidelity::Format;
use steadyhand_fidelity::trace::Dtype;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::ops::onnx::{Port, PortDim, Products};
use steadyhand_gr00t::precision::PrecisionPolicy;

const NONE: &str = "none";

/// One comparison of an audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was compared, such as `input vl_features`.
    pub what: String,
    /// What the policy asks for.
    pub expected: String,
    /// What the engine has.
    pub found: String,
}

impl Check {
    /// A comparison of these two.
    pub fn new(what: impl Into<String>, expected: impl ToString, found: impl ToString) -> Self {
        Check { what: what.into(), expected: expected.to_string(), found: found.to_string() }
    }

    /// Whether the engine has what the policy asks for.
    pub fn agrees(&self) -> bool {
        self.expected == self.found
    }
}

/// Compares an engine's bindings with those of a graph exported at the policy: type and shape of each, but for open
/// dimensions, and none more or less.
pub fn audit_bindings(bindings: &Bindings, expected: &[Port]) -> Vec<Check> {
    let direction = |is_output: bool| if is_output { Direction::Output } else { Direction::Input };
    let mut checks: Vec<Check> = Vec::with_capacity(expected.len());
    for port in expected {
        let found = bindings.get(&port.name).filter(|found| found.direction == direction(port.is_output));
        // An engine may fix a dimension that its graph leaves open.
        let dims = port.dims.iter().enumerate().map(|(index, dim)| match dim {
            PortDim::Fixed(size) => *size as i64,
            PortDim::Open(_) => found.and_then(|found| found.shape.get(index)).copied().unwrap_or(-1),
        });
        let wanted = format!("{} {:?}", port.dtype, dims.collect::<Vec<_>>());
        let found = found.map_or(NONE.to_owned(), |found| format!("{} {:?}", found.dtype, found.shape));
        checks.push(Check::new(format!("{} {}", direction(port.is_output), port.name), wanted, found));
    }
    let unexpected = bindings.iter().filter(|binding| {
        !expected
            .iter()
            .any(|port| port.name == binding.name && direction(port.is_output) == binding.direction)
    });
    for binding in unexpected {
        let found = format!("{} {:?}", binding.dtype, binding.shape);
        checks.push(Check::new(format!("{} {}", binding.direction, binding.name), NONE, found));
    }
    checks
}

/// Compares the operations that an engine was built from with the policy, site by site: matrix products have the
/// compute format (the accumulation format where the graph was exported with widened products), softmax and
/// normalizations the accumulation format, and every site that multiplies has a product.
pub fn audit_operations(
    operations: &[Operation],
    policy: &PrecisionPolicy,
    products: Products,
    sites: &[ModelSite],
) -> Vec<Check> {
    let known = |site: &str| sites.iter().any(|known| known.path == site);
    let mut checks = Vec::with_capacity(operations.len());
    for operation in operations {
        let Some(site) = site_of(&operation.name).filter(|site| known(site)) else { continue };
        let formats = policy.formats_of(site);
        let expected = match (operation.kind, products) {
            (OperationKind::Product, Products::Native) => formats.compute,
            _ => formats.accumulate,
        };
        let found = operation.dtype.map_or("less than a byte".to_owned(), |dtype| dtype.to_string());
        let what = format!("{} {}", operation.kind, operation.name);
        checks.push(Check::new(what, dtype_name(expected), found));
    }
    for site in sites.iter().filter(|site| site.operation.multiplies()) {
        let is_its = |operation: &&Operation| {
            operation.kind == OperationKind::Product && site_of(&operation.name) == Some(site.path.as_str())
        };
        if !operations.iter().any(|operation| is_its(&operation)) {
            checks.push(Check::new(format!("site {}", site.path), "a product", NONE));
        }
    }
    checks
}

/// The site of a node's name, without its Euler step: `dit.block.7.query` of `step.2.dit.block.7.query/MatMul`.
fn site_of(node: &str) -> Option<&str> {
    let (site, _) = node.split_once('/')?;
    let path = site.strip_prefix("step.").and_then(|rest| rest.split_once('.')).map(|(_, path)| path);
    Some(path.unwrap_or(site))
}

/// A format by the name of the type that holds it.
fn dtype_name(format: Format) -> String {
    let dtype = Dtype::ALL.into_iter().find(|dtype| dtype.format() == Some(format));
    dtype.map_or_else(|| format.to_string(), |dtype| dtype.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::Binding;
    use steadyhand_gr00t::ops::Operation as SiteOperation;

    fn bindings(dtype: Dtype) -> Bindings {
        let of = |name: &str, direction, shape: &[i64]| Binding {
            name: name.to_owned(),
            direction,
            dtype,
            shape: shape.to_vec(),
            profile: None,
        };
        Bindings::new(vec![
            of("tokens", Direction::Input, &[-1, 8]),
            of("output", Direction::Output, &[-1, 8]),
        ])
    }

    fn ports(dtype: Dtype) -> Vec<Port> {
        let dims = || vec![PortDim::Open("batch".to_owned()), PortDim::Fixed(8)];
        let of = |name: &str, is_output| Port { name: name.to_owned(), is_output, dtype, dims: dims() };
        vec![of("tokens", false), of("output", true)]
    }

    #[test]
    fn bindings_are_compared_by_name() {
        assert!(audit_bindings(&bindings(Dtype::Bf16), &ports(Dtype::Bf16)).iter().all(Check::agrees));
        let found = audit_bindings(&bindings(Dtype::F16), &ports(Dtype::Bf16));
        assert_eq!(found[1], Check::new("output output", "BF16 [-1, 8]", "F16 [-1, 8]"));
        let mut fixed = ports(Dtype::Bf16);
        fixed[0].dims = vec![PortDim::Fixed(1), PortDim::Open("width".to_owned())];
        let fixed = audit_bindings(&bindings(Dtype::Bf16), &fixed);
        assert_eq!(fixed[0], Check::new("input tokens", "BF16 [1, 8]", "BF16 [-1, 8]"));
        let missing = audit_bindings(&bindings(Dtype::Bf16), &ports(Dtype::Bf16)[..1]);
        assert_eq!(missing[1], Check::new("output output", "none", "BF16 [-1, 8]"));
        let more = audit_bindings(&Bindings::new(Vec::new()), &ports(Dtype::Bf16));
        assert!(more.len() == 2 && more.iter().all(|check| check.found == "none"));
    }

    #[test]
    fn operations_are_compared_by_site() {
        let site = |path: &str| ModelSite { path: path.to_owned(), operation: SiteOperation::Linear };
        let sites = [site("dit.block.0.query"), site("dit.block.1.query")];
        let product = |name: &str, dtype| Operation {
            name: name.to_owned(),
            kind: OperationKind::Product,
            dtype: Some(dtype),
        };
        let operations = [
            product("step.3.dit.block.0.query/MatMul", Dtype::Bf16),
            product("dit.block.1.query/MatMul.1", Dtype::F32),
        ];
        let policy = PrecisionPolicy::preset("bf16").expect("a preset");
        let found = audit_operations(&operations, &policy, Products::Native, &sites);
        assert!(found[0].agrees() && !found[1].agrees(), "{found:?}");
        assert_eq!(found[1], Check::new("product dit.block.1.query/MatMul.1", "BF16", "F32"));
        let widened = audit_operations(&operations, &policy, Products::Widened, &sites);
        assert!(!widened[0].agrees() && widened[1].agrees(), "{widened:?}");
        let missing = audit_operations(&operations[..1], &policy, Products::Native, &sites);
        assert_eq!(missing[1], Check::new("site dit.block.1.query", "a product", "none"));
    }
}
