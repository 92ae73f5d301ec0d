//! The names that a pickle may use: what PyTorch's own loader for weights allows, and numbers of NumPy, which training
//! scripts put beside them. Each stands for a description; none is ever called.

use std::fmt;

use super::pickle::{Object, Pickle, Tensor, Value};
use super::types::{Element, UNTYPED};

/// Most dimensions of a tensor that are read: weights have two, convolutions up to five.
pub(super) const DIMENSION_LIMIT: usize = 8;

/// What a name of Python stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    /// `collections.OrderedDict`, and `Counter`.
    OrderedDict,
    /// A class of storages.
    Storage(Element),
    /// A type of elements.
    DType(Element),
    /// `torch.Size`: a list.
    Size,
    /// `torch.Tensor`, as a type beside other arguments.
    Tensor,
    /// `torch.nn.parameter.Parameter`: a tensor.
    Parameter,
    /// `torch._utils._rebuild_tensor(storage, offset, size, stride)`, and its second version, which adds what
    /// only training needs.
    RebuildTensor,
    /// Its third version, which adds the type of the elements.
    RebuildTyped,
    /// `torch._utils._rebuild_parameter(tensor, ...)`, with or without state.
    RebuildParameter,
    /// `torch._tensor._rebuild_from_type_v2(function, type, arguments, state)`.
    RebuildFromType,
    /// What makes tensors of a kind that is not read: the kind.
    OtherTensor(&'static str),
    /// What makes something that no tensor needs.
    Inert,
}

impl fmt::Display for Global {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OrderedDict => f.write_str("OrderedDict"),
            Self::Storage(element) | Self::DType(element) => f.write_str(element.name),
            Self::Size => f.write_str("torch.Size"),
            Self::Tensor => f.write_str("torch.Tensor"),
            Self::Parameter => f.write_str("Parameter"),
            Self::RebuildTensor => f.write_str("_rebuild_tensor_v2"),
            Self::RebuildTyped => f.write_str("_rebuild_tensor_v3"),
            Self::RebuildParameter => f.write_str("_rebuild_parameter"),
            Self::RebuildFromType => f.write_str("_rebuild_from_type_v2"),
            Self::OtherTensor(kind) => write!(f, "a {kind} tensor"),
            Self::Inert => f.write_str("a value"),
        }
    }
}

impl Global {
    /// What `module.name` stands for; `None` for every name that is not known.
    pub(super) fn find(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict" | "Counter") => Self::OrderedDict,
            ("torch", "Size") => Self::Size,
            ("torch", "Tensor") => Self::Tensor,
            ("torch.nn.parameter", "Parameter") => Self::Parameter,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v3") => Self::RebuildTyped,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Self::RebuildParameter,
            ("torch._tensor", "_rebuild_from_type_v2") => Self::RebuildFromType,
            ("torch._utils", "_rebuild_qtensor") => Self::OtherTensor("quantised"),
            ("torch._utils", "_rebuild_sparse_tensor") => Self::OtherTensor("sparse"),
            ("torch._utils", "_rebuild_nested_tensor") => Self::OtherTensor("nested"),
            ("torch._utils", "_rebuild_meta_tensor_no_storage") => Self::OtherTensor("meta (empty)"),
            ("torch._utils", "_rebuild_wrapper_subclass") => Self::OtherTensor("wrapped"),
            ("torch._utils", "_rebuild_device_tensor_from_numpy" | "_rebuild_device_tensor_from_cpu_tensor") => {
                Self::OtherTensor("foreign device's")
            }
            ("torch", "device" | "per_tensor_affine" | "per_channel_affine" | "per_tensor_symmetric")
            | ("torch.serialization", "_get_layout")
            | ("_codecs", "encode")
            | ("builtins" | "__builtin__", "set" | "frozenset" | "bytearray" | "complex")
            | ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar" | "_reconstruct")
            | ("numpy", "dtype" | "ndarray") => Self::Inert,
            ("torch.storage", "UntypedStorage" | "TypedStorage" | "_UntypedStorage" | "_TypedStorage")
            | ("torch", "UntypedStorage") => Self::Storage(UNTYPED),
            ("torch", other) => {
                let storage = Element::of_storage(other).map(Self::Storage);
                return storage.or_else(|| Element::of_dtype(other).map(Self::DType));
            }
            _ => return None,
        })
    }

    /// What a call with `arguments`, a list, stands for.
    pub(super) fn call(self, pickle: &mut Pickle<'_>, arguments: Value) -> Result<Value, String> {
        let list = pickle.list(arguments).unwrap_or_default();
        match (self, list) {
            (Self::OrderedDict, []) => Ok(pickle.add(Object::Dict(Vec::new()))),
            (Self::Size, [sizes]) if pickle.list(*sizes).is_some() => Ok(*sizes),
            (Self::Parameter | Self::RebuildParameter, [tensor, ..]) if pickle.tensor(*tensor).is_some() => Ok(*tensor),
            (Self::RebuildTensor, &[storage, offset, sizes, strides, ..]) => {
                strided(pickle, Tensor::Strided { storage, offset, sizes, strides, element: None })
            }
            (Self::RebuildTyped, &[storage, offset, sizes, strides, _, _, dtype, ..]) => {
                let Some(Object::Global(Self::DType(element))) = pickle.object(dtype) else {
                    return Err(format!("its type is {}", pickle.kind(dtype)));
                };
                let element = Some(*element);
                strided(pickle, Tensor::Strided { storage, offset, sizes, strides, element })
            }
            (Self::RebuildFromType, &[function, class, arguments, ..]) => {
                let known = |value| match pickle.object(value) {
                    Some(Object::Global(global)) => Some(*global),
                    _ => None,
                };
                let (function, class) = (known(function), known(class));
                match (function, class) {
                    (
                        Some(
                            function @ (Self::RebuildTensor
                            | Self::RebuildTyped
                            | Self::RebuildParameter
                            | Self::OtherTensor(_)),
                        ),
                        Some(Self::Tensor | Self::Parameter),
                    ) if pickle.list(arguments).is_some() => function.call(pickle, arguments),
                    _ => Err("it makes something else than a tensor".to_owned()),
                }
            }
            (Self::OtherTensor(kind), _) => Ok(pickle.add(Object::Tensor(Box::new(Tensor::Other(kind))))),
            (Self::Inert, _) => Ok(Value::Inert),
            _ => Err(format!("called with {} arguments that do not fit", list.len())),
        }
    }
}

/// A tensor whose parts are of the right kinds.
fn strided(pickle: &mut Pickle<'_>, tensor: Tensor) -> Result<Value, String> {
    if let Tensor::Strided { storage, sizes, strides, .. } = tensor {
        if !matches!(pickle.object(storage), Some(Object::Storage(_))) {
            return Err(format!("its storage is {}", pickle.kind(storage)));
        }
        let (Some(sizes), Some(strides)) = (pickle.list(sizes), pickle.list(strides)) else {
            return Err("its size or stride is no list".to_owned());
        };
        if sizes.len() > DIMENSION_LIMIT || sizes.len() != strides.len() {
            let (sizes, strides) = (sizes.len(), strides.len());
            return Err(format!(
                "{sizes} sizes and {strides} strides; there must be as many, at most {DIMENSION_LIMIT}"
            ));
        }
    }
    Ok(pickle.add(Object::Tensor(Box::new(tensor))))
}
