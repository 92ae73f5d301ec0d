//! A sorted table of texts that answers which of them a text begins with. It takes no more memory than the
//! texts and never recurses, whatever a file puts into it.

/// Texts with a number each.
#[derive(Debug, Default)]
pub(super) struct Prefixes(Vec<(Box<str>, u32)>);

impl Prefixes {
    /// A table of `(text, number)`; of equal texts the first is kept, empty ones are left out.
    pub(super) fn new(texts: impl IntoIterator<Item = (Box<str>, u32)>) -> Self {
        let mut table: Vec<_> = texts.into_iter().filter(|(text, _)| !text.is_empty()).collect();
        table.sort_by(|a, b| a.0.cmp(&b.0));
        table.dedup_by(|later, first| later.0 == first.0);
        Self(table)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `(length in bytes, number)` of every text of the table that `text` begins with, shortest first.
    pub(super) fn of<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (usize, u32)> + 'a {
        // Those that share the first `depth` bytes with `text`.
        let mut rest = self.0.as_slice();
        text.bytes()
            .enumerate()
            .map_while(move |(depth, byte)| {
                let at = |entry: &(Box<str>, u32)| entry.0.as_bytes().get(depth).copied();
                let from = rest.partition_point(|entry| at(entry) < Some(byte));
                let count = rest.get(from..)?.partition_point(|entry| at(entry) <= Some(byte));
                rest = rest.get(from..from + count).filter(|rest| !rest.is_empty())?;
                let found = rest.first().filter(|(text, _)| text.len() == depth + 1);
                Some(found.map(|(_, number)| (depth + 1, *number)))
            })
            .flatten()
    }

    /// The longest of them.
    pub(super) fn longest(&self, text: &str) -> Option<(usize, u32)> {
        self.of(text).last()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn finds_what_a_search_of_all_finds(
            texts in proptest::collection::vec("[abü]{0,4}", 0..20), text in "[abcü]{0,8}"
        ) {
            let table = Prefixes::new((0..).zip(&texts).map(|(n, t)| (t.as_str().into(), n)));
            let mut expected: Vec<_> = (0..).zip(&texts).filter(|(_, t)| !t.is_empty() && text.starts_with(t.as_str()))
                .map(|(n, t)| (t.len(), n)).collect();
            expected.sort_unstable();
            expected.dedup_by_key(|(length, _)| *length);
            prop_assert_eq!(table.longest(&text), expected.last().copied());
            prop_assert_eq!(table.of(&text).collect::<Vec<_>>(), expected);
        }
    }
}
