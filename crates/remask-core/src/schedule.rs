//! How many tokens are committed when: semi-autoregressive blocks and the quota of each step.

use std::ops::Range;

/// One block of the answer and the steps it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Canvas positions.
    pub positions: Range<usize>,
    /// Steps for a fixed-quota decoder.
    pub steps: usize,
}

/// The blocks of an answer, left to right, and what had to be adjusted to make them fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockPlan {
    /// Blocks in decoding order.
    pub blocks: Vec<Block>,
    /// Sentences about every request that was not taken literally.
    pub notes: Vec<String>,
}

impl BlockPlan {
    /// Plans the decoding of `holes`, positions in ascending order, in blocks of `block_length` of them
    /// with `steps` in all. A block reaches from its first to its last hole, over what is given between.
    ///
    /// LLaDA's reference asks that blocks divide the answer and steps divide over blocks. Here the
    /// last block may be shorter, and steps that do not divide are spread with the earlier blocks
    /// taking one more. Fewer steps than blocks are raised to one a block. Where the reference's
    /// conditions hold, the plan is the reference's. `block_length` 0 is taken as 1.
    #[must_use]
    pub fn new(holes: &[usize], block_length: usize, steps: usize) -> Self {
        let answer = holes.len();
        let block_length = block_length.clamp(1, answer.max(1));
        let count = answer.div_ceil(block_length);
        let mut notes = Vec::new();
        if !answer.is_multiple_of(block_length) {
            let last = answer % block_length;
            notes.push(format!(
                "{answer} tokens are no multiple of the block length {block_length}: the last block has {last}"
            ));
        }
        let total = steps.max(count);
        if total != steps {
            notes.push(format!("{steps} steps for {count} blocks: raised to {total}, one a block"));
        } else if count > 0 && !total.is_multiple_of(count) {
            notes.push(format!("{steps} steps over {count} blocks: the first {} get one more", total % count));
        }
        let block = |(b, holes): (usize, &[usize])| Block {
            positions: holes[0]..holes[holes.len() - 1] + 1,
            steps: total / count + usize::from(b < total % count),
        };
        Self { blocks: holes.chunks(block_length).enumerate().map(block).collect(), notes }
    }
}

/// Tokens to commit at `step` of `steps` for a block that began with `holes`: LLaDA's even quota, the
/// remainder going to the first steps.
#[must_use]
pub fn quota(holes: usize, steps: usize, step: usize) -> usize {
    holes / steps.max(1) + usize::from(step < holes % steps.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quotas_commit_every_hole(holes in 0usize..500, steps in 1usize..500) {
            let each: Vec<_> = (0..steps).map(|s| quota(holes, steps, s)).collect();
            prop_assert_eq!(each.iter().sum::<usize>(), holes);
            prop_assert!(each.windows(2).all(|w| w[0] >= w[1] && w[0] - w[1] <= 1));
        }

        #[test]
        fn blocks_tile_the_answer(prompt in 0usize..50, answer in 0usize..300, length in 0usize..80, steps in 0usize..400) {
            let holes: Vec<_> = (prompt..prompt + answer).collect();
            let plan = BlockPlan::new(&holes, length, steps);
            let mut next = prompt;
            for block in &plan.blocks {
                prop_assert_eq!(block.positions.start, next);
                prop_assert!(!block.positions.is_empty() && block.steps > 0);
                next = block.positions.end;
            }
            prop_assert_eq!(next, prompt + answer);
            let total: usize = plan.blocks.iter().map(|b| b.steps).sum();
            prop_assert_eq!(total, if answer == 0 { 0 } else { steps.max(plan.blocks.len()) });
            let exact = answer > 0 && length > 0 && answer.is_multiple_of(length) && steps > 0
                && steps.is_multiple_of(answer / length);
            prop_assert!(!exact || plan.notes.is_empty(), "{:?}", plan.notes);
        }

        #[test]
        fn scattered_holes_are_each_in_one_block(
            holes in proptest::collection::btree_set(0usize..200, 1..60), length in 1usize..40,
        ) {
            let holes: Vec<_> = holes.into_iter().collect();
            let plan = BlockPlan::new(&holes, length, holes.len());
            for (block, holes) in plan.blocks.iter().zip(holes.chunks(length)) {
                prop_assert_eq!(block.positions.clone(), holes[0]..holes[holes.len() - 1] + 1);
            }
            prop_assert!(plan.blocks.windows(2).all(|w| w[0].positions.end <= w[1].positions.start));
        }
    }
}
