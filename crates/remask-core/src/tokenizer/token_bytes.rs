//! The bytes that each token adds to a text, for those who must know them before it is chosen.

use super::TextTokenizer;

impl TextTokenizer {
    /// Whether a text is the bytes of its tokens one after another, but for spaces that it begins with. Not so where
    /// spaces are cleaned up, or where what is written of a token depends on others.
    #[must_use]
    pub fn is_bytewise(&self) -> bool {
        !self.cleans_up && self.decoder.is_bytewise()
    }

    /// The bytes that an id adds to a text that it does not begin, a part of a character perhaps; `None` for special
    /// tokens and ids that are no token, which add nothing. They mean something where the text
    /// [is bytes](TextTokenizer::is_bytewise).
    #[must_use]
    pub fn bytes(&self, id: u32) -> Option<Vec<u8>> {
        self.placed_bytes(id, false)
    }

    /// The same where the id begins the text: some tokenizers leave out the spaces there.
    #[must_use]
    pub fn bytes_at_start(&self, id: u32) -> Option<Vec<u8>> {
        self.placed_bytes(id, true)
    }

    fn placed_bytes(&self, id: u32, at_start: bool) -> Option<Vec<u8>> {
        let (text, added) = self.text_of(id).filter(|_| !self.is_special(id))?;
        self.decoder.bytes(text, added, at_start)
    }
}
