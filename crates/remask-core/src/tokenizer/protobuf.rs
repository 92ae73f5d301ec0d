//! The wire format of protocol buffers, as far as SentencePiece's models need it. Nothing is copied or allocated
//! before its length has been compared with what is there.

/// A field's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    /// Whole numbers, flags and enumerations.
    Number(u64),
    /// 32 bits, little-endian.
    Fixed([u8; 4]),
    /// Bytes, texts and messages.
    Bytes(&'a [u8]),
    /// 64 bits, which no field here has.
    Other,
}

impl Value<'_> {
    pub(super) fn number(self) -> Option<u64> {
        if let Self::Number(number) = self { Some(number) } else { None }
    }

    pub(super) fn flag(self) -> Option<bool> {
        self.number().map(|number| number != 0)
    }

    pub(super) fn float(self) -> Option<f32> {
        if let Self::Fixed(bytes) = self { Some(f32::from_le_bytes(bytes)) } else { None }
    }
}

impl<'a> Value<'a> {
    pub(super) fn bytes(self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    pub(super) fn text(self) -> Option<&'a str> {
        self.bytes().and_then(|bytes| std::str::from_utf8(bytes).ok())
    }
}

/// The fields of a message, in order: `(number, value)`. What cannot be read is an error, once, and the end.
pub(super) fn fields(mut message: &[u8]) -> impl Iterator<Item = Result<(u64, Value<'_>), String>> {
    std::iter::from_fn(move || {
        if message.is_empty() {
            return None;
        }
        let found = field(&mut message);
        if found.is_none() {
            message = &[];
        }
        Some(found.ok_or_else(|| "is cut off or no protocol buffer".to_owned()))
    })
}

fn field<'a>(message: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = varint(message)?;
    let value = match tag & 7 {
        0 => Value::Number(varint(message)?),
        1 => {
            take(message, 8)?;
            Value::Other
        }
        2 => {
            let length = usize::try_from(varint(message)?).ok()?;
            Value::Bytes(take(message, length)?)
        }
        5 => Value::Fixed(*take(message, 4)?.first_chunk()?),
        _ => return None,
    };
    Some((tag >> 3, value))
}

fn take<'a>(message: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = message.split_at_checked(length)?;
    *message = rest;
    Some(taken)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_every_kind() {
        let message = [8, 0xAC, 2, 18, 2, b'h', b'i', 0x1D, 0, 0, 0x80, 0x3F, 0x21, 0, 0, 0, 0, 0, 0, 0, 0];
        let found: Vec<_> = fields(&message).collect::<Result<_, _>>().unwrap();
        assert_eq!(found[0], (1, Value::Number(300)));
        assert_eq!((found[1].0, found[1].1.text()), (2, Some("hi")));
        assert_eq!((found[2].0, found[2].1.float()), (3, Some(1.0)));
        assert_eq!(found[3], (4, Value::Other));
        for cut in [1, 2, 4, 6, 8, 11, 15] {
            assert!(fields(&message[..cut]).any(|f| f.is_err()), "{cut}");
        }
        let endless = [0xFF; 11];
        assert!(fields(&endless).next().unwrap().is_err());
    }
}
