//! Training a tokenizer: byte-level BPE with digits apart, the special tokens behind the others.

use remask_core::{Error, Result};
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

/// Special tokens in the order of their ids: end, start, end of turn, around a role, mask.
pub const SPECIALS: [&str; 6] =
    ["<|endoftext|>", "<|startoftext|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|mdm_mask|>"];

/// Least ids a tokenizer can have: every byte, and the special tokens.
pub const LEAST: usize = 256 + SPECIALS.len();

/// Trains a tokenizer of at most `size` ids on `texts`: a tokenizer.json.
///
/// # Errors
/// [`Error::Tokenizer`] where `size` is below [`LEAST`] or training fails.
pub fn train<'a>(texts: impl Iterator<Item = &'a str> + Send, size: usize) -> Result<Vec<u8>> {
    let failed = |problem: String| Error::Tokenizer { file: "the tokenizer to train".to_owned(), problem };
    let library = |e: tokenizers::Error| failed(e.to_string());
    if size < LEAST {
        return Err(failed(format!("a vocabulary of {size} is too small; it needs at least {LEAST} ids")));
    }
    // Spaces stay where they are: what is decoded is what was encoded.
    let bytes = ByteLevel::new(false, true, true);
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![Digits::new(true).into(), bytes.into()])));
    tokenizer.with_decoder(Some(ByteLevelDecoder::default()));
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(size - SPECIALS.len())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build()
        .into();
    tokenizer.train(&mut trainer, texts).map_err(library)?;
    let specials: Vec<_> = SPECIALS.iter().map(|text| AddedToken::from(*text, true)).collect();
    tokenizer.add_special_tokens(specials).map_err(library)?;
    tokenizer.to_string(false).map(String::into_bytes).map_err(library)
}
