//! Element types as PyTorch names them.

use super::super::DType;

/// What the elements of a storage or tensor are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Element {
    /// PyTorch's name of the type.
    pub(super) name: &'static str,
    /// Bytes of an element.
    pub(super) size: u64,
    /// The type here, where there is one.
    pub(super) dtype: Option<DType>,
}

/// Classes of storages in module `torch`, with the element types that have one.
const STORAGES: &[(&str, Element)] = &[
    ("FloatStorage", known("float32", 4, DType::F32)),
    ("HalfStorage", known("float16", 2, DType::F16)),
    ("BFloat16Storage", known("bfloat16", 2, DType::BF16)),
    ("DoubleStorage", known("float64", 8, DType::F64)),
    ("LongStorage", known("int64", 8, DType::I64)),
    ("IntStorage", known("int32", 4, DType::I32)),
    ("ShortStorage", known("int16", 2, DType::I16)),
    ("CharStorage", known("int8", 1, DType::I8)),
    ("ByteStorage", UNTYPED),
    ("BoolStorage", known("bool", 1, DType::BOOL)),
    ("ComplexFloatStorage", known("complex64", 8, DType::C64)),
    ("ComplexDoubleStorage", unknown("complex128", 16)),
    ("QInt8Storage", unknown("qint8", 1)),
    ("QUInt8Storage", unknown("quint8", 1)),
    ("QInt32Storage", unknown("qint32", 4)),
    ("QUInt4x2Storage", unknown("quint4x2", 1)),
    ("QUInt2x4Storage", unknown("quint2x4", 1)),
];

/// Element types that have no storage class of their own.
const OTHERS: &[Element] = &[
    known("uint16", 2, DType::U16),
    known("uint32", 4, DType::U32),
    known("uint64", 8, DType::U64),
    known("float8_e4m3fn", 1, DType::F8_E4M3),
    known("float8_e5m2", 1, DType::F8_E5M2),
    known("float8_e4m3fnuz", 1, DType::F8_E4M3FNUZ),
    known("float8_e5m2fnuz", 1, DType::F8_E5M2FNUZ),
    known("float8_e8m0fnu", 1, DType::F8_E8M0),
    unknown("complex32", 4),
];

/// Bytes without a type, which PyTorch counts as this one.
pub(super) const UNTYPED: Element = known("uint8", 1, DType::U8);

const fn known(name: &'static str, size: u64, dtype: DType) -> Element {
    Element { name, size, dtype: Some(dtype) }
}

const fn unknown(name: &'static str, size: u64) -> Element {
    Element { name, size, dtype: None }
}

impl Element {
    /// The elements of a storage class of module `torch`.
    pub(super) fn of_storage(class: &str) -> Option<Self> {
        STORAGES.iter().find(|(name, _)| *name == class).map(|(_, element)| *element)
    }

    /// The type that module `torch` calls `name`.
    pub(super) fn of_dtype(name: &str) -> Option<Self> {
        let name = match name {
            "float" => "float32",
            "double" => "float64",
            "half" => "float16",
            "long" => "int64",
            "int" => "int32",
            "short" => "int16",
            "cfloat" => "complex64",
            "cdouble" => "complex128",
            other => other,
        };
        let all = STORAGES.iter().map(|(_, element)| element).chain(OTHERS);
        all.copied().find(|element| element.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_types() {
        for element in STORAGES.iter().map(|(_, element)| element).chain(OTHERS) {
            if let Some(dtype) = element.dtype {
                assert_eq!(element.size * 8, dtype.bitsize() as u64, "{}", element.name);
            }
            assert_eq!(Element::of_dtype(element.name), Some(*element));
        }
    }
}
