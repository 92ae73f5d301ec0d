//! A model's tokens as bytes.

use remask_core::{TextTokenizer, TokenSet};

/// Bytes of a token at most; no tokenizer has longer ones but for rows of spaces, which are shorter ones too.
const LONGEST: usize = 900;
/// The end of a text among the tokens. No text has its first byte.
const END: &[u8] = b"\xFF<the end of the text>";

/// What each id adds to a text.
pub(super) struct Words {
    /// By id, nothing for those that add nothing; then the end; then what some ids are where they begin a text.
    pub(super) bytes: Vec<Vec<u8>>,
    /// Ids that the tokenizer writes otherwise where they begin a text, and their places behind the end; none for those
    /// that add nothing there. In order.
    pub(super) starts: Vec<(u32, Option<u32>)>,
}

impl Words {
    /// Those of a head of as many rows as `suppressed` is over.
    pub(super) fn of(tokenizer: &TextTokenizer, suppressed: &TokenSet) -> Result<Self, String> {
        if !tokenizer.is_bytewise() {
            return Err(
                "the text of this model's tokens depends on what follows them, which no grammar knows".to_owned()
            );
        }
        let rows = suppressed.rows();
        let (mut bytes, mut starts) = (Vec::with_capacity(rows + 1), Vec::new());
        // Bytes that no text has would be taken for marks.
        let usable = |bytes: &Vec<u8>| bytes.len() <= LONGEST && !bytes.contains(&0xFF);
        for id in 0..rows as u32 {
            let own = tokenizer.bytes(id).filter(|_| !suppressed.contains(id)).filter(usable).unwrap_or_default();
            let first = tokenizer.bytes_at_start(id).filter(usable).unwrap_or_default();
            if !own.is_empty() && first != own {
                starts.push((id, first));
            }
            bytes.push(own);
        }
        bytes.push(END.to_vec());
        let mut place = |(id, first): (u32, Vec<u8>)| {
            let known = (!first.is_empty()).then_some(bytes.len() as u32);
            bytes.extend(known.map(|_| first));
            (id, known)
        };
        let starts = starts.into_iter().map(&mut place).collect();
        Ok(Self { bytes, starts })
    }
}
