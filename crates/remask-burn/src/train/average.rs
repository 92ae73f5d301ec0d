//! The running average of the weights, which generates better than the weights of any one step.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

use super::weights::Trained;

/// An exponential moving average of a transformer's parameters.
pub struct Average {
    decay: f32,
    updates: u32,
    /// The parameters in the order of a visit, flat.
    kept: Vec<Tensor<1>>,
}

impl Average {
    /// Starts at the weights of `transformer`, which has been trained for `updates` steps.
    #[must_use]
    pub fn of(transformer: &Trained, decay: f32, updates: u32) -> Self {
        Self { decay, updates, kept: flat(transformer) }
    }

    /// Takes in the weights after a step. Early steps count for more: the start is soon forgotten.
    pub fn update(&mut self, transformer: &Trained) {
        self.updates += 1;
        let decay = self.decay.min((1.0 + self.updates as f32) / (10.0 + self.updates as f32));
        for (kept, now) in self.kept.iter_mut().zip(flat(transformer)) {
            kept.inplace(|kept| kept.mul_scalar(decay) + now.mul_scalar(1.0 - decay));
        }
    }

    /// `transformer` with the averaged weights, for inference.
    #[must_use]
    pub fn apply(&self, transformer: &Trained) -> Trained {
        struct Put<'a>(std::slice::Iter<'a, Tensor<1>>);
        impl ModuleMapper for Put<'_> {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                match self.0.next() {
                    Some(kept) => param.map(|own| kept.clone().reshape(own.dims())),
                    None => param,
                }
            }
        }
        transformer.valid().map(&mut Put(self.kept.iter()))
    }
}

/// Every parameter, flat, outside of any gradient.
fn flat(transformer: &Trained) -> Vec<Tensor<1>> {
    struct Collect(Vec<Tensor<1>>);
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(param.val().flatten(0, D - 1));
        }
    }
    let mut collect = Collect(Vec::new());
    transformer.valid().visit(&mut collect);
    collect.0
}
