//! A model's tokens as bytes.

use remask_core::{Model, TokenSet};

/// Bytes of a token at most; no tokenizer has longer ones but for rows of spaces, which are shorter ones too.
const LONGEST: usize = 900;
/// The end of a text among the tokens. No text has its first byte.
const END: &[u8] = b"\xFF<the end of the text>";

/// What each id adds to a text.
pub(super) struct Words {
    /// By id, nothing for those that add nothing; and one more at the end, for the end.
    pub(super) bytes: Vec<Vec<u8>>,
    /// Ids that the tokenizer writes otherwise where they begin a text.
    pub(super) never_first: TokenSet,
}

impl Words {
    /// Those of a model.
    pub(super) fn of(model: &Model) -> Result<Self, String> {
        let tokenizer = model.text().map_err(|problem| problem.to_string())?;
        let rows = model.architecture.embedding_rows;
        if !tokenizer.is_bytewise() {
            return Err(
                "the text of this model's tokens depends on what follows them, which no grammar knows".to_owned()
            );
        }
        let mut never_first = TokenSet::new(rows);
        let mut bytes = Vec::with_capacity(rows + 1);
        for id in 0..rows as u32 {
            let suppressed = model.vocabulary.suppressed.contains(id);
            // Bytes that no text has would be taken for marks.
            let usable = |bytes: &Vec<u8>| !suppressed && bytes.len() <= LONGEST && !bytes.contains(&0xFF);
            let own = tokenizer.bytes(id).filter(usable).unwrap_or_default();
            if !own.is_empty() && tokenizer.bytes_at_start(id).unwrap_or_default() != own {
                never_first.insert(id);
            }
            bytes.push(own);
        }
        bytes.push(END.to_vec());
        Ok(Self { bytes, never_first })
    }
}
