//! Files that were damaged on their way never make the reader panic or fill the memory.

use proptest::prelude::*;
use proptest::sample::Index;
use remask_core::checkpoint::{Checkpoint, Matrix, WeightFormat};

use super::build::{dict, pickle, storage, tensor, with_pickle};
use super::{data, open};

/// Does with a checkpoint what a loader does.
fn use_up(checkpoint: &Checkpoint) {
    let _ = checkpoint.aliases();
    for t in checkpoint.tensors() {
        assert!(t.len() <= 1 << 20, "{} takes {} bytes of a small file", t.name, t.len());
        let _ = (t.bytes().unwrap(), t.to_f32(), t.has_non_finite());
        if let [rows, cols] = *t.shape
            && let Ok(matrix) = Matrix::open(checkpoint, t.name, rows, cols)
        {
            let _ = matrix.encode(0..rows, WeightFormat::F32);
        }
    }
}

/// Instructions and numbers that pickles are made of.
fn instruction() -> impl Strategy<Value = Vec<u8>> {
    let plain = proptest::sample::select(b"().012NRQ]}abdeltsu\x81\x85\x86\x87\x88\x89\x8F\x90\x91\x93\x94".to_vec());
    prop_oneof![
        6 => plain.prop_map(|b| vec![b]),
        1 => any::<u8>().prop_map(|b| vec![b]),
        2 => (0u8..6).prop_map(|i| vec![b'q', i]),
        2 => (0u8..6).prop_map(|i| vec![b'h', i]),
        2 => any::<u8>().prop_map(|n| vec![b'K', n]),
        1 => any::<i32>().prop_map(|n| [b"J", &n.to_le_bytes()[..]].concat()),
        2 => Just(b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec()),
        1 => Just(b"ccollections\nOrderedDict\n".to_vec()),
        1 => Just(b"ctorch.nn.parameter\nParameter\n".to_vec()),
        1 => Just(storage("FloatStorage", "0", 12)),
        2 => Just(tensor(storage("HalfStorage", "0", 24), 1, &[2, 3], &[1, 4])),
        1 => Just(b"X\x01\0\0\0w".to_vec()),
        1 => Just(b"X\x05\0\0\0model".to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn bits_that_flip_and_ends_that_are_missing(
        file in proptest::sample::select(vec![
            "zip.bin", "zip-protocol5.pt", "legacy.bin", "legacy-protocol1.pt", "training.pt", "unreadable.bin",
        ]),
        hits in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..5),
        cut in proptest::option::weighted(0.2, any::<Index>()),
    ) {
        let mut bytes = std::fs::read(data(file)).unwrap();
        for (at, value) in hits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = open(bytes).map(|c| use_up(&c));
        if std::env::var_os("NEXTEST").is_some() {
            super::memory_was_bounded();
        }
    }

    #[test]
    fn pickles_of_any_instructions(
        before in proptest::collection::vec(instruction(), 0..12),
        after in proptest::collection::vec(instruction(), 0..12),
    ) {
        let state = dict(&[("w", tensor(storage("FloatStorage", "0", 12), 0, &[3, 4], &[1, 3]))]);
        let body = [before.concat(), state, after.concat()].concat();
        let _ = open(with_pickle(&pickle(&body))).map(|c| use_up(&c));
    }

    #[test]
    fn any_view_is_read_or_refused(
        offset in -2i64..60,
        dimensions in proptest::collection::vec((-1i64..8, -1i64..12), 0..5),
        numel in -1i64..14,
    ) {
        let (sizes, strides): (Vec<_>, Vec<_>) = dimensions.into_iter().unzip();
        let view = tensor(storage("FloatStorage", "0", numel), offset, &sizes, &strides);
        let read = open(with_pickle(&pickle(&dict(&[("w", view)]))));
        let last = sizes.iter().zip(&strides).map(|(size, stride)| (size - 1) * stride).sum::<i64>() + offset;
        let empty = sizes.contains(&0);
        let negative = sizes.iter().chain(&strides).any(|n| *n < 0) || offset < 0 || numel < 0;
        match read {
            Ok(checkpoint) => {
                prop_assert!(!negative && (empty || last < numel) && numel <= 12);
                let view = checkpoint.get("w").unwrap();
                let found = view.bytes().unwrap();
                // Storage byte i is i: each element says where it lay.
                let mut expected = vec![];
                let count: i64 = sizes.iter().product();
                for index in 0..count {
                    let (mut rest, mut place) = (index, offset);
                    for (size, stride) in sizes.iter().zip(&strides).rev() {
                        place += rest % size * stride;
                        rest /= size;
                    }
                    expected.extend((place * 4..place * 4 + 4).map(|b| b as u8));
                }
                prop_assert_eq!(&*found, &expected[..]);
            }
            Err(e) => {
                let repeats = e.to_string().contains("repeats");
                prop_assert!(negative || (!empty && last >= numel) || numel > 12 || repeats, "{e}");
            }
        }
    }
}
