//! Views whose elements do not lie in order, as PyTorch saves transposed and sliced tensors: gathered as they are read.

use std::borrow::Cow;
use std::ops::Range;

/// How a tensor's elements lie: `shape`, elements from one to the next in each dimension, and bytes of an element.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strided<'a> {
    pub(super) shape: &'a [usize],
    pub(super) strides: &'a [u64],
    pub(super) width: u64,
}

impl Strided<'_> {
    /// Bytes of the elements in order.
    pub(super) fn len(&self) -> u64 {
        self.shape.iter().map(|s| *s as u64).product::<u64>() * self.width
    }

    /// Where element `index` of the tensor in order lies, in elements from the first.
    fn place(&self, mut index: u64) -> u64 {
        let mut place = 0;
        for (size, stride) in self.shape.iter().zip(self.strides).rev() {
            let size = (*size as u64).max(1);
            place += index % size * stride;
            index /= size;
        }
        place
    }

    /// From the first to behind the last byte that elements `range` take, from the tensor's first byte on. Strides
    /// are not negative, so that the last of each dimension lies farthest.
    fn extent(&self, range: &Range<u64>) -> Range<u64> {
        let (mut first, mut last) = (0, 0);
        let (mut from, mut to) = (range.start, range.end - 1);
        for (size, stride) in self.shape.iter().zip(self.strides).rev() {
            let size = (*size as u64).max(1);
            // Where the elements span several of the dimension outside, any of this one may be among them.
            let (low, high) = if from / size == to / size { (from % size, to % size) } else { (0, size - 1) };
            first += low * stride;
            last += high * stride;
            (from, to) = (from / size, to / size);
        }
        first * self.width..(last + 1) * self.width
    }

    /// Bytes `range` of the elements in order; `read` gives bytes from the tensor's first one on.
    pub(super) fn gather<'s, E>(
        &self,
        range: Range<u64>,
        read: impl FnOnce(Range<u64>) -> Result<Cow<'s, [u8]>, E>,
    ) -> Result<Vec<u8>, E> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let elements = range.start / self.width..range.end.div_ceil(self.width);
        let extent = self.extent(&elements);
        let start = extent.start;
        let source = read(extent)?;
        let width = self.width as usize;
        let inner = self.shape.last().map_or(1, |s| *s as u64).max(1);
        let step = self.strides.last().copied().unwrap_or(0);
        let mut bytes = Vec::with_capacity((elements.end - elements.start) as usize * width);
        let mut at = elements.start;
        while at < elements.end {
            // As far as the innermost dimension goes.
            let count = (inner - at % inner).min(elements.end - at) as usize;
            let first = (self.place(at) * self.width - start) as usize;
            let run = source.get(first..).unwrap_or_default();
            match step {
                1 => bytes.extend_from_slice(run.get(..count * width).unwrap_or_default()),
                _ => (0..count).for_each(|i| {
                    let at = i * step as usize * width;
                    bytes.extend_from_slice(run.get(at..at + width).unwrap_or_default());
                }),
            }
            at += count as u64;
        }
        let skipped = (range.start % self.width) as usize;
        let wanted = (range.end - range.start) as usize;
        bytes.drain(..skipped);
        bytes.truncate(wanted);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_of_every_view_is_what_its_elements_are() {
        // Views of 60 two-byte numbers: transposed, sliced, expanded, with a dimension of one, three dimensions.
        let source: Vec<u8> = (0u16..60).flat_map(u16::to_le_bytes).collect();
        let views: &[(&[usize], &[u64])] = &[
            (&[6, 10], &[1, 6]),
            (&[3, 5], &[20, 2]),
            (&[4, 7], &[10, 1]),
            (&[5, 4], &[0, 1]),
            (&[4, 1, 3], &[3, 17, 12]),
            (&[3, 4, 5], &[1, 15, 3]),
            (&[7], &[8]),
            (&[2, 2, 2], &[0, 0, 0]),
        ];
        for (shape, strides) in views {
            let view = Strided { shape, strides, width: 2 };
            let count: usize = shape.iter().product();
            let mut expected = Vec::new();
            for index in 0..count as u64 {
                expected.extend((view.place(index) as u16).to_le_bytes());
            }
            assert_eq!(view.len(), expected.len() as u64);
            for start in 0..=expected.len() {
                for end in start..=expected.len() {
                    let read = |r: Range<u64>| source.get(r.start as usize..r.end as usize).map(Cow::Borrowed).ok_or(r);
                    let found = view.gather(start as u64..end as u64, read).unwrap();
                    assert_eq!(found, expected[start..end], "{shape:?} {strides:?} {start}..{end}");
                }
            }
        }
        // By hand: the transpose of [[0, 1, 2], [3, 4, 5]].
        let view = Strided { shape: &[3, 2], strides: &[1, 3], width: 1 };
        let found = view.gather(0..6, |_| Ok::<_, ()>(Cow::Borrowed(&[0, 1, 2, 3, 4, 5][..])));
        assert_eq!(found, Ok(vec![0, 3, 1, 4, 2, 5]));
    }
}
