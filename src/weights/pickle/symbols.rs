//! The list of names that a pickle may mention.

use safetensors::Dtype;

/// What a permitted name means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Symbol {
    /// Builds a tensor: storage, offset, sizes, strides, …; the dtype is the storage's.
    Tensor,
    /// Builds a tensor from a storage of bytes; the seventh argument is its dtype.
    TensorOfBytes,
    /// Passes its first argument on.
    Parameter,
    /// Builds a dictionary.
    Dict,
    /// Builds a list or set.
    List,
    /// A type of storage; `None` for one of bytes.
    Storage(Option<Dtype>),
    /// A type of elements.
    Dtype(Dtype),
    /// Something that does not matter for weights; stays a placeholder.
    Opaque,
}

/// The meaning of `module.name`; `None` when it must not be used.
pub(super) fn lookup(module: &str, name: &str) -> Option<Symbol> {
    match module {
        "torch._utils" => match name {
            "_rebuild_tensor" | "_rebuild_tensor_v2" => Some(Symbol::Tensor),
            "_rebuild_tensor_v3" => Some(Symbol::TensorOfBytes),
            "_rebuild_parameter" | "_rebuild_parameter_with_state" => Some(Symbol::Parameter),
            _ => None,
        },
        "torch" | "torch.cuda" => torch_name(name),
        "torch.storage" => match name {
            "UntypedStorage" | "_UntypedStorage" | "TypedStorage" | "_TypedStorage" => {
                Some(Symbol::Storage(None))
            }
            _ => None,
        },
        "collections" => match name {
            "OrderedDict" | "defaultdict" | "Counter" => Some(Symbol::Dict),
            "deque" => Some(Symbol::List),
            _ => None,
        },
        // Its tensors stand in its state.
        "torch.nn.modules.container" if name == "ParameterDict" => Some(Symbol::Dict),
        "builtins" | "__builtin__" => match name {
            "dict" => Some(Symbol::Dict),
            "list" | "tuple" | "set" | "frozenset" => Some(Symbol::List),
            "int" | "long" | "float" | "bool" | "complex" | "str" | "unicode" | "bytes"
            | "bytearray" | "object" | "slice" | "range" => Some(Symbol::Opaque),
            _ => None,
        },
        _ => is_harmless(module, name).then_some(Symbol::Opaque),
    }
}

fn torch_name(name: &str) -> Option<Symbol> {
    if let Some(kind) = name.strip_suffix("Storage") {
        let dtype = match kind {
            "Double" => Dtype::F64,
            "Float" => Dtype::F32,
            "Half" => Dtype::F16,
            "BFloat16" => Dtype::BF16,
            "Long" => Dtype::I64,
            "Int" => Dtype::I32,
            "Short" => Dtype::I16,
            "Char" => Dtype::I8,
            "Byte" => Dtype::U8,
            "Bool" => Dtype::BOOL,
            "ComplexFloat" => Dtype::C64,
            "Untyped" => return Some(Symbol::Storage(None)),
            _ => return None,
        };
        return Some(Symbol::Storage(Some(dtype)));
    }
    let dtype = match name {
        "float64" | "double" => Dtype::F64,
        "float32" | "float" => Dtype::F32,
        "float16" | "half" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e5m2" => Dtype::F8_E5M2,
        "float8_e4m3fnuz" => Dtype::F8_E4M3FNUZ,
        "float8_e5m2fnuz" => Dtype::F8_E5M2FNUZ,
        "int64" | "long" => Dtype::I64,
        "int32" | "int" => Dtype::I32,
        "int16" | "short" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint64" => Dtype::U64,
        "uint32" => Dtype::U32,
        "uint16" => Dtype::U16,
        "uint8" => Dtype::U8,
        "bool" => Dtype::BOOL,
        "complex64" => Dtype::C64,
        "Size" | "device" => return Some(Symbol::Opaque),
        _ => return None,
    };
    Some(Symbol::Dtype(dtype))
}

/// Classes whose instances stand beside the weights in real checkpoints: progress of the training
/// framework, numpy scalars, hyperparameters, paths and dates.
fn is_harmless(module: &str, name: &str) -> bool {
    let root = module.split('.').next().unwrap_or_default();
    match root {
        "pytorch_lightning" | "lightning" | "lightning_fabric" | "lightning_utilities" => matches!(
            name,
            "ModelCheckpoint"
                | "EarlyStopping"
                | "LearningRateMonitor"
                | "TQDMProgressBar"
                | "ModelSummary"
                | "Timer"
                | "AttributeDict"
                | "TrainerStatus"
                | "TrainerFn"
                | "RunningStage"
        ),
        "numpy" => matches!(
            (module, name),
            ("numpy", "dtype" | "ndarray")
                | ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar" | "_reconstruct")
        ),
        "omegaconf" => matches!(
            name,
            "DictConfig"
                | "ListConfig"
                | "ContainerMetadata"
                | "Metadata"
                | "AnyNode"
                | "StringNode"
                | "IntegerNode"
                | "FloatNode"
                | "BooleanNode"
        ),
        "pathlib" => matches!(
            name,
            "Path" | "PosixPath" | "WindowsPath" | "PurePath" | "PurePosixPath" | "PureWindowsPath"
        ),
        _ => matches!(
            (module, name),
            ("_codecs", "encode")
                | ("argparse", "Namespace")
                | ("copyreg" | "copy_reg", "_reconstructor")
                | ("datetime", "datetime" | "date" | "time" | "timedelta" | "timezone")
                | ("typing", "Any")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_list_passes() {
        assert_eq!(lookup("torch", "HalfStorage"), Some(Symbol::Storage(Some(Dtype::F16))));
        assert_eq!(lookup("torch", "bfloat16"), Some(Symbol::Dtype(Dtype::BF16)));
        assert_eq!(
            lookup("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
            Some(Symbol::Opaque)
        );
        for (module, name) in [
            ("os", "system"),
            ("posix", "system"),
            ("builtins", "eval"),
            ("builtins", "getattr"),
            ("torch", "load"),
            ("torch.storage", "_load_from_bytes"),
            ("torch.hub", "load"),
            ("numpy", "load"),
            ("numpy.testing._private.utils", "runstring"),
            ("pytorch_lightning.callbacks", "Lambda"),
            ("collections.abc", "OrderedDict"),
            ("", ""),
        ] {
            assert_eq!(lookup(module, name), None, "{module}.{name}");
        }
    }
}
